"""A container of Azure Storage, a folder of it or one blob, as a `BlobStore`. Other stores use `BlobReader`, which
reads blobs and fetches many at once, with checks and resumption.

`BlobStore.list` yields names in the order of plain strings, as accounts with a flat namespace list them. Accounts with
a hierarchical namespace (ADLS Gen2) list a folder before names that continue its name, as if `/` came before all other
characters: `a`, `a/x`, `a-b` (https://github.com/Azure/azure-sdk-for-go/issues/24210).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import chain, islice
from operator import attrgetter
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from himl_cli.core.blobs import MOST_CHECKED, BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import BlobChanged, HimlError, IntegrityFailed, NotFound, ServiceFailed
from himl_cli.core.records import dataclass
from himl_cli.core.text import shorten
from himl_cli.workspaces.azure.storage.blob_responses import (
    CHANGING_PROXY,
    Properties,
    StorageEndpoint,
    parse_xml,
    properties_of,
)
from himl_cli.workspaces.azure.storage.blob_upload import store_blobs
from himl_cli.workspaces.azure.storage.signing import ContainerEndpoint, Signer, reason_not_to_ask
from himl_cli.workspaces.base import FetchSink, StoreSink
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState
from himl_cli.workspaces.transfer_engine.curl import CurlPool, CurlResponse
from himl_cli.workspaces.transfer_engine.failures import FEW, BlobNotFound
from himl_cli.workspaces.transfer_engine.headers import etag_of, http_time, md5_from, size_from, whole_md5
from himl_cli.workspaces.transfer_engine.scheduler import (
    Attempt,
    AttemptFailed,
    PendingQuery,
    Query,
    Task,
    ask,
    run_tasks,
)

_BY_NAME = attrgetter("name")
SMALL = 256 << 10  # bytes in one piece
READ_AT_ONCE = 4 << 20
MOST_ERRORS = 20  # of deletions, after which himl stops


class Download(Task):
    """Fetches the bytes of *request* into *sink*: only the requested ones, and only of the listed ETag.

    If the blob only grows (an append blob, or a name that *may_grow*), growth since the list is harmless, because the
    listed bytes are still its first.

    A request with `checked_each` is split into ranges of that many bytes, including for append blobs. Each range is
    held back until it is complete and matches the MD5 in the response. An interrupted range is resumed, with the MD5 of
    its first response.
    """

    def __init__(
        self, request: FetchRequest, sink: FetchSink, endpoint: StorageEndpoint, retries: RetryState, *, may_grow: bool
    ) -> None:
        super().__init__(request.blob.name, endpoint, retries)
        self._request = request
        self._sink = sink
        self._may_grow = may_grow
        self._etag = request.blob.etag
        self._checked_each = min(request.checked_each, MOST_CHECKED)
        self._held: list[bytes] = []  # of the current range
        self._range_md5: bytes | None = None
        # The next byte's position in the file, the start of the current range, and the position of the last reset of
        # failures.
        self._position = self._start = self._proven = request.offset
        # The end of the request's bytes, and of the bytes requested now.
        self._end = self._stop = request.offset + request.length
        self._has_grown = self._is_changed = False  # changed: it has another ETag, which is unchecked so far
        self._changes = 0
        self._md5: bytes | None = None

    def attempt(self) -> Attempt:
        if reason := reason_not_to_ask(self.name):
            raise ServiceFailed(f"himl cannot request '{self.name}': {reason}.", hint="Ask its owner to rename it.")
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
            # It may grow between two requests, but not forever.
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
                raise self._changed("is shorter than listed")
            self.progressed()
            if self._position == self._end:
                self._sink.finish(self._request, self._md5)
                return

    def _range(self) -> list[str]:
        """Headers that request the next bytes, or none for a whole blob in its listed state."""
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
            raise self._changed("changed during the transfer")
        if self._position != self._end:
            start, _, total = response.header(b"content-range").removeprefix("bytes ").partition("/")
            if (start.partition("-")[0] != str(self._position)) if status == 206 else self._position != 0:
                raise self._other_bytes()
            is_listed = bool(self._etag) and not self._has_grown
            if status == 206 and is_listed and total.isdecimal() and size_from(total) != self._request.blob.size:
                raise self._changed("has another size than listed")
            if self._checked_each and not self._held:
                self._range_md5 = md5_from(response.header(b"content-md5"))
            if self._checked_each and self._range_md5 is None:
                error = ServiceFailed(
                    f"{self.endpoint.host} sent no checksum of '{self.name}'.",
                    hint="Check for a proxy that drops the header Content-MD5.",
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
        is_much = self._position - self._proven >= 1 << 20  # so earlier failures no longer count
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
                f"'{self.name}' in {self.endpoint.label} arrived damaged several times: its bytes do not match their "
                "checksum.",
                hint="Check for a proxy that changes data. The bytes before are complete.",
            )
            raise AttemptFailed(Failure(error, may_pass=True, max_attempts=FEW))
        self._sink.write(self._request, self._start, whole)
        self._start = self._position

    def _other_bytes(self) -> AttemptFailed:
        error = ServiceFailed(f"{self.endpoint.host} sent bytes of '{self.name}' that himl did not request.")
        return AttemptFailed(Failure(error, may_pass=True))

    def _compare(self, response: CurlResponse) -> None:
        self.check(response, 200)
        self._is_changed = False
        now, blob = properties_of(response, self.name), self._request.blob
        has_grown = self._may_grow
        if now.is_append_blob and blob.modified is not None and now.created is not None:
            has_grown = now.created <= blob.modified + timedelta(seconds=1)  # else it was deleted and created again
        if not has_grown or now.blob.size < blob.size or blob.md5 is not None:
            raise self._changed("changed during the transfer", "Run the command again when no program writes to it.")
        self._has_grown, self._etag, self._md5 = True, now.blob.etag, None

    def fail(self, error: HimlError) -> None:
        self._sink.fail(self._request, error)


class Deletion(Query[None]):
    """Deletes the blob *name*. Reports the deletion to *deleted*, or the reason of a failure to *errors*."""

    def __init__(
        self,
        name: str,
        endpoint: StorageEndpoint,
        policy: RetryPolicy,
        deleted: Callable[[], None],
        errors: list[HimlError],
    ) -> None:
        header = "x-ms-delete-snapshots: include"
        super().__init__(name, endpoint, policy, lambda _: deleted(), header, statuses=(202, 404), method="DELETE")
        self._errors = errors

    def attempt(self) -> Attempt:
        if reason := reason_not_to_ask(self.name):
            raise ServiceFailed(f"himl cannot delete '{self.name}': {reason}.", hint="Delete it in the Azure portal.")
        yield from super().attempt()

    def fail(self, error: HimlError) -> None:
        self._errors.append(error)


class BlobReader(ABC):
    """The reading part of a `BlobStore` in Azure Storage. Its subclasses differ in their lists.

    Names that begin with one of *growing* are files that only grow.
    """

    def __init__(
        self, endpoint: StorageEndpoint, pool: CurlPool, policy: RetryPolicy, growing: Sequence[str] = ()
    ) -> None:
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
        """As `BlobStore.stat`, with one request. Raises NotFound for a missing container, NotAllowed, ServiceFailed."""
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
        """As `BlobStore.md5`, from the service's record, without reading the blob."""
        return blob.md5

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """As `BlobStore.read`. Raises NotFound at once, and BlobChanged while iterating if the blob is replaced."""
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
                    raise BlobChanged(f"'{name}' changed during the transfer.")

        return pieces(piece, offset)

    def _read_range(self, name: str, offset: int, length: int, etag: str) -> tuple[bytes, str, int]:
        def parse(response: CurlResponse) -> tuple[bytes, str, int]:
            if response.status == 416:  # there are no bytes at the offset
                return b"", "", offset
            total = response.header(b"content-range").rpartition("/")[2]
            return response.take(), etag_of(response), int(total) if total.isdecimal() else offset

        headers = (f"Range: bytes={offset}-{offset + length - 1}", *((f'If-Match: "{etag}"',) if etag else ()))
        return ask(Query(name, self._endpoint, self._policy, parse, *headers, statuses=(206, 416)), self._pool)

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """As `BlobStore.fetch`, with *workers* connections in the caller's thread. Takes the next request when a
        connection becomes free."""
        retries = RetryState(self._policy, self._endpoint.pauses)
        tasks = (
            Download(request, sink, self._endpoint, retries, may_grow=request.blob.name.startswith(self._growing))
            for request in requests
        )
        run_tasks(self._pool, tasks, workers, on_step=self._poll_pending)

    def _poll_pending(self) -> None:
        for pending in self._pending:
            pending.poll()


