"""Bringing the new bytes of several event files of one run at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from himl_cli.core.blobs import BlobInfo, FetchRequest
from himl_cli.core.errors import BlobChanged, HimlError
from himl_cli.services.tensorboard.growing_copy import GrowingCopy
from himl_cli.workspaces.base import BlobStore

WORKERS = 8


@dataclass
class Tally:
    """Bytes of one look at a run: those that are new in its files, how many of them are here by now, and how many
    `files` are complete."""

    awaited: int = 0
    here: int = 0
    files: int = 0


class Brought:
    """A `FetchSink` over copies by the names of their originals: which files have to be asked for again, and what went
    wrong.

    The requests are checked ones. An MD5 on record for the whole is not heeded: what is here before may be none of what
    comes, and a blob that was appended to keeps the MD5 of its beginning.
    """

    def __init__(self, copies: Mapping[str, GrowingCopy], tally: Tally) -> None:
        self._copies = copies
        self._tally = tally
        self.is_behind = False
        self.error: HimlError | None = None

    def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
        self._tally.here += self._copies[request.blob.name].take(offset, data)

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        copy = self._copies[request.blob.name]
        copy.complete(request.blob)
        self.is_behind = self.is_behind or copy.is_other
        self._tally.files += not copy.is_other

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        self._copies[request.blob.name].close()
        if isinstance(error, BlobChanged):
            self.is_behind = True
        else:
            self.error = self.error or error


def bring(store: BlobStore, blobs: Mapping[str, BlobInfo], copies: Mapping[str, GrowingCopy], tally: Tally) -> Brought:
    """Add what is new in *blobs* to their *copies*, both by the names in the store; what came stays, whatever fails.
    Raises DiskFailed."""
    brought = Brought(copies, tally)
    requests = [request for name, blob in blobs.items() if (request := copies[name].request(blob)) is not None]
    tally.awaited += sum(copies[request.blob.name].missing(request) for request in requests)
    try:
        if requests:
            store.fetch(iter(requests), brought, workers=WORKERS)
    finally:
        for copy in copies.values():
            copy.close()
    return brought
