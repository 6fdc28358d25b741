"""What MLflow does not tell of a run's metrics: tables, lists, texts and images, by the metric service
(`metric/v2.0`)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from himl_cli.core.results import Series, Value
from himl_cli.core.runs import TextPoint
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.answers import understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound
from himl_cli.workspaces.azure.requests.threads import MANY_AT_ONCE, ask_all
from himl_cli.workspaces.azure.runs.metrics import (
    NUMBERS,
    ROWS_WITHOUT_STEPS,
    TABLE,
    TEXTS,
    as_number,
    as_step,
    metric_pages,
    time_of,
)

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
    for one, rows in zip(
        chosen, ask_all(lambda one: _rows(connection, one), chosen, at_once=MANY_AT_ONCE), strict=True
    ):
        with understood(connection.metric(""), f"metric '{one.name}'"):
            _add(found.setdefault(one.run, Told()), one, rows)
    return found


def _listed(connection: Connection, run_id: str) -> list[Listed]:
    found: list[Listed] = []
    try:
        for page in metric_pages(connection, run_id, "list", {"metricNamespace": None}):
            with understood(connection.metric(""), "a metric in it"):
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


def _rows(connection: Connection, one: Listed) -> list[Mapping[str, Any]]:
    asked = {"metricName": one.name, "metricNamespace": one.namespace, "startTime": None, "endTime": None}
    return [row for page in metric_pages(connection, one.run, "full", asked) for row in page.items]


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
        told.series[one.name] = _series(kept, is_counted=one.kind in ROWS_WITHOUT_STEPS)
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


def _series(kept: Sequence[tuple[Mapping[str, Any], Value]], *, is_counted: bool) -> Series:
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