class AzureBlobs(BlobReader):
    """Blobs below *root* (empty, or ending in `/`) of the container at *url*.

    `list` requests pages of 5,000, each while the caller processes the one before. Not thread-safe.
    """

    def __init__(
        self,
        url: str,
        signer: Signer,
        *,
        root: str = "",
        label: str = "",
        pool: CurlPool | None = None,
        policy: RetryPolicy | None = None,
        growing: Sequence[str] = (),
    ) -> None:
        self._container = ContainerEndpoint(url, root, signer, label or url)
        super().__init__(self._container, pool or CurlPool(), policy or RetryPolicy(), growing)

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """As `BlobStore.list`. Raises NotFound for a missing container, NotAllowed, ServiceFailed."""
        pages = self._pages(prefix)
        first = next((page for page in pages if page.blobs), None)  # empty pages may come first
        if first is None:
            return
        blobs: Iterator[BlobInfo] = chain(first.blobs, (blob for page in pages for blob in page.blobs))
        if first.is_hierarchical:
            blobs = out_of_folders(blobs, self._has_rivals, prefix[: prefix.rfind("/") + 1])
        while page := [*islice(blobs, 1000)]:
            yield page

    def has_any(self, prefix: str) -> bool:
        """Return whether a blob's name starts with *prefix*, with one request unless the service returns empty pages.
        Raises as `list`."""
        marker = ""
        while True:
            page = ask(self._page_query(prefix, marker, most=1), self._pool)
            if page.blobs or not page.marker:
                return bool(page.blobs)
            marker = page.marker

    @property
    def place(self) -> str:
        return f"container '{self._container.container}' of {self._container.storage}"

    def delete(self, deleted: Callable[[], None], *, workers: int) -> None:
        """Delete all blobs of `list`, with snapshots, and report each to *deleted*. A missing blob is no failure.

        Raises the first error after trying the others, or after many errors at once.
        """
        errors: list[HimlError] = []

        def deletions() -> Iterator[Task]:
            for blob in (blob for page in self.list() for blob in page):
                if len(errors) >= MOST_ERRORS:
                    return
                yield Deletion(blob.name, self._container, self._policy, deleted, errors)

        run_tasks(self._pool, deletions(), workers, on_step=self._poll_pending)
        if errors:
            raise errors[0]

    def _has_rivals(self, folder: str) -> bool:
        """Return whether some names continue that of *folder* with a character that comes before `/`."""
        query = Query(
            folder,
            self._container,
            self._policy,
            lambda response: listed_level(response.take(), self._container.root),
            sign=lambda: self._container.listing(folder, is_flat=False),
        )
        return any(folder < name < folder + "/" for name in ask(query, self._pool))

    def _pages(self, prefix: str) -> Iterator[ListedPage]:
        marker = ""
        pending = PendingQuery(self._page_query(prefix, marker), self._pool)
        try:
            while True:
                page = pending.wait()
                if not page.marker:
                    yield page
                    return
                if page.marker == marker:
                    raise ServiceFailed(f"The list of {self.label} does not end: the service returned a page twice.")
                marker = page.marker
                pending = PendingQuery(self._page_query(prefix, marker), self._pool)
                self._pending.append(pending)
                yield page
                self._pending.remove(pending)
        finally:
            pending.close()
            if pending in self._pending:
                self._pending.remove(pending)

    def _page_query(self, prefix: str, marker: str, *, most: int = 0) -> Query[ListedPage]:
        return Query(
            prefix,
            self._container,
            self._policy,
            lambda response: listed_page(response.take(), self._container.root),
            sign=lambda: self._container.listing(prefix, marker, most=most),
        )

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        store_blobs(
            requests, sink, self._container, self._pool, self._policy, workers=workers, on_step=self._poll_pending
        )


