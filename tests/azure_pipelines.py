"""Pipelines for a cluster, as the services make them of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from himl_cli.core.jobs import DataSpec, JobSpec, PipelineSpec, StepOutput, StepSpec
from himl_cli.core.runs import RunQuery
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.azure_jobs import cluster_spec
from tests.servers.azureml.seeding import StagedWorkspace

PREPARE = "import pathlib, sys\nfolder = pathlib.Path(sys.argv[2])\nfolder.joinpath('numbers.txt').write_text('1 2 3')\nprint('prepared')\n"
TRAIN = "import pathlib, sys\nprint('sum', sum(map(int, pathlib.Path(sys.argv[2], 'numbers.txt').read_text().split())))\n"
FAILING = "import sys\nprint('cannot')\nsys.exit(3)\n"


def step_job(folder: Path, script: str, **fields: Any) -> JobSpec:
    """A step's job: *script* as `train.py`, alone in *folder*."""
    return cluster_spec(folder, {"train.py": script}, **{"shm_size": "", **fields})


def prepare(root: Path, script: str = PREPARE, key: str = "step1", **fields: Any) -> StepSpec:
    """A step that makes the output `numbers`."""
    given = {"arguments": ["--output", "${{outputs.numbers}}"], "outputs": [DataSpec("numbers", "")], **fields}
    return StepSpec(key, f"{key} makes", step_job(root / key, script, **given))


def train(root: Path, script: str = TRAIN, key: str = "step2", source: str = "step1", **fields: Any) -> StepSpec:
    """A step that reads the output `numbers` of the step *source*."""
    given = {"arguments": ["--input_data", "${{inputs.input_data}}"], "inputs": [DataSpec("input_data", "numbers")], **fields}
    return StepSpec(key, f"{key} reads", step_job(root / key, script, **given), takes={"input_data": StepOutput(source, "numbers")})


def pipeline_of(*steps: StepSpec, **fields: Any) -> PipelineSpec:
    """A pipeline of *steps* on `cpu-cluster`."""
    return PipelineSpec(**{"experiment": "piped", "steps": steps, "cluster": "cpu-cluster", "command": "himl submit pipeline.json", **fields})


def sent(azure: StagedWorkspace, run_id: str) -> dict[str, Any]:
    """The properties of the job, as they came."""
    job = azure.state.runs[run_id].job
    assert job is not None
    return job


def steps_of(workspace: AzureWorkspace, run_id: str) -> dict[str, Any]:
    """The runs of a pipeline's steps by their keys."""
    return {step.tags["himl.step"]: step for step in workspace.runs(RunQuery(parent=run_id))}
