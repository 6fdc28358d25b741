"""State of a target folder in himl's cache: its downloaded files, and the progress of partial files.

The state only saves work. Without it, himl reads files again, but loses none. It is stored under the target's real
path. A process that has it open has exclusive use of the folder, among those that share the cache.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.files import cache_of
from himl_cli.core.locks import ProcessLock, is_held
from himl_cli.core.processes import boot_id
from himl_cli.core.records import dataclass
from himl_cli.services.transfer.digests import short_hash
from himl_cli.services.transfer.local_files import folded, part_name

VERSION = 2
OWN = 2  # `clean` of rows that this transfer writes. Later 1 if it exited, 0 if it was killed.
MARK_SIGNS = 8
# How long himl keeps the state of a folder that does not exist: it was deleted, its disk is missing, or it is on
# another machine.
KEPT_DAYS = 30
SCHEMA = """
CREATE TABLE files (target BLOB PRIMARY KEY, source BLOB, etag TEXT, size INTEGER, mtime_ns INTEGER,
    md5 BLOB, clean INTEGER) WITHOUT ROWID;
CREATE TABLE ranges (target BLOB, start INTEGER, stop INTEGER, blob BLOB, PRIMARY KEY (target, start)) WITHOUT ROWID;
"""

_reported: set[str] = set()
_cleaned: set[Path] = set()


class FetchedFile(NamedTuple):
    """A file at the end of its download: `size` and `mtime_ns` of the local file, `source` and `etag` of the blob.

    `md5` is None if it was not computed. `clean` means that the command which wrote the file exited. Only then do size
    and time prove the content, because a power cut may leave a file of the right size without its content.
    """

    target: str
    source: str
    etag: str
    size: int
    mtime_ns: int
    md5: bytes | None
    clean: bool = False


class TransferState(AbstractContextManager["TransferState"]):
    """State that is open for one transfer to *folder*, which exists. It waits while another himl uses the folder, and
    reports that.

    If the cache cannot be written, that is reported once, nothing is stored, and `is_kept` is False.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._pending: list[tuple[object, ...]] = []
        self._flushed = time.monotonic()
        self._lock: ProcessLock | None = None
        self.is_kept = True
        try:
            entry = _CacheEntry.of(folder)
            self._mark = short_hash(f"{entry.host}\n{entry.path.parent}")[:MARK_SIGNS]
            self._lock = _locked(entry, folder, warn)
            self._connection = _opened(entry.path / "state.db")
        except BaseException as err:
            if self._lock is not None:
                self._lock.release()
            if not isinstance(err, (BadUsage, DiskFailed, OSError, sqlite3.OperationalError)):
                raise
            self._lock = None
            self._mark = uuid.uuid4().hex[:MARK_SIGNS]  # a unique name for partial files
            self._connection = _connect(":memory:")
            self.is_kept = False
            text = f"himl cannot record downloaded files, because its cache cannot be used: {err}"
            if text not in _reported:
                _reported.add(text)
                warn(text)

    def __exit__(self, *error: object) -> None:
        """Mark the recorded files as valid, because the command exits, with or without an error."""
        try:
            self.flush()
            with suppress(sqlite3.Error):  # on a full disk, later transfers record the missing files
                self._connection.execute("UPDATE files SET clean = 1 WHERE clean = ?", (OWN,))
        finally:
            self._connection.close()
            if self._lock is not None:
                self._lock.release()

    def part_of(self, path: str) -> str:
        """Path of the partial file for *path*. Processes with another state use other names."""
        folder, separator, base = path.rpartition(os.sep)
        return folder + separator + part_name(base, self._mark)

    def find(self, target: str) -> FetchedFile | None:
        statement = "SELECT source, etag, size, mtime_ns, md5, clean FROM files WHERE target = ?"
        for source, etag, size, mtime_ns, md5, clean in self._rows(statement, _key(target)):
            return FetchedFile(target, _text(source), etag, size, mtime_ns, md5, clean == 1)
        return None

    def record(self, file: FetchedFile) -> None:
        """Record a complete file. Records are written in batches."""
        key, source = _key(file.target), _key(file.source)
        self._pending.append((key, source, file.etag, file.size, file.mtime_ns, file.md5, OWN))
        if len(self._pending) >= 500 or time.monotonic() - self._flushed > 0.5:
            self.flush()

    def flush(self) -> None:
        rows, self._pending, self._flushed = self._pending, [], time.monotonic()
        self._write(
            "INSERT OR REPLACE INTO files (target, source, etag, size, mtime_ns, md5, clean) VALUES (?,?,?,?,?,?,?)",
            rows,
        )

    def begin_part(self, target: str, blob: str) -> None:
        """Record an empty partial file of *target* for the blob *blob*."""
        self.forget_part(target)
        self.add_range(target, blob, 0, 0, is_on_disk=False)

    def forget_part(self, target: str) -> None:
        self._write("DELETE FROM ranges WHERE target = ?", [(_key(target),)])

    def add_range(self, target: str, blob: str, start: int, stop: int, *, is_on_disk: bool) -> None:
        """Record a range of *blob* in the partial file of *target*. Unless it *is_on_disk*, only for this start of the
        machine, and not at all where himl cannot distinguish those."""
        boot = "" if is_on_disk else boot_id()
        row = _key(target), start, stop, _key(f"{blob}\n{boot}" if boot else blob)
        if is_on_disk or boot:
            self._write("INSERT OR REPLACE INTO ranges (target, start, stop, blob) VALUES (?,?,?,?)", [row])

    def ranges(self, target: str, blob: str) -> list[tuple[int, int]]:
        """Sorted ranges of this exact *blob* in the partial file of *target*. Empty if that was begun for another
        blob."""
        rows = self._rows("SELECT start, stop, blob FROM ranges WHERE target = ? ORDER BY start", _key(target))
        same = _key(blob), _key(f"{blob}\n{boot_id()}")
        return [(start, stop) for start, stop, other in rows if other in same]

    def claim(self, target: str, spelling: str) -> str | None:
        """Claim *spelling* for *target* during this transfer. Return the target that claimed it before, if any. Raises
        DiskFailed."""
        execute = self._connection.execute
        try:
            execute("CREATE TEMP TABLE IF NOT EXISTS claims (spelling BLOB PRIMARY KEY, target BLOB) WITHOUT ROWID")
            for (other,) in execute("SELECT target FROM claims WHERE spelling = ?", (_key(spelling),)):
                return _text(other)
            execute("INSERT INTO claims VALUES (?,?)", (_key(spelling), _key(target)))
        except sqlite3.Error as err:
            raise DiskFailed(
                f"Cannot compare the names of files: {err}.", hint="Free some space for temporary files."
            ) from err
        return None

    def _rows(self, statement: str, key: bytes) -> list[Any]:
        try:
            return self._connection.execute(statement, (key,)).fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return []

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        """Write rows, and ignore failures, such as a full disk."""
        if rows and self.is_kept:
            with suppress(sqlite3.DatabaseError), self._connection:  # closes the transaction after Ctrl-C
                self._connection.execute("BEGIN")
                self._connection.executemany(statement, rows)


