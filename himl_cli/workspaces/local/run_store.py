"""Runs and their tags in the local database."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone

from himl_cli.core.jobs import STEP
from himl_cli.core.results import NewRun
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.core.sweeps import MANY, TRIAL
from himl_cli.workspaces.local.database import Database, taken_apart

PAGE = 200
RUNS_AT_ONCE = 500
HOW_LOST = (
    "ended without recording an outcome (it was killed, the machine went down, or the record could not be written)"
)
LOST = f"its supervisor {HOW_LOST}"
LOST_WITH_CHILDREN = (
    f"its keeper {HOW_LOST}; what it had started goes on to its end; to do what is missing: himl submit --resume "
)
"""Of a sweep or a pipeline; its id comes behind it."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def storable(text: str) -> str:
    """*text* as SQLite keeps it: bytes of a command line or file name that are no UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_time(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, timezone.utc)


def chunks(items: Sequence[str], size: int = RUNS_AT_ONCE) -> Iterator[tuple[tuple[str, ...], str]]:
    """Some of *items* at a time, and as many question marks."""
    for start in range(0, len(items), size):
        chunk = tuple(items[start : start + size])
        yield chunk, ",".join("?" * len(chunk))


class RunStore:
    """Reads and writes runs. `lost` arguments are ids of jobs whose supervisor is gone: their open runs read as
    failed."""

    def __init__(self, database: Database, *, label: str = "") -> None:
        self.database = database
        self.label = label

    def add(
        self,
        new: NewRun,
        *,
        job: str = "",
        folder: str = "",
        status: RunStatus = RunStatus.queued,
        started: int | None = None,
        reason_if_lost: str = "",
    ) -> None:
        """Record a run; *job* is the one whose supervisor keeps it, unless it is one itself. *reason_if_lost* is why it
        failed should its keeper end without recording an outcome; empty: `LOST`."""
        known = [new.id, job or new.id, new.parent, new.experiment, new.display_name, new.description, new.command]
        texts = [text and storable(text) for text in (*known, folder)]
        values = (*texts, status.value, reason_if_lost, now_ms(), started)
        with self.database.writing(durable=True) as connection:
            connection.execute(
                "INSERT INTO runs (id, job, parent, experiment, display_name, description, command, folder, status, "
                "reason, created, started) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                values,
            )
            put_pairs(connection, "tags", new.id, new.tags)

    def start(self, run_id: str) -> None:
        self._update(run_id, "status = ?, started = ?", (RunStatus.running.value, now_ms()))

    def end(
        self,
        run_id: str,
        status: RunStatus,
        *,
        exit_code: int | None = None,
        reason: str = "",
        ended: int | None = None,
    ) -> None:
        """Record how the run ended; the first end that is recorded stays."""
        values = (status.value, exit_code, reason, ended or now_ms())
        self._update(run_id, "status = ?, exit_code = ?, reason = ?, ended = ?", values)

    def rename(self, run_id: str, display_name: str) -> None:
        self._update(run_id, "display_name = ?", (display_name,), open_only=False)

    def reopen(self, run_id: str) -> None:
        """A run that has ended is running again: one that is resumed, or a nested run that a client resumed."""
        values = "status = ?, ended = NULL, exit_code = NULL, reason = ''"
        self._update(run_id, values, (RunStatus.running.value,), open_only=False)

    def _update(self, run_id: str, what: str, values: tuple[object, ...], *, open_only: bool = True) -> None:
        guard = " AND ended IS NULL" if open_only else ""
        with self.database.writing(durable=True) as connection:
            connection.execute(f"UPDATE runs SET {what} WHERE id = ?{guard}", (*values, run_id))

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        with self.database.writing() as connection:
            put_pairs(connection, "tags", run_id, tags)

    def delete_tag(self, run_id: str, name: str) -> None:
        with self.database.writing() as connection:
            connection.execute("DELETE FROM tags WHERE run = ? AND name = ?", (run_id, name))

    def delete(self, run_ids: Iterable[str]) -> None:
        with self.database.writing(durable=True) as connection:
            for run_id in run_ids:
                for table in ("tags", "parameters", "metrics"):
                    connection.execute(f"DELETE FROM {table} WHERE run = ?", (run_id,))
                connection.execute("DELETE FROM runs WHERE id = ?", (run_id,))

    def open_jobs(self) -> list[str]:
        return _ids(row["job"] for row in self.database.rows("SELECT DISTINCT job FROM runs WHERE ended IS NULL"))

    def job_of(self, run_id: str) -> str | None:
        """The job that keeps the run, or None where there is no such run."""
        rows = self.database.rows("SELECT job FROM runs WHERE id = ?", (run_id,))
        return next(iter(_ids(row["job"] for row in rows)), None)

    def get(self, run_id: str, lost: Iterable[str] = ()) -> Run | None:
        rows = self.database.rows("SELECT * FROM runs WHERE id = ?", (run_id,))
        found = self._records(rows, set(lost))
        return found[0] if found else None

    def ids(self) -> list[str]:
        return _ids(row["id"] for row in self.database.rows("SELECT id FROM runs ORDER BY created DESC"))

    def open_runs_of(self, job: str) -> list[str]:
        return [row["id"] for row in self.database.rows("SELECT id FROM runs WHERE job = ? AND ended IS NULL", (job,))]

    def descendants(self, run_id: str) -> list[str]:
        """Ids of the run and of all runs below it."""
        tree = (
            "WITH RECURSIVE tree(id) AS (VALUES (?) UNION SELECT runs.id FROM runs JOIN tree ON runs.parent = "
            "tree.id) SELECT id FROM tree"
        )
        return [row["id"] for row in self.database.rows(tree, (run_id,))]

    def nested(self, run_id: str) -> list[str]:
        """Ids of the run and of those that its script nested in it; trials and steps are jobs of their own."""
        return [run_id, *(nested for nested, _ in self.nested_in([run_id]))]

    def nested_in(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The runs that scripts nested in these, oldest first, each with the one of *run_ids* that it belongs to;
        trials and steps are jobs of their own."""
        asked = set(run_ids)
        for chunk, marks in chunks(run_ids):
            tree = (
                f"WITH RECURSIVE tree(id, root, created) AS (SELECT id, id, created FROM runs WHERE id IN ({marks})"
                " UNION SELECT runs.id, tree.root, runs.created FROM runs JOIN tree ON runs.parent = tree.id"
                " WHERE NOT EXISTS (SELECT 1 FROM tags WHERE tags.run = runs.id AND tags.name IN (?, ?)))"
                " SELECT id, root FROM tree WHERE id <> root ORDER BY created, id"
            )
            for row in self.database.rows(tree, (*chunk, TRIAL, STEP)):
                if row["id"] not in asked and _ids([row["id"]]):
                    yield row["id"], row["root"]

    def query(self, wanted: RunQuery, lost: Iterable[str] = ()) -> Iterator[Run]:
        """Runs that match, newest first, a page at a time."""
        gone = set(lost)
        where, values = _conditions(wanted, gone)
        before: tuple[int, str] | None = None
        left = wanted.limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            clause, more = (" AND (created, id) < (?, ?)", before) if before else ("", ())
            rows = self.database.rows(
                f"SELECT * FROM runs WHERE {where}{clause} ORDER BY created DESC, id DESC LIMIT ?",
                (*values, *more, size),
            )
            yield from self._records(rows, gone)
            if len(rows) < size:
                return
            before = (rows[-1]["created"], rows[-1]["id"])
            left = None if left is None else left - len(rows)

    def _records(self, rows: list[sqlite3.Row], lost: set[str]) -> list[Run]:
        with taken_apart(self.database.path):
            if len(_ids(row["id"] for row in rows)) < len(rows):
                raise TypeError("an id is none")
        tags: dict[str, dict[str, str]] = {row["id"]: {} for row in rows}
        marks = ",".join("?" * len(tags))
        for row in self.database.rows(
            f"SELECT run, name, value FROM tags WHERE run IN ({marks}) ORDER BY name", tuple(tags)
        ):
            tags[row["run"]][row["name"]] = row["value"]
        with taken_apart(self.database.path):
            return [self._record(row, tags[row["id"]], lost) for row in rows]

    def _record(self, row: sqlite3.Row, tags: dict[str, str], lost: set[str]) -> Run:
        is_lost = row["ended"] is None and row["job"] in lost
        how_lost = LOST_WITH_CHILDREN + row["id"] if MANY in tags else LOST
        return Run(
            id=row["id"],
            experiment=row["experiment"],
            status=RunStatus.failed if is_lost else RunStatus(row["status"]),
            created=datetime.fromtimestamp(row["created"] / 1000, timezone.utc),
            display_name=row["display_name"],
            description=row["description"],
            started=as_time(row["started"]),
            ended=as_time(row["ended"]),
            tags=tags,
            parent=row["parent"],
            exit_code=row["exit_code"],
            reason=(row["reason"] or how_lost) if is_lost else row["reason"] if row["ended"] is not None else "",
            command=row["command"],
            workspace=self.label,
            folder=row["folder"],
        )


