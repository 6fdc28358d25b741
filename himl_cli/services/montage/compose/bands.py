"""The picture in bands of rows from the top, each painted by all threads, while cells further down are read ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np

from himl_cli.core.montage import Layout
from himl_cli.services.montage.compose.cells import CellPainter
from himl_cli.services.montage.compose.pool import Pool

if TYPE_CHECKING:
    from numpy.typing import NDArray

BAND_BYTES = 6 << 20
LEAST_ROWS = 16
"""A band has a multiple of these, but for the last one: blocks of JPEG are as high."""
AHEAD_BYTES = 64 << 20
"""Pixels of cells that are prepared, and not painted to their end. Only those of the present row of cells may be
more."""


def painted_bands(
    layout: Layout, cells: Sequence[CellPainter], pool: Pool, band_bytes: int = BAND_BYTES
) -> Iterator[NDArray[np.uint8]]:
    """Bands of *layout*, shape (rows, its width, 3), complete; the next one is painted meanwhile. *cells* are in the
    layout's order.

    Raises HimlError where slides cannot be brought any more.
    """
    ahead = _Ahead(cells, pool)
    active: list[CellPainter] = []
    complete: NDArray[np.uint8] | None = None
    rows = max(1, band_bytes // (3 * layout.size[0] * LEAST_ROWS)) * LEAST_ROWS
    ground = np.tile(np.array(layout.background, np.uint8), (layout.size[0], 1))
    for top in range(0, layout.size[1], rows):
        bottom = min(top + rows, layout.size[1])
        active += ahead.prepared(bottom)
        band: NDArray[np.uint8] = np.empty((bottom - top, layout.size[0], 3), np.uint8)
        band[:] = ground
        painting = [pool.submit(cell.paint, band, top) for cell in active]
        if complete is not None:
            yield complete
        pool.results(painting)
        complete = band
        ahead.release([cell for cell in active if cell.bottom <= bottom])
        active = [cell for cell in active if cell.bottom > bottom]
    if complete is not None:
        yield complete


class _Ahead:
    """Cells that are being prepared, as many as memory allows."""

    def __init__(self, cells: Sequence[CellPainter], pool: Pool) -> None:
        self._waiting = deque(cells)
        self._begun: deque[tuple[CellPainter, Future[None]]] = deque()
        self._pool = pool
        self._bytes = 0
        self._fill_up()

    def prepared(self, bottom: int) -> list[CellPainter]:
        """The next cells, all that begin above row *bottom*, once they are ready."""
        while self._waiting and self._waiting[0].cell.box.y < bottom:
            self._begin()
        self._fill_up()
        ready = []
        while self._begun and self._begun[0][0].cell.box.y < bottom:
            cell, future = self._begun.popleft()
            self._pool.results([future])
            ready.append(cell)
        return ready

    def release(self, cells: Sequence[CellPainter]) -> None:
        """These are painted."""
        for cell in cells:
            cell.close()
            self._bytes -= cell.bytes
        self._fill_up()

    def _fill_up(self) -> None:
        while self._waiting and self._bytes + self._waiting[0].bytes <= AHEAD_BYTES:
            self._begin()

    def _begin(self) -> None:
        cell = self._waiting.popleft()
        self._bytes += cell.bytes
        self._begun.append((cell, self._pool.submit(cell.prepare)))
