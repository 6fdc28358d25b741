"""Layout of slides in an image: with their proportions in equal cells on white, or as in hi-ml."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from himl_cli.core.errors import BadUsage
from himl_cli.slides.slide_records import DEFAULT_WIDTH, Box, Cell, Layout, LayoutStyle, Size, SlideEntry

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
# Image shapes whose ratios to 16:9 differ by less than this count as equal. Of these, himl uses the one with the fewest
# empty cells.
AS_GOOD = 0.05
# Aspect (width by height) of cells for unknown slides, and limits against a few unusual slides.
USUAL, NARROWEST, WIDEST = 4 / 3, 1 / 4, 4.0
LEAST = 4  # minimum width of a slide, in pixels
LEAST_CELL = 320  # minimum width of a cell, in pixels, if the image's width is free
GAPS_PER_CELL = 60
# Sizes of caption letters in pixels per em. Capitals of size 11 are 8 pixels high.
LEAST_LETTERS, LARGEST_LETTERS = 11, 256
# Widths in ems of a cell, a cell with a mask, the image, and the narrowest cell with a caption.
LETTERS_PER_CELL, LETTERS_PER_PAIR, LETTERS_PER_PICTURE, LETTERS_AT_LEAST = 16, 24, 40, 8
LINE = 1.4  # height of a caption, in ems
HIML_LINE = 2  # pixels between and around hi-ml's cells
# Largest letters of hi-ml's captions, and the position of their middle, relative to the cell's height.
HIML_LETTERS, HIML_MIDDLE = 48, 0.9


def fitted(area: Box, size: Size) -> Box:
    """Largest box with the proportions of *size*, in the middle of *area*. It has at least one pixel in each
    direction."""
    scale = min(area.width / size[0], area.height / size[1])
    return middle(area, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))


def middle(area: Box, size: Size) -> Box:
    """Middle of *area*, at most as wide and high as *size*."""
    wide, high = min(area.width, size[0]), min(area.height, size[1])
    return Box(area.x + (area.width - wide) // 2, area.y + (area.height - high) // 2, wide, high)


def relative(box: Box, to: Box) -> Box:
    """*box* relative to *to*."""
    return Box(box.x - to.x, box.y - to.y, box.width, box.height)


def fit_layout(
    aspects: Sequence[float | None], *, has_masks: bool, width: int | None = None, sizes: Sequence[Size] = ()
) -> Layout:
    """Lay out slides of these *aspects* (width by height, None if unknown) in an image that is *width* pixels wide.

    Without a *width*, the median of *sizes*, the sizes of the shown slides, fills its cell without scaling. A cell is
    at least LEAST_CELL pixels wide, and the image at most DEFAULT_WIDTH. The number of cells per row brings the image
    close to 16:9. Raises BadUsage without slides, or if the width is too small.
    """
    if not aspects:
        raise BadUsage("There are no slides to show.")
    known = [math.log(each) for each in aspects if each is not None]
    aspect = min(WIDEST, max(NARROWEST, math.exp(statistics.median(known)) if known else USUAL))
    # Cells in which the median slide is not scaled.
    pictures = 2 if has_masks else 1
    needed = statistics.median_high(max(size[0], size[1] * aspect) for size in sizes) if sizes else 0
    image_width = max(round(needed), LEAST_CELL // pictures)
    gap = -(-pictures * image_width // (GAPS_PER_CELL - pictures))
    wide = pictures * image_width + (pictures - 1) * gap
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
    image_width = (wide - gap) // 2 if has_masks else wide
    high = max(1, round(image_width / aspect))
    letters = _letters(wide, has_masks, width)
    caption = math.ceil(letters * LINE)
    pitch = high + caption + gap
    cells = []
    for number in range(len(aspects)):
        row, column = divmod(number, columns)
        x, y = gap + column * (width - gap) // columns, gap + row * pitch
        mask = Box(x + wide - image_width, y, image_width, high) if has_masks else None
        text = Box(x, y + high, wide, caption) if letters else None
        cells.append(
            Cell(number, column, row, Box(x, y, wide, high + caption), Box(x, y, image_width, high), mask, text)
        )
    rows = -(-len(aspects) // columns)
    remark = f"There are no captions, because cells are only {wide} pixels wide. For captions, increase --width."
    size = width, gap + rows * pitch
    return Layout(LayoutStyle.fit, size, columns, rows, WHITE, cells, remark="" if letters else remark)


def letters_of(caption: Box) -> int:
    """Size of the letters of *caption*, unless they must shrink."""
    return int(caption.height / LINE)


def himl_layout(count: int, *, has_masks: bool, width: int) -> Layout:
    """Lay out *count* slides as in hi-ml: stretched to cells twice as wide as high, with black lines between them, in
    an image about *width* pixels wide. A single slide has no lines around it. Captions cover the lower edge.

    The `entry` of a cell is its position in `himl_order`. Raises BadUsage without slides, or if the width is too small.
    """
    if not count:
        raise BadUsage("There are no slides to show.")
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
    """*entries* in the order of hi-ml, by the file names of its thumbnails."""
    return sorted(entries, key=lambda entry: f"{entry.slide_id}.png")


def _too_narrow(width: int, count: int, least: int) -> BadUsage:
    slides = "1 slide" if count == 1 else f"{count:,} slides"
    return BadUsage(
        f"An image {width} pixel{'s' * (width != 1)} wide is too narrow for {slides}.",
        hint=f"--width must be at least {least}.",
    )


def _letters(wide: float, has_masks: bool, width: int) -> int:
    """Size of letters in a cell *wide* pixels wide, 0 if there is too little space."""
    if wide < LETTERS_AT_LEAST * LEAST_LETTERS:
        return 0
    size = min(
        wide // (LETTERS_PER_PAIR if has_masks else LETTERS_PER_CELL), width // LETTERS_PER_PICTURE, LARGEST_LETTERS
    )
    return max(LEAST_LETTERS, int(size))


def _columns(aspect: float, has_masks: bool, widths: Sequence[int]) -> int:
    """Number of cells per row, where *widths* are the image widths for 1, 2 ... cells, up to one per slide, that brings
    the image closest to 16:9. Of equal ones, the number with the fewest empty cells."""
    count = len(widths)
    offs = {}  # logarithm of the ratio to 16:9, before pixels are rounded
    for columns, width in enumerate(widths, start=1):
        pitch = width / columns
        gap = pitch / GAPS_PER_CELL
        wide = pitch - gap
        image_width = (wide - gap) / 2 if has_masks else wide
        high = image_width / aspect + _letters(wide, has_masks, width) * LINE + gap
        offs[columns] = abs(math.log(width / (-(-count // columns) * high) / (16 / 9)))
    best = min(offs.values())
    good = [columns for columns, off in offs.items() if off < best + AS_GOOD]
    return min(good, key=lambda columns: (-count % columns, offs[columns]))
