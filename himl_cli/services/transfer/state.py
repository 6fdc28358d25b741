"""The state file of a target folder: what was fetched, and how far partial files got.

Only a memory: losing it costs reading files again, never a file. Whoever has it open has the folder to itself.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from himl_cli.core.errors import DiskFailed
from himl_cli.core.file_tree import STATE_FILE, STATE_NAME
from himl_cli.services.transfer.disk import DiskFull, explained

if TYPE_CHECKING:
    from filelock import BaseFileLock

VERSION = 1
OWN = 2  # `clean` of the rows that this transfer writes; 1 once it ended, 0 when it never did
FLUSH_ROWS = 500
FLUSH_SECONDS = 0.5
SCHEMA = """
CREATE TABLE files (target BLOB PRIMARY KEY, source BLOB, etag TEXT, size INTEGER, mtime_ns INTEGER, md5 BLOB, clean INTEGER) WITHOUT ROWID;
CREATE TABLE parts (target BLOB PRIMARY KEY, source BLOB, etag TEXT, size INTEGER) WITHOUT ROWID;
CREATE TABLE ranges (target BLOB, start INTEGER, stop INTEGER, PRIMARY KEY (target, start)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file as it was when its fetch ended: `size` and `mtime_ns` of the file here, `source` and `etag` of the blob.

    `md5` is None where it was not computed. `clean` says that the command which wrote it came to an end: only then do size
    and time vouch for the content (a power cut may leave a file of the right size without it).
    """

    target: str
    source: str
    etag: str
    size: int
    mtime_ns: int
    md5: bytes | None
    clean: bool = False


class TransferState:
    """Opened for one transfer; waits, saying so, while another himl has the folder. Raises DiskFailed where it cannot be written."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._path = folder / STATE_FILE
        lock = folder / f"{STATE_NAME}.lock"
        _remove_link(lock)
        self._lock = _locked(folder, lock, say)
        self._pending: list[tuple[object, ...]] = []
        self._flushed = time.monotonic()
        try:
            self._connection = self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> sqlite3.Connection:
        beside = [self._path.with_name(self._path.name + end) for end in ("-wal", "-shm", "-journal")]
        for path in (self._path, *beside):
            _remove_link(path)
        try:
            return _connect(self._path)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as err:  # OperationalError is one, and says nothing about the content
            if isinstance(err, sqlite3.OperationalError):
                raise _explained(err, self._path) from err
        for path in (self._path, *beside):
            path.unlink(missing_ok=True)  # damaged: begin anew, files that are complete are found so by their MD5
        return _connect(self._path)

    def __enter__(self) -> TransferState:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The command comes to an end, well or not: what was recorded holds."""
        try:
            self.flush()
            self._connection.execute("UPDATE files SET clean = 1 WHERE clean = ?", (OWN,))
        except (sqlite3.Error, DiskFull):  # a full disk: the records that are missing are made anew next time
            pass
        finally:
            self._connection.close()
            self._lock.release()

    def find(self, target: str) -> Fetched | None:
        for row in self._rows("SELECT source, etag, size, mtime_ns, md5, clean FROM files WHERE target = ?", _key(target)):
            return Fetched(target, _text(row[0]), row[1], row[2], row[3], row[4], row[5] == 1)
        return None

    def record(self, done: Fetched) -> None:
        """Remember a complete file; written down in batches."""
        self._pending.append((_key(done.target), _key(done.source), done.etag, done.size, done.mtime_ns, done.md5, OWN))
        if len(self._pending) >= FLUSH_ROWS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        rows, self._pending, self._flushed = self._pending, [], time.monotonic()
        self._write("INSERT OR REPLACE INTO files (target, source, etag, size, mtime_ns, md5, clean) VALUES (?,?,?,?,?,?,?)", rows)

    def begin_part(self, target: str, source: str, etag: str, size: int) -> None:
        """Say what the partial file of *target* holds, before its first byte."""
        self.forget_part(target)
        self._write("INSERT INTO parts (target, source, etag, size) VALUES (?,?,?,?)", [(_key(target), _key(source), etag, size)])

    def has_part(self, target: str, source: str, etag: str, size: int) -> bool:
        """Whether the partial file of *target* holds bytes of exactly this blob."""
        rows = self._rows("SELECT source, etag, size FROM parts WHERE target = ?", _key(target))
        return etag != "" and rows == [(_key(source), etag, size)]

    def forget_part(self, target: str) -> None:
        for table in ("parts", "ranges"):
            self._write(f"DELETE FROM {table} WHERE target = ?", [(_key(target),)])

    def add_range(self, target: str, start: int, stop: int) -> None:
        self._write("INSERT OR REPLACE INTO ranges (target, start, stop) VALUES (?,?,?)", [(_key(target), start, stop)])

    def ranges(self, target: str) -> list[tuple[int, int]]:
        """The parts of the file that arrived whole, in order."""
        return self._rows("SELECT start, stop FROM ranges WHERE target = ? ORDER BY start", _key(target))

    def claim(self, target: str, spelling: str) -> str | None:
        """Claim *spelling* for *target* while this transfer runs; gives the other target that claimed it before."""
        self._write("CREATE TEMP TABLE IF NOT EXISTS claims (spelling BLOB PRIMARY KEY, target BLOB) WITHOUT ROWID", [()])
        for row in self._rows("SELECT target FROM claims WHERE spelling = ?", _key(spelling)):
            return _text(row[0])
        self._write("INSERT INTO claims VALUES (?,?)", [(_key(spelling), _key(target))])
        return None

    def _rows(self, statement: str, key: bytes) -> list[Any]:
        try:
            return self._connection.execute(statement, (key,)).fetchall()
        except sqlite3.DatabaseError as err:
            raise _explained(err, self._path) from err

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        if not rows:
            return
        try:
            self._connection.execute("BEGIN")
            self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")
        except BaseException as err:  # Ctrl-C too: no transaction stays open
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(err, sqlite3.DatabaseError):
                raise _explained(err, self._path) from err
            raise


def _remove_link(path: Path) -> None:
    """A link that somebody put where himl keeps a file of its own could lead anywhere. Raises DiskFailed."""
    try:
        if path.is_symlink():
            path.unlink(missing_ok=True)
    except OSError as err:
        raise explained(err, f"Cannot remove the link '{path}'") from err


def _locked(folder: Path, path: Path, say: Callable[[str], None]) -> BaseFileLock:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"Another himl is writing to '{folder}'; waiting for it.")
            lock.acquire(poll_interval=0.1)
    except OSError as err:
        raise explained(err, f"Cannot write to '{folder}'") from err
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # with it the log needs no shared memory, which network disks lack
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
        elif version != VERSION:
            raise sqlite3.DatabaseError(f"version {version}")
        connection.execute("UPDATE files SET clean = 0 WHERE clean = ?", (OWN,))
    except BaseException:
        connection.close()
        raise
    return connection


def _explained(err: sqlite3.Error, path: Path) -> DiskFailed:
    if "full" in str(err):
        return explained(OSError(errno.ENOSPC, ""), f"Cannot write '{path}'")
    return DiskFailed(f"Cannot use '{path}': {err}.", hint="It only remembers what was fetched: it may be deleted. Are the folder's permissions right?")


def _key(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
