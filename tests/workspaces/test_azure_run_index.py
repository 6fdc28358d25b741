"""Runs of a whole Azure ML workspace: ids from its index, which is not trusted with more than that, and records from the run history."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Meanwhile, Page, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import add_many, ids, newest, times


def test_newest_runs_of_workspace_take_two_requests(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    """The names of experiments are requested once and cached."""
    for number, time in zip(range(30), times(), strict=False):
        azure.add_run(str(number), f"e{number % 3}", created=time)
        azure.add_run(f"child{number}", f"e{number % 3}", created=time, parent=str(number))
    assert ids(workspace, RunQuery(limit=20)) == newest(20, of=30)
    assert len(azure.requests(r"/index/|batchrundata")) == 2
    azure.stage.log.clear()
    assert [run.experiment for run in workspace.runs(RunQuery(limit=2))] == ["e2", "e1"]
    assert len(azure.requests()) == 2


def test_unknown_experiment_names_are_requested_concurrently(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    for number in range(4):
        azure.add_run(str(number), f"e{number}")
    together = threading.Barrier(4, timeout=60)
    azure.stage.faults.add(Meanwhile(together.wait), match="/experimentids/", times=None)
    assert {run.experiment for run in workspace.runs(RunQuery())} == {"e0", "e1", "e2", "e3"}
    assert len(azure.requests("/experimentids/")) == 4
    assert not together.broken, "each is answered only when all are asked"


def test_a_deleted_experiment_costs_its_name_and_no_run(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("run_1", "here")
    gone = azure.add_run("run_2", "gone").experiment.experiment_id
    azure.stage.faults.add(Status(404, code="NotFoundError"), f"/experimentids/{gone}", times=None)
    assert {run.id: run.experiment for run in workspace.runs(RunQuery())} == {"run_1": "here", "run_2": gone}


def test_runs_of_workspace_are_sorted_by_time_not_experiment(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    azure.add_run("later", "a", created=now + timedelta(hours=1))
    azure.add_run("earlier", "b", created=now)
    assert ids(workspace, RunQuery()) == ["later", "earlier"]


def test_runs_are_listed_from_jobs_if_index_is_missing(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.state.page_size = 4
    add_many(azure, 10)
    azure.add_run("child", "many", parent="9")
    azure.state.runs["7"].status = "Failed"
    azure.stage.faults.add(Status(404, code="UserError"), match="/index/", times=None)
    assert ids(workspace, RunQuery(limit=3)) == ["9", "8", "7"]
    assert ids(workspace, RunQuery(statuses=[RunStatus.failed])) == ["7"]
    assert ids(workspace, RunQuery()) == newest(10, of=10)


def test_an_index_that_pages_by_numbers_is_read_to_its_end(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.state.skips_in_index = True
    add_many(azure, 250)
    assert ids(workspace, RunQuery()) == newest(250, of=250)
    assert len(azure.requests("/index/")) == 3


@pytest.mark.parametrize("query", [RunQuery(), RunQuery(limit=3), RunQuery(statuses=[RunStatus.completed])])
def test_an_empty_index_is_checked_by_the_list_of_jobs(workspace: AzureWorkspace, azure: StagedWorkspace, query: RunQuery) -> None:
    assert ids(workspace, query) == []
    azure.state.hides_in_index = True
    azure.state.page_size = 4
    add_many(azure, 10)
    azure.stage.log.clear()
    assert ids(workspace, query) == newest(query.limit or 10, of=10)
    assert len(azure.requests("/index/")) == 1


def test_no_match_in_index_needs_no_request_for_jobs(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    add_many(azure, 3)
    assert ids(workspace, RunQuery(statuses=[RunStatus.failed])) == []
    assert azure.requests("/jobs") == []


@pytest.mark.parametrize("query", [RunQuery(statuses=[RunStatus.failed]), RunQuery(tags={"team": "blue"}), RunQuery(tags={"team name": "blue"})])
def test_filter_uses_index_for_old_runs_and_records_for_new(workspace: AzureWorkspace, azure: StagedWorkspace, query: RunQuery) -> None:
    add_many(azure, 1000)
    for number in (5, 950):
        azure.state.runs[str(number)].status = "Failed"
        azure.state.runs[str(number)].tags |= {"team": "blue", "team name": "blue"}
    azure.state.runs["950"].indexed_status = "Running"
    assert ids(workspace, query) == ["950", "5"]
    pages = 10 if "team name" in query.tags else 2
    assert len(azure.requests("/index/")) == pages
    azure.stage.log.clear()
    assert ids(workspace, replace(query, limit=1)) == ["950"]
    assert len(azure.requests("/index/|batchrundata")) == 2


@pytest.mark.parametrize("fault", [Page('{"value": [], "continuationToken": null}', content_type="application/json"), Status(400, code="UserError")])
def test_index_rejecting_or_ignoring_filter_hides_no_run(workspace: AzureWorkspace, azure: StagedWorkspace, fault: Page | Status) -> None:
    add_many(azure, 250)
    for number in (5, 200):
        azure.state.runs[str(number)].status = "Failed"
    azure.stage.faults.add(fault, match="/index/", skip=1)
    assert ids(workspace, RunQuery(statuses=[RunStatus.failed])) == ["200", "5"]


def test_run_listed_twice_in_index_is_requested_once(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    add_many(azure, 150)
    azure.state.runs["140"].status = "Failed"
    assert ids(workspace, RunQuery(statuses=[RunStatus.failed])) == ["140"]
    assert (len(azure.requests("/index/")), len(azure.requests("batchrundata"))) == (2, 1)


def test_filter_on_few_runs_takes_one_index_request(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    add_many(azure, 100)
    assert ids(workspace, RunQuery(statuses=[RunStatus.failed])) == []
    assert len(azure.requests("/index/")) == 1


def test_record_missing_in_batch_is_requested_separately(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    add_many(azure, 3)
    azure.stage.faults.add(Page('{"successfulResults": {}, "failedResults": {"1": {}}}', content_type="application/json"), match="batchrundata")
    assert ids(workspace, RunQuery()) == newest(3, of=3)


@pytest.mark.parametrize("status", [404, 400])
def test_records_are_requested_singly_if_batch_is_unsupported(workspace: AzureWorkspace, azure: StagedWorkspace, status: int) -> None:
    add_many(azure, 12)
    azure.stage.faults.add(Status(status, code="UserError"), match="batchrundata", times=None)
    assert ids(workspace, RunQuery()) == newest(12, of=12)


def test_a_run_that_went_since_the_index_saw_it_is_left_out(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    add_many(azure, 3)
    runs = workspace.runs(RunQuery(limit=3))
    azure.stage.faults.add(Status(404, code="UserError"), match="batchrundata")
    azure.stage.faults.add(Status(404, code="UserError"), match="GET .*/runs/1$")
    assert [run.id for run in runs] == ["2", "0"]
