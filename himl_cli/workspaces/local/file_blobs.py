"""Blob stores over local files: the files of a run, and folders as datastores."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import cache
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from himl_cli.core.blobs import BlobInfo, Bytes, FetchRequest, StoreRequest
from himl_cli.core.errors import BlobChanged, DiskFailed, HimlError, NotFound
from himl_cli.core.files import (
    BINARY,
    PART_SUFFIX,
    PLAIN_NAME,
    FoundFile,
    flush,
    is_bookkeeping,
    is_inside,
    make_folder,
    real_path,
    walk_files,
    warned,
)
from himl_cli.core.text import named, storable
from himl_cli.workspaces.base import FetchSink, StoreSink
from himl_cli.workspaces.local.run_store import Database

if TYPE_CHECKING:
    import hashlib

log = logging.getLogger(__name__)
PAGE = 1000
CHUNK = 1 << 20
RECORD_AT_ONCE, STORE_SECONDS = 200, 0.5
FORBIDDEN, FORBIDDEN_ON_WINDOWS = "\0", '\0\\:<>"|?*'
OLD_PART, OLD_SECONDS = re.compile(rf"\.([0-9a-f]{{16}}|\d+-\d+){re.escape(PART_SUFFIX)}"), 86400.0
_swept: set[str] = set()
Parts = list[tuple[StoreRequest, str, bytes]]  # complete files beside their final paths, with their MD5
Has = Callable[[str], bool]  # whether a path leads to a place in a store


def etag_of(status: os.stat_result) -> str:
    """An etag that changes when the file is written to or replaced."""
    return "-".join(f"{number:x}" for number in _state(status))


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def safe_parts(name: str, *, windows: bool = sys.platform == "win32") -> tuple[str, ...] | None:
    """The folders and the file of *name*, None for a name that no stored file can have (`..`, absolute, empty)."""
    parts = tuple(name.split("/"))
    if sys.platform != "win32" and PLAIN_NAME.fullmatch(name):
        return parts
    forbidden = set(FORBIDDEN_ON_WINDOWS if windows else FORBIDDEN)
    if any(part in ("", ".", "..") or is_bookkeeping(part) or forbidden & set(part) for part in parts):
        return None
    return parts


class FileStore:
    """A BlobStore over the files of `folder`. Subclasses may add others, and record stored files. Files with a
    prefix in `growing` are only appended to, so that their listed bytes never change. Links that lead out of the real
    path `root` do not belong to the store, unless it `follows_links`. An empty `root` permits all links."""

    label: str
    origin: str
    folder: Path
    root = ""
    growing: tuple[str, ...] = ()
    follows_links = False

    def _files(self, prefix: str, omitted: list[str]) -> Iterator[FoundFile]:
        """All files with names that start with *prefix*, sorted by name. Adds links that lead out to *omitted*."""
        return self._walk(self.folder, prefix, omitted)

    def _path(self, parts: Sequence[str], has: Has) -> str | None:
        """The path of the file whose name has the valid *parts*, which need not exist. None for one that leads out of
        the store, which does not have it."""
        path = os.path.join(self.folder, *parts)
        return path if has(path) else None

    def path_of(self, name: str) -> Path | None:
        """The path of the file *name*, which need not exist. None for an invalid name, and for one that leads out of
        the store."""
        path = self._path_of(name, self._has)
        return None if path is None else Path(path)

    def _path_of(self, name: str, has: Has) -> str | None:
        parts = safe_parts(name)
        return None if parts is None else self._path(parts, has)

    def _has(self, path: str | Path) -> bool:
        """Whether *path* leads to a place in the store."""
        return self.follows_links or not self.root or is_inside(path, self.root)

    def _has_by_folder(self) -> Has:
        """`_has` for many files of few folders at one time, which looks at each folder once."""
        has_folder = cache(self._has)

        def has(path: str) -> bool:
            return has_folder(os.path.dirname(path)) and (not os.path.islink(path) or self._has(path))

        return has if self.root and not self.follows_links else self._has

    def _walk(self, folder: Path, prefix: str, omitted: list[str], start: str = "") -> Iterator[FoundFile]:
        """The files of the store in *folder*, whose names get *start*. Adds links that lead out to *omitted*."""

        def is_omitted(name: str, entry: os.DirEntry[str]) -> bool:
            may_lead_out = entry.is_symlink() or sys.platform == "win32"
            if leads_out := may_lead_out and not self._has(entry.path):
                omitted.append(start + name)
            return leads_out

        if self._has(folder):
            yield from walk_files(str(folder), prefix, is_omitted=is_omitted)
        else:
            omitted.append(start)

    def _opened(self, path: str) -> int:
        """A handle of the file at *path*. Raises OSError, also if a link was made meanwhile that leads out of the
        store."""
        source = os.open(path, os.O_RDONLY | BINARY)
        has_all = self.follows_links or not self.root
        if not has_all and not real_path(source, path).startswith(os.path.join(self.root, "")):
            os.close(source)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return source

    def _recorded(self, page: Sequence[FoundFile]) -> dict[str, bytes]:
        """Recorded MD5s that are still valid, by name."""
        return {}

    def _record(self, stored: Sequence[BlobInfo]) -> None:
        """Record the *stored* files."""

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        omitted: list[str] = []
        files = self._files(prefix, omitted)
        try:
            while page := [*islice(files, PAGE)]:
                known = self._recorded(page)
                yield [_describe(found, known.get(found.name)) for found in page]
        except OSError as err:
            raise DiskFailed(
                f"Cannot read '{err.filename}' of {self.label}: {err.strerror}.", hint="Check the folder's permissions."
            ) from err
        if omitted and Path(self.origin) not in warned:
            warned.add(Path(self.origin))
            links = f"himl omits links that lead out of {self.label}: {named(sorted(omitted))}."
            log.warning("%s To include them, add --follow_links to himl download or himl tb.", links)

    def stat(self, name: str) -> BlobInfo | None:
        path = self._path_of(name, self._has)
        if path is None:
            return None
        try:
            found = FoundFile(name, path, os.stat(path))
        except (OSError, ValueError):
            return None
        return _describe(found, self._recorded([found]).get(name)) if stat.S_ISREG(found.stat.st_mode) else None

    def md5(self, blob: BlobInfo) -> bytes | None:
        if blob.md5 is not None:
            return blob.md5
        digest = _new_md5()
        try:
            for piece in self._pieces(FetchRequest(blob, 0, blob.size)):
                digest.update(piece)
        except HimlError:
            return None
        return digest.digest()

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        path = self._path_of(name, self._has)
        if path is None or not os.path.isfile(path):
            raise NotFound(f"No file '{name}' in {self.label}.")
        return self._pieces(FetchRequest(BlobInfo(name, sys.maxsize), offset, sys.maxsize))

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """Fetch one file after the other in the caller's thread, since *workers* would compete for the same disk."""
        blob, position, digest = None, 0, _new_md5()
        has = self._has_by_folder()
        for request in requests:
            if request.blob != blob or position > request.offset or request.offset == 0:
                blob, position, digest = request.blob, 0, _new_md5()
            end = request.offset + request.length
            # Reads earlier parts again, so that the check covers all of a resumed file
            pieces = self._pieces(FetchRequest(blob, position, end - position), has)
            while True:
                try:  # these errors belong to the request, whereas errors of the sink end the fetch
                    piece = next(pieces, None)
                except HimlError as err:
                    sink.fail(request, err)
                    break
                if piece is None:
                    sink.finish(request, digest.digest() if blob.md5 is None and end >= blob.size else blob.md5)
                    break
                digest.update(piece)
                if fresh := piece[max(0, request.offset - position) :]:
                    sink.write(request, max(position, request.offset), fresh)
                position += len(piece)

    def _pieces(self, request: FetchRequest, has: Callable[[str], bool] | None = None) -> Iterator[bytes]:
        """The requested bytes. Raises BlobChanged if the file has changed since it was listed. A blob without an etag
        may change, and ends with its file."""
        blob, left = request.blob, request.length
        path = self._path_of(blob.name, has or self._has)
        try:
            if path is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            source = self._opened(path)
            try:
                before = os.fstat(source)
                self._check(blob, before)
                if request.offset:
                    os.lseek(source, request.offset, os.SEEK_SET)
                while left and (piece := os.read(source, min(left, CHUNK))):
                    left -= len(piece)
                    yield piece
                after = os.stat(path)
                if _state(after) != _state(before):  # it has changed, or another file has replaced it
                    self._check(blob, os.fstat(source))
                    self._check(blob, after)
            finally:
                os.close(source)
        except OSError as err:
            if blob.etag and isinstance(err, FileNotFoundError):
                raise BlobChanged(f"'{blob.name}' is no longer in {self.label}.") from err
            raise DiskFailed(
                f"Cannot read '{blob.name}' of {self.label}: {err.strerror or err}.",
                hint="Check the file's permissions.",
            ) from err
        if left and blob.etag:
            raise BlobChanged(f"'{blob.name}' is shorter than when it was listed.")

    def _check(self, blob: BlobInfo, status: os.stat_result) -> None:
        now = etag_of(status)
        if not blob.etag or now == blob.etag:
            return
        is_same_file = now.split("-")[0] == blob.etag.split("-")[0]
        if not (blob.name.startswith(self.growing) and is_same_file and status.st_size >= blob.size):
            raise BlobChanged(
                f"'{blob.name}' changed while himl read it.", hint="Run the command again when nothing writes to it."
            )

    def store(
        self,
        requests: Iterable[StoreRequest],
        sink: StoreSink,
        *,
        workers: int,
        source_of: Callable[[StoreRequest], BytesSource] | None = None,
    ) -> None:
        """Store one file after the other. Each is written next to its final path, and renamed once it is on the disk,
        in groups, because one flush takes as long as that of one file. *source_of* replaces the files of the
        requests."""
        source_of = source_of or SourceFile
        parts: Parts = []
        began = time.monotonic()
        try:
            for request in requests:
                with self._failures(request, sink):
                    parts.append((request, *self._write_part(request, source_of(request), sink)))
                if len(parts) >= RECORD_AT_ONCE or time.monotonic() - began > STORE_SECONDS:
                    written, parts, began = parts, [], time.monotonic()
                    self._land(written, sink)
        finally:
            self._land(parts, sink)

    @contextmanager
    def _failures(self, request: StoreRequest, sink: StoreSink) -> Iterator[None]:
        """Report an error to *sink*."""
        try:
            yield
        except OSError as err:
            sink.fail(
                request,
                DiskFailed(
                    f"Cannot store '{request.name}' in {self.label}: {err.strerror or err}.",
                    hint="Check the disk space and the folder's permissions.",
                ),
            )
        except HimlError as err:
            sink.fail(request, err)

    def _write_part(self, request: StoreRequest, source: BytesSource, sink: StoreSink) -> tuple[str, bytes]:
        """The file beside the final path, and its MD5. Raises OSError, and HimlError if the file's bytes differ from
        the request or change meanwhile."""
        folder = os.path.dirname(self._target(request.name))
        # Random, because processes on other machines or in other containers have the same ids
        part = os.path.join(folder, f".{os.urandom(8).hex()}{PART_SUFFIX}")
        try:
            target = open(part, "xb")  # noqa: SIM115  # raises before the deletion below, which is for one's own file
        except FileNotFoundError:
            make_folder(Path(folder))
            target = open(part, "xb")  # noqa: SIM115
        digest, size = _new_md5(), 0
        try:
            with target:
                _remove_old_parts(part)
                for piece in source:
                    digest.update(piece)
                    size += len(piece)
                    if size > request.size:
                        break
                    target.write(piece)
                    sink.advance(request, len(piece))
            md5 = digest.digest()
            if size != request.size or not source.is_whole(md5):
                raise HimlError(
                    f"'{request.path}' changed while himl stored it.",
                    hint="Run the command again when nothing writes to it.",
                )
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(part)
            raise
        return part, md5

    def _target(self, name: str) -> str:
        """The path of the file to store. Raises HimlError for an invalid name and for one that leads out."""
        path = self._path_of(name, self._has)
        if path is None:
            raise HimlError(f"Invalid name of a file in {self.label}: '{name}'.")
        return path

    def _land(self, parts: Parts, sink: StoreSink) -> None:
        """Give the *parts* their final names, record and report them."""
        landed, stored, left = Parts(), list[BlobInfo](), {part for _, part, _ in parts}
        try:
            for request, part, md5 in parts if self._flushed(parts, sink) else ():
                with self._failures(request, sink):
                    stored.append(self._landed(request, part, md5))
                    landed.append((request, part, md5))
                    left.remove(part)
            # Again for the names, which Btrfs does not write with those of the database
            if not self._flushed(landed, sink):
                landed, stored = [], []
            self._record(stored)
        finally:
            for part in left:
                with suppress(FileNotFoundError):
                    os.unlink(part)
        for (request, *_), blob in zip(landed, stored, strict=True):
            sink.finish(request, blob)

    def _flushed(self, parts: Parts, sink: StoreSink) -> bool:
        """Write *parts*, and on Linux all names, to the disk. Return whether that worked, and report an error for each
        of them if not."""
        folders = {os.path.dirname(part) for _, part, _ in parts}
        try:
            for folder in {os.stat(each).st_dev: each for each in folders}.values():
                flush(Path(folder), [part for _, part, _ in parts])
        except OSError as err:
            for request, *_ in parts:
                with self._failures(request, sink):
                    raise err
            return False
        return True

    def _landed(self, request: StoreRequest, part: str, md5: bytes) -> BlobInfo:
        """Raises OSError, HimlError, and BlobChanged if the stored file is not the one to replace any more."""
        path = self._target(request.name)
        there = self.stat(request.name) if request.replaces is not None else None
        is_replaced = request.replaces in (None, there.etag if there is not None else "")
        if not is_replaced and (there is None or self.md5(there) != md5):
            raise BlobChanged(
                f"'{request.name}' in {self.label} was changed at the same time, so himl did not replace it.",
                hint="Run the command again.",
            )
        os.replace(part, path)
        return _describe(FoundFile(request.name, path, os.stat(path)), md5)


