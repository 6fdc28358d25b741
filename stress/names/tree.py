"""What lies in a folder, before and after a command."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

PIPE = "pipe"


def tree_of(root: Path, without: Collection[Path] = ()) -> dict[str, str]:
    """What each path below *root* is, links not followed and nothing opened but plain files; *without* what lies below these folders."""
    found: dict[str, str] = {}
    waiting = [os.fsencode(root)]
    left_out = {os.fsencode(folder) for folder in without}
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.path in left_out:
                    continue
                found[os.fsdecode(os.path.relpath(entry.path, os.fsencode(root)))] = _what(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return found


def _what(path: bytes) -> str:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return f"link to {os.fsdecode(os.readlink(path))}"
    if stat.S_ISREG(status.st_mode):
        return f"file {digest(Path(os.fsdecode(path)).read_bytes())} of {status.st_mtime_ns}"
    return "folder" if stat.S_ISDIR(status.st_mode) else PIPE if stat.S_ISFIFO(status.st_mode) else "device"


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What is another thing than before, each in a few words."""
    gone = [f"{path!r} is gone" for path in sorted(before.keys() - after.keys())]
    new = [f"{path!r} is new ({after[path].partition(' ')[0]})" for path in sorted(after.keys() - before.keys())]
    return gone + new + [f"{path!r} was changed" for path in sorted(before.keys() & after.keys()) if before[path] != after[path]]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
