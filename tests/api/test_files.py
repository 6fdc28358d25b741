"""Tests of downloads and uploads from Python under hi-ml's names, on a local workspace and on Azure ML.

Files of a run have the same names in both.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import himl_cli
from himl_cli import (
    Datastore,
    Run,
    download_checkpoints_from_run_id,
    download_files_from_run_id,
    download_from_datastore,
    fetch_run,
    get_most_recent_run,
    get_workspace,
    upload_to_datastore,
)
from himl_cli.api.open_workspace import azure_names
from himl_cli.core.errors import BadUsage, IntegrityFailed, NotFound, RunNotFound
from tests.api.conftest import FILES, arrived
from tests.azureml_double.faults import FlipByte, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.clients import HIML_V1, client_python
from tests.support.running import write_files
from tests.support.runs import RecordedRuns


def stored(runs: RecordedRuns) -> dict[str, str]:
    return arrived(runs.folder / ".himl" / "datastores" / "local")


@pytest.mark.usefixtures("local_runs")
def test_files_of_a_run_keep_names_and_replace_differing(tmp_path: Path) -> None:
    download_files_from_run_id("train_1_aa", tmp_path / "out")
    assert arrived(tmp_path / "out") == FILES
    download_files_from_run_id(
        run_id="train:train_1_aa", output_folder=tmp_path / "again", workspace=get_workspace(), validate_checksum=True
    )
    assert arrived(tmp_path / "again") == FILES
    download_files_from_run_id("train_1_aa", tmp_path / "some", prefix="outputs/ch")
    assert {*arrived(tmp_path / "some")} == {"outputs/checkpoints/last.ckpt", "outputs/checkpoints_old/last.ckpt"}
    wanted: tuple[str | Path, ...] = (
        "outputs/checkpoints",
        "outputs/checkpoints/",
        Path("outputs/checkpoints"),
        "outputs/checkpoints/last.ckpt",
    )
    for number, meant in enumerate(wanted):
        download_checkpoints_from_run_id("train_1_aa", meant, tmp_path / str(number))
        assert arrived(tmp_path / str(number)) == {"outputs/checkpoints/last.ckpt": "last"}
    older = tmp_path / "older"
    write_files(older, {"outputs/model.bin": "older", "outputs/mine.txt": "mine"})
    download_files_from_run_id("train_1_aa", older, "outputs/")
    before = os.stat(older / "outputs" / "model.bin")
    download_files_from_run_id("train_1_aa", older, "outputs/")
    assert (arrived(older)["outputs/model.bin"], arrived(older)["outputs/mine.txt"]) == ("m" * 10, "mine")
    assert os.stat(older / "outputs" / "model.bin").st_mtime_ns == before.st_mtime_ns


def test_datastore_files_are_left_unless_overwritten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, local_runs: RecordedRuns
) -> None:
    download_from_datastore("local", "foo/bar", tmp_path / "outputs")
    assert arrived(tmp_path / "outputs") == {"foo/bar/1.txt": "one", "foo/bar/2.txt": "two"}
    download_from_datastore(
        "local", file_prefix="foo/other.txt", output_folder=tmp_path / "single", aml_workspace=get_workspace()
    )
    assert arrived(tmp_path / "single") == {"foo/other.txt": "three"}
    write_files(tmp_path / "out", {"foo/bar/1.txt": "mine"})
    with caplog.at_level(logging.WARNING, logger="himl_cli"):
        download_from_datastore("local", "foo/bar", tmp_path / "out")
    assert arrived(tmp_path / "out") == {"foo/bar/1.txt": "mine", "foo/bar/2.txt": "two"}
    assert "exist with other content: 'foo/bar/1.txt'" in caplog.text
    download_from_datastore("local", "foo/bar", tmp_path / "out", overwrite=True)
    assert arrived(tmp_path / "out") == {"foo/bar/1.txt": "one", "foo/bar/2.txt": "two"}
    write_files(tmp_path / "foo" / "bar", {"1.txt": "1", "2.txt": "2", "deep/3.txt": "3"})
    upload_to_datastore("local", tmp_path / "foo" / "bar", Path("baz"))
    assert {name: text for name, text in stored(local_runs).items() if name.startswith("baz")} == {
        "baz/1.txt": "1",
        "baz/2.txt": "2",
        "baz/deep/3.txt": "3",
    }
    write_files(tmp_path / "data", {"1.txt": "mine", "3.txt": "new"})
    with caplog.at_level(logging.WARNING, logger="himl_cli"):
        upload_to_datastore("local", tmp_path / "data", "foo/bar")
    assert (stored(local_runs)["foo/bar/1.txt"], stored(local_runs)["foo/bar/3.txt"]) == ("one", "new")
    assert caplog.text.count("exist with other content: 'foo/bar/1.txt'") == 2
    upload_to_datastore("local", tmp_path / "data", "foo/bar", overwrite=True)
    assert stored(local_runs)["foo/bar/1.txt"] == "mine"


@pytest.mark.usefixtures("local_runs")
def test_what_is_not_there_is_file_not_found_and_himls_error(tmp_path: Path) -> None:
    write_files(tmp_path, {"file.txt": "x"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadUsage, match="is a file, not a folder"):
        upload_to_datastore("local", tmp_path / "file.txt", "x")
    with pytest.raises(FileNotFoundError, match="There are no files to upload"):
        upload_to_datastore("local", tmp_path / "empty", "x")
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        upload_to_datastore("local", tmp_path / "nope", "x")
    with pytest.raises(BadUsage, match="leads out of the store"):
        upload_to_datastore("local", tmp_path, "../x")
    out, workspace = tmp_path / "out", get_workspace()
    wrongs: dict[str, tuple[Callable[[], object], str]] = {
        "No file in run 'train_1_aa' starts with 'output_'": (
            lambda: download_files_from_run_id("train_1_aa", out, prefix="output_"),
            "outputs",
        ),
        "starts with 'outputs/check/'": (
            lambda: download_checkpoints_from_run_id("train_1_aa", "outputs/check", out),
            "Did you mean 'outputs/checkpoints",
        ),
        "No file in datastore 'local' starts with 'food'": (lambda: download_from_datastore("local", "food", out), ""),
        "No datastore 'none'": (lambda: download_from_datastore("none", "foo", out), ""),
        "No datastore 'nope'": (lambda: upload_to_datastore("nope", tmp_path, "x", workspace), ""),
        "No datastore 'nothing'": (lambda: Datastore.get(workspace, "nothing"), ""),
        "There is no file": (lambda: get_most_recent_run(tmp_path / "missing", workspace), ""),
    }
    for said, (act, hint) in wrongs.items():
        with pytest.raises(FileNotFoundError, match=said) as caught:
            act()
        assert isinstance(caught.value, NotFound)
        assert hint in caught.value.hint
        assert "--run" not in caught.value.hint
    assert not out.exists()
    with pytest.raises(RunNotFound, match="No run 'nope'"):
        download_files_from_run_id("nope", out)


PROGRAM = """
import sys
import himl_cli
himl_cli.download_from_datastore("local", "foo/", sys.argv[1], show_progress=sys.argv[2] == "show")
himl_cli.upload_to_datastore("local", sys.argv[1] + "/foo/bar", "copy", show_progress=sys.argv[2] == "show")
"""


@pytest.mark.usefixtures("local_runs")
def test_they_are_silent_unless_progress_is_asked_for(tmp_path: Path) -> None:
    for how in ("silent", "show"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / how), how], capture_output=True, text=True, check=True
        )
        ends = (
            [f"Downloaded 3 files (11 B) to '{tmp_path / 'show'}'", "Uploaded 0 files (0 B) to 'copy'"]
            if how == "show"
            else []
        )
        assert (done.stdout, [line.split(" in ")[0] for line in done.stderr.splitlines()]) == ("", ends)


AZURE_FILES = {
    "outputs/checkpoints/last.ckpt": b"last",
    "outputs/model.bin": b"m" * 10,
    "user_logs/std_log.txt": b"hello\n",
}
TEXTS = {name: content.decode() for name, content in AZURE_FILES.items()}


@pytest.fixture
def azure_run(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in the workspace that the project's config.json names. The project is the current folder."""
    azure = azure_environment
    run = azure.add_run("train_1_aa", "train", tags={"team": "blue"}, status="Completed", display_name="first")
    child = azure.add_run("child_a", "train", parent="train_1_aa", status="Completed")
    azure.add_metric(run, "loss", [1.0, 0.5])
    azure.add_metric(child, "loss", [0.25])
    azure.put_artifacts(run, AZURE_FILES)
    azure.write_config(project)
    monkeypatch.chdir(project)
    return fetch_run(get_workspace(), "train_1_aa")