class BytesSource(Protocol):
    """The content of a file to store."""

    def __iter__(self) -> Iterator[Bytes]:
        """Its pieces, each valid until the next one. Raises OSError and HimlError."""

    def is_whole(self, md5: bytes) -> bool:
        """Whether the content, which has this MD5, is that of the file. Called after the last piece."""


class SourceFile:
    """The file of *request*. One with no promised MD5 is whole if it has not changed meanwhile."""

    def __init__(self, request: StoreRequest) -> None:
        self._request = request
        self._etag = ""

    def __iter__(self) -> Iterator[bytes]:
        with open(self._request.path, "rb", buffering=0) as source:
            self._etag = etag_of(os.fstat(source.fileno()))
            while piece := source.read(CHUNK):
                yield piece

    def is_whole(self, md5: bytes) -> bool:
        if self._request.md5 is not None:
            return md5 == self._request.md5
        return etag_of(os.stat(self._request.path)) == self._etag


def _remove_old_parts(part: str) -> None:
    """Delete files beside *part* that killed processes left a day before it, once per process and folder."""
    folder = os.path.dirname(part)
    if folder in _swept:
        return
    _swept.add(folder)
    oldest = os.stat(part).st_mtime - OLD_SECONDS  # by the clock of the file system
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if OLD_PART.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                os.unlink(entry.path)


