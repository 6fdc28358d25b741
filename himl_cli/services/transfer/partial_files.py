"""One file on its way in: its bytes so far, what of it is still to come, and its MD5."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import HimlError, IntegrityFailed
from himl_cli.services.transfer.local_files import OPEN_FLAGS, DigestThread, FileDigest, open_new, write_all, write_at
from himl_cli.services.transfer.plan import PlannedFile
from himl_cli.services.transfer.state import TransferState

IN_MEMORY = 256 << 10  # up to here a file waits in memory until it is complete, once for each request under way
SMALL = 4 << 20  # up to here a file is digested as it passes by, and begun anew rather than resumed
LARGE = 32 << 20  # above, it comes in pieces, several at once where the store can
# The shortest, at both ends: the digest begins early, and has little left to do when the last byte came
PIECE = 2 << 20
LONGEST_PIECE = 8 << 20  # between them fewer requests, each of which costs the service time
GROWTH = 16  # a piece is at most this part of what lies before it,
DECLINE = 32  # and this part of what is still to come
MOST_PIECES = 1 << 14
# Bytes of a range that is checked by itself, where no MD5 of the whole is known; they wait in memory, of each request
# under way
CHECKED = 1 << 20


class BufferedFile:
    """A file so small that it waits in memory until it is complete and checked: it meets the disk once."""

    __slots__ = (
        "_is_hashed",
        "_part",
        "_pieces",
        "error",
        "outstanding",
        "planned",
        "received",
        "requests",
        "service_md5",
    )

    is_digested = True

    def __init__(self, planned: PlannedFile, part: str, *, is_hashed: bool) -> None:
        blob = planned.blob
        checked_each = IN_MEMORY if is_hashed and blob.md5 is None else 0
        self.planned = planned
        self.requests: Sequence[FetchRequest] = [FetchRequest(blob, 0, blob.size, checked_each)] if blob.size else []
        self.outstanding = len(self.requests)
        self.received = 0
        self.error: HimlError | None = None
        self.service_md5: bytes | None = None
        self._part = part
        self._is_hashed = is_hashed
        self._pieces: list[bytes] = []

    def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
        if offset != self.received or offset + len(data) > request.length:
            self.error = _other_bytes(request)
            return
        self._pieces.append(data)
        self.received += len(data)

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        """*request* is complete, as the store says; `error` is set when it is not."""
        self.outstanding -= 1
        self.service_md5 = md5
        if self.received != request.length:
            self.error = self.error or _no_end(request)

    def fail(self, error: HimlError) -> None:
        self.outstanding -= 1
        self.error = self.error or error

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
        descriptor = open_new(self._part)
        try:
            try:
                for piece in self._pieces:
                    write_all(descriptor, piece)
            finally:
                os.close(descriptor)
            os.replace(self._part, self.planned.path)
        except BaseException:
            if os.path.lexists(self._part):
                os.unlink(self._part)
            raise
        return os.stat(self.planned.path)

    def suspend(self) -> None:
        """Nothing of it is on the disk."""

    discard = suspend


class PartialFile:
    """Writes beside the final place, at the offsets that the bytes belong to. OSErrors of the partial file come out as
    they are."""

    def __init__(self, planned: PlannedFile, source: str, state: TransferState, digests: DigestThread | None) -> None:
        blob = planned.blob
        self.planned = planned
        self.part = state.part_of(planned.path)
        self.error: HimlError | None = None
        self.service_md5: bytes | None = None
        self._state = state
        self._digests = digests
        self._descriptor = -1
        self._positions: dict[int, int] = {}
        self._is_resumable = blob.size > SMALL
        self._comes_in_pieces = blob.size > LARGE
        self._small_md5 = None if digests is None or self._is_resumable else hashlib.md5(usedforsecurity=False)
        self._digest: FileDigest | None = None
        self._done = self._resumed(source) if self._is_resumable else []
        missing: Iterable[tuple[int, int]] = _gaps(self._done, blob.size)
        if self._comes_in_pieces:
            missing = (piece for start, stop in missing for piece in _pieces(start, stop, blob.size))
        checked_each = CHECKED if digests is not None and blob.md5 is None else 0
        self.requests: Sequence[FetchRequest] = [
            FetchRequest(blob, start, stop - start, checked_each) for start, stop in missing
        ]
        self.outstanding = len(self.requests)
        if self._done:
            self._follow()

    def _resumed(self, source: str) -> list[tuple[int, int]]:
        """What an earlier transfer left of exactly this blob; else the partial file is begun anew."""
        blob, target = self.planned.blob, self.planned.target
        try:
            status = os.lstat(self.part)
        except FileNotFoundError:
            size = None
        else:
            size = status.st_size if stat.S_ISREG(status.st_mode) else -1  # a link that somebody put there
        if size is not None:
            if 0 <= size <= blob.size and self._state.has_part(target, source, blob.etag, blob.size):
                if not self._comes_in_pieces:
                    return [(0, size)] if size else []
                return [(start, stop) for start, stop in self._state.ranges(target) if stop <= size]
            os.unlink(self.part)
        self._state.begin_part(target, source, blob.etag, blob.size)
        return []

    def _follow(self) -> None:
        if self._digests is not None and self._digest is None:
            self._digest = self._digests.follow(self.part, self.planned.blob.size)
            for start, stop in self._done:
                self._digest.written(start, stop)

    def _open(self) -> None:
        if self._is_resumable:
            self._descriptor = os.open(self.part, OPEN_FLAGS, 0o666)
            self._follow()
        else:
            self._descriptor = open_new(self.part)

    def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
        position = self._positions.get(request.offset, request.offset)
        if offset != position or offset + len(data) > request.offset + request.length:
            self.error = _other_bytes(request)
            return
        if self._descriptor < 0:
            self._open()
        write_at(self._descriptor, offset, data)
        self._positions[request.offset] = position + len(data)
        if self._small_md5 is not None:
            self._small_md5.update(data)
        elif self._digest is not None:
            self._digest.written(request.offset, position + len(data))

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        """*request* is complete, as the store says; `error` is set when it is not."""
        self.outstanding -= 1
        stop = request.offset + request.length
        if self._positions.get(request.offset, request.offset) != stop:
            self.error = self.error or _no_end(request)
            return
        self.service_md5 = md5 or self.service_md5
        if self._comes_in_pieces and self.error is None:
            self._state.add_range(self.planned.target, request.offset, stop)

    def fail(self, error: HimlError) -> None:
        self.outstanding -= 1
        self.error = self.error or error

    @property
    def received(self) -> int:
        """How many bytes came, without those of an earlier transfer."""
        return sum(position - start for start, position in self._positions.items())

    @property
    def is_digested(self) -> bool:
        return self._digest is None or self._digest.ready.is_set()

    def md5(self) -> bytes | None:
        """MD5 of what arrived (None when it is not computed); waits for the thread."""
        if self._digest is not None:
            return self._digest.result()
        return None if self._small_md5 is None else self._small_md5.digest()

    def land(self) -> os.stat_result:
        """Put the partial file in its final place; gives the state of the file there."""
        self._close()
        os.replace(self.part, self.planned.path)
        if self._is_resumable:
            self._state.forget_part(self.planned.target)
        return os.stat(self.planned.path)

    def suspend(self) -> None:
        """Stop here: a large file can be resumed from what there is."""
        if not self._is_resumable or not self._state.is_kept:
            self.discard()
            return
        if self._digest is not None:
            self._digest.cancel()
        self._close()
        if self._comes_in_pieces:
            for start, stop in self._positions.items():
                self._state.add_range(self.planned.target, start, stop)

    def discard(self) -> None:
        """Take the partial file away."""
        if self._digest is not None:
            self._digest.cancel()
        self._close()
        if os.path.lexists(self.part):
            os.unlink(self.part)
        if self._is_resumable:
            self._state.forget_part(self.planned.target)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _other_bytes(request: FetchRequest) -> IntegrityFailed:
    return IntegrityFailed(f"'{request.blob.name}' came with other bytes than were asked for.")


def _no_end(request: FetchRequest) -> IntegrityFailed:
    return IntegrityFailed(f"'{request.blob.name}' came without its end.")


def _gaps(done: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """What of 0 to *size* lies in none of the ranges *done*, which are in order."""
    position = 0
    for start, stop in done:
        if start > position:
            yield position, start
        position = max(position, stop)
    if position < size:
        yield position, size


def _pieces(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """What lies between *start* and *stop* of a file of *size* bytes, in pieces: short, longer, short again; all of
    them at most some `MOST_PIECES`."""
    least = PIECE * max(1, -(-size // (PIECE * MOST_PIECES)))
    while start < stop:
        length = max(least, min(start // GROWTH, (size - start) // DECLINE, LONGEST_PIECE))
        yield start, min(start + length, stop)
        start += length
