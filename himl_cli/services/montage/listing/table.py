"""The slides of a CSV: one a line, with the columns `image` and `slide_id`, perhaps `label` and `mask`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from posixpath import dirname

from himl_cli.core.blobs import listed
from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.montage import SlideEntry
from himl_cli.services.montage.compose import record
from himl_cli.services.montage.listing.naming import quoted
from himl_cli.services.montage.places import SlidePlace

REQUIRED = ("image", "slide_id")
OPTIONAL = ("label", "mask")
SEPARATORS = ",;\t"
DECLARED = re.compile(r'"?sep=([^"\w\s]|\t)"?[ ]*(?=[\r\n])', re.IGNORECASE)
"""A first line by which Excel says what separates columns."""
MOST_TOLD = 12
COLUMNS = "Its first line must name the columns image and slide_id; label and mask may be there too."


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    values: Sequence[str]


def table_slides(place: SlidePlace, name: str, notify: Notify) -> list[SlideEntry]:
    """The slides of the CSV *name*, in its order; never empty. Images and masks are names in the place, or absolute.

    Values are text as it stands; a line without an id is called by its image, and that is said.
    Raises BadUsage for a file that is no such CSV, NotFound, DiskFailed.
    """
    rows = read_table(place.text(name), name)
    unnamed = [f"line {row.line}" for row in rows if not row.values[1]]
    if unnamed:
        notify(Notice(f"'{name}': without a slide_id, called by their images: {listed(unnamed)}."))
    folder = dirname(name)
    return [
        SlideEntry(
            slide_id or image,
            _located(place, folder, image),
            label or None,
            _located(place, folder, mask) if mask else None,
        )
        for image, slide_id, label, mask in (row.values for row in rows)
    ]


def read_table(text: str, name: str) -> list[_Row]:
    """The lines of a CSV that are slides: image, slide_id, label and mask of each, empty where there is none; blank
    lines are passed over. Raises BadUsage."""
    if "\0" in text:
        raise BadUsage(f"'{name}' is no CSV: it has NUL bytes in it.", hint="Save it as 'CSV UTF-8'.")
    declared = DECLARED.match(text)
    if declared:
        text = text[declared.end() :]
    separator = declared[1] if declared else _separator(text)
    try:
        rows = list(_rows(text, separator, spaced=_is_spaced(text, separator)))
    except _Broken as err:
        raise BadUsage(
            f"'{name}', line {err.line}: {err}.",
            hint="Write a field that holds quotes or separators in double quotes, and quotes in it twice.",
        ) from err
    if not rows:
        raise BadUsage(f"'{name}' is empty.", hint=COLUMNS)
    header = [_plain(value) for value in rows[0].values]
    if header == [*record.COLUMNS]:
        raise BadUsage(
            f"'{name}' tells of a montage, and is no list of slides.",
            hint=f"Name the folder of the slides, with --include_by_slide_id '{name}'.",
        )
    places = [_column(column, header, rows[0].values, name) for column in (*REQUIRED, *OPTIONAL)]
    slides = rows[1:]
    _check_lengths(slides, len(header), name)
    if not slides:
        raise BadUsage(f"'{name}' has no line below its header.", hint="Give it one line for each slide.")
    return [_Row(row.line, [_value(row.values, place) for place in places]) for row in slides]


class _Broken(Exception):
    """Quotes that do not fit, at a line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def _rows(text: str, separator: str, *, spaced: bool) -> Iterator[_Row]:
    """The lines that are not blank, each with the number of its first line. Raises _Broken."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=spaced, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            raise _Broken(line, str(err)) from err
        if any(value.strip() for value in values):
            yield _Row(line, values)


def _header(text: str, separator: str) -> Sequence[str]:
    """The header's fields, were *separator* the one that is used; empty where it would be broken."""
    try:
        return next((row.values for row in _rows(text, separator, spaced=False)), ())
    except _Broken:
        return ()


def _separator(text: str) -> str:
    """The one with which the header has most of the required columns; of those the one that cuts it into most
    fields."""

    def rank(separator: str) -> tuple[int, int]:
        fields = [_plain(field) for field in _header(text, separator)]
        return len({*fields} & {*REQUIRED}), len(fields)

    return max(SEPARATORS, key=rank)


def _is_spaced(text: str, separator: str) -> bool:
    """Whether blanks follow the separators, as in `image, slide_id`; they are not part of the values then."""
    return any(field.startswith(" ") for field in _header(text, separator)[1:])


def _plain(column: str) -> str:
    return column.strip().strip('"').casefold()


def _column(column: str, header: Sequence[str], shown: Sequence[str], name: str) -> int | None:
    found = [place for place, each in enumerate(header) if each == column]
    if not found and column in REQUIRED:
        raise BadUsage(f"'{name}' has no column '{column}'; it has: {_told(shown)}.", hint=COLUMNS)
    if len(found) > 1:
        raise BadUsage(f"'{name}' has {len(found)} columns '{column}'.", hint="Rename or remove all but one.")
    return found[0] if found else None


def _told(columns: Sequence[str]) -> str:
    more = f" and {len(columns) - MOST_TOLD:,} more" if len(columns) > MOST_TOLD else ""
    return ", ".join(quoted(each.strip()) for each in columns[:MOST_TOLD]) + more


def _check_lengths(rows: Sequence[_Row], length: int, name: str) -> None:
    wrong = [f"line {row.line} has {len(row.values)}" for row in rows if len(row.values) != length]
    if wrong:
        raise BadUsage(
            f"'{name}': its header has {length} field{'' if length == 1 else 's'}, {listed(wrong)}.",
            hint="Each line must have as many fields as the header.",
        )


def _value(values: Sequence[str], place: int | None) -> str:
    """The value as it stands; empty where it is blank or there is no such column."""
    return "" if place is None or not values[place].strip() else values[place]


def _located(place: SlidePlace, folder: str, path: str) -> str:
    """*path*, relative to the CSV's *folder*, as a name in the place; backslashes separate where only that names a
    file."""
    if not path or PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute():
        return path
    name = _joined(folder, path)
    if "\\" in path and not place.has(name) and place.has(other := _joined(folder, path.replace("\\", "/"))):
        return other
    return name


def _joined(folder: str, path: str) -> str:
    above = folder.split("/") if folder else []
    parts = path.split("/")
    while parts[0] == "." or (parts[0] == ".." and above):
        if parts.pop(0) == "..":
            above.pop()
        if not parts:
            return "/".join(above)
    return "/".join([*above, *parts])
