"""`himl submit --record_in azure` through the installed program: the job runs here, and the double of Azure ML hears of it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.recorded_in_azure import SUBMIT, TRAIN, kill_recorder, log_there, pid_of, points, posix, proc, the_run, wait_until_told
from tests.support.recorded_in_azure import azure_project as azure_project
from tests.support.recorded_in_azure import go as go
from tests.support.running import Himl, until, write_files


def test_a_job_here_is_seen_there(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    outcome = himl.ok(*SUBMIT, "--tag", "team=blue", "--display_name", "First try", "--description", "by hand")
    assert outcome.stdout == "trained\n"
    run = the_run(azure_project)
    assert (run.status, run.experiment.name, run.display_name, run.description) == ("Completed", "train", "First try", "by hand")
    assert (run.tags["team"], run.tags["run_recovery_id"]) == ("blue", f"train:{run.run_id}")
    assert "command_line" in run.tags
    assert f"Run {run.run_id} (experiment train) in local workspace '.himl', recorded in {azure_project.label}. Studio: https://ml.azure.com/" in outcome.stderr
    assert points(azure_project, "loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert [point.data for point in run.metrics["fruit/size"].points] == [{"fruit/size": 2.0}]
    files = azure_project.artifacts(run.run_id)
    assert (files["user_logs/std_log.txt"], files["outputs/deep/best.txt"], files["outputs/empty"]) == (b"trained\n", b"0.9", b"")
    assert b"fig" in files["logged/fruit.jsonl"]
    assert (project / "most_recent_run.txt").read_text() == f"train:{run.run_id}\n"
    assert [*(project / ".himl" / "recordings").iterdir()] == []


def test_it_is_one_run_in_lists_and_shows_where_else_it_is(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    run_id = himl.ok(*SUBMIT, "-q").stdout.strip()
    assert himl.ok("runs", "list", "-q").stdout == f"{run_id}\n"
    shown = himl.ok("runs", "show").stdout
    assert f"Recorded in   {azure_project.label}\n" in shown
    assert "Studio        https://ml.azure.com/runs/" in shown
    with opened(azure_project, project) as there:
        assert {metric.name: len(metric.points) for metric in there.metrics(run_id)} == {"loss": 3, "fruit/size": 1}
        assert there.run(run_id).tags["himl.recorded_from"]


def test_a_job_that_fails_failed_there_for_the_same_reason(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    write_files(project, {"train.py": "print('bad'); raise SystemExit(7)\n"})
    assert himl(*SUBMIT).code == 1
    with opened(azure_project, project) as there:
        run = there.run(the_run(azure_project).run_id)
    here = himl.ok("runs", "show", "--json").json()
    assert (run.status.value, run.reason) == ("Failed", here["reason"])
    assert log_there(azure_project) == b"bad\n"


def test_what_it_logs_arrives_while_it_runs_and_nobody_waits(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path) -> None:
    outcome = himl.ok(*SUBMIT, "--no_wait")
    run_id, experiment, studio = outcome.stdout.splitlines()
    assert (experiment, studio.startswith(f"Studio      https://ml.azure.com/runs/{run_id}?wsid=")) == ("Experiment  train", True)
    assert f"himl runs cancel {run_id}" in outcome.stderr
    until(lambda: points(azure_project, "loss") == [(0, 1.0)] and log_there(azure_project) == b"up\n")
    assert the_run(azure_project).status == "Running"
    himl.ok("runs", "tag", run_id, "stage=mid")
    until(lambda: the_run(azure_project).tags.get("stage") == "mid")
    go.touch()
    assert azure_project.wait_for(run_id).status == "Completed"
    assert points(azure_project, "loss") == [(0, 1.0), (1, 0.5)]
    assert log_there(azure_project) == b"up\ndone\n"
    assert azure_project.artifacts(run_id)["outputs/late.txt"] == b"late"
    wait_until_told(project)


def test_the_logs_of_all_ranks_are_told(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    write_files(project, {"train.py": "import os\nprint('rank', os.environ['RANK'])\n"})
    run_id = himl.ok(*SUBMIT, "--processes_per_node", "2", "-q").stdout.strip()
    files = azure_project.artifacts(run_id)
    assert (files["user_logs/std_log_process_0.txt"], files["user_logs/std_log_process_1.txt"]) == (b"rank 0\n", b"rank 1\n")


NESTED = """
import mlflow
with mlflow.start_run():
    mlflow.log_param("lr", 0.1)
    for fold in range(2):
        with mlflow.start_run(run_name=f"fold {fold}", nested=True) as child:
            mlflow.log_metric("score", fold / 10, step=fold)
            mlflow.log_text("w", "weights.txt")
    with mlflow.start_run(run_id=child.info.run_id, nested=True):
        mlflow.log_metric("score", 0.9, step=7)