@pytest.mark.large("takes long, and other tests run its branches")
def test_run_and_datastore_of_the_service_are_as_ones_here(
    azure_run: Run, azure_environment: StagedWorkspace, tmp_path: Path, project: Path
) -> None:
    assert (azure_run.id, azure_run.experiment.name, azure_run.display_name, azure_run.status) == (
        "train_1_aa",
        "train",
        "first",
        "Completed",
    )
    assert azure_run.tags == {"team": "blue"}
    assert azure_run.get_portal_url().startswith("https://ml.azure.com/runs/train_1_aa?wsid=")
    assert azure_run.get_metrics() == {"loss": [1.0, 0.5]}
    assert azure_run.get_metrics(recursive=True) == {"train_1_aa": {"loss": [1.0, 0.5]}, "child_a": {"loss": 0.25}}
    assert [child.id for child in azure_run.get_children()] == ["child_a"]
    assert [run.id for run in azure_run.experiment.get_runs(tags={"team": "blue"})] == ["train_1_aa"]
    assert azure_run.get_file_names() == sorted(AZURE_FILES)
    assert azure_run.workspace.is_in_azure
    assert himl_cli.is_running_in_azure_ml(azure_run)
    azure_environment.stage.faults.add(Status(503, retry_after=300), "history", times=1)
    assert azure_run.wait_for_completion()["status"] == "Completed", "an outage does not end the waiting"
    write_files(tmp_path / "data", {"1.txt": "one", "deep/2.txt": "two"})
    himl_cli.upload_to_datastore("workspaceblobstore", tmp_path / "data", Path("baz"))
    assert azure_environment.blob_names("workspaceblobstore") == ["baz/1.txt", "baz/deep/2.txt"]
    himl_cli.download_from_datastore("workspaceblobstore", "baz", tmp_path / "out", aml_workspace=azure_run.workspace)
    assert arrived(tmp_path / "out") == {"baz/1.txt": "one", "baz/deep/2.txt": "two"}
    default = azure_run.workspace.get_default_datastore()
    assert (default.name, default.datastore_type) == ("workspaceblobstore", "blob")
    assert (default.download(tmp_path / "again", "baz/deep"), default.upload(tmp_path / "data", "baz")) == (1, 0)
    azure_run.set_tags({"note": "done"})
    assert azure_environment.state.runs["train_1_aa"].tags == {"team": "blue", "note": "done"}
    azure_environment.add_run("going_1", "train", status="Running")
    going = fetch_run(None, "going_1")
    assert (going.cancel(), azure_run.cancel()) == (True, False)
    RecordedRuns(project).add("here_1_aa", files={"outputs/a.txt": "a"})
    azure_environment.stage.log.clear()
    himl_cli.download_files_from_run_id("here_1_aa", tmp_path / "here")
    assert arrived(tmp_path / "here") == {"outputs/a.txt": "a"}
    assert fetch_run(None, "here_1_aa").workspace.name == "project"
    assert azure_environment.requests() == []
    assert fetch_run(None, "train_1_aa") == azure_run


