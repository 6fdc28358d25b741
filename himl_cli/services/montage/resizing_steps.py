"""The steps of resizing a picture from the top down, each with a window of rows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from himl_cli.core.montage import Size
from himl_cli.services.montage.bicubic import Bicubic
from himl_cli.services.montage.side_by_side import side_by_side

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        yield from side_by_side(self._pool, self._resized, pieces)

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
            yield from side_by_side(self._pool, partial(self._rows, window, ready), begins)
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
