"""Masks in a montage: where they stand, in which colours, and what becomes of a slide whose mask is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from himl_cli.core.events import ignore
from himl_cli.core.montage import LayoutStyle
from himl_cli.services.montage.compose import make_montage
from himl_cli.services.montage.layout import fit_layout, fitted
from himl_cli.services.montage.resampling import quick
from himl_cli.services.montage.slides import PALETTE
from tests.services.montage.composed import SIZES, Slides, box_of, cut, pixels, request
from tests.services.montage.composed import slides as slides
from tests.support.montages import resized
from tests.support.slides import reduced, write_mask


def test_masks_are_drawn_beside_slides_in_label_colours(slides: Slides, tmp_path: Path) -> None:
    labels = write_mask(slides.folder / "mask.tiff", seed=0, size=SIZES[0])
    entries = [replace(slides.entries[0], mask="mask.tiff"), slides.entries[1]]
    result = make_montage(request(tmp_path), entries, slides.place, ignore)
    room = fit_layout([width / height for width, height in SIZES[:2]], has_masks=True, width=1000).cells[0].mask
    assert room is not None
    box = fitted(room, SIZES[0])
    shown = cut(pixels(result), box)
    assert np.array_equal(shown, PALETTE[np.asarray(Image.fromarray(reduced(labels, 2)).resize(box.size, Image.Resampling.NEAREST))])
    assert {tuple(colour) for colour in shown.reshape(-1, 3).tolist()} <= {tuple(colour) for colour in PALETTE[:6].tolist()}
    assert result.cells[1].is_ok


def test_a_slide_without_a_mask_stands_in_the_middle_of_its_cell(slides: Slides, tmp_path: Path) -> None:
    write_mask(slides.folder / "mask.tiff", seed=0, size=SIZES[0])
    entries = [replace(slides.entries[0], mask="mask.tiff"), slides.entries[1]]
    with_mask, without = make_montage(request(tmp_path), entries, slides.place, ignore).cells
    box = box_of(without)
    assert abs((box.x - without.box.x) - (without.box.x + without.box.width - box.x - box.width)) <= 1
    assert box_of(with_mask).x + box_of(with_mask).width < with_mask.box.x + with_mask.box.width / 2


def test_masks_of_shades_stay_as_they_are(slides: Slides, tmp_path: Path) -> None:
    Image.fromarray(np.tile(np.arange(0, 250, 2, dtype=np.uint8), (80, 1))).save(slides.folder / "shades.png")
    result = make_montage(request(tmp_path), [replace(slides.entries[0], mask="shades.png")], slides.place, ignore)
    cell = result.cells[0].box
    middle = pixels(result)[box_of(result.cells[0]).y + box_of(result.cells[0]).height // 2, cell.x + cell.width // 2 + 20 : cell.x + cell.width - 5]
    assert (middle == middle[:, :1]).all()
    assert middle.max() > 200
    assert (np.diff(middle[:, 0].astype(int)) >= 0).all()


def test_the_predecessors_masks_are_multiplied_by_255(slides: Slides, tmp_path: Path) -> None:
    labels = write_mask(slides.folder / "mask.tiff", seed=0, size=SIZES[0])
    result = make_montage(request(tmp_path, layout=LayoutStyle.himl), [replace(slides.entries[0], mask="mask.tiff")], slides.place, ignore)
    picture = pixels(result)
    half = picture.shape[1] // 2
    expected = np.asarray(Image.fromarray(reduced(labels, 2)).resize((half, picture.shape[0]), Image.Resampling.NEAREST)) * np.uint8(255)
    assert np.array_equal(picture[:, half:], np.repeat(expected[:, :, None], 3, axis=2))


def test_the_predecessors_missing_masks_are_green(slides: Slides, tmp_path: Path) -> None:
    """In hi-ml-cpath 0.5.2, `default_mask_color` of `_make_thumbnail`."""
    write_mask(slides.folder / "mask.tiff", seed=0, size=SIZES[0])
    entries = [replace(each, mask=mask) for each, mask in zip(slides.entries, ("mask.tiff", "gone.tiff", None), strict=False)]
    result = make_montage(request(tmp_path, layout=LayoutStyle.himl), entries, slides.place, ignore)
    shown = [cut(pixels(result), cell.box)[:, cell.box.width // 2 :] for cell in result.cells]
    assert [bool((each == (119, 161, 120)).all()) for each in shown] == [False, True, True]
    assert [cell.reason.partition(":")[0] for cell in result.cells] == ["", "mask", ""]
    beside = cut(pixels(result), result.cells[1].box)[: result.cells[1].box.height // 2, : result.cells[1].box.width // 2]
    assert np.array_equal(beside, resized(slides.pictures[1], (beside.shape[1], result.cells[1].box.height))[: len(beside)])


def test_a_mask_that_cannot_be_read_leaves_its_slide(slides: Slides, tmp_path: Path) -> None:
    result = make_montage(request(tmp_path), [replace(slides.entries[0], mask="gone.tiff")], slides.place, ignore)
    (cell,) = result.cells
    assert cell.is_ok
    assert cell.reason.startswith("mask: ")
    picture = pixels(result)
    assert np.array_equal(cut(picture, box_of(cell)), resized(slides.pictures[0], box_of(cell).size, quick()))
    right = cut(picture, cell.box)[:, cell.box.width // 2 + 10 :]
    assert (right < 250).any()
