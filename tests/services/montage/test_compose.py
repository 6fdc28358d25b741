"""The whole way from slides to files, against pictures that are put together by hand."""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Counted, Counting, Event, Notice, ignore
from himl_cli.core.montage import ImageFormat, LayoutStyle, SlideEntry
from himl_cli.services.montage.compose import make_montage
from himl_cli.services.montage.resampling import quick
from himl_cli.services.montage.slides import PALETTE
from tests.services.montage.composed import SIZES, Slides, box_of, cut, pixels, request
from tests.services.montage.composed import slides as slides
from tests.support.montages import resized
from tests.support.slides import not_utf8_name, slide_picture, write_broken, write_mask


def test_each_slide_lies_in_its_cell_with_its_proportions(slides: Slides, tmp_path: Path) -> None:
    result = make_montage(request(tmp_path), slides.entries, slides.place, ignore)
    picture = pixels(result)
    assert picture.shape == (result.size[1], 1000, 3)
    assert [cell.slide_id for cell in result.cells] == [entry.slide_id for entry in slides.entries]
    for cell, shown, size in zip(result.cells, slides.pictures, SIZES, strict=True):
        assert (cell.is_ok, cell.level, cell.backend, cell.reason) == (True, 1, "tifffile", "")
        box = box_of(cell)
        assert abs(box.width / box.height - size[0] / size[1]) < 0.02 * size[0] / size[1]
        assert np.array_equal(cut(picture, box), resized(shown, box.size, quick()))
    outside = picture.copy()
    for cell in result.cells:
        cut(outside, cell.box)[:] = 255
    assert (outside == 255).all()


def test_captions_stand_in_their_cells(slides: Slides, tmp_path: Path) -> None:
    result = make_montage(request(tmp_path), slides.entries, slides.place, ignore)
    picture = pixels(result).copy()
    for cell in result.cells:
        cut(picture, box_of(cell))[:] = 255
        assert cut(picture, cell.box).min() < 100


@pytest.mark.parametrize("style", list(LayoutStyle))
@pytest.mark.parametrize("width", [300, 3000])
def test_the_number_of_workers_changes_no_pixel(style: LayoutStyle, width: int, slides: Slides, tmp_path: Path) -> None:
    """Shrunk and grown; a slide that fails among them."""
    entries = [*slides.entries, SlideEntry("broken", write_broken("zeroed-some", slides.folder).name), SlideEntry("gone", "gone.tiff")]
    made = []
    for workers in (1, 8):
        asked = request(tmp_path, width, layout=style, workers=workers, output=tmp_path / str(workers))
        made.append(make_montage(asked, entries, slides.place, ignore))
    assert np.array_equal(pixels(made[0]), pixels(made[1]))
    assert made[0].cells == made[1].cells
    assert [cell.slide_id for cell in made[0].failed] == ["broken", "gone"]