@dataclass(frozen=True)
class _CacheEntry:
    """Folder *path* of the cache with the state of the folder *target*, a real path.

    *host* is empty if the target and the cache are on the same disk, because machines that share one share both.
    Otherwise, two machines with one home may have different folders with this name.
    """

    path: Path
    target: str
    host: str

    @classmethod
    def of(cls, folder: Path) -> _CacheEntry:
        """Entry of *folder*. Raises BadUsage for a user without a home folder, DiskFailed, OSError."""
        top = cache_of("transfers", "for records of downloaded files", "")
        target = os.path.realpath(folder)
        other = target.swapcase()
        host = "" if os.stat(target).st_dev == os.stat(top).st_dev else platform.node()
        one_spelling = folded(target) if os.path.exists(other) and os.path.samefile(target, other) else target
        return cls(top / short_hash(f"{host}\n{one_spelling}"), target, host)

    @classmethod
    def read(cls, path: Path) -> _CacheEntry | None:
        """Read the entry in *path*. None if it cannot be read."""
        try:
            host, target = (path / "target").read_bytes().split(b"\n", 1)
            return cls(path, os.fsdecode(target), os.fsdecode(host))
        except (OSError, ValueError):
            return None


def targets() -> Iterator[Path]:
    """Yield the target folders with a state, by their local paths. Raises BadUsage for a user without a home folder,
    DiskFailed."""
    for path in cache_of("transfers", "for records of downloaded files", "").iterdir():
        entry = _CacheEntry.read(path)
        if entry is not None and entry.host in ("", platform.node()):
            yield Path(entry.target)


def fetched_files(folder: Path) -> dict[str, tuple[int, int]] | None:
    """The size in bytes and the modification time in nanoseconds that each downloaded file in *folder* had, by its path
    below it. None if they are unknown, because another himl is downloading to the folder."""
    state = _CacheEntry.of(folder).path / "state.db"
    if not state.exists():
        return {}
    with closing(sqlite3.connect(state, timeout=0)) as connection:
        try:
            rows = connection.execute("SELECT target, size, mtime_ns FROM files")
            return {_text(target): (size, mtime_ns) for target, size, mtime_ns in rows}
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError:
            return {}


def _locked(entry: _CacheEntry, folder: Path, warn: Callable[[str], None]) -> ProcessLock:
    """Lock of *entry*, which is created if necessary. Raises OSError.

    Entries are created, locked and removed only under the lock of the whole cache, so that no process locks an entry
    that is being removed.
    """
    top, is_said = entry.path.parent, False
    while True:
        with ProcessLock(top / ".himl-lock", mode=0o600), ExitStack() as stack:
            if top not in _cleaned:
                _cleaned.add(top)
                for path in top.iterdir():  # remove states of deleted folders
                    with suppress(OSError):
                        other = _CacheEntry.read(path)
                        if other is None or (other.host in ("", platform.node()) and os.path.lexists(other.target)):
                            continue
                        is_old = (path / "target").stat().st_mtime < time.time() - KEPT_DAYS * 24 * 3600
                        if is_old and not is_held(path / "lock"):
                            shutil.rmtree(path)
            entry.path.mkdir(mode=0o700, exist_ok=True)
            lock = ProcessLock(entry.path / "lock", mode=0o600)
            if lock.take(0.0):
                stack.callback(lock.release)
                for name in ("target", "state.db"):
                    (entry.path / name).touch(mode=0o600)
                # The content is the owner, and the file's time is the last use.
                (entry.path / "target").write_bytes(os.fsencode(f"{entry.host}\n{entry.target}"))
                stack.pop_all()
                return lock
        if not is_said:
            warn(f"Another himl process is writing to '{folder}'. Waiting for it.")
            is_said = True
        time.sleep(0.1)


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.OperationalError:  # unrelated to the content
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError):  # damaged. Complete files are recognized by their MD5.
        for end in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        return _connect(path)


def _connect(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # In this mode, the write-ahead log needs no shared memory, which network disks lack.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
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


def _key(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
