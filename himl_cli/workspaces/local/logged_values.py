"""Logged values in the local workspace: numbers as metrics, other values in a file of the run. Also reads the values of
many runs in bulk: one query for hundreds of runs, with points as columns of numbers. Omits values of earlier attempts
that a later one replaced: the rows of tables and lists with the same name, others from their step on.

Each column of numbers in a table is a metric `NAME/COLUMN`, with its rows as steps. The table itself, and other entries
with more than numbers, are lines of JSON in `logged/NAME.jsonl` among the run's artifacts.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import is_inside
from himl_cli.core.json_text import read_json
from himl_cli.core.logged import (
    SYSTEM,
    Logged,
    LoggedKind,
    LoggedRow,
    Metric,
    MetricPoint,
    RunResults,
    Series,
    TextPoint,
    Texts,
    Value,
)
from himl_cli.core.runs import ATTEMPT_ENDS, RunQuery
from himl_cli.core.sweeps import HYPERPARAMETERS
from himl_cli.workspaces.local.metric_store import (
    JSON_WORDS,
    MetricStore,
    Point,
    attempt_ends,
    json_number,
    nan_if_null,
    read_series,
)
from himl_cli.workspaces.local.run_folder import RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_store import Database, RunStore, as_time, chunks, taken_apart

SUFFIX = ".jsonl"
# Errors of a single file, which would occur again, unlike those of a full or missing disk
OF_THE_FILE = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EACCES)
Wanted = Callable[[str], bool]
COUNTED = (LoggedKind.list.value, LoggedKind.table.value)  # kinds whose steps are numbers of rows


class LoggedWriter:
    """Stores each entry once, and skips rows that this process has sent before."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._in_files: set[str] = set()  # first rows of entries that were in a batch with an error
        self._lock = threading.Lock()

    def write(self, run_id: str, entries: Sequence[Logged], artifacts: Path) -> None:
        """Store metrics in the database, and the rest below *artifacts*. After an error, a call with all or some of
        the entries stores each once. Raises DiskFailed, and BadUsage for an entry that can never be stored."""
        with self._lock:
            fresh = [
                replace(entry, rows=rows)
                for entry in entries
                if (rows := [row for row in entry.rows if row.id not in self._seen])
            ]
            attempt = RunStore(self._store.database).attempt(run_id)
            self._store.log_entries(run_id, fresh, lambda: self._append(fresh, artifacts, attempt))
            ids = [row.id for entry in fresh for row in entry.rows]
            self._seen.update(dict.fromkeys(ids))
            self._in_files.difference_update(ids)
            while len(self._seen) > 100_000:
                self._seen.popitem(last=False)

    def _append(self, entries: Sequence[Logged], artifacts: Path, attempt: int) -> None:
        for entry in entries:
            if entry.rows[0].id not in self._in_files:
                _append(entry, artifacts, attempt)
                self._in_files.add(entry.rows[0].id)


def _append(entry: Logged, artifacts: Path, attempt: int) -> None:
    """Append an entry with more than numbers to its file. One write allows several ranks to do so."""
    texts = set(entry.columns) - set(entry.numeric_columns)
    if entry.kind is not LoggedKind.table and not texts:
        return
    lines = ""
    for row in entry.rows:  # all values of a column with more than numbers are texts, as in Azure ML
        step = {} if row.step is None else {"step": row.step}
        values = {
            column: str(value) if column in texts and value is not None else json_number(value)
            for column, value in row.values.items()
        }
        of_attempt = {"attempt": attempt} if attempt > 1 else {}
        record = {"time": row.time.isoformat(), "kind": entry.kind.value, **step, **of_attempt, "values": values}
        lines += json.dumps(record, ensure_ascii=False) + "\n"
    path = artifacts / "logged" / f"{quote(entry.name, safe=' ')}{SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            file.write(lines.encode())
    except OSError as err:
        if err.errno in OF_THE_FILE:
            raise BadUsage(f"Cannot write a file of that name: {err.strerror}.", hint="Use a shorter name.") from err
        raise explain_disk_error(err, "Cannot store the logged values", path) from err


