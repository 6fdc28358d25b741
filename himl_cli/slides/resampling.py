"""Resize an image that arrives in strips from the top, holding a window of its rows: bicubic, as in Pillow or faster,
or nearest neighbour for masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from himl_cli.slides.slide_records import Size
from himl_cli.slides.threads import map_in_order

Extent = tuple[float, float, float, float]  # left, top, right and bottom in pixels, which may be fractions
# Takes consecutive strips of an image, each of shape (any number, width, 3), the target size, and the extent to resize
# (None: all). Returns shape (height, width, 3), which must not be written to.
Bicubic = Callable[[Sequence[NDArray[np.uint8]], Size, Extent | None], NDArray[np.uint8]]
# One step of resizing. It takes rows from the top, and yields rows from the top as soon as possible.
Step = Callable[[NDArray[np.uint8]], Iterator[NDArray[np.uint8]]]

PIECE = 1 << 20  # pixels to process at a time, unless one row has more
# Pieces to process at a time with a pool, for any number of threads, because the ends of windows affect the rounding of
# some pixels.
SHARE = 4
BICUBIC_SUPPORT = 2.0
# Rows of the source to collect before a window is resized, unless its overlap with the previous one is larger.
BATCH = 32
WHOLE = 4 << 20  # an image with at most this number of pixels, before and after, is resized in one call
# Factor that remains for the filter after a large image is reduced by an integer. A larger one is more accurate.
# The greatest differences in grey levels, for noise with hard edges, are 5 at 3, which Pillow's documentation
# recommends, and 3 at 6. An image that shrinks less than twice this is not reduced. A block at the right or lower edge
# with fewer pixels has the same weight as others, as with Pillow's `reducing_gap`.
GAP = 6
ROUNDING = 1e-6  # of a pixel, for positions that are sums


def as_pillow(strips: Sequence[NDArray[np.uint8]], target: Size, extent: Extent | None = None) -> NDArray[np.uint8]:
    """A `Bicubic` with exactly Pillow's values, first along x, then along y.

    Pillow up to 12 always used this order. Pillow 13 does not if the height shrinks much more than the width, and
    rounds and clips in between. With two separate steps, all versions give the same result.
    """
    image = Image.fromarray(strips[0] if len(strips) == 1 else np.concatenate(strips))
    left, top, right, bottom = extent or (0, 0, *image.size)
    if (left, right - left) != (0, target[0]):
        image = image.resize((target[0], image.height), Image.Resampling.BICUBIC, (left, 0, right, image.height))
    if (top, bottom - top) != (0, target[1]):
        image = image.resize(target, Image.Resampling.BICUBIC, (0, top, target[0], bottom))
    return np.asarray(image)


@cache
def quick() -> Bicubic:
    """The fastest `Bicubic`: of cykooz-resizer, with vector instructions, four to five times as fast as Pillow, or
    Pillow's if that package is missing.

    Its values differ from Pillow's by a grey level or two, because it processes y before x and rounds in between. For
    noise with hard edges, which is also clipped in between, differences reach 10, and 25 when enlarging.
    """
    if find_spec("cykooz_resizer") is None:
        return as_pillow
    from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer

    bicubic = ResizeAlg.convolution(FilterType.catmull_rom)  # Pillow calls this filter bicubic

    def resize(strips: Sequence[NDArray[np.uint8]], target: Size, extent: Extent | None = None) -> NDArray[np.uint8]:
        width, height = strips[0].shape[1], sum(map(len, strips))
        left, top, right, bottom = extent or (0, 0, width, height)
        source = ImageData(width, height, PixelType.U8x3, b"".join(map(np.ascontiguousarray, strips)))
        made = ImageData(*target, PixelType.U8x3)
        box = CropBox(left, top, right - left, bottom - top)
        Resizer().resize(source, made, ResizeOptions(bicubic, use_alpha=False, crop_box=box))
        return np.frombuffer(made.get_buffer(), np.uint8).reshape(target[1], target[0], 3)

    return resize


class Nearest:
    """Selects the same rows and columns as Pillow."""

    def __init__(self, source: Size, target: Size) -> None:
        numbers = [Image.fromarray(np.arange(have, dtype=np.int32)[None]) for have in source]
        shown = [each.resize((want, 1), Image.Resampling.NEAREST) for each, want in zip(numbers, target, strict=True)]
        self._columns, self._rows = (np.asarray(each)[0].astype(np.int64) for each in shown)
        self._top = 0
        self._block = max(1, PIECE // target[0])

    def push(self, rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        first, end = (int(np.searchsorted(self._rows, row)) for row in (self._top, self._top + len(rows)))
        for begin in range(first, end, self._block):
            picked = self._rows[begin : min(begin + self._block, end)] - self._top
            yield rows.take(picked, axis=0).take(self._columns, axis=1)
        self._top += len(rows)


class Reduction:
    """Rounded means of *across* by *down* pixels, and of the remaining ones at the right and bottom."""

    def __init__(self, source: Size, across: int, down: int) -> None:
        self._across, self._down = across, down
        self._width, self._missing = source
        self._sum: NDArray[np.uint32] = np.zeros(self._width * 3, np.uint32)
        self._summed = 0

    def push(self, rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        flat = rows.reshape(len(rows), -1)
        made = []
        while len(flat):
            # 257 times 255 fits in 16 bits, which are faster to sum.
            taken = flat[: min(self._down - self._summed, 256)]
            self._sum += taken.sum(axis=0, dtype=np.uint16)
            self._summed += len(taken)
            self._missing -= len(taken)
            flat = flat[len(taken) :]
            if self._summed == self._down or not self._missing:
                made.append(self._row())
        if made:
            yield np.stack(made)

    def _row(self) -> NDArray[np.uint8]:
        sums = self._sum.reshape(self._width, 3)
        whole = self._width - self._width % self._across
        means = []
        for block in (sums[:whole].reshape(-1, self._across, 3), sums[whole:][None]):
            if block.size:
                count = self._summed * block.shape[1]
                means.append((block.sum(axis=1, dtype=np.uint64) + count // 2) // count)
        self._sum[:] = 0
        self._summed = 0
        return np.concatenate(means).astype(np.uint8)


def across(source: tuple[float, int], target: int, bicubic: Bicubic, pool: Executor | None) -> Step:
    """Bicubic along x. *source* is the extent in pixels, a fraction if the last pixel is a mean of fewer pixels than
    the others, and the number of pixels."""
    piece = max(1, PIECE // max(source[1], target))

    def resized(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return bicubic((rows,), (target, len(rows)), (0, 0, source[0], len(rows)))

    return lambda rows: map_in_order(pool, resized, [rows[top : top + piece] for top in range(0, len(rows), piece)])


class Down:
    """Bicubic along y, window by window. `source` is as in `across`.

    `_tops` and `_bottoms` contain the rows of the source that each row of the target needs, and one more on each side,
    so that rounding cuts nothing off.
    """

    def __init__(self, source: tuple[float, int], target: Size, bicubic: Bicubic, pool: Executor | None) -> None:
        extent, self._height = source
        self._target, self._bicubic, self._pool = target, bicubic, pool
        self._scale = extent / target[1]
        reach = BICUBIC_SUPPORT * max(1.0, self._scale)
        centres = (np.arange(target[1]) + 0.5) * self._scale
        self._tops = np.clip(np.floor(centres - reach - 0.5), 0, None).astype(np.int64)
        self._bottoms = np.clip(np.ceil(centres + reach + 0.5), None, self._height).astype(np.int64)
        self._batch = max(BATCH if pool is None else BATCH * SHARE, int(2 * reach))
        self._block = max(1, PIECE // target[0])
        self._held: list[NDArray[np.uint8]] = []
        self._top = self._bottom = self._looked = self._made = 0

    def push(self, rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        self._held.append(rows)
        self._bottom += len(rows)
        if self._bottom < self._height and self._bottom - self._looked < self._batch:
            return
        self._looked = self._bottom
        ready = int(np.searchsorted(self._bottoms, self._bottom, side="right"))
        if ready > self._made:
            window = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
            begins = range(self._made, ready, self._block)
            yield from map_in_order(self._pool, partial(self._rows, window, ready), begins)
            self._made = ready
            # Keep the part of the window that the next row of the target needs.
            top = self._bottom if ready == self._target[1] else int(self._tops[ready])
            self._held = [window[top - self._top :].copy()]
            self._top = top

    def _rows(self, window: NDArray[np.uint8], ready: int, begin: int) -> NDArray[np.uint8]:
        """A block of rows of the target, from *begin* on, before *ready*."""
        end = min(begin + self._block, ready)
        top, bottom = int(self._tops[begin]) - self._top, int(self._bottoms[end - 1]) - self._top
        part = window[top:bottom]
        first, last = begin * self._scale - self._top - top, min(end * self._scale - self._top - top, len(part))
        return self._bicubic((part,), (self._target[0], end - begin), (0, first, self._target[0], last))


class Resampler:
    """Resizes strips of an image of *source* size to rows of *target* size.

    A small image (see WHOLE) is resized in one call. Others differ from that by one grey level in some pixels, and by
    the effect of GAP if they shrink much. *bicubic* is the filter, or None for the nearest pixel, for masks, exactly as
    in Pillow. Used by one thread at a time, which must not belong to *pool*, where the work is done. Raises ValueError
    for a side below 1.
    """

    def __init__(
        self, source: Size, target: Size, bicubic: Bicubic | None = as_pillow, *, pool: Executor | None = None
    ) -> None:
        if min(*source, *target) < 1:
            raise ValueError(f"Cannot resize {source[0]} x {source[1]} to {target[0]} x {target[1]}.")
        self.source, self.target = source, target
        self.is_small = max(source[0] * source[1], target[0] * target[1]) <= WHOLE
        self._fed = 0
        self._piece = max(1, (PIECE if pool is None else PIECE * SHARE) // source[0])
        self._bicubic = bicubic
        self._strips: list[NDArray[np.uint8]] = []  # of a small image
        self._steps: list[Step] = []
        if bicubic is None:
            self._steps.append(Nearest(source, target).push)
        elif not self.is_small:
            wide, high = (max(1, int(have / want / GAP)) for have, want in zip(source, target, strict=True))
            width, height = -(-source[0] // wide), -(-source[1] // high)
            if (wide, high) != (1, 1):
                self._steps.append(Reduction(source, wide, high).push)
            if width != target[0]:
                self._steps.append(across((source[0] / wide, width), target[0], bicubic, pool))
            if height != target[1]:
                self._steps.append(Down((source[1] / high, height), target, bicubic, pool).push)

    def stream(self, strip: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Take the next rows of the source, shape (any number, source width, 3). Yield the rows of the target that are
        complete, often none, created when they are requested. Consume all of them before the next strip. Each array has
        few rows, even if the image is enlarged.

        Raises ValueError for more rows than the source has.
        """
        if self._fed + len(strip) > self.source[1]:
            raise ValueError(f"Got {self._fed + len(strip)} rows instead of {self.source[1]}.")
        self._fed += len(strip)
        if self.is_small and self._bicubic is not None:
            self._strips.append(strip)
            if len(strip) and self._fed == self.source[1]:
                strips, self._strips = self._strips, []
                yield self._bicubic(strips, self.target, None)
            return
        for top in range(0, len(strip), self._piece):
            yield from _through(self._steps, strip[top : top + self._piece])

    def finish(self) -> None:
        """Check that all rows arrived. Raises ValueError if rows of the source are missing."""
        if self._fed < self.source[1]:
            raise ValueError(f"Got only {self._fed} of {self.source[1]} rows.")


