"""Metrics and parameters of runs of an Azure ML workspace."""

from __future__ import annotations

import logging
import math
import threading
from datetime import timedelta
from typing import Any

import pytest

from himl_cli.core.logged import Metric
from himl_cli.workspaces.azure.run_metrics import MOST_NESTED
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.state import Point
from tests.support.azure import times

READS = r"/metric/"


def series(metrics: object) -> dict[tuple[str, str], list[tuple[int, float]]]:
    assert isinstance(metrics, list)
    return {(metric.run, metric.name): [(point.step, point.value) for point in metric.points] for metric in metrics}


def test_every_point_comes_with_its_step_and_time(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    run = azure.add_run("r1")
    azure.add_metric(run, "loss", [1.0, 0.5, 0.25], steps=[10, 20, 30])
    (metric,) = workspace.metrics("r1")
    assert isinstance(metric, Metric)
    started = run.started
    assert started is not None
    assert [(point.step, point.value, point.time) for point in metric.points] == [
        (10, 1.0, started), (20, 0.5, started + timedelta(seconds=1)), (30, 0.25, started + timedelta(seconds=2)),
    ]  # fmt: skip
    assert metric.last.value == 0.25


def test_points_come_by_step_then_time(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    run = azure.add_run("r1")
    azure.add_metric(run, "loss", [3.0, 1.0, 2.0, 1.5], steps=[3, 1, 2, 1])
    assert series(workspace.metrics("r1")) == {("r1", "loss"): [(1, 1.0), (1, 1.5), (2, 2.0), (3, 3.0)]}


def test_numbers_that_are_none_are_told_as_they_are(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    run = azure.add_run("r1")
    azure.add_metric(run, "loss", [1.0, "NaN", "Infinity", "-Infinity"])
    run.metrics["loss"].points.append(Point({"loss": None}, step=4, created=run.created + timedelta(hours=1)))
    (metric,) = workspace.metrics("r1")
    values = [point.value for point in metric.points]
    assert values[0] == 1.0
    assert math.isnan(values[1])
    assert values[2:4] == [math.inf, -math.inf]
    assert math.isnan(values[4])


def test_list_table_and_flag_metrics_become_number_series(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    """Images and words are left out."""
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


@pytest.mark.parametrize("name", ["a/b", "train loss", "größe", "50%", "x?y#z"])
def test_a_metric_of_an_odd_name_is_read(workspace: AzureWorkspace, azure: StagedWorkspace, name: str) -> None:
    azure.add_metric(azure.add_run("r1"), name, [1.0])
    assert [metric.name for metric in workspace.metrics("r1")] == [name]


def test_small_pages_of_the_service_lose_no_metric_and_no_point(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.state.page_size = 3
    run = azure.add_run("r1")
    for name in "abcdefgh":
        azure.add_metric(run, name, [float(number) for number in range(10)])
    assert series(workspace.metrics("r1")) == {("r1", name): [(number, float(number)) for number in range(10)] for name in "abcdefgh"}


def test_many_metrics_take_a_request_each_and_leave_no_thread(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    run = azure.add_run("r1")
    for number in range(30):
        azure.add_metric(run, f"m{number:02}", [float(number)])
    assert [metric.name for metric in workspace.metrics("r1")] == [f"m{number:02}" for number in range(30)]
    assert len(azure.requests(READS)) == 31
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("himl-ask")] == []


def test_runs_nested_in_the_run_come_with_it_at_any_depth(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    for run_id, parent in (("r1", None), ("child_1", "r1"), ("child_2", "r1"), ("grandchild", "child_1"), ("stranger", None)):
        azure.add_metric(azure.add_run(run_id, parent=parent), "loss", [1.0])
    assert [metric.run for metric in workspace.metrics("r1")] == ["r1", "child_1", "child_2", "grandchild"]


@pytest.mark.parametrize(
    "fields",
    [
        {"run_type": "hyperdrive"},
        {"run_type": "azureml.PipelineRun"},
        {"run_type": "HTTP", "properties": {"azureml.runsource": "azureml.PipelineRun"}},
        {"run_type": "automl"},
        {"properties": {"runTemplate": "HyperDrive"}},
    ],
)
def test_what_a_sweep_or_a_pipeline_started_is_not_nested(workspace: AzureWorkspace, azure: StagedWorkspace, fields: dict[str, Any]) -> None:
    azure.add_metric(azure.add_run("sweep", **fields), "best", [1.0])
    for number in range(5):
        azure.add_metric(azure.add_run(f"sweep_{number}", parent="sweep"), "loss", [1.0])
    assert series(workspace.metrics("sweep")) == {("sweep", "best"): [(0, 1.0)]}
    assert len(azure.requests(READS)) == 2


@pytest.mark.parametrize("depth", [1, 2])
def test_metrics_cover_only_newest_nested_runs_with_warning(
    workspace: AzureWorkspace, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture, depth: int
) -> None:
    """At most four requests list the nested runs."""
    azure.add_metric(azure.add_run("top"), "loss", [1.0])
    parent = "top" if depth == 1 else azure.add_run("between", parent="top").run_id
    for number, time in zip(range(MOST_NESTED + 40), times(), strict=False):
        azure.add_metric(azure.add_run(f"child_{number}", parent=parent, created=time), "loss", [float(number)])
    with caplog.at_level(logging.WARNING):
        found = [metric.run for metric in workspace.metrics("top")]
    taken = MOST_NESTED + 1 - depth
    assert found == ["top", *(f"child_{number}" for number in range(MOST_NESTED + 40 - taken, MOST_NESTED + 40))]
    assert [record.getMessage() for record in caplog.records] == [f"run 'top' has more than {MOST_NESTED} nested runs; the others' metrics are left out"]
    assert len(azure.requests("/children")) <= 4


def test_as_many_nested_runs_as_are_taken_are_all_of_them(workspace: AzureWorkspace, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture) -> None:
    azure.add_run("top")
    for number in range(MOST_NESTED):
        azure.add_run(f"child_{number}", parent="top")
    assert workspace.metrics("top") == []
    assert len(azure.requests("/metric/")) == MOST_NESTED + 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "fields",
    [
        {"run_type": "azureml.StepRun", "properties": {"azureml.runsource": "azureml.StepRun", "azureml.pipelinerunid": "p"}},
        {"properties": {"runTemplate": "automl_child", "azureml.runsource": "automl"}},
        {"properties": {"runTemplate": None, "azureml.runsource": None, "DataPrepJsonString": None}, "run_type": None},
    ],
)
def test_a_step_or_a_trial_may_have_nested_runs(workspace: AzureWorkspace, azure: StagedWorkspace, fields: dict[str, Any]) -> None:
    azure.add_run("step", **fields)
    azure.add_metric(azure.add_run("nested", parent="step"), "loss", [1.0])
    assert [metric.run for metric in workspace.metrics("step")] == ["nested"]


def test_run_unknown_to_metric_service_has_no_metrics(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("r1")
    azure.stage.faults.add(Status(404, code="UserError"), match="/metric/.*/list")
    assert workspace.metrics("r1") == []


def test_parameters_are_those_of_the_run_history_and_of_mlflow(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("r1", parameters={"lr": "0.1", "name": "größe"})
    assert workspace.parameters("r1") == {"lr": "0.1", "name": "größe"}


def test_parameters_come_from_run_history_if_mlflow_lacks_run(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    run = azure.add_run("r1", parameters={"lr": "0.1"})
    run.parameters |= {"layers": [1, 2], "none": None}  # type: ignore[dict-item]  # what a client may have sent as JSON
    azure.stage.faults.add(Status(404, code="RESOURCE_DOES_NOT_EXIST"), match="/runs/get")
    assert workspace.parameters("r1") == {"layers": "[1, 2]", "lr": "0.1", "none": ""}


def test_parameters_survive_an_id_that_mlflow_does_not_take(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("r1", parameters={"lr": "0.1"})
    azure.stage.faults.add(Status(400, code="UserError"), match="/runs/get")
    assert workspace.parameters("r1") == {"lr": "0.1"}
