"""One file on its way in: its partial file, what of it is still to come, and its MD5."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import HimlError, IntegrityFailed
from himl_cli.services.transfer.disk import OPEN_FLAGS, open_new, write_at
from himl_cli.services.transfer.integrity import FileDigest, Hashing
from himl_cli.services.transfer.plan import Wanted
from himl_cli.services.transfer.state import TransferState

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


class Arrival:
    """Writes beside the final place, at the offsets that the bytes belong to. OSErrors of the partial file come out as
    they are."""

    def __init__(self, wanted: Wanted, source: str, state: TransferState, hashing: Hashing | None) -> None:
        self.wanted = wanted
        self.part = state.part_of(wanted.path)
        self.error: HimlError | None = None
        self.service_md5: bytes | None = None
        self._state = state
        self._hashing = hashing
        self._descriptor = -1
        self._positions: dict[int, int] = {}
        self._small_md5 = hashlib.md5(usedforsecurity=False) if hashing is not None and not self.is_resumable else None
        self._digest: FileDigest | None = None
        self._done = self._resumed(source) if self.is_resumable else []
        checked_each = CHECKED if hashing is not None and wanted.blob.md5 is None else 0
        self.requests = [
            FetchRequest(wanted.blob, start, stop - start, checked_each) for start, stop in self._missing()
        ]
        self.outstanding = len(self.requests)
        if self._done and self.is_resumable:
            self._follow()

    @property
    def is_resumable(self) -> bool:
        return self.wanted.blob.size > SMALL

    @property
    def _comes_in_pieces(self) -> bool:
        return self.wanted.blob.size > LARGE

    def _resumed(self, source: str) -> list[tuple[int, int]]:
        """What an earlier transfer left of exactly this blob; else the partial file is begun anew."""
        blob, target = self.wanted.blob, self.wanted.target
        size = self._part_size()
        if size is not None and self._state.has_part(target, source, blob.etag, blob.size) and size <= blob.size:
            if not self._comes_in_pieces:
                return [(0, size)] if size else []
            return [(start, stop) for start, stop in self._state.ranges(target) if stop <= size]
        if size is not None:
            os.unlink(self.part)
        self._state.begin_part(target, source, blob.etag, blob.size)
        return []

    def _part_size(self) -> int | None:
        try:
            status = os.lstat(self.part)
        except FileNotFoundError:
            return None
        if stat.S_ISREG(status.st_mode):
            return status.st_size
        os.unlink(self.part)  # a link that somebody put there
        return None

    def _missing(self) -> list[tuple[int, int]]:
        size = self.wanted.blob.size
        if not self._comes_in_pieces:
            start = self._done[0][1] if self._done else 0
            return [(start, size)] if start < size else []
        return [piece for start, stop in _gaps(self._done, size) for piece in _pieces(start, stop, size)]

    def _follow(self) -> None:
        if self._hashing is not None and self._digest is None:
            self._digest = self._hashing.follow(self.part, self.wanted.blob.size)
            for start, stop in self._done:
                self._digest.written(start, stop)

    def _open(self) -> None:
        if self.is_resumable:
            self._descriptor = os.open(self.part, OPEN_FLAGS, 0o666)
            self._follow()
            return
        self._descriptor = open_new(self.part)

    def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
        position = self._positions.get(request.offset, request.offset)
        if offset != position or offset + len(data) > request.offset + request.length:
            self.error = IntegrityFailed(f"'{request.blob.name}' came with other bytes than were asked for.")
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
            self.error = self.error or IntegrityFailed(f"'{request.blob.name}' came without its end.")
            return
        self.service_md5 = md5 or self.service_md5
        if self._comes_in_pieces and self.error is None:
            self._state.add_range(self.wanted.target, request.offset, stop)

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
        if self._descriptor < 0 and not self.is_resumable:
            self._open()  # an empty file
        self._close()
        os.replace(self.part, self.wanted.path)
        if self.is_resumable:
            self._state.forget_part(self.wanted.target)
        return os.stat(self.wanted.path)

    def suspend(self) -> None:
        """Stop here: a large file can be resumed from what there is."""
        if not self.is_resumable or not self._state.is_kept:
            self.discard()
            return
        if self._digest is not None:
            self._digest.cancel()
        self._close()
        if self._comes_in_pieces:
            for start, stop in self._positions.items():
                self._state.add_range(self.wanted.target, start, stop)

    def discard(self) -> None:
        """Take the partial file away."""
        if self._digest is not None:
            self._digest.cancel()
        self._close()
        if os.path.lexists(self.part):
            os.unlink(self.part)
        if self.is_resumable:
            self._state.forget_part(self.wanted.target)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


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
