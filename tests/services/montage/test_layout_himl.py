"""The predecessor's layout, order and captions, against pictures that it made itself.

`golden/*.png` were made by `make_montage` of hi-ml-cpath 0.5.2 with its pinned Pillow 10.0.1, through OpenSlide, from level 1 of the slides and masks beside
them, with the arguments of MADE; its command makes the same `seven.png` of `dataset.csv`. To make them anew, in an environment of Python 3.9:

    pip install hi-ml-cpath==0.5.2 openslide-bin openslide-python "marshmallow<4"
"""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFont, features

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import ignore
from himl_cli.core.montage import Backend, Box, ImageFormat, LayoutStyle, MontageRequest, SlideEntry
from himl_cli.services.montage.compose.making import make_montage
from himl_cli.services.montage.layout import fonts
from himl_cli.services.montage.layout.captions import caption_for
from himl_cli.services.montage.layout.himl import himl_layout, himl_order
from himl_cli.services.montage.layout.himl_captions import himl_caption, letters_that_fit
from himl_cli.services.montage.layout.inscription import Inscription
from himl_cli.services.montage.local_place import LocalPlace
from tests.montages import nearest, resized

if TYPE_CHECKING:
    from numpy.typing import NDArray

GOLDEN = Path(__file__).parent / "golden"
MADE = [
    ("seven", 0, 7, 420, True, False),
    ("seven_masks", 0, 7, 420, True, True),
    ("one", 7, 8, 320, True, False),
    ("two_masks", 0, 2, 300, False, True),
    ("three", 0, 3, 290, False, False),
]
"""Name, first and last slide, width, whether there were labels, and masks."""


def golden(name: str) -> NDArray[np.uint8]:
    with Image.open(GOLDEN / f"{name}.png") as image:
        return np.asarray(image)


