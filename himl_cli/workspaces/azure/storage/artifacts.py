"""The artifacts of a run: from the storage account where that may be listed, else by the links of the artifact
service."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import NotAllowed
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.storage.artifact_links import ArtifactLinks, origin_of
from himl_cli.workspaces.azure.storage.artifact_writing import store_artifacts
from himl_cli.workspaces.azure.storage.blobs.container import AzureBlobs
from himl_cli.workspaces.azure.storage.blobs.lines import Exchanger
from himl_cli.workspaces.base import BlobStore, FetchSink, StoreSink

log = logging.getLogger(__name__)

GROWING = ("logs/", "user_logs/", "azureml-logs/", "system_logs/")
ROUTES = "artifact_routes"
BY_LINKS = "links"
KEPT_SECONDS = 3600.0

Answer = TypeVar("Answer")


class RunArtifacts:
    """A run's artifacts as a `BlobStore`.

    Listing the storage account takes one request for 5,000 files, with sizes and MD5s; the service tells neither, but
    it needs no right to the storage account: a job's own run token is enough. Which of the two works is found out once
    and kept for an hour.
    """

    def __init__(
        self,
        connection: Connection,
        exchanger: Exchanger,
        container_id: str,
        label: str,
        make_direct: Callable[[Sequence[str]], AzureBlobs],
    ) -> None:
        self._connection = connection
        self._exchanger = exchanger
        self._container_id = container_id
        self._label = label
        self._make_direct = make_direct
        self._chosen: BlobStore | None = None

    @property
    def label(self) -> str:
        """What messages call this place."""
        return self._label

    @property
    def origin(self) -> str:
        """As `BlobStore.origin`."""
        return origin_of(self._connection, self._container_id)

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """As `BlobStore.list`."""

        def begun(store: BlobStore) -> tuple[Iterator[Sequence[BlobInfo]], Sequence[BlobInfo] | None]:
            pages = store.list(prefix)
            return pages, next(pages, None)

        pages, first = self._tried(begun)
        if first is not None:
            yield first
            yield from pages

    def stat(self, name: str) -> BlobInfo | None:
        """As `BlobStore.stat`."""
        return self._tried(lambda store: store.stat(name))

    def md5(self, blob: BlobInfo) -> bytes | None:
        """As `BlobStore.md5`: what is on record."""
        return blob.md5

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """As `BlobStore.read`."""
        return self._tried(lambda store: store.read(name, offset))

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """As `BlobStore.fetch`."""
        self._store().fetch(requests, sink, workers=workers)

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """As `BlobStore.store`, by links that the artifact service gives to whoever may write to the run."""
        store_artifacts(
            self._connection, self._exchanger, self._container_id, self._label, requests, sink, workers=workers
        )

    def _tried(self, ask: Callable[[BlobStore], Answer]) -> Answer:
        """What *ask* says of the storage account, or where that is not allowed, of the service's links."""
        store = self._store()
        try:
            return ask(store)
        except NotAllowed as err:
            if not isinstance(store, AzureBlobs):
                raise
            log.debug("the storage account may not be read (%s): going on with the artifact service's links", err)
        self._chosen = self._links()
        answer = ask(self._chosen)
        self._connection.kept.put(ROUTES, self._key, BY_LINKS, seconds=KEPT_SECONDS)
        return answer

    def _store(self) -> BlobStore:
        if self._chosen is None:
            self._chosen = self._choose()
        return self._chosen

    def _choose(self) -> BlobStore:
        if self._connection.kept.get(ROUTES, self._key) == BY_LINKS:
            return self._links()
        try:
            return self._make_direct(GROWING)
        except NotAllowed as err:
            log.debug(
                "the artifact datastore may not be looked at (%s): going on with the artifact service's links", err
            )
            return self._links()

    def _links(self) -> ArtifactLinks:
        return ArtifactLinks(self._connection, self._exchanger, self._container_id, self._label, GROWING)

    @property
    def _key(self) -> str:
        return self._connection.key("routes")
