"""Tests of lists of runs in an Azure ML workspace and their metrics: selection, order, and the number of requests."""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import NotAllowed, ServiceFailed, WorkspaceNotFound
from himl_cli.core.logged import Metric, RunResults
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.run_metrics import MOST_NESTED
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.azureml_double.faults import Meanwhile, Page, Status
from tests.azureml_double.seeding import StagedWorkspace, add_sweep
from tests.azureml_double.state import Point
from tests.support.azure import HASTY, add_many, ids, newest, opened, times

QUERIES = r"runs:query"
STATES = {
    "queued": "NotStarted Unapproved Starting Provisioning Preparing Queued Paused",
    "running": "Running Finalizing CancelRequested Pausing NotResponding",
    "completed": "Completed",
    "failed": "Failed",
    "canceled": "Canceled",
}


@pytest.mark.large("takes long, and other tests run its branches")
def test_list_of_many_runs_asks_only_for_needed_pages(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.state.page_size = 1000
    add_many(azure, 1200)
    assert ids(workspace, RunQuery("many", limit=20)) == newest(20, of=1200)
    [seen] = azure.stage.log.find(QUERIES)
    assert seen.received < 40 * 4000, "about as many runs as wanted"
    azure.stage.log.clear()
    runs = workspace.runs(RunQuery("many"))
    assert azure.requests(QUERIES) == []
    assert [run.id for run in islice(runs, 500)] == newest(500, of=1200)
    assert len(azure.requests(QUERIES)) == 1
    assert [run.id for run in runs] == newest(1200, of=1200)[500:]
    assert len(azure.requests(QUERIES)) == 3


@pytest.mark.parametrize("parent", [None, "0"])
@pytest.mark.parametrize("refused", [["CreatedUtc desc"], ["CreatedUtc desc", "StartTimeUtc desc"]])
def test_refused_order_costs_no_run_and_not_the_order(
    workspace: AzureWorkspace, azure: StagedWorkspace, refused: list[str], parent: str | None
) -> None:
    azure.state.refused_orders = refused
    azure.state.page_size = 4
    add_many(azure, 1)
    for number in range(20):
        made = next(times()) + timedelta(hours=number + 1)
        run = azure.add_run(f"r{number}", "many", created=made, parent=parent)
        run.started = None if number in (3, 12, 19) else made + timedelta(minutes=number % 2 * 10)
    expected = [f"r{19 - number}" for number in range(20)] + ([] if parent else ["0"])
    query = RunQuery(parent=parent) if parent else RunQuery("many")
    assert ids(workspace, query) == expected
    azure.stage.log.clear()
    assert ids(workspace, replace(query, limit=1)) == ["r19"]
    kept = 2 if len(refused) == 1 else 6
    assert len(azure.requests(r"runs:query|/children")) <= kept, "the refused order is not asked for again"
    queued = replace(query, statuses=[RunStatus.completed], limit=2)
    assert ids(workspace, queued) == ["r19", "r18"]


def test_experiment_names_are_taken_as_they_are(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    names = ("a b", "größe", "50%", "a#b?c", "a&b=c")
    for name in names:
        azure.add_run(f"run of {name}", name)
    assert [[run.experiment for run in workspace.runs(RunQuery(name))] for name in names] == [[name] for name in names]
    assert [ids(workspace, RunQuery(name)) for name in ("nothing", "", "..", "a/b")] == [[], [], [], []]
    assert [ids(workspace, RunQuery(parent=parent)) for parent in ("nothing", "..", "")] == [[], [], []]


@pytest.mark.parametrize(
    "query", [RunQuery("many", tags={"fold": "1"}), RunQuery(parent="0", statuses=[RunStatus.failed])]
)
def test_filter_refused_by_run_history_is_applied_locally(
    workspace: AzureWorkspace, azure: StagedWorkspace, query: RunQuery
) -> None:
    add_many(azure, 150)
    azure.add_run("wanted", "many", status="Failed", tags={"fold": "1"}, parent=query.parent)
    azure.add_run("other", "many", tags={"fold": "2"}, parent=query.parent)
    # The service may refuse the order, so himl tries other orders before it filters itself.
    orders = 3
    azure.stage.faults.add(Status(400, code="UserError"), match="runs:query|/children", times=orders)
    assert ids(workspace, query) == ["wanted"]
    azure.stage.faults.add(Status(400, code="UserError"), match="runs:query|/children", times=None)
    with pytest.raises(ServiceFailed, match="400"):
        ids(workspace, query)


def test_a_list_survives_a_moment_of_trouble_and_tells_a_refusal(
    azure_environment: StagedWorkspace, project: Path
) -> None:
    add_many(azure_environment, 2)
    azure_environment.add_run("child", "many", parent="0")
    faults, asking = azure_environment.stage.faults, r"runs:query|/index/|/children"
    with opened(azure_environment, project, HASTY) as workspace:
        for query in (RunQuery("many"), RunQuery(), RunQuery(parent="0")):
            faults.clear()
            faults.add(Status(503, retry_after=0), match=asking, times=2)
            assert ids(workspace, query) == (["child"] if query.parent else ["1", "0"])
            faults.add(Status(403, code="AuthorizationFailed"), match=asking)
            with pytest.raises(NotAllowed):
                ids(workspace, query)
            faults.add(Status(500, retry_after=0), match=asking, times=None)
            with pytest.raises(ServiceFailed, match="500"):
                ids(workspace, query)


def test_deleted_workspace_raises_workspace_not_found(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    add_many(azure, 1)
    assert ids(workspace, RunQuery("many")) == ["0"]
    kept = azure.stage.azure.workspaces
    del kept[next(key for key, one in kept.items() if one is azure.state)]
    for query in (RunQuery("many"), RunQuery(), RunQuery(parent="0")):
        with pytest.raises(WorkspaceNotFound):
            ids(workspace, query)
    with pytest.raises(WorkspaceNotFound):
        workspace.run("0")


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("seed", range(2))
def test_any_query_gives_what_it_says(workspace: AzureWorkspace, azure: StagedWorkspace, seed: int) -> None:
    """Compare random queries over random runs with the plain meaning of each query."""
    chance = random.Random(seed)
    azure.state.page_size = chance.choice([3, 7, 500])
    states = [(RunStatus[status], state) for status, names in STATES.items() for state in names.split()]
    # The oldest run comes first.
    known: list[tuple[str, str, RunStatus, dict[str, str], str | None, bool]] = []
    for number, time in zip(range(60), times(), strict=False):
        (status, state), experiment = chance.choice(states), chance.choice(["a", "b c"])
        tags = {
            name: chance.choice(["x", 'y"', "ü"])
            for name in chance.sample(["k", "odd name", "mlflow.user"], chance.randint(0, 3))
        }
        parent = chance.choice([None, None, "0", "1"]) if number > 1 else None
        hidden = number > 1 and chance.random() < 0.2
        azure.add_run(str(number), experiment, status=state, created=time, tags=tags, parent=parent, hidden=hidden)
        known.append((str(number), experiment, status, tags, parent, hidden))
    for _ in range(40):
        query = RunQuery(
            experiment=chance.choice([None, "a", "b c", "none"]),
            statuses=chance.sample(list(RunStatus), chance.randint(0, 3)),
            tags={
                name: chance.choice(["x", 'y"', "ü"])
                for name in chance.sample(["k", "odd name", "mlflow.user"], chance.choice([0, 0, 1, 2]))
            },
            parent=chance.choice([None, "0", "1"]),
            limit=chance.choice([None, 0, 1, 4, 100]),
        )
        expected = [
            run_id
            for run_id, experiment, status, tags, parent, hidden in reversed(known)
            if not hidden
            and parent == query.parent
            and query.experiment in (None, experiment)
            and (not query.statuses or status in query.statuses)
            and query.tags.items() <= tags.items()
        ]
        assert ids(workspace, query) == expected[: query.limit], query


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


@pytest.mark.large("takes long, and other tests run its branches")
def test_runs_are_listed_from_jobs_if_index_is_missing(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.state.page_size = 4
    add_many(azure, 10)
    azure.add_run("child", "many", parent="9")
    azure.state.runs["7"].status = "Failed"
    azure.stage.faults.add(Status(404, code="UserError"), match="/index/", times=None)
    assert ids(workspace, RunQuery(limit=3)) == ["9", "8", "7"]
    assert ids(workspace, RunQuery(statuses=[RunStatus.failed])) == ["7"]
    assert ids(workspace, RunQuery()) == newest(10, of=10)


@pytest.mark.large("takes long, and other tests run its branches")
def test_an_index_that_pages_by_numbers_is_read_to_its_end(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.state.skips_in_index = True
    add_many(azure, 250)
    assert ids(workspace, RunQuery()) == newest(250, of=250)
    assert len(azure.requests("/index/")) == 3


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("query", [RunQuery(), RunQuery(limit=3), RunQuery(statuses=[RunStatus.completed])])
def test_an_empty_index_is_checked_by_the_list_of_jobs(
    workspace: AzureWorkspace, azure: StagedWorkspace, query: RunQuery
) -> None:
    assert ids(workspace, query) == []
    azure.state.hides_in_index = True
    azure.state.page_size = 4
    add_many(azure, 10)
    azure.stage.log.clear()
    assert ids(workspace, query) == newest(query.limit or 10, of=10)
    assert len(azure.requests("/index/")) == 1


@pytest.mark.large("lists many runs")
@pytest.mark.parametrize(
    "query",
    [RunQuery(statuses=[RunStatus.failed]), RunQuery(tags={"team": "blue"}), RunQuery(tags={"team name": "blue"})],
)
def test_filter_uses_index_for_old_runs_and_records_for_new(
    workspace: AzureWorkspace, azure: StagedWorkspace, query: RunQuery
) -> None:
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


@pytest.mark.parametrize(
    "fault",
    [Page('{"value": [], "continuationToken": null}', content_type="application/json"), Status(400, code="UserError")],
)
def test_index_rejecting_or_ignoring_filter_hides_no_run(
    workspace: AzureWorkspace, azure: StagedWorkspace, fault: Page | Status
) -> None:
    add_many(azure, 250)
    for number in (5, 200):
        azure.state.runs[str(number)].status = "Failed"
    azure.stage.faults.add(fault, match="/index/", skip=1)
    assert ids(workspace, RunQuery(statuses=[RunStatus.failed])) == ["200", "5"]


def test_record_missing_in_batch_is_requested_separately(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    add_many(azure, 12)
    partial = Page('{"successfulResults": {}, "failedResults": {"1": {}}}', content_type="application/json")
    for fault in (partial, Status(404, code="UserError"), Status(400, code="UserError")):
        azure.stage.faults.only(fault, match="batchrundata", times=None)
        assert ids(workspace, RunQuery()) == newest(12, of=12)
    azure.stage.faults.add(Status(404, code="UserError"), match="GET .*/runs/10$")
    assert ids(workspace, RunQuery(limit=3)) == ["11", "9", "8"], "it went since the index saw it"


SERVICES = r"/(mlflow|metric|history)/"
NAMES = [f"metric {number}" for number in range(10)]


def swept(azure: StagedWorkspace, count: int, names: Sequence[str] = NAMES, points: int = 2) -> None:
    add_sweep(
        azure,
        "sweep",
        [{"lr": number} for number in range(count)],
        lambda index, _: {name: [float(index)] * points for name in names},
    )


def children(workspace: AzureWorkspace) -> list[Run]:
    return list(workspace.runs(RunQuery(parent="sweep")))


def read(workspace: AzureWorkspace, runs: Sequence[Run], *, whole: bool = False) -> dict[str, RunResults]:
    return dict(workspace.results(runs, wanted=lambda name: True, whole=whole))


def requests_since(azure: StagedWorkspace) -> list[str]:
    """Return the requests to the workspace's services since the last call."""
    found = azure.requests(SERVICES)
    azure.stage.log.clear()
    return found


@pytest.mark.parametrize("in_bulk", [True, False])
def test_bulk_history_takes_one_request_per_metric(
    azure: StagedWorkspace, workspace: AzureWorkspace, in_bulk: bool
) -> None:
    count = 60 if in_bulk else 5
    swept(azure, count)
    azure.state.bulk_history = in_bulk
    runs = children(workspace)
    requests_since(azure)
    found = read(workspace, runs, whole=True)
    assert all(
        len(results.series) == len(NAMES) and list(results.series["metric 3"].steps) == [0, 1]
        for results in found.values()
    )
    requests = requests_since(azure)
    assert sum("get-history-bulk" in line for line in requests) == (len(NAMES) if in_bulk else 1), (
        "where it cannot, that is asked once"
    )
    assert sum("get-history?" in line for line in requests) == (0 if in_bulk else 5 * len(NAMES))
    # Each run takes a request that finds out whether it has tables.
    assert len(requests) <= (60 + len(NAMES) + 4 if in_bulk else 100)


@pytest.mark.large("logs many points")
def test_more_points_than_fit_into_an_answer_all_come(azure: StagedWorkspace, workspace: AzureWorkspace) -> None:
    swept(azure, 4, ["loss"], points=9000)
    azure.state.bulk_history = True
    found = read(workspace, children(workspace), whole=True)
    assert {len(results.series["loss"].values) for results in found.values()} == {9000}


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_search_that_takes_no_lists_of_ids_is_done_without(azure: StagedWorkspace, workspace: AzureWorkspace) -> None:
    runs = [azure.add_run(f"run_{number}", "train") for number in range(5)]
    for number, run in enumerate(runs):
        azure.add_metric(run, "loss", [float(number), math.nan])
    azure.stage.faults.add(Status(400, code="UserError", message="no IN"), "/runs/search", times=None)
    found = read(workspace, list(workspace.runs(RunQuery("train"))))
    assert {run_id: repr(dict(results.last)) for run_id, results in found.items()} == {
        f"run_{number}": "{'loss': nan}" for number in range(5)
    }


def nest(azure: StagedWorkspace, parent: str, name: str, metric: str = "fold") -> None:
    """Add a run with a metric, as a script that nests runs does."""
    azure.add_metric(azure.add_run(name, "tuning", parent=parent), metric, [0.5])


@pytest.mark.large("takes long, and other tests run its branches")
def test_what_scripts_nested_in_trials_counts_for_these(azure: StagedWorkspace, workspace: AzureWorkspace) -> None:
    azure.state.short_searches = True  # as public reports say
    swept(azure, 5, ["loss"])
    nest(azure, "sweep_2", "child")
    nest(azure, "child", "grandchild", "deep")
    # Runs 4, 3, 2 and 1. The result must not include their siblings.
    found = read(workspace, children(workspace)[:4])
    assert {run_id: dict(results.last) for run_id, results in found.items() if len(results.last) > 1} == {
        "sweep_2": {"loss": 2.0, "fold": 0.5, "deep": 0.5}
    }
    assert len(found) == 4
    assert azure.requests("/runs/search -> 400") == []


@pytest.mark.parametrize("route", ["/runs/search", ""], ids=["the history tells them", "nobody does"])
def test_nested_runs_where_mlflow_does_not_take_the_search(
    azure: StagedWorkspace, workspace: AzureWorkspace, caplog: pytest.LogCaptureFixture, route: str
) -> None:
    swept(azure, 5, ["loss"])
    nest(azure, "sweep_2", "child")
    runs = children(workspace)
    for refused in ["/runs/search", *([] if route else ["runs:query"])]:
        azure.stage.faults.add(Status(400, code="UserError", message="no such field"), refused, times=None)
    found = read(workspace, runs)
    assert {run_id: results.last["loss"] for run_id, results in found.items()} == {
        f"sweep_{index}": float(index) for index in range(5)
    }
    assert found["sweep_2"].last.get("fold") == (0.5 if route else None)
    assert ("so their metrics are missing" in caplog.text) is not bool(route)


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(
    ("lacking", "whole"), [(["loss", "accuracy"], True), (["accuracy"], False)], ids=["all of them", "one"]
)
def test_metrics_that_a_search_does_not_tell_are_not_lost(
    azure: StagedWorkspace, workspace: AzureWorkspace, lacking: list[str], *, whole: bool
) -> None:
    swept(azure, 6, ["loss", "accuracy"], points=3)
    azure.state.search_lacks = lacking
    found = read(workspace, children(workspace), whole=whole)
    assert {run_id: dict(results.last) for run_id, results in found.items()} == {
        f"sweep_{index}": {"loss": float(index), "accuracy": float(index)} for index in range(6)
    }
    assert not whole or all(
        len(results.series[name].values) == 3 for results in found.values() for name in ("loss", "accuracy")
    )


def test_runs_unknown_to_mlflow_are_read_from_metric_service(azure: StagedWorkspace, workspace: AzureWorkspace) -> None:
    swept(azure, 1, ["loss"])
    for route in ("/runs/search", "/runs/get"):
        azure.stage.faults.add(Status(404, code="UserError", message="no such run"), route, times=None)
    assert read(workspace, children(workspace))["sweep_0"].last == {"loss": 0.0}
    azure.stage.faults.only(Status(403, code="AuthorizationFailed", message="no"), "/mlflow/", times=None)
    with pytest.raises(NotAllowed, match="403"):
        read(workspace, children(workspace))


def test_first_error_is_raised_and_pending_calls_are_dropped() -> None:
    requests_since: list[int] = []
    slow = threading.Event()

    def ask(number: int) -> int:
        requests_since.append(number)
        if number == 0:
            raise ServiceFailed("no 0")
        slow.wait(0.1)
        return number

    with pytest.raises(ServiceFailed, match="no 0"):
        ask_all(ask, range(10_000))
    assert len(requests_since) < 10_000
    with pytest.raises(ZeroDivisionError):
        ask_all(lambda number: 1 // number, [1, 0])
    assert not [thread for thread in threading.enumerate() if thread.name == "himl-ask"]


def series(metrics: object) -> dict[tuple[str, str], list[tuple[int, float]]]:
    assert isinstance(metrics, list)
    return {(metric.run, metric.name): [(point.step, point.value) for point in metric.points] for metric in metrics}


def test_list_table_and_flag_metrics_become_number_series(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    run = azure.add_run("r1")
    azure.add_metric(run, "list", [1, 2, 3], kind="azureml.v1.list")
    azure.add_metric(run, "flag", [True])
    azure.add_metric(run, "word", ["good"])
    azure.add_metric(run, "picture", ["aml://artifactId/ExperimentRun/dcid.r1/img.png"], kind="azureml.v1.image")
    run.metrics["picture"].columns["picture"] = "Artifact"
    table = azure.add_table(run, "table", [{"tp": 1, "fp": 4}, {"tp": 2, "fp": 3}])
    table.columns["note"] = "String"
    for point in run.metrics["list"].points:
        point.step = None
    assert series(workspace.metrics("r1")) == {
        ("r1", "flag"): [(0, 1.0)],
        ("r1", "list"): [(0, 1.0), (1, 2.0), (2, 3.0)],
        ("r1", "table/tp"): [(0, 1.0), (1, 2.0)],
        ("r1", "table/fp"): [(0, 4.0), (1, 3.0)],
    }
    run = azure.add_run("r2")
    azure.add_metric(run, "loss", [1.0, "NaN", "Infinity", "-Infinity"], steps=[10, 20, 30, 40])
    run.metrics["loss"].points.append(Point({"loss": None}, step=50, created=run.created + timedelta(hours=1)))
    (metric,) = workspace.metrics("r2")
    assert isinstance(metric, Metric)
    assert run.started is not None
    assert [(point.step, repr(point.value)) for point in metric.points] == [
        (10, "1.0"),
        (20, "nan"),
        (30, "inf"),
        (40, "-inf"),
        (50, "nan"),
    ]
    assert [point.time for point in metric.points[:3]] == [
        run.started + timedelta(seconds=number) for number in range(3)
    ]
    assert metric.last.step == 50


@pytest.mark.large("takes long, and other tests run its branches")
def test_metrics_of_odd_names_and_on_small_pages_are_read(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    names = ["50%", "a/b", "größe", "train loss", "x?y#z"]
    run = azure.add_run("r1")
    for name in names:
        azure.add_metric(run, name, [1.0])
    assert sorted(metric.name for metric in workspace.metrics("r1")) == names
    azure.stage.faults.add(Status(404, code="UserError"), match="/metric/.*/list")
    assert workspace.metrics("r1") == []
    azure.state.page_size = 3
    run = azure.add_run("r2")
    for name in "abcdefgh":
        azure.add_metric(run, name, [float(number) for number in range(10)])
    assert series(workspace.metrics("r2")) == {
        ("r2", name): [(number, float(number)) for number in range(10)] for name in "abcdefgh"
    }


def test_what_a_sweep_or_a_pipeline_started_is_not_nested(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    parents: list[dict[str, Any]] = [
        {"run_type": "hyperdrive"},
        {"run_type": "azureml.PipelineRun"},
        {"run_type": "HTTP", "properties": {"azureml.runsource": "azureml.PipelineRun"}},
        {"run_type": "automl"},
        {"properties": {"runTemplate": "HyperDrive"}},
    ]
    steps: list[dict[str, Any]] = [
        {
            "run_type": "azureml.StepRun",
            "properties": {"azureml.runsource": "azureml.StepRun", "azureml.pipelinerunid": "p"},
        },
        {"properties": {"runTemplate": "automl_child", "azureml.runsource": "automl"}},
        {"properties": {"runTemplate": None, "azureml.runsource": None, "DataPrepJsonString": None}, "run_type": None},
    ]
    for number, fields in enumerate(parents + steps):
        top, nested = f"top{number}", f"nested{number}"
        azure.add_metric(azure.add_run(top, **fields), "best", [1.0])
        azure.add_metric(azure.add_run(nested, parent=top), "loss", [1.0])
        azure.stage.log.clear()
        assert [metric.run for metric in workspace.metrics(top)] == ([top, nested] if fields in steps else [top])
        assert fields in steps or len(azure.requests("/metric/")) == 2


@pytest.mark.large("makes many runs")
def test_metrics_cover_only_newest_nested_runs_with_warning(
    workspace: AzureWorkspace, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture
) -> None:
    azure.add_metric(azure.add_run("top"), "loss", [1.0])
    azure.add_run("between", parent="top")
    for number, time in zip(range(MOST_NESTED + 40), times(), strict=False):
        child = azure.add_run(f"child_{number}", parent="between", created=time)
        if number % 50 in (40, 41):
            azure.add_metric(child, "loss", [float(number)])
    with caplog.at_level(logging.WARNING):
        found = [metric.run for metric in workspace.metrics("top")]
    assert found == [
        "top",
        *(f"child_{number}" for number in range(41, MOST_NESTED + 40) if number % 50 in (40, 41)),
    ], "40 is left out"
    assert [record.getMessage() for record in caplog.records] == [
        f"himl omits the metrics of nested runs of 'top' beyond the newest {MOST_NESTED}"
    ]
    assert len(azure.requests("/children")) <= 4


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("fault", [Status(404, code="RESOURCE_DOES_NOT_EXIST"), Status(400, code="UserError")])
def test_parameters_come_from_run_history_if_mlflow_lacks_run(
    workspace: AzureWorkspace, azure: StagedWorkspace, fault: Status
) -> None:
    run = azure.add_run("r1", parameters={"lr": "0.1"})
    # Other clients may send such values as JSON.
    run.parameters |= {"layers": [1, 2], "none": None}  # type: ignore[dict-item]
    azure.stage.faults.add(fault, match="/runs/get")
    assert workspace.parameters("r1") == {"layers": "[1, 2]", "lr": "0.1", "none": ""}
