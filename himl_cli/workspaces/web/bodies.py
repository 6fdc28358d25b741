"""The file's bytes: asked for in parts, or as one stream where only that gives one file for certain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import BlobChanged, HimlError, IntegrityFailed, ServiceFailed
from himl_cli.workspaces.azure.storage.blobs.arriving import ENOUGH, Arriving
from himl_cli.workspaces.azure.storage.blobs.lines import Broken, Exchange, Line
from himl_cli.workspaces.azure.storage.blobs.properties import whole_md5
from himl_cli.workspaces.azure.storage.blobs.tasks import Task, WrongAnswer
from himl_cli.workspaces.base import FetchSink
from himl_cli.workspaces.retry import Failure, RetryState
from himl_cli.workspaces.web.access import WebAccess
from himl_cli.workspaces.web.answers import if_range, packed_by, start_of, total_of, validator_of
from himl_cli.workspaces.web.faults import compressed, fault_on


class Body(Task):
    """What parts and streams share: looking at an answer's head before any of its bytes count."""

    access: WebAccess

    def __init__(self, name: str, access: WebAccess, health: RetryState) -> None:
        super().__init__(name, access, health)
        self._is_accepted = False

    def accept(self, line: Line, request: FetchRequest, start: int) -> None:
        """The answer has the bytes from *start* on of the file that was listed. Raises WrongAnswer."""
        if self._is_accepted:
            return
        if line.status not in (200, 206):
            raise WrongAnswer(self.fault(line))
        if how := packed_by(line, self.access.address):
            raise WrongAnswer(Failure(compressed(self.access.place, how)))
        blob, total, validator = request.blob, total_of(line), validator_of(line)
        if (validator and blob.etag and validator != blob.etag) or (total is not None and total != blob.size):
            raise WrongAnswer(Failure(BlobChanged(f"The file at {self.access.place.label} changed while it was read.")))
        if (start_of(line) if line.status == 206 else 0) != start:
            raise WrongAnswer(self.other_bytes())
        self._is_accepted = True

    def other_bytes(self) -> Failure:
        return Failure(ServiceFailed(f"{self.access.place.host} sent other bytes than were asked for."), may_pass=True)

    def cut_short(self) -> IntegrityFailed:
        return IntegrityFailed(f"The file at {self.access.place.label} came without its end.")

    def fault(self, line: Line, broken: Broken | None = None) -> Failure:
        return fault_on(line, broken, self.access.place)


class Part(Body):
    """The bytes of one request, resumed from where they got to; only of the state of the file that was listed."""

    def __init__(self, request: FetchRequest, sink: FetchSink, access: WebAccess, health: RetryState) -> None:
        super().__init__(request.blob.name, access, health)
        self._request = request
        self._sink = sink
        self._bytes = Arriving(request, sink)
        self._md5: bytes | None = None

    def exchange(self) -> Exchange:
        signed, self._is_accepted = self.sign(), False
        headers = [*signed.headers]
        if self._bytes.position or self._bytes.end != self._request.blob.size:
            headers += [f"Range: bytes={self._bytes.position}-{self._bytes.end - 1}", if_range(self._request.blob.etag)]
        return Exchange(signed.url, headers, in_pieces=self._bytes.come_in_pieces)

    def part(self, line: Line) -> None:
        self.accept(line, self._request, self._bytes.position)
        self._md5 = whole_md5(line) or self._md5
        data = line.take()
        if not self._bytes.has_room_for(data):
            raise WrongAnswer(self.other_bytes())
        if self._bytes.take(data):
            self.moved()

    def broke_off(self, line: Line) -> None:
        if line.chunks and line.status in (200, 206):
            self.part(line)

    def answered(self, line: Line) -> float | None:
        self.part(line)
        if not self._bytes.is_complete:
            self.fail(self.cut_short())
            return None
        self.moved()
        self._sink.finish(self._request, self._md5)
        return None

    def fail(self, error: HimlError) -> None:
        self._sink.fail(self._request, error)


class Requests:
    """Requests of a fetch, in their order, with a look at the next one."""

    def __init__(self, requests: Iterator[FetchRequest]) -> None:
        self._rest = requests
        self._next: FetchRequest | None = None

    def peek(self) -> FetchRequest | None:
        """The next one, which stays the next; None after the last."""
        if self._next is None:
            self._next = next(self._rest, None)
        return self._next

    def take(self) -> FetchRequest | None:
        """The next one."""
        taken, self._next = self.peek(), None
        return taken


class Stream(Body):
    """The whole file, from its first byte on, dealt out to *first* and those of *requests* that follow it.

    Broken off, it begins anew: what was dealt out already has to come again just the same before more is.
    """

    def __init__(
        self, first: FetchRequest, requests: Requests, sink: FetchSink, access: WebAccess, health: RetryState
    ) -> None:
        super().__init__(first.blob.name, access, health)
        self._request: FetchRequest | None = first
        self._blob = first.blob
        self._requests = requests
        self._sink = sink
        self._position = self._proven = 0
        self._dealt: Any = hashlib.md5(usedforsecurity=False)
        self._came = 0  # bytes of the present answer, and their digest up to what was dealt out before
        self._again: Any = hashlib.md5(usedforsecurity=False)

    def exchange(self) -> Exchange:
        signed, self._is_accepted = self.sign(), False
        self._came, self._again = 0, hashlib.md5(usedforsecurity=False)
        return Exchange(signed.url, [*signed.headers], in_pieces=True)

    def part(self, line: Line) -> None:
        if self._request is None:
            raise WrongAnswer(Failure(ServiceFailed("The rest is not wanted.")))
        self.accept(line, self._request, 0)
        data = line.take()
        if self._came + len(data) > self._blob.size:
            raise WrongAnswer(self.other_bytes())
        known = max(0, min(self._position - self._came, len(data)))
        self._again.update(data[:known])
        self._came += len(data)
        if known and self._came >= self._position and self._again.digest() != self._dealt.digest():
            raise WrongAnswer(Failure(BlobChanged(f"The file at {self.access.place.label} changed while it was read.")))
        if self._came >= self._position:
            self._deal(data[known:], whole_md5(line))

    def _deal(self, data: bytes, md5: bytes | None) -> None:
        start, self._position = self._position, self._position + len(data)
        self._dealt.update(data)
        while (request := self._request) is not None:
            end = request.offset + request.length
            piece = data[max(0, request.offset - start) : max(0, end - start)]
            if piece:
                self._sink.write(request, max(start, request.offset), piece)
            if end > self._position:
                break
            self._sink.finish(request, md5)
            self._request = self._following(end)
        if self._position - self._proven >= ENOUGH:
            self._proven = self._position
            self.moved()

    def _following(self, end: int) -> FetchRequest | None:
        """The next request, where this stream still has what it asks for."""
        request = self._requests.peek()
        return (
            self._requests.take()
            if request is not None and request.blob == self._blob and request.offset >= end
            else None
        )

    def broke_off(self, line: Line) -> None:
        if line.chunks and line.status == 200:
            self.part(line)

    def answered(self, line: Line) -> float | None:
        if self._request is not None:
            self.part(line)
        if self._request is not None:
            self.fail(self.cut_short())
        return None

    def after(self, fault: Failure) -> float | None:
        return None if self._request is None else super().after(fault)

    def fail(self, error: HimlError) -> None:
        if self._request is not None:
            self._sink.fail(self._request, error)