def _ids(found: Iterable[object]) -> list[str]:
    """Those of *found* that can be ids of runs, and the names of their folders: SQLite keeps whatever it is given."""
    return [
        each for each in found if isinstance(each, str) and each.isprintable() and each.strip(".") and "/" not in each
    ]


def put_pairs(
    connection: sqlite3.Connection, table: str, run_id: str, pairs: Mapping[str, str], *, rule: str = "REPLACE"
) -> None:
    """Store tags or parameters; *rule* is SQLite's for those that are there."""
    connection.executemany(
        f"INSERT OR {rule} INTO {table} (run, name, value) VALUES (?,?,?)",
        [(run_id, storable(name), storable(value)) for name, value in pairs.items()],
    )


def _conditions(wanted: RunQuery, lost: set[str]) -> tuple[str, tuple[object, ...]]:
    """The WHERE clause of a query and its values."""
    parts = ["parent = ?" if wanted.parent else "parent IS NULL"]
    values: list[object] = [wanted.parent] if wanted.parent else []
    if wanted.experiment is not None:
        parts.append("experiment = ?")
        values.append(wanted.experiment)
    for name, value in wanted.tags.items():
        parts.append("EXISTS (SELECT 1 FROM tags WHERE run = runs.id AND name = ? AND value = ?)")
        values += [name, value]
    if wanted.statuses:
        gone = ",".join("?" * len(lost))
        marks = ",".join("?" * len(wanted.statuses))
        parts.append(f"CASE WHEN ended IS NULL AND job IN ({gone}) THEN 'Failed' ELSE status END IN ({marks})")
        values += [*sorted(lost), *(status.value for status in wanted.statuses)]
    return " AND ".join(parts), tuple(values)
