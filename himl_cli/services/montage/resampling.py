"""Resizing a picture that comes in strips from the top, in memory for a window of its rows."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import numpy as np

from himl_cli.core.montage import Size
from himl_cli.services.montage.bicubic import Bicubic, as_pillow
from himl_cli.services.montage.resizing_steps import PIECE, Across, Down, Nearest, Reduction, Step, share

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