class SingleBlob(AzureBlobs):
    """The blob *name* in the folder *root*, read-only, for an output that is a file."""

    def __init__(self, url: str, signer: Signer, *, root: str, name: str, label: str, pool: CurlPool) -> None:
        super().__init__(url, signer, root=root, label=label, pool=pool)
        self._name = name

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        found = self.stat(self._name) if self._name.startswith(prefix) else None
        if found is not None:
            yield [found]

    def stat(self, name: str) -> BlobInfo | None:
        return super().stat(name) if name == self._name else None

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        if name != self._name:
            raise NotFound(f"No file '{name}' in {self.label}.")
        return super().read(name, offset)

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        for request in requests:
            hint = "Use a datastore: himl datastore upload LOCAL REMOTE_PREFIX"
            sink.fail(request, HimlError(f"{self.label[:1].upper()}{self.label[1:]} is read-only.", hint=hint))


@dataclass(frozen=True)
class ListedPage:
    """A page of blobs without directories. `marker` requests the next one, and is empty on the last.

    `is_hierarchical` is true for an account with a hierarchical namespace. Only such accounts distinguish files and
    directories.
    """

    blobs: Sequence[BlobInfo]
    marker: str
    is_hierarchical: bool = False


def listed_page(xml: bytes, root: str) -> ListedPage:
    """The page in a List Blobs response, with names below *root*. Raises ServiceFailed for an invalid response."""
    tree, found = _entries(xml)
    blobs = [blob for one in found.iterfind("Blob") if (blob := _blob(one, root)) is not None]
    return ListedPage(blobs, tree.findtext("NextMarker") or "", found.find("Blob/Properties/ResourceType") is not None)


