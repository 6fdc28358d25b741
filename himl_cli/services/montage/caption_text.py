"""Texts in pictures: the font, ids and labels as one line that can be drawn, and shortening what is too long.

DejaVu Sans comes with the package, so that captions look alike on every machine. One thread at a time measures or
draws: FreeType's faces are not made for several.
"""

from __future__ import annotations

import math
import threading
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from himl_cli.core.montage import Size, SlideEntry
from himl_cli.services.montage.files import escaped

FONT = "DejaVuSans.ttf"
SIZES_AT_ONCE, EXTENTS_AT_ONCE = 32, 4096
NO_CHARACTER = "\U0010ffff"
PROBE = 48
ELLIPSIS = "…"
JOINERS = "\u200c\u200d"

Extent = tuple[int, int, int, int]
"""Left, top, right, bottom of what is drawn, in pixels from where the text is put."""

_lock = threading.Lock()


@lru_cache(maxsize=EXTENTS_AT_ONCE)
def extent(text: str, size: int) -> Extent:
    """What *text*, one line, covers when it is drawn at (0, 0) in letters of *size* pixels per em."""
    with _lock:
        left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, _font(size))
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def line_height(size: int) -> int:
    """The height of a line of ordinary letters, from the tallest to the deepest."""
    with _lock:
        return sum(_font(size).getmetrics())


def draw(canvas: Image.Image, position: tuple[float, float], text: str, size: int) -> None:
    """Draw *text* in white at *position* of a grey *canvas* (mode L), which may lie outside in part."""
    with _lock:
        ImageDraw.Draw(canvas).text(position, text, fill=255, font=_font(size))


@lru_cache(maxsize=4096)
def has_glyph(character: str) -> bool:
    """Whether the font has a glyph for *character*. What it has none for is drawn as a box."""
    with _lock:
        font = _font(PROBE)
        drawn, box = ((font.getbbox(each), bytes(font.getmask(each))) for each in (character, NO_CHARACTER))
        return drawn != box


@lru_cache(maxsize=SIZES_AT_ONCE)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(BytesIO(_font_file()), size)


@lru_cache(maxsize=1)
def _font_file() -> bytes:
    return files(__package__).joinpath("fonts").joinpath(FONT).read_bytes()


def readable(text: str) -> str:
    r"""*text* as one line: blanks of all kinds become one space, control characters `\x1b`, what only steers other
    characters is dropped."""
    return "".join(map(_visible, unicodedata.normalize("NFC", escaped(" ".join(text.split())))))


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cc":
        return f"\\x{ord(character):02x}"
    return "" if category == "Cf" and character not in JOINERS else character


@dataclass(frozen=True, slots=True)
class CaptionText:
    """The words of a caption. Either may be empty."""

    slide_id: str
    label: str

    @classmethod
    def of(cls, entry: SlideEntry) -> CaptionText:
        return cls(readable(entry.slide_id), readable(entry.label or ""))

    def whole(self) -> str:
        return ": ".join(filter(None, (self.slide_id, self.label)))

    def cut(self, letters: int) -> str:
        """With that many *letters* (1 or more) of both: the id loses some in its middle, the label at its end, and only
        if it has more than half of them."""
        first, second = clusters(self.slide_id), clusters(self.label)
        of_first = min(len(first), max(letters - len(second), (letters + 1) // 2))
        of_second = min(len(second), letters - of_first)
        if of_first < len(first):
            first = [*first[: (of_first + 1) // 2], ELLIPSIS, *first[len(first) - of_first // 2 :]]
        if of_second < len(second):
            second = [*second[:of_second], ELLIPSIS] if of_second else []
        return ": ".join(filter(None, ("".join(first), "".join(second))))

    def fitted(self, room: Size, largest: int, least: int) -> tuple[str, int] | None:
        """The text, and the size of letters, with which it fits into *room*: in letters of *largest* or smaller ones,
        in the *least* with an ellipsis. None where nothing fits."""
        whole = self.whole()
        if not whole:
            return None
        if size := fitting_size(whole, room, largest, least):
            return whole, size
        low, high = 0, len(clusters(self.slide_id)) + len(clusters(self.label))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(self.cut(middle), least, room) else (low, middle)
        if low:
            return self.cut(low), least
        bare = CaptionText(*map(_without_marks, (self.slide_id, self.label)))
        return None if bare == self else bare.fitted(room, least, least)


def fitting_size(text: str, room: Size, largest: int, least: int) -> int:
    """The largest of these sizes with which *text* fits into *room*, or 0."""
    left, top, right, bottom = extent(text, largest)
    scale = min(1.0, room[0] / max(1, right - left), room[1] / max(1, bottom - top))
    likely = min(largest, int(largest * scale) + 1)
    return next((size for size in range(likely, least - 1, -1) if fits(text, size, room)), 0)


def fits(text: str, size: int, room: Size) -> bool:
    """Whether *text* fits into *room*."""
    left, top, right, bottom = extent(text, size)
    return right - left <= room[0] and bottom - top <= room[1]


def clusters(text: str) -> list[str]:
    """*text* in pieces that must not be parted: letters with the marks that they carry, and what is joined to them."""
    pieces: list[str] = []
    for character in text:
        is_mark = unicodedata.category(character).startswith("M")
        if pieces and (is_mark or character in JOINERS or pieces[-1][-1] in JOINERS):
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def _without_marks(text: str) -> str:
    return "".join(
        each for each in unicodedata.normalize("NFD", text) if not unicodedata.category(each).startswith("M")
    )


def wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """*text* in at most *most* lines that are no wider than *width*; what is left out is told by an ellipsis."""
    lines: list[str] = []
    rest = clusters(text)
    while rest and len(lines) < most:
        count = _fitting_count(rest, size, width)
        if not count:
            return []
        if count < len(rest) and len(lines) == most - 1:
            count = _fitting_count(rest, size, width, ELLIPSIS)
            return [*lines, "".join(rest[:count]).rstrip() + ELLIPSIS]
        if count < len(rest):  # at the last blank before it, if there is one
            count = next((place + 1 for place in range(count, 0, -1) if rest[place] == " "), count)
        lines.append("".join(rest[:count]).strip())
        rest = rest[count:]
    return lines


def _fitting_count(letters: list[str], size: int, width: int, end: str = "") -> int:
    """How many *letters*, followed by *end*, fit into *width*."""
    low, high = 0, len(letters) + 1
    while high - low > 1:
        middle = (low + high) // 2
        is_fitting = fits("".join(letters[:middle]) + end, size, (width, width + 10 * size))
        low, high = (middle, high) if is_fitting else (low, middle)
    return low
