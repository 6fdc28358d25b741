"""Submitting while the network, the service or the user gets in the way: never two jobs, never an unclear end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from himl_cli.core.errors import Interrupted, NotFound, ServiceFailed
from himl_cli.core.events import Event, Moved, ignore
from himl_cli.workspaces.azure.service_errors import ServiceRefused
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Meanwhile, Page, Reset, ResetUpload, Stall, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import connected
from tests.support.azure_jobs import CONDA, cluster_spec, snapshot_of
from tests.support.folders import files_below, files_with
from tests.support.running import Himl

JOB = r"PUT .*/jobs/"
LOOK = r"GET .*/jobs/"


@pytest.fixture
def hasty(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    """The workspace `azure`, opened with short waits between tries."""
    with connected(azure_environment, project) as connection:
        workspace = AzureWorkspace(connection)
        yield workspace
        workspace.close()


@pytest.mark.parametrize("fault", [Reset(), ResetUpload(), Status(500), Status(429, retry_after=0), Status(503)])
def test_a_request_that_is_repeated_makes_no_second_job(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path, fault: Reset | Status) -> None:
    azure.stage.faults.add(fault, JOB, times=2)
    run = hasty.submit(cluster_spec(project), notify=ignore)
    assert list(azure.state.runs) == [run.id]
    assert len(azure.requests(JOB)) == 3


def test_a_job_whose_answers_were_all_lost_is_found(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.stage.faults.add(Reset(), JOB, times=None)
    run = hasty.submit(cluster_spec(project), notify=ignore)
    assert list(azure.state.runs) == [run.id]
    assert len(azure.requests(LOOK)) == 1


def test_a_job_that_was_not_created_is_not_reported_as_one(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.stage.faults.add(Status(500), JOB, times=None)
    with pytest.raises(ServiceRefused, match="failed at PUT"):
        hasty.submit(cluster_spec(project), notify=ignore)
    assert not azure.state.runs
    assert len(azure.requests(LOOK)) == 1


def test_submit_with_unknown_outcome_reports_the_job_id(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.stage.faults.add(Reset(), rf"{JOB}|{LOOK}", times=None)
    with pytest.raises(ServiceFailed, match="It is not known whether job '") as caught:
        hasty.submit(cluster_spec(project), notify=ignore)
    (run_id,) = azure.state.runs
    assert f"'{run_id}'" in str(caught.value)
    assert f"himl runs show {run_id}" in caught.value.hint


def test_what_the_service_lost_meanwhile_is_made_anew(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    hasty.submit(cluster_spec(project), notify=ignore)
    azure.state.assets["codes"].clear()
    azure.state.assets["environments"].clear()
    azure.stage.log.clear()
    run = hasty.submit(cluster_spec(project), notify=ignore)
    assert run.id in azure.state.runs
    assert [len(azure.requests(one)) for one in ("startPendingUpload", "PUT .*/environments/", JOB)] == [1, 1, 2]


def test_a_job_that_is_refused_for_what_it_says_is_sent_once(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.stage.faults.add(Status(400, code="UserError", message="A tag is too long."), JOB, times=None)
    with pytest.raises(ServiceRefused, match="A tag is too long"):
        hasty.submit(cluster_spec(project), notify=ignore)
    assert len(azure.requests(JOB)) == 1
    assert len(azure.requests("startPendingUpload")) == 1
    assert not azure.state.runs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_before_job_creation_leaves_no_job_or_code(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path, number: signal.Signals) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Moved):
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="nothing runs"):
        hasty.submit(cluster_spec(project), notify=interrupt)
    assert azure.requests(JOB) == []
    assert not azure.state.assets["codes"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_the_job_is_created_says_its_id(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path, number: signal.Signals) -> None:
    azure.stage.faults.add(Meanwhile(lambda: os.kill(os.getpid(), number)), JOB)
    with pytest.raises(Interrupted, match="was created before the interruption") as caught:
        hasty.submit(cluster_spec(project), notify=ignore)
    (run_id,) = azure.state.runs
    assert caught.value.hint == f"To stop it: himl runs cancel {run_id}"


def test_an_interruption_does_not_wait_for_a_service_that_stalls(himl: Himl, azure_environment: StagedWorkspace, project: Path) -> None:
    azure, files = azure_environment, {"train.py": "print(1)\n", "environment.yml": CONDA}
    azure.write_config(project)
    snapshot_of(project, files)
    azure.stage.faults.add(Stall(240), "GET .*/(computes|codes)/", times=None)
    process = himl.start("submit", "train.py", "--cluster", "cpu-cluster")
    while not azure.requests("GET .*/computes/"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130
    assert b"nothing runs" in said


@pytest.mark.parametrize("place", ["GET .*/computes/", "startPendingUpload", "PUT .*/environments/", JOB])
def test_a_failure_before_there_is_a_job_says_that_there_is_none(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path, place: str) -> None:
    azure.stage.faults.add(Status(503), place, times=None)
    with pytest.raises(ServiceFailed) as caught:
        hasty.submit(cluster_spec(project), notify=ignore)
    assert caught.value.hint.startswith("No job was created. ")
    assert not azure.state.runs


def test_what_was_mistyped_is_not_told_to_have_created_no_job(hasty: AzureWorkspace, project: Path) -> None:
    with pytest.raises(NotFound, match="No compute 'nope'") as caught:
        hasty.submit(cluster_spec(project, cluster="nope"), notify=ignore)
    assert "No job" not in caught.value.hint


def test_an_answer_that_is_no_job_is_followed_by_a_look(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.stage.faults.add(Reset(), JOB)
    azure.stage.faults.add(Page("[]", content_type="application/json"), JOB, times=None, skip=1)
    run = hasty.submit(cluster_spec(project), notify=ignore)
    assert list(azure.state.runs) == [run.id]
    assert len(azure.requests(LOOK)) == 1


def test_an_answer_that_is_not_understood_names_the_job(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.stage.faults.add(Page('{"properties": 1}', content_type="application/json"), JOB, times=None)
    with pytest.raises(ServiceFailed, match=r"Job 'sent_\w+' was created, but: ") as caught:
        hasty.submit(cluster_spec(project), notify=ignore)
    assert "himl runs show sent_" in caught.value.hint


def test_job_with_lost_response_is_found_despite_refused_retry(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.stage.faults.add(Reset(), JOB)
    azure.stage.faults.add(Status(403, code="AuthorizationFailed"), JOB, times=None, skip=1)
    run = hasty.submit(cluster_spec(project), notify=ignore)
    assert list(azure.state.runs) == [run.id]


def test_no_option_that_may_hold_a_secret_is_remembered(hasty: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    spec = cluster_spec(project, docker_args=["-e SOME_KEY=hunter2"], env={"OTHER_KEY": "hunter2"}, arguments=["--password", "hunter2"])
    run = hasty.submit(spec, notify=ignore)
    job = azure.state.runs[run.id].job
    assert job is not None
    assert job["resources"]["dockerArgs"] == "-e SOME_KEY=hunter2"
    assert files_below(project.parent / "home")
    assert files_with(project.parent / "home", "hunter2") == []
