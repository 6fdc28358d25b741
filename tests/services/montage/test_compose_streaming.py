"""Slides that are read while they are painted, because their pixels may not be held."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from himl_cli.core.events import ignore
from himl_cli.core.montage import Box, CellOutcome, ImageFormat, LayoutStyle, MontageRequest, SlideEntry
from himl_cli.services.montage.compose import BAND_BYTES, CellPainter, Progress, painted_bands
from himl_cli.services.montage.layout import fit_layout, himl_layout
from himl_cli.services.montage.query import LocalFolder
from himl_cli.services.montage.slides import Setting, find_sources
from himl_cli.services.montage.threads import Pool
from tests.support.slides import slide_picture, write_mask, write_tiff, zero_tiles

Pixels: TypeAlias = NDArray[np.uint8]
SIZE = (700, 500)
WIDTH = 8_000
"""So wide that the picture has several bands, and no slide of it is resized in one go."""


def painted(
    folder: Path, entries: list[SlideEntry], held: int, style: LayoutStyle = LayoutStyle.fit, *, width: int = WIDTH, band_bytes: int = BAND_BYTES
) -> tuple[Pixels, list[CellOutcome]]:
    """The montage of level 0, where a picture may hold *held* bytes."""
    request = MontageRequest(folder, width, level=0, layout=style, formats=(ImageFormat.png,))
    place = LocalFolder(folder)
    has_masks = any(entry.mask for entry in entries)
    with Pool(2) as pool:
        found = find_sources(entries, place, request.backend, pool)
        fit = style is LayoutStyle.fit
        aspects = [size[0] / size[1] for image, _ in found for size in image.levels[:1]]
        layout = fit_layout(aspects, has_masks=has_masks, width=width) if fit else himl_layout(len(found), has_masks=has_masks, width=width)
        progress = Progress(len(entries), layout.size[1], ignore)
        setting = Setting(request, layout, place, pool, held)
        cells = [CellPainter(cell, entries[cell.entry], found[cell.entry], setting, progress) for cell in layout.cells]
        bands = list(painted_bands(layout, cells, pool, band_bytes))
    assert len(bands) > 3 or band_bytes > BAND_BYTES
    return np.concatenate(bands), [cell.outcome() for cell in cells]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(4):
        write_tiff(tmp_path / f"{seed}.tiff", slide_picture(seed, SIZE), compression="deflate", tile=64)
        write_mask(tmp_path / f"mask-{seed}.tiff", seed=seed, size=SIZE)
    return tmp_path


def entries(*, masks: bool) -> list[SlideEntry]:
    return [SlideEntry(str(seed), f"{seed}.tiff", mask=f"mask-{seed}.tiff" if masks else None) for seed in range(4)]


@pytest.mark.parametrize("style", list(LayoutStyle))
def test_it_makes_no_difference_whether_pixels_are_held(style: LayoutStyle, folder: Path) -> None:
    held, outcomes = painted(folder, entries(masks=True), 1 << 30, style)
    streamed, same = painted(folder, entries(masks=True), 1000, style)
    assert np.abs(held.astype(np.int16) - streamed).max() <= 1
    assert outcomes == same
    assert all(outcome.is_ok for outcome in same)


@pytest.mark.parametrize("style", list(LayoutStyle))
def test_bands_of_any_height_make_the_same_picture(style: LayoutStyle, folder: Path) -> None:
    """Pictures, captions and marks are cut into many rows, and into none."""
    some = [*entries(masks=True)[:2], SlideEntry("gone", "gone.tiff", mask="mask-2.tiff"), SlideEntry("half", "3.tiff", mask="gone.tiff")]
    whole, _ = painted(folder, some, 1 << 30, style, width=1500, band_bytes=1 << 30)
    cut, _ = painted(folder, some, 1 << 30, style, width=1500, band_bytes=1)
    assert np.array_equal(whole, cut)


def test_a_slide_that_fails_in_the_middle_is_marked_from_there(folder: Path) -> None:
    whole, _ = painted(folder, entries(masks=False), 1000)
    across, down = -(-SIZE[0] // 64), -(-SIZE[1] // 64)
    zero_tiles(folder / "2.tiff", range(across * (down // 2), across * down))
    torn, outcomes = painted(folder, entries(masks=False), 1000)
    failed = outcomes[2]
    assert [outcome.is_ok for outcome in outcomes] == [True, True, False, True]
    assert "damaged" in failed.reason
    shown = failed.picture
    assert shown is not None
    assert 0.2 * failed.box.height < shown.height < 0.6 * failed.box.height
    above = slice(shown.y, shown.y + shown.height), slice(shown.x, shown.x + shown.width)
    assert np.array_equal(torn[above], whole[above])
    below = torn[shown.y + shown.height : failed.box.y + failed.box.height, shown.x : shown.x + shown.width]
    assert (below.max(axis=2) == below.min(axis=2)).all()
    assert np.array_equal(outside(torn, failed.box), outside(whole, failed.box))


def test_where_the_pixels_are_held_nothing_of_it_is_shown(folder: Path) -> None:
    zero_tiles(folder / "2.tiff", [80])
    picture, outcomes = painted(folder, entries(masks=False), 1 << 30)
    assert (outcomes[2].is_ok, outcomes[2].picture) == (False, None)
    cell = outcomes[2].box
    shown = picture[cell.y : cell.y + cell.height, cell.x : cell.x + cell.width]
    assert (shown.max(axis=2) == shown.min(axis=2)).all()


def outside(picture: Pixels, box: Box) -> Pixels:
    rest = picture.copy()
    rest[box.y : box.y + box.height, box.x : box.x + box.width] = 0
    return rest
