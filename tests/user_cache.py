"""Where in this user's cache himl keeps what it remembers of downloads, and where ranks meet."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def state_of(folder: Path) -> Path:
    """The file that has the state of downloads to *folder*."""
    target = os.fsencode(os.path.realpath(folder))
    (entry,) = (path.parent for path in transfers().glob("*/target") if path.read_bytes().split(b"\n", 1)[1] == target)
    return entry / "state.db"


def transfers() -> Path:
    return platformdirs.user_cache_path("himl", appauthor=False) / "transfers"


def meetings() -> Path:
    return platformdirs.user_cache_path("himl", appauthor=False) / "ranks"
