"""Deep Zoom pyramids that are written band by band."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.services.montage.pyramid import DeepZoom, Tiling
from tests.support.folders import SmallDisk, contents

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = [(1, 1), (2, 1), (510, 510), (511, 511), (512, 512), (1021, 1019), (1531, 7), (3, 2049), (1300, 901)]


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """Noise over a slope: every pixel counts, and JPEG keeps much of it."""
    noise = np.random.default_rng(width * 7 + height).integers(0, 40, (height, width, 3))
    slope = np.linspace(0, 200, width).astype(int)[None, :, None]
    return (noise + slope).astype(np.uint8)


def write_whole(folder: Path, pixels: NDArray[np.uint8], pool: Executor, *heights: int) -> DeepZoom:
    """In bands of these heights, then the rest at once."""
    sink = DeepZoom(folder, (pixels.shape[1], pixels.shape[0]), pool)
    top = 0
    for height in heights:
        sink.write(pixels[top : top + height])
        top = min(len(pixels), top + height)
    sink.write(pixels[top:])
    sink.finish()
    return sink


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of what there is in each 2 x 2 pixels, by floats."""
    height, width, _ = pixels.shape
    padded = np.full((height + height % 2, width + width % 2, 3), np.nan)
    padded[:height, :width] = pixels
    blocks = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, 3)
    return np.floor(np.nanmean(blocks, axis=(1, 3)) + 0.5).astype(np.uint8)


def names_of(tiling: Tiling) -> set[str]:
    """Of all its tiles."""
    grids = [(level, *tiling.grid_of(level)) for level in range(tiling.levels)]
    return {tiling.name_of(level, column, row) for level, columns, rows in grids for column in range(columns) for row in range(rows)}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("heights", [(), (1,) * 5, (509, 1, 1, 2, 507, 3)], ids=["whole", "single rows", "about a tile"])
def test_tiles_are_those_of_the_whole_picture(tmp_path: Path, pool: Executor, size: tuple[int, int], heights: tuple[int, ...]) -> None:
    pixels = picture(*size)
    tiling = write_whole(tmp_path, pixels, pool, *heights).tiling
    assert set(contents(tmp_path)) == {"montage.dzi", *names_of(tiling)}
    for level in reversed(range(tiling.levels)):
        columns, rows = tiling.grid_of(level)
        for column, row in ((column, row) for row in range(rows) for column in range(columns)):
            x, y = max(0, column * 510 - 1), max(0, row * 510 - 1)
            shown = np.ascontiguousarray(pixels[y : row * 510 + 511, x : column * 510 + 511])
            expected = imagecodecs.jpeg8_encode(shown, level=90, subsampling="420")
            assert (tmp_path / tiling.name_of(level, column, row)).read_bytes() == expected, (level, column, row)
        pixels = halved(pixels)
    assert pixels.shape == (1, 1, 3)


def test_tiles_look_like_pillows(tmp_path: Path, pool: Executor) -> None:
    from PIL import Image

    pixels = picture(1300, 901)
    tiling = write_whole(tmp_path, pixels, pool).tiling
    with Image.open(tmp_path / tiling.name_of(tiling.levels - 1, 1, 1)) as tile:
        shown = np.asarray(tile)
    encoded = BytesIO()
    Image.fromarray(pixels[509:901, 509:1021]).save(encoded, "JPEG", quality=90)
    assert np.array_equal(shown, np.asarray(Image.open(encoded)))


@pytest.mark.parametrize("size", [*SIZES, (20_001, 30)], ids=str)
def test_the_pyramid_is_laid_out_as_libvips_does_it(tmp_path: Path, pool: Executor, size: tuple[int, int]) -> None:
    import pyvips

    pixels = picture(*size)
    write_whole(tmp_path / "ours", pixels, pool)
    (tmp_path / "theirs").mkdir()
    pyvips.Image.new_from_array(pixels).dzsave(str(tmp_path / "theirs" / "montage"), tile_size=510, overlap=1, suffix=".jpg", depth="onepixel")
    ours, theirs = (ElementTree.parse(tmp_path / which / "montage.dzi").getroot() for which in ("ours", "theirs"))
    assert (ours.tag, dict(ours.attrib)) == (theirs.tag, dict(theirs.attrib))
    assert [(part.tag, dict(part.attrib)) for part in ours] == [(part.tag, dict(part.attrib)) for part in theirs]
    names = set(contents(tmp_path / "ours"))
    assert names == {name for name in set(contents(tmp_path / "theirs")) if not name.endswith("vips-properties.xml")}
    for name in names - {"montage.dzi"}:
        mine, other = (pyvips.Image.new_from_file(str(tmp_path / which / name), fail_on="warning") for which in ("ours", "theirs"))
        assert (mine.width, mine.height, mine.bands) == (other.width, other.height, other.bands), name
        assert abs(mine.avg() - other.avg()) < 4, name


