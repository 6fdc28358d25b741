"""The files of a finished montage."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from himl_cli.core.montage import MontageResult, Size, WrittenFile


def written_files(result: MontageResult) -> Sequence[WrittenFile]:
    """What *result* names, as it is on the disk. A pyramid's tiles lie in a folder beside its `.dzi`, and count as that
    file."""
    return [WrittenFile(path, _bytes_of(path), _size_of(path, result)) for path in result.files]


def _size_of(path: Path, result: MontageResult) -> Size | None:
    if path.suffix == ".csv":
        return None
    return result.jpg_size if path.suffix == ".jpg" else result.size


def _bytes_of(path: Path) -> int:
    own = _in_folder(str(path)) if path.is_dir() else path.stat().st_size
    return own + (_in_folder(f"{path.with_suffix('')}_files") if path.suffix == ".dzi" else 0)


def _in_folder(folder: str) -> int:
    return sum(_entries(folder))


def _entries(folder: str) -> Iterator[int]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path)
            else:
                yield entry.stat(follow_symlinks=False).st_size
