"""Tests of layouts, captions and failure marks: positions of slides in both layouts, and legible, complete captions in
any script.

`golden/*.png` were made by `make_montage` of hi-ml-cpath 0.5.2 with its pinned Pillow 10.0.1, through OpenSlide, from
level 1 of the slides and masks in the same folder, with the arguments of MADE. Its command makes the same `seven.png`
of `dataset.csv`. To create them again, in an environment of Python 3.9:

pip install hi-ml-cpath==0.5.2 openslide-bin openslide-python "marshmallow<4"
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, features

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import ignore
from himl_cli.slides import captions
from himl_cli.slides.captions import (
    GREY,
    REASON_INK,
    FailureMark,
    Inscription,
    caption_for,
    extent,
    has_glyph,
    readable,
    undrawable,
)
from himl_cli.slides.compose import make_montage
from himl_cli.slides.layout import LEAST_LETTERS, WHITE, fit_layout, fitted, himl_layout, himl_order, letters_of
from himl_cli.slides.query import LocalFolder
from himl_cli.slides.slide_records import (
    DEFAULT_WIDTH,
    Backend,
    Box,
    Cell,
    ImageFormat,
    Layout,
    LayoutStyle,
    MontageRequest,
    SlideEntry,
)
from tests.support.montages import nearest, resized

ASPECTS = st.lists(st.none() | st.floats(0.02, 50), min_size=1, max_size=70)
GOLDEN = Path(__file__).parent / "golden"
MADE = [
    ("seven", 0, 7, 420, True, False),
    ("seven_masks", 0, 7, 420, True, True),
    ("one", 7, 8, 320, True, False),
    ("two_masks", 0, 2, 300, False, True),
    ("three", 0, 3, 290, False, False),
]
"""Name, first and last slide, width, labels, and masks."""
REASON = "Level 1 is damaged: tile 17 of 96 holds no JPEG data; the file may have been cut off."
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
    "…",
    " ",
]
ODD_TEXTS += [
    "line\nbreak\ttab\x1b[31m\x7f\x9b\0",
    "\udcff\udcfe.tiff",
    "\u202eevil\u2066",
    "\u0301",
    "a\rb\x1c\x85\u2029c",
    "Ä" + "\u0344" * 3 + "ﷺ",
]
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(st.characters(), max_size=60)
both_masks = pytest.mark.parametrize("has_masks", [False, True])


def is_within(inner: Box, outer: Box) -> bool:
    right, bottom = inner.x + inner.width, inner.y + inner.height
    return outer.x <= inner.x < right <= outer.x + outer.width and outer.y <= inner.y < bottom <= outer.y + outer.height


def check(layout: Layout, count: int, width: int) -> None:
    assert (layout.size[0], layout.background, layout.rows) == (width, WHITE, layout.cells[-1].row + 1)
    assert [(cell.entry, cell.row * layout.columns + cell.column) for cell in layout.cells] == [
        (n, n) for n in range(count)
    ]
    assert len({(cell.box.size, cell.image.size) for cell in layout.cells}) == 1
    for cell in layout.cells:
        assert is_within(cell.box, Box(0, 0, *layout.size))
        assert cell.box.y == layout.cells[cell.row * layout.columns].box.y
        assert is_within(cell.image, cell.box)
        if cell.mask is not None:
            assert is_within(cell.mask, cell.box)
            assert (cell.mask.size, cell.mask.y) == (cell.image.size, cell.image.y)
            assert cell.mask.x > cell.image.x + cell.image.width
        if cell.caption is not None:
            assert is_within(cell.caption, cell.box)
            assert cell.caption.y == cell.image.y + cell.image.height
            assert letters_of(cell.caption) >= LEAST_LETTERS
    for one, other in pairwise(layout.cells):
        assert (
            other.box.x > one.box.x + one.box.width
            if one.row == other.row
            else other.box.y > one.box.y + one.box.height
        )
    assert bool(layout.remark) == (layout.cells[0].caption is None)


@pytest.mark.large("takes long, and other tests run its branches")
@given(aspects=ASPECTS, has_masks=st.booleans(), width=st.integers(1, 6000))
def test_every_cell_has_its_place(aspects: Sequence[float | None], has_masks: bool, width: int) -> None:
    try:
        layout = fit_layout(aspects, has_masks=has_masks, width=width)
    except BadUsage:
        assume(False)
    check(layout, len(aspects), width)
    assert (layout.cells[0].mask is not None) == has_masks


def test_cells_and_picture_have_usual_forms_and_few_are_empty() -> None:
    """7 x 5 cells are a little nearer to 16:9 than 8 x 4, but leave five of them empty."""
    for count, aspect, has_masks in (
        (12, 1.0, False),
        (50, 0.5, True),
        (200, 2.5, False),
        (200, 2.5, True),
        (1000, 4 / 3, True),
    ):
        width, height = fit_layout([aspect] * count, has_masks=has_masks, width=20_000).size
        assert 0.75 < width / height / (16 / 9) < 1.3
    layout = fit_layout([1.18] * 30, has_masks=False, width=3000)
    assert (layout.columns, layout.rows) == (8, 4)
    for count in range(1, 100):
        layout = fit_layout([4 / 3] * count, has_masks=False, width=20_000)
        assert layout.columns * layout.rows - count < layout.columns
    for aspects, expected in (
        ((2.0, 2.1, 1.9, None, 40.0, 0.05), 2.0),
        ((None, None), 4 / 3),
        ((1000.0,), 4.0),
        ((0.001,), 0.25),
    ):
        image = fit_layout(aspects, has_masks=False, width=5000).cells[0].image
        assert image.width / image.height == pytest.approx(expected, rel=0.03)


@both_masks
@pytest.mark.parametrize("count", [1, 7, 500])
def test_too_small_width_is_refused_with_smallest_valid_one(count: int, has_masks: bool) -> None:
    with pytest.raises(BadUsage, match="An image 2 pixels wide is too narrow for") as raised:
        fit_layout([1.4] * count, has_masks=has_masks, width=2)
    found = re.search(r"--width must be at least (\d+)\.", raised.value.hint)
    assert found
    least = int(found[1])
    check(fit_layout([1.4] * count, has_masks=has_masks, width=least), count, least)
    with pytest.raises(BadUsage):
        fit_layout([1.4] * count, has_masks=has_masks, width=least - 1)


def test_layouts_refuse_no_slides_and_too_small_a_width() -> None:
    for layout in (partial(fit_layout, []), partial(himl_layout, 0)):
        with pytest.raises(BadUsage, match="no slides"):
            layout(has_masks=False, width=376)
    with pytest.raises(BadUsage, match="An image 375 pixels wide is too narrow for 5,000 slides") as raised:
        himl_layout(5000, has_masks=False, width=375)
    assert "at least 376." in raised.value.hint
    assert himl_layout(5000, has_masks=False, width=376).cells[0].image.size == (4, 2)
    assert [himl_layout(5000, has_masks=has_masks, width=60_000).columns for has_masks in (False, True)] == [94, 66]


@both_masks
def test_default_width_shows_slides_of_median_size_one_to_one(has_masks: bool) -> None:
    """The benchmark's slides have 2,000 x 1,500 pixels at level 1. Small slides get cells with legible captions."""
    for count, size in ((1, (2000, 1500)), (2, (333, 500)), (30, (1180, 1000)), (7, (5000, 400))):
        layout = fit_layout([size[0] / size[1]] * count, has_masks=has_masks, sizes=[size] * count)
        assert layout.size[0] < DEFAULT_WIDTH
        assert {fitted(cell.image, size).size for cell in layout.cells} == {size}
        check(layout, count, layout.size[0])
    tiny = fit_layout([4 / 3] * 700, has_masks=has_masks, sizes=[(24, 18)] * 700)
    assert (tiny.cells[0].box.width >= 320, tiny.remark) == (True, "")
    assert fit_layout([4 / 3] * 700, has_masks=has_masks, sizes=[(50_000, 40_000)] * 700).size[0] == DEFAULT_WIDTH
    if not has_masks:
        assert fit_layout([4 / 3] * 200, has_masks=False, sizes=[(2000, 1500)] * 200).size[0] == 34_612
        mixed = fit_layout(
            [4 / 3] * 5, has_masks=False, sizes=[(40, 30), (400, 300), (400, 300), (400, 300), (8000, 6000)]
        )
        assert mixed.cells[0].image.size == (400, 300)
        assert fit_layout([None], has_masks=False).cells[0].box.width == 320


