"""Metrics and parameters in the local database.

Values of a later attempt replace those that earlier attempts logged at that step and beyond. So a script that starts
from the beginning and one that continues from a checkpoint both leave one series. The values of earlier attempts stay
in the database. A parameter of an earlier attempt keeps its value until the current one logs another.
"""

from __future__ import annotations

import json
import math
import sqlite3
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, TypeVar

from himl_cli.core.errors import BadUsage
from himl_cli.core.json_text import read_json
from himl_cli.core.logged import INT64, Logged, LoggedKind, LoggedRow, Metric, MetricPoint, Series
from himl_cli.core.redaction import mask_document
from himl_cli.core.runs import ATTEMPT_ENDS, RunStatus
from himl_cli.core.text import storable
from himl_cli.workspaces.local.run_store import Database, RunStore, as_time, chunks, put_pairs, taken_apart

PAIRS_AT_ONCE = 400  # SQLite before 3.32 allows 999 variables
LOGGED_AT_ONCE = 20_000
SERIES_AT_ONCE = 400  # limits the points in memory as rows
_IDS = uuid.UUID("6f0b6a7e-6a0c-4f0e-9d2c-5a1c3c1b7f10")
# A point, the latest but for the number of earlier ones of its transaction. The second form: unless the run has that
# point after a place
INSERT_POINT = (
    "INSERT INTO points (series, step, time, place, value) SELECT id, ?4, ?5, last + ?6, ?3 FROM places, series WHERE "
    "run = ?1 AND name = ?2"
)
INSERT_NEW_POINT = (
    f"{INSERT_POINT} AND NOT EXISTS (SELECT 1 FROM points WHERE series = series.id AND step = ?4 AND time = ?5 AND "
    "value IS ?3 AND place > ?7)"
)
# The value that a parameter keeps, unless it is that of an earlier attempt
FIXED = (
    "SELECT value FROM parameters AS p WHERE run = ? AND name = ? AND NOT EXISTS "
    "(SELECT 1 FROM earlier_parameters AS e WHERE e.run = p.run AND e.name = p.name)"
)

# The points of a run after a place, in the order logged. They are the last ones of their series, unless one came late
LOGGED_AFTER = (
    "SELECT place, name, value, step, time FROM series JOIN points ON series = id WHERE run = ?1 AND place > ?2 AND "
    "(step, time) >= (SELECT * FROM (SELECT step, time FROM points WHERE series = id AND place <= ?2 AND late <= ?2 "
    f"ORDER BY step DESC, time DESC, place DESC LIMIT 1) UNION ALL SELECT {INT64[0]}, {INT64[0]} ORDER BY 1 DESC "
    "LIMIT 1) ORDER BY place LIMIT ?3"
)
FORGET_EARLIER = "DELETE FROM earlier_parameters WHERE run = ? AND name = ?"

# Texts for numbers that JSON lacks, by their names in Python
JSON_WORDS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

Point = tuple[str, float, int, int]  # name, value, step, milliseconds since 1970 UTC
# A row's number and a step. Rows up to that number with that step or a higher one do not count.
Cut = tuple[int, int]
# By run and name of the metric, only for metrics with replaced values
Cuts = Mapping[tuple[str, str], Sequence[Cut]]

# A point of a logged model: the id of the model, the point, the name and the digest of its dataset, or ''
ModelPoint = tuple[str, Point, str, str]

T = TypeVar("T")


class ParameterFixed(BadUsage):
    """The current attempt has logged the parameter with another value."""

    def __init__(self, run_id: str, name: str, before: str, value: str) -> None:
        super().__init__(
            f"Parameter '{name}' of run '{run_id}' already has the value '{before}', not '{value}'.",
            hint="A parameter cannot change. Log a metric instead.",
        )
        self.name, self.before, self.value = name, before, value