def _new_md5() -> hashlib._Hash:
    import hashlib  # takes milliseconds, and a list of runs reads no file

    return hashlib.md5(usedforsecurity=False)


def _describe(found: FoundFile, md5: bytes | None = None) -> BlobInfo:
    modified = datetime.fromtimestamp(found.stat.st_mtime, timezone.utc)
    return BlobInfo(found.name, found.stat.st_size, etag_of(found.stat), md5, modified)


class RunFiles(FileStore):
    """A run's artifacts: the script's `outputs/` and `logs/`, `user_logs/`, and logged or stored files.

    Logged files (the run's `artifacts` folder) appear at the root. The script's files take precedence over logged files
    of the same name.
    """

    growing = ("logs/", "user_logs/")

    def __init__(self, run_folder: Path, code_folder: Path, label: str) -> None:
        self.label = label
        self.root = self.origin = str(run_folder.resolve())
        self._roots = {
            "logs/": code_folder / "logs",
            "outputs/": code_folder / "outputs",
            "user_logs/": run_folder / "user_logs",
        }
        self.folder = run_folder / "artifacts"

    def _files(self, prefix: str, omitted: list[str]) -> Iterator[FoundFile]:
        own = [self._below(start, folder, prefix, omitted) for start, folder in self._roots.items()]
        last = None
        for found in merge(*own, super()._files(prefix, omitted), key=lambda found: found.name):
            if found.name != last:  # the script's file of the same name comes first
                yield found
            last = found.name

    def _below(self, start: str, folder: Path, prefix: str, omitted: list[str]) -> Iterator[FoundFile]:
        if start.startswith(prefix) or prefix.startswith(start):
            for found in self._walk(folder, prefix[len(start) :], omitted, start):
                yield FoundFile(start + found.name, found.path, found.stat)

    def _path(self, parts: Sequence[str], has: Has) -> str | None:
        root = self._roots.get(f"{parts[0]}/")
        own = os.path.join(root, *parts[1:]) if root is not None and len(parts) > 1 else None
        return own if own is not None and os.path.isfile(own) and has(own) else super()._path(parts, has)


