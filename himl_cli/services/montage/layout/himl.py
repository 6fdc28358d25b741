"""The predecessor's layout: cells twice as wide as high, slides stretched to them, black lines between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import Box, Cell, Layout, LayoutStyle, SlideEntry
from himl_cli.services.montage.layout.himl_captions import caption_top
from himl_cli.services.montage.layout.placing import relative

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLACK = (0, 0, 0)
NO_MASK = (119, 161, 120)
"""What the predecessor fills the place of a mask with that is not there, or cannot be read."""
LINE = 2
"""Pixels between cells, and around all of them."""
LEAST = 4
"""Pixels that a slide has in width at least."""


def himl_layout(count: int, *, has_masks: bool, width: int) -> Layout:
    """Lay out *count* slides as the predecessor did; the picture is about *width* pixels wide. A single slide has no
    lines around it.

    A cell's `entry` is its place in the order of `himl_order`. Raises BadUsage where there are no slides, or too little
    width for them.
    """
    if not count:
        raise BadUsage("There are no slides to lay out.")
    pictures = 2 if has_masks else 1
    columns = max(1, int(math.sqrt(count / pictures * 16 / 9)))
    wide = width // columns // pictures
    if wide < LEAST:
        slides = "1 slide" if count == 1 else f"{count:,} slides"
        raise BadUsage(
            f"A picture {width} pixel{'s' * (width != 1)} wide has no room for {slides}.",
            hint=f"--width must be at least {columns * pictures * LEAST}.",
        )
    columns = min(columns, count)
    rows = -(-count // columns)
    line = 0 if count == 1 else LINE
    room = (wide, wide // 2)
    return Layout(
        style=LayoutStyle.himl,
        size=(columns * (pictures * wide + line) + line, rows * (room[1] + line) + line),
        columns=columns,
        rows=rows,
        background=BLACK,
        cells=[_cell(number, columns, line, room, has_masks) for number in range(count)],
    )


def himl_order(entries: Sequence[SlideEntry]) -> list[int]:
    """The numbers of *entries* in the order in which the predecessor shows them: that of the file names of its
    thumbnails."""
    return sorted(range(len(entries)), key=lambda number: f"{entries[number].slide_id}.png")


class NoMask:
    """An Overlay: the place of *cell*'s mask where there is none to show."""

    def __init__(self, cell: Cell) -> None:
        self._room = relative(cell.mask or cell.image, cell.box)

    def paint(self, rows: NDArray[np.uint8], top: int) -> None:
        begin, end = max(0, self._room.y - top), max(0, self._room.y + self._room.height - top)
        rows[begin:end, self._room.x : self._room.x + self._room.width] = NO_MASK


def _cell(number: int, columns: int, line: int, room: tuple[int, int], has_mask: bool) -> Cell:
    row, column = divmod(number, columns)
    wide, high = room
    whole = 2 * wide if has_mask else wide
    x, y = line + column * (whole + line), line + row * (high + line)
    top = caption_top(high)
    mask = Box(x + wide, y, wide, high) if has_mask else None
    return Cell(
        number, column, row, Box(x, y, whole, high), Box(x, y, wide, high), mask, Box(x, y + top, wide, high - top)
    )
