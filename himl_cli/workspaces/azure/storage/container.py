"""A container of Azure Storage as a `BlobStore`, or what lies below a folder of it, or one blob of it; what other
stores have too is `BlobReader`, which reads blobs and fetches many at once, each checked and resumed.

`BlobStore.list` promises names in the order of plain strings. Accounts with a flat namespace list by code units;
whether those are UTF-8's or UTF-16's is not documented. Accounts with a hierarchical namespace (ADLS Gen2) go through a
folder before the names that continue its own, as if `/` came before all other signs: `a`, `a/x`, `a-b`
(https://github.com/Azure/azure-sdk-for-go/issues/24210).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice
from operator import attrgetter
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from himl_cli.core.blobs import MOST_CHECKED, BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import BlobChanged, HimlError, IntegrityFailed, NotFound, ServiceFailed
from himl_cli.core.text import shorten
from himl_cli.workspaces.azure.responses import http_time, md5_from, size_from
from himl_cli.workspaces.azure.storage.blob_responses import (
    CHANGING_PROXY,
    FEW,
    BlobNotFound,
    Properties,
    etag_of,
    properties_of,
    whole_md5,
)
from himl_cli.workspaces.azure.storage.blob_upload import store_blobs
from himl_cli.workspaces.azure.storage.curl import CurlPool, CurlResponse
from himl_cli.workspaces.azure.storage.scheduler import (
    Attempt,
    AttemptFailed,
    Deletion,
    PendingQuery,
    Query,
    Task,
    ask,
    run_tasks,
)
from himl_cli.workspaces.azure.storage.signing import ContainerEndpoint, Endpoint, Signer, reason_not_to_ask
from himl_cli.workspaces.base import FetchSink, StoreSink
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState

_BY_NAME = attrgetter("name")
_FIRST_APART = "\ud800"  # from here on UTF-16 and plain strings are ordered differently
SMALL = 256 << 10  # bytes that come in one piece
READ_AT_ONCE = 4 << 20
MOST_ERRORS = 20  # of deletions, after which no more are tried


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


class AzureBlobs(BlobReader):
    """Blobs below *root* (empty, or ending in `/`) of the container at *url*.

    `list` asks for pages of 5,000, the next one while the last is worked on. Not for several threads at once.
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
        """As `BlobStore.list`. Raises NotFound for a container that does not exist, NotAllowed, ServiceFailed."""
        pages = self._pages(prefix)
        first = next((page for page in pages if page.blobs), None)  # an empty page may come before others
        if first is None:
            return
        blobs: Iterator[BlobInfo] = chain(first.blobs, (blob for page in pages for blob in page.blobs))
        if first.is_hierarchical:
            blobs = out_of_folders(blobs, self._has_rivals, prefix[: prefix.rfind("/") + 1])
        ordered = in_plain_order(blobs)
        while page := [*islice(ordered, 1000)]:
            yield page

    def has_any(self, prefix: str) -> bool:
        """Whether a blob's name starts with *prefix*; one request, more only where the service gives empty pages.
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
        """Delete all that `list` gives, with snapshots; *deleted* hears of each blob. One that is gone is no failure.

        Raises the first error once the others were tried; where many fail, no more are.
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
        """Whether some names go on after that of *folder* with a sign that comes before `/`."""
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
                    raise ServiceFailed(
                        f"The list of {self.label} does not end: the service gives the same page again."
                    )
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
    """Of the blobs in the folder *root* only the one called *name*, read-only: an output that is a file, not a
    folder."""

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
            sink.fail(request, HimlError(f"The files of {self.label} cannot be added to.", hint=hint))


@dataclass(frozen=True, slots=True)
class ListedPage:
    """A page: its blobs without directories; `marker` asks for the next one and is empty on the last.

    `is_hierarchical` says that the account's namespace is (only such accounts tell what is a file and what a
    directory).
    """

    blobs: Sequence[BlobInfo]
    marker: str
    is_hierarchical: bool = False


