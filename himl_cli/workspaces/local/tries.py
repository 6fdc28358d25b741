"""Tries of one run: what a later one logs takes the place of what earlier ones logged at that step and beyond.

So a script that begins anew and one that goes on from a checkpoint both leave one series. The values of earlier tries
stay in the database.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from himl_cli.core.runs import TRIES
from himl_cli.core.text import read_json
from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.run_store import RUNS_AT_ONCE, RunStore

Cut = tuple[int, int]
"""A row's number and a step: of the rows up to that one, those with that step or a higher one do not count."""
Cuts = Mapping[tuple[str, str], Sequence[Cut]]
"""By run and name of the metric; only those of which anything may not count."""


def begin_try(database: Database, run_id: str) -> None:
    """Put on record that what is logged from here on is another try's; nothing where none was logged before."""
    last = database.rows("SELECT MAX(rowid) FROM metrics WHERE run = ?", (run_id,))[0][0]
    if last is not None:
        places = sorted({*_places(database, [run_id]).get(run_id, []), last})
        RunStore(database).tag(run_id, {TRIES: json.dumps(places)})


def cuts_of(database: Database, run_ids: Sequence[str]) -> Cuts:
    """What later tries of *run_ids* took the place of; empty where each had one try."""
    cuts: dict[tuple[str, str], list[Cut]] = {}
    for run_id, places in _places(database, run_ids).items():
        for place in places:
            for row in database.rows(
                "SELECT name, MIN(step) FROM metrics WHERE run = ? AND rowid > ? GROUP BY name", (run_id, place)
            ):
                cuts.setdefault((run_id, row[0]), []).append((place, row[1]))
    return cuts


def counts(row: int, step: int, cuts: Iterable[Cut]) -> bool:
    """Whether the row counts, *cuts* being those of its run and metric."""
    return not any(row <= place and step >= first for place, first in cuts)


def _places(database: Database, run_ids: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for start in range(0, len(run_ids), RUNS_AT_ONCE):
        chunk = run_ids[start : start + RUNS_AT_ONCE]
        statement = f"SELECT run, value FROM tags WHERE run IN ({','.join('?' * len(chunk))}) AND name = ?"
        for row in database.rows(statement, (*chunk, TRIES)):
            found[row["run"]] = _numbers(row["value"])
    return found


def _numbers(text: str) -> list[int]:
    """The list in a tag, which anybody may have written over."""
    try:
        found = read_json(text)
    except ValueError:
        return []
    return [number for number in found if isinstance(number, int)] if isinstance(found, list) else []
