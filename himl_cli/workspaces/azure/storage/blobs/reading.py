"""Reading blobs whose addresses are known: the half that a container and a run's artifact links share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from himl_cli.core.blobs import BlobInfo, FetchRequest
from himl_cli.core.errors import BlobChanged, NotFound
from himl_cli.workspaces.azure.storage.blobs.access import Access
from himl_cli.workspaces.azure.storage.blobs.asking import Answer, Pending, Question
from himl_cli.workspaces.azure.storage.blobs.faults import BlobNotFound
from himl_cli.workspaces.azure.storage.blobs.fetching import FetchTask
from himl_cli.workspaces.azure.storage.blobs.lines import Exchanger, Line
from himl_cli.workspaces.azure.storage.blobs.names import can_be_asked_for
from himl_cli.workspaces.azure.storage.blobs.properties import etag_of, properties_of
from himl_cli.workspaces.azure.storage.blobs.tasks import Run, Tasks
from himl_cli.workspaces.base import FetchSink
from himl_cli.workspaces.retry import RetryPolicy, RetryState

READ_AT_ONCE = 4 << 20


class BlobReader(ABC):
    """The reading part of a `BlobStore` in Azure Storage; the kinds of it differ in how they list.

    Names that begin with one of *growing* are of files that are only ever appended to.
    """

    def __init__(self, access: Access, exchanger: Exchanger, retries: RetryPolicy, growing: Sequence[str] = ()) -> None:
        self._access = access
        self._exchanger = exchanger
        self._retries = retries
        self._growing = tuple(growing)
        self._under_way: list[Pending[Any]] = []

    @property
    def label(self) -> str:
        """What messages call this place."""
        return self._access.place.label

    @property
    def origin(self) -> str:
        """As `BlobStore.origin`."""
        return self._access.origin

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """As `BlobStore.list`."""

    def stat(self, name: str) -> BlobInfo | None:
        """As `BlobStore.stat`: one request. Raises NotFound for a container that does not exist, NotAllowed,
        ServiceFailed."""
        if not can_be_asked_for(name):
            return None
        try:
            found = self._asked(
                Question(name, self._access, self._retries, lambda line: properties_of(line, name), method="HEAD")
            )
        except BlobNotFound:
            return None
        return None if found.is_directory else found.blob

    def md5(self, blob: BlobInfo) -> bytes | None:
        """As `BlobStore.md5`: what the service has on record. A blob is not read for it."""
        return blob.md5

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """As `BlobStore.read`. Raises NotFound at once; BlobChanged while iterating, when the blob is replaced
        meanwhile."""
        if not can_be_asked_for(name):
            raise NotFound(f"No file '{name}' in {self.label}.")
        first, etag, size = self._asked(self._reading(name, offset, "", READ_AT_ONCE))
        return self._rest(name, offset, first, etag, size)

    def _rest(self, name: str, offset: int, piece: bytes, etag: str, size: int) -> Iterator[bytes]:
        while piece:
            yield piece
            offset += len(piece)
            if offset >= size:
                return
            length = min(READ_AT_ONCE, size - offset)
            piece, now, _ = self._asked(self._reading(name, offset, "" if self._may_grow(name) else etag, length))
            if not piece or (now != etag and not self._may_grow(name)):
                raise BlobChanged(f"'{name}' changed while it was read.")

    def _reading(self, name: str, offset: int, etag: str, length: int) -> Question[tuple[bytes, str, int]]:
        def understand(line: Line) -> tuple[bytes, str, int]:
            if line.status == 416:  # nothing lies at the offset
                return b"", "", offset
            total = line.header(b"content-range").rpartition("/")[2]
            return line.take(), etag_of(line), int(total) if total.isdecimal() else offset

        match = (f'If-Match: "{etag}"',) if etag else ()
        headers = (f"Range: bytes={offset}-{offset + length - 1}", *match)
        return Question(name, self._access, self._retries, understand, headers=headers, good=(206, 416))

    def _asked(self, question: Question[Answer]) -> Answer:
        return Pending(question, self._exchanger).wait()

    def _may_grow(self, name: str) -> bool:
        return bool(self._growing) and name.startswith(self._growing)

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """As `BlobStore.fetch`: *workers* connections, one thread, the caller's; requests are taken as connections get
        free."""
        health = RetryState(self._retries, self._access.pauses)
        tasks = (
            FetchTask(request, sink, self._access, health, may_grow=self._may_grow(request.blob.name))
            for request in requests
        )
        with self._exchanger.lines() as lines:
            Run(lines, Tasks(tasks), workers, self._go_on_beside).finish()

    def _go_on_beside(self) -> None:
        for pending in self._under_way:
            pending.go_on()
