"""Captions of cells: which slide it is, and its label."""

from __future__ import annotations

from collections.abc import Iterable

from himl_cli.core.montage import Box, Cell, LayoutStyle, SlideEntry
from himl_cli.services.montage.layout import fonts
from himl_cli.services.montage.layout.fit import LEAST_LETTERS, letters_of
from himl_cli.services.montage.layout.himl_captions import himl_caption
from himl_cli.services.montage.layout.inscription import Inscription, Line
from himl_cli.services.montage.layout.painting import Overlay
from himl_cli.services.montage.layout.placing import relative
from himl_cli.services.montage.layout.wording import Wording, Wrought, shortened

INK = (32, 32, 32)
SMALLEST = 0.5
"""How far letters may shrink before a caption is shortened instead."""


def caption_for(entry: SlideEntry, cell: Cell, style: LayoutStyle) -> Overlay | None:
    """What is written into *cell*: `slide_id: label`. None where the layout has no room for captions, or there is
    nothing to say."""
    if cell.caption is None:
        return None
    if style is LayoutStyle.himl:
        return himl_caption(entry, cell.image.size)
    largest = letters_of(cell.caption)
    room = max(1, cell.caption.width - largest // 2), cell.caption.height
    words = Wording.of(entry)
    wrought = shortened(words, room, largest, max(LEAST_LETTERS, int(largest * SMALLEST))) or shortened(
        words, room, LEAST_LETTERS, LEAST_LETTERS
    )
    return None if wrought is None else _centred(wrought, relative(cell.caption, cell.box))


def undrawable(entries: Iterable[SlideEntry]) -> str:
    """The characters of their captions that the font has no glyphs for, each once; boxes are drawn for them."""
    characters = {each for entry in entries for each in Wording.of(entry).whole()}
    return "".join(sorted(each for each in characters if not fonts.has(each)))


def _centred(wrought: Wrought, room: Box) -> Inscription:
    left, top, right, bottom = fonts.extent(wrought.text, wrought.size)
    x = room.x + (room.width - (right - left)) // 2 - left
    y = room.y + (room.height - fonts.height(wrought.size)) // 2
    y = min(max(y, room.y - top), room.y + room.height - bottom)
    return Inscription(
        [Line(wrought.text, wrought.size, x, y)], Box(x + left, y + top, right - left, bottom - top), INK
    )