class MetricStore:
    """Logged values. SQLite has no NaN and stores it as NULL, which is read as NaN."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def log(
        self,
        run_id: str,
        points: Iterable[Point],
        parameters: Iterable[tuple[str, str]] = (),
        tags: Mapping[str, str] | None = None,
        *,
        of_models: Iterable[ModelPoint] = (),
    ) -> None:
        """Store all of this in one transaction, without points that the attempt has stored before, since clients repeat
        a request if its reply was lost. Raises ParameterFixed."""
        with self.database.writing() as connection:
            before = _last_place(connection, run_id)
            _add(connection, run_id, [(storable(point[0]), *point[1:]) for point in points], before)
            for name, given in parameters:  # which the attempt cannot change from now on
                value = mask_document(given, name)
                kept = connection.execute(FIXED, (run_id, storable(name))).fetchone()
                if kept is None:
                    put_pairs(connection, "parameters", run_id, {name: value})
                    connection.execute(FORGET_EARLIER, (run_id, storable(name)))
                elif kept[0] != storable(value):
                    raise ParameterFixed(run_id, name, kept[0], value)
            if tags:
                put_pairs(connection, "tags", run_id, tags)
            for model, (name, number, step, time), *dataset in of_models:
                connection.execute(
                    "INSERT OR IGNORE INTO model_metrics (model, run, name, step, time, value, dataset_name, "
                    "dataset_digest) VALUES (?,?,?,?,?,?,?,?)",
                    (model, run_id, name, step, time, repr(number), *dataset),
                )

    def keep(self, run_id: str, kinds: Mapping[str, Mapping[str, object]], *, replace: bool = True) -> None:
        """Store what MLflow's clients recorded of a run, by kind and key. A known key gets the new record, or keeps its
        own if *replace* is off."""
        change = "UPDATE SET document = excluded.document" if replace else "NOTHING"
        rows = [
            (run_id, kind, key, json.dumps(record))
            for kind, records in kinds.items()
            for key, record in records.items()
        ]
        with self.database.writing() as connection:
            statement = f"INSERT INTO client_records VALUES (?,?,?,?) ON CONFLICT (run, kind, key) DO {change}"
            connection.executemany(statement, rows)

    def kept(self, run_id: str) -> dict[str, list[dict[str, Any]]]:
        """What MLflow's clients recorded of a run, by kind, the oldest first."""
        found: dict[str, list[dict[str, Any]]] = {}
        statement = "SELECT kind, document FROM client_records WHERE run = ? ORDER BY rowid"
        with taken_apart(self.database.path):
            for kind, document in self.database.rows(statement, (run_id,)):
                found.setdefault(kind, []).append(json.loads(document))
        return found

    def datasets(self) -> list[tuple[str, str]]:
        """The datasets that runs read, each with the experiment of its run and its JSON, the oldest first."""
        statement = (
            "SELECT DISTINCT experiment, document FROM client_records JOIN runs ON runs.id = client_records.run "
            "WHERE kind = 'dataset_inputs' ORDER BY client_records.rowid"
        )
        return [(experiment, document) for experiment, document in self.database.rows(statement)]

    def log_entries(self, run_id: str, entries: Iterable[Logged], beside: Callable[[], None]) -> None:
        """Store the numbers of *entries* in one transaction, and call *beside* within it. If *beside* raises, store
        nothing. Numbers rows of lists and tables after those that the attempt has logged."""
        with self.database.writing() as connection:
            place = _last_place(connection, run_id)
            for entry in entries:
                names = {column: entry.name_of(column) for column in entry.numeric_columns}
                is_counted, following = entry.kind in (LoggedKind.list, LoggedKind.table), 0
                if is_counted:
                    marks = ",".join("?" * len(names))
                    statement = f"SELECT MAX(step) + 1 FROM metrics WHERE run = ? AND name IN ({marks}) AND rowid > ?"
                    following = connection.execute(statement, (run_id, *names.values(), place)).fetchone()[0] or 0
                points: list[Point] = []
                for number, row in enumerate(entry.rows):
                    step = following + number if is_counted else row.step or 0
                    time = round(row.time.timestamp() * 1000)
                    for column, name in names.items():
                        if isinstance(value := row.values.get(column), (int, float)):
                            points.append((name, float(value), step, time))
                _add(connection, run_id, points)
            beside()

    def metrics(self, run_ids: Sequence[str], *, name: str | None = None, prefix: str = "") -> list[Metric]:
        """The metrics of *run_ids* in that order, by name, with points by step, then in the order logged, since clocks
        may be set back. Omits points that a later attempt replaced. Only those with that *name* or that *prefix*."""
        only, names = "", tuple[str, ...]()
        if name is not None:
            only, names = " AND name = ?", (name,)
        elif prefix:
            only, names = " AND name >= ? AND name < ?", (prefix, f"{prefix}\U0010ffff")
        found = []
        with taken_apart(self.database.path):
            for run_id, each, series in read_series(self.database, run_ids, only, names):
                times = (datetime.fromtimestamp(seconds, timezone.utc) for seconds in series.times)
                points = [MetricPoint(*point) for point in zip(series.values, series.steps, times, strict=True)]
                found.append(Metric(each, points, run_id))
        place = {run_id: number for number, run_id in enumerate(run_ids)}
        return sorted(found, key=lambda metric: (place[metric.run], metric.name))

    def counts(self, run_ids: Sequence[str]) -> dict[tuple[str, str], int]:
        """The number of points by run and metric, without those that a later attempt replaced."""
        grouped = "SELECT run, name, (SELECT COUNT(*) FROM points WHERE series = id) FROM series WHERE run IN ({})"
        found = {(run, name): count for run, name, count in self.database.rows_among(grouped, run_ids)}
        for (run, name), cuts in cuts_of(self.database, run_ids).items():
            replaced = " OR ".join("rowid <= ? AND step >= ?" for _ in cuts)
            statement = f"SELECT COUNT(*) FROM metrics WHERE run = ? AND name = ? AND NOT ({replaced})"
            values = (run, name, *chain.from_iterable(cuts))
            found[run, name] = self.database.rows(statement, values)[0][0]
        return found

    def version(self) -> int:
        """A number that changes when another process writes to the database."""
        return int(self.database.rows("PRAGMA data_version")[0][0])

    def values_after(self, name: str, places: Mapping[str, int]) -> list[tuple[str, int, float]]:
        """The values of *name* in the order logged, for each run of *places* after its place (0: all): run, place,
        value.

        Omits values that a later attempt replaced. Runs with several attempts must be read from the start, since values
        that were read before may have been replaced.
        """
        found: list[tuple[str, int, float]] = []
        cuts = cuts_of(self.database, list(places))
        for some, _ in chunks(list(places), PAIRS_AT_ONCE):
            values = (*(part for run_id in some for part in (run_id, places[run_id])), name)
            statement = (
                f"WITH asked(run, place) AS (VALUES {','.join(['(?,?)'] * len(some))})"
                " SELECT asked.run, points.place, step, value FROM asked"
                " JOIN series ON series.run = asked.run AND series.name = ?"
                " JOIN points ON points.series = series.id AND points.place > asked.place"
            )
            found += [
                (run, number, nan_if_null(value))
                for run, number, step, value in self.database.rows(statement, values)
                if not cuts or counts(number, step, cuts.get((run, name), ()))
            ]
        return sorted(found, key=lambda one: one[1])

    def parameters(self, run_id: str) -> dict[str, str]:
        statement = "SELECT name, value FROM parameters WHERE run = ? ORDER BY name"
        return {row["name"]: row["value"] for row in self.database.rows(statement, (run_id,))}

    def logged_after(self, run_id: str, last: int) -> tuple[Sequence[Logged], int]:
        """At most `LOGGED_AT_ONCE` points of the run itself after the place *last* (0: from the first one), in the form
        for another workspace, and their last place. Omits points that a later attempt replaced.

        Places of a run's points never change, so that the last one is a position to continue from. The id of a point is
        derived from its run and place, so that a receiver can detect duplicates.
        """
        series: dict[str, list[LoggedRow]] = {}
        cuts = cuts_of(self.database, [run_id])
        while not series and (rows := self.database.rows(LOGGED_AFTER, (run_id, last, LOGGED_AT_ONCE))):
            for place, name, value, step, moment in rows:
                last = place
                if counts(place, step, cuts.get((run_id, name), ())):
                    id = str(uuid.uuid5(_IDS, f"{run_id}/{place}"))
                    point = LoggedRow({name: nan_if_null(value)}, step, as_time(moment), id)
                    series.setdefault(name, []).append(point)
        return [Logged(name, LoggedKind.scalar, rows) for name, rows in series.items()], last


