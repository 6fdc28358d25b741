"""Letters as the predecessor's Pillow, 10.0, drew them.

From 10.2 on, where two letters touch, Pillow adds what covers a pixel; it took the greater before. All else is the
same: letters one by one, of which the greater is taken, make the same pixels as then. Where Pillow puts them otherwise
in a text (as in scripts that join letters), and in texts with combining marks, Pillow's own drawing stays.
"""

from __future__ import annotations

import math
import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from himl_cli.services.montage.layout import fonts

if TYPE_CHECKING:
    from numpy.typing import NDArray

LETTERS_AT_ONCE = 1024
_LETTER = re.compile("f+[il]?|.", re.DOTALL)
"""A letter, or several that the font has one glyph for."""


def draw(canvas: Image.Image, at: tuple[float, float], text: str, size: int) -> None:
    """Draw *text* in white *at* a place of an empty grey *canvas* (mode L)."""
    fonts.draw(canvas, at, text, size)
    if any(map(unicodedata.combining, text)):
        return
    whole = np.asarray(canvas)
    greatest, covering = np.zeros_like(whole), np.zeros_like(whole)
    x, before = at[0], ""
    for letter in _LETTER.findall(text):
        x += fonts.advance(before + letter, size) - fonts.advance(letter, size)
        _put(letter, (x, at[1]), size, greatest, covering)
        before = letter
    if ((greatest == whole) | (covering > 1)).all():
        canvas.paste(Image.fromarray(greatest))


def _put(
    letter: str, at: tuple[float, float], size: int, greatest: NDArray[np.uint8], covering: NDArray[np.uint8]
) -> None:
    (part_x, whole_x), (part_y, whole_y) = math.modf(at[0]), math.modf(at[1])
    left, top, pixels = _drawn(letter, size, part_x, part_y)
    x, y = int(whole_x) + left, int(whole_y) + top
    rows, columns = slice(max(0, y), max(0, y + pixels.shape[0])), slice(max(0, x), max(0, x + pixels.shape[1]))
    part = greatest[rows, columns]
    pixels = pixels[max(0, -y) :, max(0, -x) :][: part.shape[0], : part.shape[1]]
    np.maximum(part, pixels, out=part)
    covering[rows, columns] += pixels > 0


@lru_cache(maxsize=LETTERS_AT_ONCE)
def _drawn(letter: str, size: int, x: float, y: float) -> tuple[int, int, NDArray[np.uint8]]:
    """*letter* put at (x, y), parts of a pixel: the first column and row that it covers, and the pixels, shape (rows,
    columns)."""
    left, top, right, bottom = fonts.extent(letter, size)
    margin = 2 + max(0, -left, -top)
    canvas = Image.new("L", (margin + right + 2, margin + bottom + 2))
    fonts.draw(canvas, (margin + x, margin + y), letter, size)
    box = canvas.getbbox() or (0, 0, 0, 0)
    return box[0] - margin, box[1] - margin, np.asarray(canvas.crop(box))