def test_caption_grows_with_cell_and_missing_one_is_noted() -> None:
    captions = [
        fit_layout([1.4] * 20, has_masks=False, width=width).cells[0].caption for width in (2000, 8000, 15_000, 200_000)
    ]
    sizes = [letters_of(caption) for caption in captions if caption]
    assert (len(sizes), sizes, sizes[-1]) == (4, sorted(set(sizes)), 256)
    narrow = fit_layout([1.4] * 20, has_masks=False, width=300)
    assert narrow.cells[0].caption is None
    assert narrow.remark.startswith("There are no captions, because cells are only ")


@given(
    room=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    size=st.tuples(st.integers(1, 100_000), st.integers(1, 100_000)),
)
def test_fitted_keeps_proportions_in_the_middle(room: tuple[int, int], size: tuple[int, int]) -> None:
    box = Box(7, 11, *room)
    inner = fitted(box, size)
    assert is_within(inner, box)
    assert inner.width == box.width or inner.height == box.height
    assert abs((inner.x - box.x) - (box.x + box.width - inner.x - inner.width)) <= 1
    assert abs((inner.y - box.y) - (box.y + box.height - inner.y - inner.height)) <= 1
    exact = min(room[0] / size[0], room[1] / size[1])
    assert abs(inner.width - max(1, size[0] * exact)) <= 0.5 + 1e-6
    assert abs(inner.height - max(1, size[1] * exact)) <= 0.5 + 1e-6