def _add(connection: sqlite3.Connection, run_id: str, points: Sequence[Point], since: int | None = None) -> None:
    """Store points at the next places, without those that the run has after the place *since* (None: all)."""
    names = {(run_id, name) for name, *_ in points}
    connection.executemany("INSERT OR IGNORE INTO series (run, name) VALUES (?,?)", names)
    after = () if since is None else (since,)
    rows = ((run_id, *point, number, *after) for number, point in enumerate(points, 1))
    connection.executemany(INSERT_POINT if since is None else INSERT_NEW_POINT, rows)
    connection.execute("UPDATE places SET last = last + ?", (len(points),))


def nan_if_null(value: float | None) -> float:
    return math.nan if value is None else value


def json_number(value: T) -> T | str:
    """*value* in a form that JSON supports."""
    return JSON_WORDS.get(str(value), value) if isinstance(value, float) else value


def begin_attempt(database: Database, run_id: str) -> None:
    """Record that later values of the job and of the runs nested in it belong to another attempt. Nested runs that an
    attempt left open have failed with it."""
    store = RunStore(database)
    store.end_nested(run_id, RunStatus.failed, "the attempt of the job ended")
    of_job = "run IN (SELECT id FROM runs WHERE job = ?)"
    with database.writing() as connection:
        statement = f"INSERT OR IGNORE INTO earlier_parameters SELECT run, name FROM parameters WHERE {of_job}"
        connection.execute(statement, (run_id,))
    rows = database.rows(f"SELECT run, MAX(rowid) FROM metrics WHERE {of_job} GROUP BY run", (run_id,))
    before = attempt_ends(database, [run for run, _ in rows])
    store.tag_each(ATTEMPT_ENDS, {run: json.dumps(sorted({*before.get(run, []), last})) for run, last in rows})


