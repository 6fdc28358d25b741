"""Metrics, with every point, by the metric service (`metric/v2.0`): it keeps what azureml-core and MLflow logged alike.

A metric is a table: its columns are named, a row is a point with a step and a time. A scalar has one column. Of tables each
column of numbers is a metric called `NAME/COLUMN`. Images, texts and documents are no numbers: they lie among the run's
files and are left out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from himl_cli.core.runs import Metric, MetricPoint
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.answers import Page, pages, understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound
from himl_cli.workspaces.azure.requests.threads import ask_all
from himl_cli.workspaces.azure.requests.times import as_time

NUMBERS = {"double", "int", "bool", "float", "long"}
ROWS_WITHOUT_STEPS = {"azureml.v1.list", "azureml.v1.table"}
"""Kinds whose rows are counted: azureml-core logs them at once, without steps."""
_BEGINNING = datetime.fromtimestamp(0, timezone.utc)


def read_metrics(connection: Connection, run_ids: Sequence[str]) -> list[Metric]:
    """The metrics of these runs, run by run, by name; points by step, then time. A request a run, and one a metric, several at once."""
    named = ask_all(lambda run_id: list(_names(connection, run_id)), run_ids)
    wanted = [(run_id, name, namespace) for run_id, names in zip(run_ids, named, strict=True) for name, namespace in sorted(names, key=str)]
    rows = ask_all(lambda one: _series(connection, *one), wanted)
    return [metric for metrics in rows for metric in metrics]


def _names(connection: Connection, run_id: str) -> Iterator[tuple[str, str | None]]:
    """Name and namespace of each metric of the run that has numbers."""
    try:
        for page in _pages(connection, run_id, "list", {"metricNamespace": None}):
            with understood(connection.metric(""), "a metric in it"):
                told = [(metric["metricKey"], _has_numbers(metric)) for metric in page.items]
                names = [(str(key["name"]), key.get("namespace")) for key, is_wanted in told if is_wanted]
            yield from names
    except ServiceNotFound:  # the metric service has not heard of the run: nothing was logged
        return


def _has_numbers(metric: Mapping[str, Any]) -> bool:
    return any(str(kind).lower() in NUMBERS for kind in (metric.get("columns") or {}).values())


def _series(connection: Connection, run_id: str, name: str, namespace: str | None) -> list[Metric]:
    found = list(_pages(connection, run_id, "full", {"metricName": name, "metricNamespace": namespace, "startTime": None, "endTime": None}))
    with understood(connection.metric(""), f"metric '{name}'"):
        return list(_columns(found, run_id, name))


def _columns(found: Sequence[Page], run_id: str, name: str) -> Iterator[Metric]:
    told = [found[0].answer["columns"], *(page.answer.get("columns") for page in found[1:])]
    columns = {column: str(kind).lower() for one in told for column, kind in (one or {}).items()}
    counted = any((page.answer.get("properties") or {}).get("uxMetricType") in ROWS_WITHOUT_STEPS for page in found)
    rows = [row for page in found for row in page.items]
    for column in (column for column, kind in columns.items() if kind in NUMBERS):
        points = [point for place, row in enumerate(rows) if (point := _point(row, column, place if counted else None, only=len(columns) == 1)) is not None]
        if points:
            yield Metric(name if len(columns) == 1 else f"{name}/{column}", sorted(points, key=lambda point: (point.step, point.time)), run_id)


def _pages(connection: Connection, run_id: str, what: str, body: Mapping[str, Any]) -> Iterator[Page]:
    url = connection.metric(f"/runs/{quote(run_id, safe='')}/{what}")
    return pages(lambda token: connection.rest.post(url, json={**body, "continuationToken": token}), url, "metrics")


def _point(row: Mapping[str, Any], column: str, place: int | None, *, only: bool) -> MetricPoint | None:
    """The row's value in *column* as a point; None where it has none there."""
    data = row.get("data") or {}
    if column not in data or (data[column] is None and not only):
        return None
    step = place if place is not None else row.get("step")
    return MetricPoint(_number(data[column]), int(step or 0), as_time(row.get("createdUtc")) or _BEGINNING)


def _number(value: Any) -> float:
    """A number as JSON may hold it: NaN and the infinities come as words or as null."""
    try:
        return float("nan" if value is None else value)
    except (TypeError, ValueError):
        return float("nan")
