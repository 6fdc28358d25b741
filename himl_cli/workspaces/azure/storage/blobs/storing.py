"""Storing files: small ones in one request, large ones in blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import HimlError
from himl_cli.workspaces.azure.storage.blobs.access import Access
from himl_cli.workspaces.azure.storage.blobs.block_tasks import damaged_on_the_way
from himl_cli.workspaces.azure.storage.blobs.commit import CommitTask
from himl_cli.workspaces.azure.storage.blobs.large_file import LargeFile
from himl_cli.workspaces.azure.storage.blobs.lines import Exchange, Line
from himl_cli.workspaces.azure.storage.blobs.local_file import changed, whole_content
from himl_cli.workspaces.azure.storage.blobs.names import reason_not_to_store
from himl_cli.workspaces.azure.storage.blobs.properties import stored_blob
from himl_cli.workspaces.azure.storage.blobs.room import Room
from himl_cli.workspaces.azure.storage.blobs.tasks import Task
from himl_cli.workspaces.azure.storage.blobs.types import media_type
from himl_cli.workspaces.azure.storage.blobs.wire import md5_text
from himl_cli.workspaces.base import StoreSink
from himl_cli.workspaces.retry import Failure, RetryState

SINGLE = 8 << 20  # bytes; up to here a file goes in one request
ROOM = 32 << 20  # bytes of files in memory at once
LARGE_AT_ONCE = 8


class StoreTasks:
    """The tasks that store *requests*, made as lines and memory get free. Call `close` when done, whatever happened."""

    def __init__(self, requests: Iterator[StoreRequest], sink: StoreSink, access: Access, health: RetryState) -> None:
        self._requests = requests
        self._sink = sink
        self._access = access
        self._health = health
        self._room = Room(ROOM)
        self._large: list[LargeFile] = []
        self._next: StoreRequest | None = None

    def next(self) -> Task | None:
        """As `Source.next`."""
        for file in self._large:
            task = file.next()
            if task is not None:
                return task
        self._large = [file for file in self._large if not file.is_over]
        return self._another()

    def _another(self) -> Task | None:
        """The first task of another file."""
        while True:
            request = self._next = self._next or next(self._requests, None)
            if request is None:
                return None
            reason = reason_not_to_store(request.name)
            if reason:
                self._next = None
                self._sink.fail(
                    request,
                    HimlError(
                        f"'{request.name}' cannot be stored in {self._access.place.label}: {reason}.", hint="Rename it."
                    ),
                )
                continue
            if request.size <= SINGLE:
                return self._small(request)
            if len(self._large) >= LARGE_AT_ONCE:
                return None
            self._next = None
            file = LargeFile(request, self._sink, self._access, self._health, self._room)
            self._large.append(file)
            return file.next()

    def _small(self, request: StoreRequest) -> Task | None:
        if not self._room.take(request.size):
            return None
        self._next = None
        return PutTask(request, self._sink, self._access, self._health, self._room)

    def is_preparing(self) -> bool:
        """As `Source.is_preparing`."""
        return any(file.is_reading for file in self._large)

    def close(self) -> None:
        """Stop reading files."""
        for file in self._large:
            file.close()


class PutTask(CommitTask):
    """A whole file as one blob; the service checks its MD5 and keeps it."""

    def __init__(self, request: StoreRequest, sink: StoreSink, access: Access, health: RetryState, room: Room) -> None:
        super().__init__(request, access, health)
        self._sink = sink
        self._room = room
        self._body: bytes | None = None

    def send(self) -> Exchange:
        if self._body is None:
            self._body, self.md5 = whole_content(self.request)
        signed = self.sign()
        about = [
            "x-ms-blob-type: BlockBlob",
            f"Content-Type: {media_type(self.name)}",
            f"Content-MD5: {md5_text(self.md5)}",
            "Expect:",
        ]
        return Exchange(signed.url, [*signed.headers, *self.condition, *about], "PUT", self._body)

    def judged(self, fault: Failure) -> Failure:
        """A wrong MD5 is the file's own change since it was digested, or damage on the way."""
        if (
            fault.code == "Md5Mismatch"
            and self._body is not None
            and hashlib.md5(self._body, usedforsecurity=False).digest() != self.md5
        ):
            return Failure(changed(self.request))
        return damaged_on_the_way(fault)

    def stored(self, line: Line) -> None:
        self._room.give_back(self.request.size)
        self._sink.advance(self.request, self.request.size)
        self._sink.finish(self.request, stored_blob(line, self.request, self.md5))

    def fail(self, error: HimlError) -> None:
        self._body = None
        self._room.give_back(self.request.size)
        self._sink.fail(self.request, error)
