"""The layout that keeps each slide's proportions: cells of one size on white, with captions below the slides."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import DEFAULT_WIDTH, Box, Cell, Layout, LayoutStyle, Size

WHITE = (255, 255, 255)
WANTED = 16 / 9
AS_GOOD = 0.05
"""Shapes of the picture whose ratios to 16:9 differ by less than this are as good as each other: the one with the
fewest empty cells is taken."""
USUAL, NARROWEST, WIDEST = 4 / 3, 1 / 4, 4.0
"""The aspect (width by height) of cells where no slide's is known, and the bounds that a few odd slides cannot push it
over."""
LEAST = 4
"""Pixels that a slide's room has in width at least."""
LEAST_CELL = 320
"""Pixels that a cell has in width at least where the picture's width is free."""
GAPS_PER_CELL = 60
LEAST_LETTERS, LARGEST_LETTERS = 11, 256
"""Sizes of caption letters in pixels per em. Capitals of 11 are 8 pixels high."""
LETTERS_PER_CELL, LETTERS_PER_PAIR, LETTERS_PER_PICTURE, LETTERS_AT_LEAST = 16, 24, 40, 8
"""How many ems go into a cell's width, into that of a cell with a mask, into the picture's, and into the narrowest cell
that has a caption."""
LINE = 1.4
"""The height of a caption's room in ems."""


def fit_layout(
    aspects: Sequence[float | None], *, has_masks: bool, width: int | None = None, sizes: Sequence[Size] = ()
) -> Layout:
    """Lay out slides of these *aspects* (width by height; None: unknown) in a picture that is *width* pixels wide.

    Without a *width* the median one of *sizes*, which are those of what is shown of the slides, fills its cell one to
    one; but a cell has LEAST_CELL pixels at least, and the picture DEFAULT_WIDTH at most. Cells are as many a row as
    bring the picture near to 16:9. Raises BadUsage where there are no slides, or too little width for them.
    """
    if not aspects:
        raise BadUsage("There are no slides to lay out.")
    aspect = _middle(aspects)
    if width is None:
        gap, wide = _one_to_one(sizes, aspect, has_masks)
        columns = _columns(
            len(aspects), aspect, has_masks, lambda columns: min(DEFAULT_WIDTH, columns * (wide + gap) + gap)
        )
        needed = columns * (wide + gap) + gap
        width = min(DEFAULT_WIDTH, needed)
    else:
        needed, asked = 0, width
        columns = _columns(len(aspects), aspect, has_masks, lambda _: asked)
    if width != needed:
        gap = -(-(width // columns) // GAPS_PER_CELL)
        wide = (width - gap) // columns - gap
    least = 2 * LEAST + 1 if has_masks else LEAST
    if wide < least:
        slides = "1 slide" if len(aspects) == 1 else f"{len(aspects):,} slides"
        raise BadUsage(
            f"A picture {width} pixel{'s' * (width != 1)} wide has no room for {slides}.",
            hint=f"--width must be at least {columns * (least + 1) + 1}.",
        )
    grid = _Grid(columns, -(-len(aspects) // columns), gap, _form(wide, gap, aspect, has_masks, width), width)
    remark = (
        ""
        if grid.form.letters
        else f"There are no captions: cells that are {wide} pixels wide have no room for letters. A larger --width has."
    )
    return Layout(
        style=LayoutStyle.fit,
        size=(width, grid.top(grid.rows)),
        columns=columns,
        rows=grid.rows,
        background=WHITE,
        cells=[grid.cell(number) for number in range(len(aspects))],
        remark=remark,
    )


def letters_of(caption: Box) -> int:
    """The size that the letters of a *caption* with this room have, unless they have to shrink."""
    return int(caption.height / LINE)


@dataclass(frozen=True, slots=True)
class _Form:
    """A cell: its width, the size of the rooms for pictures, the size of letters (0: no caption)."""

    width: int
    image: tuple[int, int]
    has_mask: bool
    letters: int

    @property
    def caption(self) -> int:
        return math.ceil(self.letters * LINE)

    @property
    def height(self) -> int:
        return self.image[1] + self.caption


@dataclass(frozen=True, slots=True)
class _Grid:
    columns: int
    rows: int
    gap: int
    form: _Form
    width: int

    def left(self, column: int) -> int:
        return self.gap + column * (self.width - self.gap) // self.columns

    def top(self, row: int) -> int:
        return self.gap + row * (self.form.height + self.gap)

    def cell(self, number: int) -> Cell:
        row, column = divmod(number, self.columns)
        x, y = self.left(column), self.top(row)
        wide, high = self.form.image
        mask = Box(x + self.form.width - wide, y, wide, high) if self.form.has_mask else None
        caption = Box(x, y + high, self.form.width, self.form.caption) if self.form.letters else None
        return Cell(
            number, column, row, Box(x, y, self.form.width, self.form.height), Box(x, y, wide, high), mask, caption
        )


def _form(wide: int, gap: int, aspect: float, has_masks: bool, width: int) -> _Form:
    room = (wide - gap) // 2 if has_masks else wide
    return _Form(wide, (room, max(1, round(room / aspect))), has_masks, _letters(wide, has_masks, width))


def _letters(wide: float, has_masks: bool, width: int) -> int:
    """The size of letters in a cell *wide* pixels wide, 0 where there is no room for any."""
    if wide < LETTERS_AT_LEAST * LEAST_LETTERS:
        return 0
    size = min(
        wide // (LETTERS_PER_PAIR if has_masks else LETTERS_PER_CELL), width // LETTERS_PER_PICTURE, LARGEST_LETTERS
    )
    return max(LEAST_LETTERS, int(size))


def _middle(aspects: Sequence[float | None]) -> float:
    known = [math.log(each) for each in aspects if each is not None]
    aspect = math.exp(statistics.median(known)) if known else USUAL
    return min(WIDEST, max(NARROWEST, aspect))


def _one_to_one(sizes: Sequence[Size], aspect: float, has_masks: bool) -> tuple[int, int]:
    """The gap and the width of cells in which the median one of *sizes* is neither shrunk nor enlarged."""
    pictures = 2 if has_masks else 1
    needed = statistics.median_high(max(width, height * aspect) for width, height in sizes) if sizes else 0
    room = max(round(needed), LEAST_CELL // pictures)
    gap = -(-pictures * room // (GAPS_PER_CELL - pictures))
    return gap, pictures * room + (pictures - 1) * gap


def _columns(count: int, aspect: float, has_masks: bool, width: Callable[[int], int]) -> int:
    """How many cells a row make the picture, of a *width* by that number, as near to 16:9 as can be; as good as that,
    the fewest empty cells."""
    offs = {columns: _off(count, columns, aspect, has_masks, width(columns)) for columns in range(1, count + 1)}
    best = min(offs.values())
    good = [columns for columns, off in offs.items() if off < best + AS_GOOD]
    return min(good, key=lambda columns: (-count % columns, offs[columns]))


def _off(count: int, columns: int, aspect: float, has_masks: bool, width: int) -> float:
    """How far from 16:9 the picture is with that many *columns*, before pixels are rounded: the logarithm of the
    ratio."""
    pitch = width / columns
    gap = pitch / GAPS_PER_CELL
    wide = pitch - gap
    room = (wide - gap) / 2 if has_masks else wide
    high = room / aspect + _letters(wide, has_masks, width) * LINE + gap
    return abs(math.log(width / (-(-count // columns) * high) / WANTED))
