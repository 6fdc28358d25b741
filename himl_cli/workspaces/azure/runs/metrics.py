"""Metrics, with every point, by the metric service (`metric/v2.0`): it keeps what azureml-core and MLflow logged alike.

A metric is a table: its columns are named, a row is a point with a step and a time. A scalar has one column. Of tables
each column is a metric called `NAME/COLUMN`, also where there is only one. Texts are kept in the same way and told
apart by the column's type; images and documents lie among the run's files and are left out here.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import chain, islice
from typing import Any
from urllib.parse import quote

from himl_cli.core.results import Series, Value
from himl_cli.core.runs import LoggedValues, Metric, MetricPoint, TextPoint, Texts
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.errors import ServiceNotFound
from himl_cli.workspaces.azure.http import MANY_AT_ONCE, ask_all
from himl_cli.workspaces.azure.responses import Page, as_time, pages, understood
from himl_cli.workspaces.azure.runs.history import RunFacts, RunHistory

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


def _read(connection: Connection, run_ids: Sequence[str], kinds: set[str]) -> list[Metric | Texts]:
    """What has a column of one of *kinds*."""
    wanted = [one for one in list_metrics(connection, run_ids) if kinds & set(one.columns.values())]
    order = {run_id: place for place, run_id in enumerate(run_ids)}
    wanted.sort(key=lambda one: (order[one.run], str((one.name, one.namespace))))

    def read(one: Listed) -> list[Metric | Texts]:
        found = list(_full_pages(connection, one))
        with understood(connection.service("metric"), f"metric '{one.name}'"):
            return list(_columns(found, one.run, one.name))

    return [column for columns in ask_all(read, wanted) for column in columns]


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
    url = connection.service("metric", f"/runs/{quote(run_id, safe='')}/{what}")
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


ARTIFACTS = {"artifact"}
ARTIFACT_PLACE = "aml://artifactId/"
LIST = "azureml.v1.list"


@dataclass(frozen=True)
class Listed:
    """A metric that a run has: what it is called, its columns with their types in small letters, its kind."""

    run: str
    name: str
    namespace: str | None
    columns: Mapping[str, str]
    kind: str

    @property
    def is_scalar(self) -> bool:
        """Whether it is single numbers with a step, which MLflow tells."""
        return (
            [*self.columns] == [self.name]
            and self.columns[self.name] in NUMBERS
            and self.kind not in ROWS_WITHOUT_STEPS
        )

    @property
    def is_table(self) -> bool:
        return len(self.columns) > 1 or self.kind == TABLE


@dataclass
class Told:
    """What `RunResults` has beside plain series, by name; a list of numbers is a series."""

    last: dict[str, Value] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    texts: dict[str, Sequence[TextPoint]] = field(default_factory=dict)
    tables: dict[str, dict[str, Sequence[Value]]] = field(default_factory=dict)
    lists: dict[str, Sequence[Value]] = field(default_factory=dict)
    images: dict[str, Sequence[str]] = field(default_factory=dict)


def list_metrics(connection: Connection, run_ids: Sequence[str]) -> list[Listed]:
    """All metrics of these runs; a request a run."""
    return [
        one
        for found in ask_all(lambda run_id: _listed(connection, run_id), run_ids, at_once=MANY_AT_ONCE)
        for one in found
    ]


def read_told(connection: Connection, listed: Iterable[Listed], wanted: Callable[[str], bool]) -> dict[str, Told]:
    """Those of *listed* of which the name (or that of a column) is wanted, by run; a request each."""
    chosen = [
        one for one in listed if wanted(one.name) or any(wanted(f"{one.name}/{column}") for column in one.columns)
    ]
    found: dict[str, Told] = {}
    read = ask_all(lambda one: list(_full_pages(connection, one)), chosen, at_once=MANY_AT_ONCE)
    for one, full in zip(chosen, read, strict=True):
        with understood(connection.service("metric"), f"metric '{one.name}'"):
            _add(found.setdefault(one.run, Told()), one, [row for page in full for row in page.items])
    return found


def _listed(connection: Connection, run_id: str) -> list[Listed]:
    found: list[Listed] = []
    try:
        for page in metric_pages(connection, run_id, "list", {"metricNamespace": None}):
            with understood(connection.service("metric"), "a metric in it"):
                for told in page.items:
                    key = told["metricKey"]
                    columns = {str(column): str(kind).lower() for column, kind in (told.get("columns") or {}).items()}
                    found.append(
                        Listed(
                            run_id,
                            str(key["name"]),
                            key.get("namespace"),
                            columns,
                            str((told.get("properties") or {}).get("uxMetricType") or ""),
                        )
                    )
    except ServiceNotFound:  # the metric service has not heard of the run: nothing was logged
        return []
    return found


def _full_pages(connection: Connection, one: Listed) -> Iterator[Page]:
    asked = {"metricName": one.name, "metricNamespace": one.namespace, "startTime": None, "endTime": None}
    return metric_pages(connection, one.run, "full", asked)


def _add(told: Told, one: Listed, rows: Sequence[Mapping[str, Any]]) -> None:
    if one.is_table:
        told.tables[one.name] = {
            column: [_value(row, column, kind) for row in rows] for column, kind in one.columns.items()
        }
        for column, values in told.tables[one.name].items():
            last = next((value for value in reversed(values) if value is not None), None)
            if last is not None:
                told.last[f"{one.name}/{column}"] = last
        return
    for column, kind in one.columns.items():
        _add_values(told, one, kind, rows, [_value(row, column, kind) for row in rows])


def _add_values(told: Told, one: Listed, kind: str, rows: Sequence[Mapping[str, Any]], values: Sequence[Value]) -> None:
    """The one column of a metric that is no table."""
    kept = [(row, value) for row, value in zip(rows, values, strict=True) if value is not None]
    if kind in ARTIFACTS:
        told.images[one.name] = [_file_name(str(value)) for _, value in kept]
        told.last |= {one.name: told.images[one.name][-1]} if kept else {}
    elif kind in NUMBERS and kept:
        told.series[one.name] = _as_series(kept, is_counted=one.kind in ROWS_WITHOUT_STEPS)
        told.last[one.name] = told.series[one.name].values[-1]
    elif kind in TEXTS and one.kind == LIST:
        told.lists[one.name] = list(values)
        told.last |= {one.name: kept[-1][1]} if kept else {}
    elif kind in TEXTS and kept:
        points = sorted(
            (TextPoint(str(value), as_step(row.get("step")), time_of(row)) for row, value in kept),
            key=lambda point: (point.step, point.time),
        )
        told.texts[one.name] = points
        told.last[one.name] = points[-1].value


def _as_series(kept: Sequence[tuple[Mapping[str, Any], Value]], *, is_counted: bool) -> Series:
    """Rows with their values as a series; those that came at once are counted."""
    points = [
        (place if is_counted else as_step(row.get("step")), time_of(row).timestamp(), as_number(value))
        for place, (row, value) in enumerate(kept)
    ]
    points.sort(key=lambda point: point[:2])
    return Series(
        array("q", [point[0] for point in points]),
        array("d", [point[2] for point in points]),
        array("d", [point[1] for point in points]),
    )


def _value(row: Mapping[str, Any], column: str, kind: str) -> Value:
    """The row's value in *column*, None where it has none; numbers that JSON has no word for come as words."""
    value = (row.get("data") or {}).get(column)
    if value is None or isinstance(value, bool):
        return value
    if kind in NUMBERS:
        return value if isinstance(value, int) and kind in ("int", "long") else as_number(value)
    return str(value)


