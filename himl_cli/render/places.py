"""Paths as they are shown."""

from __future__ import annotations

import os
import sys


def shown_path(path: str) -> str:
    """For a person the shorter of the path from here and *path* itself; off a terminal *path*. Empty stays empty."""
    if not path or not sys.stdout.isatty():
        return path
    try:
        return min(os.path.relpath(path), path, key=len)
    except ValueError:  # another drive, on Windows
        return path
