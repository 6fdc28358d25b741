"""A file that is being stored: read at most once, and watched for changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from io import RawIOBase

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import DiskFailed, HimlError

State = tuple[int, int, int]


def state_of(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns, status.st_ino


def changed(request: StoreRequest) -> HimlError:
    return HimlError(
        f"'{request.path}' changed while it was stored.", hint="Run the command again when nothing writes to it."
    )


def unreadable(request: StoreRequest, err: OSError) -> DiskFailed:
    return DiskFailed(
        f"Cannot read '{request.path}': {err.strerror or err}.", hint="Check the file and its permissions."
    )


def whole_content(request: StoreRequest) -> tuple[bytes, bytes]:
    """The file's bytes and their MD5. Raises HimlError when they are not what was promised, DiskFailed."""
    try:
        with open(request.path, "rb", buffering=0) as source:
            before = state_of(os.fstat(source.fileno()))
            body = _read(source, request.size + 1) if before[0] == request.size else b""
            after = state_of(os.fstat(source.fileno()))
    except OSError as err:
        raise unreadable(request, err) from err
    if len(body) != request.size or before != after or before[0] != request.size:
        raise changed(request)
    return body, request.md5 or hashlib.md5(body, usedforsecurity=False).digest()


def pieces_of(
    request: StoreRequest, length: int, may_read: Callable[[int], bool] = lambda amount: True
) -> Iterator[bytes]:
    """The file in pieces of *length* bytes, the last one shorter; *may_read* hears of each before, and ends it all by
    saying no.

    Raises HimlError when it is not, or no longer, what was promised; DiskFailed.
    """
    left = request.size
    try:
        with open(request.path, "rb", buffering=0) as source:
            before = state_of(os.fstat(source.fileno()))
            while left and before[0] == request.size:
                if not may_read(min(length, left)):
                    return
                piece = _read(source, min(length, left))
                if not piece:
                    break
                left -= len(piece)
                yield piece
            is_same = state_of(os.fstat(source.fileno())) == before == state_of(os.stat(request.path))
    except OSError as err:
        raise unreadable(request, err) from err
    if left or not is_same:
        raise changed(request)


def state_now(request: StoreRequest) -> State | None:
    """The file's state; None where it cannot be looked at."""
    try:
        return state_of(os.stat(request.path))
    except OSError:
        return None


def whole_md5(request: StoreRequest) -> bytes:
    """MD5 of the file. Raises as `pieces_of`, and when it is not the promised one."""
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces_of(request, 1 << 20):
        digest.update(piece)
    if request.md5 not in (None, digest.digest()):
        raise changed(request)
    return digest.digest()


def _read(source: RawIOBase, length: int) -> bytes:
    """The next *length* bytes, or all there are."""
    piece = source.read(length) or b""
    while 0 < len(piece) < length and (
        more := source.read(length - len(piece))
    ):  # a network disk may give less at once
        piece += more
    return piece
