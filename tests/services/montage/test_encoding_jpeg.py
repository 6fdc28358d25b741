"""A JPEG that is encoded in strips has the pixels of one that was encoded in one go."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from himl_cli.core.montage import Size
from himl_cli.services.montage.encoding import JpegFile
from himl_cli.services.montage.resampling import Resampler
from himl_cli.services.montage.threads import Pool
from tests.services.montage.banded import busy_pool, by_vips, put, shades

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(3) as threads:
        yield threads


def in_one_go(pixels: NDArray[np.uint8], quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def decoded(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 33), (2000, 1500), (1, 65_500), (40, 65_500), (65_500, 100)], ids=str)
@pytest.mark.parametrize("heights", [(70_000,), (1, 100, 33)], ids=str)
def test_it_has_the_pixels_of_one_go(size: Size, heights: tuple[int, ...], tmp_path: Path, pool: Pool) -> None:
    pixels, path = shades(size), tmp_path / "x.jpg"
    put(JpegFile(path, size, pool), pixels, heights)
    assert np.array_equal(decoded(path.read_bytes()), decoded(in_one_go(pixels)))
    assert np.array_equal(by_vips(path), decoded(path.read_bytes()))


def test_strips_are_joined_by_restart_markers(tmp_path: Path, pool: Pool) -> None:
    """Of a whole number of rows of blocks each, numbered 0 to 7 over and over, as the header says."""
    size = (65_500, 32 * 10 + 5)
    path = tmp_path / "x.jpg"
    put(JpegFile(path, size, pool), np.tile(shades((655, size[1])), (1, 100, 1)), (100,))
    content = path.read_bytes()
    (interval,) = re.findall(rb"\xff\xdd\x00\x04(..)", content, re.DOTALL)
    across = -(-65_500 // 16)
    assert int.from_bytes(interval, "big") == 2 * across
    data = content[content.index(b"\xff\xda") :]
    assert [marker - 0xD0 for marker in re.findall(rb"\xff([\xd0-\xd7])", data) for marker in marker] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    assert content.count(b"\xff\xd8") == content.count(b"\xff\xd9") == 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((500, 400), (500, 400)),
        ((65_500, 65_500), (65_500, 65_500)),
        ((65_501, 40_000), (65_500, 39_999)),
        ((100_000, 200_000), (32_750, 65_500)),
        ((200_000, 1), (65_500, 1)),
        ((70_000, 35_001), (65_500, 32_751)),
    ],
)
def test_what_is_too_long_is_scaled_to_fit(size: Size, expected: Size) -> None:
    assert JpegFile.size_for(size) == expected


@pytest.mark.parametrize("size", [(70_000, 90), (20, 66_000)], ids=str)
def test_a_scaled_picture_is_the_resized_one(size: Size, tmp_path: Path, pool: Pool) -> None:
    pixels, path = shades(size), tmp_path / "x.jpg"
    jpeg = JpegFile(path, size, pool)
    put(jpeg, pixels, (7, 128))
    assert jpeg.size == JpegFile.size_for(size)
    scaled = np.concatenate([*Resampler(size, jpeg.size).stream(pixels)])
    made, expected = (each.astype(int) for each in (decoded(path.read_bytes()), decoded(in_one_go(scaled))))
    assert made.shape == (jpeg.size[1], jpeg.size[0], 3)
    difference = np.abs(made - expected)  # where the resized one is a grey level off, a block of the JPEG differs a little
    assert difference.mean() < 0.1
    assert difference.max() < 25


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    """Nor the number of cores: a montage that a job makes is the one that is made here."""
    size, made = (70_000, 300), []
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for workers in (1, 5):
        with Pool(workers) as pool:
            put(JpegFile(tmp_path / "x.jpg", size, pool), pixels, (128,))
        made.append((tmp_path / "x.jpg").read_bytes())
    assert made[0] == made[1]


def test_a_pool_that_is_busy_holds_nothing_up(tmp_path: Path) -> None:
    for size in ((2000, 1500), (70_000, 80)):
        pixels = shades(size)
        with busy_pool() as pool:
            put(JpegFile(tmp_path / "x.jpg", size, pool), pixels, (100,))
        assert by_vips(tmp_path / "x.jpg").shape[:2] == JpegFile.size_for(size)[::-1]


def test_what_does_not_fit_is_refused(tmp_path: Path, pool: Pool) -> None:
    jpeg = JpegFile(tmp_path / "x.jpg", (30, 20), pool)
    with pytest.raises(ValueError, match="21 rows came where 20 are due"):
        jpeg.write(np.zeros((21, 30, 3), np.uint8))
    jpeg.write(np.zeros((19, 30, 3), np.uint8))
    with pytest.raises(ValueError, match="Only 19 of 20 rows came"):
        jpeg.finish()
    jpeg.abort()
