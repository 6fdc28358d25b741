"""A container of Azure Storage, or what lies below a folder of it, as a `BlobStore`; or one blob of it.

`BlobStore.list` promises names in the order of plain strings. Accounts with a flat namespace list by code units;
whether those are UTF-8's or UTF-16's is not documented. Accounts with a hierarchical namespace (ADLS Gen2) go through a
folder before the names that continue its own, as if `/` came before all other signs: `a`, `a/x`, `a-b`
(https://github.com/Azure/azure-sdk-for-go/issues/24210).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter
from urllib.parse import unquote
from xml.etree import ElementTree

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import HimlError, NotFound, ServiceFailed
from himl_cli.core.text import shorten
from himl_cli.workspaces.azure.responses import http_time
from himl_cli.workspaces.azure.storage.blob_download import BlobReader
from himl_cli.workspaces.azure.storage.blob_responses import CHANGING_PROXY, md5_from, size_from
from himl_cli.workspaces.azure.storage.blob_upload import store_blobs
from himl_cli.workspaces.azure.storage.curl import CurlPool
from himl_cli.workspaces.azure.storage.scheduler import PendingQuery, Query, ask
from himl_cli.workspaces.azure.storage.signing import ContainerEndpoint, Signer
from himl_cli.workspaces.base import StoreSink
from himl_cli.workspaces.retry import RetryPolicy

_BY_NAME = attrgetter("name")
_FIRST_APART = "\ud800"  # from here on UTF-16 and plain strings are ordered differently


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
            hint = "Use a datastore: himl datastore upload"
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
