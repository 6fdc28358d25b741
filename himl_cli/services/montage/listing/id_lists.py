"""Lists of slide ids, and the slides that they leave."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import basename

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.montage import SlideEntry
from himl_cli.services.montage.compose.record import plain
from himl_cli.services.montage.listing.naming import quoted, some
from himl_cli.services.text_files import read_text

INCLUDE, EXCLUDE = "--include_by_slide_id", "--exclude_by_slide_id"
HEADERS = {
    "slide_id",
    "slide id",
    "slideid",
    "slide",
    "slides",
    "image_id",
    "image",
    "images",
    "filename",
    "file_name",
    "file name",
    "file",
    "path",
    "name",
    "id",
}
NEVER_THERE = "\ud800"
"""Separates the fields of a list that has one column: no decoded text holds it."""
LONGEST_HEADER = 100_000
LARGEST = 64 << 20
SHAPE = "It is a text with one id a line, or a CSV whose first column is called slide_id."


@dataclass(frozen=True, slots=True)
class Restriction:
    """Ids that an option's file named, each once, in its order; no option: every slide is shown."""

    option: str | None = None
    path: Path | None = None
    ids: Sequence[str] = ()

    @classmethod
    def read(cls, include: Path | None, exclude: Path | None) -> Restriction:
        """Raises BadUsage for two lists, and for one that cannot be read."""
        if include is not None and exclude is not None:
            raise BadUsage(f"{INCLUDE} and {EXCLUDE} cannot be used together.", hint="Leave one of them out.")
        path, option = (exclude, EXCLUDE) if include is None else (include, INCLUDE)
        return cls() if path is None else cls(option, path, read_ids(path, option))

    def applied(self, slides: Sequence[SlideEntry], notify: Notify, *, of_folder: bool) -> list[SlideEntry]:
        """The *slides* that are left, in their order. Those of a folder also go by file name and by path in it. Raises
        BadUsage where none is left."""
        if self.option is None:
            return list(slides)
        wanted = set(self.ids)
        known = [_keys(slide, of_folder) for slide in slides]
        left = [
            slide
            for slide, keys in zip(slides, known, strict=True)
            if keys.isdisjoint(wanted) == (self.option == EXCLUDE)
        ]
        everywhere: set[str] = set().union(*known)
        strangers = [each for each in self.ids if each not in everywhere]
        if not left:
            raise self._nothing_left(strangers, slides)
        if len(strangers) == 1:
            notify(Notice(f"{self.option}: no slide has the id {quoted(strangers[0])}."))
        elif strangers:
            notify(Notice(f"{self.option}: no slide has one of these {len(strangers):,} ids: {some(strangers)}."))
        return left

    def _nothing_left(self, strangers: Sequence[str], slides: Sequence[SlideEntry]) -> BadUsage:
        start = f"{self.option}: '{self.path}'"
        if self.option == EXCLUDE:
            return BadUsage(
                f"{start} excludes every slide, {len(slides):,} in all.", hint="Leave some ids out of the list."
            )
        if not self.ids:
            return BadUsage(
                f"{start} has no ids, so that no slide remains.",
                hint=f"{SHAPE} Leave {INCLUDE} out to show all slides.",
            )
        return BadUsage(
            f"{start} has the id of no slide; it has {some(strangers)}.",
            hint=f"{SHAPE} An id of a slide is {quoted(slides[0].slide_id)}.",
        )


def read_ids(path: Path, option: str) -> list[str]:
    """The ids that the file *path* of *option* names, each once, without blanks around them.

    Raises BadUsage for a missing file, one that is no text, or a broken CSV.
    """
    try:
        is_large = path.stat().st_size > LARGEST
    except (OSError, ValueError):
        is_large = False
    if is_large:
        raise BadUsage(f"{option}: '{path}' is no list of ids: it is larger than {LARGEST >> 20} MiB.", hint=SHAPE)
    text = read_text(path, option)
    if "\0" in text:
        raise BadUsage(f"{option}: '{path}' is no text: it has NUL bytes in it.", hint=SHAPE)
    try:
        return list(dict.fromkeys(filter(None, map(str.strip, parse_ids(text)))))
    except csv.Error as err:
        raise BadUsage(f"{option}: '{path}' is a broken CSV: {err}.", hint=SHAPE) from err


def parse_ids(text: str) -> Iterator[str]:
    """Ids as they stand in a list: its lines, or the first column below a known header. Raises csv.Error."""
    lines = io.StringIO(text, newline=None).read().split("\n")
    start = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    if start == len(lines):
        return
    separator = _separator(lines[start])
    if separator is None:
        yield from lines[start:]
        return
    rows = csv.reader(
        io.StringIO("\n".join(lines[start + 1 :]), newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    yield from (row[0] for row in rows if row)


def _separator(line: str) -> str | None:
    """What separates the columns of a CSV with the header *line*; None where its first field is no known header."""
    if len(line) > LONGEST_HEADER:
        return None
    for separator in ",;\t":
        fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
        if fields and fields[0].strip().casefold() in HEADERS:
            return separator if len(fields) > 1 else NEVER_THERE
    return None


def _keys(slide: SlideEntry, of_folder: bool) -> set[str]:
    """What *slide* may be called in a list: also as the record of a montage writes names that UTF-8 cannot say."""
    names = {slide.slide_id, slide.image, basename(slide.image)} if of_folder else {slide.slide_id}
    return {each.strip() for name in names for each in (name, plain(name))}
