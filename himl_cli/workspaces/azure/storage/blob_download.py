"""Reading blobs whose addresses are known: single ones, and many at once, each checked and resumed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from himl_cli.core.blobs import MOST_CHECKED, BlobInfo, FetchRequest
from himl_cli.core.errors import BlobChanged, HimlError, IntegrityFailed, NotFound, ServiceFailed
from himl_cli.workspaces.azure.storage.blob_responses import (
    FEW,
    BlobNotFound,
    Properties,
    etag_of,
    md5_from,
    properties_of,
    size_from,
    whole_md5,
)
from himl_cli.workspaces.azure.storage.curl import CurlPool, CurlResponse
from himl_cli.workspaces.azure.storage.scheduler import (
    Attempt,
    AttemptFailed,
    PendingQuery,
    Query,
    Task,
    ask,
    run_tasks,
)
from himl_cli.workspaces.azure.storage.signing import Endpoint, reason_not_to_ask
from himl_cli.workspaces.base import FetchSink
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState

SMALL = 256 << 10  # bytes that come in one piece
READ_AT_ONCE = 4 << 20


class Download(Task):
    """Brings the bytes of *request* to *sink*; never others than were asked for, and only of the ETag that was listed.

    Where the blob is only ever appended to (an append blob, or a name that *may_grow*), having grown since is no harm:
    the bytes that were listed are still its first.

    A request with `checked_each` is asked for in ranges of so many bytes, append blobs included, each held back until
    it is all there and has the MD5 that the service told with it. A range that breaks off is resumed; its MD5 is what
    the first response told.
    """

    def __init__(
        self, request: FetchRequest, sink: FetchSink, endpoint: Endpoint, retries: RetryState, *, may_grow: bool
    ) -> None:
        super().__init__(request.blob.name, endpoint, retries)
        self._request = request
        self._sink = sink
        self._may_grow = may_grow
        self._etag = request.blob.etag
        self._checked_each = min(request.checked_each, MOST_CHECKED)
        self._held: list[bytes] = []  # of the range in hand
        self._range_md5: bytes | None = None
        # Where in the file the next byte belongs, the range in hand begins, and failures were last forgotten
        self._position = self._start = self._proven = request.offset
        # Where the request's bytes end, and those that are asked for now
        self._end = self._stop = request.offset + request.length
        self._has_grown = self._is_changed = False  # changed: it has another ETag now, and was not looked at yet
        self._changes = 0
        self._md5: bytes | None = None

    def attempt(self) -> Attempt:
        if reason := reason_not_to_ask(self.name):
            raise ServiceFailed(
                f"'{self.name}' cannot be asked for: {reason}.", hint="Let whoever wrote it give it another name."
            )
        while True:
            if self._is_changed:
                response = yield self.request(method="HEAD")
                self._compare(response)
            headers = [f'If-Match: "{self._etag}"'] if self._etag else []
            if self._position == self._end:
                response = yield self.request(*headers, method="HEAD")
            else:
                headers += self._range()
                response = yield self.request(*headers, is_streamed=self._stop - self._position > SMALL)
            code = response.header(b"x-ms-error-code") if response.status == 412 else None
            # It may grow between two requests, but not for ever
            if response.is_complete and code in ("ConditionNotMet", "") and self._changes < 5:
                self._changes += 1
                self._is_changed = True
                continue
            self._accept(response)
            self._deliver(response)
            while not response.is_complete:
                if response.failure is not None:
                    raise AttemptFailed(self.failure(response))
                yield None
                self._deliver(response)
            if self._position != self._stop:
                raise self._changed("is shorter than it was listed")
            self.progressed()
            if self._position == self._end:
                self._sink.finish(self._request, self._md5)
                return

    def _range(self) -> list[str]:
        """Headers that ask for what comes next; none where that is all of a blob that is as it was listed."""
        if self._checked_each:
            self._stop = min(self._end, self._start + self._checked_each)
        elif not self._has_grown and self._position == 0 and self._end == self._request.blob.size:
            return []
        with_md5 = ["x-ms-range-get-content-md5: true"] if self._checked_each else []
        return [f"Range: bytes={self._position}-{self._stop - 1}", *with_md5]

    def failure(self, response: CurlResponse) -> Failure:
        failure = super().failure(response)
        if isinstance(failure.error, BlobNotFound):
            return Failure(BlobChanged(f"'{self.name}' is no longer in {self.endpoint.label}."))
        return failure

    def _changed(self, what: str, hint: str = "") -> AttemptFailed:
        return AttemptFailed(Failure(BlobChanged(f"'{self.name}' {what}.", hint=hint)))

    def _accept(self, response: CurlResponse) -> None:
        status = response.status
        if status not in (200, 206) or (response.failure is not None and not response.chunks):
            raise AttemptFailed(self.failure(response))
        if self._etag and etag_of(response) not in ("", self._etag):
            raise self._changed("changed while it was read")
        if self._position != self._end:
            start, _, total = response.header(b"content-range").removeprefix("bytes ").partition("/")
            if (start.partition("-")[0] != str(self._position)) if status == 206 else self._position != 0:
                raise self._other_bytes()
            is_listed = bool(self._etag) and not self._has_grown
            if status == 206 and is_listed and total.isdecimal() and size_from(total) != self._request.blob.size:
                raise self._changed("has another size than it was listed with")
            if self._checked_each and not self._held:
                self._range_md5 = md5_from(response.header(b"content-md5"))
            if self._checked_each and self._range_md5 is None:
                error = ServiceFailed(
                    f"{self.endpoint.host} told no checksum with the bytes of '{self.name}'.",
                    hint="Is there a proxy in between that drops the header Content-MD5?",
                )
                raise AttemptFailed(Failure(error, may_pass=True, max_attempts=FEW))
        if not self._has_grown:
            self._md5 = whole_md5(response)

    def _deliver(self, response: CurlResponse) -> None:
        data = response.take()
        if not data:
            return
        start = self._position
        if start + len(data) > self._stop:
            raise self._other_bytes()
        self._position += len(data)
        is_much = self._position - self._proven >= 1 << 20  # earlier failures are to be forgotten
        if is_much:
            self._proven = self._position
        if not self._checked_each:
            self._sink.write(self._request, start, data)
        else:
            self._held.append(data)
            if self._position == self._stop:
                self._finish_range()
        if is_much:
            self.progressed()

    def _finish_range(self) -> None:
        whole = b"".join(self._held)
        self._held.clear()
        if hashlib.md5(whole, usedforsecurity=False).digest() != self._range_md5:
            self._position = self._start
            error = IntegrityFailed(
                f"'{self.name}' in {self.endpoint.label} came damaged time and again: its bytes do not match their "
                "checksum.",
                hint="Something on the way changes data: a proxy, say. What came before is complete.",
            )
            raise AttemptFailed(Failure(error, may_pass=True, max_attempts=FEW))
        self._sink.write(self._request, self._start, whole)
        self._start = self._position

    def _other_bytes(self) -> AttemptFailed:
        error = ServiceFailed(f"{self.endpoint.host} sent other bytes of '{self.name}' than were asked for.")
        return AttemptFailed(Failure(error, may_pass=True))

    def _compare(self, response: CurlResponse) -> None:
        self.check(response, 200)
        self._is_changed = False
        now, blob = properties_of(response, self.name), self._request.blob
        has_grown = self._may_grow
        if now.is_append_blob and blob.modified is not None and now.created is not None:
            has_grown = now.created <= blob.modified + timedelta(seconds=1)  # else it was deleted and begun anew
        if not has_grown or now.blob.size < blob.size or blob.md5 is not None:
            raise self._changed("changed while it was read", "Run the command again when nothing writes to it.")
        self._has_grown, self._etag, self._md5 = True, now.blob.etag, None

    def fail(self, error: HimlError) -> None:
        self._sink.fail(self._request, error)


class BlobReader(ABC):
    """The reading part of a `BlobStore` in Azure Storage; the kinds of it differ in how they list.

    Names that begin with one of *growing* are of files that are only ever appended to.
    """

    def __init__(self, endpoint: Endpoint, pool: CurlPool, policy: RetryPolicy, growing: Sequence[str] = ()) -> None:
        self._endpoint = endpoint
        self._pool = pool
        self._policy = policy
        self._growing = tuple(growing)
        self._pending: list[PendingQuery[Any]] = []
        self.label = endpoint.label
        self.origin = endpoint.origin

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """As `BlobStore.list`."""

    def stat(self, name: str) -> BlobInfo | None:
        """As `BlobStore.stat`: one request. Raises NotFound for a container that does not exist, NotAllowed,
        ServiceFailed."""
        if reason_not_to_ask(name):
            return None
        try:
            found = ask(self._head(name), self._pool)
        except BlobNotFound:
            return None
        return None if found.is_directory else found.blob

    def _head(self, name: str) -> Query[Properties]:
        return Query(name, self._endpoint, self._policy, lambda found: properties_of(found, name), method="HEAD")

    def md5(self, blob: BlobInfo) -> bytes | None:
        """As `BlobStore.md5`: what the service has on record. A blob is not read for it."""
        return blob.md5

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """As `BlobStore.read`. Raises NotFound at once; BlobChanged while iterating, when the blob is replaced
        meanwhile."""
        if reason_not_to_ask(name):
            raise NotFound(f"No file '{name}' in {self.label}.")
        piece, etag, size = self._read_range(name, offset, READ_AT_ONCE, "")

        def pieces(piece: bytes, offset: int) -> Iterator[bytes]:
            while piece:
                yield piece
                offset += len(piece)
                if offset >= size:
                    return
                may_grow = name.startswith(self._growing)
                length = min(READ_AT_ONCE, size - offset)
                piece, now, _ = self._read_range(name, offset, length, "" if may_grow else etag)
                if not piece or (now != etag and not may_grow):
                    raise BlobChanged(f"'{name}' changed while it was read.")

        return pieces(piece, offset)

    def _read_range(self, name: str, offset: int, length: int, etag: str) -> tuple[bytes, str, int]:
        def parse(response: CurlResponse) -> tuple[bytes, str, int]:
            if response.status == 416:  # nothing lies at the offset
                return b"", "", offset
            total = response.header(b"content-range").rpartition("/")[2]
            return response.take(), etag_of(response), int(total) if total.isdecimal() else offset

        headers = (f"Range: bytes={offset}-{offset + length - 1}", *((f'If-Match: "{etag}"',) if etag else ()))
        return ask(Query(name, self._endpoint, self._policy, parse, *headers, statuses=(206, 416)), self._pool)

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """As `BlobStore.fetch`: *workers* connections, one thread, the caller's; requests are taken as connections get
        free."""
        retries = RetryState(self._policy, self._endpoint.pauses)
        tasks = (
            Download(request, sink, self._endpoint, retries, may_grow=request.blob.name.startswith(self._growing))
            for request in requests
        )
        run_tasks(self._pool, tasks, workers, on_step=self._poll_pending)

    def _poll_pending(self) -> None:
        for pending in self._pending:
            pending.poll()
