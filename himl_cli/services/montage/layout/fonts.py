"""DejaVu Sans, which comes with the package: captions look alike on every machine.

One thread at a time measures or draws: FreeType's faces are not made for several.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from importlib.resources import files
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

FONT = "DejaVuSans.ttf"
SIZES_AT_ONCE, EXTENTS_AT_ONCE = 32, 4096
NO_CHARACTER = "\U0010ffff"
PROBE = 48

Extent = tuple[int, int, int, int]
"""Left, top, right, bottom of what is drawn, in pixels from where the text is put."""

_one_at_a_time = threading.Lock()


@lru_cache(maxsize=EXTENTS_AT_ONCE)
def extent(text: str, size: int) -> Extent:
    """What *text*, of one line or several, covers when it is drawn at (0, 0) in letters of *size* pixels per em."""
    with _one_at_a_time:
        left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox(
            (0, 0), text, _font(size), align="center"
        )
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


@lru_cache(maxsize=EXTENTS_AT_ONCE)
def advance(text: str, size: int) -> float:
    """How far to the right of *text*, one line, the next letter would be put."""
    with _one_at_a_time:
        return float(_font(size).getlength(text))


def height(size: int) -> int:
    """The height of a line of ordinary letters, from the tallest to the deepest."""
    with _one_at_a_time:
        return sum(_font(size).getmetrics())


def draw(canvas: Image.Image, at: tuple[float, float], text: str, size: int) -> None:
    """Draw *text* in white *at* a place of a grey *canvas* (mode L), which may lie outside in part."""
    with _one_at_a_time:
        ImageDraw.Draw(canvas).text(at, text, fill=255, font=_font(size), align="center")


@lru_cache(maxsize=4096)
def has(character: str) -> bool:
    """Whether the font has a glyph for *character*. What it has none for is drawn as a box."""
    with _one_at_a_time:
        return _drawn(character) != _drawn(NO_CHARACTER)


def _drawn(character: str) -> tuple[Extent, bytes]:
    font = _font(PROBE)
    left, top, right, bottom = font.getbbox(character)
    return (int(left), int(top), int(right), int(bottom)), bytes(font.getmask(character))


@lru_cache(maxsize=SIZES_AT_ONCE)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(BytesIO(_file()), size)


@lru_cache(maxsize=1)
def _file() -> bytes:
    return files(__package__).joinpath("fonts").joinpath(FONT).read_bytes()
