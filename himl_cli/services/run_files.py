"""Storing files among those of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.workspaces.base import BlobStore

WORKERS = 8


def store_files(store: BlobStore, files: Mapping[str, Path]) -> None:
    """Store *files* by the names that they get, replacing what has these names.

    Raises BadUsage for one that is not there before any is stored; once all were tried, the first error, naming how
    many failed.
    """
    requests = []
    for name, path in files.items():
        if not path.is_file():
            raise BadUsage(f"There is no file '{path}' to upload.")
        requests.append(StoreRequest(path, name, os.path.getsize(path)))
    sink = _Outcome()
    store.store(iter(requests), sink, workers=WORKERS)
    if not sink.errors:
        return
    first = sink.errors[0]
    if len(sink.errors) > 1:
        first.args = (f"{first} ({len(sink.errors)} of {len(requests)} files could not be stored)",)
    raise first


class _Outcome:
    """Hears of the files; keeps what went wrong."""

    def __init__(self) -> None:
        self.errors: list[HimlError] = []

    def advance(self, request: StoreRequest, amount: int) -> None:
        """Nobody watches."""

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        """It is there."""

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        self.errors.append(error)
