"""The mark of a slide, or a mask, that could not be read: a crossed grey box that tells why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from himl_cli.core.montage import Box, Cell, LayoutStyle
from himl_cli.services.montage.layout import fonts
from himl_cli.services.montage.layout.inscription import Inscription, Line
from himl_cli.services.montage.layout.painting import Overlay
from himl_cli.services.montage.layout.placing import relative
from himl_cli.services.montage.layout.wording import ELLIPSIS, clusters, fits, fitting_size, readable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GREY, STROKE, INK = (236, 236, 236), (176, 176, 176), (72, 72, 72)
STROKES_PER_ROOM = 250
LETTERS_PER_ROOM, LEAST_LETTERS, LARGEST_LETTERS = 14, 11, 192
REASON = 0.6
"""The letters of the reason, by those of the title."""
WIDTH, HEIGHT, LINE, MARGIN = 0.86, 0.7, 1.3, 0.5
"""How much of the room the words may take, the height of a line in ems of its letters, and the empty space around
them."""


def failed_mark(room: Box, cell: Cell, title: str, reason: str, style: LayoutStyle) -> Overlay:
    """What stands in *room*, the place of *cell*'s image or mask, instead of it: *title* (`not read`) and *reason*, as
    far as there is room for letters.

    Paint it before the caption, which may lie over the room.
    """
    free = relative(room, cell.box)
    if style is LayoutStyle.himl and cell.caption is not None and room == cell.image:
        free = Box(free.x, free.y, free.width, max(1, cell.caption.y - room.y))
    return FailedMark(relative(room, cell.box), _words(free, readable(title), readable(reason)))


class FailedMark:
    """An Overlay: *room* (in pixels of the cell) is grey, with a frame and a cross, and *words* in the middle."""

    def __init__(self, room: Box, words: Inscription | None) -> None:
        self._room = room
        self.words = words
        self._stroke = max(1, min(room.size) // STROKES_PER_ROOM)

    def paint(self, rows: NDArray[np.uint8], top: int) -> None:
        begin, end = max(top, self._room.y), min(top + len(rows), self._room.y + self._room.height)
        for row in range(begin, end):
            self._paint_row(rows[row - top, self._room.x : self._room.x + self._room.width], row - self._room.y)
        if self.words is not None:
            self._clear(rows, top, self.words.box)
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

    def _clear(self, rows: NDArray[np.uint8], top: int, box: Box) -> None:
        begin, end = max(0, box.y - top), max(0, box.y + box.height - top)
        rows[begin:end, box.x : box.x + box.width] = GREY


def _words(room: Box, title: str, reason: str) -> Inscription | None:
    """*title* and, below it, *reason* in the middle of *room*; None where letters would be too small."""
    width, height = int(room.width * WIDTH), int(room.height * HEIGHT)
    most = min(LARGEST_LETTERS, room.width // LETTERS_PER_ROOM, room.height // LETTERS_PER_ROOM * 2)
    size = fitting_size(title, (width, height), max(LEAST_LETTERS, most), LEAST_LETTERS)
    if not size:
        return None
    small = max(LEAST_LETTERS, int(size * REASON))
    lines = [
        (title, size),
        *((text, small) for text in _wrapped(reason, small, width, int((height - size * LINE) / (small * LINE)))),
    ]
    return _stacked(lines, room)


def _stacked(lines: list[tuple[str, int]], room: Box) -> Inscription:
    """*lines* with their sizes, one below the other, each centred."""
    extents = [fonts.extent(text, size) for text, size in lines]
    wide = max(right - left for left, _, right, _ in extents)
    high = sum(int(size * LINE) for _, size in lines)
    margin = int(lines[-1][1] * MARGIN)
    begin = max(room.y, room.y + (room.height - high) // 2)
    placed = []
    y = begin
    for (text, size), (left, _, right, _) in zip(lines, extents, strict=True):
        placed.append(Line(text, size, room.x + (room.width - (right - left)) // 2 - left, y))
        y += int(size * LINE)
    left, right = (
        max(room.x, room.x + (room.width - wide) // 2 - margin),
        min(room.x + room.width, room.x + (room.width + wide) // 2 + margin),
    )
    top, bottom = max(room.y, begin - margin), min(room.y + room.height, y + margin)
    return Inscription(placed, Box(left, top, right - left, bottom - top), INK)


def _wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """*text* in at most *most* lines that are no wider than *width*; what is left out is told by an ellipsis."""
    lines: list[str] = []
    rest = clusters(text)
    while rest and len(lines) < most:
        count = _fitting(rest, size, width)
        if not count:
            return []
        if count < len(rest) and len(lines) < most - 1:
            count = _last_blank(rest, count) or count
        elif count < len(rest):
            count = _fitting(rest, size, width, ELLIPSIS)
            return [*lines, "".join(rest[:count]).rstrip() + ELLIPSIS]
        lines.append("".join(rest[:count]).strip())
        rest = rest[count:]
    return lines


def _fitting(letters: list[str], size: int, width: int, end: str = "") -> int:
    """How many *letters*, followed by *end*, fit into *width*."""
    low, high = 0, len(letters) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if fits("".join(letters[:middle]) + end, size, (width, width + 10 * size)):
            low = middle
        else:
            high = middle
    return low


def _last_blank(letters: list[str], count: int) -> int:
    """How many of the first *count* letters are whole words with the blank after them; 0: not even one."""
    return next((place + 1 for place in range(count, 0, -1) if letters[place] == " "), 0)
