"""Metrics, with every point, by the metric service (`metric/v2.0`): it keeps what azureml-core and MLflow logged alike.

A metric is a table: its columns are named, a row is a point with a step and a time. A scalar has one column. Of tables
each column is a metric called `NAME/COLUMN`, also where there is only one. Texts are kept in the same way and told
apart by the column's type; images and documents lie among the run's files and are left out here.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain, islice
from typing import Any
from urllib.parse import quote

from himl_cli.core.results import RunResults, Series, Value
from himl_cli.core.runs import LoggedValues, Metric, MetricPoint, TextPoint, Texts
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import MANY_AT_ONCE, ask_all
from himl_cli.workspaces.azure.responses import Page, as_time, pages, understood
from himl_cli.workspaces.azure.runs.history import RunFacts, RunHistory
from himl_cli.workspaces.azure.service_errors import ServiceNotFound

log = logging.getLogger(__name__)

NUMBERS = {"double", "int", "bool", "float", "long"}
TEXTS = {"string"}
ARTIFACTS = {"artifact"}
ARTIFACT_PLACE = "aml://artifactId/"
LIST, TABLE = "azureml.v1.list", "azureml.v1.table"
ROWS_WITHOUT_STEPS = {LIST, TABLE}
"""Kinds whose rows are counted: azureml-core logs them at once, without steps."""
_BEGINNING = datetime.fromtimestamp(0, timezone.utc)


def read_values(connection: Connection, run_ids: Sequence[str], *, texts: bool = True) -> LoggedValues:
    """The metrics of these runs, run by run, by name, points by step, then time; and the *texts*. A request a run, and
    one a metric, several at once."""
    kinds = NUMBERS | (TEXTS if texts else set())
    wanted = [one for one in list_metrics(connection, run_ids) if kinds & set(one.columns.values())]
    order = {run_id: place for place, run_id in enumerate(run_ids)}
    wanted.sort(key=lambda one: (order[one.run], str((one.name, one.namespace))))

    def read(one: Listed) -> list[Metric | Texts]:
        found = list(_full_pages(connection, one))
        with understood(connection.service("metric"), f"metric '{one.name}'"):
            return list(_columns(found, one.run, one.name))

    found = [column for columns in ask_all(read, wanted) for column in columns]
    return LoggedValues(
        [one for one in found if isinstance(one, Metric)],
        [one for one in found if isinstance(one, Texts) and texts],
    )


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
        filled = [(row, step) for row, step in rows if (row.get("data") or {}).get(column) is not None]
        if kind in NUMBERS:
            if len(columns) == 1:  # NaN comes as null
                filled = [(row, step) for row, step in rows if column in (row.get("data") or {})]
            points = [MetricPoint(as_number(row["data"][column]), step, time_of(row)) for row, step in filled]
            if points:
                yield Metric(called, sorted(points, key=lambda point: (point.step, point.time)), run_id)
        elif kind in TEXTS and filled:
            texts = [TextPoint(str(row["data"][column]), step, time_of(row)) for row, step in filled]
            yield Texts(called, sorted(texts, key=lambda point: (point.step, point.time)), run_id)


def metric_pages(connection: Connection, run_id: str, what: str, body: Mapping[str, Any]) -> Iterator[Page]:
    url = connection.service("metric", f"/runs/{quote(run_id, safe='')}/{what}")
    return pages(lambda token: connection.rest.post(url, json={**body, "continuationToken": token}), url, "metrics")


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


def list_metrics(connection: Connection, run_ids: Sequence[str]) -> list[Listed]:
    """All metrics of these runs; a request a run."""

    def listed(run_id: str) -> list[Listed]:
        found: list[Listed] = []
        try:
            for page in metric_pages(connection, run_id, "list", {"metricNamespace": None}):
                with understood(connection.service("metric"), "a metric in it"):
                    for one in page.items:
                        key, kind = one["metricKey"], (one.get("properties") or {}).get("uxMetricType")
                        columns = {str(name): str(type).lower() for name, type in (one.get("columns") or {}).items()}
                        found.append(Listed(run_id, str(key["name"]), key.get("namespace"), columns, str(kind or "")))
        except ServiceNotFound:  # the metric service has not heard of the run: nothing was logged
            return []
        return found

    return [one for found in ask_all(listed, run_ids, at_once=MANY_AT_ONCE) for one in found]


def read_results(
    connection: Connection, listed: Iterable[Listed], wanted: Callable[[str], bool]
) -> dict[str, RunResults]:
    """Those of *listed* of which the name (or that of a column) is wanted, by run; a request each."""
    chosen = [
        one for one in listed if wanted(one.name) or any(wanted(f"{one.name}/{column}") for column in one.columns)
    ]
    found: dict[str, RunResults] = {}
    read = ask_all(lambda one: list(_full_pages(connection, one)), chosen, at_once=MANY_AT_ONCE)
    for one, full in zip(chosen, read, strict=True):
        with understood(connection.service("metric"), f"metric '{one.name}'"):
            result = _results(one, [row for page in full for row in page.items])
            found[one.run] = result.filled(found.get(one.run, RunResults()))
    return found


def _full_pages(connection: Connection, one: Listed) -> Iterator[Page]:
    asked = {"metricName": one.name, "metricNamespace": one.namespace, "startTime": None, "endTime": None}
    return metric_pages(connection, one.run, "full", asked)


def _results(one: Listed, rows: Sequence[Mapping[str, Any]]) -> RunResults:
    values = {column: [_value(row, column, kind) for row in rows] for column, kind in one.columns.items()}
    if len(values) > 1 or one.kind == TABLE:
        last = {f"{one.name}/{name}": value for name, some in values.items() for value in some if value is not None}
        return RunResults(last, tables={one.name: values})
    if not values:
        return RunResults()
    ((column, kind),) = one.columns.items()
    kept = [(row, value) for row, value in zip(rows, values[column], strict=True) if value is not None]
    if kind in ARTIFACTS:
        images = [_file_name(str(value)) for _, value in kept]
        return RunResults({one.name: images[-1]} if images else {}, images={one.name: images})
    if kind in NUMBERS and kept:
        series = _as_series(kept, is_counted=one.kind in ROWS_WITHOUT_STEPS)
        return RunResults({one.name: series.values[-1]}, {one.name: series})
    if kind in TEXTS and one.kind == LIST:
        return RunResults({one.name: kept[-1][1]} if kept else {}, lists={one.name: values[column]})
    if kind in TEXTS and kept:
        texts = [TextPoint(str(value), as_step(row.get("step")), time_of(row)) for row, value in kept]
        texts.sort(key=lambda point: (point.step, point.time))
        return RunResults({one.name: texts[-1].value}, texts={one.name: texts})
    return RunResults()


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

        def children(parent: str, most: int = left + 1) -> list[str]:
            return [child["runId"] for child in islice(chain.from_iterable(history.children(parent)), most)]

        below = ask_all(children, parents)
        parents = [child for some in below for child in reversed(some) if child not in found]
        if len(parents) > left:
            log.warning("run '%s' has more than %d nested runs; the others' metrics are left out", run.id, MOST_NESTED)
            return [*found, *parents[-left:]] if left else [*found]
        found |= dict.fromkeys(parents)
    return list(found)
