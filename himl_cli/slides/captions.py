"""Captions of slides, and marks for unreadable ones.

The package contains DejaVu Sans, so that captions look the same on every machine. One thread at a time measures or
draws, because FreeType's faces are not thread-safe.
"""

from __future__ import annotations

import math
import threading
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from himl_cli.slides.layout import HIML_LETTERS, LEAST_LETTERS, letters_of, relative
from himl_cli.slides.output_folder import escaped
from himl_cli.slides.slide_records import Box, Cell, Colour, Layout, LayoutStyle, Size, SlideEntry

ELLIPSIS = "…"
JOINERS = "\u200c\u200d"
INK, HIML_INK = (32, 32, 32), (27, 77, 40)
# Smallest letters in hi-ml's layout before a caption is shortened, in pixels per em. Other letters may halve.
HIML_LEAST = 8

GREY, STROKE, REASON_INK = (236, 236, 236), (176, 176, 176), (72, 72, 72)
STROKES_PER_AREA = 250
LETTERS_PER_AREA, LARGEST_LETTERS = 14, 192
REASON = 0.6  # size of the reason's letters, relative to those of the title
# Share of the area for the words, the height of a line in ems, and the space around them.
WIDTH, HEIGHT, LINE, MARGIN = 0.86, 0.7, 1.3, 0.5

_lock = threading.Lock()


@lru_cache(maxsize=4096)
def extent(text: str, size: int) -> tuple[int, int, int, int]:
    """Extent of *text*, one line, drawn at (0, 0) in letters of *size* pixels per em: left, top, right and bottom."""
    with _lock:
        left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, _font(size))
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


@lru_cache(maxsize=4096)
def has_glyph(character: str) -> bool:
    """Whether the font has a glyph for *character*. Otherwise, a box is drawn."""
    with _lock:
        font = _font(48)
        drawn, box = ((font.getbbox(each), bytes(font.getmask(each))) for each in (character, "\U0010ffff"))
        return drawn != box


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(BytesIO(_font_file()), size)


@lru_cache(maxsize=1)
def _font_file() -> bytes:
    return (files(__package__) / "fonts" / "DejaVuSans.ttf").read_bytes()


def readable(text: str) -> str:
    r"""*text* as one line. All kinds of blanks become one space, control characters become `\x1b`, and formatting
    characters are dropped."""
    made = []
    for character in unicodedata.normalize("NFC", escaped(" ".join(text.split()))):
        category = unicodedata.category(character)
        if category == "Cc":
            made.append(f"\\x{ord(character):02x}")
        elif category != "Cf" or character in JOINERS:
            made.append(character)
    return "".join(made)


def clusters(text: str) -> list[str]:
    """*text* in pieces that must not be split: letters with their marks, and joined characters."""
    pieces: list[str] = []
    for character in text:
        is_mark = unicodedata.category(character).startswith("M")
        if pieces and (is_mark or character in JOINERS or pieces[-1][-1] in JOINERS):
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def caption_parts(entry: SlideEntry) -> list[str]:
    """Printable id and label. Either may be empty."""
    return [readable(entry.slide_id), readable(entry.label or "")]


