"""The state of a target folder: what was fetched, and how far partial files got. It lies in himl's cache, by the
target's real path.

Only a memory: losing it costs reading files again, never a file. Whoever has it open has the folder to itself, among
those who share the cache.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.files import RANKS_NAME, STATE_NAME, cache_of
from himl_cli.core.processes import is_held
from himl_cli.services.transfer.file_names import folded, part_name, short_hash

if TYPE_CHECKING:
    from filelock import BaseFileLock

VERSION = 1
OWN = 2  # `clean` of the rows that this transfer writes; 1 once it ended, 0 when it never did
FLUSH_ROWS = 500
FLUSH_SECONDS = 0.5
MARK_SIGNS = 8
STATE = "state.db"
KEPT_DAYS = 30
"""How long the state of a folder is kept that cannot be seen from here: its disk is not there, or it is another
machine's."""
SCHEMA = """
CREATE TABLE files (target BLOB PRIMARY KEY, source BLOB, etag TEXT, size INTEGER, mtime_ns INTEGER,
    md5 BLOB, clean INTEGER) WITHOUT ROWID;
CREATE TABLE parts (target BLOB PRIMARY KEY, source BLOB, etag TEXT, size INTEGER) WITHOUT ROWID;
CREATE TABLE ranges (target BLOB, start INTEGER, stop INTEGER, PRIMARY KEY (target, start)) WITHOUT ROWID;
"""

