"""A part of a store that was listed already, as a store: so that its files are brought without listing them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.workspaces.base import BlobStore, FetchSink, StoreSink


class ChosenFiles:
    """The files *blobs* of *store*, as they were when they were listed; their bytes come only while their ETags are
    still those."""

    def __init__(self, store: BlobStore, blobs: Iterable[BlobInfo]) -> None:
        self._store = store
        self._blobs = sorted(blobs, key=lambda blob: blob.name)

    @property
    def label(self) -> str:
        return self._store.label

    @property
    def origin(self) -> str:
        return self._store.origin

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        yield [blob for blob in self._blobs if blob.name.startswith(prefix)]

    def stat(self, name: str) -> BlobInfo | None:
        """As it is now: it may have changed since it was listed."""
        return self._store.stat(name)

    def md5(self, blob: BlobInfo) -> bytes | None:
        return self._store.md5(blob)

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        return self._store.read(name, offset)

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        self._store.fetch(requests, sink, workers=workers)

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        self._store.store(requests, sink, workers=workers)
