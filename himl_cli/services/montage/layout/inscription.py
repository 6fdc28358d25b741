"""Text in a cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from himl_cli.core.montage import Box
from himl_cli.services.montage.layout import fonts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Colour = tuple[int, int, int]
Pen = Callable[[Image.Image, tuple[float, float], str, int], None]
"""Draws a text of a size in white at a place of a grey picture (mode L)."""


@dataclass(frozen=True, slots=True)
class Line:
    """Text, the size of its letters in pixels per em, and where it is put in the cell (the left end, and the top of a
    line without accents)."""

    text: str
    size: int
    x: int
    y: float


class Inscription:
    """An Overlay: *lines* in one *colour*, over what the slide shows. Nothing is drawn outside of *box*, in pixels of
    the cell.

    From the first rows that it lies on until its last row was painted it holds a byte for each pixel of *box*.
    """

    def __init__(self, lines: Sequence[Line], box: Box, colour: Colour, pen: Pen = fonts.draw) -> None:
        self.lines = tuple(lines)
        self.box = box
        self._colour = colour
        self._pen = pen
        self._drawn: Image.Image | None = None

    def paint(self, rows: NDArray[np.uint8], top: int) -> None:
        begin, end = max(top, self.box.y), min(top + len(rows), self.box.y + self.box.height)
        if begin >= end or not self.box.width:
            return
        part = rows[begin - top : end - top, self.box.x : self.box.x + self.box.width]
        picture = Image.fromarray(part)
        picture.paste(
            self._colour, (0, 0), self._stencil().crop((0, begin - self.box.y, self.box.width, end - self.box.y))
        )
        part[...] = picture
        if end == self.box.y + self.box.height:
            self._drawn = None

    def _stencil(self) -> Image.Image:
        if self._drawn is None:
            self._drawn = Image.new("L", self.box.size)
            for line in self.lines:
                self._pen(self._drawn, (line.x - self.box.x, line.y - self.box.y), line.text, line.size)
        return self._drawn
