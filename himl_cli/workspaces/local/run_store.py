"""Runs in the SQLite file of a local workspace, which any number of processes can open and write to."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeGuard, TypeVar, cast
from urllib.parse import quote

from himl_cli.core.documents import from_document
from himl_cli.core.errors import DiskFailed
from himl_cli.core.files import may_write
from himl_cli.core.installation import update_hint
from himl_cli.core.jobs import STEP
from himl_cli.core.json_text import read_json
from himl_cli.core.locks import is_locked, unseen_holder
from himl_cli.core.mounts import is_local_folder, shares_locks
from himl_cli.core.processes import register_after_fork
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import mask_document
from himl_cli.core.runs import (
    ARCHIVED,
    ATTEMPTS,
    LAST_ATTEMPT,
    NOTE,
    REPEATED_BY,
    Run,
    RunEnd,
    RunQuery,
    RunStatus,
    job_tag,
    queued_in,
)
from himl_cli.core.sweeps import BEST_TRIAL, MANY, TRIAL, best_trial_of
from himl_cli.core.text import storable
from himl_cli.workspaces.local.run_folder import CHECK_PERMISSIONS, END, FREE_SPACE, RunFolder
from himl_cli.workspaces.local.schema import OF_RUNS, SCHEMA_VERSION, prepare, read_as_series

SHARE_SECONDS = 5.0
RECORDING = "recording"  # the workspace's folder of marks with the ids of runs, where locks may not be visible
OTHER_WORKSPACE = "Use a workspace on another file system (--workspace FOLDER), or one per machine."
BUSY_SECONDS = 60.0
T = TypeVar("T")
ROLLBACK = "TRUNCATE"  # the journal of each transaction then uses the same file
EXCLUSIVE = "PRAGMA locking_mode=EXCLUSIVE"
NO_ROOM_BESIDE = ("unable to open", "disk I/O error", "readonly database")  # SQLite cannot create files next to it


class Database:
    """One connection to `workspace.db`, safe to share between threads.

    Writes that change a run's status are flushed to disk (`durable=True`). Metrics survive a crash of any process, and
    a power cut can only lose the latest ones. Times are integers, milliseconds since 1970 UTC. A write waits for others
    for *patience* seconds, and then raises DiskFailed. Each write first calls `check_alone`, and each use looks for a
    run that another machine records, unless this process records one itself (*is_guarded* is false).
    `is_local` is whether its folder is on a file system of this machine, and `has_locks` whether other machines see
    locks there, None if that is unknown.
    """

    def __init__(
        self, path: Path, *, create: bool = False, patience: float = BUSY_SECONDS, is_guarded: bool = True
    ) -> None:
        self.path = path
        self.is_guarded = is_guarded
        self.is_local = is_local_folder(path.parent)
        self.has_locks = self.is_local or shares_locks(path.parent)
        self._create = create
        self._patience = patience
        self._lock = threading.RLock()
        self._left_open: list[sqlite3.Connection] = []
        self._is_durable: bool | None = None  # the last write of the connection
        self._is_reading = False
        with translated(path):
            self._connect()
        register_after_fork(self)

    def after_fork(self) -> None:
        """Drop the connection in a forked process, since SQLite forbids to use, and even to close, those of the parent.
        The next use opens another one."""
        self._lock = threading.RLock()
        self._closer.detach()
        self._left_open.append(self._connection)
        self._is_open = self._is_reading = False

    def _connect(self) -> None:
        """Connect normally, else without the shared memory, which a full disk prevents, else to a read-only file. A
        user who may only read leaves no files beside it, which would lock out the others."""
        self._read = None
        if self._create and not self.path.exists():
            with suppress(OSError):  # which SQLite reports
                self.path.touch()  # with the mode that the umask gives, which SQLite copies to the files beside it
        try:
            # Even a reader of SQLite changes the file if it finds the journal of a writer whose lock it does not see
            is_unseen = self._unseen_run() is not None
            if not is_unseen and (may_write(self.path) or not self.path.is_file()):
                mode, pragma = "mode=rwc" if self._create else "mode=rw", "" if self.is_local else EXCLUSIVE
                has_wal = not self.is_local and self._state()[1]  # of another place or of an earlier himl
                try:
                    connection, version = self._open(mode, pragma, SHARE_SECONDS if has_wal else BUSY_SECONDS)
                except sqlite3.OperationalError as err:
                    if has_wal and "locked" in str(err):
                        raise self._in_use(err) from err
                    raise
                if not self.is_local:
                    connection.execute(f"PRAGMA journal_mode={ROLLBACK}")
                    connection.execute("PRAGMA locking_mode=NORMAL")
                    connection.execute(f"PRAGMA busy_timeout={round(BUSY_SECONDS * 1000)}")
                    connection.execute("SELECT 1 FROM sqlite_master")  # which releases the lock
            else:
                self._read = self._state()
                connection, version = self._open("mode=ro" if self._read[1] and not is_unseen else "immutable=1")
        except sqlite3.OperationalError as err:
            if not self.path.is_file() or not any(symptom in str(err) for symptom in NO_ROOM_BESIDE):
                raise
            try:
                connection, version = self._open("mode=rw", EXCLUSIVE)
            except sqlite3.OperationalError:
                connection, version = self._open("immutable=1")
        if version > SCHEMA_VERSION:
            connection.close()
            raise DiskFailed(f"'{self.path}' was written by a newer himl.", hint=update_hint())
        if version == 0:  # later, this would require a VACUUM, which may change the numbers of rows
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        if version == 0 and self.is_local:  # WAL needs shared memory, which network file systems lack
            # (sqlite.org/wal.html). A change of the journal ignores the busy timeout
            _once_unlocked(connection, "PRAGMA journal_mode=WAL", BUSY_SECONDS)
        elif connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete":  # the default of each connection
            connection.execute(f"PRAGMA journal_mode={ROLLBACK}")
        if version < SCHEMA_VERSION:
            (prepare if version == 0 or self._read is None else read_as_series)(connection)
        self._connection, self._is_durable = connection, None
        self._closer = weakref.finalize(self, connection.close)
        self._is_open = True

    def _state(self) -> tuple[int, bool]:
        """What changes when others write: the time of the file, and whether there is a write-ahead log."""
        changed = self.path.stat().st_mtime_ns if self.path.exists() else 0
        return changed, self.path.with_name(f"{self.path.name}-wal").exists()

    def _open(self, mode: str, pragma: str = "", timeout: float = BUSY_SECONDS) -> tuple[sqlite3.Connection, int]:
        name = f"file:///{quote(os.fsencode(self.path.absolute().as_posix()).lstrip(b'/'))}?{mode}"
        connection = sqlite3.connect(name, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        try:
            connection.execute(pragma)
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error:
            connection.close()
            raise
        return connection, version

    def rows(self, statement: str, values: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        with self._using() as connection:
            return connection.execute(statement, values).fetchall()

    def batches(self, statement: str, values: tuple[object, ...], size: int = 2_000) -> Iterator[list[sqlite3.Row]]:
        """The rows, *size* at a time, so that no more are in memory. Must be used up before other calls."""
        with self._using() as connection:
            cursor = connection.execute(statement, values)
            while rows := cursor.fetchmany(size):
                yield rows

    def rows_among(
        self, statement: str, items: Sequence[object], *values: object, size: int = 500
    ) -> Iterator[sqlite3.Row]:
        """The rows of *statement*, which has `{}` in place of *items* (no more than *size* at a time, since SQLite
        limits them), followed by *values*."""
        for chunk, marks in chunks(items, size):
            yield from self.rows(statement.format(marks), (*chunk, *values))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One transaction for several questions, since on a network file system each takes many requests. Must not
        contain writes."""
        with self._using() as connection:
            if connection.in_transaction:
                yield
                return
            connection.execute("BEGIN")
            self._is_reading = True
            try:
                yield
            finally:
                self._is_reading = False
                connection.execute("COMMIT")

    @contextmanager
    def _using(self, *, to_write: bool = False) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(self.path):
            if self._is_reading:
                is_stale = False
            elif self._read is None:
                is_stale = self.is_guarded and self._unseen_run() is not None
            else:  # it may have been opened while another machine recorded a run
                may_change = to_write and self.is_guarded and not self.has_locks and may_write(self.path)
                is_stale = may_change or self._read != self._state()
            if self._is_open and is_stale:
                self.close()
            if not self._is_open:
                self._connect()
            yield self._connection

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction, which is stored completely or not at all."""
        if self.is_guarded:
            self.check_alone()
        with self._using(to_write=True) as connection:
            if self.is_guarded and self._read is not None and (found := self._unseen_run()) is not None:
                raise self._refusal(*found)  # it began since the check
            if durable is not self._is_durable:
                connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._is_durable = durable
            # SQLite polls at growing intervals, so that under load some processes would wait for minutes
            connection.execute("PRAGMA busy_timeout=0")
            try:
                _once_unlocked(connection, "BEGIN IMMEDIATE", self._patience)
            finally:
                connection.execute(f"PRAGMA busy_timeout={round(BUSY_SECONDS * 1000)}")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite itself rolls back on a full disk
                    connection.execute("ROLLBACK")
                raise

    def share(self) -> None:
        """Give up a WAL journal, which other machines cannot use. Raises DiskFailed while other processes use it, and
        if machines do not see each other's locks."""
        self.check_alone()
        if self.has_locks is False:
            text = f"'{self.path.parent}' is mounted so that machines do not see each other's locks"
            raise DiskFailed(f"{text}, and results of jobs would be lost.", hint=OTHER_WORKSPACE)
        deadline = time.monotonic() + SHARE_SECONDS
        while True:
            with self._using() as connection:
                try:
                    connection.execute(f"PRAGMA journal_mode={ROLLBACK}")
                    return
                except sqlite3.OperationalError as err:
                    if "locked" not in str(err) or time.monotonic() > deadline:
                        raise self._in_use(err) from err
            self.close()  # another process that waits for the same thing waits for this connection, too
            time.sleep(random.uniform(0.0, 0.1))  # noqa: S311 - no secret

    def _in_use(self, err: sqlite3.Error) -> DiskFailed:
        """The error while other processes use a WAL journal that has to go."""
        text = f"Other processes of this machine use '{self.path}', so himl cannot share it with other machines: {err}."
        return DiskFailed(text, hint="Try again when local jobs, himl ui and himl tb of this workspace have ended.")

    def check_alone(self, run_id: str = "") -> None:
        """Unless machines are known to see each other's locks, raise DiskFailed while a process records a run whose
        lock is not visible here, since SQLite would lose values of both. From now on, others find *run_id*, whose lock
        this process holds, and nothing is guarded until the process sets `is_guarded` at the run's end. Raises
        OSError."""
        marks = self.path.with_name(RECORDING)
        if run_id and not self.has_locks:
            self.check_alone()
            marks.mkdir(exist_ok=True)
            (marks / run_id).touch()
        while (found := self._unseen_run()) is not None:
            other, holder = found
            if self.rows("SELECT 1 FROM runs WHERE id = ? AND ended IS NOT NULL", (other,)):  # as its engine knows
                (marks / other).unlink(missing_ok=True)
                self.close()
                continue
            if run_id:
                (marks / run_id).unlink(missing_ok=True)
            raise self._refusal(other, holder)
        if run_id:
            self.is_guarded = False
            if not self.has_locks:
                self.close()  # a connection may still have pages from before another machine wrote

    def _refusal(self, other: str, holder: str) -> DiskFailed:
        text = f"'{self.path.parent}' does not show locks of {holder}, where run '{other}' may be in progress"
        hint = f"{OTHER_WORKSPACE} If the run has ended: himl runs cancel {other} --force"
        return DiskFailed(f"{text}, so results could be lost.", hint=hint)

    def _unseen_run(self) -> tuple[str, str] | None:
        """A run that may be in progress where its lock is not visible here, and that place."""
        for mark in () if self.has_locks else self.path.with_name(RECORDING).glob("*"):
            lock = self.path.parent / "runs" / mark.name / "lock"
            if not is_locked(lock, seen=True):
                if holder := unseen_holder(lock) or ("another mount of it" if is_locked(lock) else ""):
                    return mark.name, holder
                with suppress(OSError):
                    mark.unlink()
        return None

    def close(self) -> None:
        """Close the connection. The next use of the database opens another one."""
        with self._lock:
            self._closer()
            self._is_open = False


