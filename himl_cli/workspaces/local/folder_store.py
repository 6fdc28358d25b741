"""Storing files in a folder of this machine: each is written beside its place and then renamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from itertools import count

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BlobChanged, DiskFailed, HimlError
from himl_cli.core.files import PART_SUFFIX, FoundFile
from himl_cli.workspaces.base import StoreSink
from himl_cli.workspaces.local.stored_files import CHUNK, StoredFiles, describe

RECORD_AT_ONCE = 200
_numbers = count()


class FolderStore(StoredFiles):
    """The storing half of a BlobStore over files. Subclasses may take down what was stored."""

    def _record(self, stored: list[BlobInfo]) -> None:
        """Take down what was *stored*, and empty the list."""
        stored.clear()

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

    def _store_one(self, request: StoreRequest, sink: StoreSink) -> BlobInfo:
        path = self._path(request.name)
        if path is None:
            raise HimlError(f"'{request.name}' cannot be the name of a file in {self.label}.")
        part = os.path.join(os.path.dirname(path), f".{os.getpid()}-{next(_numbers)}{PART_SUFFIX}")
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
            raise DiskFailed(
                f"Cannot store '{request.name}' in {self.label}: {err.strerror or err}.",
                hint="Check space and permissions there.",
            ) from err

    def _check_untaken(self, request: StoreRequest, md5: bytes) -> None:
        """Raises BlobChanged when the name has something else by now than the request is to replace."""
        if request.replaces is None:
            return
        there = self.stat(request.name)
        if (there.etag if there is not None else "") != request.replaces and (there is None or self.md5(there) != md5):
            raise BlobChanged(
                f"'{request.name}' in {self.label} was changed by somebody else meanwhile; it is left as it is.",
                hint="Run the command again.",
            )

    def _copy(self, request: StoreRequest, part: str, sink: StoreSink) -> bytes:
        """Write the file to *part*; gives its MD5. Raises HimlError when its bytes are not those that were promised, or
        change meanwhile."""
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
        is_promised = (
            _state(os.stat(request.path)) == _state(before) if request.md5 is None else digest.digest() == request.md5
        )
        if size != request.size or not is_promised:
            raise HimlError(
                f"'{request.path}' changed while it was stored.",
                hint="Run the command again when nothing writes to it.",
            )
        return digest.digest()


def _state(status: os.stat_result) -> tuple[int, int, int]:
    """What is another once a file was written to or replaced."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