def listed_level(xml: bytes, root: str) -> Sequence[str]:
    """The names in a List Blobs response by folder, below *root*: blobs, and folders with a trailing slash."""
    return [_name(one, root) for one in _entries(xml)[1] if one.tag in ("Blob", "BlobPrefix")]


def _entries(xml: bytes) -> tuple[Element, Element]:
    try:
        tree = parse_xml(xml)
    except ValueError as err:
        raise ServiceFailed(f"Storage returned an invalid list of blobs ({err}).", hint=CHANGING_PROXY) from err
    found = tree.find("Blobs")
    if found is None:
        raise ServiceFailed(
            "Storage returned no list of blobs.", hint="Check for a proxy or a sign-in page of this network."
        )
    return tree, found


def _blob(one: Element, root: str) -> BlobInfo | None:
    texts: dict[str, str] = {}
    for part in one:
        if part.tag == "Properties":
            texts = {text.tag: text.text or "" for text in part}
        elif part.tag == "Metadata" and any(
            mark.tag.lower() == "hdi_isfolder" and (mark.text or "").lower() == "true" for mark in part
        ):
            return None
    if texts.get("ResourceType") == "directory":
        return None
    name, length = _name(one, root), texts.get("Content-Length", "")
    size = size_from(length)
    if size is None:
        told = f"'{shorten(length, 20)}'" if length else "nothing"
        raise ServiceFailed(
            f"Storage's list of blobs has {told} as the size of '{shorten(name)}'.", hint=CHANGING_PROXY
        )
    etag, md5 = texts.get("Etag", "").strip('"'), texts.get("Content-MD5")
    return BlobInfo(name, size, etag, md5_from(md5) if md5 else None, http_time(texts.get("Last-Modified", "")))


def _name(one: Element, root: str) -> str:
    found = one.find("Name")
    if found is None or found.text is None:
        return ""
    return (unquote(found.text) if found.get("Encoded") == "true" else found.text)[len(root) :]


def out_of_folders(
    blobs: Iterable[BlobInfo], has_rivals: Callable[[str], bool], folder: str = "", held_at_most: int = 20_000
) -> Iterator[BlobInfo]:
    """*blobs*, all of *folder* (empty, or ending in `/`) as a hierarchical account lists them, in the order of plain
    strings.

    A folder's contents are held back until all names have passed that may precede them (`a-b` before `a/x`). If there
    are too many, *has_rivals* checks whether a folder has such names at all. Mostly it has none, and then only the
    contents of its last subfolder must wait.
    """
    held: list[BlobInfo] = []
    # All current names begin with `free`, a folder without rivals. Those held back begin with `base`.
    free, base = folder, ""
    known = None  # the last folder with rivals
    for blob in blobs:
        if held and not _may_precede(blob.name, base):
            yield from sorted(held, key=_BY_NAME)
            held.clear()
        if not held:
            while not blob.name.startswith(free):
                free = free[: free.rfind("/", 0, -1) + 1]
            base = _folder_below(blob.name, free)
        held.append(blob)
        while len(held) > held_at_most and base not in (blob.name, known):
            if has_rivals(base):
                known = base
                break
            free = base + "/"
            folders = (_folder_below(one.name, free) for one in held)
            base = next(below for below in folders if _may_precede(blob.name, below))
            waiting = [one for one in held if _may_precede(one.name, base)]
            yield from sorted((one for one in held if not _may_precede(one.name, base)), key=_BY_NAME)
            held = waiting
    yield from sorted(held, key=_BY_NAME)


def _folder_below(name: str, free: str) -> str:
    """The first folder of *name* below *free*, without its slash, or *name* itself if it is directly there."""
    end = name.find("/", len(free))
    return name if end < 0 else name[:end]


def _may_precede(name: str, base: str) -> bool:
    """Return whether *name* is *base*, is in it, or belongs between the two in plain order."""
    return name.startswith(base) and name[len(base) : len(base) + 1] <= "/"
