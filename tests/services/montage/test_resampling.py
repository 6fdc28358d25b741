"""Resizing in strips gives what Pillow makes of the whole picture."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from himl_cli.core.montage import Size
from himl_cli.services.montage import resampling
from himl_cli.services.montage.resampling import Bicubic, Resampler, as_pillow, quick
from tests.services.montage.resampled import WAYS, by_pillow, cut, difference, fed, picture
from tests.support.montages import nearest, resized
from tests.support.slides import slide_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES: list[tuple[Size, Size]] = [
    ((200, 150), (90, 60)),
    ((200, 150), (90, 151)),
    ((90, 60), (200, 150)),
    ((90, 60), (200, 7)),
    ((200, 150), (200, 60)),
    ((200, 150), (60, 150)),
    ((200, 150), (200, 150)),
    ((200, 150), (1, 1)),
    ((1, 1), (40, 30)),
    ((1, 150), (30, 20)),
    ((200, 1), (20, 30)),
]
LARGE: list[tuple[Size, Size]] = [
    ((2500, 2000), (1210, 977)),
    ((2100, 2003), (2101, 1500)),
    ((700, 900), (2500, 2000)),
]
LONG: list[tuple[Size, Size]] = [((4_500_000, 1), (3, 2)), ((1, 4_500_000), (2, 3))]


@pytest.mark.parametrize(("source", "target"), SIZES, ids=str)
@pytest.mark.parametrize("heights", [[1000], [7, 1, 32]], ids=str)
def test_small_pictures_equal_pillows(source: Size, target: Size, heights: list[int]) -> None:
    pixels = picture(source)
    assert difference(fed(Resampler(source, target), cut(pixels, heights)), by_pillow(pixels, target)) == 0
    assert difference(resized(pixels, target), by_pillow(pixels, target)) == 0


@pytest.mark.parametrize(("source", "target"), [*SIZES, *LARGE], ids=str)
@pytest.mark.parametrize("heights", [[1000], [7, 1, 32]], ids=str)
def test_the_quick_way_differs_from_pillows_in_its_rounding(source: Size, target: Size, heights: list[int]) -> None:
    """Also where the picture comes in strips, whose resizing has to look beyond them."""
    pixels = slide_picture(3, source)
    quickly, slowly = (fed(Resampler(source, target, way), cut(pixels, heights)) for way in (quick(), as_pillow))
    assert difference(quickly, slowly) <= 2
    assert np.abs(quickly.astype(int) - slowly).mean() < 0.35


@pytest.mark.parametrize("target", [(1210, 977), (1210, 1), (1, 977), (2500, 977), (1210, 2000)], ids=str)
@pytest.mark.parametrize("way", [as_pillow, quick()], ids=["as_pillow", "quick"])
def test_a_part_is_resized_with_what_surrounds_it(way: Bicubic, target: Size) -> None:
    pixels = slide_picture(2, (2500, 2000))
    left, top, right, bottom = 300.25, 100.5, 1900.75, 1700.5
    image = Image.fromarray(pixels).resize((target[0], 2000), Image.Resampling.BICUBIC, (left, 0, right, 2000))
    expected = np.asarray(image.resize(target, Image.Resampling.BICUBIC, (0, top, target[0], bottom)))
    assert difference(way((pixels[:7], pixels[7:]), target, (left, top, right, bottom)), expected) <= (0 if way is as_pillow else 2)


def test_where_the_quick_package_is_missing_pillow_resizes() -> None:
    """There are no builds of it for some systems, such as Linux on ARM."""
    program = (
        "import sys; sys.modules['cykooz_resizer'] = None; from himl_cli.services.montage import resampling; print(resampling.quick() is resampling.as_pillow)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "True\n"


def test_resize_at_same_aspect_ratio_equals_pillow() -> None:
    pixels = picture((2000, 1500))
    expected = np.asarray(Image.fromarray(pixels).resize((1052, 789), Image.Resampling.BICUBIC))
    assert difference(fed(Resampler((2000, 1500), (1052, 789)), cut(pixels, [256])), expected) == 0


@pytest.mark.parametrize(("source", "target"), LARGE, ids=str)
@pytest.mark.parametrize("heights", [[256], [1, 17, 300]], ids=str)
def test_what_is_streamed_is_one_grey_level_off_at_most(source: Size, target: Size, heights: list[int]) -> None:
    pixels = picture(source)
    assert difference(fed(Resampler(source, target), cut(pixels, heights)), by_pillow(pixels, target)) <= 1


@pytest.mark.parametrize("target", [(120, 90), (40, 500), (500, 40), (1, 1)], ids=str)
def test_large_reductions_stay_close_to_the_filter_alone(target: Size) -> None:
    source = (2800, 2100)
    pixels = picture(source)
    made = fed(Resampler(source, target), cut(pixels, [100, 33]))
    assert difference(made, by_pillow(pixels, target)) <= 3
    assert np.abs(made.astype(float) - by_pillow(pixels, target)).mean() < (0.25 if target != (1, 1) else 3)


def test_large_reductions_treat_edges_as_pillow_does() -> None:
    source, target = (2803, 2309), (93, 77)
    pixels: NDArray[np.uint8] = np.zeros((source[1], source[0], 3), np.uint8)
    pixels[-2:] = 255
    pixels[:, -2:] = 255
    expected = np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC, reducing_gap=resampling.GAP))
    made = fed(Resampler(source, target), cut(pixels, [64]))
    assert difference(made, expected) <= 1
    assert made[:, -1].max() > 0 == made[:-2, :-2].max()


@pytest.mark.parametrize(("source", "target"), LONG, ids=str)
@WAYS
def test_one_colour_stays_that_colour_however_much_is_summed(source: Size, target: Size, way: Bicubic | None) -> None:
    pixels: NDArray[np.uint8] = np.full((source[1], source[0], 3), 251, np.uint8)
    assert (fed(Resampler(source, target, way), cut(pixels, [1, 70_000])) == 251).all()


@pytest.mark.parametrize(("source", "target"), [*SIZES, *LARGE, *LONG], ids=str)
def test_nearest_is_pillows(source: Size, target: Size) -> None:
    pixels = picture(source)
    expected = np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.NEAREST))
    assert difference(fed(Resampler(source, target, None), cut(pixels, [13, 256] if source[1] < 10_000 else [50_000])), expected) == 0
    assert difference(nearest(pixels, target), expected) == 0


def test_wrong_numbers_of_rows_are_refused() -> None:
    large, target = (2500, 2000), (1000, 800)
    resampler = Resampler(large, target)
    list(resampler.stream(np.zeros((1999, 2500, 3), np.uint8)))
    with pytest.raises(ValueError, match="Only 1999 of 2000 rows came"):
        resampler.finish()
    with pytest.raises(ValueError, match="2001 rows came where 2000 are due"):
        list(resampler.stream(np.zeros((2, 2500, 3), np.uint8)))
    list(resampler.stream(np.zeros((1, 2500, 3), np.uint8)))
    resampler.finish()
    with pytest.raises(ValueError, match="0 x 5 to 3 x 3"):
        Resampler((0, 5), (3, 3))


def test_the_limits_that_these_tests_rest_on() -> None:
    """Pictures meant to be streamed are too large for one go."""
    for source, target in [*LARGE, *LONG]:
        assert max(source[0] * source[1], target[0] * target[1]) > resampling.WHOLE
