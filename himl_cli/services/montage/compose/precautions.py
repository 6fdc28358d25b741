"""What a montage must not replace: the slides that it is made of, and what was never a montage's."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import SlideEntry, SlideUnreadable
from himl_cli.services.montage.compose.earlier import is_record
from himl_cli.services.montage.names import DZI, FILES, PAGE, TILES
from himl_cli.services.montage.places import SlidePlace

HINT = "Choose another folder with --output_path."


def check_inputs(folder: Path, entries: Sequence[SlideEntry], place: SlidePlace, lists: Iterable[Path]) -> None:
    """Raises BadUsage where a slide, a mask or one of the *lists* of slides lies where a montage in *folder* has its
    files.

    Whatever the montage is to consist of: it would be replaced by this one, or taken for a part of it by the next one.
    A record of a montage is no such list. To be called before *place* expects files; those of a place that is not here
    lie nowhere in *folder*.
    """
    if not any(os.path.lexists(folder / name) for name in (*FILES, TILES)):
        return
    taken = _Taken(folder)
    kinds = {
        "a slide or a mask": _files(entries, place),
        "a list of slides": (path for path in lists if not is_record(path)),
    }
    for kind, paths in kinds.items():
        for path in paths:
            if taken.has(path):
                raise BadUsage(
                    f"'{path}' is {kind} of this montage, and the montage's own files have that name.", hint=HINT
                )


def check_names(folder: Path, names: Collection[str], removed: Collection[str]) -> None:
    """Raises BadUsage where what has one of these names in *folder* is none of a montage's: *names* will be replaced,
    and *removed* will go."""
    for name in (*names, *removed):
        there = folder / name
        if os.path.lexists(there) and there.is_dir() != (name == TILES):
            kinds = ("folder", "file") if there.is_dir() else ("file", "folder")
            raise BadUsage(f"'{there}' is a {kinds[0]}, and a montage has a {kinds[1]} of that name.", hint=HINT)
    if (folder / DZI).is_file():
        return
    if TILES in names and (folder / TILES).is_dir() and os.listdir(folder / TILES):
        raise BadUsage(
            f"'{folder / TILES}' has files in it that are no montage's: there is no {DZI} beside it.", hint=HINT
        )
    if PAGE in names and os.path.lexists(folder / PAGE):
        raise BadUsage(f"'{folder / PAGE}' is no montage's page: there is no {DZI} beside it.", hint=HINT)


def _files(entries: Iterable[SlideEntry], place: SlidePlace) -> Iterator[Path]:
    """The images and masks that lie on this machine."""
    if not place.is_read_twice:
        return
    for name in (name for entry in entries for name in (entry.image, entry.mask) if name):
        try:
            with place.at_hand(name) as path:
                yield path
        except SlideUnreadable:  # its cell will say so
            continue


class _Taken:
    """What a montage's files in *folder* are, however they are called: by other paths, through links, in other letters
    where case makes no difference."""

    def __init__(self, folder: Path) -> None:
        self._real_folders: dict[str, str] = {}
        real = os.path.realpath(folder)
        self._paths = {os.path.normcase(os.path.join(real, name)) for name in (*FILES, TILES)}
        self._below = tuple(
            os.path.join(os.path.normcase(path), "")
            for path in {os.path.join(real, TILES), os.path.realpath(folder / TILES)}
        )
        self._ids = {_identity(folder / name) for name in FILES} - {None}

    def has(self, path: Path) -> bool:
        """Whether *path* is one of them, or lies below the folder of tiles."""
        try:
            places = {os.path.normcase(each) for each in self._places(path)}
            return (
                any(each in self._paths or each.startswith(self._below) for each in places)
                or _identity(path) in self._ids
            )
        except ValueError:  # a null byte in the name
            return False

    def _places(self, path: Path) -> Iterator[str]:
        """Where it lies; of a link where that lies, and what it leads to."""
        above = str(path.parent)
        if above not in self._real_folders:
            self._real_folders[above] = os.path.realpath(above)
        yield os.path.join(self._real_folders[above], path.name)
        if os.path.islink(path):
            yield os.path.realpath(path)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
