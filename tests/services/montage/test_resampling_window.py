"""Rows of a resized picture are pulled as they are needed, in memory for a window of them."""

from __future__ import annotations

import gc
import sys
import tracemalloc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from himl_cli.core.montage import Size
from himl_cli.services.montage import resampling
from himl_cli.services.montage.resampling import Bicubic, Resampler, as_pillow, quick, resized
from tests.services.montage.resampled import WAYS, by_pillow, cut, difference, fed, picture, pull
from tests.support.processes import peak_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@WAYS
def test_rows_are_pulled_in_any_numbers(way: Bicubic | None) -> None:
    source, target = (2500, 2000), (1210, 977)
    pixels = picture(source)
    expected = fed(Resampler(source, target, way), cut(pixels, [256]))
    pulled = resized(cut(pixels, [99]), source, target, way)
    canvas: NDArray[np.uint8] = np.zeros((400, 3000, 3), np.uint8)
    parts = [pull(pulled, (1210, count)) for count in (1, 0, 300)]
    pulled.fill(canvas[:, 1000:2210])
    parts += [canvas[:, 1000:2210], pull(pulled, (1210, 276))]
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

    pull(resized(strips(), source, (1250, 1000)), (1250, 100))
    assert max(read) == 200


def test_a_strip_is_let_go_of_before_the_next_is_made() -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []

    def strip() -> NDArray[np.uint8]:
        assert not [each for each in alive if each() is not None]
        made: NDArray[np.uint8] = np.zeros((100, 2500, 3), np.uint8)
        alive.append(weakref.ref(made))
        return made

    pull(resized((strip() for _ in range(20)), (2500, 2000), (1210, 977)), (1210, 977))
    assert len(alive) == 20


@WAYS
def test_a_small_picture_is_let_go_of_once_it_is_resized(way: Bicubic | None) -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []

    def made() -> NDArray[np.uint8]:
        pixels = picture((300, 200))
        alive.append(weakref.ref(pixels))
        return pixels

    pulled = resized((made() for _ in range(1)), (300, 200), (200, 100), way)
    pull(pulled, (200, 1))
    assert alive[0]() is None


@contextmanager
def traced() -> Iterator[None]:
    """What is allocated is noted, with who asked for it."""
    for way in (as_pillow, quick()):
        pull(resized(iter([picture((30, 20))]), (30, 20), (10, 10), way), (10, 10))  # what is imported at the first use stays
    tracemalloc.start(20)
    try:
        yield
    finally:
        tracemalloc.stop()


def held_by_resampling() -> int:
    """Bytes that resizing asked for and has not given back; other threads of this process may be at work."""
    ours = [tracemalloc.Filter(True, resampling.__file__, all_frames=True)]
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
            pulled = resized(cut(pixels, [300]), source, target, way)
            pull(pulled, (target[0], min(count, target[1])))
            del pulled
            assert held_by_resampling() < 100_000
    finally:
        gc.enable()


@WAYS
def test_a_finished_one_holds_nothing(way: Bicubic | None) -> None:
    pixels = picture((300, 200))
    with traced():
        pulled = resized(iter([pixels]), (300, 200), (1000, 700), way)
        pull(pulled, (1000, 100))
        assert held_by_resampling() > 1_000_000
        pull(pulled, (1000, 600))
        assert held_by_resampling() < 100_000


def test_pulling_refuses_wrong_numbers_of_rows() -> None:
    pixels = picture((30, 20))
    with pytest.raises(ValueError, match="Only 20 of 21 rows came"):
        pull(resized(cut(pixels, [7]), (30, 21), (10, 10)), (10, 1))
    with pytest.raises(ValueError, match="20 rows came where 19 are due"):
        pull(resized(cut(pixels, [20]), (30, 19), (10, 10)), (10, 1))
    pulled = resized(cut(pixels, [7]), (30, 20), (10, 10))
    pull(pulled, (10, 9))
    with pytest.raises(ValueError, match="11 rows asked for where there are 10"):
        pull(pulled, (10, 2))


def test_what_strips_raise_comes_through() -> None:
    def strips() -> Iterator[NDArray[np.uint8]]:
        yield np.zeros((5, 30, 3), np.uint8)
        raise OSError("the tile is gone")

    with pytest.raises(OSError, match="the tile is gone"):
        pull(resized(strips(), (30, 20), (10, 10)), (10, 1))


def test_several_threads_at_once() -> None:
    source, target = (2500, 2000), (1210, 977)
    pictures = [picture(source, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda pixels: pull(resized(cut(pixels, [256]), source, target), target), pictures))
    for rows, pixels in zip(made, pictures, strict=True):
        assert difference(rows, by_pillow(pixels, target)) <= 1


SETUP = """
import numpy as np
from himl_cli.services.montage.resampling import resized
width, height, wide, rows = map(int, sys.argv[1:])
strip = np.full((64, width, 3), 9, np.uint8)
"""
WORK = """
pulled = resized((strip[: height - top] for top in range(0, height, 64)), (width, height), (wide, rows))
for top in range(0, rows, 64):
    out = np.empty((min(64, rows - top), wide, 3), np.uint8)
    pulled.fill(out)
    assert (out == 9).all()
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
