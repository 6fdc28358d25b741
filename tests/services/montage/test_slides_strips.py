from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from himl_cli.core.montage import Backend, Size
from himl_cli.services.montage.slides import level_for, open_slide
from himl_cli.services.montage.tiff import STRIP_BYTES, Level, level_pages
from tests.services.montage.test_slides_kinds import difference
from tests.support.slides import SIZE, slide_picture, write_tiff

LEVELS: list[Size] = [(8000, 6000), (2000, 1500), (500, 375)]


@pytest.mark.parametrize(
    ("asked", "wanted", "level"),
    [
        (0, (1, 1), 0),
        (1, (1, 1), 1),
        (2, (9999, 9999), 2),
        (None, (500, 375), 2),
        (None, (501, 1), 1),
        (None, (1, 376), 1),
        (None, (2000, 1500), 1),
        (None, (2001, 1500), 0),
        (None, (20_000, 20_000), 0),
    ],
)
def test_the_level_asked_for_or_the_coarsest_that_fills_the_cell(asked: int | None, wanted: Size, level: int) -> None:
    assert level_for(LEVELS, asked, wanted) == (level, "")


def test_missing_level_is_replaced_by_nearest_and_reported() -> None:
    assert level_for(LEVELS, 7, (1, 1)) == (2, "level 7 is missing (levels 0 to 2 are there): level 2 was read")
    assert level_for(LEVELS[:1], 1, (1, 1)) == (0, "level 1 is missing (level 0 is the only one): level 0 was read")


def rows_of_strips(path: Path, backend: Backend = Backend.auto) -> list[int]:
    slide = open_slide(path, backend)
    try:
        return [len(strip) for strip in slide.strips(0, None)]
    finally:
        slide.close()


@pytest.mark.parametrize(("rows", "expected"), [(1, [64] * 6 + [46]), (7, [70] * 6 + [10]), (100, [100] * 4 + [30]), (430, [430])])
def test_strips_of_few_rows_are_joined(tmp_path: Path, rows: int, expected: list[int]) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), tile=None, compression="deflate", rowsperstrip=rows)
    assert rows_of_strips(path) == expected


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("tile", [None, (6016, 1008)])
def test_one_segment_for_all_comes_in_parts(tmp_path: Path, compression: str | None, tile: Size | None) -> None:
    path = tmp_path / "slide.tiff"
    picture = np.tile(slide_picture(0, (600, 500)), (2, 10, 1))
    write_tiff(path, picture, tile=tile, compression=compression, rowsperstrip=None if tile else 1000)
    slide = open_slide(path, Backend.auto)
    strips = list(slide.strips(0, None))
    slide.close()
    assert max(strip.nbytes for strip in strips) <= STRIP_BYTES
    assert difference(np.concatenate(strips), picture) == 0


def test_planes_of_uncompressed_strips(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    picture = slide_picture(0)
    planes = np.ascontiguousarray(np.moveaxis(picture, 2, 0)).astype(np.uint16) * 257
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", rowsperstrip=90, byteorder=">", metadata=None)
    slide = open_slide(path, Backend.auto)
    assert difference(np.concatenate(list(slide.strips(0, None))), picture) == 0
    slide.close()


def test_a_row_of_tiles_that_is_too_large_is_made_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "slide.tiff"
    write_tiff(path, slide_picture(0), tile=256, compression="deflate")
    with tifffile.TiffFile(path) as file:
        (page,) = level_pages(file)
        strips = list(Level(page, 0, as_labels=False).strips(band_bytes=100 * 3 * SIZE[0]))
    assert [len(strip) for strip in strips] == [100, 100, 56, 100, 74]
    assert difference(np.concatenate(strips), slide_picture(0)) == 0
