"""What programs log, as the local workspace keeps it: numbers as metrics, and what is no number in a file of the run.

Of a table each column of numbers is a metric `NAME/COLUMN`, its rows counted as steps; the table itself, and whatever
else holds more than numbers, is kept as lines of JSON in `logged/NAME.jsonl` among the run's artifacts.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import quote

from himl_cli.core.results import Logged, LoggedKind, LoggedRow, Value
from himl_cli.workspaces.local.disk_errors import explain_disk_error
from himl_cli.workspaces.local.metric_store import MetricRow, MetricStore

REMEMBERED = 100_000
COUNTED = (LoggedKind.list, LoggedKind.table)


class WrittenValues:
    """Keeps entries once each: a row that this process sent before is passed over."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        self._kept: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, run_id: str, entries: Sequence[Logged], artifacts: Path) -> None:
        """Metrics to the database, the rest below *artifacts*, all or nothing. Raises DiskFailed."""
        with self._lock:
            fresh = [
                Logged(entry.name, entry.kind, rows)
                for entry in entries
                if (rows := [row for row in entry.rows if row.id not in self._kept])
            ]
            points = [point for entry in fresh for point in _metric_rows(entry)]
            self._store.log_rows(run_id, points, lambda: _append(fresh, artifacts))
            self._kept.update(dict.fromkeys(row.id for entry in fresh for row in entry.rows))
            while len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)


def _metric_rows(entry: Logged) -> list[MetricRow]:
    columns = entry.columns
    names = {column: entry.name_of(column) for column in columns if _is_numeric(entry.rows, column)}
    found = []
    for row in entry.rows:
        values = {
            name: float(value)
            for column, name in names.items()
            if isinstance(value := row.values.get(column), (int, float))
        }
        step = None if entry.kind in COUNTED else row.step or 0
        found.append(MetricRow(values, step, round(row.time.timestamp() * 1000), tuple(names.values())))
    return found


def _is_numeric(rows: Sequence[LoggedRow], column: str) -> bool:
    values = [value for row in rows if (value := row.values.get(column)) is not None]
    return bool(values) and all(isinstance(value, (int, float)) for value in values)


def _append(entries: Sequence[Logged], artifacts: Path) -> None:
    """Add the entries that numbers alone do not hold to their files; each is written in one go, so that several ranks
    may."""
    for entry in entries:
        if entry.kind is not LoggedKind.table and all(_is_numeric(entry.rows, column) for column in entry.columns):
            continue
        path = artifacts / "logged" / f"{quote(entry.name, safe=' ')}.jsonl"
        texts = {column for column in entry.columns if not _is_numeric(entry.rows, column)}
        lines = "".join(_line(entry, row, texts) for row in entry.rows).encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                file.write(lines)
        except OSError as err:
            raise explain_disk_error(err, "Cannot keep what was logged", path) from err


def _line(entry: Logged, row: LoggedRow, texts: Collection[str]) -> str:
    """A row as a line; the values of *texts*, columns with more than numbers in them, as text, as Azure ML has them."""
    step = {} if row.step is None else {"step": row.step}
    values = {
        column: str(value) if column in texts and value is not None else _in_json(value)
        for column, value in row.values.items()
    }
    return (
        json.dumps(
            {"time": row.time.isoformat(), "kind": entry.kind.value, **step, "values": values}, ensure_ascii=False
        )
        + "\n"
    )


def _in_json(value: Value) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
