"""A montage as a Deep Zoom pyramid: how it is cut, and writing all levels in one pass from the top down."""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
from PIL import Image

from himl_cli.core.montage import Box, Size
from himl_cli.services.montage.files import DZI, TILES, write_error, write_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "jpg"
QUALITY = 90
SLAB_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Tiling:
    """A pyramid over a picture of *size*: level 0 is one pixel, each level is twice as wide and as high as the one
    before, the last is the picture.

    A tile is *tile* pixels wide and high, and *overlap* more on each side where it has a neighbour; at the right and
    lower edge it is cut off. *tile* is even: no mean of 2 x 2 pixels then reaches over the edge of a tile. With 510 and
    1 a tile inside the picture has 512 pixels, whole blocks of JPEG; there are a quarter as many files as with the
    usual 254.
    """

    size: Size
    tile: int = 510
    overlap: int = 1

    @property
    def levels(self) -> int:
        return (max(self.size) - 1).bit_length() + 1

    def size_of(self, level: int) -> Size:
        factor = 1 << (self.levels - 1 - level)
        width, height = self.size
        return -(-width // factor), -(-height // factor)

    def grid_of(self, level: int) -> tuple[int, int]:
        """The level's columns and rows of tiles."""
        width, height = self.size_of(level)
        return -(-width // self.tile), -(-height // self.tile)

    def box_of(self, level: int, column: int, row: int) -> Box:
        """What the tile shows, in pixels of its level."""
        width, height = self.size_of(level)
        left, right = self._extent(column, width)
        top, bottom = self._extent(row, height)
        return Box(left, top, right - left, bottom - top)

    def _extent(self, number: int, end: int) -> tuple[int, int]:
        return max(0, number * self.tile - self.overlap), min(end, (number + 1) * self.tile + self.overlap)

    def name_of(self, level: int, column: int, row: int) -> str:
        """Of the tile's file, beside the description."""
        return f"{TILES}/{level}/{column}_{row}.{FORMAT}"

    @property
    def description(self) -> str:
        """The text of `montage.dzi`."""
        width, height = self.size
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="{FORMAT}" Overlap="{self.overlap}" '
            f'TileSize="{self.tile}">\n'
            f'  <Size Width="{width}" Height="{height}"/>\n'
            "</Image>\n"
        )


class DeepZoom:
    """The BandSink of `montage.dzi` and its tiles, `montage_files/<level>/<column>_<row>.jpg`, below *folder*, which is
    made.

    A level keeps the rows of one row of tiles, (510 + 2) x its width x 3 bytes; all levels together hold about 3 kB for
    each pixel of the picture's width. A row of tiles is encoded in the pool while the next band is made; the rows after
    it wait for that.
    """

    def __init__(self, folder: Path, size: Size, pool: Executor) -> None:
        """Raises DiskFailed."""
        self.tiling = Tiling(size)
        self._description = folder / DZI
        self._levels: list[_Level] = []
        for number in range(self.tiling.levels):
            tiles = folder / TILES / str(number)
            try:
                tiles.mkdir(parents=True, exist_ok=True)
            except OSError as err:
                raise write_error(err, tiles, "make the folder") from err
            coarser = self._levels[-1] if self._levels else None
            self._levels.append(_Level(folder, self.tiling, number, pool, coarser))
        self._finest = self._levels[-1]

    def write(self, band: NDArray[np.uint8]) -> None:
        """See BandSink. Raises ValueError where the band is of another width, or reaches below the picture."""
        rows, width, _ = band.shape
        if width != self.tiling.size[0] or rows > self._finest.missing:
            raise ValueError(
                f"a band of {width} x {rows} pixels; {self.tiling.size[0]} x {self._finest.missing} at most are missing"
            )
        slab = max(1, SLAB_BYTES // (width * 3))
        for top in range(0, rows, slab):
            self._finest.add(band[top : top + slab])

    def finish(self) -> None:
        """See BandSink. Raises ValueError where rows are missing."""
        if self._finest.missing:
            raise ValueError(f"{self._finest.missing} rows of the picture were not written")
        for level in self._levels:
            level.settle()
        write_text(self._description, self.tiling.description)

    def abort(self) -> None:
        """See BandSink."""
        for level in self._levels:
            level.abandon()


class _Level:
    """The rows of a level of which tiles are still to be made; `coarser` gets their means."""

    def __init__(self, folder: Path, tiling: Tiling, number: int, pool: Executor, coarser: _Level | None) -> None:
        self._folder, self._tiling, self._number, self._pool, self._coarser = folder, tiling, number, pool, coarser
        width, height = tiling.size_of(number)
        self._rows: NDArray[np.uint8] = np.empty((min(height, tiling.tile + 2 * tiling.overlap), width, 3), np.uint8)
        self._height = height
        self._top = 0  # the row of the level that comes first in _rows
        self._end = 0  # the row of the level that is to come next
        self._tile_row = 0
        self._odd: NDArray[np.uint8] | None = None  # a row whose lower neighbour is still to come
        self._encoding: list[Future[None]] = []

    @property
    def missing(self) -> int:
        return self._height - self._end

    def add(self, rows: NDArray[np.uint8]) -> None:
        """The next rows from the top. Raises DiskFailed where earlier ones could not be written."""
        left = rows
        while len(left):
            self._begin_tile_row()
            fitting = left[: self._bottom - self._end]
            self._rows[self._end - self._top : self._end - self._top + len(fitting)] = fitting
            self._end += len(fitting)
            left = left[len(fitting) :]
            while self._end == self._bottom and self._tile_row < self._tiling.grid_of(self._number)[1]:
                self._begin_tile_row()
                self._encode_tile_row()
        if self._coarser is not None:  # it gets the means of each two rows; the last of an odd number has no neighbour
            if self._odd is not None:
                self._coarser.add(_halved(np.concatenate((self._odd, rows[:1]))))
                self._odd, rows = None, rows[1:]
            even = len(rows) if not self.missing else len(rows) & ~1
            if even:
                self._coarser.add(_halved(rows[:even]))
            if even < len(rows):
                self._odd = rows[even:].copy()

    @property
    def _bottom(self) -> int:
        """The row after the last one that the present row of tiles shows."""
        return min(self._height, (self._tile_row + 1) * self._tiling.tile + self._tiling.overlap)

    def _begin_tile_row(self) -> None:
        """Drop the rows that only earlier tiles show."""
        self.settle()
        top = max(0, self._tile_row * self._tiling.tile - self._tiling.overlap)
        if top > self._top:
            self._rows[: self._end - top] = self._rows[top - self._top : self._end - self._top].copy()
            self._top = top

    def _encode_tile_row(self) -> None:
        for column in range(self._tiling.grid_of(self._number)[0]):
            box = self._tiling.box_of(self._number, column, self._tile_row)
            path = self._folder / self._tiling.name_of(self._number, column, self._tile_row)
            self._encoding.append(
                self._pool.submit(_write_tile, path, self._rows[: box.height, box.x : box.x + box.width])
            )
        self._tile_row += 1

    def settle(self) -> None:
        """Wait for the tiles that are being made. Raises DiskFailed."""
        for each in wait(self._encoding, return_when=FIRST_EXCEPTION).done:
            each.result()
        self._encoding = []

    def abandon(self) -> None:
        """Make no more tiles; wait for those that were begun."""
        wait([each for each in self._encoding if not each.cancel()])


def _halved(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2 x 2 pixels, rounded to the nearest, halves up; of two or one at an odd edge."""
    return np.asarray(Image.fromarray(rows).reduce(2))


def _write_tile(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Raises DiskFailed."""
    encoded = imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=QUALITY, subsampling="420")
    try:
        path.write_bytes(encoded)
    except OSError as err:
        raise write_error(err, path) from err
