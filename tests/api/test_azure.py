"""The Python functions on an Azure ML workspace: the same answers from the service as from a local workspace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import himl_cli
from himl_cli import Run, fetch_run, get_workspace
from himl_cli.core.errors import IntegrityFailed, NotAllowed, RunNotFound
from tests.api.places import arrived
from tests.api.ranks import local_ranks, run_ranks
from tests.servers.azureml.faults import FlipByte
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import write_files
from tests.support.runs import RecordedRuns

FILES = {"outputs/checkpoints/last.ckpt": b"last", "outputs/model.bin": b"m" * 10, "user_logs/std_log.txt": b"hello\n"}
TEXTS = {name: content.decode() for name, content in FILES.items()}


@pytest.fixture
def azure_run(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in the workspace that the project's config.json names; the project is the current folder."""
    azure = azure_environment
    run = azure.add_run("train_1_aa", "train", tags={"team": "blue"}, status="Completed", display_name="first")
    child = azure.add_run("child_a", "train", parent="train_1_aa", status="Completed")
    azure.add_metric(run, "loss", [1.0, 0.5])
    azure.add_metric(child, "loss", [0.25])
    azure.put_artifacts(run, FILES)
    azure.write_config(project)
    monkeypatch.chdir(project)
    return fetch_run(get_workspace(), "train_1_aa")


def test_a_run_of_the_service_tells_what_one_here_tells(azure_run: Run, azure_environment: StagedWorkspace) -> None:
    assert (azure_run.id, azure_run.experiment.name, azure_run.display_name, azure_run.status) == ("train_1_aa", "train", "first", "Completed")
    assert azure_run.tags == {"team": "blue"}
    assert azure_run.get_portal_url().startswith("https://ml.azure.com/runs/train_1_aa?wsid=")
    assert azure_run.get_metrics() == {"loss": [1.0, 0.5]}
    assert azure_run.get_metrics(recursive=True) == {"train_1_aa": {"loss": [1.0, 0.5]}, "child_a": {"loss": 0.25}}
    assert [child.id for child in azure_run.get_children()] == ["child_a"]
    assert [run.id for run in azure_run.experiment.get_runs(tags={"team": "blue"})] == ["train_1_aa"]
    assert azure_run.get_file_names() == sorted(FILES)
    assert azure_run.workspace.is_in_azure
    assert himl_cli.is_running_in_azure_ml(azure_run)
    assert azure_run.wait_for_completion()["status"] == "Completed"


def test_files_come_down(azure_run: Run, tmp_path: Path) -> None:
    himl_cli.download_files_from_run_id("train_1_aa", tmp_path / "all")
    assert arrived(tmp_path / "all") == TEXTS
    himl_cli.download_checkpoints_from_run_id("train_1_aa", "outputs/checkpoints", tmp_path / "checkpoints", aml_workspace=azure_run.workspace)
    assert arrived(tmp_path / "checkpoints") == {"outputs/checkpoints/last.ckpt": "last"}
    azure_run.download_file("outputs/model.bin", tmp_path / "single" / "renamed.bin")
    assert arrived(tmp_path / "single") == {"renamed.bin": "m" * 10}