def _once_unlocked(connection: sqlite3.Connection, statement: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as err:
            if "locked" not in str(err) or time.monotonic() > deadline:
                raise
        # A short random pause gives all waiting processes the same chance
        time.sleep(random.uniform(0.0, 0.02))  # noqa: S311 - no secret


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about *path* into DiskFailed."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as err:  # a damaged schema raises the latter
        text = str(err)
        table = (
            (("locked",), f"'{path}' is busy: other processes write to it.", "Try again when they have ended."),
            (("not a database", "malformed"), f"'{path}' is damaged: {text}.", _hint_of_damage(path)),
            (("can't decode",), f"'{path}' is damaged: it has invalid values.", _hint_of_damage(path)),
            (("readonly", "unable to open"), f"Cannot write '{path}': {text}.", CHECK_PERMISSIONS),
            (("full",), f"No space left to write '{path}'.", FREE_SPACE),
            (("",), f"Cannot use '{path}': {text}.", ""),
        )
        message, hint = next(row[1:] for row in table if any(word in text for word in row[0]))
        if os.path.lexists(path) and not os.path.isfile(path):
            message, hint = f"'{path}' is not a file, or is a dangling link.", _hint_of_damage(path)
        raise DiskFailed(message, hint=hint) from err


@contextmanager
def taken_apart(path: Path) -> Iterator[None]:
    """Raise DiskFailed for invalid values in rows of *path*. Must not contain writes."""
    try:
        yield
    except (OSError, OverflowError, TypeError, ValueError) as err:
        raise DiskFailed(f"'{path}' is damaged: it has invalid values.", hint=_hint_of_damage(path)) from err


def _hint_of_damage(path: Path) -> str:
    return f"To start a new database, move '{path.name}' away. The files of the runs are not affected."


PAGE = 200
MOST_FREE, PAGES_AT_ONCE = 250, 5000  # pages of the database, of 4 KiB each
INCREMENTAL = 2
MOST_ALIKE = 250
# Fields of a run with the same names in the database
AS_STORED = ("id", "experiment", "display_name", "description", "parent", "exit_code", "command", "folder")
HOW_LOST = (
    "ended without recording an outcome (it was killed, the machine went down, or the record could not be written)"
)
LOST = f"its supervisor {HOW_LOST}"
# For a sweep or a pipeline, whose id follows
LOST_WITH_CHILDREN = f"its controller {HOW_LOST}; its child runs continue; to do what is missing: himl submit --resume "


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def as_time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)


