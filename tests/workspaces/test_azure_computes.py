"""The compute that a job is for: looked at before anything is uploaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, NotFound, ServiceFailed
from himl_cli.core.events import Event, Notice
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.job_submission import check_compute
from tests.servers.azureml.faults import Page, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import connected


@pytest.fixture
def connection(azure_environment: StagedWorkspace, project: Path) -> Iterator[Connection]:
    with connected(azure_environment, project) as opened:
        yield opened


def test_one_that_is_there_is_one_request(stage: Stage, connection: Connection) -> None:
    check_compute(connection, "gpu-cluster", nodes=2)
    assert [seen.path.rpartition("/")[2] for seen in stage.log.find(r"management\.azure\.com")] == ["gpu-cluster"]


def test_an_unknown_one_names_those_there_are(azure_environment: StagedWorkspace, connection: Connection) -> None:
    azure_environment.state.page_size = 1
    azure_environment.add_compute("a100")
    with pytest.raises(NotFound, match=r"No compute 'gpu-clutser' in workspace .*; there are: a100, cpu-cluster, gpu-cluster") as caught:
        check_compute(connection, "gpu-clutser")
    assert "'gpu-cluster'" in caught.value.hint


def test_a_workspace_without_computes_says_so(azure_environment: StagedWorkspace, connection: Connection) -> None:
    azure_environment.state.computes.clear()
    with pytest.raises(NotFound, match="it has none"):
        check_compute(connection, "gpu")


@pytest.mark.parametrize("name", ["..", "a/b", "a b", "x?y", "%2e"])
def test_what_cannot_be_a_computes_name_is_not_asked_for(stage: Stage, connection: Connection, name: str) -> None:
    with pytest.raises(NotFound, match="No compute"):
        check_compute(connection, name)
    assert all(seen.path.endswith("/computes") for seen in stage.log.find(r"management\.azure\.com"))


def test_serverless_is_no_compute_and_not_looked_for(stage: Stage, connection: Connection) -> None:
    check_compute(connection, "serverless", nodes=8)
    assert stage.log.all() == []


def test_more_nodes_than_it_has_are_refused(connection: Connection) -> None:
    with pytest.raises(BadUsage, match="--num_nodes 3: the compute 'gpu-cluster' has 2 nodes at most"):
        check_compute(connection, "gpu-cluster", nodes=3)


def test_one_machine_has_one_node(azure_environment: StagedWorkspace, connection: Connection) -> None:
    azure_environment.add_compute("desk", kind="ComputeInstance")
    check_compute(connection, "desk")
    with pytest.raises(BadUsage, match="has 1 node at most"):
        check_compute(connection, "desk", nodes=2)


def test_a_kind_that_runs_no_such_jobs_is_refused(azure_environment: StagedWorkspace, connection: Connection) -> None:
    azure_environment.add_compute("bricks", kind="Databricks")
    with pytest.raises(BadUsage, match="'bricks' is Databricks, which runs no such jobs"):
        check_compute(connection, "bricks")


@pytest.mark.parametrize("state", ["Deleting", "Canceled"])
def test_one_that_is_broken_is_refused(azure_environment: StagedWorkspace, connection: Connection, state: str) -> None:
    azure_environment.state.computes["gpu-cluster"]["state"] = state
    with pytest.raises(BadUsage, match=f"'gpu-cluster' cannot be used: its state is {state}"):
        check_compute(connection, "gpu-cluster")


def test_a_moment_of_trouble_is_survived(stage: Stage, connection: Connection) -> None:
    stage.faults.add(Status(429, retry_after=0.1), "/computes/")
    check_compute(connection, "gpu-cluster")


def test_an_answer_that_is_none_is_one_error(stage: Stage, connection: Connection) -> None:
    stage.faults.add(Page('{"name": "gpu-cluster"}', content_type="application/json"), "/computes/", times=None)
    with pytest.raises(ServiceFailed, match="another form"):
        check_compute(connection, "gpu-cluster")


ERRORS = [{"code": "ClusterResizeFailed", "message": "Quota of this family\nis used up."}]


@pytest.mark.parametrize(("errors", "words"), [(ERRORS, ": Quota of this family is used up"), (None, "")])
def test_compute_in_failed_state_gives_notice_and_takes_jobs(
    azure_environment: StagedWorkspace, connection: Connection, errors: list[dict[str, str]] | None, words: str
) -> None:
    azure_environment.state.computes["gpu-cluster"] |= {"state": "Failed", "errors": errors}
    told: list[Event] = []
    check_compute(connection, "gpu-cluster", notify=told.append)
    assert told == [Notice(f"The compute 'gpu-cluster' is in state Failed{words}. The job is sent all the same, and may wait there.")]
