"""Runs and experiments as Azure ML's MLflow routes show them (wire document 6.2): one state, seen the MLflow way."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta, timezone

from tests.servers.azureml.metric_forms import number_text
from tests.servers.azureml.state import Experiment, Json, Metric, Point, Run, Workspace

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
STATUSES: Mapping[str, str] = {
    **dict.fromkeys(("NotStarted", "Unapproved", "Starting", "Provisioning", "Preparing", "Queued"), "SCHEDULED"),
    "Completed": "FINISHED",
    "Failed": "FAILED",
    "Canceled": "KILLED",
}
FROM_MLFLOW: Mapping[str, str] = {"RUNNING": "Running", "SCHEDULED": "Queued", "FINISHED": "Completed", "FAILED": "Failed", "KILLED": "Canceled"}
RUN_NAME = "mlflow.runName"
PARENT = "mlflow.parentRunId"


def status_of(run: Run) -> str:
    return STATUSES.get(run.status, "RUNNING")


def milliseconds(moment: datetime) -> int:
    """Since 1970, UTC."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def moment(milliseconds_since_1970: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds_since_1970)


def artifact_uri(workspace: Workspace, run: Run) -> str:
    """What azureml-mlflow takes apart to find the run in run history: it puts the experiment's id where a name belongs."""
    place = f"{workspace.path}/experiments/{run.experiment.experiment_id}/runs/{run.run_id}/artifacts"
    return f"azureml://{workspace.data_plane_host}/mlflow/v2.0{place}"


def info_form(workspace: Workspace, run: Run) -> Json:
    return {
        "run_id": run.run_id,
        "run_uuid": run.run_id,
        "run_name": run.display_name,
        "experiment_id": run.experiment.experiment_id,
        "user_id": run.user_name,
        "status": status_of(run),
        "start_time": milliseconds(run.started or run.created),
        "end_time": run.ended and milliseconds(run.ended),
        "artifact_uri": artifact_uri(workspace, run),
        "lifecycle_stage": "deleted" if run.hidden else "active",
    }


def run_form(workspace: Workspace, run: Run, *, without: Collection[str] = ()) -> Json:
    """The run with its parameters, its tags and the last value of each metric but some."""
    data = {
        "metrics": [_value_form(name, point) for name, point in last_values(run).items() if name not in without],
        "params": _pairs(run.parameters),
        "tags": _pairs(tags_of(run)),
    }
    return {"info": info_form(workspace, run), "data": data, "inputs": {}}


def tags_of(run: Run) -> dict[str, str]:
    """The run's tags with those that the service makes of its record."""
    made = {"mlflow.rootRunId": run.root_id, RUN_NAME: run.display_name, "mlflow.user": run.user_name}
    if run.parent_id:
        made[PARENT] = run.parent_id
    return run.tags | made


def experiment_form(workspace: Workspace, experiment: Experiment) -> Json:
    return {
        "experiment_id": experiment.experiment_id,
        "name": experiment.name,
        "artifact_location": "",
        "lifecycle_stage": "deleted" if experiment.archived else "active",
        "creation_time": milliseconds(experiment.created),
        "tags": _pairs(experiment.tags),
    }


def last_values(run: Run) -> dict[str, Point]:
    """Of each metric that MLflow can show (one number a row), the row with the highest step, the latest of those."""
    found = {metric.name: _last(metric) for metric in list(run.metrics.values())}
    return {name: point for name, point in found.items() if point is not None}


def _last(metric: Metric) -> Point | None:
    """Remembered for as long as no row comes: a search looks at every run of an experiment."""
    count = len(metric.points)
    if metric.last is None or metric.last[0] != count:
        points = numbers(metric)
        if not points:
            return None
        metric.last = count, max(points, key=lambda point: (point.step or 0, point.created))
    return metric.last[1]


def numbers(metric: Metric) -> list[Point]:
    """The rows of a metric that are one number under the metric's own name."""
    return [point for point in metric.points if set(point.data) == {metric.name} and isinstance(point.data[metric.name], (int, float))]


def point_form(metric: Metric, point: Point) -> Json:
    return _value_form(metric.name, point)


def _value_form(name: str, point: Point) -> Json:
    value = number_text(float(point.data[name]))
    return {"key": name, "value": value, "timestamp": milliseconds(point.created), "step": point.step or 0}


def _pairs(values: Mapping[str, str]) -> list[Json]:
    return [{"key": key, "value": value} for key, value in values.items()]
