"""Jobs, pipelines and sweeps for a cluster, in the form that the services create from a command line or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from himl_cli.core.events import Notify, ignore
from himl_cli.core.jobs import (
    DataSpec,
    Entry,
    EntryKind,
    EnvironmentSpec,
    JobSpec,
    PipelineSpec,
    Snapshot,
    StepOutput,
    StepSpec,
)
from himl_cli.core.runs import RunQuery
from himl_cli.core.sweeps import Draw, EarlyStop, SearchRange, SweepSpec
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.assets import JobCode
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.running import write_files

FILES = {"train.py": "print('trained')\n", "data/list.txt": "a\nb\n"}
CONDA = "name: training\ndependencies:\n- python=3.11\n- pip:\n  - mlflow-skinny\n"
MADE = EnvironmentSpec(image="docker.io/python:3.11", conda=CONDA)


def snapshot_of(folder: Path, files: Mapping[str, str] = FILES) -> Snapshot:
    """Write *files* to *folder*, and return its snapshot."""
    write_files(folder, files)
    return Snapshot(folder, sorted(files), sum(len(text.encode()) for text in files.values()))


def cluster_spec(folder: Path, files: Mapping[str, str] = FILES, **fields: Any) -> JobSpec:
    """A job of `train.py` on `cpu-cluster` with one process and an environment from a conda file, unless *fields*
    differ.
    """
    given: dict[str, Any] = {
        "experiment": "sent",
        "distribution": "",
        "cluster": "cpu-cluster",
        "shm_size": "100g",
        "environment": MADE,
    }
    given |= {"entry": Entry(EntryKind.script, "train.py"), "snapshot": snapshot_of(folder, files), **fields}
    return JobSpec(**given)


def ensured(connection: Connection, snapshot: Snapshot, notify: Notify = ignore) -> JobCode:
    """The snapshot's code version, uploaded if it is missing, as by a submission."""
    code = JobCode(connection, snapshot)
    code.find()
    code.make(notify)
    return code


PREPARE = (
    "import pathlib, sys\nfolder = pathlib.Path(sys.argv[2])\n"
    "folder.joinpath('numbers.txt').write_text('1 2 3')\nprint('prepared')\n"
)
TRAIN = (
    "import pathlib, sys\nprint('sum', sum(map(int, pathlib.Path(sys.argv[2], 'numbers.txt').read_text().split())))\n"
)


def step_job(folder: Path, script: str, **fields: Any) -> JobSpec:
    """A step's job with *script* as `train.py`, the only file in *folder*."""
    return cluster_spec(folder, {"train.py": script}, **{"shm_size": "", **fields})


def prepare(root: Path, script: str = PREPARE, key: str = "step1", **fields: Any) -> StepSpec:
    """A step that writes the output `numbers`."""
    given = {"arguments": ["--output", "${{outputs.numbers}}"], "outputs": [DataSpec("numbers", "")], **fields}
    return StepSpec(key, f"{key} makes", step_job(root / key, script, **given))


def train(root: Path, script: str = TRAIN, key: str = "step2", source: str = "step1", **fields: Any) -> StepSpec:
    """A step that reads the output `numbers` of the step *source*."""
    given = {
        "arguments": ["--input_data", "${{inputs.input_data}}"],
        "inputs": [DataSpec("input_data", "numbers")],
        **fields,
    }
    return StepSpec(
        key, f"{key} reads", step_job(root / key, script, **given), takes={"input_data": StepOutput(source, "numbers")}
    )


def pipeline_of(*steps: StepSpec, **fields: Any) -> PipelineSpec:
    """A pipeline of *steps* on `cpu-cluster`."""
    return PipelineSpec(
        **{
            "experiment": "piped",
            "steps": steps,
            "cluster": "cpu-cluster",
            "command": "himl submit pipeline.json",
            **fields,
        }
    )


def sent(azure: StagedWorkspace, run_id: str) -> dict[str, Any]:
    """The received properties of the job."""
    job = azure.state.runs[run_id].job
    assert job is not None
    return job


def steps_of(workspace: AzureWorkspace, run_id: str) -> dict[str, Any]:
    """The runs of a pipeline's steps by their keys."""
    return {step.tags["himl.step"]: step for step in workspace.runs(RunQuery(parent=run_id))}


