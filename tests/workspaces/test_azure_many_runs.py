"""How many requests reading many runs of Azure ML takes, and what is done where the service cannot what it might."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from himl_cli.core.logged import RunResults
from himl_cli.core.runs import Run, RunQuery
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support.azure import opened

SERVICES = r"/(mlflow|metric|history)/"
NAMES = [f"metric {number}" for number in range(10)]


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    with opened(azure_environment, project) as workspace:
        yield workspace


def swept(azure: StagedWorkspace, count: int, names: Sequence[str] = NAMES, points: int = 2) -> None:
    add_sweep(azure, "sweep", [{"lr": number} for number in range(count)], lambda index, _: {name: [float(index)] * points for name in names})


def children(workspace: AzureWorkspace) -> list[Run]:
    return list(workspace.runs(RunQuery(parent="sweep")))


def read(workspace: AzureWorkspace, runs: Sequence[Run], *, whole: bool = False) -> dict[str, RunResults]:
    return dict(workspace.results(runs, wanted=lambda name: True, whole=whole))


def asked(azure: StagedWorkspace) -> list[str]:
    """The requests to the workspace's services, since the last time."""
    found = azure.requests(SERVICES)
    azure.stage.log.clear()
    return found


def test_two_hundred_trials_cost_a_handful_of_requests(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    swept(azure_environment, 200)
    runs = children(workspace)
    asked(azure_environment)
    found = read(workspace, runs)
    assert {run_id: results.last for run_id, results in found.items()} == {f"sweep_{index}": dict.fromkeys(NAMES, float(index)) for index in range(200)}
    assert len(asked(azure_environment)) <= 6 + 200 // azure_environment.state.page_size


def test_bulk_history_takes_one_request_per_metric(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    swept(azure_environment, 60)
    azure_environment.state.bulk_history = True
    runs = children(workspace)
    asked(azure_environment)
    found = read(workspace, runs, whole=True)
    assert all(list(results.series["metric 3"].steps) == [0, 1] for results in found.values())
    requests = asked(azure_environment)
    assert sum("get-history" in line for line in requests) == len(NAMES)
    assert len(requests) <= 60 + len(NAMES) + 4  # whether a run has tables is a request a run


def test_where_it_cannot_that_is_asked_once(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    swept(azure_environment, 5)
    found = read(workspace, children(workspace), whole=True)
    assert all(len(results.series) == len(NAMES) for results in found.values())
    requests = asked(azure_environment)
    assert sum("get-history-bulk" in line for line in requests) == 1
    assert sum("get-history?" in line for line in requests) == 5 * len(NAMES)


def test_more_points_than_fit_into_an_answer_all_come(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    swept(azure_environment, 4, ["loss"], points=9000)
    azure_environment.state.bulk_history = True
    found = read(workspace, children(workspace), whole=True)
    assert {len(results.series["loss"].values) for results in found.values()} == {9000}


def test_metric_history_in_small_pages_is_read_completely(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    azure_environment.state.most_history = 999
    azure_environment.state.page_size = 3
    swept(azure_environment, 8, ["loss"], points=7)
    found = read(workspace, children(workspace), whole=True)
    assert {run_id: list(results.series["loss"].values) for run_id, results in found.items()} == {f"sweep_{index}": [float(index)] * 7 for index in range(8)}


def test_tables_of_one_are_looked_for_in_all(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    swept(azure_environment, 12, ["loss"])
    for index in range(12):
        azure_environment.add_metric(azure_environment.state.runs[f"sweep_{index}"], "word", [f"w{index}"])
    found = read(workspace, children(workspace))
    assert {run_id: results.last["word"] for run_id, results in found.items()} == {f"sweep_{index}": f"w{index}" for index in range(12)}


def test_a_search_that_takes_no_lists_of_ids_is_done_without(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    runs = [azure_environment.add_run(f"run_{number}", "train") for number in range(5)]
    for number, run in enumerate(runs):
        azure_environment.add_metric(run, "loss", [float(number), math.nan])
    azure_environment.stage.faults.add(Status(400, code="UserError", message="no IN"), "/runs/search", times=None)
    found = read(workspace, list(workspace.runs(RunQuery("train"))))
    assert {run_id: repr(dict(results.last)) for run_id, results in found.items()} == {f"run_{number}": "{'loss': nan}" for number in range(5)}


def nest(azure: StagedWorkspace, parent: str, name: str, metric: str = "fold") -> None:
    """A run that a script nested in its own, with a metric."""
    azure.add_metric(azure.add_run(name, "tuning", parent=parent), metric, [0.5])


def test_what_scripts_nested_in_trials_counts_for_these(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    swept(azure_environment, 5, ["loss"])
    nest(azure_environment, "sweep_2", "child")
    nest(azure_environment, "child", "grandchild", "deep")
    found = read(workspace, children(workspace)[:4])  # 4, 3, 2, 1: the siblings that are left out stay out
    assert {run_id: dict(results.last) for run_id, results in found.items() if len(results.last) > 1} == {"sweep_2": {"loss": 2.0, "fold": 0.5, "deep": 0.5}}
    assert len(found) == 4


@pytest.mark.parametrize("route", ["/runs/search", ""], ids=["the history tells them", "nobody does"])
def test_nested_runs_where_mlflow_does_not_take_the_search(
    azure_environment: StagedWorkspace, workspace: AzureWorkspace, caplog: pytest.LogCaptureFixture, route: str
) -> None:
    swept(azure_environment, 5, ["loss"])
    nest(azure_environment, "sweep_2", "child")
    runs = children(workspace)
    for refused in ["/runs/search", *([] if route else ["runs:query"])]:
        azure_environment.stage.faults.add(Status(400, code="UserError", message="no such field"), refused, times=None)
    found = read(workspace, runs)
    assert {run_id: results.last["loss"] for run_id, results in found.items()} == {f"sweep_{index}": float(index) for index in range(5)}
    assert found["sweep_2"].last.get("fold") == (0.5 if route else None)
    assert ("what they logged is missing" in caplog.text) is not bool(route)


@pytest.mark.parametrize("lacking", [["loss", "accuracy"], ["accuracy"]], ids=["all of them", "one"])
@pytest.mark.parametrize("whole", [False, True])
def test_metrics_that_a_search_does_not_tell_are_not_lost(
    azure_environment: StagedWorkspace, workspace: AzureWorkspace, lacking: list[str], *, whole: bool
) -> None:
    swept(azure_environment, 6, ["loss", "accuracy"], points=3)
    azure_environment.state.search_lacks = lacking
    found = read(workspace, children(workspace), whole=whole)
    assert {run_id: dict(results.last) for run_id, results in found.items()} == {
        f"sweep_{index}": {"loss": float(index), "accuracy": float(index)} for index in range(6)
    }
    assert not whole or all(len(results.series[name].values) == 3 for results in found.values() for name in ("loss", "accuracy"))


def test_runs_that_never_began_are_not_asked_for_metrics(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    swept(azure_environment, 20, [])
    for run in list(azure_environment.state.runs.values())[5:]:
        run.started = None
    runs = children(workspace)
    asked(azure_environment)
    assert all(not results.last for results in read(workspace, runs).values())
    assert sum("/list" in line for line in asked(azure_environment)) <= 8


def test_runs_unknown_to_mlflow_are_read_from_metric_service(azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    swept(azure_environment, 1, ["loss"])
    for route in ("/runs/search", "/runs/get"):
        azure_environment.stage.faults.add(Status(404, code="UserError", message="no such run"), route, times=None)
    assert read(workspace, children(workspace))["sweep_0"].last == {"loss": 0.0}
