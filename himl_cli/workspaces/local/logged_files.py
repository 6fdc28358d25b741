"""What programs log, as the local workspace stores it: numbers as metrics, and what is no number in a file of the run.

Of a table each column of numbers is a metric `NAME/COLUMN`, its rows counted as steps; the table itself, and whatever
else holds more than numbers, is stored as lines of JSON in `logged/NAME.jsonl` among the run's artifacts.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from himl_cli.core.results import Logged, LoggedKind, LoggedRow, RunResults, Value
from himl_cli.core.runs import TextPoint, Texts
from himl_cli.core.text import read_json
from himl_cli.workspaces.local.metric_store import MetricRow, MetricStore
from himl_cli.workspaces.local.run_folder import explain_disk_error

REMEMBERED = 100_000
SUFFIX = ".jsonl"
COUNTED = (LoggedKind.list, LoggedKind.table)
NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
"""How numbers that JSON has no word for stand in the files."""


class LoggedWriter:
    """Stores entries once each: a row that this process sent before is passed over."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, run_id: str, entries: Sequence[Logged], artifacts: Path) -> None:
        """Metrics to the database, the rest below *artifacts*, all or nothing. Raises DiskFailed."""
        with self._lock:
            fresh = [
                Logged(entry.name, entry.kind, rows)
                for entry in entries
                if (rows := [row for row in entry.rows if row.id not in self._seen])
            ]
            points = [point for entry in fresh for point in _metric_rows(entry)]
            self._store.log_rows(run_id, points, lambda: _append(fresh, artifacts))
            self._seen.update(dict.fromkeys(row.id for entry in fresh for row in entry.rows))
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)


def _metric_rows(entry: Logged) -> list[MetricRow]:
    names = {column: entry.name_of(column) for column in entry.columns if _is_numeric(entry.rows, column)}
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
        texts = {column for column in entry.columns if not _is_numeric(entry.rows, column)}
        if entry.kind is not LoggedKind.table and not texts:
            continue
        lines = ""
        for row in entry.rows:  # of columns with more than numbers in them all values are texts, as Azure ML has them
            step = {} if row.step is None else {"step": row.step}
            values = {
                column: str(value) if column in texts and value is not None else _finite(value)
                for column, value in row.values.items()
            }
            record = {"time": row.time.isoformat(), "kind": entry.kind.value, **step, "values": values}
            lines += json.dumps(record, ensure_ascii=False) + "\n"
        path = artifacts / "logged" / f"{quote(entry.name, safe=' ')}{SUFFIX}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                file.write(lines.encode())
        except OSError as err:
            raise explain_disk_error(err, "Cannot keep what was logged", path) from err


def _finite(value: Value) -> Value:
    """As JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


@dataclass(frozen=True)
class _Line:
    kind: str
    values: dict[str, Value]
    step: int
    time: datetime


def read_logged_files(artifacts: Path, wanted: Callable[[str], bool]) -> RunResults:
    """What the files of the run whose artifacts lie in *artifacts* hold under names that are wanted; of a table its own
    name or one of a column will do. `last` is of all of them, of tables `NAME/COLUMN`."""
    last: dict[str, Value] = {}
    tables: dict[str, Mapping[str, Sequence[Value]]] = {}
    lists: dict[str, Sequence[Value]] = {}
    texts: dict[str, Sequence[TextPoint]] = {}
    images: dict[str, Sequence[str]] = {}
    for name, lines in _read_lines(artifacts):
        of_kind = {kind: [line.values for line in lines if line.kind == kind.value] for kind in LoggedKind}
        rows = of_kind[LoggedKind.table]
        names = [*dict.fromkeys(column for values in rows for column in values)]
        if not wanted(name) and not any(wanted(f"{name}/{column}") for column in names):
            continue
        if names:
            tables[name] = {column: _column([values.get(column) for values in rows]) for column in names}
        for column, cells in tables.get(name, {}).items():
            if (value := _last(cells)) is not None:
                last[f"{name}/{column}"] = value
        if at_once := _column([values.get(name) for values in of_kind[LoggedKind.list]]):
            lists[name], last[name] = at_once, _last(at_once)
        points = [
            TextPoint(text, line.step, line.time)
            for line in lines
            if line.kind == LoggedKind.scalar.value and isinstance(text := line.values.get(name), str)
        ]
        if points:
            texts[name] = sorted(points, key=lambda point: (point.step, point.time))
            last[name] = texts[name][-1].value
        if paths := [path for values in of_kind[LoggedKind.image] if isinstance(path := values.get(name), str)]:
            images[name], last[name] = paths, paths[-1]
    return RunResults(last, {}, texts, tables, lists, images)


def read_texts(artifacts: Path, run_id: str) -> Iterator[Texts]:
    """The texts of the run whose files lie in *artifacts*, by name, in the order logged; of tables `NAME/COLUMN`. Rows
    of lists and tables are counted."""
    for name, lines in _read_lines(artifacts):
        points: dict[str, list[TextPoint]] = {}
        for number, line in enumerate(lines):
            step = number if line.kind in (LoggedKind.list.value, LoggedKind.table.value) else line.step
            for column, value in line.values.items() if line.kind != LoggedKind.image.value else ():
                if isinstance(value, str):
                    full = f"{name}/{column}" if line.kind == LoggedKind.table.value else name
                    points.setdefault(full, []).append(TextPoint(value, step, line.time))
        for full, texts in points.items():
            if not all(text.value in NO_NUMBERS for text in texts):
                yield Texts(full, sorted(texts, key=lambda point: (point.step, point.time)), run_id)


def _read_lines(artifacts: Path) -> Iterator[tuple[str, list[_Line]]]:
    """The name of each file and its lines, sorted by name; most runs have none.

    A line that is no record (somebody else's file, one cut off by a full disk) is passed over. A time without a zone is
    of UTC, as ours are.
    """
    folder = artifacts / "logged"
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError):
        return
    for name in names:
        if not name.endswith(SUFFIX):
            continue
        lines: list[_Line] = []
        for text in (folder / name).read_bytes().splitlines():
            try:
                found: Any = read_json(text)
                time, step = datetime.fromisoformat(found["time"]), int(found.get("step") or 0)
                time = time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)
                lines.append(_Line(str(found["kind"]), dict(found["values"]), step, time))
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
                continue
        yield unquote(name.removesuffix(SUFFIX)), lines


def _column(values: Sequence[Value]) -> Sequence[Value]:
    """*values* as they were logged: numbers that JSON has no word for are numbers again, unless there are texts beside
    them."""
    if any(isinstance(value, str) and value not in NO_NUMBERS for value in values):
        return list(values)
    return [float(value) if isinstance(value, str) else value for value in values]


def _last(values: Sequence[Value]) -> Value:
    return next((value for value in reversed(values) if value is not None), None)