KERNELS = SearchRange(Draw.choice, ["linear", "rbf"])
RATES = SearchRange(Draw.choice, [0.1, 0.01, 1, "auto"])
EVERY_DRAW = {
    "a": SearchRange(Draw.uniform, [0, 1.5]),
    "b": SearchRange(Draw.loguniform, [-6, -1]),
    "c": SearchRange(Draw.normal, [0.5, 2]),
    "d": SearchRange(Draw.lognormal, [0, 1]),
    "e": SearchRange(Draw.randint, [10]),
    "f": SearchRange(Draw.quniform, [1, 10, 2]),
    "g": SearchRange(Draw.qloguniform, [0, 3, 1]),
    "h": SearchRange(Draw.qnormal, [5, 2, 1]),
    "i": SearchRange(Draw.qlognormal, [1, 1, 1]),
}
SWEEPS: dict[str, dict[str, Any]] = {
    "grid": {"sweep": SweepSpec({"kernel": KERNELS, "lr": RATES}, max_trials=8)},
    "crossval": {
        "sweep": SweepSpec({"crossval_index": SearchRange(Draw.choice, [0, 1, 2])}, max_trials=3, kind="crossval")
    },
    "every draw, with a seed": {
        "sweep": SweepSpec(EVERY_DRAW, "random", 20, 4, "Accuracy", "maximize", seed=7, max_seconds=86400.0),
        "max_seconds": 5400.0,
    },
    "random, without a seed": {"sweep": SweepSpec({"lr": RATES}, "random", 3)},
    "more trials than may run at a time by number": {
        "sweep": SweepSpec({"n": SearchRange(Draw.choice, [*range(200)])}, max_trials=200)
    },
    "bayesian": {"sweep": SweepSpec({"lr": SearchRange(Draw.uniform, [0.0, 1.0])}, "bayesian", 20, 2)},
    "bandit by a factor": {
        "sweep": SweepSpec({"lr": RATES}, "random", 5, early_stop=EarlyStop("bandit", 2, 5, slack_factor=0.1))
    },
    "bandit by an amount": {
        "sweep": SweepSpec({"lr": RATES}, "random", 5, early_stop=EarlyStop("bandit", slack_amount=0.2))
    },
    "median": {"sweep": SweepSpec({"lr": RATES}, "random", 5, early_stop=EarlyStop("median", 1, 5))},
    "truncation": {
        "sweep": SweepSpec(
            {"lr": RATES}, "random", 5, early_stop=EarlyStop("truncation", 3, 1, truncation_percentage=20)
        )
    },
    "truth values and odd words": {
        "sweep": SweepSpec(
            {
                "augment": SearchRange(Draw.choice, [True, False]),
                "name": SearchRange(Draw.choice, ["a b", "$HOME", "é漢", "it's"]),
            },
            max_trials=8,
        ),
        "arguments": ["--fixed", "x y", "--n=${{search_space.name}}"],
    },
    "ranks, data, names": {
        "sweep": SweepSpec({"lr": RATES}, max_trials=4, max_concurrent=2),
        "nodes": 2,
        "processes": 4,
        "distribution": "pytorch",
        "docker_args": ["--ipc=host"],
        "identity": "user",
        "env": {"N": "01"},
        "tags": {"team": "blue"},
        "display_name": "shown",
        "description": "a: b # c",
        "inputs": [DataSpec("a", "pictures", version="1", mode="mount")],
        "outputs": [DataSpec("o", "trained"), DataSpec("p", "kept", datastore="second", mode="upload")],
        "arguments": ["${{inputs.a}}", "--o=${{ outputs.o }}/x"],
    },
    "names that Azure ML does not accept": {
        "sweep": SweepSpec(
            {"trainer.lr": RATES, "model/encoder-width": KERNELS, "opt.name": SearchRange(Draw.choice, ["a b", "c"])},
            max_trials=4,
        ),
        "arguments": ["--x=${{search_space.trainer.lr}}"],
    },
    "names that Azure ML does not accept, in a line for bash": {
        "sweep": SweepSpec({"trainer.lr": RATES}, max_trials=4),
        "entry": Entry(EntryKind.command, "python train.py +trainer.lr=${{search_space.trainer.lr}} && echo done"),
    },
    "a line for bash": {
        "sweep": SweepSpec({"lr": RATES}, max_trials=4),
        "entry": Entry(EntryKind.command, "python train.py --lr '${{search_space.lr}}' && echo done"),
    },
}
