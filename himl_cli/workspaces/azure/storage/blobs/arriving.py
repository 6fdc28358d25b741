"""The bytes of one request on their way to a sink."""

from __future__ import annotations

from himl_cli.core.blobs import FetchRequest
from himl_cli.workspaces.base import FetchSink

ENOUGH = 1 << 20  # bytes after which earlier failures are forgotten
SMALL = 256 << 10  # bytes that come in one piece


class Arriving:
    """`position` is where in the file the next byte belongs, `end` where the request's bytes end."""

    def __init__(self, request: FetchRequest, sink: FetchSink) -> None:
        self._request = request
        self._sink = sink
        self._proven = request.offset  # position at which failures were last forgotten
        self.position = request.offset
        self.end = request.offset + request.length

    @property
    def is_complete(self) -> bool:
        return self.position == self.end

    @property
    def come_in_pieces(self) -> bool:
        """Whether the rest is too much for one piece."""
        return self.end - self.position > SMALL

    def has_room_for(self, data: bytes) -> bool:
        """Whether *data* is no more than was asked for."""
        return self.position + len(data) <= self.end

    def take(self, data: bytes) -> bool:
        """Hand *data* on, for which there is room; True where so much has come that earlier failures are to be forgotten."""
        if not data:
            return False
        start, self.position = self.position, self.position + len(data)
        self._sink.write(self._request, start, data)
        if self.position - self._proven < ENOUGH:
            return False
        self._proven = self.position
        return True