def test_a_file_beside_a_folder_of_its_name_comes_alone(azure_run: Run, azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    azure_environment.put_artifacts(azure_environment.state.runs["train_1_aa"], {"outputs/a": b"file", "outputs/a/b": b"below"})
    azure_run.download_file("outputs/a", tmp_path / "out" / "a")
    assert arrived(tmp_path / "out") == {"a": "file"}


def test_looking_at_a_workspace_costs_no_request(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    azure_environment.write_config(project)
    monkeypatch.chdir(project)
    workspace = get_workspace()
    state = azure_environment.state
    assert (workspace.name, workspace.resource_group, workspace.subscription_id) == (state.name, state.group, state.subscription)
    assert repr(workspace) == f"Workspace({azure_environment.label})"
    assert azure_environment.requests() == []


def test_a_run_that_is_kept_here_costs_no_request(azure_run: Run, azure_environment: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    RecordedRuns(project).add("here_1_aa", files={"outputs/a.txt": "a"})
    azure_environment.stage.log.clear()
    himl_cli.download_files_from_run_id("here_1_aa", tmp_path / "out")
    assert arrived(tmp_path / "out") == {"outputs/a.txt": "a"}
    assert fetch_run(None, "here_1_aa").workspace.name == "project"
    assert azure_environment.requests() == []
    assert fetch_run(None, "train_1_aa") == azure_run


@pytest.mark.parametrize("with_local_workspace", [False, True])
def test_a_download_asks_little_once_the_workspace_is_known(
    azure_run: Run, azure_environment: StagedWorkspace, project: Path, tmp_path: Path, with_local_workspace: bool
) -> None:
    if with_local_workspace:
        RecordedRuns(project).add("here_1_aa")
    himl_cli.download_files_from_run_id("train_1_aa", tmp_path / "first")
    azure_environment.stage.log.clear()
    himl_cli.download_files_from_run_id("train_1_aa", tmp_path / "out")
    asked = [line.split("?")[0] for line in azure_environment.requests()]
    assert len(asked) == 2 + len(FILES), asked


def test_what_is_not_there_is_told_with_what_is(azure_run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="No run 'train_1_ab'"):
        fetch_run(azure_run.workspace, "train_1_ab")
    with pytest.raises(FileNotFoundError, match="No file in run 'train_1_aa' starts with 'output_'"):
        himl_cli.download_files_from_run_id("train_1_aa", tmp_path / "out", "output_")
    with pytest.raises(FileNotFoundError, match="No datastore 'workspaceblobstor'") as caught:
        himl_cli.download_from_datastore("workspaceblobstor", "", tmp_path / "out")
    assert "workspaceblobstore" in f"{caught.value} {getattr(caught.value, 'hint', '')}"


def test_files_of_a_datastore_go_both_ways(azure_run: Run, azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    write_files(tmp_path / "data", {"1.txt": "one", "deep/2.txt": "two"})
    himl_cli.upload_to_datastore("workspaceblobstore", tmp_path / "data", Path("baz"))
    assert azure_environment.blob_names("workspaceblobstore") == ["baz/1.txt", "baz/deep/2.txt"]
    himl_cli.download_from_datastore("workspaceblobstore", "baz", tmp_path / "out", aml_workspace=azure_run.workspace)
    assert arrived(tmp_path / "out") == {"baz/1.txt": "one", "baz/deep/2.txt": "two"}
    default = azure_run.workspace.get_default_datastore()
    assert (default.name, default.datastore_type) == ("workspaceblobstore", "blob")
    assert (default.download(tmp_path / "again", "baz/deep"), default.upload(tmp_path / "data", "baz")) == (1, 0)


@pytest.mark.parametrize("validate_checksum", [False, True])
def test_every_file_is_checked_whatever_was_asked(azure_run: Run, azure_environment: StagedWorkspace, tmp_path: Path, validate_checksum: bool) -> None:
    azure_environment.stage.faults.add(FlipByte(at=2), r"GET .*/outputs/model\.bin", times=None)
    with pytest.raises(IntegrityFailed, match=r"model\.bin"):
        himl_cli.download_files_from_run_id("train_1_aa", tmp_path / "out", "outputs/", validate_checksum=validate_checksum)
    assert arrived(tmp_path / "out") == {"outputs/checkpoints/last.ckpt": "last"}


def test_tags_and_cancelling_reach_the_service(azure_run: Run, azure_environment: StagedWorkspace) -> None:
    azure_run.set_tags({"note": "done"})
    assert azure_environment.state.runs["train_1_aa"].tags == {"team": "blue", "note": "done"}
    azure_environment.add_run("going_1", "train", status="Running")
    going = fetch_run(None, "going_1")
    assert (going.cancel(), azure_run.cancel()) == (True, False)


def test_who_is_not_signed_in_is_told_so(azure_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_PASSWORD", "wrong")
    monkeypatch.setenv("HIML_NO_CACHE", "1")
    with pytest.raises(NotAllowed):
        fetch_run(get_workspace(), "train_1_aa")


def test_ranks_on_the_service_download_once_for_all(azure_run: Run, azure_environment: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    azure_environment.stage.log.clear()
    program = "say(said(lambda: himl_cli.download_files_from_run_id('train_1_aa', sys.argv[1], 'outputs/checkpoints/')))"
    assert run_ranks(program, tmp_path / "out", local_ranks(3), cwd=project) == [[["last.ckpt"]]] * 3
    assert len(azure_environment.requests(r"GET .*last\.ckpt")) == 1


IN_JOB = """
import json, sys
import himl_cli
workspace = himl_cli.get_workspace(None, "config.json")
run = himl_cli.fetch_run(workspace, "train_1_aa")
himl_cli.download_files_from_run_id("train_1_aa", sys.argv[1])
loaded = [name for name in ("azure.ai", "azure.identity", "msal", "azureml", "mlflow", "torch", "typer", "rich", "tensorboard") if name in sys.modules]
print(json.dumps([workspace.name, run.get_metrics(), himl_cli.is_running_in_azure_ml(), himl_cli.is_running_in_azure_ml(run), loaded]))
"""


def test_job_reads_own_workspace_without_azure_sdk(azure_environment: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    """With the job's run token alone; the config file names another workspace."""
    azure = azure_environment
    run = azure.add_run("train_1_aa", "train", status="Running")
    azure.add_metric(run, "loss", [1.0, 0.5])
    azure.put_artifacts(run, FILES)
    azure.stage.workspace("other").write_config(project)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HIML_", "AZURE_"))}
    command = [sys.executable, "-c", IN_JOB, str(tmp_path / "out")]
    done = subprocess.run(command, env={**environment, **azure.job_environment(run)}, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [azure.state.name, {"loss": [1.0, 0.5]}, True, True, []]
    assert arrived(tmp_path / "out") == TEXTS