_reported: set[str] = set()
_cleaned: set[Path] = set()


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file as it was when its fetch ended: `size` and `mtime_ns` of the file here, `source` and `etag` of the blob.

    `md5` is None where it was not computed. `clean` says that the command which wrote it came to an end: only then do
    size and time vouch for the content (a power cut may leave a file of the right size without it).
    """

    target: str
    source: str
    etag: str
    size: int
    mtime_ns: int
    md5: bytes | None
    clean: bool = False


class TransferState:
    """Opened for one transfer to *folder*, which is there; waits, saying so, while another himl has the folder.

    Where the cache cannot be written, that is said once, and nothing is remembered: `is_kept` is False.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._say = say
        self._pending: list[tuple[object, ...]] = []
        self._flushed = time.monotonic()
        self._lock: BaseFileLock | None = None
        self.is_kept = True
        for end in (".db", ".db-wal", ".db-shm", ".db-journal", ".lock"):  # what earlier versions left in the folder
            with suppress(OSError):
                os.unlink(folder / f"{STATE_NAME}{end}")
        shutil.rmtree(folder / RANKS_NAME, ignore_errors=True)
        try:
            place = _CacheEntry.of(folder)
            self.mark = place.mark
            self._lock = _locked(place, folder, say)
            self._connection = _opened(place.entry / STATE)
        except (BadUsage, DiskFailed, OSError, sqlite3.OperationalError) as err:
            self._release()
            self.mark = uuid.uuid4().hex[:MARK_SIGNS]  # nobody else's partial files
            self._connection = _connect(":memory:")
            self._give_up(err)
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> TransferState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The command comes to an end, well or not: what was recorded holds."""
        try:
            self.flush()
            with suppress(sqlite3.Error):  # a full disk: the records that are missing are made anew next time
                self._connection.execute("UPDATE files SET clean = 1 WHERE clean = ?", (OWN,))
        finally:
            self._connection.close()
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def part_of(self, path: str) -> str:
        """The partial file of the one at *path*. Whoever does not share this state has other names."""
        folder, base = os.path.split(path)
        return os.path.join(folder, part_name(base, self.mark))

    def find(self, target: str) -> FetchedFile | None:
        for row in self._rows(
            "SELECT source, etag, size, mtime_ns, md5, clean FROM files WHERE target = ?", _key(target)
        ):
            return FetchedFile(target, _text(row[0]), row[1], row[2], row[3], row[4], row[5] == 1)
        return None

    def record(self, file: FetchedFile) -> None:
        """Remember a complete file; written down in batches."""
        key, source = _key(file.target), _key(file.source)
        self._pending.append((key, source, file.etag, file.size, file.mtime_ns, file.md5, OWN))
        if len(self._pending) >= FLUSH_ROWS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        rows, self._pending, self._flushed = self._pending, [], time.monotonic()
        self._write(
            "INSERT OR REPLACE INTO files (target, source, etag, size, mtime_ns, md5, clean) VALUES (?,?,?,?,?,?,?)",
            rows,
        )

    def begin_part(self, target: str, source: str, etag: str, size: int) -> None:
        """Say what the partial file of *target* holds, before its first byte."""
        self.forget_part(target)
        self._write(
            "INSERT INTO parts (target, source, etag, size) VALUES (?,?,?,?)",
            [(_key(target), _key(source), etag, size)],
        )

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
        """Claim *spelling* for *target* while this transfer runs; gives the other target that claimed it before. Raises
        DiskFailed."""
        try:
            self._connection.execute(
                "CREATE TEMP TABLE IF NOT EXISTS claims (spelling BLOB PRIMARY KEY, target BLOB) WITHOUT ROWID"
            )
            for row in self._connection.execute("SELECT target FROM claims WHERE spelling = ?", (_key(spelling),)):
                return _text(row[0])
            self._connection.execute("INSERT INTO claims VALUES (?,?)", (_key(spelling), _key(target)))
        except sqlite3.Error as err:
            raise DiskFailed(
                f"Cannot compare the names of files: {err}.", hint="Is there room for temporary files?"
            ) from err
        return None

    def _rows(self, statement: str, key: bytes) -> list[Any]:
        try:
            return self._connection.execute(statement, (key,)).fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as err:
            self._give_up(err)
            return []

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        if not rows or not self.is_kept:
            return
        try:
            self._connection.execute("BEGIN")
            self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")
        except BaseException as err:  # Ctrl-C too: no transaction stays open
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if not isinstance(err, sqlite3.DatabaseError):
                raise
            self._give_up(err)

    def _give_up(self, err: Exception) -> None:
        """Remember nothing from here on."""
        self.is_kept = False
        text = f"What is fetched is not remembered, since himl's cache cannot be used: {err}"
        if text not in _reported:
            _reported.add(text)
            self._say(text)


@dataclass(frozen=True, slots=True)
class _CacheEntry:
    """Where the cache *top* has the state of the folder *target*, a real path.

    *host* is empty where the target is on the same disk as the cache: whoever shares the one shares the other.
    Elsewhere two machines with one home may have different folders of this name.
    """

    top: Path
    target: str
    device: int
    host: str

    @classmethod
    def of(cls, folder: Path) -> _CacheEntry:
        """Raises BadUsage for a user without a home, DiskFailed, OSError."""
        top = cache_of("transfers", "to remember in what was fetched", "")
        target = os.path.realpath(folder)
        device = os.stat(target).st_dev
        return cls(top, target, device, "" if device == os.stat(top).st_dev else platform.node())

    @property
    def entry(self) -> Path:
        other = self.target.swapcase()
        one_spelling = (
            folded(self.target) if os.path.exists(other) and os.path.samefile(self.target, other) else self.target
        )
        return self.top / short_hash(f"{self.host}\n{one_spelling}")

    @property
    def mark(self) -> str:
        return short_hash(f"{self.host}\n{self.top}")[:MARK_SIGNS]

    @classmethod
    def written_in(cls, entry: Path) -> _CacheEntry | None:
        """What `write` left in *entry*; None where nothing can be read."""
        try:
            host, device, target = (entry / "target").read_bytes().split(b"\n", 2)
            return cls(entry.parent, os.fsdecode(target), int(device), os.fsdecode(host))
        except (OSError, ValueError):
            return None

    def write(self) -> None:
        """Say in the entry whose it is, and that it is used now. Raises OSError."""
        for path in (self.entry / "target", self.entry / STATE):
            path.touch(mode=0o600)
        (self.entry / "target").write_bytes(os.fsencode(f"{self.host}\n{self.device}\n{self.target}"))

    def is_gone(self, used: float) -> bool:
        """Whether the target is not there any more: where its disk is there as well, or nobody asked for it since
        `KEPT_DAYS`."""
        is_old = used < time.time() - KEPT_DAYS * 24 * 3600
        if self.host not in ("", platform.node()):
            return is_old
        if os.path.lexists(self.target):
            return False
        above = os.path.dirname(self.target)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        return is_old or os.stat(above).st_dev == self.device


def mark_of(folder: Path) -> str:
    """What the names of partial files in *folder* have in them. Raises BadUsage, DiskFailed, OSError."""
    return _CacheEntry.of(folder).mark


def targets() -> Iterator[Path]:
    """The folders that something is remembered of, as they are called here. Raises BadUsage for a user without a home,
    DiskFailed."""
    for entry in cache_of("transfers", "to remember in what was fetched", "").iterdir():
        place = _CacheEntry.written_in(entry)
        if place is not None and place.host in ("", platform.node()):
            yield Path(place.target)


def has_fetched_files(folder: Path) -> bool:
    """Whether any file in *folder* is as it was fetched, or is being fetched now."""
    state = _CacheEntry.of(folder).entry / STATE
    if not state.exists():
        return False
    with closing(sqlite3.connect(state, timeout=0)) as connection:
        try:
            for target, size, mtime_ns in connection.execute("SELECT target, size, mtime_ns FROM files"):
                with suppress(OSError, ValueError):
                    status = os.lstat(folder / _text(target))
                    if (status.st_size, status.st_mtime_ns) == (size, mtime_ns):
                        return True
            return False
        except sqlite3.OperationalError:  # another himl has it
            return True
        except sqlite3.DatabaseError:
            return False


def _locked(place: _CacheEntry, folder: Path, say: Callable[[str], None]) -> BaseFileLock:
    """The lock of the place, whose entry is made where there is none. Raises OSError.

    An entry is made, taken and removed only by whoever has the whole cache for that moment: so nobody takes the lock of
    one that is removed.
    """
    from filelock import FileLock, Timeout

    is_said = False
    while True:
        with FileLock(place.top / ".himl-lock", mode=0o600):
            if place.top not in _cleaned:
                _cleaned.add(place.top)
                for entry in place.top.iterdir():  # the states of folders that are no longer there
                    with suppress(OSError):
                        other = _CacheEntry.written_in(entry)
                        is_gone = other is not None and other.is_gone((entry / "target").stat().st_mtime)
                        if is_gone and not is_held(entry / "lock"):
                            shutil.rmtree(entry)
            place.entry.mkdir(mode=0o700, exist_ok=True)
            lock = FileLock(place.entry / "lock", mode=0o600)
            try:
                lock.acquire(timeout=0)
                place.write()
                return lock
            except Timeout:
                pass
        if not is_said:
            say(f"Another himl is writing to '{folder}'; waiting for it.")
            is_said = True
        time.sleep(0.1)


def _opened(path: Path) -> sqlite3.Connection:
    """Raises OSError, sqlite3.OperationalError."""
    try:
        return _connect(path)
    except sqlite3.OperationalError:  # it says nothing about the content
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError):  # damaged: complete files are found so by their MD5
        for end in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        return _connect(path)


def _connect(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # With it the log needs no shared memory, which network disks lack
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
