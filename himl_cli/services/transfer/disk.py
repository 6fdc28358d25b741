"""What can go wrong with files here, in words; and the MD5 of one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from himl_cli.core.errors import FULL_DISK, DiskFailed

CHUNK = 1 << 20


class DiskFull(DiskFailed):
    """No room is left: the whole transfer stops, for no other file would fit."""

    code = "disk_full"


def explained(err: OSError, what: str) -> DiskFailed:
    """*err* as ours; *what* is the sentence's beginning, such as `Cannot write 'x'`."""
    if err.errno in FULL_DISK:
        return DiskFull(f"{what}: no space left on the disk.", hint="Free some space and run the command again: what is complete is kept.")
    return DiskFailed(f"{what}: {err.strerror or err}.", hint="Check the path and its permissions.")


def md5_of(path: str | Path) -> bytes:
    """MD5 of the file. Raises OSError."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb", buffering=0) as source:
        while piece := source.read(CHUNK):
            digest.update(piece)
    return digest.digest()


def write_at(descriptor: int, offset: int, data: bytes) -> None:
    """Write all of *data* at *offset*. Raises OSError."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
