"""Deep Zoom pyramids of montages: the tiling, writing all levels in one pass from the top, and a page that shows the
pyramid, in one file that needs neither network nor server."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from himl_cli.core.records import dataclass
from himl_cli.slides.encoding import encode_jpeg
from himl_cli.slides.output_folder import DZI, TILES, escaped, write_bytes, write_error, write_text
from himl_cli.slides.slide_records import Box, CellOutcome, Size


@dataclass(frozen=True)
class Tiling:
    """Tiling of an image of *size*. Level 0 is one pixel, each level is twice as wide and high as the previous one, and
    the last is the image.

    A tile is *tile* pixels wide and high, plus *overlap* on each side with a neighbour, and is cropped at the right and
    lower edge. *tile* is even, so that no mean of 2 x 2 pixels crosses the edge of a tile. With 510 and 1, an inner
    tile has 512 pixels, which are whole JPEG blocks, and there are a quarter as many files as with the usual 254.
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
        """Columns and rows of tiles of the level."""
        width, height = self.size_of(level)
        return -(-width // self.tile), -(-height // self.tile)

    def box_of(self, level: int, column: int, row: int) -> Box:
        """Area of the tile, in pixels of its level."""
        width, height = self.size_of(level)
        left, top = (max(0, number * self.tile - self.overlap) for number in (column, row))
        right, bottom = ((number + 1) * self.tile + self.overlap for number in (column, row))
        return Box(left, top, min(width, right) - left, min(height, bottom) - top)

    def name_of(self, level: int, column: int, row: int) -> str:
        """Path of the tile, relative to the folder of the description."""
        return f"{TILES}/{level}/{column}_{row}.jpg"


class DeepZoom:
    """`montage.dzi` and its tiles, `montage_files/<level>/<column>_<row>.jpg`, below *folder*, which is created.

    A level holds one row of tiles, (510 + 2) x its width x 3 bytes. All levels together hold about 3 kB per pixel of
    the image's width. The pool encodes a row of tiles while the next band is created. Later rows wait for that. Has the
    interface of `PiecedFile`.
    """

    def __init__(self, folder: Path, size: Size, pool: Executor) -> None:
        self.tiling = Tiling(size)
        self._folder = folder
        self._levels: list[_Level] = []
        for number in range(self.tiling.levels):
            tiles = folder / TILES / str(number)
            try:
                tiles.mkdir(parents=True, exist_ok=True)
            except OSError as err:
                raise write_error(err, tiles, "create the folder") from err
            coarser = self._levels[-1] if self._levels else None
            self._levels.append(_Level(folder, self.tiling, number, pool, coarser))

    def write(self, band: NDArray[np.uint8]) -> None:
        slab = max(1, (4 << 20) // (self.tiling.size[0] * 3))
        for top in range(0, len(band), slab):
            self._levels[-1].add(band[top : top + slab])

    def finish(self) -> None:
        for level in self._levels:
            level.settle()
        width, height = self.tiling.size
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" '
            f'Overlap="{self.tiling.overlap}" TileSize="{self.tiling.tile}">\n'
            f'  <Size Width="{width}" Height="{height}"/>\n'
            "</Image>\n"
        )
        write_text(self._folder / DZI, text)

    def abort(self) -> None:
        """Start no more tiles, and wait for those in progress."""
        for level in self._levels:
            wait([each for each in level.encoding if not each.cancel()])


class _Level:
    """Rows of a level whose tiles are not yet created. `coarser` receives their means."""

    def __init__(self, folder: Path, tiling: Tiling, number: int, pool: Executor, coarser: _Level | None) -> None:
        self._folder, self._tiling, self._number, self._pool, self._coarser = folder, tiling, number, pool, coarser
        width, height = tiling.size_of(number)
        self._rows: NDArray[np.uint8] = np.empty((min(height, tiling.tile + 2 * tiling.overlap), width, 3), np.uint8)
        self._height = height
        self._top = 0  # the row of the level that is first in _rows
        self._end = 0  # the next row of the level
        self._columns, self._tile_rows = tiling.grid_of(number)
        self._tile_row = 0
        self._odd: NDArray[np.uint8] | None = None  # a row that waits for its lower neighbour
        self.encoding: list[Future[None]] = []

    @property
    def _bottom(self) -> int:
        return min(self._height, (self._tile_row + 1) * self._tiling.tile + self._tiling.overlap)

    def add(self, rows: NDArray[np.uint8]) -> None:
        """Add the next rows from the top. Raises DiskFailed if earlier ones could not be written."""
        left = rows
        while len(left):
            self._drop_used()
            fitting = left[: self._bottom - self._end]
            self._rows[self._end - self._top : self._end - self._top + len(fitting)] = fitting
            self._end += len(fitting)
            left = left[len(fitting) :]
            while self._end == self._bottom and self._tile_row < self._tile_rows:
                self._drop_used()
                for column in range(self._columns):
                    box = self._tiling.box_of(self._number, column, self._tile_row)
                    path = self._folder / self._tiling.name_of(self._number, column, self._tile_row)
                    tile = self._rows[: box.height, box.x : box.x + box.width]
                    self.encoding.append(self._pool.submit(_write_tile, path, tile))
                self._tile_row += 1
        if self._coarser is not None:  # it receives means of two rows. The last of an odd number has no neighbour.
            if self._odd is not None:
                self._coarser.add(_halved(np.concatenate((self._odd, rows[:1]))))
                self._odd, rows = None, rows[1:]
            even = len(rows) if self._end == self._height else len(rows) & ~1
            if even:
                self._coarser.add(_halved(rows[:even]))
            if even < len(rows):
                self._odd = rows[even:].copy()

    def _drop_used(self) -> None:
        self.settle()
        top = max(0, self._tile_row * self._tiling.tile - self._tiling.overlap)
        if top > self._top:
            self._rows[: self._end - top] = self._rows[top - self._top : self._end - self._top].copy()
            self._top = top

    def settle(self) -> None:
        """Wait for tiles in progress. Raises DiskFailed."""
        for each in wait(self.encoding, return_when=FIRST_EXCEPTION).done:
            each.result()
        self.encoding = []


def _halved(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2 x 2 pixels, rounded half up. At an odd edge, of two or one."""
    return np.asarray(Image.fromarray(rows).reduce(2))


def _write_tile(path: Path, pixels: NDArray[np.uint8]) -> None:
    write_bytes(path, encode_jpeg([pixels]))


def write_page(path: Path, tiling: Tiling, cells: Sequence[CellOutcome], title: str) -> None:
    """Write a page that shows the pyramid of *tiling*, whose tiles are beside *path*, and searches *cells*. Raises
    DiskFailed."""
    script = "".join(asset(name) for name in ("cells.js", "view.js", "panels.js", "page.js"))
    # The package does not include the source map.
    viewer = asset("openseadragon.min.js").partition("//# sourceMappingURL=")[0]
    library = f"/*\n{asset('openseadragon-LICENSE.txt')}*/\n{viewer}"
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in (library, script)]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    # The page may run these scripts and show images beside it, but load nothing else.
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src 'self' file: data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "title": html.escape(escaped(title)),
        "policy": html.escape(policy),
        "style": asset("page.css"),
        "data": _page_data(tiling, cells, title),
        "library": library,
        "script": script,
    }
    write_text(path, re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], asset("page.html")))


def asset(name: str) -> str:
    """Text of a file in this package."""
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _page_data(tiling: Tiling, cells: Sequence[CellOutcome], title: str) -> str:
    """Data for the page's script, as JSON that HTML cannot parse as markup: in ASCII, without `<`, `>` and `&`. A cell
    is a list, in the order that `cells.js` defines."""
    rows = []
    for cell in cells:
        label = None if cell.label is None else escaped(cell.label)
        box = [cell.box.x, cell.box.y, cell.box.width, cell.box.height]
        texts = [escaped(text) for text in (cell.image, cell.backend, cell.reason, cell.remark)]
        rows.append([escaped(cell.slide_id), label, *box, cell.level, int(cell.is_ok), *texts])
    data = {
        "title": escaped(title),
        "width": tiling.size[0],
        "height": tiling.size[1],
        "tile": tiling.tile,
        "overlap": tiling.overlap,
        "levels": tiling.levels,
        "folder": TILES,
        "format": "jpg",
        "cells": rows,
    }
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