def read_logged_files(artifacts: Path, wanted: Wanted) -> RunResults:
    """The values with wanted names in the files of a run with the folder *artifacts*. For a table, either its name or
    that of a column must be wanted. `last` has all of them, with `NAME/COLUMN` for tables."""
    last: dict[str, Value] = {}
    tables: dict[str, Mapping[str, Sequence[Value]]] = {}
    lists: dict[str, Sequence[Value]] = {}
    texts: dict[str, Sequence[TextPoint]] = {}
    images: dict[str, Sequence[str]] = {}
    for name, lines in _read_lines(artifacts):
        of_kind = {kind: [row for each, row in lines if each == kind.value] for kind in LoggedKind}
        rows = of_kind[LoggedKind.table]
        columns = dict.fromkeys(column for row in rows for column in row.values)
        if not wanted(name) and not any(wanted(f"{name}/{column}") for column in columns):
            continue
        if columns:
            tables[name] = {column: _column([row.values.get(column) for row in rows]) for column in columns}
        for column, cells in tables.get(name, {}).items():
            if (value := _last(cells)) is not None:
                last[f"{name}/{column}"] = value
        if at_once := _column([row.values.get(name) for row in of_kind[LoggedKind.list]]):
            lists[name], last[name] = at_once, _last(at_once)
        points = [
            TextPoint(text, row.step or 0, row.time)
            for row in of_kind[LoggedKind.scalar]
            if isinstance(text := row.values.get(name), str)
        ]
        if points:
            texts[name] = _sorted(points)
            last[name] = texts[name][-1].value
        if paths := [path for row in of_kind[LoggedKind.image] if isinstance(path := row.values.get(name), str)]:
            images[name], last[name] = paths, paths[-1]
    return RunResults(last, {}, texts, tables, lists, images)


def read_texts(artifacts: Path, run_id: str) -> Iterator[Texts]:
    """The texts of a run with the folder *artifacts*, by name, in the order logged, with `NAME/COLUMN` for tables. The
    steps of lists and tables are their row numbers."""
    for name, lines in _read_lines(artifacts):
        points: dict[str, list[TextPoint]] = {}
        for number, (kind, row) in enumerate(lines):
            step = number if kind in COUNTED else row.step or 0
            for column, value in row.values.items() if kind != LoggedKind.image.value else ():
                if isinstance(value, str):
                    full = f"{name}/{column}" if kind == LoggedKind.table.value else name
                    points.setdefault(full, []).append(TextPoint(value, step, row.time))
        for full, texts in points.items():
            if not all(text.value in JSON_WORDS.values() for text in texts):
                yield Texts(full, _sorted(texts), run_id)


def _sorted(points: list[TextPoint]) -> list[TextPoint]:
    return sorted(points, key=lambda point: point.step)


def _read_lines(artifacts: Path) -> Iterator[tuple[str, list[tuple[str, LoggedRow]]]]:
    """The name of each file and its rows that count, each with its kind, sorted by name. Most runs have none.

    Skips invalid lines (of another program's file, or cut off by a full disk). A time without a zone is in UTC, as in
    himl's files.
    """
    folder = artifacts / "logged"
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX))
    except (OSError, ValueError):
        return
    root = os.path.realpath(artifacts.parent)
    for name in (each for each in names if is_inside(folder / each, root)):
        lines: list[tuple[int, str, LoggedRow]] = []
        for text in (folder / name).read_bytes().splitlines():
            with suppress(ValueError, TypeError, KeyError, AttributeError, OverflowError):
                found: Any = read_json(text)
                time, step = datetime.fromisoformat(found["time"]), int(found.get("step") or 0)
                time = time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)
                row = LoggedRow(dict(found["values"]), step, time, id="")
                lines.append((int(found.get("attempt", 1)), str(found["kind"]), row))
        yield unquote(name.removesuffix(SUFFIX)), [*reversed([*_that_count(reversed(lines))])]


