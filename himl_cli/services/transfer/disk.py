"""What can go wrong with files here, in words; and the MD5 of one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from himl_cli.core.errors import FULL_DISK, DiskFailed

CHUNK = 1 << 20
SMALL_READ = 32 << 10
OPEN_FLAGS = (
    os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
)


class DiskFull(DiskFailed):
    """No room is left: the whole transfer stops, for no other file would fit."""

    code = "disk_full"


def explained(err: OSError, what: str) -> DiskFailed:
    """*err* as ours; *what* is the sentence's beginning, such as `Cannot write 'x'`."""
    if err.errno in FULL_DISK:
        return DiskFull(
            f"{what}: no space left on the disk.",
            hint="Free some space and run the command again: what is complete is kept.",
        )
    return DiskFailed(f"{what}: {err.strerror or err}.", hint="Check the path and its permissions.")


def md5_of(path: str | Path) -> bytes:
    """MD5 of the file. Raises OSError."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb", buffering=0) as source:
        piece = source.read(SMALL_READ)
        digest.update(piece)
        if len(piece) == SMALL_READ:
            buffer = memoryview(
                bytearray(CHUNK)
            )  # one for all: memory that is new each time costs as much as reading into it
            while length := source.readinto(buffer):
                digest.update(buffer[:length])
    return digest.digest()


def open_new(path: str) -> int:
    """A descriptor for writing a new file at *path*; what has that name, also a link, is removed first. Raises
    OSError."""
    try:
        return os.open(path, OPEN_FLAGS | os.O_EXCL, 0o666)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, OPEN_FLAGS | os.O_EXCL, 0o666)


def write_at(descriptor: int, offset: int, data: bytes) -> None:
    """Write all of *data* at *offset*. Raises OSError."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    write_all(descriptor, data)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of *data* where the descriptor stands. Raises OSError."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])