def _file_name(place: str) -> str:
    """The name among the run's files of what lies at `aml://artifactId/ORIGIN/CONTAINER/NAME`; a place of another form
    as it is."""
    if not place.startswith(ARTIFACT_PLACE):
        return place
    parts = place.removeprefix(ARTIFACT_PLACE).split("/", 2)
    return parts[2] if len(parts) == 3 and parts[1].startswith("dcid.") else place.removeprefix(ARTIFACT_PLACE)


log = logging.getLogger(__name__)

MOST_NESTED = 500
"""Each nested run takes requests of its own, for what is nested in it and for its metrics: beyond this, they are left
out, and that is said."""


def with_nested(history: RunHistory, run: RunFacts) -> list[str]:
    """The ids of the run and of the runs nested in it, oldest first on each level.

    A request a run, `MOST_NESTED` runs at most: the newest of each parent. A warning says it where there are more.
    """
    found = dict.fromkeys([run.id])
    parents = [] if run.starts_jobs else [run.id]
    while parents:
        left = MOST_NESTED + 1 - len(found)
        below = ask_all(lambda parent: _children(history, parent, most=left + 1), parents)  # noqa: B023
        parents = [child for children in below for child in reversed(children) if child not in found]
        if len(parents) > left:
            log.warning("run '%s' has more than %d nested runs; the others' metrics are left out", run.id, MOST_NESTED)
            return [*found, *parents[-left:]] if left else [*found]
        found |= dict.fromkeys(parents)
    return list(found)


def _children(history: RunHistory, parent: str, *, most: int) -> list[str]:
    return [child["runId"] for child in islice(chain.from_iterable(history.children(parent)), most)]
