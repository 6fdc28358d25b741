"""The predecessor's captions: over the lower edge of the slide, in dark green."""

from __future__ import annotations

import math
import re

from himl_cli.core.montage import Box, Size, SlideEntry
from himl_cli.services.montage.escaping import escaped
from himl_cli.services.montage.layout import fonts, himl_lettering
from himl_cli.services.montage.layout.inscription import Inscription, Line
from himl_cli.services.montage.layout.wording import Wording, readable, shortened

GREEN = (27, 77, 40)
LARGEST, STEP, LEAST = 48, 2, 8
"""Letters in pixels per em: the size that is tried first, by how much it shrinks, and the size below which captions are
shortened."""
MIDDLE = 0.9
"""Where a caption's middle lies in the slide's height."""
_NOT_IN_A_LINE = re.compile("\r\n|[\0-\x1f\x7f-\x9f\u2028\u2029]")
"""What parts lines or paragraphs (for some of these Pillow raises a RuntimeError), and control characters."""


def himl_caption(entry: SlideEntry, picture: Size) -> Inscription | None:
    """What the predecessor draws on a slide of *picture* pixels: letters shrink by 2 until the text is narrower.

    Where the predecessor's letters were too small to be read, or there were none, the text is shortened. It is one
    line: line breaks and control characters become spaces. None where there is no text, or no room for any.
    """
    text = _in_a_line(escaped(entry.title))
    if not text:
        return None
    size = letters_that_fit(text, picture[0])
    if size:
        return _placed(text, size, picture)
    words = Wording(readable(_in_a_line(entry.slide_id)), readable(_in_a_line(entry.label or "")))
    short = shortened(words, (picture[0] - 1, picture[1]), LEAST, LEAST)
    return None if short is None else _placed(short.text, short.size, picture, is_whole=True)


def caption_top(height: int) -> int:
    """The row of a slide *height* pixels high below which captions of one line lie."""
    return max(0, int(height * MIDDLE) - fonts.extent("Ag", LARGEST)[3] // 2)


def _in_a_line(text: str) -> str:
    return _NOT_IN_A_LINE.sub(" ", text)


def letters_that_fit(text: str, width: int) -> int:
    """The first size from LARGEST down to LEAST, by STEP, in which *text* is narrower than *width*; 0: none is.

    A letter is at most a pixel narrower than its share of LARGEST: sizes that cannot do are not tried.
    """
    widest = fonts.extent(text, LARGEST)[2]
    likely = (size for size in range(LARGEST, LEAST - 1, -STEP) if widest * size / LARGEST - len(text) - 2 < width)
    return next((size for size in likely if fonts.extent(text, size)[2] < width), 0)


def _placed(text: str, size: int, picture: Size, *, is_whole: bool = False) -> Inscription:
    """*text* where the predecessor put it; if *is_whole*, higher where the slide's lower edge would cut it."""
    left, top, right, bottom = fonts.extent(text, size)
    x, y = picture[0] // 2 - right // 2, picture[1] * MIDDLE - bottom // 2
    if is_whole:
        y = min(y, picture[1] - bottom)
    begin_x, begin_y = max(0, x + min(0, left) - 1), max(0, math.floor(y) + min(0, top) - 1)
    end_x, end_y = min(picture[0], x + right + 1), min(picture[1], math.ceil(y) + bottom + 1)
    box = Box(begin_x, begin_y, max(0, end_x - begin_x), max(0, end_y - begin_y))
    return Inscription([Line(text, size, x, y)], box, GREEN, himl_lettering.draw)