def _shortened(parts: Sequence[str], letters: int) -> str:
    """Shorten both to *letters* (1 or more) in total: the id in its middle, the label at its end, if it has more than
    half of them."""
    first, second = map(clusters, parts)
    of_first = min(len(first), max(letters - len(second), (letters + 1) // 2))
    of_second = min(len(second), letters - of_first)
    if of_first < len(first):
        first = [*first[: (of_first + 1) // 2], ELLIPSIS, *first[len(first) - of_first // 2 :]]
    if of_second < len(second):
        second = [*second[:of_second], ELLIPSIS] if of_second else []
    return ": ".join(filter(None, ("".join(first), "".join(second))))


def _fitted(parts: Sequence[str], area: Size, largest: int, least: int) -> tuple[str, int] | None:
    """Caption and letter size that fit in *area*, in letters from *largest* to *least*, then with an ellipsis, and
    finally without marks. None if nothing fits."""
    whole = ": ".join(filter(None, parts))
    if not whole:
        return None
    if size := _fitting_size(whole, area, largest, least):
        return whole, size
    count = _most(sum(len(clusters(each)) for each in parts), lambda most: _fits(_shortened(parts, most), least, area))
    if count:
        return _shortened(parts, count), least
    bare = [
        "".join(each for each in unicodedata.normalize("NFD", part) if not unicodedata.category(each).startswith("M"))
        for part in parts
    ]
    return None if bare == parts else _fitted(bare, area, least, least)


def _fitting_size(text: str, area: Size, largest: int, least: int) -> int:
    left, top, right, bottom = extent(text, largest)
    scale = min(1.0, area[0] / max(1, right - left), area[1] / max(1, bottom - top))
    likely = min(largest, int(largest * scale) + 1)
    return next((size for size in range(likely, least - 1, -1) if _fits(text, size, area)), 0)


def _fits(text: str, size: int, area: Size) -> bool:
    left, top, right, bottom = extent(text, size)
    return right - left <= area[0] and bottom - top <= area[1]


def _most(end: int, is_fitting: Callable[[int], bool]) -> int:
    """Largest number below *end* that is fitting, as all smaller ones are. 0 if none is."""
    low = 0
    while end - low > 1:
        middle = (low + end) // 2
        low, end = (middle, end) if is_fitting(middle) else (low, middle)
    return low


def _wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """Wrap *text* to at most *most* lines no wider than *width*. An ellipsis marks omitted text."""
    lines: list[str] = []
    rest = clusters(text)

    def fitting(end: str = "") -> int:
        """Number of letters of the rest that fit in a line, followed by *end*."""
        area = width, width + 10 * size
        return _most(len(rest) + 1, lambda count: _fits("".join(rest[:count]) + end, size, area))

    while rest and len(lines) < most:
        count = fitting()
        if not count:
            return []
        if count < len(rest) and len(lines) == most - 1:
            return [*lines, "".join(rest[: fitting(ELLIPSIS)]).rstrip() + ELLIPSIS]
        if count < len(rest):  # wrap at the last blank before it, if there is one
            count = next((place + 1 for place in range(count, 0, -1) if rest[place] == " "), count)
        lines.append("".join(rest[:count]).strip())
        rest = rest[count:]
    return lines


class Line(NamedTuple):
    """Text, its letter size in pixels per em, and its position in the cell (left end, and top of a line without
    accents)."""

    text: str
    size: int
    x: int
    y: int


class Inscription:
    """*lines* in one *colour*, drawn over a cell. Nothing is drawn outside of *box*, in pixels of the cell.

    From its first row to its last, it holds one byte per pixel of *box*.
    """

    def __init__(self, lines: Sequence[Line], box: Box, colour: Colour) -> None:
        self.lines = tuple(lines)
        self.box = box
        self._colour = colour
        self._stencil: Image.Image | None = None

    def paint(self, rows: NDArray[np.uint8], top: int) -> None:
        """Draw the part that overlaps *rows* in place (shape (any number, width of the cell's box, 3)), which start at
        row *top* of the cell's box. The result does not depend on how the cell is divided into rows."""
        box = self.box
        begin, end = max(top, box.y), min(top + len(rows), box.y + box.height)
        if begin >= end or not box.width:
            return
        if self._stencil is None:
            self._stencil = Image.new("L", box.size)
            with _lock:
                for line in self.lines:
                    place = line.x - box.x, line.y - box.y
                    ImageDraw.Draw(self._stencil).text(place, line.text, fill=255, font=_font(line.size))
        part = rows[begin - top : end - top, box.x : box.x + box.width]
        picture = Image.fromarray(part)
        mask = self._stencil.crop((0, begin - box.y, box.width, end - box.y))
        picture.paste(self._colour, (0, 0), mask)
        part[...] = picture
        if end == box.y + box.height:
            self._stencil = None


class ScaleBar:
    """A bar for a round length, and the length, below the cells of *layout*, whose pixels have *mpp* micrometres.
    `height` is what it adds to the picture."""

    def __init__(self, layout: Layout, mpp: float) -> None:
        cell = layout.cells[0]
        letters = letters_of(cell.caption) if cell.caption is not None else LEAST_LETTERS
        longest = cell.image.width / 2 * mpp
        power = 10.0 ** math.floor(math.log10(longest))
        length = next(factor * power for factor in (5, 2, 1) if factor * power <= longest)
        text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
        self.height = 3 * letters
        self.bar = Box(cell.box.x, layout.size[1], max(1, round(length / mpp)), max(2, letters // 4))
        line = Line(text, letters, self.bar.x, self.bar.y + 2 * self.bar.height)
        left, top, right, bottom = extent(text, letters)
        self.words = Inscription([line], Box(line.x + left, line.y + top, right - left, bottom - top), INK)

    def paint(self, rows: NDArray[np.uint8], top: int) -> None:
        """Draw the part that overlaps *rows*, which start at row *top* of the montage."""
        fill(rows, top, self.bar, INK)
        self.words.paint(rows, top)


def fill(rows: NDArray[np.uint8], top: int, box: Box, colour: Colour) -> None:
    """Fill the part of *box*, in pixels of the cell, that overlaps *rows* with *colour*. *rows* and *top* are as in
    `Inscription.paint`."""
    rows[max(0, box.y - top) : max(0, box.y + box.height - top), box.x : box.x + box.width] = colour


def caption_for(entry: SlideEntry, cell: Cell, style: LayoutStyle) -> Inscription | None:
    """Caption of *cell*, `slide_id: label`, in the middle of its area. None if the layout has no captions, or the text
    is empty."""
    if cell.caption is None:
        return None
    if style is LayoutStyle.himl:
        largest, smallest, least, margin, ink = HIML_LETTERS, HIML_LEAST, HIML_LEAST, 1, HIML_INK
    else:
        largest, least, ink = letters_of(cell.caption), LEAST_LETTERS, INK
        smallest, margin = max(least, largest // 2), largest // 2
    limits = max(1, cell.caption.width - margin), cell.caption.height
    parts = caption_parts(entry)
    found = _fitted(parts, limits, largest, smallest) or _fitted(parts, limits, least, least)
    if found is None:
        return None
    area = relative(cell.caption, cell.box)
    left, top, right, bottom = extent(*found)
    with _lock:
        height = sum(_font(found[1]).getmetrics())  # of common letters, from the highest to the lowest
    x = area.x + (area.width - (right - left)) // 2 - left
    y = min(max(area.y + (area.height - height) // 2, area.y - top), area.y + area.height - bottom)
    return Inscription([Line(*found, x, y)], Box(x + left, y + top, right - left, bottom - top), ink)


def undrawable(entries: Iterable[SlideEntry]) -> str:
    """Unique characters of the captions that the font has no glyphs for. Boxes are drawn for them."""
    characters = {each for entry in entries for part in caption_parts(entry) for each in part}
    return "".join(sorted(each for each in characters if not has_glyph(each)))


class FailureMark:
    """*area*, the place of *cell*'s image or mask, in grey with a frame and a cross, and in its middle *title* (`not
    read`) and *reason*, if there is enough space.

    Painted like an `Inscription`, before the caption, which may cover part of it.
    """

    def __init__(self, area: Box, cell: Cell, title: str, reason: str, style: LayoutStyle) -> None:
        self._area = free = relative(area, cell.box)
        if style is LayoutStyle.himl and cell.caption is not None and area == cell.image:
            free = Box(free.x, free.y, free.width, max(1, cell.caption.y - area.y))
        self.words = _inscribed(free, readable(title), readable(reason))

    def paint(self, rows: NDArray[np.uint8], top: int) -> None:
        width, height = self._area.size
        stroke = max(1, min(width, height) // STROKES_PER_AREA)
        for y in range(max(top, self._area.y), min(top + len(rows), self._area.y + height)):
            row, pixels = y - self._area.y, rows[y - top, self._area.x : self._area.x + width]
            if row < stroke or row >= height - stroke:
                pixels[:] = STROKE
                continue
            pixels[:] = GREY
            begin, end = max(0, row * width // height - stroke // 2), -(-(row + 1) * width // height) + stroke // 2
            for part in (slice(begin, end), slice(max(0, width - end), width - begin)):
                pixels[part] = STROKE
            pixels[:stroke] = pixels[width - stroke :] = STROKE
        if self.words is not None:
            fill(rows, top, self.words.box, GREY)
            self.words.paint(rows, top)


def _inscribed(area: Box, title: str, reason: str) -> Inscription | None:
    """*title* and *reason* in the middle of *area*, in separate lines. None if letters would be too small."""
    width, height = int(area.width * WIDTH), int(area.height * HEIGHT)
    most = min(LARGEST_LETTERS, area.width // LETTERS_PER_AREA, area.height // LETTERS_PER_AREA * 2)
    size = _fitting_size(title, (width, height), max(LEAST_LETTERS, most), LEAST_LETTERS)
    if not size:
        return None
    small = max(LEAST_LETTERS, int(size * REASON))
    below = _wrapped(reason, small, width, int((height - size * LINE) / (small * LINE)))
    lines = [(title, size), *((each, small) for each in below)]
    margin = int(lines[-1][1] * MARGIN)
    begin = y = max(area.y, area.y + (area.height - sum(int(each * LINE) for _, each in lines)) // 2)
    widest = 0
    placed = []
    for text, letters in lines:
        left, _, right, _ = extent(text, letters)
        placed.append(Line(text, letters, area.x + (area.width - (right - left)) // 2 - left, y))
        widest = max(widest, right - left)
        y += int(letters * LINE)
    x, top = max(area.x, area.x + (area.width - widest) // 2 - margin), max(area.y, begin - margin)
    end = min(area.x + area.width, area.x + (area.width + widest) // 2 + margin)
    bottom = min(area.y + area.height, y + margin)
    return Inscription(placed, Box(x, top, end - x, bottom - top), REASON_INK)
