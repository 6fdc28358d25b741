"""Files by name on this machine: what a run produced, and the folders that are datastores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import count
from pathlib import Path

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BlobChanged, DiskFailed, HimlError
from himl_cli.core.file_tree import PART_SUFFIX, FoundFile, walk_files
from himl_cli.workspaces.base import StoreSink
from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.stored_files import CHUNK, StoredFiles, describe, safe_parts

GROWING = ("logs/", "user_logs/")
RECORD_AT_ONCE = 200


class RunFiles(StoredFiles):
    """A run's artifacts, read-only: `outputs/` and `logs/` where the script wrote them, `user_logs/`, and what it logged.

    What was logged (the run's `artifacts` folder) shows at the root; where it has a name that the script's own files have
    too, theirs is the one shown.
    """

    def __init__(self, run_folder: Path, code_folder: Path, label: str) -> None:
        self.label = label
        self.origin = str(run_folder.resolve())
        self._roots = {"logs": code_folder / "logs", "outputs": code_folder / "outputs", "user_logs": run_folder / "user_logs"}
        self._artifacts = run_folder / "artifacts"

    def _files(self, prefix: str) -> Iterator[FoundFile]:
        own = [self._below(root, folder, prefix) for root, folder in self._roots.items()]
        last = None
        for name, _, found in merge(*(((f.name, 0, f) for f in files) for files in own), ((f.name, 1, f) for f in walk_files(str(self._artifacts), prefix))):
            if name != last:
                yield found
            last = name

    def _below(self, root: str, folder: Path, prefix: str) -> Iterator[FoundFile]:
        start = f"{root}/"
        if start.startswith(prefix) or prefix.startswith(start):
            for found in walk_files(str(folder), prefix[len(start) :]):
                yield FoundFile(start + found.name, found.path, found.stat)

    def _path(self, name: str) -> str | None:
        parts = safe_parts(name)
        if parts is None:
            return None
        if parts[0] in self._roots and len(parts) > 1:
            own = os.path.join(self._roots[parts[0]], *parts[1:])
            if os.path.isfile(own):
                return own
        return os.path.join(self._artifacts, *parts)

    def _may_grow(self, name: str) -> bool:
        return name.startswith(GROWING)

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        for request in requests:
            sink.fail(request, HimlError(f"The files of {self.label} cannot be added to.", hint="Use a datastore: himl datastore upload"))


class DatastoreFolder(StoredFiles):
    """A folder as a datastore. The MD5 of what was stored is on record while the file's size and time stay as they were."""

    def __init__(self, folder: Path, name: str, database: Database) -> None:
        self.label = f"datastore '{name}'"
        self.origin = str(folder.resolve())
        self._folder = folder
        self._name = name
        self._database = database
        self._numbers = count()

    def _files(self, prefix: str) -> Iterator[FoundFile]:
        return walk_files(str(self._folder), prefix)

    def _path(self, name: str) -> str | None:
        parts = safe_parts(name)
        return None if parts is None else os.path.join(self._folder, *parts)

    def _recorded(self, page: Sequence[FoundFile]) -> dict[str, bytes]:
        known: dict[str, bytes] = {}
        for start in range(0, len(page), RECORD_AT_ONCE):
            some = {_key(found.name): found for found in page[start : start + RECORD_AT_ONCE]}
            marks = ",".join("?" * len(some))
            statement = f"SELECT name, size, mtime, md5 FROM digests WHERE datastore = ? AND name IN ({marks})"
            for row in self._database.rows(statement, (self._name, *some)):
                found = some[row["name"]]
                if (row["size"], row["mtime"]) == (found.stat.st_size, found.stat.st_mtime_ns):
                    known[found.name] = row["md5"]
        return known

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """One file after the other; each is written beside its place and then renamed."""
        unrecorded: list[BlobInfo] = []
        try:
            for request in requests:
                try:
                    stored = self._store_one(request, sink)
                except HimlError as err:
                    sink.fail(request, err)
                    continue
                unrecorded.append(stored)
                if len(unrecorded) >= RECORD_AT_ONCE:
                    self._record(unrecorded)
                sink.finish(request, stored)
        finally:
            self._record(unrecorded)

    def _record(self, stored: list[BlobInfo]) -> None:
        rows = [(self._name, _key(blob.name), blob.size, int(blob.etag.split("-")[2], 16), blob.md5) for blob in stored]
        stored.clear()
        if rows:
            with self._database.writing() as connection:
                connection.executemany("INSERT OR REPLACE INTO digests (datastore, name, size, mtime, md5) VALUES (?,?,?,?,?)", rows)

    def _store_one(self, request: StoreRequest, sink: StoreSink) -> BlobInfo:
        path = self._path(request.name)
        if path is None:
            raise HimlError(f"'{request.name}' cannot be the name of a file in {self.label}.")
        part = os.path.join(os.path.dirname(path), f".{os.getpid()}-{next(self._numbers)}{PART_SUFFIX}")
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                md5 = self._copy(request, part, sink)
                self._check_untaken(request, md5)
                os.replace(part, path)
            except BaseException:
                if os.path.lexists(part):
                    os.unlink(part)
                raise
            return describe(FoundFile(request.name, path, os.stat(path)), md5)
        except OSError as err:
            raise DiskFailed(f"Cannot store '{request.name}' in {self.label}: {err.strerror or err}.", hint="Check space and permissions there.") from err

    def _check_untaken(self, request: StoreRequest, md5: bytes) -> None:
        """Raises BlobChanged when the name has something else by now than the request is to replace."""
        if request.replaces is None:
            return
        there = self.stat(request.name)
        if (there.etag if there is not None else "") != request.replaces and (there is None or self.md5(there) != md5):
            raise BlobChanged(f"'{request.name}' in {self.label} was changed by somebody else meanwhile; it is left as it is.", hint="Run the command again.")

    def _copy(self, request: StoreRequest, part: str, sink: StoreSink) -> bytes:
        """Write the file to *part*; gives its MD5. Raises HimlError when its bytes are not those that were promised, or change meanwhile."""
        digest = hashlib.md5(usedforsecurity=False)
        size = 0
        with open(request.path, "rb", buffering=0) as source, open(part, "xb", buffering=0) as target:
            before = os.fstat(source.fileno())
            while piece := source.read(CHUNK):
                digest.update(piece)
                size += len(piece)
                if size > request.size:
                    break
                _write_all(target.fileno(), piece)
                sink.advance(request, len(piece))
        is_promised = _state(os.stat(request.path)) == _state(before) if request.md5 is None else digest.digest() == request.md5
        if size != request.size or not is_promised:
            raise HimlError(f"'{request.path}' changed while it was stored.", hint="Run the command again when nothing writes to it.")
        return digest.digest()


def _state(status: os.stat_result) -> tuple[int, int, int]:
    """What is another once a file was written to or replaced."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _key(name: str) -> str | bytes:
    """*name* as the database can keep it: names that are not UTF-8 as their bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape")
    return name
