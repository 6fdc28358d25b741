"""Downloads in himl's cache, which belongs to the user and not to a workspace, that nothing has used for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

from himl_cli.core.errors import HimlError
from himl_cli.core.files import cache_of, remove_tree, walk_folders
from himl_cli.core.workspaces import Garbage
from himl_cli.services.transfer.state import KEPT_DAYS

DOWNLOADS = "downloads"
# Kinds of downloads, and how deep their folders are in that of the kind: event files are grouped by workspace
KINDS = {"datasets": 1, "checkpoints": 1, "tensorboard": 2}


def unused_downloads(before: datetime | None = None, *, delete: bool = False) -> Garbage:
    """Count the files of downloads that nothing has read or written since *before* (default: for `KEPT_DAYS` days), and
    with *delete*, delete them. A user without a home folder has none."""
    latest = (before or datetime.now(timezone.utc) - timedelta(days=KEPT_DAYS)).timestamp()
    files = size = 0
    for folder in _downloads():
        with suppress(OSError):  # it stays
            paths = [Path(parent, name) for parent, _, names in walk_folders(str(folder)) for name in names]
            facts = [path.lstat() for path in paths]
            # Not when a folder was read, which this function does
            if max([folder.stat().st_mtime, *(max(each.st_mtime, each.st_atime) for each in facts)]) >= latest:
                continue
            if delete:
                remove_tree(folder)
            files, size = files + len(paths), size + sum(each.st_size for each in facts)
    return Garbage(DOWNLOADS, files, size)


def _downloads() -> Iterator[Path]:
    for kind, depth in KINDS.items():
        with suppress(HimlError):
            top = cache_of(kind, "for downloads", "")
            for path in top.glob("/".join("*" * depth)):
                if path.is_dir() and not path.is_symlink() and os.access(path, os.W_OK):
                    yield path
