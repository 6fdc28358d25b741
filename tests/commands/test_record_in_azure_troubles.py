"""`himl submit --record_in azure` where the network, a right, the disk or somebody's patience is missing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from himl_cli.core.processes import is_held
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.recorded_in_azure import SUBMIT, kill_recorder, log_there, note_of, points, posix, proc, the_run, wait_until_told
from tests.support.recorded_in_azure import azure_project as azure_project
from tests.support.recorded_in_azure import go as go
from tests.support.running import Himl, until, write_files


def status_here(himl: Himl, run_id: str) -> str:
    return str(himl.ok("runs", "show", run_id, "--json", "--workspace", "local").json()["status"])


def test_a_service_that_is_away_for_a_while_loses_nothing(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path) -> None:
    """It is said once in the recording's log, and once that it is over."""
    run_id = himl.ok(*SUBMIT, "--no_wait", "-q").stdout.strip()
    until(lambda: points(azure_project, "loss") == [(0, 1.0)])
    azure_project.stage.faults.add(Status(503, retry_after=300), "", times=None)
    go.touch()
    path = note_of(project)
    assert path is not None
    until(lambda: bool(json.loads(path.read_text())["away"]))
    assert points(azure_project, "loss") == [(0, 1.0)]
    azure_project.stage.faults.clear()
    azure_project.wait_for(run_id, "Completed")
    assert points(azure_project, "loss") == [(0, 1.0), (1, 0.5)]
    assert (log_there(azure_project), azure_project.artifacts(run_id)["outputs/late.txt"]) == (b"up\ndone\n", b"late")
    wait_until_told(project)
    said = (project / ".himl" / "runs" / run_id / "recording.log").read_text()
    assert said.count("Nothing can be told at present") == 1
    assert said.count("is told now") == 1


def test_refused_metrics_are_reported_and_sent_once_allowed(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path) -> None:
    run_id = himl.ok(*SUBMIT, "--no_wait", "-q").stdout.strip()
    until(lambda: points(azure_project, "loss") == [(0, 1.0)])
    azure_project.stage.faults.add(Status(403, code="AuthorizationFailed", message="You shall not write."), "/metric/", times=None)
    go.touch()
    path = note_of(project)
    assert path is not None
    until(lambda: status_here(himl, run_id) == "Completed" and not is_held(path.with_suffix(".lock")), path.read_text)
    shown = himl.ok("runs", "show", run_id).stdout
    assert "Not told" in shown
    assert "answered 403" in shown
    assert (path.is_file(), is_held(path.with_suffix(".lock"))) == (True, False)  # it is too early for another try
    azure_project.stage.faults.clear()
    note = json.loads(path.read_text())
    path.write_text(json.dumps(note | {"not_before": note["not_before"] - 3600}))
    himl.ok("runs", "list")
    azure_project.wait_for(run_id, "Completed")
    wait_until_told(project)
    assert (points(azure_project, "loss"), log_there(azure_project)) == ([(0, 1.0), (1, 0.5)], b"up\ndone\n")
    assert "Not told" not in himl.ok("runs", "show", run_id).stdout


