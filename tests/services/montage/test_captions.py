"""Captions: legible, never cut, in any script."""

from __future__ import annotations

import unicodedata
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import features

from himl_cli.core.montage import Box, Cell, LayoutStyle, SlideEntry
from himl_cli.services.montage.captions import Inscription, caption_for, caption_parts, clusters, extent, has_glyph, readable, undrawable
from himl_cli.services.montage.layout import LEAST_LETTERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUND = 200
ODD_TEXTS = [
    "TCGA-3C-AALI-01Z-00-DX1",
    "W" * 300,
    "e\u0301" * 40,
    "a" + "\u0301\u0316" * 40,
    "שלום עולם",
    "العربية 12",
    "切片01",
    "😀 👩\u200d🔬",
    "line\nbreak\ttab\x1b[31m\x7f\x9b\0",
    "\udcff\udcfe.tiff",
    "\ud800",
    "\u202eevil\u2066",
    "…",
    " ",
    "\u0301",
    "f" * 50,
    "a\rb\x1c\x85\u2029c",
    "Ä" + "\u0344" * 3 + "ﷺ",
]
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(st.characters(), max_size=60)


def cell_with(caption: tuple[int, int], image: int = 40) -> Cell:
    """A cell of the montage that has a caption of that size below its image."""
    box = Box(1000, 2000, caption[0], image + caption[1])
    return Cell(0, 0, 0, box, Box(1000, 2000, caption[0], image), None, Box(1000, 2000 + image, *caption))


def entry(slide_id: str, label: str | None = None) -> SlideEntry:
    return SlideEntry(slide_id, "image.tiff", label)


def caption(slide: SlideEntry, cell: Cell) -> Inscription | None:
    made = caption_for(slide, cell, LayoutStyle.fit)
    assert made is None or isinstance(made, Inscription)
    return made


def said(slide: SlideEntry, cell: Cell) -> tuple[str, int]:
    """The text of a caption, and the size of its letters."""
    made = caption(slide, cell)
    assert made is not None
    (line,) = made.lines
    return line.text, line.size


def painted(made: Inscription, cell: Cell, step: int | None = None) -> NDArray[np.uint8]:
    """The cell's pixels with the caption, painted *step* rows at a time."""
    rows: NDArray[np.uint8] = np.full((cell.box.height, cell.box.width, 3), GROUND, np.uint8)
    for top in range(0, len(rows), step or len(rows)):
        made.paint(rows[top : top + (step or len(rows))], top)
    return rows


@given(slide_id=TEXTS, label=st.none() | TEXTS, width=st.integers(8, 500), height=st.integers(16, 60))
def test_nothing_is_cut(slide_id: str, label: str | None, width: int, height: int) -> None:
    """What is drawn on a larger ground is all within the room, and there are no letters below the least size."""
    cell = cell_with((width, height))
    made = caption(entry(slide_id, label), cell)
    if made is None:
        assert not any(caption_parts(entry(slide_id, label))) or width < 80
        return
    (line,) = made.lines
    assert line.size >= LEAST_LETTERS
    left, top, right, bottom = extent(line.text, line.size)
    assert line.x + left >= 0
    assert line.x + right <= width
    assert line.y + top >= 40
    assert line.y + bottom <= 40 + height
    rows = painted(made, cell)
    assert (rows[:40] == GROUND).all()


@given(slide_id=TEXTS, step=st.integers(1, 70))
def test_a_cell_may_be_cut_into_rows(slide_id: str, step: int) -> None:
    cell = cell_with((300, 28))
    made = caption(entry(slide_id, "x"), cell)
    assert made is not None
    whole = painted(made, cell)
    assert (whole != GROUND).any()
    assert np.array_equal(painted(made, cell, step), whole)


def test_it_may_be_painted_into_part_of_a_wider_picture() -> None:
    cell = cell_with((300, 28))
    made = caption(entry("slide_7", "tumour"), cell)
    assert made is not None
    picture: NDArray[np.uint8] = np.full((100, 500, 3), GROUND, np.uint8)
    made.paint(picture[20:88, 100:400], 0)
    assert np.array_equal(picture[20:88, 100:400], painted(made, cell))
    assert (picture[:, :100] == GROUND).all()
    assert (picture[:, 400:] == GROUND).all()


def test_a_short_caption_is_whole_centred_and_large() -> None:
    cell = cell_with((600, 42))
    assert said(entry("slide_7", "tumour"), cell) == ("slide_7: tumour", 30)
    made = caption(entry("slide_7", "tumour"), cell)
    assert made is not None
    columns = np.nonzero((painted(made, cell) != GROUND).any((0, 2)))[0]
    assert abs(columns[0] - (599 - columns[-1])) <= 4