def test_the_predecessors_layout_stretches_and_sorts(slides: Slides, tmp_path: Path) -> None:
    result = make_montage(request(tmp_path, layout=LayoutStyle.himl), list(reversed(slides.entries)), slides.place, ignore)
    picture = pixels(result)
    assert [cell.slide_id for cell in result.cells] == [entry.slide_id for entry in slides.entries]
    for cell, shown in zip(result.cells, slides.pictures, strict=True):
        assert cell.picture == cell.box
        above_caption = cut(picture, cell.box)[: cell.box.height // 2]
        assert np.array_equal(above_caption, resized(shown, cell.box.size)[: cell.box.height // 2])


def test_slides_that_cannot_be_read_are_marked_and_recorded(slides: Slides, tmp_path: Path) -> None:
    broken = write_broken("zeroed-some", slides.folder).name
    entries = [SlideEntry("late", broken), SlideEntry("gone", "gone.tiff"), SlideEntry("none", ""), *slides.entries]
    result = make_montage(request(tmp_path, level=0), entries, slides.place, ignore)
    assert [(cell.slide_id, cell.is_ok, cell.picture) for cell in result.failed] == [(each, False, None) for each in ("late", "gone", "none")]
    assert all(cell.reason for cell in result.failed)
    picture = pixels(result)
    for cell in result.failed:
        room = cut(picture, cell.box)[: cell.box.width // 3]
        assert (room.max(axis=2) == room.min(axis=2)).all()  # grey: nothing of the slide is there
        assert (room < 255).mean() > 0.1
    with (tmp_path / "out" / "montage.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["failed"] * 3 + ["ok"] * 5
    assert [row["reason"] for row in rows[:3]] == [cell.reason for cell in result.failed]


def test_a_missing_level_is_replaced_and_told_once(slides: Slides, tmp_path: Path) -> None:
    heard: list[Event] = []
    result = make_montage(request(tmp_path, level=5), slides.entries, slides.place, heard.append)
    assert {cell.level for cell in result.cells} == {1}
    assert all(cell.remark for cell in result.cells)
    told = [event.text for event in heard if isinstance(event, Notice)]
    assert told == ["Level 5 is missing in 5 slides: the nearest one was read. The column 'remark' of montage.csv tells which."]


def test_a_level_is_chosen_for_the_cell(slides: Slides, tmp_path: Path) -> None:
    small = make_montage(request(tmp_path, 300, level=None), slides.entries, slides.place, ignore)
    large = make_montage(request(tmp_path, 3000, level=None), slides.entries, slides.place, ignore)
    assert {cell.level for cell in small.cells} == {1}
    assert {cell.level for cell in large.cells} == {0}
    assert not any(cell.remark for cell in (*small.cells, *large.cells))


@pytest.mark.parametrize("level", [0, 1, None])
def test_without_a_width_no_slide_is_enlarged(level: int | None, slides: Slides, tmp_path: Path) -> None:
    """The masks of those that are smaller than their cells are as large as they are, and not as large as the cells."""
    labels = write_mask(slides.folder / "mask.tiff", seed=4, size=(150, 100), levels=1)
    entries = [*slides.entries[:4], replace(slides.entries[4], mask="mask.tiff")]
    heard: list[Event] = []
    result = make_montage(request(tmp_path, width=None, level=level), entries, slides.place, heard.append)
    picture, small = pixels(result), result.cells[4]
    read = [(size[0] // (1 + (cell.level or 0)), size[1] // (1 + (cell.level or 0))) for cell, size in zip(result.cells, SIZES, strict=True)]
    assert all(box_of(cell).width <= size[0] and box_of(cell).height <= size[1] for cell, size in zip(result.cells, read, strict=True))
    assert box_of(small).size == read[4]
    shown = np.asarray(Image.fromarray(PALETTE[labels]).resize(read[4], Image.Resampling.NEAREST))
    room = cut(picture, small.box)[:, small.box.width // 2 :]
    places = [(y, x) for y in range(room.shape[0] - read[4][1]) for x in range(room.shape[1] - read[4][0]) if (room[y, x] == shown[0, 0]).all()]
    assert any(np.array_equal(room[y : y + read[4][1], x : x + read[4][0]], shown) for y, x in places)
    assert not [event for event in heard if isinstance(event, Notice)]


def test_every_slide_is_counted_once(slides: Slides, tmp_path: Path) -> None:
    heard: list[Event] = []
    entries = [*slides.entries, SlideEntry("gone", "gone.tiff"), *slides.entries]
    make_montage(request(tmp_path), entries, slides.place, heard.append)
    assert [event for event in heard if isinstance(event, Counting)] == [Counting("slides", 11)]
    assert Counter(type(event) for event in heard)[Counted] == 11


def test_all_formats_show_the_same(slides: Slides, tmp_path: Path) -> None:
    result = make_montage(request(tmp_path, formats=tuple(ImageFormat)), slides.entries, slides.place, ignore)
    assert [path.name for path in result.files] == ["montage.png", "montage.jpg", "index.html", "montage.dzi", "montage.csv"]
    assert all(path.is_file() for path in result.files)
    assert result.jpg_size == result.size
    difference = np.abs(pixels(result).astype(int) - pixels(result, "montage.jpg"))
    assert difference.mean() < 3
    with Image.open(tmp_path / "out" / "montage_files" / str((max(result.size) - 1).bit_length()) / "0_0.jpg") as tile:
        assert np.abs(np.asarray(tile).astype(int) - pixels(result)[: tile.height, : tile.width]).mean() < 3
    assert sorted(os.listdir(tmp_path / "out")) == ["index.html", "montage.csv", "montage.dzi", "montage.jpg", "montage.png", "montage_files"]


@pytest.mark.parametrize("style", list(LayoutStyle))
def test_a_width_without_room_leaves_no_folder(style: LayoutStyle, slides: Slides, tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="no room"):
        make_montage(request(tmp_path, 2, layout=style), slides.entries, slides.place, ignore)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="there are no such names")
def test_names_that_are_no_utf_8_are_read_and_recorded(slides: Slides, tmp_path: Path) -> None:
    name = not_utf8_name()
    (slides.folder / "0.tiff").rename(slides.folder / name)
    result = make_montage(request(tmp_path), [SlideEntry(name, name)], slides.place, ignore)
    assert result.cells[0].is_ok
    text = (tmp_path / "out" / "montage.csv").read_text(encoding="utf-8")
    assert "slide-\\xff\\xe9.tiff" in text


@pytest.mark.parametrize("count", [1, 2, 700])
def test_any_number_of_slides(count: int, slides: Slides, tmp_path: Path) -> None:
    Image.fromarray(slide_picture(1, (24, 18))).save(slides.folder / "small.png")
    entries = [SlideEntry(f"{number}", "small.png") for number in range(count)]
    result = make_montage(request(tmp_path, 2000), entries, slides.place, ignore)
    assert len(result.cells) == count
    assert not result.failed
    last = box_of(result.cells[-1])
    assert np.array_equal(cut(pixels(result), last), resized(slide_picture(1, (24, 18)), last.size, quick()))


def test_new_montage_removes_files_of_earlier_montage(slides: Slides, tmp_path: Path) -> None:
    make_montage(request(tmp_path, formats=tuple(ImageFormat)), slides.entries, slides.place, ignore)
    heard: list[Event] = []
    make_montage(request(tmp_path), slides.entries[:2], slides.place, heard.append)
    assert sorted(os.listdir(tmp_path / "out")) == ["montage.csv", "montage.png"]
    (told,) = [event.text for event in heard if isinstance(event, Notice)]
    assert told.startswith("montage.jpg, index.html, montage.dzi and montage_files of an earlier montage were removed")


def test_files_that_are_not_known_to_be_ours_stay(slides: Slides, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("montage.jpg", "index.html"):
        (out / name).write_text("mine")
    heard: list[Event] = []
    make_montage(request(tmp_path), slides.entries, slides.place, heard.append)
    assert sorted(os.listdir(out)) == ["index.html", "montage.csv", "montage.jpg", "montage.png"]
    (told,) = [event.text for event in heard if isinstance(event, Notice)]
    assert "montage.jpg in" in told
    assert "is older than this montage" in told
