"""The slides of a CSV: one a line, with the columns `image` and `slide_id`, perhaps `label` and `mask`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from posixpath import dirname

from himl_cli.core.blobs import listed
from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.montage import SlideEntry
from himl_cli.services.montage import files
from himl_cli.services.montage.dataset import SlideFolder

REQUIRED = ("image", "slide_id")
OPTIONAL = ("label", "mask")
SEPARATORS = ",;\t"
DECLARED = re.compile(r'"?sep=([^"\w\s]|\t)"?[ ]*(?=[\r\n])', re.IGNORECASE)
"""A first line by which Excel says what separates columns."""
MOST_COLUMNS = 12
COLUMNS = "Its first line must name the columns image and slide_id; label and mask may be there too."
LONGEST_NAME = 80

Row = tuple[int, Sequence[str]]
"""The number of a line, and the values in it."""


def quoted(name: str) -> str:
    """*name* in quotes, for a message; of a long one its beginning."""
    return f"'{name}'" if len(name) <= LONGEST_NAME else f"'{name[: LONGEST_NAME - 1]}…'"


def quoted_list(names: Sequence[str]) -> str:
    """A few of *names* in quotes, and how many more there are."""
    return listed([quoted(name) for name in names])


def table_slides(slides: SlideFolder, name: str, notify: Notify) -> list[SlideEntry]:
    """The slides of the CSV *name*, in its order; never empty. Images and masks are names in the folder, or absolute.

    Values are text as it stands; a line without an id is called by its image, and that is said.
    Raises BadUsage for a file that is no such CSV, NotFound, DiskFailed.
    """
    rows = read_table(slides.text(name), name)
    unnamed = [f"line {line}" for line, values in rows if not values[1]]
    if unnamed:
        notify(Notice(f"'{name}': without a slide_id, called by their images: {listed(unnamed)}."))
    folder = dirname(name)
    return [
        SlideEntry(
            slide_id or image,
            _located(slides, folder, image),
            label or None,
            _located(slides, folder, mask) if mask else None,
        )
        for _, (image, slide_id, label, mask) in rows
    ]


def read_table(text: str, name: str) -> list[Row]:
    """The lines of a CSV that are slides: image, slide_id, label and mask of each, empty where there is none; blank
    lines are passed over. Raises BadUsage."""
    if "\0" in text:
        raise BadUsage(f"'{name}' is no CSV: it has NUL bytes in it.", hint="Save it as 'CSV UTF-8'.")
    if declared := DECLARED.match(text):
        text = text[declared.end() :]
    separator = declared[1] if declared else _separator(text)
    # Blanks that follow the separators, as in `image, slide_id`, are not part of the values.
    is_spaced = any(field.startswith(" ") for field in _header(text, separator)[1:])
    try:
        rows = list(_rows(text, separator, is_spaced))
    except csv.Error as err:
        line, reason = err.args
        raise BadUsage(
            f"'{name}', line {line}: {reason}.",
            hint="Write a field that holds quotes or separators in double quotes, and quotes in it twice.",
        ) from err
    if not rows:
        raise BadUsage(f"'{name}' is empty.", hint=COLUMNS)
    header = [_plain(value) for value in rows[0][1]]
    if header == [*files.COLUMNS]:
        raise BadUsage(
            f"'{name}' tells of a montage, and is no list of slides.",
            hint=f"Name the folder of the slides, with --include_by_slide_id '{name}'.",
        )
    columns = [_column(column, header, rows[0][1], name) for column in (*REQUIRED, *OPTIONAL)]
    slides = rows[1:]
    wrong = [f"line {line} has {len(values)}" for line, values in slides if len(values) != len(header)]
    if wrong:
        raise BadUsage(
            f"'{name}': its header has {len(header)} field{'' if len(header) == 1 else 's'}, {listed(wrong)}.",
            hint="Each line must have as many fields as the header.",
        )
    if not slides:
        raise BadUsage(f"'{name}' has no line below its header.", hint="Give it one line for each slide.")
    return [
        (line, ["" if column is None or not values[column].strip() else values[column] for column in columns])
        for line, values in slides
    ]


def _rows(text: str, separator: str, is_spaced: bool) -> Iterator[Row]:
    """The lines that are not blank, each with the number of its first line. Raises csv.Error with the number of a line
    and the reason."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=is_spaced, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            raise csv.Error(line, str(err)) from err
        if any(value.strip() for value in values):
            yield line, values


def _header(text: str, separator: str) -> Sequence[str]:
    """The header's fields, were *separator* the one that is used; empty where it would be broken."""
    try:
        return next((values for _, values in _rows(text, separator, False)), ())
    except csv.Error:
        return ()


def _separator(text: str) -> str:
    """The one with which the header has most of the required columns; of those the one that cuts it into most
    fields."""

    def rank(separator: str) -> tuple[int, int]:
        fields = [_plain(field) for field in _header(text, separator)]
        return len({*fields} & {*REQUIRED}), len(fields)

    return max(SEPARATORS, key=rank)


def _plain(column: str) -> str:
    return column.strip().strip('"').casefold()


def _column(column: str, header: Sequence[str], shown: Sequence[str], name: str) -> int | None:
    found = [place for place, each in enumerate(header) if each == column]
    if not found and column in REQUIRED:
        more = f" and {len(shown) - MOST_COLUMNS:,} more" if len(shown) > MOST_COLUMNS else ""
        columns = ", ".join(quoted(each.strip()) for each in shown[:MOST_COLUMNS]) + more
        raise BadUsage(f"'{name}' has no column '{column}'; it has: {columns}.", hint=COLUMNS)
    if len(found) > 1:
        raise BadUsage(f"'{name}' has {len(found)} columns '{column}'.", hint="Rename or remove all but one.")
    return found[0] if found else None


def _located(slides: SlideFolder, folder: str, path: str) -> str:
    """*path*, relative to the CSV's *folder*, as a name in *slides*; backslashes separate where only that names a
    file."""
    if not path or PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute():
        return path
    name = _joined(folder, path)
    if "\\" in path and not slides.has(name) and slides.has(other := _joined(folder, path.replace("\\", "/"))):
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
