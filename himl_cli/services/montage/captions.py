"""What is drawn into a cell beside its slide: captions, and marks of what could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from himl_cli.core.montage import Box, Cell, LayoutStyle, SlideEntry
from himl_cli.services.montage import caption_text
from himl_cli.services.montage.layout import HIML_LETTERS, LEAST_LETTERS, letters_of, relative
from himl_cli.services.montage.slides.slide import Colour

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INK, HIML_INK = (32, 32, 32), (27, 77, 40)
NO_MASK = (119, 161, 120)
"""What hi-ml fills the place of a mask with that is not there, or cannot be read."""
SMALLEST, HIML_LEAST = 0.5, 8
"""How far letters may shrink before a caption is shortened instead: a share, and for hi-ml's layout pixels per em."""

GREY, STROKE, REASON_INK = (236, 236, 236), (176, 176, 176), (72, 72, 72)
STROKES_PER_ROOM = 250
LETTERS_PER_ROOM, LARGEST_LETTERS = 14, 192
REASON = 0.6
"""The letters of the reason, by those of the title."""
WIDTH, HEIGHT, LINE, MARGIN = 0.86, 0.7, 1.3, 0.5
"""How much of the room the words may take, the height of a line in ems of its letters, and the empty space around
them."""


class Overlay(Protocol):
    """Something drawn over the pixels of a cell."""

    def paint(self, rows: NDArray[np.uint8], top: int) -> None:
        """Draw, in place, what falls on *rows* (shape (any number, width of the cell's box, 3)), whose first is row
        *top* of the cell's box. The picture is the same however the cell is cut into rows."""


@dataclass(frozen=True, slots=True)
class Line:
    """Text, the size of its letters in pixels per em, and where it is put in the cell (the left end, and the top of a
    line without accents)."""

    text: str
    size: int
    x: int
    y: int


class Inscription:
    """An Overlay: *lines* in one *colour*, over what the slide shows. Nothing is drawn outside of *box*, in pixels of
    the cell.

    From the first rows that it lies on until its last row was painted it holds a byte for each pixel of *box*.
    """

    def __init__(self, lines: Sequence[Line], box: Box, colour: Colour) -> None:
        self.lines = tuple(lines)
        self.box = box
        self._colour = colour
        self._stencil: Image.Image | None = None

    def paint(self, rows: NDArray[np.uint8], top: int) -> None:
        begin, end = max(top, self.box.y), min(top + len(rows), self.box.y + self.box.height)
        if begin >= end or not self.box.width:
            return
        if self._stencil is None:
            self._stencil = Image.new("L", self.box.size)
            for line in self.lines:
                caption_text.draw(self._stencil, (line.x - self.box.x, line.y - self.box.y), line.text, line.size)
        part = rows[begin - top : end - top, self.box.x : self.box.x + self.box.width]
        picture = Image.fromarray(part)
        mask = self._stencil.crop((0, begin - self.box.y, self.box.width, end - self.box.y))
        picture.paste(self._colour, (0, 0), mask)
        part[...] = picture
        if end == self.box.y + self.box.height:
            self._stencil = None


class Filled:
    """An Overlay: *room*, of the montage, in one *colour*."""

    def __init__(self, room: Box, cell: Cell, colour: Colour) -> None:
        self._room, self._colour = relative(room, cell.box), colour

    def paint(self, rows: NDArray[np.uint8], top: int) -> None:
        begin, end = max(0, self._room.y - top), max(0, self._room.y + self._room.height - top)
        rows[begin:end, self._room.x : self._room.x + self._room.width] = self._colour


def caption_for(entry: SlideEntry, cell: Cell, style: LayoutStyle) -> Inscription | None:
    """What is written into *cell*: `slide_id: label`, in the middle of its room. None where the layout has no room for
    captions, or there is nothing to say."""
    if cell.caption is None:
        return None
    if style is LayoutStyle.himl:
        largest, smallest, least, margin, ink = HIML_LETTERS, HIML_LEAST, HIML_LEAST, 1, HIML_INK
    else:
        largest, least, ink = letters_of(cell.caption), LEAST_LETTERS, INK
        smallest, margin = max(least, int(largest * SMALLEST)), largest // 2
    limits = max(1, cell.caption.width - margin), cell.caption.height
    words = caption_text.CaptionText.of(entry)
    found = words.fitted(limits, largest, smallest) or words.fitted(limits, least, least)
    if found is None:
        return None
    room = relative(cell.caption, cell.box)
    left, top, right, bottom = caption_text.extent(*found)
    x = room.x + (room.width - (right - left)) // 2 - left
    y = room.y + (room.height - caption_text.line_height(found[1])) // 2
    y = min(max(y, room.y - top), room.y + room.height - bottom)
    return Inscription([Line(*found, x, y)], Box(x + left, y + top, right - left, bottom - top), ink)


