"""Paths in files that travel between machines: `\\` is taken for `/`, wherever they were written and are read."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PureWindowsPath


def with_slashes(text: str) -> str:
    """*text* with `/` for `\\`; as it is where it begins with a drive, a slash or a backslash: it is of one machine
    then."""
    return text if PureWindowsPath(text).anchor else text.replace("\\", "/")


def as_found(folder: Path, text: str, *, windows: bool = sys.platform == "win32") -> str:
    """*text*, a path relative to *folder*, with `/` for `\\`, unless a file or folder really has the name as written,
    which no name on Windows does."""
    return text if not windows and os.path.lexists(folder / text) else with_slashes(text)