"""


def test_runs_that_mlflow_nests_are_nested_there(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    write_files(project, {"train.py": NESTED})
    run_id = himl.ok(*SUBMIT, "-q").stdout.strip()
    children = {run.display_name: run for run in azure_project.state.runs.values() if run.parent_id == run_id}
    assert {name: run.status for name, run in children.items()} == {"fold 0": "Completed", "fold 1": "Completed"}
    assert [point.data for point in children["fold 1"].metrics["score"].points] == [{"score": 0.1}, {"score": 0.9}]
    assert azure_project.artifacts(children["fold 0"].run_id) == {"weights.txt": b"w"}
    assert azure_project.state.runs[run_id].parameters == {"lr": "0.1"}


@posix
def test_ctrl_c_cancels_it_in_both_places(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path) -> None:
    with himl.start(*SUBMIT) as waiting:
        until(lambda: bool(azure_project.state.runs) and points(azure_project, "loss") == [(0, 1.0)])
        os.kill(waiting.pid, signal.SIGINT)
        _, said = waiting.communicate(timeout=100)
    assert waiting.returncode == 130, said
    azure_project.wait_for(the_run(azure_project).run_id, "Canceled")
    wait_until_told(project)


@posix
@proc
@pytest.mark.parametrize("module", ["train.py", "himl_cli.workspaces.local.supervisor"])
def test_what_is_killed_has_failed_there(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path, module: str) -> None:
    run_id = himl.ok(*SUBMIT, "--no_wait", "-q").stdout.strip()
    until(lambda: points(azure_project, "loss") == [(0, 1.0)])
    os.kill(pid_of(project, module), signal.SIGKILL)
    azure_project.wait_for(run_id, "Failed")
    with opened(azure_project, project) as there:
        assert there.run(run_id).reason == himl.ok("runs", "show", "--json").json()["reason"]
    assert log_there(azure_project) == b"up\n"
    wait_until_told(project)


@posix
def test_ctrl_c_after_job_end_leaves_upload_to_background(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    with azure_project.stage.holding("PUT .*best.txt"), himl.start(*SUBMIT) as waiting:
        until(lambda: bool(azure_project.state.runs) and himl("runs", "show", "--workspace", "local", "--json").stdout.count("Completed") == 1)
        os.kill(waiting.pid, signal.SIGINT)
        printed, said = waiting.communicate(timeout=100)
    assert (waiting.returncode, printed) == (130, b"trained\n"), said
    assert b"goes on in the background" in said
    wait_until_told(project)
    run = the_run(azure_project)
    assert (run.status, azure_project.artifacts(run.run_id)["outputs/deep/best.txt"]) == ("Completed", b"0.9")


@posix
def test_submit_killed_before_job_start_leaves_failed_run(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    """The last answer before the job starts does not come."""
    with azure_project.stage.holding("POST .*/history/.*/events"), himl.start(*SUBMIT) as submitting:
        until(lambda: bool(azure_project.state.runs))
        submitting.kill()
        submitting.communicate(timeout=100)
    assert not (project / ".himl" / "runs" / the_run(azure_project).run_id).exists()
    himl.ok("runs", "list", "--workspace", "local")
    run = azure_project.wait_for(the_run(azure_project).run_id, "Failed")
    assert "himl submit ended before the job began" in str(run.error)
    wait_until_told(project)


@posix
def test_a_killed_submit_leaves_job_and_recording_at_work(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path) -> None:
    with himl.start(*SUBMIT) as waiting:
        until(lambda: bool(azure_project.state.runs) and points(azure_project, "loss") == [(0, 1.0)])
        waiting.kill()
        waiting.communicate(timeout=100)
    go.touch()
    azure_project.wait_for(the_run(azure_project).run_id, "Completed")
    assert points(azure_project, "loss") == [(0, 1.0), (1, 0.5)]
    wait_until_told(project)


@posix
@proc
def test_a_killed_recording_is_taken_up_by_the_next_command(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path) -> None:
    """Nothing is missing, and nothing is there twice."""
    run_id = himl.ok(*SUBMIT, "--no_wait", "-q").stdout.strip()
    until(lambda: points(azure_project, "loss") == [(0, 1.0)])
    kill_recorder(project)
    go.touch()
    until(lambda: json.loads(himl.ok("runs", "show", run_id, "--json", "--workspace", "local").stdout)["status"] == "Completed")
    azure_project.wait_for(run_id, "Completed")
    assert points(azure_project, "loss") == [(0, 1.0), (1, 0.5)]
    assert log_there(azure_project) == b"up\ndone\n"
    wait_until_told(project)


@posix
@proc
def test_all_of_it_killed_at_once_ends_failed(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path) -> None:
    with himl.start(*SUBMIT) as waiting:
        until(lambda: bool(azure_project.state.runs) and points(azure_project, "loss") == [(0, 1.0)])
        waiting.kill()
        kill_recorder(project)
        os.kill(pid_of(project, "himl_cli.workspaces.local.supervisor"), signal.SIGKILL)
        waiting.communicate(timeout=100)
    assert the_run(azure_project).status == "Running"
    himl.ok("runs", "list", "--workspace", "local")
    azure_project.wait_for(the_run(azure_project).run_id, "Failed")
    wait_until_told(project)


def test_a_job_in_place_is_told_too_and_json_is_one_document(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    document = himl.ok(*SUBMIT, "--in_place", "--json").json()
    assert (document["status"], document["tags"]["himl.recorded_in"]) == ("Completed", azure_project.label)
    assert azure_project.artifacts(document["id"])["outputs/deep/best.txt"] == b"0.9"


def test_what_cannot_be_is_said_before_anything_is_made(himl: Himl, project: Path, azure: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(project, {"train.py": TRAIN})
    for name, value in azure.environment().items():
        monkeypatch.setenv(name, value)
    outcome = himl(*SUBMIT)
    assert (outcome.code, outcome.stderr.splitlines()[0]) == (2, "error: --record_in azure needs an Azure ML workspace, and none is configured.")
    azure.write_config(project)
    for options, message in {
        ("--display_name", "n" * 300): "Azure ML takes 256",
        ("--cluster", "cpu-cluster"): "that is for jobs that run here",
        ("--workspace", "other.json"): "other.json",
    }.items():
        outcome = himl(*SUBMIT, *options)
        assert (outcome.code in (2, 3), message in outcome.stderr) == (True, True), outcome.stderr
    assert azure.requests() == []
    assert sorted(path.name for path in project.iterdir()) == ["config.json", "train.py"]


def test_the_settings_and_the_config_file_name_the_place(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    (project / "config.json").rename(project / "lab.json")
    write_files(project, {"himl.toml": '[submit]\nrecord_in = "azure"\n'})
    run_id = himl.ok("submit", "train.py", "--config_file", "lab.json", "-q").stdout.strip()
    assert azure_project.state.runs[run_id].status == "Completed"
    assert (project / ".himl" / "runs" / run_id).is_dir()
    himl.ok("submit", "train.py", "--record_in", "local", "-q")
    assert len(azure_project.state.runs) == 1