def undrawable(entries: Iterable[SlideEntry]) -> str:
    """The characters of their captions that the font has no glyphs for, each once; boxes are drawn for them."""
    characters = {each for entry in entries for each in caption_text.CaptionText.of(entry).whole()}
    return "".join(sorted(each for each in characters if not caption_text.has_glyph(each)))


class FailureMark:
    """An Overlay: *room*, the place of *cell*'s image or mask, is grey, with a frame and a cross; in its middle stand
    *title* (`not read`) and *reason*, as far as there is room for letters.

    Paint it before the caption, which may lie over the room.
    """

    def __init__(self, room: Box, cell: Cell, title: str, reason: str, style: LayoutStyle) -> None:
        self._room = free = relative(room, cell.box)
        if style is LayoutStyle.himl and cell.caption is not None and room == cell.image:
            free = Box(free.x, free.y, free.width, max(1, cell.caption.y - room.y))
        self.words = _inscribed(free, caption_text.readable(title), caption_text.readable(reason))
        self._stroke = max(1, min(room.size) // STROKES_PER_ROOM)

    def paint(self, rows: NDArray[np.uint8], top: int) -> None:
        begin, end = max(top, self._room.y), min(top + len(rows), self._room.y + self._room.height)
        for row in range(begin, end):
            self._paint_row(rows[row - top, self._room.x : self._room.x + self._room.width], row - self._room.y)
        if self.words is not None:
            box = self.words.box
            rows[max(0, box.y - top) : max(0, box.y + box.height - top), box.x : box.x + box.width] = GREY
            self.words.paint(rows, top)

    def _paint_row(self, pixels: NDArray[np.uint8], row: int) -> None:
        width, height = self._room.size
        if row < self._stroke or row >= height - self._stroke:
            pixels[:] = STROKE
            return
        pixels[:] = GREY
        half = self._stroke // 2
        begin, end = max(0, row * width // height - half), -(-(row + 1) * width // height) + half
        pixels[begin:end] = STROKE
        pixels[max(0, width - end) : width - begin] = STROKE
        pixels[: self._stroke] = STROKE
        pixels[width - self._stroke :] = STROKE


def _inscribed(room: Box, title: str, reason: str) -> Inscription | None:
    """*title* and, below it, *reason* in the middle of *room*, line by line; None where letters would be too small."""
    width, height = int(room.width * WIDTH), int(room.height * HEIGHT)
    most = min(LARGEST_LETTERS, room.width // LETTERS_PER_ROOM, room.height // LETTERS_PER_ROOM * 2)
    size = caption_text.fitting_size(title, (width, height), max(LEAST_LETTERS, most), LEAST_LETTERS)
    if not size:
        return None
    small = max(LEAST_LETTERS, int(size * REASON))
    below = caption_text.wrapped(reason, small, width, int((height - size * LINE) / (small * LINE)))
    lines = [(title, size), *((each, small) for each in below)]
    extents = [caption_text.extent(*line) for line in lines]
    wide = max(right - left for left, _, right, _ in extents)
    high = sum(int(each * LINE) for _, each in lines)
    margin = int(lines[-1][1] * MARGIN)
    begin = y = max(room.y, room.y + (room.height - high) // 2)
    placed = []
    for line, (left, _, right, _) in zip(lines, extents, strict=True):
        placed.append(Line(*line, room.x + (room.width - (right - left)) // 2 - left, y))
        y += int(line[1] * LINE)
    x, top = max(room.x, room.x + (room.width - wide) // 2 - margin), max(room.y, begin - margin)
    end, bottom = (
        min(room.x + room.width, room.x + (room.width + wide) // 2 + margin),
        min(room.y + room.height, y + margin),
    )
    return Inscription(placed, Box(x, top, end - x, bottom - top), REASON_INK)
