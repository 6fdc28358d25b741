"""A file so small that it waits in memory until it is complete and checked: it meets the disk once."""

from __future__ import annotations

import hashlib
import os

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import HimlError, IntegrityFailed
from himl_cli.services.transfer.disk import open_new, write_all
from himl_cli.services.transfer.plan import Wanted

IN_MEMORY = 256 << 10  # bytes up to which a file waits so, once for each request under way


class WholeArrival:
    """What `Arrival` is to larger files, with the same face."""

    __slots__ = (
        "_is_hashed",
        "_length",
        "_part",
        "_pieces",
        "error",
        "outstanding",
        "requests",
        "service_md5",
        "wanted",
    )

    def __init__(self, wanted: Wanted, part: str, *, is_hashed: bool) -> None:
        self.wanted = wanted
        self.error: HimlError | None = None
        self.service_md5: bytes | None = None
        checked_each = IN_MEMORY if is_hashed and wanted.blob.md5 is None else 0
        self.requests = [FetchRequest(wanted.blob, 0, wanted.blob.size, checked_each)] if wanted.blob.size else []
        self.outstanding = len(self.requests)
        self._part = part
        self._is_hashed = is_hashed
        self._pieces: list[bytes] = []
        self._length = 0

    is_digested = True

    def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
        if offset != self._length or offset + len(data) > request.length:
            self.error = IntegrityFailed(f"'{request.blob.name}' came with other bytes than were asked for.")
            return
        self._pieces.append(data)
        self._length += len(data)

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        """*request* is complete, as the store says; `error` is set when it is not."""
        self.outstanding -= 1
        self.service_md5 = md5
        if self._length != request.length:
            self.error = self.error or IntegrityFailed(f"'{request.blob.name}' came without its end.")

    def fail(self, error: HimlError) -> None:
        self.outstanding -= 1
        self.error = self.error or error

    @property
    def received(self) -> int:
        """How many bytes came."""
        return self._length

    def md5(self) -> bytes | None:
        """MD5 of what arrived (None when it is not computed)."""
        if not self._is_hashed:
            return None
        digest = hashlib.md5(usedforsecurity=False)
        for piece in self._pieces:
            digest.update(piece)
        return digest.digest()

    def land(self) -> os.stat_result:
        """Write the file beside its final place, then put it there; gives the state of the file there. Raises
        OSError."""
        path, part = self.wanted.path, self._part
        descriptor = open_new(part)
        try:
            try:
                for piece in self._pieces:
                    write_all(descriptor, piece)
            finally:
                os.close(descriptor)
            os.replace(part, path)
        except BaseException:
            if os.path.lexists(part):
                os.unlink(part)
            raise
        return os.stat(path)

    def suspend(self) -> None:
        """Nothing of it is on the disk."""

    def discard(self) -> None:
        """Nothing of it is on the disk."""
