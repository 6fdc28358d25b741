"""Resizing a picture that comes in strips from the top, in memory for a window of its rows: bicubic, as Pillow does it
or quickly, and by the nearest pixel for masks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor
from functools import cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from himl_cli.core.montage import Size
from himl_cli.services.montage.threads import map_in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray


Extent = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels, which may be fractions."""
Bicubic = Callable[[Sequence["NDArray[np.uint8]"], Size, Extent | None], "NDArray[np.uint8]"]
"""Takes strips of one picture from its top, each of shape (any number, width, 3), the size to give them, and what of
them to resize (None: all).

Gives shape (height, width, 3), which may not be written to.
"""


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
    return as_pillow if find_spec("cykooz_resizer") is None else _by_vectors()


def _by_vectors() -> Bicubic:
    from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer

    bicubic = ResizeAlg.convolution(FilterType.catmull_rom)  # another name of what Pillow calls bicubic

    def resize(strips: Sequence[NDArray[np.uint8]], target: Size, extent: Extent | None = None) -> NDArray[np.uint8]:
        width, height = strips[0].shape[1], sum(map(len, strips))
        left, top, right, bottom = extent or (0, 0, width, height)
        source = ImageData(width, height, PixelType.U8x3, b"".join(map(np.ascontiguousarray, strips)))
        made = ImageData(*target, PixelType.U8x3)
        Resizer().resize(
            source,
            made,
            ResizeOptions(bicubic, use_alpha=False, crop_box=CropBox(left, top, right - left, bottom - top)),
        )
        return np.frombuffer(made.get_buffer(), np.uint8).reshape(target[1], target[0], 3)

    return resize


PIECE = 1 << 20
"""Pixels that are worked on at a time, unless one row has more."""

SHARE = 4
"""Pieces that are worked on at a time where there is a pool, however many threads it has: where windows end shows in
the rounding of some pixels."""

BICUBIC_SUPPORT = 2.0
BATCH = 32
"""Rows of the source that come together before a window is resized, unless its overlap with the one before is
larger."""


class Step(Protocol):
    """One step of resizing: takes rows from the top, gives rows from the top, each as soon as it can."""

    def push(self, rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]: ...


def share(pool: Executor | None) -> int:
    """How many pieces are worked on at a time."""
    return 1 if pool is None else SHARE