def test_memory_does_not_grow_with_the_height(tmp_path: Path, pool: Executor) -> None:
    width, band = 1000, np.tile(picture(1000, 10), (20, 1, 1))
    tracemalloc.start()
    try:
        sink = DeepZoom(tmp_path, (width, len(band) * 100), pool)
        for _ in range(100):
            sink.write(band)
        sink.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < width * 512 * 3 * 2 + (12 << 20) < width * len(band) * 100 * 3 / 3


def test_the_widest_picture(tmp_path: Path, pool: Executor) -> None:
    pixels = np.tile(picture(1000, 3), (1, 200, 1))
    tiling = write_whole(tmp_path, pixels, pool, 1).tiling
    assert tiling.levels == 19
    assert set(contents(tmp_path)) == {"montage.dzi", *names_of(tiling)}
    last = imagecodecs.jpeg8_decode((tmp_path / tiling.name_of(18, 392, 0)).read_bytes())
    assert last.shape == (3, 200_000 - 392 * 510 + 1, 3)


def write_whole_of(sink: DeepZoom, *bands: NDArray[np.uint8]) -> None:
    for band in bands:
        sink.write(band)
    sink.finish()


def test_a_full_disk_is_told_and_nothing_is_left_waiting(small_disk: SmallDisk, pool: Executor) -> None:
    if not small_disk.is_shared:
        pytest.skip("NEEDS a small disk that the test itself sees (root)")
    band = picture(4000, 200)
    sink = DeepZoom(small_disk.folder, (4000, 200 * 50), pool)
    with pytest.raises(DiskFailed, match=r"Cannot write '.*\.jpg': no space left on the disk\."):
        write_whole_of(sink, *[band] * 50)
    sink.abort()
    assert pool.submit(len, "free").result(60) == 4


def test_a_folder_that_is_a_file_is_told(tmp_path: Path, pool: Executor) -> None:
    (tmp_path / "montage_files").write_text("in the way")
    with pytest.raises(DiskFailed, match=r"Cannot make the folder '.*montage_files"):
        DeepZoom(tmp_path, (80, 100), pool)


def test_stopping_makes_no_more_tiles(tmp_path: Path) -> None:
    may_go_on = Event()
    with ThreadPoolExecutor(1) as busy:
        busy.submit(may_go_on.wait, 60)
        sink = DeepZoom(tmp_path, (2000, 1000), busy)
        sink.write(picture(2000, 511))
        sink.abort()
        may_go_on.set()
        assert busy.submit(len, "free").result(60) == 4
    assert set(contents(tmp_path)) == set()
    sink.abort()


def test_a_finished_one_can_be_stopped(tmp_path: Path, pool: Executor) -> None:
    write_whole(tmp_path, picture(80, 100), pool).abort()
    assert (tmp_path / "montage.dzi").exists()


def test_tiles_cover_each_level_and_share_what_overlaps() -> None:
    tiling = Tiling((5000, 3000))
    for level in range(tiling.levels):
        width, height = tiling.size_of(level)
        columns, rows = tiling.grid_of(level)
        boxes = [tiling.box_of(level, column, 0) for column in range(columns)]
        assert boxes[0].x == 0
        assert boxes[-1].x + boxes[-1].width == width
        assert [left.x + left.width - right.x for left, right in pairwise(boxes)] == [2] * (columns - 1)
        assert tiling.box_of(level, 0, rows - 1).y + tiling.box_of(level, 0, rows - 1).height == height
