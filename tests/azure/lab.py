"""Workspaces with all kinds of runs for the vendor's clients, and calls of each client's programs."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from himl_cli import create_aml_run_object, get_workspace
from himl_cli.core.events import ignore
from himl_cli.core.runs import Run as RunRecord
from himl_cli.workspaces.base import RunRecorder
from tests.azureml_double.seeding import Number, StagedWorkspace, add_sweep
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Point, Run, now
from tests.support import clients
from tests.support.azure import opened
from tests.support.azure_jobs import pipeline_of, prepare, train
from tests.support.client_calls import Call, Called, call_all, variables_of_machine
from tests.support.folders import contents
from tests.support.running import Himl

Found = TypeVar("Found")

AZURE_AI_ML = "azure-ai-ml"  # the client in the environment of the tests
PROGRAMS = Path(__file__).with_name("programs")
PROGRAM_OF: Mapping[str, str] = {
    AZURE_AI_ML: "azure_ai_ml",
    clients.AZUREML_CORE: "azureml_core",
    clients.HIML_V1: "azureml_core",
    clients.AZUREML_MLFLOW: "mlflow_client",
}
EXPERIMENT = "lungs"
BEST, FAILED, RUNNING, SWEEP = "kind_owl_best", "mango_fig_failed", "quiet_pine_running", "bold_kite_sweep"
TRIALS = (f"{SWEEP}_0", f"{SWEEP}_1")
ROOTS = (RUNNING, SWEEP, FAILED, BEST)  # newest first
FILES = {
    "outputs/model.bin": bytes(range(256)) * 4096,
    "odd names/grün #1 100%.txt": "größer\n".encode(),
    "outputs/empty": b"",
    "user_logs/std_log.txt": b"epoch 0\nepoch 1\n",
    "system_logs/lifecycler/lifecycler.log": b"started\n",
}
PREDICTIONS = {"0000.png": b"\x89PNG" + bytes(1000), "more/0001.png": b"\x89PNG"}
WEIGHTS = {"model.pt": bytes(100)}
LOSS = [1.0, 0.5, 0.25]
DATA = {"scans/a.bin": b"\x00\x01", "scans/b/c d.bin": b"\x02"}


@dataclass(frozen=True)
class Lab:
    """A workspace, and the function to call in it (default: the one with the name of the visit), with its arguments
    and variables, and inside *job* if given.
    """

    azure: StagedWorkspace
    variables: Mapping[str, str] = field(default_factory=dict)
    function: str = ""
    arguments: tuple[str, ...] = ()
    job: str = ""

    def call(self, name: str, folder: Path) -> Call:
        state = self.azure.state
        identity = self.azure.job_environment(state.runs[self.job]) if self.job else self.azure.environment()
        place = {
            "LAB_SUBSCRIPTION": state.subscription,
            "LAB_GROUP": state.group,
            "LAB_WORKSPACE": state.name,
            "LAB_EXPERIMENT": EXPERIMENT,
        }
        place["LAB_LOGGED"] = json.dumps(LOGGED)
        # The last variable disables telemetry.
        quick = {"AZUREML_DEFAULT_RETRIES": "0", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "HBI_WORKSPACE_JOB": "true"}
        work = folder / "work"
        work.mkdir(parents=True)
        return Call(
            self.function or name,
            str(work),
            {**variables_of_machine(folder / "home"), **place, **quick, **identity, **self.variables},
            self.arguments,
        )


@dataclass(frozen=True)
class Heard:
    """A lab and the result of a client's function in it. `himl` runs in a project with the same workspace in
    config.json.
    """

    azure: StagedWorkspace
    said: Any
    himl: Himl

    def json(self, *arguments: str) -> Any:
        return self.himl.ok(*arguments, "--json", env=self.azure.environment()).json()

    def downloads(self, run_id: str, *options: str) -> dict[str, str]:
        folder = self.himl.folder / "out"
        self.himl.ok("download", "--run", run_id, *options, "--output_dir", folder, env=self.azure.environment())
        return digests(contents(folder / run_id))


Visits = dict[str, tuple[Lab, Called]]


def visit(stage: Stage, client: str, labs: Mapping[str, Lab], folder: Path) -> Visits:
    """Call the client's functions in *labs*, whose keys are the names of the functions, and return the results.
    Unknown requests fail.
    """
    calls = {name: lab.call(name, folder / name) for name, lab in labs.items()}
    called = call_all(client_python(client), PROGRAMS / f"{PROGRAM_OF[client]}.py", calls)
    unknown = stage.log.unknown()
    assert not unknown, f"requests that the double does not play: {unknown}"
    return {name: (lab, called[name]) for name, lab in labs.items()}


def client_python(name: str) -> Path:
    """The Python with the client *name*. Skips the test with a reason if it cannot be installed."""
    return Path(sys.executable) if name == AZURE_AI_ML else _available(clients.client_python, name)


def client_packages(name: str) -> str:
    """The folder of a client's packages for PYTHONPATH. Skips the test with a reason if they cannot be used."""
    return _available(clients.packages_of, name)


