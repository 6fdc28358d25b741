"""What many runs logged, read in bulk: a query for hundreds of runs, points as columns of numbers."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from himl_cli.core.results import RunResults, Series, Value
from himl_cli.workspaces.local.database import Database, taken_apart
from himl_cli.workspaces.local.logged_files import read_logged_files
from himl_cli.workspaces.local.metric_store import counts, cuts_of
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_store import RunStore, chunks

RUNS_OF_POINTS = 20
"""How many runs' points are in memory as rows at a time."""
NAMES_AT_ONCE = 400
Wanted = Callable[[str], bool]


def read_results(
    database: Database, runs_folder: Path, run_ids: Sequence[str], *, wanted: Wanted, whole: bool
) -> dict[str, RunResults]:
    """As `Workspace.results`; the runs' files lie in folders of *runs_folder*."""
    nested = dict(RunStore(database).nested_in(run_ids))
    everyone = [*run_ids, *nested]
    last = _last_values(database, everyone, wanted)
    points = _series(database, everyone, wanted) if whole else {}
    parameters: dict[str, dict[str, str]] = {run_id: {} for run_id in everyone}
    for chunk, marks in chunks(run_ids):
        statement = f"SELECT run, name, value FROM parameters WHERE run IN ({marks}) ORDER BY run, name"
        for run_id, name, value in database.rows(statement, chunk):
            parameters[run_id][name] = value
    found: dict[str, RunResults] = {}
    for run_id in everyone:
        logged = read_logged_files(RunFolder(runs_folder / run_id).artifacts, wanted)
        numbers: dict[str, Value] = {**logged.last, **last.get(run_id, {})}
        if whole:
            in_tables = {f"{name}/{column}" for name, columns in logged.tables.items() for column in columns}
            series = {name: one for name, one in points.get(run_id, {}).items() if name not in in_tables}
            found[run_id] = replace(logged, last=numbers, series=series, parameters=parameters[run_id])
        else:
            found[run_id] = RunResults(numbers, parameters=parameters[run_id])
    for child, root in nested.items():
        found[root] = found[root].filled(found[child])
    return {run_id: found[run_id] for run_id in run_ids}


def _last_values(database: Database, run_ids: Sequence[str], wanted: Wanted) -> dict[str, dict[str, float]]:
    """Of each metric the value with the highest step; of those the latest, then the one logged last. Of several
    attempts, of what counts."""
    found: dict[str, dict[str, float]] = {}
    for chunk, marks in chunks(run_ids):
        for clause, names in _of_names(database, chunk, marks, wanted):
            statement = (
                "SELECT m.run, m.name, m.value FROM (SELECT DISTINCT run, name FROM metrics WHERE run IN "
                f"({marks}){clause}) AS d"
                " JOIN metrics AS m ON m.rowid = (SELECT l.rowid FROM metrics AS l WHERE l.run = d.run AND l.name = "
                "d.name ORDER BY l.step DESC, l.time DESC, l.rowid DESC LIMIT 1)"
            )
            for run_id, name, value in database.rows(statement, (*chunk, *names)):
                found.setdefault(run_id, {})[name] = math.nan if value is None else value
    for (run_id, name), cuts in cuts_of(database, run_ids).items():
        if name in found.get(run_id, {}):
            left = "".join(" AND NOT (rowid <= ? AND step >= ?)" for _ in cuts)
            statement = (
                f"SELECT value FROM metrics WHERE run = ? AND name = ?{left} ORDER BY step DESC, time DESC, "
                "rowid DESC LIMIT 1"
            )
            value = database.rows(statement, (run_id, name, *(part for cut in cuts for part in cut)))[0][0]
            found[run_id][name] = math.nan if value is None else value
    return found


def _series(database: Database, run_ids: Sequence[str], wanted: Wanted) -> dict[str, dict[str, Series]]:
    found: dict[str, dict[str, Series]] = {}
    for chunk, marks in chunks(run_ids, RUNS_OF_POINTS):
        cuts = cuts_of(database, chunk)
        for clause, names in _of_names(database, chunk, marks, wanted):
            statement = (
                f"SELECT run, name, step, time, value, rowid FROM metrics WHERE run IN ({marks}){clause} "
                "ORDER BY run, name, step, time, rowid"
            )
            rows = database.rows(statement, (*chunk, *names))
            if cuts:
                rows = [row for row in rows if counts(row[5], row[2], cuts.get((row[0], row[1]), ()))]
            with taken_apart(database.path):
                for (run_id, name), points in groupby(rows, itemgetter(0, 1)):
                    _, _, steps, times, values, _ = zip(*points, strict=True)
                    numbers = [math.nan if each is None else each for each in values] if None in values else values
                    seconds = array("d", [time / 1000 for time in times])
                    found.setdefault(run_id, {})[name] = Series(array("q", steps), array("d", numbers), seconds)
    return found


def _of_names(
    database: Database, chunk: tuple[str, ...], marks: str, wanted: Wanted
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Conditions on the name, with their values, that together let through what is wanted; no condition where that is
    everything."""
    names = [row[0] for row in database.rows(f"SELECT DISTINCT name FROM metrics WHERE run IN ({marks})", chunk)]
    chosen = [name for name in names if wanted(name)]
    if len(chosen) == len(names):
        yield "", ()
        return
    for some, places in chunks(chosen, NAMES_AT_ONCE):
        yield f" AND name IN ({places})", some
