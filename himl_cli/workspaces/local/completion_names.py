"""Names in the database of a local workspace for completions, read in milliseconds. None if that is not possible."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from himl_cli.workspaces.local import POINTERS

Kind = Literal["runs", "experiments"]

MOST = 200  # names in one reply, since a longer list does not help to choose
# Names that need no quotes in any shell. Others are not offered.
PLAIN = re.compile(r"\w[\w./+-]*", re.ASCII)
SORTABLE = 1000  # runs to sort in memory; if more match, the index over time finds the newest of them soon

FEW = "SELECT id, created, parent IS NULL FROM runs WHERE id >= ? AND id < ? LIMIT ?"
# The index that SQLite would choose would sort all runs
NEWEST = (
    "SELECT id FROM runs INDEXED BY runs_by_time WHERE substr(id, 1, length(:prefix)) = :prefix "
    "AND (parent IS NULL) = :is_top ORDER BY created DESC, id DESC"
)
# Skips from name to name in the index, regardless of the number of runs per experiment
EXPERIMENTS = """
WITH RECURSIVE found (name) AS (
    SELECT min(experiment) FROM runs WHERE experiment >= ?
    UNION ALL SELECT (SELECT min(experiment) FROM runs WHERE experiment > name) FROM found WHERE name IS NOT NULL
)
SELECT name FROM found WHERE name IS NOT NULL
"""


def completion_names(folder: Path, kind: Kind, prefix: str, place: str = "") -> Sequence[str]:
    """The names that start with *prefix* in the local workspace *folder*, at most MOST: ids of runs, newest first, or
    experiments by name. With a *place* (`ssh:HOST`), only those of runs there that were submitted from here.

    Child runs (trials, steps) are included once the id of the parent run is complete, or if nothing else matches.
    Writes nothing and never waits. A database that cannot be read, or is being rewritten, may have no names.
    """
    path = folder / "workspace.db"
    # Open an unused database as immutable, since SQLite would otherwise create files next to it
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    found: list[str] = []
    # Path.as_uri of Python 3.14 imports the HTTP client
    uri = f"file:///{quote(os.fsencode(path.absolute().as_posix()).lstrip(b'/'))}?{mode}"
    pointed = {name for name in _pointed(folder / POINTERS, kind, prefix, place) if PLAIN.fullmatch(name)}
    if place:
        return sorted(pointed)[:MOST]
    with (
        suppress(sqlite3.Error, UnicodeDecodeError),
        closing(sqlite3.connect(uri, uri=True, timeout=0.05)) as connection,
    ):
        deadline = time.monotonic() + 0.08  # names that are found later are omitted
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 20_000)
        names = _runs(connection, prefix) if kind == "runs" else _experiments(connection, prefix)
        for name in filter(PLAIN.fullmatch, names):
            found.append(name)
            if len(found) == MOST:
                break
    return [*sorted(pointed - {*found})[:MOST], *found][:MOST]


def _pointed(folder: Path, kind: Kind, prefix: str, place: str) -> Iterator[str]:
    """Names of runs on other machines, or only of those at *place*."""
    files: list[str] = []
    with suppress(OSError):
        files = [name for name in os.listdir(folder) if name.endswith(".json") and not name.startswith(".")]
    for file in files:
        run_id = file.removesuffix(".json")
        if kind == "runs" and not place and run_id.startswith(prefix):
            yield run_id
        elif kind == "experiments" or (place and run_id.startswith(prefix)):
            with suppress(LookupError, OSError, TypeError, ValueError):  # another process may delete or write it
                pointer = json.loads((folder / file).read_bytes())
                name = run_id if kind == "runs" else pointer["run"]["experiment"]
                if place in ("", pointer["place"]) and name.startswith(prefix):
                    yield name


def _runs(connection: sqlite3.Connection, prefix: str) -> Iterator[str]:
    few = connection.execute(FEW, (prefix, f"{prefix}\U0010ffff", SORTABLE + 1)).fetchall()
    few.sort(key=lambda row: (row[1], row[0]), reverse=True)
    found: set[str] = set()
    for is_top in (True, False):
        rows: Iterable[Sequence[Any]] = (row for row in few if bool(row[2]) is is_top)
        if is_top or not found or prefix in found:
            if len(few) > SORTABLE:
                rows = connection.execute(NEWEST, {"prefix": prefix, "is_top": is_top})
            for name, *_ in rows:
                found.add(name)
                yield name


def _experiments(connection: sqlite3.Connection, prefix: str) -> Iterator[str]:
    names = (name for (name,) in connection.execute(EXPERIMENTS, (prefix,)))
    return takewhile(lambda name: name.startswith(prefix), names)
