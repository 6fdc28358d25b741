"""What failures of the disk below a local workspace are called."""

from __future__ import annotations

import os
from pathlib import Path

from himl_cli.core.errors import FULL_DISK, DiskFailed

FREE_SPACE = "Free some space; 'himl runs delete' removes runs with their files."
CHECK_PERMISSIONS = "Check the folder's permissions, or name another with --workspace."


def explain_disk_error(err: OSError, what: str, where: Path) -> DiskFailed:
    """One line about what could not be read or written: the file itself where it is known, else *where*; a full disk is
    that of *where*."""
    if err.errno in FULL_DISK:
        return DiskFailed(f"{what}: {err.strerror}: '{where}'.", hint=FREE_SPACE)
    named = err.filename if err.filename and os.path.isabs(err.filename) else where
    return DiskFailed(f"{what}: {err.strerror or err}: '{named}'.", hint=CHECK_PERMISSIONS)