def _through(steps: list[Step], rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    if not steps:
        yield rows
        return
    for made in steps[0](rows):
        yield from _through(steps[1:], made)


class Rows:
    """Rows of an image of *size*, from the top, created from *blocks* only as they are requested."""

    def __init__(self, blocks: Generator[NDArray[np.uint8], None, None], size: Size) -> None:
        self._blocks, self._size = blocks, size
        self._block: NDArray[np.uint8] = np.empty((0, size[0], 3), np.uint8)
        self._given = 0

    def fill(self, out: NDArray[np.uint8]) -> None:
        """Copy the next rows to *out*, shape (any number, width, 3), which need not be contiguous.

        Raises ValueError for more rows than the image has, and what *blocks* raise.
        """
        if self._given + len(out) > self._size[1]:
            raise ValueError(f"{self._given + len(out)} rows were requested, but there are {self._size[1]}.")
        done = 0
        while done < len(out):
            if not len(self._block):
                self._block = next(self._blocks)
            taken = self._block[: len(out) - done]
            out[done : done + len(taken)] = taken
            self._block = self._block[len(taken) :]
            done += len(taken)
        self._given += len(out)
        if self._given == self._size[1]:
            self._blocks.close()
            self._block = self._block[:0].copy()  # frees the array that contains it


def resized(
    strips: Iterator[NDArray[np.uint8]], source: Size, target: Size, bicubic: Bicubic | None = as_pillow
) -> Rows:
    """Rows of a resized image. Reading them raises ValueError if *strips* do not have the number of rows in *source*,
    and what they raise."""
    return Rows(_blocks(strips, Resampler(source, target, bicubic)), target)


def _blocks(strips: Iterator[NDArray[np.uint8]], resampler: Resampler) -> Generator[NDArray[np.uint8], None, None]:
    for strip in strips:
        if resampler.is_small:
            made = list(resampler.stream(strip))
            del strip  # before a wait, because the source may hold it for as long as rows are requested
            yield from made
        else:
            yield from resampler.stream(strip)
            del strip  # before the next one is created
    resampler.finish()
    raise ValueError("The resized image ended early.")


def averaged(
    strips: Iterator[NDArray[np.uint8]], factors: tuple[float, float], target: Size
) -> Iterator[NDArray[np.uint8]]:
    """Yield the rows of an image of *target* size, from the top. Each pixel is the mean of an area of *factors* pixels
    (across, down) of the image in *strips*, in which a pixel at the edge counts with its part in the area."""
    across, down = factors
    top = made = 0
    held: NDArray[np.uint8] | None = None
    for strip in strips:
        held = strip if held is None or not len(held) else np.concatenate((held, strip))
        del strip
        ready = min(target[1], int((top + len(held)) / down + ROUNDING))
        block = max(1, int(PIECE / (held.shape[1] * max(1, down))))
        for begin in range(made, ready, block):
            rows = _means(held, begin * down - top, down, min(block, ready - begin), 0)
            yield (_means(rows, 0, across, target[0], 1) + np.float32(0.5)).astype(np.uint8)
        made, used = ready, min(len(held), int(ready * down) - top)
        held, top = held[used:].copy(), top + used


def _means(
    pixels: NDArray[np.uint8] | NDArray[np.float32], begin: float, factor: float, count: int, axis: int
) -> NDArray[np.float32]:
    """Means of *count* consecutive areas of *factor* pixels along *axis* (0 or 1), from the position *begin* on."""
    lefts = begin + np.arange(count) * factor
    first = np.floor(lefts + ROUNDING).astype(np.int64)
    total: NDArray[np.float32] = np.float32(0)
    for tap in range(math.ceil(factor - ROUNDING) + 1):
        places = first + tap
        part = np.clip(np.minimum(places + 1, lefts + factor) - np.maximum(places, lefts), 0, 1) / factor
        if part.max() > ROUNDING:
            shares = part.astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
            total = total + shares * pixels.take(np.minimum(places, pixels.shape[axis] - 1), axis)
    return total