class Nearest:
    """Picks rows and columns: the numbers that Pillow itself picks."""

    def __init__(self, source: Size, target: Size) -> None:
        self._columns, self._rows = (_nearest(have, want) for have, want in zip(source, target, strict=True))
        self._top = 0
        self._block = max(1, PIECE // target[0])

    def push(self, rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        first, end = (int(np.searchsorted(self._rows, row)) for row in (self._top, self._top + len(rows)))
        for begin in range(first, end, self._block):
            picked = self._rows[begin : min(begin + self._block, end)] - self._top
            yield rows.take(picked, axis=0).take(self._columns, axis=1)
        self._top += len(rows)


def _nearest(have: int, want: int) -> NDArray[np.int64]:
    """For each of *want* pixels, which of *have* it shows."""
    numbers = Image.fromarray(np.arange(have, dtype=np.int32)[None])
    return np.asarray(numbers.resize((want, 1), Image.Resampling.NEAREST))[0].astype(np.int64)


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
            taken = flat[
                : min(self._down - self._summed, 256)
            ]  # 257 times 255 still fits into 16 bits, which are faster to sum
            self._sum += taken.sum(axis=0, dtype=np.uint16)
            self._summed += len(taken)
            self._missing -= len(taken)
            flat = flat[len(taken) :]
            if self._summed == self._down or not self._missing:
                made.append(self._row())
        if made:
            yield np.stack(made)

    def _row(self) -> NDArray[np.uint8]:
        whole = self._width // self._across
        sums = self._sum.reshape(self._width, 3)
        parts = [_mean(sums[: whole * self._across].reshape(whole, self._across, 3), self._summed)]
        if whole * self._across < self._width:
            parts.append(_mean(sums[whole * self._across :][None], self._summed))
        row = np.concatenate(parts)
        self._sum[:] = 0
        self._summed = 0
        return row


def _mean(sums: NDArray[np.uint32], rows: int) -> NDArray[np.uint8]:
    """Of sums over *rows* rows, shape (pixels, columns, 3), the rounded means of each pixel; shape (pixels, 3)."""
    count = rows * sums.shape[1]
    return ((sums.sum(axis=1, dtype=np.uint64) + count // 2) // count).astype(np.uint8)


class Across:
    """Bicubic along x. `source` is the extent in pixels, a fraction where the last pixel is a mean of fewer than the
    others, and the number of pixels."""

    def __init__(self, source: tuple[float, int], target: int, bicubic: Bicubic, pool: Executor | None) -> None:
        self._extent, self._target, self._bicubic, self._pool = source[0], target, bicubic, pool
        self._piece = max(1, PIECE // max(source[1], target))

    def push(self, rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        pieces = [rows[top : top + self._piece] for top in range(0, len(rows), self._piece)]
        yield from map_in_order(self._pool, self._resized, pieces)

    def _resized(self, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self._bicubic((rows,), (self._target, len(rows)), (0, 0, self._extent, len(rows)))


class Down:
    """Bicubic along y, window by window. `source` as in `Across`.

    `_tops` and `_bottoms` tell for each row of the target which rows of the source it needs, and one more on each side,
    so that rounding cuts nothing off.
    """

    def __init__(self, source: tuple[float, int], target: Size, bicubic: Bicubic, pool: Executor | None) -> None:
        extent, height = source
        self._scale = extent / target[1]
        reach = BICUBIC_SUPPORT * max(1.0, self._scale)
        centres = (np.arange(target[1]) + 0.5) * self._scale
        self._tops = np.clip(np.floor(centres - reach - 0.5), 0, None).astype(np.int64)
        self._bottoms = np.clip(np.ceil(centres + reach + 0.5), None, height).astype(np.int64)
        self._height, self._target = height, target
        self._batch = max(BATCH * share(pool), int(2 * reach))
        self._bicubic, self._pool = bicubic, pool
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
            self._drop(window)

    def _rows(self, window: NDArray[np.uint8], ready: int, begin: int) -> NDArray[np.uint8]:
        """Rows of the target from *begin* on: a block of them, before *ready*."""
        end = min(begin + self._block, ready)
        top, bottom = int(self._tops[begin]) - self._top, int(self._bottoms[end - 1]) - self._top
        part = window[top:bottom]
        first, last = begin * self._scale - self._top - top, min(end * self._scale - self._top - top, len(part))
        return self._bicubic((part,), (self._target[0], end - begin), (0, first, self._target[0], last))

    def _drop(self, window: NDArray[np.uint8]) -> None:
        """Keep of the window what the next row of the target needs."""
        keep_from = self._bottom if self._made == self._target[1] else int(self._tops[self._made])
        self._held = [window[keep_from - self._top :].copy()]
        self._top = keep_from


WHOLE = 4 << 20
"""Pixels: a picture that has no more, before and after, is resized in one go."""

GAP = 6
"""What is left to the filter when a large picture is first reduced by a whole number: the larger, the closer to the
filter alone.

Greatest difference in grey levels, noise with hard edges: 5 at 3, which Pillow's documentation recommends, 3 at 6. A
picture that shrinks less than twice this is not reduced before. A block at the right or lower edge that has fewer
pixels than others counts as much as they do, as with Pillow's `reducing_gap`.
"""


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
        self._fed = 0
        self._steps = _steps(source, target, bicubic, pool)
        self._piece = max(1, PIECE * share(pool) // source[0])

    def feed(self, strip: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """The next rows of the source, shape (any number, source width, 3): the rows of the target that are thereby
        known, often none.

        Raises ValueError for another shape, and for more rows than the source has.
        """
        return list(self.stream(strip))

    def stream(self, strip: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """The same, made one by one as they are asked for: all have to be, before the next strip. Each has few rows,
        however much a picture grows."""
        self._check(strip)
        for top in range(0, len(strip), self._piece):
            piece = strip[top : top + self._piece]
            self._fed += len(piece)
            yield from _through(self._steps, piece)

    def finish(self) -> None:
        """Raises ValueError where rows of the source are missing."""
        if self._fed < self.source[1]:
            raise ValueError(f"Only {self._fed} of {self.source[1]} rows came.")

    def _check(self, strip: NDArray[np.uint8]) -> None:
        if strip.ndim != 3 or strip.shape[1:] != (self.source[0], 3) or strip.dtype != np.uint8:
            raise ValueError(
                f"A strip of shape {strip.shape} and type {strip.dtype} where (rows, {self.source[0]}, 3) and uint8 "
                "are due."
            )
        if self._fed + len(strip) > self.source[1]:
            raise ValueError(f"{self._fed + len(strip)} rows came where {self.source[1]} are due.")


class Resized:
    """The rows of a resized picture, from the top, for as long as somebody asks: *strips* are read no further than
    needed."""

    def __init__(
        self, strips: Iterator[NDArray[np.uint8]], source: Size, target: Size, bicubic: Bicubic | None = as_pillow
    ) -> None:
        self._resampler = Resampler(source, target, bicubic)
        self._blocks = _blocks(strips, self._resampler)
        self._block: NDArray[np.uint8] = np.empty((0, target[0], 3), np.uint8)
        self._given = 0

    def rows(self, count: int) -> NDArray[np.uint8]:
        """The next rows, shape (count, target width, 3). Raises what `fill` raises."""
        return self.fill(np.empty((count, self._resampler.target[0], 3), np.uint8))

    def fill(self, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write the next rows into *out*, shape (any number, target width, 3), which need not be contiguous, and return
        it.

        Raises ValueError where that is more than the picture has, or where the strips have fewer or more rows than were
        announced; also what strips raise.
        """
        if self._given + len(out) > self._resampler.target[1]:
            raise ValueError(f"{self._given + len(out)} rows asked for where there are {self._resampler.target[1]}.")
        done = 0
        while done < len(out):
            if not len(self._block):
                self._block = self._next_block()
            taken = self._block[: len(out) - done]
            out[done : done + len(taken)] = taken
            self._block = self._block[len(taken) :]
            done += len(taken)
        self._given += len(out)
        if self._given == self._resampler.target[1]:
            self._blocks.close()
            self._block = self._block[:0].copy()  # and not what it is a part of
        return out

    def _next_block(self) -> NDArray[np.uint8]:
        block = next(self._blocks, None)
        if block is None:
            self._resampler.finish()
            raise ValueError("The resized picture ended early.")
        return block


def _blocks(strips: Iterator[NDArray[np.uint8]], resampler: Resampler) -> Generator[NDArray[np.uint8], None, None]:
    for strip in strips:
        if _is_small(resampler.source, resampler.target):
            made = resampler.feed(strip)
            del strip  # before anything waits: the source may be held for nothing as long as rows are asked for
            yield from made
        else:
            yield from resampler.stream(strip)
            del strip  # while the next one is made


def _is_small(source: Size, target: Size) -> bool:
    return source[0] * source[1] <= WHOLE and target[0] * target[1] <= WHOLE


def _steps(source: Size, target: Size, bicubic: Bicubic | None, pool: Executor | None) -> list[Step]:
    if bicubic is None:
        return [Nearest(source, target)]
    if _is_small(source, target):
        return [_Whole(source[1], target, bicubic)]
    steps: list[Step] = []
    across, down = (max(1, int(have / want / GAP)) for have, want in zip(source, target, strict=True))
    width, height = -(-source[0] // across), -(-source[1] // down)
    if (across, down) != (1, 1):
        steps.append(Reduction(source, across, down))
    if width != target[0]:
        steps.append(Across((source[0] / across, width), target[0], bicubic, pool))
    if height != target[1]:
        steps.append(Down((source[1] / down, height), target, bicubic, pool))
    return steps


def _through(steps: list[Step], rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    if not steps:
        yield rows
        return
    for made in steps[0].push(rows):
        yield from _through(steps[1:], made)


class _Whole:
    """Gathers the picture and resizes it in one go."""

    def __init__(self, height: int, target: Size, bicubic: Bicubic) -> None:
        self._missing, self._target, self._bicubic = height, target, bicubic
        self._strips: list[NDArray[np.uint8]] = []

    def push(self, rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        self._strips.append(rows)
        self._missing -= len(rows)
        if not self._missing:
            strips, self._strips = self._strips, []
            yield self._bicubic(strips, self._target, None)
