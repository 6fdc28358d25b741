"""Metrics, with every point, by the metric service (`metric/v2.0`): it keeps what azureml-core and MLflow logged alike.

A metric is a table: its columns are named, a row is a point with a step and a time. A scalar has one column. Of tables
each column is a metric called `NAME/COLUMN`, also where there is only one. Texts are kept in the same way and told
apart by the column's type; images and documents lie among the run's files and are left out here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from himl_cli.core.runs import LoggedValues, Metric, MetricPoint, TextPoint, Texts
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.answers import Page, pages, understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound
from himl_cli.workspaces.azure.requests.threads import ask_all
from himl_cli.workspaces.azure.requests.times import as_time

NUMBERS = {"double", "int", "bool", "float", "long"}
TEXTS = {"string"}
TABLE = "azureml.v1.table"
ROWS_WITHOUT_STEPS = {"azureml.v1.list", TABLE}
"""Kinds whose rows are counted: azureml-core logs them at once, without steps."""
_BEGINNING = datetime.fromtimestamp(0, timezone.utc)


def read_metrics(connection: Connection, run_ids: Sequence[str]) -> list[Metric]:
    """The metrics of these runs, run by run, by name; points by step, then time. A request a run, and one a metric,
    several at once."""
    return [one for one in _read(connection, run_ids, NUMBERS) if isinstance(one, Metric)]


def read_values(connection: Connection, run_ids: Sequence[str]) -> LoggedValues:
    """As `read_metrics`, and the texts; a request more for each name that has nothing but texts."""
    found = _read(connection, run_ids, NUMBERS | TEXTS)
    return LoggedValues(
        [one for one in found if isinstance(one, Metric)], [one for one in found if isinstance(one, Texts)]
    )


def _read(connection: Connection, run_ids: Sequence[str], kinds: Collection[str]) -> list[Metric | Texts]:
    """What has a column of one of *kinds*."""
    named = ask_all(lambda run_id: list(_names(connection, run_id, kinds)), run_ids)
    wanted = [
        (run_id, name, namespace)
        for run_id, names in zip(run_ids, named, strict=True)
        for name, namespace in sorted(names, key=str)
    ]
    rows = ask_all(lambda one: _series(connection, *one), wanted)
    return [one for columns in rows for one in columns]


def _names(connection: Connection, run_id: str, kinds: Collection[str]) -> Iterator[tuple[str, str | None]]:
    """Name and namespace of each metric of the run that has a column of one of *kinds*."""
    try:
        for page in metric_pages(connection, run_id, "list", {"metricNamespace": None}):
            with understood(connection.metric(""), "a metric in it"):
                told = [(metric["metricKey"], _has(metric, kinds)) for metric in page.items]
                names = [(str(key["name"]), key.get("namespace")) for key, is_wanted in told if is_wanted]
            yield from names
    except ServiceNotFound:  # the metric service has not heard of the run: nothing was logged
        return


def _has(metric: Mapping[str, Any], kinds: Collection[str]) -> bool:
    return any(str(kind).lower() in kinds for kind in (metric.get("columns") or {}).values())


def _series(connection: Connection, run_id: str, name: str, namespace: str | None) -> list[Metric | Texts]:
    found = list(
        metric_pages(
            connection,
            run_id,
            "full",
            {"metricName": name, "metricNamespace": namespace, "startTime": None, "endTime": None},
        )
    )
    with understood(connection.metric(""), f"metric '{name}'"):
        return list(_columns(found, run_id, name))


def _columns(found: Sequence[Page], run_id: str, name: str) -> Iterator[Metric | Texts]:
    told = [found[0].answer["columns"], *(page.answer.get("columns") for page in found[1:])]
    columns = {column: str(kind).lower() for one in told for column, kind in (one or {}).items()}
    meant = {(page.answer.get("properties") or {}).get("uxMetricType") for page in found}
    is_counted, is_table = bool(meant & ROWS_WITHOUT_STEPS), len(columns) > 1 or TABLE in meant
    rows = [
        (row, place if is_counted else as_step(row.get("step")))
        for place, row in enumerate(row for page in found for row in page.items)
    ]
    for column, kind in columns.items():
        called = f"{name}/{column}" if is_table else name
        if kind in NUMBERS:
            points = [
                point for row, step in rows if (point := _point(row, column, step, only=len(columns) == 1)) is not None
            ]
            if points:
                yield Metric(called, sorted(points, key=lambda point: (point.step, point.time)), run_id)
        elif kind in TEXTS:
            texts = [
                TextPoint(str(text), step, time_of(row))
                for row, step in rows
                if (text := (row.get("data") or {}).get(column)) is not None
            ]
            if texts:
                yield Texts(called, sorted(texts, key=lambda point: (point.step, point.time)), run_id)


def metric_pages(connection: Connection, run_id: str, what: str, body: Mapping[str, Any]) -> Iterator[Page]:
    url = connection.metric(f"/runs/{quote(run_id, safe='')}/{what}")
    return pages(lambda token: connection.rest.post(url, json={**body, "continuationToken": token}), url, "metrics")


def _point(row: Mapping[str, Any], column: str, step: int, *, only: bool) -> MetricPoint | None:
    """The row's value in *column* as a point; None where it has none there."""
    data = row.get("data") or {}
    if column not in data or (data[column] is None and not only):
        return None
    return MetricPoint(as_number(data[column]), step, time_of(row))


def time_of(row: Mapping[str, Any]) -> datetime:
    return as_time(row.get("createdUtc")) or _BEGINNING


def as_number(value: Any) -> float:
    """A number as JSON may hold it: NaN and the infinities come as words or as null. NaN for what is no number that
    floating point can say."""
    try:
        return float("nan" if value is None else value)
    except (OverflowError, TypeError, ValueError):
        return float("nan")


def as_step(value: Any) -> int:
    """A step, 0 where none is told. Raises ValueError for what is no whole number of 64 bits."""
    step = int(value or 0)
    if step.bit_length() > 63:
        raise ValueError("no step")
    return step
