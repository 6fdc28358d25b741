"""Pipelines sent to the double: steps one after another, and folders that one makes for another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.errors import NotFound
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.core.jobs import DataSpec, StepSpec
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure_jobs import pipeline_of, prepare, sent, step_job, steps_of


def test_steps_that_share_no_data_run_in_their_order(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    """Also behind a step that makes nothing, and without a word in the script's arguments, variables or `inputs()`."""
    place = tmp_path / "order"
    script = "import os, pathlib, sys, time\ntime.sleep(float(sys.argv[2]))\npathlib.Path(os.environ['PLACE']).open('a').write(sys.argv[1])\n"
    script += "from himl_cli.job import inputs, outputs\nprint(sys.argv[3:], dict(inputs()), sorted(outputs()))\n"
    env = {"PLACE": str(place)}

    def alone(key: str, seconds: str, *waits_for: str) -> StepSpec:
        return StepSpec(key, key, step_job(tmp_path / key, script, arguments=[key[-1], seconds], env=env), waits_for=waits_for)

    makes = prepare(tmp_path, script, arguments=["m", "0.2", "${{outputs.numbers}}"], env=env)
    with azure.run_jobs():
        run = workspace.submit_pipeline(pipeline_of(alone("a", "0.4"), replace(makes, waits_for=["a"]), alone("b", "0", "step1")), notify=ignore)
        azure.wait_for(run.id)
    assert place.read_text() == "amb"
    steps = steps_of(workspace, run.id)
    assert {key: step.tags.get("himl.after") for key, step in steps.items()} == {"a": None, "step1": "a", "b": "step1"}
    assert azure.artifacts(steps["b"].id)["user_logs/std_log.txt"] == b"[] {} []\n"
    jobs = sent(azure, run.id)["jobs"]
    assert jobs["b"]["inputs"] == {"himl_after_step1": {"job_input_type": "literal", "mode": "Direct", "value": "${{parent.jobs.step1.outputs.numbers}}"}}
    assert list(jobs["a"]["outputs"]) == ["himl_done"]
    assert list(jobs["step1"]["outputs"]) == ["numbers"]


def test_missing_folder_is_refused_for_first_pipeline_step_only(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    reader = StepSpec("reader", "", step_job(tmp_path / "a", "print(1)", inputs=[DataSpec("d", "x", datastore="workspaceblobstore")]), waits_for=["step1"])
    with pytest.raises(NotFound, match=r"^reader: Input 'd': no folder 'x' in datastore 'workspaceblobstore'"):
        workspace.submit_pipeline(pipeline_of(reader, prepare(tmp_path)), notify=ignore)
    assert azure.state.runs == {}
    told: list[Event] = []
    run = workspace.submit_pipeline(pipeline_of(prepare(tmp_path), reader), notify=told.append)
    assert Notice("reader: there is no folder 'x' in datastore 'workspaceblobstore' yet; a step before it has to make it.") in told
    assert sent(azure, run.id)["jobs"]["reader"]["inputs"]["d"]["uri"] == "azureml://datastores/workspaceblobstore/paths/x/"


def test_step_input_with_datastore_is_folder_not_data_asset(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    azure.put_blob("workspaceblobstore", "volumes/1.npy", b"x")
    azure.add_data("volumes", "azureml://datastores/workspaceblobstore/paths/elsewhere/")
    kinds = {"folder": "workspaceblobstore", "asset": None}
    steps = [StepSpec(key, "", step_job(tmp_path / key, "print(1)", inputs=[DataSpec("d", "volumes", datastore=store)])) for key, store in kinds.items()]
    run = workspace.submit_pipeline(pipeline_of(*steps, default_datastore="workspaceblobstore"), notify=ignore)
    uris = {key: node["inputs"]["d"]["uri"] for key, node in sent(azure, run.id)["jobs"].items()}
    assert uris["folder"] == "azureml://datastores/workspaceblobstore/paths/volumes/"
    assert uris["asset"].endswith("/data/volumes/versions/1")
