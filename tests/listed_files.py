"""The files of a store as they were when they were listed: a store that has nothing but what each one has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from himl_cli.core.blobs import BlobInfo
from himl_cli.workspaces.base import BlobStore


class ListedFiles:
    def __init__(self, store: BlobStore, blobs: Iterable[BlobInfo]) -> None:
        self._store = store
        self._blobs = sorted(blobs, key=lambda blob: blob.name)

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        yield [blob for blob in self._blobs if blob.name.startswith(prefix)]

    def __getattr__(self, name: str) -> Any:
        if name not in ("label", "origin", "stat", "md5", "read", "fetch", "store"):
            raise AttributeError(name)
        return getattr(self._store, name)