def _that_count(lines: Iterable[tuple[int, str, LoggedRow]]) -> Iterator[tuple[str, LoggedRow]]:
    """Of *lines*, latest first and each with its attempt, those that no later attempt replaced."""
    first: dict[str, tuple[int, int]] = {}  # the lowest step of an attempt and of later ones, by kind
    cut: dict[str, int] = {}  # the lowest step of later attempts
    for attempt, kind, row in lines:
        step = 0 if kind in COUNTED else row.step or 0
        last, lowest = first.get(kind, (attempt, step))
        if attempt < last:
            cut[kind] = lowest
        first[kind] = attempt, min(lowest, step)
        if kind not in cut or step < cut[kind]:
            yield kind, row


def _column(values: Sequence[Value]) -> Sequence[Value]:
    """*values* as they were logged. Converts NaN and infinities back to numbers, unless there are other texts."""
    if any(isinstance(value, str) and value not in JSON_WORDS.values() for value in values):
        return list(values)
    return [float(value) if isinstance(value, str) else value for value in values]


def _last(values: Sequence[Value]) -> Value:
    return next((value for value in reversed(values) if value is not None), None)


def read_results(
    database: Database, runs_folder: Path, run_ids: Sequence[str], *, wanted: Wanted, whole: bool
) -> dict[str, RunResults]:
    """As `Workspace.results`, with the runs' files in folders of *runs_folder*."""
    with database.reading():
        nested = dict(RunStore(database).nested_in(run_ids))
        everyone = [*run_ids, *nested]
        last = last_points(database, everyone, wanted)
        points = _series(database, everyone, wanted) if whole else {}
        parameters: dict[str, dict[str, str]] = {run_id: {} for run_id in everyone}
        statement = "SELECT run, name, value FROM parameters WHERE run IN ({}) ORDER BY run, name"
        for run_id, name, value in database.rows_among(statement, run_ids):
            parameters[run_id][name] = value
    found: dict[str, RunResults] = {}
    for run_id in everyone:
        logged = read_logged_files(RunFolder(runs_folder / run_id).artifacts, wanted)
        numbers: dict[str, Value] = {**logged.last, **{name: value for name, value, _, _ in last[run_id].values()}}
        steps = {name: step for name, _, step, _ in last[run_id].values()}
        found[run_id] = RunResults(numbers, parameters=parameters[run_id], steps=steps)
        if whole:
            in_tables = {f"{name}/{column}" for name, columns in logged.tables.items() for column in columns}
            series = {name: one for name, one in points.get(run_id, {}).items() if name not in in_tables}
            found[run_id] = replace(logged, last=numbers, series=series, parameters=parameters[run_id], steps=steps)
    for child, root in nested.items():
        found[root] = found[root].filled(found[child])
    return {run_id: found[run_id] for run_id in run_ids}


def last_points(
    database: Database, run_ids: Sequence[str], wanted: Wanted | None = None
) -> dict[str, dict[str, Point]]:
    """The point with the highest step of each metric that is *wanted* (None: of all), by run and name. Among equal
    steps, the one logged last. Without points that a later attempt replaced. Reads few of the points."""
    found: dict[str, dict[str, Point]] = {run_id: {} for run_id in run_ids}
    for chunk, marks in chunks(run_ids):
        for clause, names in [("", ())] if wanted is None else _of_names(database, chunk, marks, wanted):
            statement = (  # of the points with the highest step, SQLite takes the row with the highest place
                "SELECT run, name, value, step, time, MAX(place) FROM series JOIN points ON series = id AND step = "
                f"(SELECT MAX(step) FROM points WHERE series = id) WHERE run IN ({marks}){clause} GROUP BY id "
                "ORDER BY run, name"
            )
            for run_id, name, value, step, time, _ in database.rows(statement, (*chunk, *names)):
                with taken_apart(database.path):
                    found[run_id][name] = name, nan_if_null(value), int(step), time
    after = (
        "SELECT value, step, time FROM metrics WHERE run = ? AND name = ? AND rowid > ? "
        "ORDER BY step DESC, rowid DESC LIMIT 1"
    )
    for run_id, places in attempt_ends(database, run_ids).items():
        for name in found[run_id]:  # the last point is of the latest attempt that logged the metric
            parts = (database.rows(after, (run_id, name, place)) for place in sorted(places, reverse=True))
            for value, step, time in next(filter(None, parts), ()):
                found[run_id][name] = name, nan_if_null(value), step, time
    return found