def cuts_of(database: Database, run_ids: Sequence[str]) -> Cuts:
    """The values of *run_ids* that later attempts replaced. Empty if each run had one attempt."""
    cuts: dict[tuple[str, str], list[Cut]] = {}
    statement = "SELECT name, MIN(step) FROM metrics WHERE run = ? AND rowid > ? GROUP BY name"
    for run_id, places in attempt_ends(database, run_ids).items():
        for place in places:
            for name, step in database.rows(statement, (run_id, place)):
                cuts.setdefault((run_id, name), []).append((place, step))
    return cuts


def read_series(
    database: Database, run_ids: Sequence[str], clause: str = "", names: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, Series]]:
    """Run, name and points by step of the metrics that *clause* selects, without those that a later attempt replaced.
    Points of the same step are in the order logged."""
    cuts = cuts_of(database, run_ids)
    of_runs = f"SELECT id, run, name FROM series WHERE run IN ({{}}){clause} ORDER BY run, name"
    found = {id: (run, name) for id, run, name in database.rows_among(of_runs, run_ids, *names)}
    statement = "SELECT series, step, time, value, place FROM points WHERE series IN ({}) ORDER BY series, step, place"
    for some, marks in chunks([*found], SERIES_AT_ONCE):
        of_series: dict[int, tuple[array[int], array[float], array[float]]] = {}
        with taken_apart(database.path):
            for batch in database.batches(statement.format(marks), some):
                for id, rows in groupby(batch, itemgetter(0)):
                    points: Iterable[Sequence[Any]] = rows
                    if found[id] in cuts:
                        points = (row for row in rows if counts(row[4], row[1], cuts[found[id]]))
                    columns = [*zip(*points, strict=True)]
                    if not columns:
                        continue
                    _, steps, times, values, _ = columns
                    numbers = map(nan_if_null, values) if None in values else values
                    series = of_series.setdefault(id, (array("q"), array("d"), array("d")))
                    series[0].extend(steps)
                    series[1].extend(numbers)
                    series[2].extend([time / 1000 for time in times])
        yield from ((*found[id], Series(*of_series[id])) for id in some if id in of_series)


