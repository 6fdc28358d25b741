"""A store for the transfer tests that keeps blobs in memory and can misbehave, and helpers for a download's files."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest, TransferResult
from himl_cli.core.errors import BlobChanged, HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.workspaces.base import FetchSink, StoreSink

PIECE = 1 << 18


@lru_cache(16)
def md5_bytes(body: bytes) -> bytes:
    return hashlib.md5(body).digest()


@dataclass
class MemoryStore:
    """Blobs in memory. ETags are versions, so that `put` changes a blob.

    `md5_in` says where the store gives an MD5: "list", "finish", "ask" (by `md5`) or "" (nowhere). `damage` is the
    number of the next fetches of a blob that arrive with a wrong byte, and `cut` of those that arrive without their
    end. Fetches of the blobs in `broken` fail. If `refusal` is set, they fail as not allowed, with that message, in
    which `{name}` is the blob's name. With `shuffle`, requests are served concurrently, with their pieces in any order.
    `before_piece` is called before each piece.
    """

    bodies: dict[str, bytes] = field(default_factory=dict)
    md5_in: str = "list"
    damage: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    refusal: str = ""
    shuffle: bool = False
    before_piece: Callable[[FetchRequest, int], None] = lambda request, offset: None
    label: str = "the store"
    origin: str = "memory"
    moved: int = 0
    fetched: list[tuple[str, int]] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)

    def put(self, name: str, body: bytes) -> None:
        self.bodies[name] = body
        self.versions[name] = self.versions.get(name, 0) + 1

    def _etag(self, name: str) -> str:
        return f"v{self.versions.get(name, 0)}"

    def _info(self, name: str) -> BlobInfo:
        body = self.bodies[name]
        return BlobInfo(name, len(body), self._etag(name), md5_bytes(body) if self.md5_in == "list" else None)

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        names = iter(sorted(name for name in self.bodies if name.startswith(prefix)))
        while page := [*itertools.islice(names, 7)]:
            yield [self._info(name) for name in page]

    def stat(self, name: str) -> BlobInfo | None:
        return self._info(name) if name in self.bodies else None

    def md5(self, blob: BlobInfo) -> bytes | None:
        return md5_bytes(self.bodies[blob.name]) if self.md5_in in ("ask", "list") else None

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        if name not in self.bodies:
            raise NotFound(name)
        return iter([self.bodies[name][offset:]])

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        waiting = iter(requests)
        running: list[Iterator[None]] = []
        dice = random.Random(7)
        while True:
            while len(running) < (workers if self.shuffle else 1) and (request := next(waiting, None)) is not None:
                running.append(self._serve(request, sink))
            if not running:
                return
            one = dice.choice(running) if self.shuffle else running[0]
            if next(one, "over") == "over":
                running.remove(one)

    def _serve(self, request: FetchRequest, sink: FetchSink) -> Iterator[None]:
        name = request.blob.name
        self.fetched.append((name, request.offset))
        if name in self.broken:
            sink.fail(
                request,
                NotAllowed(self.refusal.format(name=name), hint="ask")
                if self.refusal
                else ServiceFailed(f"no luck with {name}"),
            )
            return
        body = bytearray(self.bodies.get(name, b"")[request.offset : request.offset + request.length])
        if self.damage.get(name, 0) > 0 and request.offset == 0:
            self.damage[name] -= 1
            body[0] ^= 1
        if self.cut.get(name, 0) > 0:
            self.cut[name] -= 1
            del body[-1:]
        for start in range(0, len(body), PIECE):
            self.before_piece(request, request.offset + start)
            if name not in self.bodies or self._etag(name) != request.blob.etag:
                sink.fail(request, BlobChanged(f"{name} changed"))
                return
            piece = bytes(body[start : start + PIECE])
            self.moved += len(piece)
            sink.write(request, request.offset + start, piece)
            yield
        sink.finish(request, md5_bytes(self.bodies[name]) if self.md5_in == "finish" else None)

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        for request in requests:
            if self.refusal:
                sink.fail(request, NotAllowed(self.refusal.format(name=request.name), hint="ask"))
                continue
            body = request.path.read_bytes()
            if request.md5 not in (None, md5_bytes(body)) or len(body) != request.size:
                sink.fail(request, HimlError(f"{request.name} changed"))
                continue
            self.put(request.name, body)
            self.moved += len(body)
            sink.advance(request, len(body))
            sink.finish(request, self._info(request.name))


def bodies(count: int, size: int = 100) -> Mapping[str, bytes]:
    """Return *count* different blobs."""
    return {f"outputs/{number:05d}.bin": (b"%d " % number) * (size // 2) for number in range(count)}


@lru_cache
def pattern(size: int) -> bytes:
    """Return bytes that differ everywhere, so that a misplaced piece is noticed."""
    block = random.Random(size).randbytes(1 << 20)
    return b"".join(bytes([number % 251]) + block for number in range(size // (1 << 20) + 1))[:size]


def files_in(folder: Path) -> dict[str, bytes]:
    """Return all files except those in `home`, the test's home folder with himl's cache."""
    names = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name.as_posix(): path.read_bytes() for name, path in names.items() if name.parts[0] != "home"}


def numbers(result: TransferResult) -> tuple[int, int, int]:
    return result.files, result.skipped, result.unverified


def rewrite_unnoticeably(path: Path, body: bytes) -> None:
    """Replace the content by bytes of the same length, and restore the file's time."""
    before = path.stat()
    path.write_bytes(body)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def stop_at(size: int, error: BaseException) -> Callable[[FetchRequest, int], None]:
    """Return a `before_piece` that raises *error* from that offset on."""

    def stop(request: FetchRequest, offset: int) -> None:
        if offset >= size:
            raise error

    return stop


def let_through(request: FetchRequest, offset: int) -> None:
    """A `before_piece` that does nothing."""
