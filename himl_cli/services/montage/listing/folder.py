"""The slides of a folder: its files, by pattern or by what their extensions promise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from posixpath import basename, dirname

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.montage import SlideEntry
from himl_cli.services.montage.listing.naming import some
from himl_cli.services.montage.listing.patterns import Pattern
from himl_cli.services.montage.names import DZI, FILES, RECORD, TILES
from himl_cli.services.montage.places import SlidePlace

OPENSLIDE_EXTENSIONS = ("bif", "czi", "dcm", "mrxs", "ndpi", "scn", "svs", "svslide", "tif", "tiff", "vms", "vmu")
PLAIN_EXTENSIONS = ("jpeg", "jpg", "png")
_TILE = re.compile(rf"(?:(?P<folder>.*)/)?{TILES}/\d+/\d+_\d+\.jpg", re.ASCII | re.DOTALL)
ESCAPED_AMPERSAND = "%26"
"""How `&` in file names looks in some mounted datasets."""


@cache
def slide_extensions() -> tuple[str, ...]:
    """Ends of the names of files that may be slides, with their dots, in lower case."""
    import tifffile

    return tuple(
        f".{each}" for each in sorted({*OPENSLIDE_EXTENSIONS, *PLAIN_EXTENSIONS, *tifffile.TIFF.FILE_EXTENSIONS})
    )


def may_be_slide(name: str) -> bool:
    """Whether the extension of *name* is one that OpenSlide, tifffile or, for plain pictures, Pillow reads."""
    return name.lower().endswith(slide_extensions())


def folder_slides(place: SlidePlace, pattern: Pattern | None, notify: Notify) -> list[SlideEntry]:
    """The files that match *pattern*, hidden ones too; None: those that may be slides and are not hidden. Sorted by
    name; never empty.

    Earlier montages in the folder are left out, and that is said. Ids are file names, or all are names with their
    folders where file names repeat. Raises BadUsage where nothing matches, NotFound where the folder has no slides.
    """
    every = list(place.names())
    wanted = [
        name
        for name in every
        if (_is_visible(name) and may_be_slide(name) if pattern is None else pattern.matches(name))
    ]
    made = _made_by_himl(every)
    names = [name for name in wanted if name not in made]
    if len(names) < len(wanted):
        notify(Notice(f"Files of an earlier montage are left out: {some([name for name in wanted if name in made])}."))
    if not names:
        raise _nothing(place, pattern, len(every))
    return [SlideEntry(slide_id, name) for slide_id, name in zip(_ids(names), names, strict=True)]


def _ids(names: Sequence[str]) -> list[str]:
    bases = [basename(name) for name in names]
    return [name.replace(ESCAPED_AMPERSAND, "&") for name in (bases if len(set(bases)) == len(bases) else names)]


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and "/." not in name


def _made_by_himl(names: Sequence[str]) -> set[str]:
    """Those of *names* that belong to a montage: they are called so, and its record lies beside them; of tiles the
    description of their pyramid."""
    folders = {dirname(name) for name in names if basename(name) == RECORD}
    zoomable = {dirname(name) for name in names if basename(name) == DZI}
    return {
        name for name in names if (dirname(name) in folders and basename(name) in FILES) or _is_tile(name, zoomable)
    }


def _is_tile(name: str, zoomable: set[str]) -> bool:
    found = _TILE.fullmatch(name)
    return found is not None and (found["folder"] or "") in zoomable


def _nothing(place: SlidePlace, pattern: Pattern | None, files: int) -> BadUsage | NotFound:
    has = f"has {files:,} file{'' if files == 1 else 's'}" if files else "has no files"
    if pattern is None:
        return NotFound(
            f"No slides in {place.label}: it {has}{', none of them a slide' if files else ''}.",
            hint="Choose files with --image_glob.",
        )
    hint = (
        "The pattern is relative to the folder; '**/*.tiff' also looks into subfolders. Quote it, so that the "
        "shell "
        "leaves it as it is."
    )
    return BadUsage(f"--image_glob '{pattern.text}' matches no file in {place.label}, which {has}.", hint=hint)
