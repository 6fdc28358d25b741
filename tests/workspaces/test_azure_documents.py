"""Jobs of Azure ML's own YAML, sent to the double: what they become, what is otherwise than the file says, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotFound
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.core.jobs import DocumentChanges
from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.services.submission.snapshot import secrets_but
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Reset
from tests.servers.azureml.seeding import StagedWorkspace

CONDA = "name: e\ndependencies:\n- python=3.11\n"
JOB = """
$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json
name: always_the_same
command: python a.py ${{inputs.text}} && cp -r ${{inputs.data}}/. ${{outputs.copy}}/
code: ../src
environment: {image: docker.io/python:3.11, conda_file: env.yml}
compute: azureml:cpu-cluster
tags: {of: file}
environment_variables: {A: file, B: file}
inputs:
  text: hello
  data: {type: uri_folder, path: data}
outputs:
  copy: {type: uri_folder}
"""
PIPELINE = """
type: pipeline
description: two steps
settings: {default_compute: azureml:cpu-cluster}
inputs:
  word: hello
jobs:
  make:
    type: command
    component: ../parts/make.yml
    inputs: {word: "${{parent.inputs.word}}"}
  take:
    command: grep hello ${{inputs.made}}/word.txt
    environment: {image: docker.io/python:3.11}
    inputs: {made: "${{parent.jobs.make.outputs.made}}"}
"""
COMPONENT = """
type: command
name: make
command: python a.py ${{inputs.word}} > ${{outputs.made}}/word.txt
code: ../src
environment: {image: docker.io/python:3.11}
inputs: {word: {type: string}}
outputs: {made: {type: uri_folder}}
"""
FILES = {
    "jobs/env.yml": CONDA,
    "jobs/data/a.txt": "x",
    "src/a.py": "import sys\nprint(sys.argv[1])\n",
    "parts/make.yml": COMPONENT,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "jobs" / "empty").mkdir()
    return tmp_path / "jobs"


def written(folder: Path, text: str) -> Path:
    path = folder / "job.yml"
    path.write_text(text, encoding="utf-8")
    return path


def sent(azure: StagedWorkspace, run_id: str) -> Mapping[str, Any]:
    return azure.state.runs[run_id].job or {}


def test_a_command_job_runs_with_the_files_beside_it(
    workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with azure.run_jobs():
        run = workspace.submit_document(written(folder, JOB), DocumentChanges(), notify=ignore)
        azure.wait_for(run.id)
    assert workspace.run(run.id).status is RunStatus.completed
    assert azure.artifacts(run.id)["user_logs/std_log.txt"] == b"hello\n"
    assert (run.experiment, run.display_name) == ("Default", "always_the_same")
    assert run.tags == {"of": "file", "run_recovery_id": f"Default:{run.id}"}
    assert run.url == workspace.run(run.id).url
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("text", [JOB, PIPELINE])
def test_secrets_in_a_folder_of_code_are_not_uploaded(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path, text: str) -> None:
    for name in (".env", ".ssh/id_rsa", "id_rsa.pub", "sub/kept.env"):
        (folder.parent / "src" / name).parent.mkdir(exist_ok=True)
        (folder.parent / "src" / name).write_text("secret", encoding="utf-8")
    listing = "from pathlib import Path\nprint('hello', sorted(path.as_posix() for path in Path('.').rglob('*') if path.is_file()))"
    (folder.parent / "src" / "a.py").write_text(listing, encoding="utf-8")
    heard: list[Event] = []
    changes = DocumentChanges(is_secret=secrets_but(["kept.env"]))
    with azure.run_jobs():
        run = workspace.submit_document(written(folder, text), changes, notify=heard.append)
        azure.wait_for(run.id)
    last = next((step.id for step in workspace.runs(RunQuery(parent=run.id)) if step.tags["himl.step"] == "take"), run.id)
    assert azure.artifacts(last)["user_logs/std_log.txt"].startswith(b"hello ['a.py', 'id_rsa.pub', 'sub/kept.env']")
    assert [event.text for event in heard if isinstance(event, Notice) and "secrets" in event.text] == [
        "2 files that may hold secrets are left out: '.env', '.ssh/id_rsa'. 'himl submit --include_secret GLOB' sends one on purpose."
    ]


def test_each_submit_is_a_run_of_its_own(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path) -> None:
    path = written(folder, JOB)
    first, second = (workspace.submit_document(path, DocumentChanges(), notify=ignore) for _ in range(2))
    assert first.id != second.id
    assert {**sent(azure, first.id), "tags": 0} == {**sent(azure, second.id), "tags": 0}


def test_changes_count_and_the_rest_stays(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path) -> None:
    changes = DocumentChanges("mine", "shown", "why", {"k": "v"}, {"A": "typed"}, "gpu-cluster", "himl submit job.yml")
    run = workspace.submit_document(written(folder, JOB), changes, notify=ignore)
    job = sent(azure, run.id)
    assert (run.experiment, run.display_name, run.description, run.command) == ("mine", "shown", "why", "himl submit job.yml")
    assert run.tags == {"of": "file", "k": "v", "run_recovery_id": f"mine:{run.id}"}
    assert job["environmentVariables"] == {"A": "typed", "B": "file"}
    assert job["computeId"].endswith("/computes/gpu-cluster")


def test_a_pipeline_with_a_component_in_another_file_runs(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path) -> None:
    with azure.run_jobs():
        run = workspace.submit_document(written(folder, PIPELINE), DocumentChanges(experiment="piped", env={"X": "1"}), notify=ignore)
        azure.wait_for(run.id)
    steps = {step.tags["himl.step"]: step for step in workspace.runs(RunQuery(parent=run.id))}
    assert {key: step.tags.get("himl.after") for key, step in steps.items()} == {"make": None, "take": "make"}
    assert azure.artifacts(steps["take"].id)["user_logs/std_log.txt"] == b"hello\n"
    assert {(azure.state.runs[step.id].job or {})["environmentVariables"]["X"] for step in steps.values()} == {"1"}


def test_a_sweep_is_sent(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path) -> None:
    text = """
