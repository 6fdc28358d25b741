"""The SQLite file of a local workspace: opened by any number of processes, written in short transactions."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from himl_cli.core.errors import DiskFailed
from himl_cli.core.installation import update_hint
from himl_cli.core.processes import register_after_fork
from himl_cli.workspaces.local.run_folder import CHECK_PERMISSIONS, FREE_SPACE

NETWORK_TYPES = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afpfs", "9p", "ceph", "lustre", "glusterfs", "beegfs", "gpfs"}
SCHEMA_VERSION = 1
BUSY_SECONDS = 60.0
NO_ROOM_BESIDE = ("unable to open", "disk I/O error", "readonly database")  # no file can be made beside the database

SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, parent TEXT, experiment TEXT NOT NULL, display_name TEXT NOT NULL,
    description TEXT NOT NULL, command TEXT NOT NULL, folder TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
    exit_code INTEGER, created INTEGER NOT NULL, started INTEGER, ended INTEGER
);
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (created, id);
CREATE INDEX IF NOT EXISTS runs_by_experiment ON runs (experiment, created);
CREATE INDEX IF NOT EXISTS runs_by_parent ON runs (parent);
CREATE INDEX IF NOT EXISTS runs_open ON runs (job) WHERE ended IS NULL;
CREATE TABLE IF NOT EXISTS tags (
    run TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parameters (
    run TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS metrics (
    run TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, time INTEGER NOT NULL, value REAL
);
CREATE INDEX IF NOT EXISTS metrics_by_step ON metrics (run, name, step, time);
CREATE TABLE IF NOT EXISTS digests (
    datastore TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, md5 BLOB NOT NULL,
    PRIMARY KEY (datastore, name)
) WITHOUT ROWID;
"""


class Database:
    """One connection to `workspace.db`, safe to share between threads.

    Writes that decide a run's state are flushed to disk (`durable=True`); metrics survive a crash of any process, and
    only the last ones may be lost to a power cut. Times are integers, milliseconds since 1970 UTC. A write waits for
    others for *patience* seconds, and then raises DiskFailed.
    """

    def __init__(self, path: Path, *, create: bool = False, patience: float = BUSY_SECONDS) -> None:
        self.path = path
        self._create = create
        self._patience = patience
        self._lock = threading.RLock()
        self._is_forked = False
        self._left_open: list[sqlite3.Connection] = []
        with translated(path):
            self._connect()
        register_after_fork(self)

    def after_fork(self) -> None:
        """In a forked process: SQLite forbids to use, and even to close, what the parent opened. A connection of our
        own is made when it is needed."""
        self._lock = threading.RLock()
        self._closer.detach()
        self._left_open.append(self._connection)
        self._is_forked = True

    def _connect(self) -> None:
        """As usual; else without the shared memory that a full disk has no room for; else as a file that may only be
        read."""
        try:
            connection, version = self._open("mode=rwc" if self._create else "mode=rw")
        except sqlite3.OperationalError as err:
            if not self.path.is_file() or not any(symptom in str(err) for symptom in NO_ROOM_BESIDE):
                raise
            try:
                connection, version = self._open("mode=rw", "PRAGMA locking_mode=EXCLUSIVE")
            except sqlite3.OperationalError:
                connection, version = self._open("immutable=1")
        if version > SCHEMA_VERSION:
            connection.close()
            raise DiskFailed(f"'{self.path}' was written by a newer himl.", hint=update_hint())
        if version < SCHEMA_VERSION:  # WAL needs shared memory, which network file systems lack (sqlite.org/wal.html)
            journal = "DELETE" if is_network_folder(self.path.parent) else "WAL"
            # Changing the journal does not honour the busy timeout
            _once_unlocked(connection, f"PRAGMA journal_mode={journal}", BUSY_SECONDS)
            statements = ("BEGIN IMMEDIATE", *SCHEMA.split(";"), f"PRAGMA user_version={SCHEMA_VERSION}", "COMMIT")
            for statement in statements:
                connection.execute(statement)
        self._connection = connection
        self._closer = weakref.finalize(self, connection.close)

    def _open(self, mode: str, pragma: str = "") -> tuple[sqlite3.Connection, int]:
        name = f"{self.path.absolute().as_uri()}?{mode}"
        connection = sqlite3.connect(
            name, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
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

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(self.path):
            if self._is_forked:
                self._is_forked = False
                self._connect()
            yield self._connection

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is kept, or nothing."""
        with self._using() as connection:
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            # SQLite's own waiting looks more and more seldom: under load, some would wait for minutes
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

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _once_unlocked(connection: sqlite3.Connection, statement: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as err:
            if "locked" not in str(err) or time.monotonic() > deadline:
                raise
        # Short and by chance: whoever waits long is as likely to be the next as whoever came last
        time.sleep(random.uniform(0.0, 0.02))


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about *path* into ours."""
    try:
        yield
    except sqlite3.Error as err:
        text = str(err)
        table = (
            (("locked",), f"'{path}' is busy: other processes kept writing to it.", "Try again when they are done."),
            (("not a database", "malformed"), f"'{path}' is damaged: {text}.", _hint_of_damage(path)),
            (("readonly", "unable to open"), f"Cannot write '{path}': {text}.", CHECK_PERMISSIONS),
            (("full",), f"No space left to write '{path}'.", FREE_SPACE),
            (("",), f"Cannot use '{path}': {text}.", ""),
        )
        message, hint = next(row[1:] for row in table if any(word in text for word in row[0]))
        if os.path.lexists(path) and not os.path.isfile(path):
            message, hint = f"'{path}' is no file, or a link that leads to none.", _hint_of_damage(path)
        raise DiskFailed(message, hint=hint) from err


@contextmanager
def taken_apart(path: Path) -> Iterator[None]:
    """Where rows of *path* become records: values that himl does not write raise DiskFailed. Holds no writing."""
    try:
        yield
    except (OSError, OverflowError, TypeError, ValueError) as err:
        raise DiskFailed(
            f"'{path}' is damaged: it holds what himl does not write.", hint=_hint_of_damage(path)
        ) from err


def _hint_of_damage(path: Path) -> str:
    return f"The runs' files beside it are unharmed; move '{path.name}' away to start a new record."


def is_network_folder(folder: Path) -> bool:
    """Whether *folder* lies on a network file system, as far as the platform tells: Linux by its mount table, Windows
    by UNC paths."""
    resolved = folder.resolve()
    if sys.platform == "win32":
        return str(resolved).startswith("\\\\")
    try:
        table = Path("/proc/mounts").read_text(errors="replace")
    except OSError:
        return False
    return file_system_of(resolved, table) in NETWORK_TYPES


def file_system_of(folder: Path, mount_table: str) -> str:
    """The type of the deepest mount in *mount_table* (the format of /proc/mounts) that holds *folder*; '' where none
    does."""
    best, kind, path = "", "", f"{folder.as_posix()}/"
    for parts in map(str.split, mount_table.splitlines()):
        if len(parts) >= 3:
            mount_point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), parts[1]).rstrip("/")
            if path.startswith(f"{mount_point}/") and len(mount_point) >= len(best):
                best, kind = mount_point, parts[2]
    return kind
