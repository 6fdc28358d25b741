"""A container of Azure Storage, or what lies below a folder of it, as a `BlobStore`; or one blob of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import HimlError, NotFound, ServiceFailed
from himl_cli.workspaces.azure.storage.blob_download import BlobReader
from himl_cli.workspaces.azure.storage.blob_upload import store_blobs
from himl_cli.workspaces.azure.storage.curl import CurlPool
from himl_cli.workspaces.azure.storage.listing import (
    ListedPage,
    in_plain_order,
    listed_level,
    listed_page,
    out_of_folders,
)
from himl_cli.workspaces.azure.storage.scheduler import PendingQuery, Query, ask
from himl_cli.workspaces.azure.storage.signing import ContainerEndpoint, SasSigner, Signer
from himl_cli.workspaces.base import StoreSink
from himl_cli.workspaces.retry import RetryPolicy

PAGE = 1000


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

    @classmethod
    def of_sas(
        cls, url: str, sas: str, *, root: str = "", label: str = "", policy: RetryPolicy | None = None
    ) -> AzureBlobs:
        """The container at *url*, by a SAS (a query string)."""
        return cls(url, SasSigner(sas), root=root, label=label, policy=policy)

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
        while page := [*islice(ordered, PAGE)]:
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
            signed=lambda: self._container.listing(folder, is_flat=False),
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
            signed=lambda: self._container.listing(prefix, marker, most=most),
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
        """Every request fails: an output is not added to."""
        for request in requests:
            hint = "Use a datastore: himl datastore upload"
            sink.fail(request, HimlError(f"The files of {self.label} cannot be added to.", hint=hint))