def listed_page(xml: bytes, root: str) -> ListedPage:
    """The page in a List Blobs response, names without *root*. Raises ServiceFailed for what is no such response."""
    tree, found = _entries(xml)
    blobs = [blob for one in found.iterfind("Blob") if (blob := _blob(one, root)) is not None]
    return ListedPage(blobs, tree.findtext("NextMarker") or "", found.find("Blob/Properties/ResourceType") is not None)


def listed_level(xml: bytes, root: str) -> Sequence[str]:
    """The names in a List Blobs response by folder: of blobs, and of folders with a slash at the end; without
    *root*."""
    return [_name(one, root) for one in _entries(xml)[1] if one.tag in ("Blob", "BlobPrefix")]


def _entries(xml: bytes) -> tuple[ElementTree.Element, ElementTree.Element]:
    try:
        tree = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, LookupError, ValueError) as err:  # the last two for the encoding it claims
        raise ServiceFailed(
            f"The list of blobs that storage sent cannot be read ({err}).", hint=CHANGING_PROXY
        ) from err
    found = tree.find("Blobs")
    if found is None:
        raise ServiceFailed(
            "Storage sent something else than a list of blobs.", hint="Is a proxy or a log-in page in between?"
        )
    return tree, found


def _blob(one: ElementTree.Element, root: str) -> BlobInfo | None:
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
            f"The list of blobs that storage sent has {told} for the size of '{shorten(name)}'.", hint=CHANGING_PROXY
        )
    etag, md5 = texts.get("Etag", "").strip('"'), texts.get("Content-MD5")
    return BlobInfo(name, size, etag, md5_from(md5) if md5 else None, http_time(texts.get("Last-Modified", "")))


def _name(one: ElementTree.Element, root: str) -> str:
    found = one.find("Name")
    if found is None or found.text is None:
        return ""
    return (unquote(found.text) if found.get("Encoded") == "true" else found.text)[len(root) :]


def in_plain_order(blobs: Iterable[BlobInfo]) -> Iterator[BlobInfo]:
    """*blobs*, ordered by UTF-16 code units or as plain strings, ordered as plain strings.

    The two differ for names that have a character above U+D7FF where they first differ. Such names are held back until
    no other can come before them (all of them, where already their first characters are such); all others pass at once.
    """
    held: list[BlobInfo] = []
    stem = ""
    for blob in blobs:
        if held and not blob.name.startswith(stem):
            yield from sorted(held, key=_BY_NAME)
            held.clear()
        if not held:
            if blob.name.isascii() or max(blob.name) < _FIRST_APART:
                yield blob
                continue
            stem = blob.name[: next(index for index, sign in enumerate(blob.name) if sign >= _FIRST_APART)]
        held.append(blob)
    yield from sorted(held, key=_BY_NAME)


def out_of_folders(
    blobs: Iterable[BlobInfo], has_rivals: Callable[[str], bool], folder: str = "", held_at_most: int = 20_000
) -> Iterator[BlobInfo]:
    """*blobs*, all of *folder* (empty, or ending in `/`), as a hierarchical account lists them, ordered as plain
    strings.

    What lies in a folder is held back until the names are through that may have to come before it (`a-b` before `a/x`).
    When that gets too much, *has_rivals* is asked whether there are any for a folder; mostly there are not, and then
    only what lies in the folder's own last folder has to wait.
    """
    held: list[BlobInfo] = []
    # All names in hand begin with `free`, a folder without rivals; those held back begin with `base`
    free, base = folder, ""
    known = None  # the last folder that has rivals
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
    """The first folder of *name* below *free*, without its slash; *name* itself where it lies right there."""
    end = name.find("/", len(free))
    return name if end < 0 else name[:end]


def _may_precede(name: str, base: str) -> bool:
    """Whether *name* is *base*, lies in it, or belongs between the two in plain order."""
    return name.startswith(base) and name[len(base) : len(base) + 1] <= "/"
