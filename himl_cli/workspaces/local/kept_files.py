"""Files laid before a job and kept after it: the snapshot, and what an in-place job wrote."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from himl_cli.core.jobs import Snapshot

KEPT_FOLDERS = ("outputs", "logs")
BLOCK = 8 << 20

Stamp = tuple[int, int, int]  # inode, size in bytes, modification time in nanoseconds


class Stopped(Exception):
    """The job was canceled while its files were laid."""


def lay_snapshot(snapshot: Snapshot, target: Path, *, is_stopped: Callable[[], bool]) -> None:
    """Copy the snapshot's files, with their permissions, below *target*. Raises OSError, or Stopped once *is_stopped*
    says so."""
    copied = 0
    for number, name in enumerate(snapshot.files):
        for size in copy_file(snapshot.root / name, target / name):
            copied += size
            if copied >= BLOCK:
                copied = 0
                _stop_if(is_stopped)
        if number % 100 == 0:
            _stop_if(is_stopped)


def _stop_if(is_stopped: Callable[[], bool]) -> None:
    if is_stopped():
        raise Stopped


def copy_file(source: Path, target: Path) -> Iterator[int]:
    """Copy one file with its permissions; gives the size of each block that was copied. Raises OSError.

    A file that vanished since it was listed is passed over, as an editor's temporary files do all the time.
    """
    try:
        stream = source.open("rb")
    except FileNotFoundError:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with stream, target.open("wb") as copy:
        while block := stream.read(BLOCK):
            copy.write(block)
            yield len(block)
        os.chmod(target, os.fstat(stream.fileno()).st_mode & 0o777)


def bring_file(source: Path, target: Path, *, is_stopped: Callable[[], bool]) -> None:
    """Copy a file that the job asked for. Raises OSError, also where it is not there any more, or Stopped."""
    source.stat()
    for _ in copy_file(source, target):
        _stop_if(is_stopped)


def make_kept_folders(root: Path) -> list[Path]:
    """Make `outputs/` and `logs/` below *root*, as a job finds them everywhere; gives those that were not there."""
    missing = [root / name for name in KEPT_FOLDERS if not (root / name).exists()]
    for folder in missing:
        folder.mkdir(exist_ok=True)
    return missing


def remove_if_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            continue  # the job wrote into it, or took it away


def stamps(root: Path) -> dict[str, Stamp]:
    """A stamp of every file below `outputs/` and `logs/` of *root*, by its path relative to *root*."""
    found: dict[str, Stamp] = {}
    for path in _kept(root):
        try:
            facts = path.stat()
        except OSError:
            continue  # a dangling link, or gone in the meantime: nothing to keep
        found[path.relative_to(root).as_posix()] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return found


def keep_changed(root: Path, before: dict[str, Stamp], target: Path) -> None:
    """Copy what is new or changed below *root* since *before* to *target*. Raises OSError."""
    for name, stamp in stamps(root).items():
        if before.get(name) != stamp:
            for _ in copy_file(root / name, target / name):
                pass


def written_elsewhere(root: Path, since: int) -> Iterator[Path]:
    """Files below *root* that came or changed after *since* (nanoseconds), outside `outputs/`, `logs/` and Python's
    caches."""
    for place, folders, names in os.walk(root):
        above = Path(place)
        left_out = {"__pycache__", *(KEPT_FOLDERS if above == root else ())}
        folders[:] = [name for name in folders if name not in left_out]
        for path in map(above.joinpath, names):
            with suppress(OSError):
                facts = path.lstat()
                if stat.S_ISREG(facts.st_mode) and max(facts.st_mtime_ns, facts.st_ctime_ns) > since:
                    yield path


def _kept(root: Path) -> Iterator[Path]:
    for folder in KEPT_FOLDERS:
        for place, _, names in os.walk(root / folder):
            yield from (path for name in names if (path := Path(place, name)).is_file())
