"""Files laid before a job and kept after it: the snapshot, and what an in-place job wrote."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from himl_cli.core.jobs import Snapshot

KEPT_FOLDERS = ("outputs", "logs")

Stamp = tuple[int, int, int]  # inode, size in bytes, modification time in nanoseconds


class Stopped(Exception):
    """The job was canceled while its files were laid."""


def lay_snapshot(snapshot: Snapshot, target: Path, *, is_stopped: Callable[[], bool]) -> None:
    """Copy the snapshot's files, with their permissions, below *target*. Raises OSError, or Stopped.

    A file that vanished since it was listed is passed over, as an editor's temporary files do all the time.
    """
    made: set[Path] = set()
    for number, name in enumerate(snapshot.files):
        if number % 100 == 0 and is_stopped():
            raise Stopped
        copy = target / name
        if copy.parent not in made:
            copy.parent.mkdir(parents=True, exist_ok=True)
            made.add(copy.parent)
        source = snapshot.root / name
        try:
            shutil.copyfile(source, copy)
            shutil.copymode(source, copy)
        except FileNotFoundError:
            if source.exists():
                raise


def stamps(root: Path) -> dict[str, Stamp]:
    """A stamp of every file below `outputs/` and `logs/` of *root*, by its path relative to *root*."""
    found: dict[str, Stamp] = {}
    for path in _kept(root):
        try:
            stat = path.stat()
        except OSError:
            continue  # a dangling link, or gone in the meantime: nothing to keep
        found[path.relative_to(root).as_posix()] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


def keep_changed(root: Path, before: dict[str, Stamp], target: Path) -> int:
    """Copy what is new or changed below *root* since *before* to *target*; return the number of files. Raises OSError."""
    changed = [name for name, stamp in stamps(root).items() if before.get(name) != stamp]
    for name in changed:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, copy)
    return len(changed)


def _kept(root: Path) -> Iterator[Path]:
    for folder in KEPT_FOLDERS:
        for place, _, names in os.walk(root / folder):
            yield from (path for name in names if (path := Path(place, name)).is_file())
