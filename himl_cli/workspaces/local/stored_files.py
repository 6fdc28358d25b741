"""Reading files of this machine as blobs: the half that a run's files and a datastore share."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

from himl_cli.core.blobs import BlobInfo, FetchRequest
from himl_cli.core.errors import BlobChanged, DiskFailed, HimlError, NotFound
from himl_cli.core.files import FoundFile, is_bookkeeping
from himl_cli.workspaces.base import FetchSink

PAGE = 1000
CHUNK = 1 << 20
FORBIDDEN, FORBIDDEN_ON_WINDOWS = "\0", '\0\\:<>"|?*'


def etag_of(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def safe_parts(name: str, *, windows: bool = sys.platform == "win32") -> tuple[str, ...] | None:
    """The folders and the file that *name* goes through; None for a name that no stored file can have (`..`, absolute,
    empty)."""
    parts = tuple(name.split("/"))
    forbidden = FORBIDDEN_ON_WINDOWS if windows else FORBIDDEN
    if any(
        part in ("", ".", "..") or is_bookkeeping(part) or any(sign in part for sign in forbidden) for part in parts
    ):
        return None
    return parts


def describe(found: FoundFile, md5: bytes | None = None) -> BlobInfo:
    modified = datetime.fromtimestamp(found.stat.st_mtime, timezone.utc)
    return BlobInfo(found.name, found.stat.st_size, etag_of(found.stat), md5, modified)


class StoredFiles(ABC):
    """The reading part of a BlobStore over files. Subclasses say which files there are and where they lie."""

    label: str
    origin: str

    @abstractmethod
    def _files(self, prefix: str) -> Iterator[FoundFile]:
        """Every file whose name starts with *prefix*, sorted by name."""

    @abstractmethod
    def _path(self, name: str) -> str | None:
        """Where the file called *name* lies; None for a name that cannot be."""

    def path_of(self, name: str) -> Path | None:
        """Where the file called *name* lies, or would lie; None for a name that cannot be."""
        path = self._path(name)
        return None if path is None else Path(path)

    def _may_grow(self, name: str) -> bool:
        """Whether the file is only ever appended to, so that its listed bytes stay what they were."""
        return False

    def _recorded(self, page: Sequence[FoundFile]) -> dict[str, bytes]:
        """MD5s on record that still hold, by name."""
        return {}

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        files = self._files(prefix)
        try:
            while page := [*islice(files, PAGE)]:
                known = self._recorded(page)
                yield [describe(found, known.get(found.name)) for found in page]
        except OSError as err:
            raise DiskFailed(
                f"Cannot read '{err.filename}' of {self.label}: {err.strerror}.", hint="Check the folder's permissions."
            ) from err

    def stat(self, name: str) -> BlobInfo | None:
        path = self._path(name)
        if path is None:
            return None
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        found = FoundFile(name, path, status)
        return describe(found, self._recorded([found]).get(name))

    def md5(self, blob: BlobInfo) -> bytes | None:
        if blob.md5 is not None:
            return blob.md5
        digest = hashlib.md5(usedforsecurity=False)
        try:
            for piece in self._pieces(FetchRequest(blob, 0, blob.size)):
                digest.update(piece)
        except HimlError:
            return None
        return digest.digest()

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        path = self._path(name)
        if path is None or not os.path.isfile(path):
            raise NotFound(f"No file '{name}' in {self.label}.")
        return self._tail(name, path, offset)

    def _tail(self, name: str, path: str, offset: int) -> Iterator[bytes]:
        try:
            with open(path, "rb", buffering=0) as source:
                source.seek(offset)
                while piece := source.read(CHUNK):
                    yield piece
        except OSError as err:
            raise self._unreadable(name, err) from err

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """One file after the other in the caller's thread: *workers* would only queue for the same disk."""
        source_md5 = _SourceMd5(self)
        for request in requests:
            pieces = self._pieces(request)
            offset = request.offset
            while True:
                try:  # only what goes wrong here belongs to the request; what the sink raises ends the fetch
                    piece = next(pieces, None)
                    if piece is None:
                        md5 = source_md5.after(request)
                    else:
                        source_md5.take(request, offset, piece)
                except HimlError as err:
                    sink.fail(request, err)
                    break
                if piece is None:
                    sink.finish(request, md5)
                    break
                sink.write(request, offset, piece)
                offset += len(piece)

    def _pieces(self, request: FetchRequest) -> Iterator[bytes]:
        """The bytes asked for. Raises BlobChanged when they are no longer those that were listed."""
        blob = request.blob
        path = self._path(blob.name)
        left = request.length
        try:
            if path is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            with open(path, "rb", buffering=0) as source:
                self._check(blob, os.fstat(source.fileno()))
                source.seek(request.offset)
                while left and (piece := source.read(min(left, CHUNK))):
                    left -= len(piece)
                    yield piece
                self._check(blob, os.fstat(source.fileno()))
            self._check(blob, os.stat(path))  # also notices a file that was put in its place
        except FileNotFoundError as err:
            raise BlobChanged(f"'{blob.name}' is no longer in {self.label}.") from err
        except OSError as err:
            raise self._unreadable(blob.name, err) from err
        if left:
            raise BlobChanged(f"'{blob.name}' is shorter than it was listed.")

    def _check(self, blob: BlobInfo, status: os.stat_result) -> None:
        now = etag_of(status)
        grown = (
            self._may_grow(blob.name) and now.split("-")[0] == blob.etag.split("-")[0] and status.st_size >= blob.size
        )
        if blob.etag and now != blob.etag and not grown:
            raise BlobChanged(
                f"'{blob.name}' changed while it was read.", hint="Run the command again when nothing writes to it."
            )

    def _unreadable(self, name: str, err: OSError) -> DiskFailed:
        return DiskFailed(
            f"Cannot read '{name}' of {self.label}: {err.strerror or err}.", hint="Check the file's permissions."
        )


class _SourceMd5:
    """MD5 of whole source files over requests that come in order, also when those are ranges or begin midway."""

    def __init__(self, store: StoredFiles) -> None:
        self._store = store
        self._of: BlobInfo | None = None
        self._digest = hashlib.md5(usedforsecurity=False)
        self._position = 0

    def take(self, request: FetchRequest, offset: int, piece: bytes) -> None:
        self._go_to(request.blob, offset)
        self._digest.update(piece)
        self._position += len(piece)

    def after(self, request: FetchRequest) -> bytes | None:
        """The MD5 on record, else that of the source where *request* was its last part."""
        if request.blob.md5 is not None or request.offset + request.length < request.blob.size:
            return request.blob.md5
        self._go_to(request.blob, request.blob.size)
        return self._digest.digest()

    def _go_to(self, blob: BlobInfo, offset: int) -> None:
        if blob != self._of or self._position > offset or offset == 0:
            self._of, self._position, self._digest = blob, 0, hashlib.md5(usedforsecurity=False)
        if (
            self._position < offset
        ):  # what an earlier fetch brought is read here again, so that a resumed file is really checked
            for piece in self._store._pieces(FetchRequest(blob, self._position, offset - self._position)):
                self._digest.update(piece)
            self._position = offset
