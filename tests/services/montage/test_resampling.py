"""Resizing in strips gives what Pillow makes of the whole picture, in memory for a window of rows."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from himl_cli.core.montage import Size
from himl_cli.services.montage import bicubic, resampling, resizing_steps
from himl_cli.services.montage.bicubic import Bicubic, as_pillow, quick
from himl_cli.services.montage.resampling import Resampler, Resized
from tests.montages import nearest, resized
from tests.peaks import peak_of
from tests.slides import slide_picture

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
WAYS = pytest.mark.parametrize("way", [as_pillow, quick(), None], ids=["as_pillow", "quick", "nearest"])


def picture(size: Size, seed: int = 0) -> NDArray[np.uint8]:
    """Noise with hard edges: what shows a difference most."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[size[1] // 3 : size[1] // 2] = 255
    pixels[:, size[0] // 4 : size[0] // 3] //= 8
    return pixels


def cut(pixels: NDArray[np.uint8], heights: list[int]) -> Iterator[NDArray[np.uint8]]:
    """Strips of these heights, over and over."""
    top = count = 0
    while top < len(pixels):
        height = heights[count % len(heights)]
        yield pixels[top : top + height]
        top, count = top + height, count + 1


def by_pillow(pixels: NDArray[np.uint8], target: Size) -> NDArray[np.uint8]:
    """Bicubic, first along x: in this order Pillow resizes wherever the height does not shrink much more than the width."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((target[0], image.height), Image.Resampling.BICUBIC).resize(target, Image.Resampling.BICUBIC))


def fed(resampler: Resampler, strips: Iterator[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    made = [rows for strip in strips for rows in resampler.feed(strip)]
    resampler.finish()
    return np.concatenate(made)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


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
    program = "import sys; sys.modules['cykooz_resizer'] = None; from himl_cli.services.montage import bicubic; print(bicubic.quick() is bicubic.as_pillow)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "True\n"


def test_a_picture_of_the_same_proportions_equals_one_resize_of_pillow() -> None:
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


@WAYS
def test_rows_are_pulled_in_any_numbers(way: Bicubic | None) -> None:
    source, target = (2500, 2000), (1210, 977)
    pixels = picture(source)
    expected = fed(Resampler(source, target, way), cut(pixels, [256]))
    pulled = Resized(cut(pixels, [99]), source, target, way)
    canvas: NDArray[np.uint8] = np.zeros((400, 3000, 3), np.uint8)
    parts = [pulled.rows(1), pulled.rows(0), pulled.rows(300), pulled.fill(canvas[:, 1000:2210]), pulled.rows(276)]
    assert difference(np.concatenate(parts), expected) <= (0 if way is None else 1)
    assert not canvas[:, :1000].any()
    assert not canvas[:, 2210:].any()


def test_strips_are_read_no_further_than_needed() -> None:
    source = (2500, 2000)
    read = []

    def strips() -> Iterator[NDArray[np.uint8]]:
        for top in range(0, 2000, 100):
            read.append(top)
            yield np.zeros((100, 2500, 3), np.uint8)

    Resized(strips(), source, (1250, 1000)).rows(100)
    assert max(read) == 200


def test_a_strip_is_let_go_of_before_the_next_is_made() -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []

    def strip() -> NDArray[np.uint8]:
        assert not [each for each in alive if each() is not None]
        made: NDArray[np.uint8] = np.zeros((100, 2500, 3), np.uint8)
        alive.append(weakref.ref(made))
        return made

    Resized((strip() for _ in range(20)), (2500, 2000), (1210, 977)).rows(977)
    assert len(alive) == 20


@WAYS
def test_a_small_picture_is_let_go_of_once_it_is_resized(way: Bicubic | None) -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []

    def made() -> NDArray[np.uint8]:
        pixels = picture((300, 200))
        alive.append(weakref.ref(pixels))
        return pixels

    pulled = Resized((made() for _ in range(1)), (300, 200), (200, 100), way)
    pulled.rows(1)
    assert alive[0]() is None


@contextmanager
def traced() -> Iterator[None]:
    """What is allocated is noted, with who asked for it."""
    for way in (as_pillow, quick()):
        Resized(iter([picture((30, 20))]), (30, 20), (10, 10), way).rows(10)  # what is imported at the first use stays
    tracemalloc.start(20)
    try:
        yield
    finally:
        tracemalloc.stop()


def held_by_resampling() -> int:
    """Bytes that resizing asked for and has not given back; other threads of this process may be at work."""
    ours = [tracemalloc.Filter(True, path, all_frames=True) for path in (bicubic.__file__, resampling.__file__, resizing_steps.__file__)]
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(ours).traces)


@pytest.mark.parametrize(("source", "target"), [((300, 200), (200, 100)), ((2500, 2000), (1210, 977))], ids=str)
@pytest.mark.parametrize("count", [10, 100, 977])
@WAYS
def test_nothing_waits_for_the_cycle_collector(source: Size, target: Size, count: int, way: Bicubic | None) -> None:
    """Also where not all rows were asked for: what was held goes with the last reference."""
    pixels = picture(source)
    gc.collect()
    gc.disable()
    try:
        with traced():
            pulled = Resized(cut(pixels, [300]), source, target, way)
            pulled.rows(min(count, target[1]))
            del pulled
            assert held_by_resampling() < 100_000
    finally:
        gc.enable()


@WAYS
def test_a_finished_one_holds_nothing(way: Bicubic | None) -> None:
    pixels = picture((300, 200))
    with traced():
        pulled = Resized(iter([pixels]), (300, 200), (1000, 700), way)
        pulled.rows(100)
        assert held_by_resampling() > 1_000_000
        pulled.rows(600)
        assert held_by_resampling() < 100_000


def test_wrong_numbers_of_rows_are_refused() -> None:
    large, target = (2500, 2000), (1000, 800)
    resampler = Resampler(large, target)
    resampler.feed(np.zeros((1999, 2500, 3), np.uint8))
    with pytest.raises(ValueError, match="Only 1999 of 2000 rows came"):
        resampler.finish()
    with pytest.raises(ValueError, match="2001 rows came where 2000 are due"):
        resampler.feed(np.zeros((2, 2500, 3), np.uint8))
    resampler.feed(np.zeros((1, 2500, 3), np.uint8))
    resampler.finish()
    with pytest.raises(ValueError, match=r"shape \(1, 2499, 3\)"):
        Resampler(large, target).feed(np.zeros((1, 2499, 3), np.uint8))
    with pytest.raises(ValueError, match="uint16"):
        Resampler(large, target).feed(np.zeros((1, 2500, 3), np.uint16))
    with pytest.raises(ValueError, match="0 x 5 to 3 x 3"):
        Resampler((0, 5), (3, 3))


def test_pulling_refuses_wrong_numbers_of_rows() -> None:
    pixels = picture((30, 20))
    with pytest.raises(ValueError, match="Only 20 of 21 rows came"):
        Resized(cut(pixels, [7]), (30, 21), (10, 10)).rows(1)
    with pytest.raises(ValueError, match="20 rows came where 19 are due"):
        Resized(cut(pixels, [20]), (30, 19), (10, 10)).rows(1)
    pulled = Resized(cut(pixels, [7]), (30, 20), (10, 10))
    pulled.rows(9)
    with pytest.raises(ValueError, match="11 rows asked for where there are 10"):
        pulled.rows(2)


def test_what_strips_raise_comes_through() -> None:
    def strips() -> Iterator[NDArray[np.uint8]]:
        yield np.zeros((5, 30, 3), np.uint8)
        raise OSError("the tile is gone")

    with pytest.raises(OSError, match="the tile is gone"):
        Resized(strips(), (30, 20), (10, 10)).rows(1)


def test_several_threads_at_once() -> None:
    source, target = (2500, 2000), (1210, 977)
    pictures = [picture(source, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda pixels: Resized(cut(pixels, [256]), source, target).rows(977), pictures))
    for rows, pixels in zip(made, pictures, strict=True):
        assert difference(rows, by_pillow(pixels, target)) <= 1


SETUP = """
import numpy as np
from himl_cli.services.montage.resampling import Resized
width, height, wide, rows = map(int, sys.argv[1:])
strip = np.full((64, width, 3), 9, np.uint8)
"""
WORK = """
pulled = Resized((strip[: height - top] for top in range(0, height, 64)), (width, height), (wide, rows))
for top in range(0, rows, 64):
    assert (pulled.rows(min(64, rows - top)) == 9).all()
"""
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="measured as Linux does")


@on_linux
@pytest.mark.parametrize(
    ("source", "target"),
    [((100_000, 4000), (500, 20)), ((100_000, 400), (60_000, 240)), ((100_000, 4000), (1, 1)), ((2, 2), (60_000, 1000))],
    ids=str,
)
def test_memory_is_that_of_a_window(source: Size, target: Size) -> None:
    assert peak_of(SETUP, WORK, *map(str, (*source, *target))) < 90


@on_linux
def test_what_measures_memory_notices_a_hundred_megabytes() -> None:
    """Also where this process is larger than that, and where more was taken, and given back, before."""
    held = bytearray(b"1") * (300 << 20)
    assert 95 <= peak_of("bytearray(b'1') * (200 << 20)", "bytearray(b'1') * (100 << 20)") < 120
    assert peak_of("", "") < 5
    assert len(held) == 300 << 20


def test_the_limits_that_these_tests_rest_on() -> None:
    """Pictures meant to be streamed are too large for one go."""
    for source, target in [*LARGE, *LONG]:
        assert max(source[0] * source[1], target[0] * target[1]) > resampling.WHOLE