@pytest.mark.large("takes long, and other tests run its branches")
def test_files_come_down_checked_and_with_few_requests(
    azure_run: Run, azure_environment: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    himl_cli.download_files_from_run_id("train_1_aa", tmp_path / "all")
    assert arrived(tmp_path / "all") == TEXTS
    himl_cli.download_checkpoints_from_run_id(
        "train_1_aa", "outputs/checkpoints", tmp_path / "checkpoints", aml_workspace=azure_run.workspace
    )
    assert arrived(tmp_path / "checkpoints") == {"outputs/checkpoints/last.ckpt": "last"}
    azure_run.download_file("outputs/model.bin", tmp_path / "single" / "renamed.bin")
    assert arrived(tmp_path / "single") == {"renamed.bin": "m" * 10}
    for folder in ("again", "once more"):
        azure_environment.stage.log.clear()
        himl_cli.download_files_from_run_id("train_1_aa", tmp_path / folder)
        assert len(azure_environment.requests()) == 2 + len(AZURE_FILES)
        if folder == "again":
            # An additional local workspace costs no requests.
            RecordedRuns(project).add("here_1_aa")
    azure_environment.stage.faults.add(FlipByte(at=2), r"GET .*/outputs/model\.bin", times=None)
    for checked in (False, True):
        with pytest.raises(IntegrityFailed, match=r"model\.bin"):
            himl_cli.download_files_from_run_id(
                "train_1_aa", tmp_path / str(checked), "outputs/", validate_checksum=checked
            )
        assert arrived(tmp_path / str(checked)) == {"outputs/checkpoints/last.ckpt": "last"}
    with pytest.raises(FileNotFoundError, match="No datastore 'workspaceblobstor'") as caught:
        himl_cli.download_from_datastore("workspaceblobstor", "", tmp_path / "out")
    assert "workspaceblobstore" in f"{caught.value} {getattr(caught.value, 'hint', '')}"
    azure_environment.put_artifacts(
        azure_environment.state.runs["train_1_aa"], {"outputs/a": b"file", "outputs/a/b": b"below"}
    )
    azure_run.download_file("outputs/a", tmp_path / "alone" / "a")
    assert arrived(tmp_path / "alone") == {"a": "file"}


IN_JOB = """
import json, sys
import himl_cli
workspace = himl_cli.get_workspace(None, "config.json")
run = himl_cli.fetch_run(workspace, "train_1_aa")
himl_cli.download_files_from_run_id("train_1_aa", sys.argv[1])
weights = open(himl_cli.checkpoint("train_1_aa:last.ckpt")).read()
heavy = ("azure.ai", "azure.identity", "msal", "azureml", "mlflow", "torch", "typer", "rich", "tensorboard")
loaded = [name for name in heavy if name in sys.modules]
in_azure_ml = himl_cli.is_running_in_azure_ml(), himl_cli.is_running_in_azure_ml(run)
print(json.dumps([workspace.name, weights, run.get_metrics(), *in_azure_ml, loaded]))
"""


@pytest.mark.large("takes long, and other tests run its branches")
def test_job_reads_own_workspace_without_azure_sdk(
    azure_environment: StagedWorkspace, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure = azure_environment
    run = azure.add_run("train_1_aa", "train", status="Running")
    azure.add_metric(run, "loss", [1.0, 0.5])
    azure.put_artifacts(run, AZURE_FILES)
    azure.stage.workspace("other").write_config(project)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HIML_", "AZURE_"))}
    command = [sys.executable, "-c", IN_JOB, str(tmp_path / "out")]
    done = subprocess.run(
        command, env={**environment, **azure.job_environment(run)}, cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [azure.state.name, "last", {"loss": [1.0, 0.5]}, True, True, []]
    assert arrived(tmp_path / "out") == TEXTS
    azure.write_config(project)
    monkeypatch.chdir(project)
    azure.stage.log.clear()
    workspace, state = get_workspace(), azure.state
    assert (workspace.name, workspace.resource_group, workspace.subscription_id) == (
        state.name,
        state.group,
        state.subscription,
    )
    assert (repr(workspace), azure.requests()) == (f"Workspace({azure.label})", [])


ML_CLIENT = """
import json, sys
from azure.ai.ml import MLClient
from azure.identity import ClientSecretCredential
import himl_cli
tenant, client, secret, subscription, group, name = json.loads(sys.stdin.read())
with ClientSecretCredential(tenant, client, secret) as credential:
    theirs = MLClient(credential, subscription, group, name)
    ours, run = himl_cli.get_workspace(theirs), himl_cli.fetch_run(theirs, "train:train_1_aa")
    job = theirs.jobs.get("train_1_aa")
    assert ours == himl_cli.Workspace(subscription, group, name)
    answers = [[ours.name, theirs.workspace_name], [ours.resource_group, theirs.resource_group_name],
        [ours.subscription_id, theirs.subscription_id]]
    answers += [[run.status, job.status], [run.experiment.name, job.experiment_name]]
    answers += [[url.split("&")[0].lower() for url in (run.get_portal_url(), job.studio_url)]]
    answers += [[ours.get_default_datastore().name, theirs.datastores.get_default().name]]
    answers += [[sorted(ours.datastores), sorted(each.name for each in theirs.datastores.list())]]
    try:
        himl_cli.get_workspace(MLClient(credential, subscription, group))
    except TypeError as err:
        answers += [[str(err).partition(":")[0], "azure.ai.ml._ml_client.MLClient is not a workspace"]]
print(json.dumps(answers))
"""


def names_and_secrets(azure: StagedWorkspace) -> list[str]:
    who, state = azure.state.principal, azure.state
    return [who.tenant, who.client_id, who.secret, state.subscription, state.group, state.name]


def answers_of(python: str, program: str, given: list[str], *, cwd: Path) -> list[list[object]]:
    """Return the last line of *program*'s output: pairs of himl's answer and the SDK's."""
    command = [python, "-W", "ignore", "-c", program]
    done = subprocess.run(command, input=json.dumps(given), cwd=cwd, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    answers: list[list[object]] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.large("imports azure-ai-ml")
def test_ml_client_is_accepted_as_workspace_with_equal_answers(
    azure_environment: StagedWorkspace, project: Path
) -> None:
    azure_environment.add_run("train_1_aa", "train", status="Failed", error="it broke")
    answers = answers_of(sys.executable, ML_CLIENT, names_and_secrets(azure_environment), cwd=project)
    another = SimpleNamespace(subscription_id="s", resource_group="g", name="n")
    assert (azure_names(another), azure_names(object()), "azureml" in sys.modules) == (None, None, False)
    assert len(answers) == 9
    for ours, theirs in answers:
        assert ours == theirs


CORE = """
import json, sys
from azureml.core import Run, Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
import himl_cli
tenant, client, secret, subscription, group, name = json.loads(sys.stdin.read())
theirs = Workspace.get(name, auth=ServicePrincipalAuthentication(tenant, client, secret),
    subscription_id=subscription, resource_group=group)
their_run = Run.get(theirs, "train_1_aa")
ours = himl_cli.get_workspace(theirs)
run = himl_cli.fetch_run(theirs, himl_cli.create_run_recovery_id(their_run))
answers = [[ours.name, theirs.name], [ours.subscription_id, theirs.subscription_id],
    [ours.resource_group, theirs.resource_group]]
answers += [[run.id, their_run.id], [run.experiment.name, their_run.experiment.name]]
answers += [[run.status, their_run.get_status()], [run.tags, their_run.tags]]
answers += [[run.get_metrics(recursive=True), their_run.get_metrics(recursive=True)]]
answers += [[himl_cli.is_running_in_azure_ml(their_run), True],
    [himl_cli.is_running_in_azure_ml(Run.get_context()), False]]
print(json.dumps(answers))
"""


# The first use of a client builds its environment.
@pytest.mark.timeout(1800)
def test_objects_of_azureml_core_are_taken_and_agree_with_ours(
    azure_environment: StagedWorkspace, project: Path
) -> None:
    azure = azure_environment
    run = azure.add_run("train_1_aa", "train", tags={"team": "blue"}, status="Completed", display_name="first")
    azure.add_metric(azure.add_run("child_a", "train", parent="train_1_aa", status="Completed"), "loss", [0.25])
    azure.add_metric(run, "loss", [1.0, 0.5])
    answers = answers_of(str(client_python(HIML_V1)), CORE, names_and_secrets(azure), cwd=project)
    assert len(answers) == 10
    for ours, theirs in answers:
        assert ours == theirs
