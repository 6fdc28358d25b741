"""The bytes of one request on their way to a sink."""

from __future__ import annotations

import hashlib

from himl_cli.core.blobs import MOST_CHECKED, FetchRequest
from himl_cli.workspaces.base import FetchSink

ENOUGH = 1 << 20  # bytes after which earlier failures are forgotten
SMALL = 256 << 10  # bytes that come in one piece


class Damaged(Exception):
    """What came is not what its checksum says; none of it was handed on."""


class Arriving:
    """`position` is where in the file the next byte belongs, `end` where the request's bytes end, `stop` where those
    end that are asked for now."""

    def __init__(self, request: FetchRequest, sink: FetchSink) -> None:
        self._request = request
        self._sink = sink
        self._proven = request.offset  # position at which failures were last forgotten
        self.position = request.offset
        self.end = self.stop = request.offset + request.length

    @property
    def is_complete(self) -> bool:
        return self.position == self.end

    @property
    def come_in_pieces(self) -> bool:
        """Whether the rest is too much for one piece."""
        return self.stop - self.position > SMALL

    def has_room_for(self, data: bytes) -> bool:
        """Whether *data* is no more than was asked for."""
        return self.position + len(data) <= self.stop

    def take(self, data: bytes) -> bool:
        """Hand *data* on, for which there is room; True where so much has come that earlier failures are to be
        forgotten."""
        if not data:
            return False
        start, self.position = self.position, self.position + len(data)
        is_much = self.position - self._proven >= ENOUGH
        if is_much:
            self._proven = self.position
        self._hand_on(start, data)
        return is_much

    def _hand_on(self, start: int, data: bytes) -> None:
        self._sink.write(self._request, start, data)


class CheckedArriving(Arriving):
    """Bytes that come in ranges of up to `checked_each`, each held back until it is all there and has the MD5 that the
    service told with it.

    A range that breaks off is gone on with; its MD5 is what the first answer told.
    """

    def __init__(self, request: FetchRequest, sink: FetchSink) -> None:
        super().__init__(request, sink)
        self._start = request.offset
        self._each = min(request.checked_each, MOST_CHECKED)
        self._held: list[bytes] = []
        self._md5: bytes | None = None

    def ask(self) -> None:
        """The bytes from `position` to `stop` are asked for next."""
        self.stop = min(self.end, self._start + self._each)

    def expect(self, md5: bytes | None) -> bool:
        """An answer tells this MD5 for its bytes; False where that of the range is not known."""
        if not self._held:
            self._md5 = md5
        return self._md5 is not None

    def _hand_on(self, start: int, data: bytes) -> None:
        """Raises Damaged: then the range is to be asked for again."""
        self._held.append(data)
        if self.position < self.stop:
            return
        whole = b"".join(self._held)
        self._held.clear()
        if hashlib.md5(whole, usedforsecurity=False).digest() != self._md5:
            self.position = self._start
            raise Damaged
        first, self._start = self._start, self.position
        self._sink.write(self._request, first, whole)