def _available(find: Callable[[str], Found], name: str) -> Found:
    from tests.conftest import lacking

    try:
        return find(name)
    except clients.PythonMissing as error:
        lacking(str(error))
        raise


def fill(azure: StagedWorkspace) -> Lab:
    """Add a finished run with files, curves and named outputs, a failed and a running one, a sweep of two trials, and
    a run of another experiment.
    """
    at = now() - timedelta(hours=8)

    def add(run_id: str, hours: float, **fields: Any) -> Run:
        return azure.add_run(
            run_id, fields.pop("experiment", EXPERIMENT), created=at + timedelta(hours=hours), **fields
        )

    best = add(
        BEST,
        0,
        seconds=60,
        display_name="baseline",
        tags={"kind": "best", "fold": "0"},
        parameters={"lr": "0.1"},
        script="train.py",
    )
    azure.add_metric(best, "loss", LOSS)
    azure.add_metric(best, "val/dice", [0.75])
    azure.put_artifacts(best, FILES)
    azure.add_output(best, "predictions", PREDICTIONS)
    azure.add_output(best, "weights", WEIGHTS, path="models/best/", kind="CustomModel")
    add(FAILED, 1, status="Failed", seconds=5, tags={"kind": "second"}, error="CUDA out of memory.")
    add(SWEEP, 2, seconds=600, run_type="hyperdrive", properties={"azureml.runsource": "hyperdrive"})
    for place, trial in enumerate(TRIALS):
        azure.add_metric(add(trial, 2.1 + place / 100, parent=SWEEP, seconds=60), "accuracy", [0.5 + place / 10])
    azure.append_log(add(RUNNING, 3, status="Running", tags={"kind": "best"}), "epoch 0\n")
    add("other_run", 4, experiment="other", seconds=1)
    azure.put_blobs("workspaceblobstore", DATA)
    return Lab(azure)


def ready(azure: StagedWorkspace, **manner: Any) -> Lab:
    azure.add_environment("torch")
    azure.put_blobs("workspaceblobstore", {"scans/a.bin": b"A", "scans/b.bin": b"B"})
    azure.run_jobs(**manner)
    return Lab(azure)


RATES = (0.5, 0.25, 0.125)
CURVES = {"accuracy": [[0.25, 0.5], [0.5, 0.75], [0.875]], "loss": [[1.0], [0.5], [0.25]]}
SWEPT = tuple(f"{SWEEP}_{index}" for index in range(3))


def add_swept(azure: StagedWorkspace) -> Lab:
    values = [{"lr": rate} for rate in RATES]
    curves = [{name: curve[index] for name, curve in CURVES.items()} for index in range(3)]
    add_sweep(azure, SWEEP, values, lambda index, _: curves[index], experiment=EXPERIMENT, statuses={2: "Failed"})
    return Lab(azure)


ODD: dict[str, list[Number]] = {
    "large": [1e300, -1e300],
    "tiny": [5e-324],
    "third": [1 / 3],
    "inf": [math.inf],
    "val/größe 100%": [1.0, 2.0, 0.25],
    "flags": [True, False],
}


