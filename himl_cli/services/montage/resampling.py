"""Resizing a picture that comes in strips from the top, in memory for a window of its rows: bicubic, as Pillow does it
or quickly, and by the nearest pixel for masks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from himl_cli.core.montage import Size
from himl_cli.services.montage.threads import map_in_order

Extent = tuple[float, float, float, float]  # left, top, right and bottom in pixels, which may be fractions
# Takes strips of one picture from its top, each of shape (any number, width, 3), the size to give them, and what of
# them to resize (None: all).
# Gives shape (height, width, 3), which may not be written to.
Bicubic = Callable[[Sequence[NDArray[np.uint8]], Size, Extent | None], NDArray[np.uint8]]
# One step of resizing: takes rows from the top, gives rows from the top, each as soon as it can.
Step = Callable[[NDArray[np.uint8]], Iterator[NDArray[np.uint8]]]

PIECE = 1 << 20  # pixels that are worked on at a time, unless one row has more
# Pieces that are worked on at a time where there is a pool, however many threads it has: where windows end shows in the
# rounding of some pixels.
SHARE = 4
BICUBIC_SUPPORT = 2.0
# Rows of the source that come together before a window is resized, unless its overlap with the one before is larger.
BATCH = 32
WHOLE = 4 << 20  # pixels: a picture that has no more, before and after, is resized in one go
# What is left to the filter when a large picture is first reduced by a whole number: the larger, the closer to the
# filter alone.
# Greatest difference in grey levels, noise with hard edges: 5 at 3, which Pillow's documentation recommends, 3 at 6. A
# picture that shrinks less than twice this is not reduced before. A block at the right or lower edge that has fewer
# pixels than others counts as much as they do, as with Pillow's `reducing_gap`.
GAP = 6


def as_pillow(strips: Sequence[NDArray[np.uint8]], target: Size, extent: Extent | None = None) -> NDArray[np.uint8]:
    """A `Bicubic`: with the very values of Pillow, first along x, then along y.

    Pillow up to 12 always took this order, 13 no longer does where the height shrinks much more than the width, and
    rounds and clips in between. Taken apart into two steps, the result is one and the same with all of them.
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
    """The fastest one here: cykooz-resizer's, by vector instructions, four to five times as fast as Pillow; Pillow's
    where there is no such package.

    Its values differ from Pillow's by a grey level or two: it takes first y, then x, and rounds in between. Noise with
    hard edges, where that also means clipping in between, shows up to 10, and 25 where it grows.
    """
    if find_spec("cykooz_resizer") is None:
        return as_pillow
    from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer

    bicubic = ResizeAlg.convolution(FilterType.catmull_rom)  # another name of what Pillow calls bicubic

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
    """Picks rows and columns: the numbers that Pillow itself picks."""

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
    """Means of *across* by *down* pixels, rounded; at the right and at the bottom of as many as are left."""

    def __init__(self, source: Size, across: int, down: int) -> None:
        self._across, self._down = across, down
        self._width, self._missing = source
        self._sum: NDArray[np.uint32] = np.zeros(self._width * 3, np.uint32)
        self._summed = 0

    def push(self, rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        flat = rows.reshape(len(rows), -1)
        made = []
        while len(flat):
            # 257 times 255 still fits into 16 bits, which are faster to sum
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
    """Bicubic along x. *source* is the extent in pixels, a fraction where the last pixel is a mean of fewer than the
    others, and the number of pixels."""
    piece = max(1, PIECE // max(source[1], target))

    def resized(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return bicubic((rows,), (target, len(rows)), (0, 0, source[0], len(rows)))

    return lambda rows: map_in_order(pool, resized, [rows[top : top + piece] for top in range(0, len(rows), piece)])


class Down:
    """Bicubic along y, window by window. `source` as in `across`.

    `_tops` and `_bottoms` tell for each row of the target which rows of the source it needs, and one more on each side,
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
            # Of the window, what the next row of the target needs is kept.
            top = self._bottom if ready == self._target[1] else int(self._tops[ready])
            self._held = [window[top - self._top :].copy()]
            self._top = top

    def _rows(self, window: NDArray[np.uint8], ready: int, begin: int) -> NDArray[np.uint8]:
        """Rows of the target from *begin* on: a block of them, before *ready*."""
        end = min(begin + self._block, ready)
        top, bottom = int(self._tops[begin]) - self._top, int(self._bottoms[end - 1]) - self._top
        part = window[top:bottom]
        first, last = begin * self._scale - self._top - top, min(end * self._scale - self._top - top, len(part))
        return self._bicubic((part,), (self._target[0], end - begin), (0, first, self._target[0], last))


class Resampler:
    """Takes the strips of a picture of *source* size and gives the rows of one of *target* size.

    A small picture, see WHOLE, is resized in one go; another differs from that by one grey level here and there, and by
    GAP where it shrinks much. *bicubic* is the filter, None the nearest pixel instead, for masks: exactly as Pillow
    takes it. Used by one thread at a time, never by one of *pool*, which it spreads its work over. Raises ValueError
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
        self._strips: list[NDArray[np.uint8]] = []  # of a small picture
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
        """The next rows of the source, shape (any number, source width, 3): the rows of the target that are thereby
        known, often none, made one by one as they are asked for. All have to be, before the next strip; each has few
        rows, however much a picture grows.

        Raises ValueError for more rows than the source has.
        """
        if self._fed + len(strip) > self.source[1]:
            raise ValueError(f"{self._fed + len(strip)} rows came where {self.source[1]} are due.")
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
        """Raises ValueError where rows of the source are missing."""
        if self._fed < self.source[1]:
            raise ValueError(f"Only {self._fed} of {self.source[1]} rows came.")


def _through(steps: list[Step], rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    if not steps:
        yield rows
        return
    for made in steps[0](rows):
        yield from _through(steps[1:], made)


class Rows:
    """The rows of a picture of that *size*, from the top, for as long as somebody asks; *blocks* of them are made no
    further than needed."""

    def __init__(self, blocks: Generator[NDArray[np.uint8], None, None], size: Size) -> None:
        self._blocks, self._size = blocks, size
        self._block: NDArray[np.uint8] = np.empty((0, size[0], 3), np.uint8)
        self._given = 0

    def fill(self, out: NDArray[np.uint8]) -> None:
        """Write the next rows into *out*, shape (any number, width, 3), which need not be contiguous.

        Raises ValueError where that is more than the picture has, and what *blocks* raise.
        """
        if self._given + len(out) > self._size[1]:
            raise ValueError(f"{self._given + len(out)} rows asked for where there are {self._size[1]}.")
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
            self._block = self._block[:0].copy()  # and not what it is a part of


def resized(
    strips: Iterator[NDArray[np.uint8]], source: Size, target: Size, bicubic: Bicubic | None = as_pillow
) -> Rows:
    """The rows of a resized picture; asked for them, it raises ValueError where *strips* have fewer or more rows than
    were announced, and what they raise."""
    return Rows(_blocks(strips, Resampler(source, target, bicubic)), target)


def _blocks(strips: Iterator[NDArray[np.uint8]], resampler: Resampler) -> Generator[NDArray[np.uint8], None, None]:
    for strip in strips:
        if resampler.is_small:
            made = list(resampler.stream(strip))
            del strip  # before anything waits: the source may be held for nothing as long as rows are asked for
            yield from made
        else:
            yield from resampler.stream(strip)
            del strip  # while the next one is made
    resampler.finish()
    raise ValueError("The resized picture ended early.")