def golden(name: str) -> NDArray[np.uint8]:
    with tifffile.TiffFile(GOLDEN / name) if name.endswith(".tiff") else Image.open(GOLDEN / name) as file:
        pixels = file.pages[1].asarray() if isinstance(file, tifffile.TiffFile) else np.asarray(file)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def part(picture: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    return picture[box.y : box.y + box.height, box.x : box.x + box.width]


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(("name", "first", "last", "width", "has_labels", "has_masks"), MADE)
def test_every_pixel_of_himl_layout_is_the_predecessors(
    tmp_path: Path, name: str, first: int, last: int, width: int, has_labels: bool, has_masks: bool
) -> None:
    with (GOLDEN / "dataset.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[first:last]
    entries = [
        SlideEntry(
            row["slide_id"], row["image"], row["label"] if has_labels else None, row["mask"] if has_masks else None
        )
        for row in rows
    ]
    layout, order, wanted = (
        himl_layout(len(entries), has_masks=has_masks, width=width),
        himl_order(entries),
        golden(f"{name}.png"),
    )
    made: NDArray[np.uint8] = np.full((layout.size[1], layout.size[0], 3), layout.background, np.uint8)
    is_known: NDArray[np.bool_] = np.ones(made.shape, np.bool_)
    for cell in layout.cells:
        entry = order[cell.entry]
        part(made, cell.image)[:] = resized(golden(entry.image), cell.image.size)
        if cell.mask is not None and entry.mask is not None:
            part(made, cell.mask)[:] = nearest(golden(entry.mask), cell.mask.size) * np.uint8(255)
        assert cell.caption is not None
        is_known[
            cell.caption.y : cell.caption.y + cell.caption.height, cell.caption.x : cell.caption.x + cell.caption.width
        ] = False
    assert np.array_equal(made[is_known], wanted[is_known])
    for backend in (Backend.tifffile, Backend.openslide):
        request = MontageRequest(
            tmp_path / backend.value,
            width,
            layout=LayoutStyle.himl,
            formats=(ImageFormat.png,),
            backend=backend,
            workers=2,
        )
        assert [cell.reason for cell in make_montage(request, entries, LocalFolder(GOLDEN), ignore).cells] == [
            ""
        ] * len(entries)
        with Image.open(request.output / "montage.png") as image:
            assert np.array_equal(np.asarray(image)[is_known], wanted[is_known])


def test_himl_order_is_that_of_file_names_and_nothing_is_lost() -> None:
    ids = ["b", "a", "a-b", "10", "9", "B", "é", "a", "x/y", "a b", ""]
    order = himl_order([SlideEntry(each, f"{number}.tiff") for number, each in enumerate(ids)])
    assert [entry.slide_id for entry in order] == ["", "10", "9", "B", "a b", "a-b", "a", "a", "b", "x/y", "é"]
    assert [entry.image for entry in order if entry.slide_id == "a"] == ["1.tiff", "7.tiff"]


def cell_of(style: LayoutStyle, width: int, *, has_masks: bool = False) -> Cell:
    layout = (
        fit_layout([1.4], has_masks=has_masks, width=width)
        if style is LayoutStyle.fit
        else himl_layout(1, has_masks=has_masks, width=width)
    )
    return layout.cells[0]


def painted(
    what: FailureMark | Inscription, cell: Cell, step: int | None = None, ground: int = GROUND
) -> NDArray[np.uint8]:
    """Return the cell's pixels with the mark or caption, painted *step* rows at a time."""
    rows: NDArray[np.uint8] = np.full((cell.box.height, cell.box.width, 3), ground, np.uint8)
    for top in range(0, len(rows), step or len(rows)):
        what.paint(rows[top : top + (step or len(rows))], top)
    return rows


def mark_of(cell: Cell, style: LayoutStyle, reason: str = REASON) -> FailureMark:
    return FailureMark(cell.image, cell, "not read", reason, style)


def words(cell: Cell, style: LayoutStyle, reason: str) -> list[str]:
    mark = mark_of(cell, style, reason)
    return [] if mark.words is None else [line.text for line in mark.words.lines]


@pytest.mark.parametrize("style", LayoutStyle)
@both_masks
def test_failure_mark_fills_its_room_however_it_is_cut(style: LayoutStyle, has_masks: bool) -> None:
    for width in (20, 60, 500):
        cell = cell_of(style, width, has_masks=has_masks)
        room = cell.mask or cell.image
        mark = FailureMark(room, cell, "not read", REASON, style)
        whole = painted(mark, cell, ground=255)
        is_touched = (whole != 255).all(2)
        left, top = room.x - cell.box.x, room.y - cell.box.y
        assert is_touched[top : top + room.height, left : left + room.width].all()
        assert is_touched.sum() == room.width * room.height
        for step in (1, 7):
            assert np.array_equal(painted(mark, cell, step, 255), whole)


def test_failure_mark_is_crossed_and_words_stay_above_captions() -> None:
    cell = cell_of(LayoutStyle.fit, 500)
    cell = replace(cell, box=cell.image)
    rows = painted(FailureMark(cell.image, cell, "", "", LayoutStyle.fit), cell)
    height, width = rows.shape[:2]
    assert (rows == GREY).all(2).mean() > 0.9
    for share in (0.1, 0.4, 0.7, 0.95):
        for place in (share, 1 - share):
            around = rows[int(height * share), max(0, int(width * place) - 3) : int(width * place) + 4]
            assert (around != GREY).any()
    assert np.array_equal(rows, rows[:, ::-1])
    cell = cell_of(LayoutStyle.himl, 400)
    assert cell.caption is not None
    ink = (painted(mark_of(cell, LayoutStyle.himl, REASON * 9), cell) == REASON_INK).all(2).any(1)
    assert ink[: cell.caption.y].any()
    assert not ink[cell.caption.y :].any()


@pytest.mark.parametrize("style", LayoutStyle)
def test_failure_mark_says_why_as_far_as_there_is_room(style: LayoutStyle) -> None:
    assert words(cell_of(style, 1000), style, "The file is empty.") == ["not read", "The file is empty."]
    title, *lines = words(cell_of(style, 600), style, REASON)
    assert (title, " ".join(lines)) == ("not read", REASON)
    title, *lines = words(cell_of(style, 260), style, REASON * 20)
    assert lines[0].startswith("Level 1")
    assert lines[-1].endswith("…")
    assert words(cell_of(style, 30), style, REASON) == []
    inks = [
        (painted(mark_of(cell, style), cell) == REASON_INK).all(2).any()
        for cell in (cell_of(style, 600), cell_of(style, 30))
    ]
    assert inks == [True, False]
    title, *lines = words(cell_of(style, 400), style, "x" * 90 + "\n\udcff\x00")
    assert (title, "".join(lines).replace(" ", ""), len(lines) > 1) == ("not read", "x" * 90 + r"\xff\x00", True)


def cell_with(caption: tuple[int, int]) -> Cell:
    """Return a cell with a caption of that size below its image, which is 40 pixels high."""
    box = Box(1000, 2000, caption[0], 40 + caption[1])
    return Cell(0, 0, 0, box, Box(1000, 2000, caption[0], 40), None, Box(1000, 2040, *caption))


def entry(slide_id: str, label: str | None = None) -> SlideEntry:
    return SlideEntry(slide_id, "image.tiff", label)


def caption(slide_id: str, label: str | None = None, room: tuple[int, int] = (400, 28)) -> Inscription | None:
    made = caption_for(entry(slide_id, label), cell_with(room), LayoutStyle.fit)
    assert made is None or len(made.lines) == 1
    return made


def drawn(slide_id: str, label: str | None = None, room: tuple[int, int] = (400, 28)) -> NDArray[np.uint8]:
    made = caption(slide_id, label, room)
    assert made is not None
    return painted(made, cell_with(room))


def shown(slide_id: str, label: str | None = None, room: tuple[int, int] = (400, 28)) -> tuple[str, int]:
    made = caption(slide_id, label, room)
    assert made is not None
    return made.lines[0].text, made.lines[0].size


@pytest.mark.large("takes long, and other tests run its branches")
@given(
    slide_id=TEXTS,
    label=st.none() | TEXTS,
    width=st.integers(8, 500),
    height=st.integers(16, 60),
    step=st.integers(1, 70),
)
def test_no_caption_is_cut(slide_id: str, label: str | None, width: int, height: int, step: int) -> None:
    """On a larger ground, all drawn pixels are within the caption's space. Letters are never below the minimum size."""
    made = caption(slide_id, label, (width, height))
    if made is None:
        assert not any(captions.caption_parts(entry(slide_id, label))) or width < 80
        return
    (line,) = made.lines
    assert line.size >= LEAST_LETTERS
    left, top, right, bottom = extent(line.text, line.size)
    assert 0 <= line.x + left <= line.x + right <= width
    assert 40 <= line.y + top <= line.y + bottom <= 40 + height
    whole = painted(made, cell_with((width, height)))
    assert (whole[:40] == GROUND).all()
    assert np.array_equal(painted(made, cell_with((width, height)), step), whole)


def test_captions_shrink_to_half_before_they_are_shortened() -> None:
    assert shown("slide_7", "tumour", (600, 42)) == ("slide_7: tumour", 30)
    columns = np.nonzero((drawn("slide_7", "tumour", (600, 42)) != GROUND).any((0, 2)))[0]
    assert abs(columns[0] - (599 - columns[-1])) <= 4, "it stands in the middle"
    text, size = shown("TCGA-3C-AALI-01Z-00-DX1", "metastasis", (600, 56))
    assert text == "TCGA-3C-AALI-01Z-00-DX1: metastasis"
    assert 20 <= size < 40
    text, size = shown("TCGA-3C-AALI-01Z-00-DX1" * 4, "metastasis", (600, 56))
    head, _, tail = text.partition("…")
    assert (size, head.startswith("TCGA-3C"), tail.endswith("DX1: metastasis")) == (20, True, True)
    assert shown("®00", None, (60, 59)) == ("®00", LEAST_LETTERS), "below half if the ellipsis has no room"
    assert shown("i" * 200, "tumour", (200, 20))[0].endswith("iii: tumour")
    first, second = shown("abcdefgh" * 9, "tumour " * 30, (200, 20))[0].split(": ")
    assert first.count("…") == 1
    assert second.startswith("tumour")
    assert second.endswith("…")


def test_captions_keep_marks_and_leave_out_empty_parts() -> None:
    text, _ = shown("x\u0323\u0307" * 80, None, (200, 20))
    assert set(captions.clusters(text)) == {unicodedata.normalize("NFC", "x\u0323\u0307"), "…"}
    assert shown("Ä" + "\u0316" * 3, "tumour", (200, 12)) == ("A: tumour", LEAST_LETTERS)
    assert "\u0316" in shown("Ä" + "\u0316" * 3, "tumour", (200, 40))[0]
    texts = [shown(slide_id, label)[0] for slide_id, label in (("", "tumour"), ("a", ""), ("a", None), ("a", "b"))]
    assert texts == ["tumour", "a", "a", "a: b"]
    assert [caption("", None), caption(" \n", "\u202e"), caption("abc", None, (5, 28))] == [None] * 3
    assert caption_for(entry("abc"), Cell(0, 0, 0, Box(0, 0, 9, 9), Box(0, 0, 9, 9)), LayoutStyle.fit) is None


def test_a_caption_is_one_readable_line() -> None:
    texts = {
        "a\n\t b\u00a0c\u2028d": "a b c d",
        "\x1b[31m\x7f": r"\x1b[31m\x7f",
        "s\udce9lide": r"s\xe9lide",
        "\ud800x": r"\ud800x",
        "e\u0301": "é",
    }
    texts |= {"\u202eabc\u2069\ufeff\u00ad": "abc", "נקודה": "נקודה", "می\u200cخواهم": "می\u200cخواهم"}
    assert {text: readable(text) for text in texts} == texts


def test_the_font_of_captions_tells_what_it_cannot_draw() -> None:
    """DejaVu 2.37, the version that the predecessor used."""
    assert [has_glyph(letter) for letter in "éש 瘤"] == [True, True, True, False]
    assert undrawable([entry("切片", "瘤 a"), entry("片1"), entry("\n\u202e\udcff", "tumour…")]) == "切片瘤"
    folder = files("himl_cli.slides").joinpath("fonts")
    assert "Version 2.37".encode("utf-16-be") in folder.joinpath("DejaVuSans.ttf").read_bytes()
    assert "Bitstream Vera Fonts Copyright" in folder.joinpath("LICENSE").read_text("utf-8")


@pytest.mark.parametrize(("text", "is_right"), [("שיייי", True), ("ייייש", False)])
def test_caption_is_written_from_right_to_left(text: str, is_right: bool) -> None:
    """The first letter, which is heavy, is at the right end, or at the left if Pillow finds no FriBiDi."""
    ink = (drawn(text) != GROUND).any(2).sum(0)
    columns = np.nonzero(ink)[0]
    middle = (columns[0] + columns[-1]) // 2
    assert (ink[middle:].sum() > ink[:middle].sum()) == (is_right == features.check("fribidi"))


def test_captions_of_several_threads_are_those_of_one() -> None:
    ids = [f"slide_{number}" * (1 + number % 5) for number in range(60)]
    alone = [drawn(each).tobytes() for each in ids]
    with ThreadPoolExecutor(8) as pool:
        assert [each.tobytes() for each in pool.map(drawn, ids)] == alone