def test_letters_shrink_to_half_before_a_text_is_shortened() -> None:
    cell = cell_with((600, 56))
    text, size = said(entry("TCGA-3C-AALI-01Z-00-DX1", "metastasis"), cell)
    assert text == "TCGA-3C-AALI-01Z-00-DX1: metastasis"
    assert 20 <= size < 40
    text, size = said(entry("TCGA-3C-AALI-01Z-00-DX1" * 4, "metastasis"), cell)
    assert size == 20
    head, _, tail = text.partition("…")
    assert head.startswith("TCGA-3C")
    assert tail.endswith("DX1: metastasis")


def test_letters_shrink_below_half_if_ellipsis_has_no_room() -> None:
    assert said(entry("®00"), cell_with((60, 59))) == ("®00", LEAST_LETTERS)


def test_long_slide_id_is_shortened_before_label() -> None:
    cell = cell_with((200, 20))
    assert said(entry("i" * 200, "tumour"), cell)[0].endswith("iii: tumour")
    text, _ = said(entry("abcdefgh" * 9, "tumour " * 30), cell)
    first, second = text.split(": ")
    assert first.count("…") == 1
    assert second.startswith("tumour")
    assert second.endswith("…")


def test_letters_are_not_parted_from_their_marks() -> None:
    text, _ = said(entry("x\u0323\u0307" * 80), cell_with((200, 20)))
    assert set(clusters(text)) == {unicodedata.normalize("NFC", "x\u0323\u0307"), "…"}


def test_marks_that_tower_above_the_room_are_dropped() -> None:
    slide = entry("Ä" + "\u0316" * 3, "tumour")
    assert said(slide, cell_with((200, 12))) == ("A: tumour", LEAST_LETTERS)
    assert "\u0316" in said(slide, cell_with((200, 40)))[0]


@pytest.mark.parametrize(("slide_id", "label", "text"), [("", "tumour", "tumour"), ("a", "", "a"), ("a", None, "a"), ("a", "b", "a: b")])
def test_empty_parts_are_left_out(slide_id: str, label: str | None, text: str) -> None:
    assert said(entry(slide_id, label), cell_with((400, 28)))[0] == text


def test_no_words_and_no_room_make_no_caption() -> None:
    assert caption(entry("", None), cell_with((400, 28))) is None
    assert caption(entry(" \n", "\u202e"), cell_with((400, 28))) is None
    assert caption(entry("abc"), cell_with((5, 28))) is None
    assert caption(entry("abc"), Cell(0, 0, 0, Box(0, 0, 9, 9), Box(0, 0, 9, 9))) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n\t b\u00a0c\u2028d", "a b c d"),
        ("\x1b[31m\x7f", r"\x1b[31m\x7f"),
        ("s\udce9lide", r"s\xe9lide"),
        ("\ud800x", r"\ud800x"),
        ("e\u0301", "é"),
        ("\u202eabc\u2069\ufeff\u00ad", "abc"),
        ("נקודה", "נקודה"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_a_text_becomes_one_readable_line(text: str, shown: str) -> None:
    assert readable(text) == shown


def test_the_font_tells_what_it_cannot_draw() -> None:
    assert has_glyph("é")
    assert has_glyph("ש")
    assert has_glyph(" ")
    assert not has_glyph("瘤")
    assert undrawable([entry("切片", "瘤 a"), entry("片1"), entry("\n\u202e\udcff", "tumour…")]) == "切片瘤"


@pytest.mark.parametrize(("text", "is_right"), [("שיייי", True), ("ייייש", False)])
def test_what_is_written_from_right_to_left_is(text: str, is_right: bool) -> None:
    """The first letter, which is heavy, stands at the right end; at the left where Pillow finds no FriBiDi."""
    made = caption(entry(text), cell_with((400, 28)))
    assert made is not None
    ink = (painted(made, cell_with((400, 28))) != GROUND).any(2).sum(0)
    columns = np.nonzero(ink)[0]
    middle = (columns[0] + columns[-1]) // 2
    assert (ink[middle:].sum() > ink[:middle].sum()) == (is_right == features.check("fribidi"))


def test_several_threads_draw_what_one_draws() -> None:
    cell = cell_with((500, 40))
    slides = [entry(f"slide_{number}" * (1 + number % 5), "tumour") for number in range(60)]

    def drawn(slide: SlideEntry) -> bytes:
        made = caption(slide, cell)
        assert made is not None
        return bytes(painted(made, cell))

    alone = [drawn(slide) for slide in slides]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(drawn, slides)) == alone


def test_bundled_caption_font_is_dejavu_2_37() -> None:
    """The predecessor drew its captions with this version."""
    folder = files("himl_cli.services.montage").joinpath("fonts")
    assert "Version 2.37".encode("utf-16-be") in folder.joinpath("DejaVuSans.ttf").read_bytes()
    assert "Bitstream Vera Fonts Copyright" in folder.joinpath("LICENSE").read_text("utf-8")
