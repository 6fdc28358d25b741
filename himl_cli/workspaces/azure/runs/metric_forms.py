"""Metrics in the form that the metric service takes them: as azureml-core sends them, so that all clients read them
alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from himl_cli.core.results import Logged, LoggedKind, LoggedRow, Value

MOST_METRICS = 50  # in one request, as azureml-core has it
MOST_ROWS = 250  # of one metric in one request
_KINDS = {
    LoggedKind.scalar: "azureml.v1.scalar",
    LoggedKind.list: "azureml.v1.list",
    LoggedKind.table: "azureml.v1.table",
    LoggedKind.image: "azureml.v2.image",
}
Form = dict[str, Any]


def batches(entries: Iterable[Logged], container_id: str) -> Iterator[list[Form]]:
    """*entries* as bodies of requests. Scalars of one name that follow each other share a form; *container_id* is where
    the run's files lie."""
    batch: list[Form] = []
    for form in _forms(entries, container_id):
        batch.append(form)
        if len(batch) == MOST_METRICS:
            yield batch
            batch = []
    if batch:
        yield batch


def _forms(entries: Iterable[Logged], container_id: str) -> Iterator[Form]:
    """The forms in the order of their first rows; one metric's rows stay in theirs."""
    open_forms: dict[tuple[str, str], Form] = {}
    for entry in entries:
        for start in range(0, len(entry.rows), MOST_ROWS):
            form = _form(entry, entry.rows[start : start + MOST_ROWS], container_id)
            key = (entry.name, form["properties"]["uxMetricType"])
            known = open_forms.get(key)
            if (
                known is None
                or known["columns"] != form["columns"]
                or len(known["value"]) + len(form["value"]) > MOST_ROWS
            ):
                if known is not None:
                    yield open_forms.pop(key)
                open_forms[key] = form
            else:
                known["value"] += form["value"]
    yield from open_forms.values()


def _form(entry: Logged, rows: Sequence[LoggedRow], container_id: str) -> Form:
    columns = {
        column: "Artifact" if entry.kind is LoggedKind.image else _type_of(entry.rows, column)
        for column in entry.columns
    }
    return {
        "name": entry.name,
        "columns": columns,
        "properties": {"uxMetricType": _KINDS[entry.kind]},
        "value": [_row(row, columns, container_id) for row in rows],
    }


def _row(row: LoggedRow, columns: Mapping[str, str], container_id: str) -> Form:
    data = {column: _written(row.values.get(column), kind, container_id) for column, kind in columns.items()}
    step = {} if row.step is None else {"step": row.step}
    return {"metricId": row.id, "createdUtc": row.time.isoformat(), **step, "data": data}


def _type_of(rows: Sequence[LoggedRow], column: str) -> str:
    """The column's type: that of its values; numbers of both kinds are doubles, and anything mixed is text."""
    types = {_name_of(row.values.get(column)) for row in rows} - {"none"}
    if len(types) == 1:
        return types.pop()
    return "none" if not types else "double" if types == {"int", "double"} else "string"


def _name_of(value: Value) -> str:
    if value is None:
        return "none"
    return (
        "bool"
        if isinstance(value, bool)
        else "int"
        if isinstance(value, int)
        else "double"
        if isinstance(value, float)
        else "string"
    )


def _written(value: Value, kind: str, container_id: str) -> Any:
    if kind == "Artifact":
        return f"aml://artifactId/ExperimentRun/{container_id}/{value}"
    if value is None or (kind == "string" and isinstance(value, str)):
        return value
    if kind == "string":
        return str(value)
    if isinstance(value, float) and not math.isfinite(
        value
    ):  # JSON has no such numbers; protocol buffers' words for them
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return float(value) if kind == "double" else value
