"""Where slides lie in the picture: keeping each one's proportions in cells of one size on white, or as hi-ml did."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import DEFAULT_WIDTH, Box, Cell, Layout, LayoutStyle, Size, SlideEntry

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# Shapes of the picture whose ratios to 16:9 differ by less than this are as good as each other: the one with the fewest
# empty cells is taken.
AS_GOOD = 0.05
# The aspect (width by height) of cells where no slide's is known, and the bounds that a few odd slides cannot push it
# over.
USUAL, NARROWEST, WIDEST = 4 / 3, 1 / 4, 4.0
LEAST = 4  # pixels that a slide's room has in width at least
LEAST_CELL = 320  # pixels that a cell has in width at least where the picture's width is free
GAPS_PER_CELL = 60
# Sizes of caption letters in pixels per em. Capitals of 11 are 8 pixels high.
LEAST_LETTERS, LARGEST_LETTERS = 11, 256
# How many ems go into a cell's width, into that of a cell with a mask, into the picture's, and into the narrowest cell
# that has a caption.
LETTERS_PER_CELL, LETTERS_PER_PAIR, LETTERS_PER_PICTURE, LETTERS_AT_LEAST = 16, 24, 40, 8
LINE = 1.4  # the height of a caption's room in ems
HIML_LINE = 2  # pixels between hi-ml's cells, and around all of them
# The largest letters of hi-ml's captions, and where in a cell's height their middle lies.
HIML_LETTERS, HIML_MIDDLE = 48, 0.9


def fitted(room: Box, size: Size) -> Box:
    """The largest box of the proportions of *size* that lies in *room*, in its middle; at least one pixel wide and
    high."""
    scale = min(room.width / size[0], room.height / size[1])
    return middle(room, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))


def middle(room: Box, size: Size) -> Box:
    """The middle of *room*, no wider and no higher than *size*."""
    wide, high = min(room.width, size[0]), min(room.height, size[1])
    return Box(room.x + (room.width - wide) // 2, room.y + (room.height - high) // 2, wide, high)


def relative(box: Box, to: Box) -> Box:
    """*box* as it lies in *to*."""
    return Box(box.x - to.x, box.y - to.y, box.width, box.height)


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
    known = [math.log(each) for each in aspects if each is not None]
    aspect = min(WIDEST, max(NARROWEST, math.exp(statistics.median(known)) if known else USUAL))
    # Cells in which the median slide is neither shrunk nor enlarged:
    pictures = 2 if has_masks else 1
    needed = statistics.median_high(max(size[0], size[1] * aspect) for size in sizes) if sizes else 0
    room = max(round(needed), LEAST_CELL // pictures)
    gap = -(-pictures * room // (GAPS_PER_CELL - pictures))
    wide = pictures * room + (pictures - 1) * gap
    widths = [columns * (wide + gap) + gap for columns in range(1, len(aspects) + 1)]
    columns = _columns(aspect, has_masks, [min(DEFAULT_WIDTH, each) if width is None else width for each in widths])
    if width is None and widths[columns - 1] <= DEFAULT_WIDTH:
        width = widths[columns - 1]
    else:
        width = DEFAULT_WIDTH if width is None else width
        gap = -(-(width // columns) // GAPS_PER_CELL)
        wide = (width - gap) // columns - gap
    least = 2 * LEAST + 1 if has_masks else LEAST
    if wide < least:
        raise _too_narrow(width, len(aspects), columns * (least + 1) + 1)
    room = (wide - gap) // 2 if has_masks else wide
    high = max(1, round(room / aspect))
    letters = _letters(wide, has_masks, width)
    caption = math.ceil(letters * LINE)
    pitch = high + caption + gap
    cells = []
    for number in range(len(aspects)):
        row, column = divmod(number, columns)
        x, y = gap + column * (width - gap) // columns, gap + row * pitch
        mask = Box(x + wide - room, y, room, high) if has_masks else None
        text = Box(x, y + high, wide, caption) if letters else None
        cells.append(Cell(number, column, row, Box(x, y, wide, high + caption), Box(x, y, room, high), mask, text))
    rows = -(-len(aspects) // columns)
    remark = f"There are no captions: cells that are {wide} pixels wide have no room for letters. A larger --width has."
    size = width, gap + rows * pitch
    return Layout(LayoutStyle.fit, size, columns, rows, WHITE, cells, remark="" if letters else remark)


def letters_of(caption: Box) -> int:
    """The size that the letters of a *caption* with this room have, unless they have to shrink."""
    return int(caption.height / LINE)


def himl_layout(count: int, *, has_masks: bool, width: int) -> Layout:
    """Lay out *count* slides as hi-ml did: cells twice as wide as high, slides stretched to them, black lines between;
    the picture is about *width* pixels wide. A single slide has no lines around it. Captions lie over the lower edge.

    A cell's `entry` is its place in `himl_order`. Raises BadUsage where there are no slides, or too little
    width for them.
    """
    if not count:
        raise BadUsage("There are no slides to lay out.")
    pictures = 2 if has_masks else 1
    columns = max(1, int(math.sqrt(count / pictures * 16 / 9)))
    wide = width // columns // pictures
    if wide < LEAST:
        raise _too_narrow(width, count, columns * pictures * LEAST)
    columns = min(columns, count)
    rows = -(-count // columns)
    line = 0 if count == 1 else HIML_LINE
    high = wide // 2
    top = max(0, int(high * HIML_MIDDLE) - HIML_LETTERS * 5 // 8)
    cells = []
    for number in range(count):
        row, column = divmod(number, columns)
        x, y = line + column * (pictures * wide + line), line + row * (high + line)
        mask = Box(x + wide, y, wide, high) if has_masks else None
        text = Box(x, y + top, wide, high - top)
        cells.append(Cell(number, column, row, Box(x, y, pictures * wide, high), Box(x, y, wide, high), mask, text))
    size = columns * (pictures * wide + line) + line, rows * (high + line) + line
    return Layout(LayoutStyle.himl, size, columns, rows, BLACK, cells)


def himl_order(entries: Sequence[SlideEntry]) -> list[SlideEntry]:
    """*entries* in the order in which hi-ml shows them: that of the file names of its thumbnails."""
    return sorted(entries, key=lambda entry: f"{entry.slide_id}.png")


def _too_narrow(width: int, count: int, least: int) -> BadUsage:
    slides = "1 slide" if count == 1 else f"{count:,} slides"
    return BadUsage(
        f"A picture {width} pixel{'s' * (width != 1)} wide has no room for {slides}.",
        hint=f"--width must be at least {least}.",
    )


def _letters(wide: float, has_masks: bool, width: int) -> int:
    """The size of letters in a cell *wide* pixels wide, 0 where there is no room for any."""
    if wide < LETTERS_AT_LEAST * LEAST_LETTERS:
        return 0
    size = min(
        wide // (LETTERS_PER_PAIR if has_masks else LETTERS_PER_CELL), width // LETTERS_PER_PICTURE, LARGEST_LETTERS
    )
    return max(LEAST_LETTERS, int(size))


def _columns(aspect: float, has_masks: bool, widths: Sequence[int]) -> int:
    """How many cells a row make the picture, of the *widths* with 1, 2 ... of them, one for each slide, as near to 16:9
    as can be; as good as that, the fewest empty cells."""
    count = len(widths)
    offs = {}  # how far from 16:9 it is, before pixels are rounded: the logarithm of the ratio
    for columns, width in enumerate(widths, start=1):
        pitch = width / columns
        gap = pitch / GAPS_PER_CELL
        wide = pitch - gap
        room = (wide - gap) / 2 if has_masks else wide
        high = room / aspect + _letters(wide, has_masks, width) * LINE + gap
        offs[columns] = abs(math.log(width / (-(-count // columns) * high) / (16 / 9)))
    best = min(offs.values())
    good = [columns for columns, off in offs.items() if off < best + AS_GOOD]
    return min(good, key=lambda columns: (-count % columns, offs[columns]))
