"""Metrics of a run as the metric service shows them, and as clients write them (wire document 6.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tests.servers.azureml.answers import bad_request, time_text
from tests.servers.azureml.queries import BadFilter, instant
from tests.servers.azureml.state import Json, Metric, Point, Run, new_id, now

KIND = "uxMetricType"
SCALAR = "azureml.v1.scalar"
NUMBERS = ("double", "float", "int", "none")


def listed(metric: Metric) -> Json:
    return {
        "metricKey": {"namespace": metric.namespace, "name": metric.name, "labels": None, "columnNames": None},
        "columns": columns_of(metric),
        "properties": {KIND: metric.kind},
    }


def with_points(run: Run, metric: Metric, points: Sequence[Point]) -> Json:
    """The metric with these of its rows."""
    value = [{"metricId": point.metric_id, "createdUtc": time_text(point.created), "step": point.step, "data": _written(point.data)} for point in points]
    head = {"dataContainerId": run.data_container_id, "name": metric.name, "columns": columns_of(metric)}
    return head | {"properties": {KIND: metric.kind}, "namespace": metric.namespace, "standardSchemaId": None, "dataLocation": None, "value": value}


def columns_of(metric: Metric) -> dict[str, str]:
    return metric.columns or {metric.name: "Double"}


def _written(data: Mapping[str, Any]) -> Json:
    return {name: number_text(value) if isinstance(value, float) else value for name, value in data.items()}


def number_text(value: float) -> float | str:
    """*value*, or the word that stands for it in JSON where JSON has no number: `NaN`, `Infinity`, `-Infinity`."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def keep(run: Run, document: Mapping[str, Any]) -> None:
    """Add the rows of a metric that a client sends. Raises ServiceError 400 for a row without its columns."""
    name = document.get("name")
    if not name:
        raise bad_request("A metric needs a name.")
    columns = document.get("columns") or {name: "Double"}
    points = [_point(row, columns) for row in document.get("value") or []]
    kind = (document.get("properties") or {}).get(KIND, SCALAR)
    metric = run.metrics.setdefault(name, Metric(name, kind, dict(columns), namespace=document.get("namespace")))
    metric.columns |= columns
    kept = {point.metric_id for point in metric.points}
    metric.points += [point for point in points if point.metric_id not in kept]  # sent again
    run.revision += 1


def fits(run: Run, document: Mapping[str, Any]) -> bool:
    """Whether a metric that a client sends has the types that rows of its name had before; numbers of all kinds are alike."""
    metric = run.metrics.get(document.get("name") or "")
    if metric is None:
        return True
    before = columns_of(metric)
    kinds = document.get("columns") or {metric.name: "Double"}
    return all(_type_of(before.get(name, kind)) == _type_of(kind) for name, kind in kinds.items())


def _type_of(kind: str) -> str:
    return "number" if kind.lower() in NUMBERS else kind.lower()


def _point(row: Mapping[str, Any], columns: Mapping[str, str]) -> Point:
    data = row.get("data") or {}
    if not set(data) <= set(columns):
        raise bad_request(f"The row has columns {sorted(data)}, the metric {sorted(columns)}.")
    try:
        created = instant(row["createdUtc"]) if row.get("createdUtc") else now()
    except BadFilter as error:
        raise bad_request(f"'{row['createdUtc']}' is no time.") from error
    return Point({name: _value(data[name], columns[name]) for name in data}, row.get("step"), created, row.get("metricId") or new_id())


def _value(value: Any, kind: str) -> Any:
    if kind.lower() in ("double", "float") and isinstance(value, (int, float, str)):
        return float(value)
    return value


def keep_number(run: Run, name: str, value: float, *, step: int, created: datetime) -> None:
    """Add one value of a scalar, as MLflow logs it."""
    metric = run.metrics.setdefault(name, Metric(name, SCALAR, {name: "Double"}))
    metric.points.append(Point({name: value}, step, created))
    run.revision += 1