type: sweep
trial: {command: "python a.py ${{search_space.lr}}", code: ../src, environment: {image: "docker.io/python:3.11"}}
compute: azureml:cpu-cluster
sampling_algorithm: grid
search_space: {lr: {type: choice, values: [0.1, 0.2]}}
objective: {goal: minimize, primary_metric: loss}
limits: {max_total_trials: 2, max_concurrent_trials: 1}
"""
    run = workspace.submit_document(written(folder, text), DocumentChanges(experiment="swept"), notify=ignore)
    assert sent(azure, run.id)["searchSpace"] == {"lr": ["choice", [[0.1, 0.2]]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (JOB.replace("command:", "cmd:"), "job.yml: (cmd: Unknown field|command: Missing data for required field)"),
        (JOB + "resources: {instance_count: two}\n", "job.yml: resources.instance_count: Not a valid integer"),
        (JOB.replace("../src", "../nowhere"), "job.yml: code: there is no '.*nowhere'"),
        (JOB.replace("conda_file: env.yml", "conda_file: none.yml"), r"job.yml: .*none.yml"),
        (PIPELINE.replace("make.yml", "none.yml"), "job.yml: jobs.make.component: there is no '.*none.yml'"),
        (PIPELINE.replace("jobs.make.outputs", "jobs.mkae.outputs"), "job.yml: .*jobs.mkae.outputs.made"),
        ("type: comand\ncommand: x\n", "job.yml: Unsupported job type: comand"),
        ("a: [b\n", "job.yml: Error while parsing yaml file.*line 1, column 4"),
        ("- a\n", "job.yml: Expect dict but get"),
        ("", "job.yml: Target yaml file is empty"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_key(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path, text: str, message: str) -> None:
    with pytest.raises(BadUsage, match=message) as caught:
        workspace.submit_document(written(folder, text), DocumentChanges(), notify=ignore)
    assert "\n" not in str(caught.value)
    assert azure.requests("^PUT|startPendingUpload") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (JOB.replace("inputs.text", "inputs.none"), "job.yml: Inputs to job does not contain 'none'"),
        (JOB.replace("path: data", "path: no_data"), "job.yml: .*no_data"),
        (JOB.replace("../src", "empty"), "job.yml: .*empty"),
    ],
    ids=["reference", "data", "code"],
)
def test_what_azure_ai_ml_finds_wrong_late_starts_nothing(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path, text: str, message: str) -> None:
    with pytest.raises(BadUsage, match=message) as caught:
        workspace.submit_document(written(folder, text), DocumentChanges(), notify=ignore)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert azure.state.runs == {}


def test_an_unknown_compute_is_told_before_anything_is_uploaded(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path) -> None:
    with pytest.raises(NotFound, match="No compute 'cpu-clutser'"):
        workspace.submit_document(written(folder, JOB.replace("cpu-cluster", "cpu-clutser")), DocumentChanges(), notify=ignore)
    with pytest.raises(NotFound, match="No compute 'nowhere'"):
        workspace.submit_document(written(folder, PIPELINE), DocumentChanges(cluster="nowhere"), notify=ignore)
    assert azure.requests("^PUT|startPendingUpload") == []


def test_what_the_service_refuses_is_himl_s_error(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path) -> None:
    text = JOB.replace("{image: docker.io/python:3.11, conda_file: env.yml}", "azureml:nowhere:1")
    with pytest.raises(HimlError, match="No environment exists") as caught:
        workspace.submit_document(written(folder, text), DocumentChanges(), notify=ignore)
    assert "No job was created" in caught.value.hint


def test_the_job_is_created_once_whatever_the_network_does(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path) -> None:
    azure.stage.faults.add(Reset(), "PUT .*/jobs/")
    run = workspace.submit_document(written(folder, JOB), DocumentChanges(experiment="once"), notify=ignore)
    assert list(azure.state.runs) == [run.id]


def test_ctrl_c_before_the_job_leaves_nothing_that_runs(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path) -> None:
    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="nothing runs"):
        workspace.submit_document(written(folder, JOB), DocumentChanges(), notify=interrupt)
    assert azure.state.runs == {}