class CodeFiles(FileStore):
    """The code of a run below *folder*: the files that *find* returns, by name, wherever they are at the moment."""

    def __init__(self, folder: Path, find: Callable[[], Mapping[str, Path]], label: str) -> None:
        self.label, self.origin, self.folder = label, str(folder.resolve()), folder
        self._find, self._paths = find, find()

    def _files(self, prefix: str, omitted: list[str]) -> Iterator[FoundFile]:
        for name in sorted(self._paths):
            if name.startswith(prefix):
                with suppress(FileNotFoundError):  # the script has deleted it
                    path = self._path(name.split("/"), self._has)
                    yield FoundFile(name, path, os.stat(path))

    def _path(self, parts: Sequence[str], has: Has) -> str:
        name = "/".join(parts)
        path = self._paths.get(name)
        if path is not None and not path.exists():  # it has moved to the store
            self._paths = self._find()
        return str(self._paths.get(name, self.folder / name))


class DatastoreFolder(FileStore):
    """A folder as a datastore, or as an output of a run if it has a *label*. The recorded MD5 of a stored file is valid
    while its size and time do not change."""

    def __init__(self, folder: Path, name: str, database: Database, *, label: str = "") -> None:
        self.label = label or f"datastore '{name}'"
        self.origin = str(folder.resolve())
        self.root = self.origin if label else ""
        self.folder = folder
        self._name = name
        self._database = database

    def _recorded(self, page: Sequence[FoundFile]) -> dict[str, bytes]:
        known: dict[str, bytes] = {}
        files = {storable(found.name): found for found in page}
        statement = "SELECT name, size, mtime, md5 FROM digests WHERE name IN ({}) AND datastore = ?"
        for name, size, mtime, md5 in self._database.rows_among(statement, [*files], self._name):
            found = files[name]
            if (size, mtime) == (found.stat.st_size, found.stat.st_mtime_ns):
                known[found.name] = md5
        return known

    def _record(self, stored: Sequence[BlobInfo]) -> None:
        rows = [
            (self._name, storable(blob.name), blob.size, int(blob.etag.split("-")[2], 16), blob.md5) for blob in stored
        ]
        if rows:
            with self._database.writing() as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO digests (datastore, name, size, mtime, md5) VALUES (?,?,?,?,?)", rows
                )
