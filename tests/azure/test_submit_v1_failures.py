"""`himl submit --sdk v1` where it cannot go on: refused in a line, survived, or interrupted."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from himl_cli.core.installation import install_command
from tests.azure.v1_project import himl as himl
from tests.azure.v1_project import lab as lab
from tests.azure.v1_project import refused, submitted
from tests.servers.azureml.faults import Latency, Reset, Status
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, until

ELSEWHERE = "azureml://registries/azureml/environments"

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment


def test_unknown_cluster_is_refused_before_upload(lab: StagedWorkspace, himl: Himl) -> None:
    refused(himl("submit", "--sdk", "v1", "--cluster", "nope", "train.py"), 3, "nope", "cpu-cluster")
    assert lab.requests("PUT |snapshots|snapshotrun") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cluster", "cpu-cluster", "--identity", "user"), ("--identity user", "--sdk v1")),
        (("--cluster", "cpu-cluster", "--job_tier", "spot"), ("--job_tier spot", "--sdk v1")),
        (("--cluster", "serverless"), ("--cluster serverless", "--sdk v1")),
        (("--cluster", "cpu-cluster", "--environment", f"{ELSEWHERE}/x/versions/1"), (ELSEWHERE, "--sdk v1")),
    ],
)
def test_what_v1_cannot_do_is_refused_before_any_request(lab: StagedWorkspace, himl: Himl, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(himl("submit", "--sdk", "v1", *options, "train.py"), 2, *words)
    assert lab.requests() == []


@pytest.mark.parametrize(("status", "place"), [(429, "snapshots/getblob"), (503, "snapshotrun")])
def test_a_service_that_fails_once_is_asked_again(lab: StagedWorkspace, himl: Himl, status: int, place: str) -> None:
    lab.stage.faults.add(Status(status), place)
    run_id = submitted(himl, "train.py")
    assert list(lab.state.runs) == [run_id]


def test_persistent_service_error_is_one_line_and_no_run_starts(lab: StagedWorkspace, himl: Himl) -> None:
    lab.stage.faults.add(Status(500), "snapshotrun", times=None)
    refused(himl("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py"), 5, "500")
    assert lab.state.runs == {}


def test_a_failure_before_there_is_a_job_says_that_there_is_none(lab: StagedWorkspace, himl: Himl) -> None:
    for place in ("computes/", "snapshotrun"):
        lab.stage.faults.add(Status(500), place, times=None)
        refused(himl("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py"), 5, "No job was created.")
        lab.stage.faults.clear()
    assert lab.state.runs == {}


def test_a_lost_answer_does_not_submit_twice(lab: StagedWorkspace, himl: Himl) -> None:
    lab.stage.faults.add(Reset(), "snapshotrun")
    run_id = submitted(himl, "train.py")
    assert list(lab.state.runs) == [run_id]


def test_what_fails_once_the_job_runs_is_told_and_the_id_with_it(lab: StagedWorkspace, himl: Himl) -> None:
    lab.stage.faults.add(Status(400), "PATCH .*/history/", times=None)
    done = himl.ok("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py")
    [run_id] = lab.state.runs
    messages = " ".join(done.stderr.split())
    assert run_id in done.stdout
    assert "The job was submitted, but then" in messages
    assert "submitted without its tags" in messages


def test_submit_reports_job_not_yet_in_run_history(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    lab.stage.faults.add(Status(404), r"POST .*(rundata|history).*runs|GET .*history.*/runs/[^/]*$", times=None)
    done = himl.ok("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "--json", "train.py", "--", "--password", "hunter2")
    [run_id] = lab.state.runs
    shown = done.json()
    assert (shown["id"], shown["status"], shown["experiment"]) == (run_id, "Queued", "train")
    assert run_id in shown["url"]
    assert "hunter2" not in done.stdout + done.stderr
    assert (project / "most_recent_run.txt").read_text().strip() == f"train:{run_id}"


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_invalid_blob_name_is_refused_before_any_request(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    (project / "new\nline.txt").touch()
    refused(himl("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py"), 2, r"'new\nline.txt' cannot be sent")
    assert lab.requests() == []


def test_whoever_may_only_read_is_told_so(lab: StagedWorkspace, himl: Himl) -> None:
    reader = lab.environment(lab.add_principal({Right.READ}))
    done = himl("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py", env=reader)
    refused(done, 4)
    assert lab.state.runs == {}


def test_missing_azureml_core_names_install_command_first(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    """The install command is named before any request and before the file of the latest run is written."""
    without = Himl(Path(sys.executable).with_name(himl.program.name), project)
    refused(without("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py"), 2, "azureml-core", install_command("v1"))
    assert lab.requests() == []
    assert not (project / "most_recent_run.txt").exists()


def interrupted(himl: Himl, lab: StagedWorkspace, at: str) -> tuple[int, str]:
    """The exit code and the messages of a submit that is interrupted once the request *at* was sent."""
    process = himl.start("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py")
    until(lambda: lab.requests(at))
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=100)
    return process.returncode, " ".join(messages.decode().split())


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
def test_interrupted_before_the_job_was_created_nothing_runs(lab: StagedWorkspace, himl: Himl) -> None:
    lab.stage.faults.add(Latency(20), "snapshots/getblob")
    code, messages = interrupted(himl, lab, "snapshots/latest")
    assert code == 130, messages
    assert "no job was submitted" in messages
    assert lab.state.runs == {}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
def test_interrupted_afterwards_the_id_is_told(lab: StagedWorkspace, himl: Himl) -> None:
    lab.stage.faults.add(Latency(20), "PATCH .*/history/")
    code, messages = interrupted(himl, lab, "snapshotrun")
    [run_id] = lab.state.runs
    assert code == 130, messages
    assert f"himl runs cancel {run_id}" in messages


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
def test_interrupted_while_the_job_gets_its_tags_the_id_is_told(lab: StagedWorkspace, himl: Himl) -> None:
    lab.stage.faults.add(Latency(20), "PATCH .*/history/", skip=1)
    process = himl.start("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py")
    until(lambda: len(lab.requests("PATCH .*/history/")) >= 2)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=100)
    [run_id] = lab.state.runs
    assert process.returncode == 130
    assert f"himl runs cancel {run_id}" in " ".join(messages.decode().split())
