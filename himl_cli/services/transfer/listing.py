"""Listing what a store holds."""

from __future__ import annotations

from collections.abc import Iterator

from himl_cli.core.blobs import ListedFile
from himl_cli.services.transfer.filters import Filters, list_blobs
from himl_cli.workspaces.base import BlobStore


def list_files(store: BlobStore, filters: Filters, *, run: str = "") -> Iterator[ListedFile]:
    """The files of *store* that *filters* mean, sorted by name. Raises NotFound when nothing matches."""
    return (ListedFile(blob.name, blob.size, blob.modified, blob.md5, run) for blob in list_blobs(store, filters))
