"""How a Deep Zoom pyramid is cut: levels, tiles, names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from himl_cli.core.montage import Box, Size
from himl_cli.services.montage.names import TILES

FORMAT = "jpg"


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

    def names(self) -> Iterator[str]:
        """Every file of the pyramid but its description, relative to the folder that it lies in."""
        for level in range(self.levels):
            columns, rows = self.grid_of(level)
            for row in range(rows):
                for column in range(columns):
                    yield self.name_of(level, column, row)

    def name_of(self, level: int, column: int, row: int) -> str:
        return f"{self.folder}/{level}/{column}_{row}.{FORMAT}"

    @property
    def folder(self) -> str:
        """Where the tiles lie, beside the description."""
        return TILES

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
