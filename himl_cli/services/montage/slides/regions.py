"""Levels read as rectangles, by libraries that know of no strips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from himl_cli.core.montage import Box, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

REGION_PIXELS = 8 << 20
"""Pixels of a rectangle, unless a row of tiles is more. A level that has no more is read in one piece."""
COLUMNS = 4096
"""OpenSlide reads in pieces of that width, and rounds where each begins; ours begin where its own would."""


def bands(size: Size, tile_rows: int) -> Iterator[tuple[int, int]]:
    """The first row and the number of rows of each strip: whole rows of tiles."""
    width, height = size
    rows = max(1, REGION_PIXELS // (width * tile_rows)) * tile_rows
    yield from ((top, bottom - top) for top, bottom in pairwise([*range(0, height, rows), height]))


def boxes(width: int, top: int, rows: int) -> Iterator[Box]:
    """The rectangles of a strip, from left to right."""
    columns = max(1, REGION_PIXELS // (rows * COLUMNS)) * COLUMNS
    yield from (Box(left, top, min(columns, width - left), rows) for left in range(0, width, columns))


def strips_of_regions(
    size: Size, tile_rows: int, check: Callable[[int, int], None], read: Callable[[Box], NDArray[np.uint8]]
) -> Iterator[NDArray[np.uint8]]:
    """The strips of a level of *size*, each *read* as rectangles; before each, *check* is called with its first row and
    its last."""
    width, _ = size
    for top, rows in bands(size, tile_rows):
        check(top, top + rows - 1)
        strip: NDArray[np.uint8] = np.empty((rows, width, 3), np.uint8)
        for box in boxes(width, top, rows):
            strip[:, box.x : box.x + box.width] = read(box)
        yield strip
        del strip  # or it would be kept while the next one is made
