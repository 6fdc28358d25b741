"""What an earlier montage left in the output folder that this one will not replace."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from himl_cli.core.montage import ImageFormat
from himl_cli.services.montage.compose.record import COLUMNS
from himl_cli.services.montage.names import DZI, JPG, PAGE, PNG, RECORD, TILES

NAMES = {ImageFormat.png: (PNG,), ImageFormat.jpg: (JPG,), ImageFormat.dzi: (TILES, DZI, PAGE)}


def names_of(formats: Iterable[ImageFormat]) -> list[str]:
    """The files and folders that a montage of these *formats* consists of."""
    return [*(name for each in formats for name in NAMES[each]), RECORD]


def earlier_files(folder: Path, names: Collection[str]) -> tuple[list[str], list[str]]:
    """Files of *folder* that are called as those of a montage, and not among *names*, which a new one consists of.

    First those that an earlier montage made, which its montage.csv proves: they would be taken for the new one's, and
    have to go. Then those that may be anybody's. A page, or tiles, without a `montage.dzi` beside them are none of
    ours.
    """
    zoom = (PAGE, DZI, TILES) if (folder / DZI).is_file() else ()
    there = [name for name in (PNG, JPG, *zoom) if name not in names and os.path.lexists(folder / name)]
    return (there, []) if is_record(folder / RECORD) else ([], there)


def is_record(path: Path) -> bool:
    """Whether *path* tells of a montage."""
    header = ",".join(COLUMNS) + "\n"
    try:
        if not path.is_file():  # reading a pipe would wait for somebody to write
            return False
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline(len(header) + 1) == header
    except OSError:
        return False
