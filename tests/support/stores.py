"""Sinks and stores that record their calls and check the contract of `BlobStore`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from himl_cli.core.blobs import BlobInfo, Bytes, FetchRequest, StoreRequest
from himl_cli.core.errors import HimlError
from himl_cli.workspaces.base import BlobStore


@dataclass
class Received:
    """A FetchSink that records its calls and checks the contract."""

    bodies: dict[tuple[str, int], bytes] = field(default_factory=dict)
    md5s: dict[tuple[str, int], bytes | None] = field(default_factory=dict)
    errors: dict[str, HimlError] = field(default_factory=dict)

    def write(self, request: FetchRequest, offset: int, data: Bytes) -> None:
        key = (request.blob.name, request.offset)
        assert key not in self.md5s, "nothing comes after the end"
        assert offset == request.offset + len(self.bodies.get(key, b"")), "pieces of one request come in order"
        self.bodies[key] = self.bodies.get(key, b"") + data

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        assert (request.blob.name, request.offset) not in self.md5s, "a request ends once"
        self.md5s[(request.blob.name, request.offset)] = md5

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        assert request.blob.name not in self.errors, "a request ends once"
        self.errors[request.blob.name] = error


def listed(store: BlobStore, prefix: str = "") -> list[BlobInfo]:
    return [blob for page in store.list(prefix) for blob in page]


def named(store: BlobStore, name: str) -> BlobInfo:
    blob = store.stat(name)
    assert blob is not None
    return blob


@dataclass
class Stored:
    """A StoreSink that records its calls."""

    blobs: dict[str, BlobInfo] = field(default_factory=dict)
    errors: dict[str, HimlError] = field(default_factory=dict)
    sent: int = 0

    def advance(self, request: StoreRequest, amount: int) -> None:
        self.sent += amount

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        self.blobs[request.name] = stored

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        self.errors[request.name] = error


def sending(path: Path, name: str, body: bytes) -> StoreRequest:
    path.write_bytes(body)
    return StoreRequest(path, name, len(body), hashlib.md5(body).digest())


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