def sampled_series(
    database: Database, run_id: str, name: str, most: int, first: int | None, last: int | None
) -> Series | None:
    """At most *most* points (2 or more) of a metric from step *first* to *last* (None: no limit), evenly spaced, with
    the first and the last one, by step and time. None if there is none. SQLite skips the others, since a long run has
    hundreds of thousands."""
    lowest, highest = INT64[0], INT64[-1]
    first = lowest if first is None else min(max(first, lowest), highest)
    last = highest if last is None else min(max(last, lowest), highest)
    with database.reading(), taken_apart(database.path):
        cuts = cuts_of(database, [run_id]).get((run_id, name), ())
        among = (
            "FROM points WHERE series = (SELECT id FROM series WHERE run = ?1 AND name = ?2) AND step <= ?3 "
            "AND (step, time, place) > (?4, ?5, ?6)"
            + "".join(f" AND (place > {place} OR step < {step})" for place, step in cuts)
        )
        each = f"SELECT step, time, place, value {among} ORDER BY step, time, place LIMIT 1 OFFSET ?7"
        of, key = (run_id, name, last), [first, lowest, lowest]
        ((count, *_),) = database.rows(f"SELECT COUNT(*) {among}", (*of, *key))
        parts = min(count, most) - 1
        places = [number * (count - 1) // max(parts, 1) for number in range(parts + 1)]
        points = list[tuple[int, float, float]]()
        for earlier, place in zip([-1, *places], places, strict=False):
            ((*key, value),) = database.rows(each, (*of, *key, place - earlier - 1))
            points.append((key[0], nan_if_null(value), key[1] / 1000))
    return Series.of(points) if points else None


def counts(row: int, step: int, cuts: Iterable[Cut]) -> bool:
    """Whether the row counts, given the *cuts* of its run and metric."""
    return not any(row <= place and step >= first for place, first in cuts)


def attempt_ends(database: Database, run_ids: Sequence[str]) -> dict[str, list[int]]:
    """The last row of each attempt except the latest, by run."""
    statement = "SELECT run, value FROM tags WHERE run IN ({}) AND name = ?"
    return {run_id: _ends_in(text) for run_id, text in database.rows_among(statement, run_ids, ATTEMPT_ENDS)}


def _last_place(connection: sqlite3.Connection, run_id: str) -> int:
    """The last place of the earlier attempts of a run, 0 without them."""
    statement = "SELECT value FROM tags WHERE run = ? AND name = ?"
    found = connection.execute(statement, (run_id, ATTEMPT_ENDS)).fetchone()
    return 0 if found is None else max(_ends_in(found[0]), default=0)


def _ends_in(tag: str) -> list[int]:
    """The last row of each earlier attempt. Empty for another text, since users may overwrite the tag."""
    with suppress(ValueError):
        found = read_json(tag)
        return [each for each in found if isinstance(each, int)] if isinstance(found, list) else []
    return []