def chunks(items: Sequence[T], size: int = 500) -> Iterator[tuple[tuple[T, ...], str]]:
    """Chunks of *items*, each with as many question marks."""
    for start in range(0, len(items), size):
        chunk = tuple(items[start : start + size])
        yield chunk, ",".join("?" * len(chunk))


@dataclass(frozen=True)
class Outcome(RunEnd):
    """The end of a run that himl supervised. `ended` is in milliseconds since 1970, None: now."""

    exit_code: int | None = None
    ended: int | None = None


class RunStore:
    """Reads and writes runs. `lost` arguments are ids of jobs without a supervisor, whose open runs have the status
    Failed. `reasons` are the reasons for which open jobs wait or are unknown."""

    def __init__(self, database: Database, *, label: str = "") -> None:
        self.database = database
        self.label = label

    def add(self, *runs: Run, job: str = "") -> None:
        """Record new runs, all of them or none. *job* is the job whose supervisor records them, by default each run
        itself. `reason` is that of a failure if this process records no outcome (default: `LOST`)."""
        with self.database.writing(durable=True) as connection:
            for run in runs:
                names = (run.id, job or run.id, run.parent, run.experiment, run.display_name, run.description)
                texts = (text and storable(text) for text in (*names, run.command, run.folder))
                started = None if run.started is None else round(run.started.timestamp() * 1000)
                connection.execute(
                    "INSERT INTO runs (id, job, parent, experiment, display_name, description, command, folder, "
                    "status, reason, created, started) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                    (*texts, run.status.value, run.reason, now_ms(), started),
                )
                put_pairs(connection, "tags", run.id, run.tags)
                if job not in ("", run.id):
                    _note_attempt(connection, run.id)

    def adopt(self, run: Run) -> None:
        """Record a run that has ended elsewhere, with its times and its end."""
        self.add(run)
        times = [None if time is None else round(time.timestamp() * 1000) for time in (run.created, run.ended)]
        what = "created = ?, ended = COALESCE(?, created), exit_code = ?"
        self._update(run.id, what, (*times, run.exit_code))

    def start(self, run_id: str) -> None:
        """Record the start of an attempt. A run has started with its first one."""
        attempts, now = self._attempts(run_id), now_ms()
        self._update(run_id, "status = ?, started = COALESCE(started, ?)", (RunStatus.running.value, now))
        if attempts:
            self.tag(run_id, {ATTEMPTS: json.dumps([*attempts, (now, None, "")])})

    def end_attempt(self, run_id: str, outcome: str, ended: int | None = None) -> None:
        """Record how an attempt ended, since another one may follow."""
        if attempts := self._attempts(run_id):
            *before, (started, _, known) = attempts
            if known:  # this one failed before its start
                before, started = attempts, None
            self.tag(run_id, {ATTEMPTS: json.dumps([*before, (started, ended or now_ms(), outcome)])})

    def _attempts(self, run_id: str) -> list[tuple[int | None, int | None, str]]:
        statement = "SELECT started, (SELECT value FROM tags WHERE run = id AND name = ?) FROM runs WHERE id = ?"
        for started, text in self.database.rows(statement, (ATTEMPTS, run_id)):
            with suppress(TypeError, ValueError):  # no tag, or another value of a user
                return [(begin, end, outcome) for begin, end, outcome in read_json(text)]
            return [(started, None, "")] if started is not None else []
        return []

    def start_parent(self, run_id: str) -> None:
        """Record that a child has started. Without a controller, a parent run whose end was recorded continues, since
        its children seemed to have ended."""
        if (found := self.get(run_id)) is None:
            return
        has_ended = found.status in (RunStatus.failed, RunStatus.completed)
        if has_ended and "[" in (queued_in(found.tags) or ("", ""))[1]:
            self.resume(run_id)
        if found.started is None:
            self.start(run_id)

    def requeue(self, run_id: str) -> None:
        """Record that an open run waits in a queue."""
        if (found := self.get(run_id)) is not None and found.status is not RunStatus.queued:
            self._update(run_id, "status = ?", (RunStatus.queued.value,))

    def end(
        self,
        run_id: str,
        status: RunStatus,
        reason: str = "",
        *,
        exit_code: int | None = None,
        ended: int | None = None,
        if_tagged: tuple[str, str] | None = None,
    ) -> None:
        """Record how the run ended, unless it has an end already. With *if_tagged*, the name and the value of a tag,
        only if the run still has that tag."""
        self._update(
            run_id,
            "status = ?, exit_code = ?, reason = ?, ended = ?",
            (status.value, exit_code, reason, ended or now_ms()),
            if_tagged=if_tagged,
        )

    def end_job(self, run_id: str, end: Outcome) -> None:
        """Record how a job ended. Nested runs that its script left open get its status."""
        self.end_nested(run_id, end.status, "the job ended", end.ended)
        self.end(run_id, end.status, end.reason, exit_code=end.exit_code, ended=end.ended)

    def end_nested(self, job: str, status: RunStatus, reason: str, ended: int | None = None) -> None:
        """Record the end of the open runs that the script of *job* nested in its run."""
        for nested in self.open_runs_of(job):
            if nested != job:
                self.end(nested, status, reason, ended=ended)

    def end_as_noted(self, folder: RunFolder) -> bool:
        """Record the end of a run without a supervisor, if its folder has it. Returns whether it does."""
        try:
            end = from_document(Outcome, folder.read(END))
        except (AttributeError, DiskFailed, KeyError, TypeError, ValueError):  # there is none, or it is damaged
            return False
        with suppress(DiskFailed):  # this user may only read
            self.end_job(folder.run_id, end)
        return True

    def rename(self, run_id: str, display_name: str, *, by_script: bool = True) -> None:
        """Change the name. If a script does so, its nested run is one of the current attempt."""
        self._update(run_id, "display_name = ?", (display_name,), open_only=False)
        if by_script:
            with self.database.writing() as connection:
                _note_attempt(connection, run_id)

    def attempt(self, run_id: str) -> int:
        """The number of the current attempt of the run's job, from 1."""
        statement = "SELECT value FROM tags WHERE run = (SELECT job FROM runs WHERE id = ?) AND name = ?"
        found = [row["value"] for row in self.database.rows(statement, (run_id, LAST_ATTEMPT))]
        return int(found[0]) if found and found[0].isdecimal() else 1

    def resume(self, run_id: str) -> None:
        """Record that another attempt of the run may start."""
        run = self.get(run_id)
        if run is not None and run.ended is not None:
            self.end_attempt(run_id, RunEnd(run.status, run.reason).text, round(run.ended.timestamp() * 1000))
        self.reopen(run_id)

    def reopen(self, run_id: str) -> None:
        """Record that an ended run is running again. A nested run is then one of the current attempt."""
        values = "status = ?, ended = NULL, exit_code = NULL, reason = ''"
        self._update(run_id, values, (RunStatus.running.value,), open_only=False)
        if (attempt := self.attempt(run_id)) > 1:
            self.tag(run_id, {LAST_ATTEMPT: str(attempt), REPEATED_BY: None})

    def _update(
        self,
        run_id: str,
        what: str,
        values: tuple[object, ...],
        *,
        open_only: bool = True,
        if_tagged: tuple[str, str] | None = None,
    ) -> None:
        guard = " AND ended IS NULL" if open_only else ""
        if if_tagged:
            guard += " AND EXISTS (SELECT 1 FROM tags WHERE run = id AND name = ? AND value = ?)"
        with self.database.writing(durable=True) as connection:
            statement = f"UPDATE runs SET {what} WHERE id = ?{guard}"
            connection.execute(statement, (*values, run_id, *(if_tagged or ())))

    def tag(self, run_id: str, tags: Mapping[str, str | None]) -> None:
        """Set tags, and delete those with the value None. Do nothing for a run that another process has deleted."""
        with self.database.writing() as connection:
            if connection.execute("SELECT 1 FROM runs WHERE id = ?", (run_id,)).fetchone() is None:
                return
            gone = [(run_id, storable(name)) for name, value in tags.items() if value is None]
            connection.executemany("DELETE FROM tags WHERE run = ? AND name = ?", gone)
            put_pairs(connection, "tags", run_id, {name: value for name, value in tags.items() if value is not None})

    def replace_tag(self, run_id: str, name: str, value: str, new: str) -> bool:
        """Change the tag from *value* to *new*. Among several processes, only one succeeds."""
        with self.database.writing() as connection:
            statement = "UPDATE tags SET value = ? WHERE run = ? AND name = ? AND value = ?"
            return connection.execute(statement, (storable(new), run_id, name, value)).rowcount == 1

    def tag_each(self, name: str, values: Mapping[str, str]) -> None:
        """Set the tag of several runs to the *values* by run id."""
        with self.database.writing(durable=True) as connection:
            for run_id, value in values.items():
                put_pairs(connection, "tags", run_id, {name: value})

    def delete_tag(self, run_id: str, name: str) -> bool:
        """Delete a tag. Returns False if the run lacks it."""
        with self.database.writing() as connection:
            return connection.execute("DELETE FROM tags WHERE run = ? AND name = ?", (run_id, name)).rowcount == 1

    def delete(self, run_ids: Sequence[str], remove: Callable[[str], None]) -> None:
        """Delete the runs, and *remove* the folder of each.

        An interrupted call leaves folders of runs that no longer exist. The next call removes them. If the disk is too
        full to record the deletion, the folders are removed first. Raises DiskFailed from *remove* for one of these
        runs, after the others.
        """
        try:
            self._delete_records(run_ids)
        except DiskFailed as err:
            if err.hint != FREE_SPACE:
                raise
            for run_id in run_ids:
                remove(run_id)
            self._delete_records(run_ids)
        errors, rest = {}, "SELECT run FROM folders_to_delete WHERE run NOT IN (SELECT id FROM runs)"
        for run_id in dict.fromkeys([*run_ids, *(row["run"] for row in self.database.rows(rest))]):
            try:
                self._remove_folder(run_id, remove)
            except DiskFailed as err:
                errors[run_id] = err
        for run_id in run_ids:
            if run_id in errors:
                raise errors[run_id]

    def has_rest(self, run_id: str) -> bool:
        """Whether the run was deleted, but not its folder."""
        rest = "SELECT 1 FROM folders_to_delete WHERE run = ? AND run NOT IN (SELECT id FROM runs)"
        return bool(self.database.rows(rest, (run_id,)))

    def _delete_records(self, run_ids: Sequence[str]) -> None:
        ids = [(run_id,) for run_id in run_ids]
        with self.database.writing(durable=True) as connection:
            connection.executemany("INSERT OR IGNORE INTO folders_to_delete VALUES (?)", ids)
            connection.executemany("DELETE FROM runs WHERE id = ?", ids)
            for table in OF_RUNS:
                connection.executemany(f"DELETE FROM {table} WHERE run = ?", ids)
        with suppress(DiskFailed):
            self._free_pages()

    def _free_pages(self) -> None:
        """Return free pages to the file system, in short transactions. Databases of earlier versions keep them."""
        mode, free = (self.database.rows(f"PRAGMA {name}")[0][0] for name in ("auto_vacuum", "freelist_count"))
        for _ in range(0, free if mode == INCREMENTAL and free > MOST_FREE else 0, PAGES_AT_ONCE):
            with self.database.writing() as connection:
                for _ in range(PAGES_AT_ONCE):  # the module sqlite3 stops after one page
                    connection.execute("PRAGMA incremental_vacuum(1)")

    def _remove_folder(self, run_id: str, remove: Callable[[str], None]) -> None:
        remove(run_id)
        with self.database.writing() as connection:
            connection.execute("DELETE FROM folders_to_delete WHERE run = ?", (run_id,))

    def open_jobs(self) -> list[str]:
        return _ids(row["job"] for row in self.database.rows("SELECT DISTINCT job FROM runs WHERE ended IS NULL"))

    def others_in_folder(self, run_id: str, folder: str) -> list[tuple[str, bool]]:
        """The other jobs in *folder* that may have run after the start of *run_id*, each with whether it has ended."""
        statement = (
            "SELECT id, ended FROM runs WHERE folder = ? AND id != ? AND job = id AND started IS NOT NULL AND "
            "(ended IS NULL OR ended >= (SELECT started FROM runs WHERE id = ?))"
        )
        return [(id, ended is not None) for id, ended in self.database.rows(statement, (folder, run_id, run_id))]

    def open_children(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The open children of these runs that are separate jobs, each with its parent."""
        statement = "SELECT id, parent FROM runs WHERE parent IN ({}) AND ended IS NULL AND job = id"
        yield from ((row["id"], row["parent"]) for row in self.database.rows_among(statement, run_ids))

    def queued_jobs(self, run_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """The open runs among these in the queue of an engine, each with the engine and the handle of its job, or '' if
        it is unknown."""
        of_open = "SELECT id FROM runs WHERE id IN ({}) AND ended IS NULL"
        statement = f"SELECT run, name, value FROM tags WHERE run IN ({of_open}) AND name GLOB ?"
        rows = self.database.rows_among(statement, run_ids, job_tag("*"))
        return {row["run"]: cast("tuple[str, str]", queued_in({row["name"]: row["value"]})) for row in rows}

    def job_of(self, run_id: str) -> str | None:
        """The job that records the run, or None if there is no such run."""
        found = _ids(row["job"] for row in self.database.rows("SELECT job FROM runs WHERE id = ?", (run_id,)))
        return found[0] if found else None

    def get(self, run_id: str, lost: Iterable[str] = (), reasons: Mapping[str, str] | None = None) -> Run | None:
        return next(iter(self.many([run_id], lost, reasons)), None)

    def many(
        self, run_ids: Sequence[str], lost: Iterable[str] = (), reasons: Mapping[str, str] | None = None
    ) -> list[Run]:
        """The runs of these ids in their order, without deleted ones."""
        found: dict[str, Run] = {}
        for chunk, marks in chunks(run_ids, PAGE):
            with self.database.reading():
                rows = self.database.rows(f"SELECT * FROM runs WHERE id IN ({marks})", chunk)
                found |= {run.id: run for run in self._records(rows, set(lost), reasons or {})}
        return [found[run_id] for run_id in run_ids if run_id in found]

    def ids_like(self, text: str) -> list[str]:
        """The ids that *text* may abbreviate, those of the newest runs, and those with the most quarters of *text*.
        Limits the latter two to `MOST_ALIKE`, since comparing spellings takes long."""
        from glob import escape

        size = len(text) // 4 + 1
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        shared = "+".join("min(instr(id, ?), 1)" for _ in parts) or "NULL"
        begins, newest = "substr(id, 1, length(?1)) = ?1", "ORDER BY created DESC, id DESC"
        hex_begins = "instr(id, '_' || ?1) AND id GLOB ?2"
        queries: dict[str, tuple[object, ...]] = {
            f"WHERE {begins} OR ({hex_begins}) {newest}": (text, f"*[0-9]_{escape(text)}*"),
            f"{newest} LIMIT {MOST_ALIKE}": (),
            f"INDEXED BY runs_by_time ORDER BY {shared} DESC LIMIT {MOST_ALIKE}": (*parts,),
        }
        found = (self.database.rows(f"SELECT id FROM runs {query}", queries[query]) for query in queries)
        return [*dict.fromkeys(each for rows in found for each in _ids(row["id"] for row in rows))]

    def ids(self) -> list[str]:
        return _ids(row["id"] for row in self.database.rows("SELECT id FROM runs ORDER BY created DESC"))

    def experiments(self) -> dict[str, datetime]:
        """The time of the first run of each experiment, by name, newest first."""
        statement = "SELECT experiment, MIN(created) AS first FROM runs GROUP BY experiment ORDER BY first DESC"
        with taken_apart(self.database.path):
            return {name: as_time(first) for name, first in self.database.rows(statement)}

    def open_runs_of(self, job: str) -> list[str]:
        return [row["id"] for row in self.database.rows("SELECT id FROM runs WHERE job = ? AND ended IS NULL", (job,))]

    def descendants(self, run_id: str) -> list[str]:
        """Ids of the run and of all its descendants."""
        tree = (
            "WITH RECURSIVE tree(id) AS (VALUES (?) UNION SELECT runs.id FROM runs JOIN tree ON runs.parent = "
            "tree.id) SELECT id FROM tree"
        )
        return [row["id"] for row in self.database.rows(tree, (run_id,))]

    def nested(self, run_id: str) -> list[str]:
        """Ids of the run and of those that its script nested in it. Trials and steps are separate jobs."""
        return [run_id, *(nested for nested, _ in self.nested_in([run_id]))]

    def nested_in(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The runs that scripts nested in these, oldest first, each with its ancestor among *run_ids*. Trials and
        steps are separate jobs. Omits runs that a later attempt repeated."""
        asked = set(run_ids)
        tree = (
            "WITH RECURSIVE tree(id, root, created) AS (SELECT id, id, created FROM runs WHERE id IN ({})"
            " UNION SELECT runs.id, tree.root, runs.created FROM runs JOIN tree ON runs.parent = tree.id"
            " WHERE NOT EXISTS (SELECT 1 FROM tags WHERE tags.run = runs.id AND tags.name IN (?, ?, ?)))"
            " SELECT id, root FROM tree WHERE id <> root ORDER BY created, id"
        )
        for row in self.database.rows_among(tree, run_ids, TRIAL, STEP, REPEATED_BY):
            if row["id"] not in asked and is_run_id(row["id"]):
                yield row["id"], row["root"]

    def best_trials(self, run_ids: Sequence[str]) -> dict[str, str]:
        """The recorded best trials of those of *run_ids* that are searches."""
        found: dict[str, dict[str, str]] = {}
        statement = "SELECT run, name, value FROM tags WHERE run IN ({}) AND name IN (?, ?)"
        for run_id, name, value in self.database.rows_among(statement, run_ids, MANY, BEST_TRIAL):
            found.setdefault(run_id, {})[name] = value
        return {run_id: trial for run_id, tags in found.items() if (trial := best_trial_of(tags))}

    def query(
        self, wanted: RunQuery, lost: Iterable[str] = (), reasons: Mapping[str, str] | None = None
    ) -> Iterator[Run]:
        """Matching runs, newest first, read in pages."""
        gone = set(lost)
        matching, order = self.matching(wanted, gone)
        # By row number, since a damaged id may be NULL
        for chunk, marks in chunks([row["rowid"] for row in matching], PAGE):
            rows = self.database.rows(f"SELECT * FROM runs WHERE rowid IN ({marks}) {order}", chunk)
            yield from self._records(rows, gone, reasons or {})

    def matching(
        self, wanted: RunQuery, gone: Collection[str], columns: str = "rowid", *of_columns: object
    ) -> tuple[list[sqlite3.Row], str]:
        """The *columns*, with the values *of_columns*, of the matching runs, and the clause of their order."""
        # The index by time, which the plus sign selects, has the newest runs first
        parts = ["1" if wanted.children else "parent = ?" if wanted.parent else "+parent IS NULL"]
        values: list[object] = [wanted.parent] if wanted.parent else []
        if wanted.archived is not None:
            flag = "EXISTS" if wanted.archived else "NOT EXISTS"
            parts.append(f"{flag} (SELECT 1 FROM tags WHERE run = runs.id AND name = '{ARCHIVED}')")
        if wanted.experiment is not None:
            parts.append("experiment = ?")
            values.append(wanted.experiment)
        for pair in wanted.tags.items():
            parts.append("EXISTS (SELECT 1 FROM tags WHERE run = runs.id AND name = ? AND value = ?)")
            values += pair
        if wanted.since is not None:
            parts.append("created >= ?")
            values.append(round(wanted.since.timestamp() * 1000))
        if wanted.statuses:
            marks, of_gone = (",".join("?" * len(some)) for some in (wanted.statuses, gone))
            parts.append(f"CASE WHEN ended IS NULL AND job IN ({of_gone}) THEN 'Failed' ELSE status END IN ({marks})")
            values += [*sorted(gone), *(status.value for status in wanted.statuses)]
        order, limit = "created DESC, id DESC", -1 if wanted.limit is None else wanted.limit
        order = f"ORDER BY {'COALESCE(started, created) DESC, id' if wanted.by_start else order}"
        statement = f"SELECT {columns} FROM runs WHERE {' AND '.join(parts)} {order} LIMIT ?"
        return self.database.rows(statement, (*of_columns, *values, limit)), order

    def _records(self, rows: list[sqlite3.Row], lost: set[str], reasons: Mapping[str, str]) -> list[Run]:
        with taken_apart(self.database.path):
            if not all(is_run_id(row["id"]) for row in rows):
                raise TypeError("an invalid id")
        tags: dict[str, dict[str, str]] = {row["id"]: {} for row in rows}
        statement = f"SELECT run, name, value FROM tags WHERE run IN ({','.join('?' * len(tags))}) ORDER BY name"
        for row in self.database.rows(statement, tuple(tags)):
            tags[row["run"]][row["name"]] = row["value"]
        with taken_apart(self.database.path):
            return [self._record(row, tags[row["id"]], lost, reasons) for row in rows]

    def _record(self, row: sqlite3.Row, tags: dict[str, str], lost: set[str], reasons: Mapping[str, str]) -> Run:
        is_open = row["ended"] is None
        status, reason = RunStatus(row["status"]), reasons.get(row["job"], "") if is_open else row["reason"]
        if is_open and row["job"] in lost:
            how_lost = LOST_WITH_CHILDREN + row["id"] if MANY in tags else LOST
            status, reason = RunStatus.failed, row["reason"] or how_lost
        return Run(
            **{**{name: row[name] for name in AS_STORED}, "description": tags.get(NOTE) or row["description"]},
            status=status,
            created=as_time(row["created"]),
            started=None if row["started"] is None else as_time(row["started"]),
            ended=None if is_open else as_time(row["ended"]),
            tags={name: value for name, value in tags.items() if name != ARCHIVED},
            reason=reason,
            workspace=self.label,
            is_archived=ARCHIVED in tags,
        )


def is_run_id(found: object) -> TypeGuard[str]:
    """Whether *found* is the id of a run, which is the name of its folder. SQLite accepts other values."""
    return isinstance(found, str) and found.isprintable() and found.strip(".") != "" and "/" not in found


def _ids(found: Iterable[object]) -> list[str]:
    return [each for each in found if is_run_id(each)]


def _note_attempt(connection: sqlite3.Connection, run_id: str) -> None:
    """Tag a new nested run with the number of its attempt, if that is not the first, and mark the runs of earlier
    attempts that it repeats: those with its name and its parent."""
    statement = (
        "SELECT tags.value FROM runs JOIN tags ON tags.run = runs.job AND tags.name = ? WHERE id = ? AND id <> job "
        "AND NOT EXISTS (SELECT 1 FROM tags AS own WHERE own.run = id AND own.name = ? AND own.value <> tags.value)"
    )
    for (attempt,) in connection.execute(statement, (LAST_ATTEMPT, run_id, LAST_ATTEMPT)).fetchall():
        put_pairs(connection, "tags", run_id, {LAST_ATTEMPT: attempt})
        connection.execute(
            "INSERT OR REPLACE INTO tags (run, name, value) SELECT other.id, ?1, ?2 FROM runs AS new "
            "JOIN runs AS other ON other.parent = new.parent AND other.job = new.job "
            "AND other.display_name = new.display_name WHERE new.id = ?3 AND NOT EXISTS "
            "(SELECT 1 FROM tags WHERE tags.run = other.id AND tags.name = ?4 AND tags.value = ?2)",
            (REPEATED_BY, attempt, run_id, LAST_ATTEMPT),
        )


def put_pairs(
    connection: sqlite3.Connection, table: str, run_id: str, pairs: Mapping[str, str], *, rule: str = "REPLACE"
) -> None:
    """Store tags or parameters, with secrets masked. *rule* is SQLite's rule for those that exist."""
    connection.executemany(
        f"INSERT OR {rule} INTO {table} (run, name, value) VALUES (?,?,?)",
        [(run_id, storable(name), storable(mask_document(value, name))) for name, value in pairs.items()],
    )