def add_odd_metrics(azure: StagedWorkspace) -> Lab:
    """Add a sweep of four trials with all kinds of metrics. One trial failed early, and one logged nothing."""
    curves: list[dict[str, list[Number]]] = [
        {"loss": [1.0, 0.5, 0.25], **ODD},
        {"loss": [2.0, 1.5]},
        {},
        {"loss": [0.75], "nan": [1.0, math.nan]},
    ]
    values = [{"lr": 0.1 / (number + 1), "depth": number % 2} for number in range(4)]
    add_sweep(
        azure,
        SWEEP,
        values,
        lambda index, _: curves[index],
        experiment=EXPERIMENT,
        statuses={1: "Failed", 2: "Canceled"},
    )
    first = azure.state.runs[f"{SWEEP}_0"]
    azure.add_metric(first, "unordered", [0.5, 0.1, 0.9, 0.2], steps=[5, 1, 9, 2])
    azure.add_metric(first, "word", ["yes"])
    azure.add_table(first, "fruit", [{"size": 3.5, "count": 2.0}, {"size": 1.0, "count": 4.0}])
    azure.add_metric(
        first,
        "plot",
        [f"aml://artifactId/ExperimentRun/{first.data_container_id}/plots/a.png"],
        kind="azureml.v1.image",
    )
    first.metrics["plot"].columns = {"plot": "Artifact"}
    azure.add_metric(first, "sizes", [3.0, 2.0, 1.0], kind="azureml.v1.list")
    first.metrics["sizes"].points = [Point(point.data, None, point.created) for point in first.metrics["sizes"].points]
    return Lab(azure)


@contextmanager
def inside(azure: StagedWorkspace, folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Run himl's functions in this process from a project in *folder* with this workspace."""
    with pytest.MonkeyPatch.context() as patch:
        folder.mkdir(parents=True)
        for name, value in {
            **azure.environment(),
            "HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        azure.write_config(folder)
        yield patch


def run_pipeline(azure: StagedWorkspace, folder: Path) -> Lab:
    """Run a pipeline that himl submits. LAB_PIPELINE is its id."""
    azure.run_jobs()
    with inside(azure, folder), opened(azure, folder) as workspace:
        run = workspace.submit_pipeline(
            pipeline_of(prepare(folder), train(folder), tags={"k": "v"}, display_name="both"), notify=ignore
        )
    azure.wait_for(run.id)
    return Lab(azure, {"LAB_PIPELINE": run.id})


LOGGED: Sequence[tuple[str, Sequence[Any], Mapping[str, Any]]] = (
    *(("log", ["loss", loss], {"step": step}) for step, loss in enumerate(LOSS)),
    *(("log", [name, value], {}) for name, value in {"once": 3, "flag": True, "word": "yes"}.items()),
    *(
        ("log_list", [name, values], {})
        for name, values in {"sizes": [1, 2, 3], "mixed": [1, 0.5], "words": ["a", "b"]}.items()
    ),
    *(("log_row", ["rows"], {"a": a, "b": b}) for a, b in ((1, 2.5), (2, 0.5))),
    ("log_row", ["row"], {"a": 1, "b": 2.5, "c": "x"}),
    ("log_row", ["single"], {"x": 1}),
    ("log_table", ["table", {"epoch": [1, 2], "accuracy": [0.7, 0.8], "note": ["a", "b"]}], {}),
)
"""Methods of a run and their arguments. himl and azureml-core make all these calls."""
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(20)


class Figure:
    def savefig(self, target: Path, format: str) -> None:
        target.write_bytes(PNG)


def written_by_himl(azure: StagedWorkspace, folder: Path) -> Lab:
    """Make a run with everything that himl can write (azureml-core makes the same calls), a failed run, and a run
    nested in the first.

    BY_HIML contains the results that himl reads from it.
    """
    with inside(azure, folder):
        run = create_aml_run_object(EXPERIMENT, "by himl")
        for method, given, named in LOGGED:
            getattr(run, method)(*given, **named)
        run.log_image("curve", plot=Figure())
        run.log_text("weights", "outputs/model.bin")
        recorder = get_workspace().opened
        assert isinstance(recorder, RunRecorder)
        recorder.log_parameters(run.id, {"lr": "0.1"})
        recorder.start_run(RunRecord("nested_1_aa", EXPERIMENT, display_name="nested", parent=run.id))
        run.complete()
        create_aml_run_object(EXPERIMENT, "failed").fail("no memory left")
        return Lab(azure, {"BY_HIML": json.dumps({"id": run.id, "tags": run.tags, "metrics": run.get_metrics()})})


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
