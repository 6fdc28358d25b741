"""A single blob as a store of its own: an output that is a file, not a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import NotFound
from himl_cli.workspaces.azure.storage.blobs.read_only import refuse_all
from himl_cli.workspaces.base import BlobStore, FetchSink, StoreSink


class OneFile:
    """Of the files in *store* only the one called *name*, read-only."""

    def __init__(self, store: BlobStore, name: str) -> None:
        self._store = store
        self._name = name

    @property
    def label(self) -> str:
        """What messages call this place."""
        return self._store.label

    @property
    def origin(self) -> str:
        """As `BlobStore.origin`."""
        return self._store.origin

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """As `BlobStore.list`."""
        found = self._store.stat(self._name) if self._name.startswith(prefix) else None
        if found is not None:
            yield [found]

    def stat(self, name: str) -> BlobInfo | None:
        """As `BlobStore.stat`."""
        return self._store.stat(name) if name == self._name else None

    def md5(self, blob: BlobInfo) -> bytes | None:
        """As `BlobStore.md5`."""
        return self._store.md5(blob)

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """As `BlobStore.read`."""
        if name != self._name:
            raise NotFound(f"No file '{name}' in {self.label}.")
        return self._store.read(name, offset)

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """As `BlobStore.fetch`."""
        self._store.fetch(requests, sink, workers=workers)

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """Every request fails: an output is not added to."""
        refuse_all(requests, sink, self.label)