def last_metrics(store: MetricStore, run_ids: Sequence[str]) -> list[Metric]:
    """As `MetricStore.metrics`, with the last points only, except of system metrics."""
    found, counts = store.metrics(run_ids, prefix=SYSTEM), store.counts(run_ids)
    last = last_points(store.database, run_ids, lambda name: not name.startswith(SYSTEM))
    for run_id in run_ids:
        for name, value, step, time in last[run_id].values():
            with taken_apart(store.database.path):
                point = MetricPoint(value, step, as_time(time))
            found.append(Metric(name, [point], run_id, counts.get((run_id, name), 1) - 1))
    place = {run_id: number for number, run_id in enumerate(run_ids)}
    return sorted(found, key=lambda metric: (place[metric.run], metric.name))


LAST = (
    "(SELECT COALESCE(value, 'NaN') FROM series JOIN points ON series = series.id WHERE run = runs.id AND name = ? "
    "ORDER BY step DESC, place DESC LIMIT 1) AS last"
)
IS_GIVEN = (
    "EXISTS (SELECT 1 FROM parameters WHERE run = runs.id AND name = ?) OR EXISTS (SELECT 1 FROM tags WHERE run = "
    f"runs.id AND (name = ? OR name = '{HYPERPARAMETERS}' AND instr(value, ?))) OR instr(command, '--' || ?) AS given"
)
HAS_ATTEMPTS = f"EXISTS (SELECT 1 FROM tags WHERE run = runs.id AND name = '{ATTEMPT_ENDS}')"


def last_numbers(
    store: RunStore, query: RunQuery, lost: Sequence[str], name: str, *, is_metric: bool
) -> Mapping[str, float | None] | None:
    """As `FolderWorkspace.last_numbers`. *lost* are the jobs without a supervisor."""
    database = store.database
    rows, _ = store.matching(query, lost, f"id, {LAST}, {IS_GIVEN}, {HAS_ATTEMPTS}", *[name] * 5)
    last, silent, again, is_given = dict[str, float](), list[str](), list[str](), False
    for run_id, value, given, has_attempts in rows:
        is_given = is_given or bool(given)
        if value is None:
            silent.append(run_id)
        else:
            last[run_id] = float(value)
            if has_attempts:
                again.append(run_id)
    best = store.best_trials(silent)
    nested = dict(store.nested_in([*silent, *best.values()]))
    again += [*best.values(), *nested]
    # Of several nested runs, the first one counts
    for run_id, points in reversed(last_points(database, again, name.__eq__).items()):
        if name in points:
            last[nested.get(run_id, run_id)] = points[name][1]
    last |= {run_id: last[trial] for run_id, trial in best.items() if trial in last and run_id not in last}
    if not last or (is_given and not is_metric):
        return None
    return {run_id: last.get(run_id) for run_id, *_ in rows}


def _series(database: Database, run_ids: Sequence[str], wanted: Wanted) -> dict[str, dict[str, Series]]:
    found: dict[str, dict[str, Series]] = {}
    for chunk, marks in chunks(run_ids):
        for clause, names in _of_names(database, chunk, marks, wanted):
            for run_id, name, series in read_series(database, chunk, clause, names):
                found.setdefault(run_id, {})[name] = series
    return found


def series_of(database: Database, run_ids: Sequence[str], name: str) -> dict[str, Series]:
    """The points of one metric by run, without those of nested runs. Reads no others."""
    return {run_id: series for run_id, _, series in read_series(database, run_ids, " AND name = ?", (name,))}


def _of_names(
    database: Database, chunk: tuple[str, ...], marks: str, wanted: Wanted
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Conditions on the name, with their values, that together select the wanted metrics. Empty if all are wanted."""
    statement = f"SELECT DISTINCT name FROM series WHERE run IN ({marks}) ORDER BY name"
    names = [row[0] for row in database.rows(statement, chunk)]
    chosen = [name for name in names if wanted(name)]
    if len(chosen) == len(names):
        yield "", ()
        return
    for some, places in chunks(chosen, 400):
        yield f" AND name IN ({places})", some