def golden_entries(first: int, last: int, has_labels: bool, has_masks: bool) -> list[SlideEntry]:
    with (GOLDEN / "dataset.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[first:last]
    return [SlideEntry(row["slide_id"], row["image"], row["label"] if has_labels else None, row["mask"] if has_masks else None) for row in rows]


def level_1(name: str) -> NDArray[np.uint8]:
    with tifffile.TiffFile(GOLDEN / name) as file:
        pixels = file.pages[1].asarray()
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def part(picture: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    return picture[box.y : box.y + box.height, box.x : box.x + box.width]


def assembled(entries: list[SlideEntry], width: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The montage of *entries*, and where it can be compared: not where letters were too small to be read; without FriBiDi Pillow spaces them otherwise."""
    layout = himl_layout(len(entries), has_masks=entries[0].mask is not None, width=width)
    order = himl_order(entries)
    picture: NDArray[np.uint8] = np.full((layout.size[1], layout.size[0], 3), layout.background, np.uint8)
    is_known: NDArray[np.bool_] = np.ones(picture.shape, np.bool_)
    for cell in layout.cells:
        entry = entries[order[cell.entry]]
        part(picture, cell.image)[:] = resized(level_1(entry.image), cell.image.size)
        if cell.mask is not None and entry.mask is not None:
            part(picture, cell.mask)[:] = nearest(level_1(entry.mask), cell.mask.size) * np.uint8(255)
        caption = caption_for(entry, cell, layout.style)
        assert caption is not None
        assert cell.caption is not None
        caption.paint(part(picture, cell.box), 0)
        if not features.check("fribidi") or not letters_that_fit(entry.title, cell.image.width):
            part(is_known, cell.caption)[:] = False
    return picture, is_known


@pytest.mark.parametrize(("name", "first", "last", "width", "has_labels", "has_masks"), MADE)
def test_every_pixel_is_that_of_the_predecessor(name: str, first: int, last: int, width: int, has_labels: bool, has_masks: bool) -> None:
    made, is_known = assembled(golden_entries(first, last, has_labels, has_masks), width)
    wanted = golden(name)
    assert made.shape == wanted.shape
    assert np.array_equal(made[is_known], wanted[is_known])


@pytest.mark.parametrize("backend", [Backend.tifffile, Backend.openslide])
@pytest.mark.parametrize(("name", "first", "last", "width", "has_labels", "has_masks"), MADE)
def test_the_whole_way_from_files_to_a_file_gives_the_same(
    tmp_path: Path, backend: Backend, name: str, first: int, last: int, width: int, has_labels: bool, has_masks: bool
) -> None:
    request = MontageRequest(tmp_path / "out", width, layout=LayoutStyle.himl, formats=(ImageFormat.png,), backend=backend, workers=2)
    entries = golden_entries(first, last, has_labels, has_masks)
    result = make_montage(request, entries, LocalPlace(GOLDEN), ignore)
    assert [cell.reason for cell in result.cells] == [""] * len(entries)
    _, is_known = assembled(entries, width)
    with Image.open(tmp_path / "out" / "montage.png") as image:
        assert np.array_equal(np.asarray(image)[is_known], golden(name)[is_known])


@pytest.mark.parametrize(("count", "columns", "with_masks"), [(1, 1, 1), (2, 1, 1), (7, 3, 2), (9, 4, 2), (200, 18, 13), (5000, 94, 66)])
def test_columns_and_sizes(count: int, columns: int, with_masks: int) -> None:
    for has_masks, expected in ((False, columns), (True, with_masks)):
        pictures = 2 if has_masks else 1
        layout = himl_layout(count, has_masks=has_masks, width=60_000)
        wide = 60_000 // expected // pictures
        assert layout.columns == expected
        assert {cell.image.size for cell in layout.cells} == {(wide, wide // 2)}
        assert {cell.box.width for cell in layout.cells} == {wide * pictures}
        line = 0 if count == 1 else 2
        assert layout.size == (expected * (wide * pictures + line) + line, layout.rows * (wide // 2 + line) + line)
        last = layout.cells[-1]
        assert last.row == layout.rows - 1
        assert (last.box.x, last.box.y) == (line + last.column * (wide * pictures + line), line + last.row * (wide // 2 + line))


def test_a_width_that_is_too_small_is_refused_with_the_one_that_will_do() -> None:
    with pytest.raises(BadUsage, match="A picture 375 pixels wide has no room for 5,000 slides") as raised:
        himl_layout(5000, has_masks=False, width=375)
    assert "at least 376." in raised.value.hint
    assert himl_layout(5000, has_masks=False, width=376).cells[0].image.size == (4, 2)
    with pytest.raises(BadUsage, match="no slides"):
        himl_layout(0, has_masks=False, width=376)


def test_the_order_is_that_of_file_names_and_nothing_is_lost() -> None:
    ids = ["b", "a", "a-b", "10", "9", "B", "é", "a", "x/y", "a b", ""]
    order = himl_order([SlideEntry(each, f"{number}.tiff") for number, each in enumerate(ids)])
    assert [ids[number] for number in order] == ["", "10", "9", "B", "a b", "a-b", "a", "a", "b", "x/y", "é"]
    assert order.index(1) + 1 == order.index(7)


def drawn_by_pillow(text: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The predecessor's caption as this Pillow draws it, on grey."""
    image = Image.new("RGB", size, (200, 190, 180))
    letters = next(each for each in range(48, 0, -2) if fonts.extent(text, each)[2] < size[0])
    font = ImageFont.truetype(Path(fonts.__file__).parent / "fonts" / fonts.FONT, letters)
    draw = ImageDraw.Draw(image)
    _, _, right, bottom = draw.textbbox((0, 0), text, font)
    draw.text((size[0] // 2 - right // 2, size[1] * 0.9 - bottom // 2), text, fill=(27, 77, 40), font=font, align="center")
    return np.asarray(image)


def painted(made: Inscription, size: tuple[int, int], step: int) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = np.full((size[1], size[0], 3), (200, 190, 180), np.uint8)
    for top in range(0, size[1], step):
        made.paint(rows[top : top + step], top)
    return rows


@pytest.mark.parametrize("size", [(300, 150), (331, 166), (57, 28), (900, 450), (40, 7), (500, 3)])
@pytest.mark.parametrize("text", ["slide_7", "A i", "2 words", "a label", "Ä\u0301\u0301\u0301gj", "שלום", "切"])
def test_a_caption_lies_where_pillow_draws_it_on_the_whole_picture(text: str, size: tuple[int, int]) -> None:
    made = himl_caption(SlideEntry(text, "x"), size)
    assert made is not None
    wanted = drawn_by_pillow(text, size)
    whole = painted(made, size, size[1])
    letters_that_touch = (whole != wanted).any(2)
    assert letters_that_touch.sum() <= len(text)
    assert (whole[letters_that_touch] >= wanted[letters_that_touch]).all()
    for step in (1, 5):
        assert np.array_equal(painted(made, size, step), whole)


def test_letters_shrink_step_by_step() -> None:
    randomly = random.Random(1)
    for _ in range(60):
        text = "".join(randomly.choices("abcfiltWAVM 0123_-:.éñ", k=randomly.randint(1, 90)))
        width = randomly.randint(4, 900)
        first = next((size for size in range(48, 7, -2) if fonts.extent(text, size)[2] < width), 0)
        assert letters_that_fit(text, width) == first


def test_a_caption_that_would_be_too_small_to_be_read_is_shortened() -> None:
    made = himl_caption(SlideEntry("abcdefghi" * 5, "x", "tumour"), (180, 90))  # the predecessor's letters are 6 pixels high here
    assert made is not None
    (line,) = made.lines
    assert line.size == 8
    assert line.text.startswith("abc")
    assert "…" in line.text
    assert line.text.endswith("i: tumour")
    assert (painted(made, (180, 90), 90) != (200, 190, 180)).any()
    assert himl_caption(SlideEntry("abcdefghi" * 30, "x"), (4, 2)) is None
    assert himl_caption(SlideEntry("", "x"), (180, 90)) is None


def test_a_shortened_caption_is_not_cut_by_the_lower_edge() -> None:
    made = himl_caption(SlideEntry("abcdefghi" * 30, "x"), (60, 30))
    assert made is not None
    (line,) = made.lines
    assert "…" in line.text
    assert line.y + fonts.extent(line.text, line.size)[3] <= 30
    assert line.y + fonts.extent(line.text, line.size)[1] >= 0


@pytest.mark.parametrize("odd", ["\n", "\r", "\x1c", "\x1d", "\x1e", "\x85", "\u2029", "\r\n", "\0", "\u2028", "\x1b", "\t", "\x07"])
def test_line_breaks_and_control_characters_are_spaces(odd: str) -> None:
    for text in (odd, f"a{odd}b"):
        made = himl_caption(SlideEntry(text, "x"), (400, 200))
        assert made is not None
        assert made.lines[0].text == text.replace(odd, " ")
        painted(made, (400, 200), 200)
    made = himl_caption(SlideEntry(f"ab{odd}" * 80, "x"), (100, 50))
    assert made is not None
    assert "\\x" not in made.lines[0].text


def test_a_name_of_odd_bytes_is_written_with_escapes() -> None:
    made = himl_caption(SlideEntry("s\udce9lide", "x"), (400, 200))
    assert made is not None
    assert made.lines[0].text == r"s\xe9lide"
