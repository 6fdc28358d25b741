"""The YAML of a pipeline's dry run: azure-ai-ml loads it, and the steps that it then sends are those that himl sends."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import ignore
from himl_cli.core.jobs import DataSpec, EnvironmentSpec, StepSpec
from himl_cli.workspaces.azure.jobs.sdk import load_sdk, silenced
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.resolve import job_yaml
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.azure_jobs import pipeline_of, prepare, step_job, train


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureWorkspace]:
    monkeypatch.chdir(project)  # azure-ai-ml looks for git where it is called
    load_sdk()
    with opened(azure_environment, project) as opened_workspace:
        yield opened_workspace


def by_sdk(workspace: AzureWorkspace, text: str, folder: Path) -> str:
    """The id of the pipeline that azure-ai-ml makes of the YAML *text*."""
    from azure.ai.ml import load_job

    from himl_cli.workspaces.azure.jobs.sdk import client_for

    path = folder / "job.yml"
    path.write_text(text, encoding="utf-8")
    with silenced():
        return str(client_for(workspace.connection).jobs.create_or_update(load_job(path)).name)


def ran(azure: StagedWorkspace, run_id: str) -> dict[str, Any]:
    """What each step of the pipeline was, as the service ran it: places of its own run and names of components apart."""
    run = azure.state.runs[run_id]
    steps = {}
    for child in (azure.state.runs[one] for one in run.children):
        job = dict(child.job or {})
        del job["componentId"]
        steps[child.display_name] = {**job, "inputs": {key: without_run(given) for key, given in job["inputs"].items()}}
    return steps


def without_run(given: dict[str, Any]) -> dict[str, Any]:
    """An input without the run id that stands in the place of another step's output."""
    return {**given, "uri": re.sub(r"/azureml/[^/]+/", "/azureml/RUN/", given["uri"])}


def sets(root: Path) -> dict[str, Sequence[StepSpec]]:
    mpi: dict[str, Any] = {
        "distribution": "mpi",
        "processes": 2,
        "nodes": 2,
        "shm_size": "3g",
        "docker_args": ["--ipc=host"],
        "max_seconds": 600.0,
        "identity": "managed",
    }
    words: dict[str, Any] = {"env": {"N": "01", "E": "", "T": "yes"}}
    whole = step_job(root / "whole", "print(1)", inputs=[DataSpec("d", "/", datastore="second"), DataSpec("f", "a/b", datastore="second", mode="mount")])
    named = step_job(root / "named", "print(1)", environment=EnvironmentSpec("torch", "1"), outputs=[DataSpec("o", "", datastore="second", mode="upload")])
    return {
        "data between steps": [prepare(root), train(root)],
        "every field": [prepare(root, **words), train(root, **mpi)],
        "data from outside": [StepSpec("whole", "", whole), StepSpec("Named-1", "named", named)],
    }


@pytest.mark.parametrize("name", ["data between steps", "every field", "data from outside"])
def test_the_yaml_makes_the_same_pipeline(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, tmp_path: Path, name: str) -> None:
    azure.add_datastore("second")
    azure.put_blob("second", "a/b/c.txt", b"x")
    azure.add_environment("torch")
    spec = pipeline_of(*sets(tmp_path)[name], tags={"k": "v"}, description="a: b # c", display_name="shown")
    azure.stage.log.clear()
    text = job_yaml(spec)
    assert azure.requests() == []
    with azure.run_jobs():
        theirs = by_sdk(workspace, text, project)
        azure.wait_for(theirs)
        ours = workspace.submit_pipeline(spec, notify=ignore).id
        azure.wait_for(ours)
    assert ran(azure, theirs) == ran(azure, ours)
    mine, other = (azure.state.runs[one] for one in (ours, theirs))
    assert (other.experiment, other.display_name, other.description) == (mine.experiment, mine.display_name, mine.description)
    assert {**other.tags, "run_recovery_id": mine.tags["run_recovery_id"]} == mine.tags
    settings = [{name: value for name, value in (run.job or {})["settings"].items() if name != "_source"} for run in (mine, other)]
    assert settings[0] == settings[1]


def test_pipeline_yaml_masks_secrets_and_names_local_compute(tmp_path: Path) -> None:
    secret = prepare(tmp_path, arguments=["--password", "hunter2", "${{outputs.numbers}}"], env={"API_KEY": "k3y"}, cluster="", environment=None)
    text = job_yaml(pipeline_of(secret, cluster=""))
    assert not any(one in text for one in ("hunter2", "k3y"))
    step = yaml.safe_load(text)["jobs"]["step1"]
    assert (step["compute"], step["environment_variables"]) == ("local", {"API_KEY": "***"})


def test_what_a_submit_refuses_has_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"^step1: '.*' names no input"):
        job_yaml(pipeline_of(prepare(tmp_path, arguments=["${{inputs.none}}"])))
