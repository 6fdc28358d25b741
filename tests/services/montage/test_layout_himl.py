"""The predecessor's layout and order, against pictures that it made itself.

`golden/*.png` were made by `make_montage` of hi-ml-cpath 0.5.2 with its pinned Pillow 10.0.1, through OpenSlide, from level 1 of the slides and masks beside
them, with the arguments of MADE; its command makes the same `seven.png` of `dataset.csv`. To make them anew, in an environment of Python 3.9:

    pip install hi-ml-cpath==0.5.2 openslide-bin openslide-python "marshmallow<4"
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import ignore
from himl_cli.core.montage import Backend, Box, ImageFormat, LayoutStyle, MontageRequest, SlideEntry
from himl_cli.services.montage.compose import make_montage
from himl_cli.services.montage.layout import himl_layout, himl_order
from himl_cli.services.montage.query import LocalFolder
from tests.support.montages import nearest, resized

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
    """The montage of *entries*, and where it can be compared: not where captions are."""
    layout = himl_layout(len(entries), has_masks=entries[0].mask is not None, width=width)
    order = himl_order(entries)
    picture: NDArray[np.uint8] = np.full((layout.size[1], layout.size[0], 3), layout.background, np.uint8)
    is_known: NDArray[np.bool_] = np.ones(picture.shape, np.bool_)
    for cell in layout.cells:
        entry = order[cell.entry]
        part(picture, cell.image)[:] = resized(level_1(entry.image), cell.image.size)
        if cell.mask is not None and entry.mask is not None:
            part(picture, cell.mask)[:] = nearest(level_1(entry.mask), cell.mask.size) * np.uint8(255)
        assert cell.caption is not None
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
    result = make_montage(request, entries, LocalFolder(GOLDEN), ignore)
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


def test_too_small_width_is_refused_with_smallest_valid_one() -> None:
    with pytest.raises(BadUsage, match="A picture 375 pixels wide has no room for 5,000 slides") as raised:
        himl_layout(5000, has_masks=False, width=375)
    assert "at least 376." in raised.value.hint
    assert himl_layout(5000, has_masks=False, width=376).cells[0].image.size == (4, 2)
    with pytest.raises(BadUsage, match="no slides"):
        himl_layout(0, has_masks=False, width=376)


def test_the_order_is_that_of_file_names_and_nothing_is_lost() -> None:
    ids = ["b", "a", "a-b", "10", "9", "B", "é", "a", "x/y", "a b", ""]
    order = himl_order([SlideEntry(each, f"{number}.tiff") for number, each in enumerate(ids)])
    assert [entry.slide_id for entry in order] == ["", "10", "9", "B", "a b", "a-b", "a", "a", "b", "x/y", "é"]
    assert [entry.image for entry in order if entry.slide_id == "a"] == ["1.tiff", "7.tiff"]
