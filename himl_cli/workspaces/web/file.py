"""A file on the web as a `BlobStore` of one blob, so that the transfers of other files serve it too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import HimlError, NotFound
from himl_cli.workspaces.azure.storage.blobs.asking import Pending, Question
from himl_cli.workspaces.azure.storage.blobs.lines import Exchanger, Line
from himl_cli.workspaces.azure.storage.blobs.properties import whole_md5
from himl_cli.workspaces.azure.storage.blobs.tasks import Run, Task, Tasks
from himl_cli.workspaces.base import FetchSink, StoreSink
from himl_cli.workspaces.retry import RetryPolicy, RetryState
from himl_cli.workspaces.web.access import WebAccess
from himl_cli.workspaces.web.answers import Told, validator_of
from himl_cli.workspaces.web.bodies import Part, Requests, Stream
from himl_cli.workspaces.web.faults import FileGone
from himl_cli.workspaces.web.looking import Look

AT_ONCE = 8  # requests to a server that himl knows nothing of
READ_AT_ONCE = 4 << 20


class WebFile:
    """The file at *address*, read-only. It is looked at once; `stat` looks anew. Raises BadUsage for an address that is
    not read.

    What changed between two requests, or since an earlier transfer, is told by a strong ETag, else by the time of
    change; from servers that say neither, or know nothing of ranges, the file comes in one stream.
    """

    def __init__(self, address: str, *, exchanger: Exchanger | None = None, retries: RetryPolicy | None = None) -> None:
        self._exchanger = exchanger or Exchanger()
        self._retries = retries or RetryPolicy()
        self._access = WebAccess(address, self._look)
        self._told: Told | None = None

    @property
    def label(self) -> str:
        """The address without its query."""
        return self._access.place.label

    @property
    def origin(self) -> str:
        """As `BlobStore.origin`: the same for all signatures of one address."""
        return self._access.origin

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """The file. Raises NotFound where there is none, NotAllowed, ServiceFailed."""
        blob = self._known().blob
        if blob.name.startswith(prefix):
            yield [blob]

    def stat(self, name: str) -> BlobInfo | None:
        """As `BlobStore.stat`: one request."""
        try:
            blob = self._look().blob
        except FileGone:
            return None
        return blob if blob.name == name else None

    def md5(self, blob: BlobInfo) -> bytes | None:
        """What the server tells, which for parts of a file may take a request of its own."""
        if blob.md5 is not None:
            return blob.md5

        def understand(line: Line) -> bytes | None:
            return whole_md5(line) if validator_of(line) == blob.etag else None

        question = Question(blob.name, self._access, RetryPolicy(attempts=1), understand, method="HEAD")
        try:
            return Pending(question, self._exchanger).wait()
        except HimlError:  # it is told on top; some servers answer no HEAD
            return None

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """As `BlobStore.read`. Raises NotFound at once; what else goes wrong while iterating."""
        blob = self._known().blob
        if name != blob.name:
            raise NotFound(f"No file '{name}' at {self.label}.")
        return self._pieces(blob, offset)

    def _pieces(self, blob: BlobInfo, offset: int) -> Iterator[bytes]:
        while offset < blob.size:
            taken = _Taken()
            self.fetch(iter([FetchRequest(blob, offset, min(READ_AT_ONCE, blob.size - offset))]), taken, workers=1)
            if taken.error is not None:
                raise taken.error
            data = b"".join(taken.pieces)
            yield data
            offset += len(data)

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """As `BlobStore.fetch`, by 8 connections at most."""
        health = RetryState(self._retries, self._access.pauses)
        if self._known().comes_in_parts:
            parts = (Part(request, sink, self._access, health) for request in requests)
            self._run(parts, min(workers, AT_ONCE))
        else:
            self._run(self._streams(Requests(iter(requests)), sink, health), 1)

    def _streams(self, requests: Requests, sink: FetchSink, health: RetryState) -> Iterator[Task]:
        while (first := requests.take()) is not None:
            yield Stream(first, requests, sink, self._access, health)

    def _run(self, tasks: Iterator[Task], workers: int) -> None:
        with self._exchanger.lines() as lines:
            Run(lines, Tasks(tasks), workers).finish()

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """Every request fails."""
        for request in requests:
            sink.fail(request, HimlError(f"{self.label} can be read only."))

    def _known(self) -> Told:
        return self._told or self._look()

    def _look(self) -> Told:
        look = Look(self._access, self._retries)
        self._run(iter([look]), 1)
        self._told = look.answer
        return self._told


class _Taken:
    """Keeps the bytes of one request."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.error: HimlError | None = None

    def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
        self.pieces.append(data)

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        """All is there."""

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        self.error = error
