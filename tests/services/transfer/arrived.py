"""What a download left in a folder, and how it is told, for the tests of downloads."""

from __future__ import annotations

import os
from pathlib import Path

from himl_cli.core.blobs import TransferResult


def files_in(folder: Path) -> dict[str, bytes]:
    """Everything that is there, but for the home of the test (himl's cache is in it), which lies in the folder where that is the test's own."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != "home"
    }


def numbers(result: TransferResult) -> tuple[int, int, int]:
    return result.files, result.skipped, result.unverified


def rewritten_unnoticeably(path: Path, body: bytes) -> None:
    """Other bytes of the same size and time."""
    before = path.stat()
    path.write_bytes(body)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