def test_a_submit_that_waits_says_that_it_was_refused(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    azure_project.stage.faults.add(Status(403, code="AuthorizationFailed", message="You shall not write."), "/metric/", times=None)
    outcome = himl.ok(*SUBMIT)
    assert outcome.stdout == "trained\n"
    assert "ot all of the run is in" in outcome.stderr
    azure_project.stage.faults.clear()
    path = note_of(project)
    assert path is not None
    until(lambda: not path.exists() or not is_held(path.with_suffix(".lock")))


def test_files_that_are_refused_do_not_keep_back_the_rest(himl: Himl, azure_project: StagedWorkspace) -> None:
    azure_project.stage.faults.add(Status(403, code="AuthorizationFailed", message="You shall not write."), "/artifact/", times=None)
    outcome = himl.ok(*SUBMIT)
    assert "warning: not all of the run is in" in outcome.stderr
    run = the_run(azure_project)
    assert (run.status, len(points(azure_project, "loss")), azure_project.artifacts(run.run_id)) == ("Completed", 3, {})
    assert "Not told" in himl.ok("runs", "show").stdout


def test_who_may_not_write_there_starts_nothing(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    for status, code in ((403, 4), (401, 4)):
        azure_project.stage.faults.add(Status(status, code="AuthorizationFailed"), "/history/", times=None)
        refused = himl(*SUBMIT)
        assert (refused.code, refused.stdout) == (code, ""), refused.stderr
        assert "Nothing was started." in refused.stderr
        azure_project.stage.faults.clear()
    assert not azure_project.state.runs
    assert not (project / ".himl").exists()


def test_who_may_only_read_there_starts_nothing(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    azure_project.stage.faults.add(Status(403, code="AuthorizationFailed"), "PATCH .*/history/", times=None)
    assert himl(*SUBMIT).code == 4
    assert note_of(project) is None
    assert himl.ok("runs", "list", "--workspace", "local", "-q").stdout == ""


def test_a_job_that_does_not_start_has_failed_there(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    (project / "taken").write_text("a file")
    refused = himl(*SUBMIT, "--output", "model=model,local=taken")
    assert refused.code == 2
    run = azure_project.wait_for(the_run(azure_project).run_id, "Failed")
    assert "the job did not start: Output 'model': " in str(run.error)
    wait_until_told(project)


@posix
def test_who_will_not_wait_for_the_run_there_leaves_a_failed_one(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    """One more signal after Ctrl-C, while the last answer before the job does not come."""
    with azure_project.stage.holding("POST .*/history/.*/events"), himl.start(*SUBMIT) as submitting:
        until(lambda: azure_project.state.runs)
        os.kill(submitting.pid, signal.SIGINT)
        os.kill(submitting.pid, signal.SIGTERM)  # a second SIGINT may be one with the first
        printed, said = submitting.communicate(timeout=100)
    run_id = the_run(azure_project).run_id
    assert (submitting.returncode, printed) == (130, b"")
    assert f"Interrupted before the job began; run '{run_id}' may be in {azure_project.label}".encode() in said
    run = azure_project.wait_for(run_id, "Failed")
    assert "himl submit was interrupted before the job began" in str(run.error)
    wait_until_told(project)
    assert run.status == "Failed"
    assert himl.ok("runs", "list", "--workspace", "local", "-q").stdout == ""


@posix
def test_ctrl_c_during_submission_with_no_wait_cancels_run(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path) -> None:
    with himl.start(*SUBMIT, "--no_wait", "-q") as submitting:
        with azure_project.stage.holding("POST .*/history/.*/events"):
            until(lambda: azure_project.state.runs)
            os.kill(submitting.pid, signal.SIGINT)
        printed, said = submitting.communicate(timeout=100)
    run_id = the_run(azure_project).run_id
    assert (submitting.returncode, printed.decode().strip()) == (130, run_id), said
    assert f"Run '{run_id}' is canceled." in said.decode()
    azure_project.wait_for(run_id, "Canceled")


@proc
@pytest.mark.parametrize("text", ["{", '{"run_id": "RUN", "place": {"name": "x"}, "runs": {}}'])
def test_a_damaged_note_is_said_once(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path, text: str) -> None:
    run_id = himl.ok(*SUBMIT, "--no_wait", "-q").stdout.strip()
    until(lambda: points(azure_project, "loss") == [(0, 1.0)])
    path = note_of(project)
    assert path is not None
    kill_recorder(project)
    path.write_text(text.replace("RUN", run_id))
    himl.ok("runs", "list", "-q")
    wait_until_told(project)
    until(lambda: "Not told" in himl.ok("runs", "show", run_id).stdout)
    said = (project / ".himl" / "runs" / run_id / "recording.log").read_text()
    assert (said.count("is damaged"), "Traceback" in said) == (1, False)
    kept = [f"{run_id}.broken"]  # and perhaps what the killed one was about to write, under a hidden name
    until(lambda: [file.name for file in path.parent.glob("[!.]*")] == kept, lambda: [*path.parent.iterdir()])


@proc
def test_a_setting_that_cannot_be_read_puts_the_recording_off(himl: Himl, azure_project: StagedWorkspace, project: Path, go: Path) -> None:
    run_id = himl.ok(*SUBMIT, "--no_wait", "-q").stdout.strip()
    until(lambda: points(azure_project, "loss") == [(0, 1.0)])
    path = note_of(project)
    assert path is not None
    kill_recorder(project)
    write_files(project, {"himl.toml": '[azure]\ncloud = "moon"\n'})
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir()
    listed = ("runs", "list", "-q", "--workspace", str(project / ".himl"))
    assert himl(*listed, cwd=elsewhere).code == 0
    until(lambda: json.loads(path.read_text())["not_before"], path.read_text)
    until(lambda: not is_held(path.with_suffix(".lock")))
    (project / "himl.toml").unlink()
    assert "moon" in himl.ok("runs", "show", run_id, "--json").json()["tags"]["himl.recording_stopped"]
    go.touch()
    note = json.loads(path.read_text())
    path.write_text(json.dumps(note | {"not_before": 0}))
    himl.ok(*listed)
    azure_project.wait_for(run_id, "Completed")
    wait_until_told(project)
