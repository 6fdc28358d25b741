"""The picture in bands of rows from the top, painted cell by cell by all threads, while cells further down are read
ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from himl_cli.core.events import Counted, Counting, Notify
from himl_cli.core.montage import Box, Cell, CellOutcome, Layout
from himl_cli.services.montage.captions import NO_MASK, FailureMark, Filled, Overlay, caption_for
from himl_cli.services.montage.pictures import Picture, Setting, Sources
from himl_cli.services.montage.threads import Pool

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOT_READ, MASK_NOT_READ = "not read", "mask not read"
BAND_BYTES = 6 << 20
LEAST_ROWS = 16
"""A band has a multiple of these, but for the last one: blocks of JPEG are as high."""
AHEAD_BYTES = 64 << 20
"""Pixels of cells that are prepared, and not painted to their end. Only those of the present row of cells may be
more."""


class Progress:
    """Tells *notify* of *slides* that there are, and of each that is done. Any thread may call it.

    Half of a slide's work is that it is read, the other half that its rows are written: either can take nearly all of
    the time.
    """

    def __init__(self, slides: int, height: int, notify: Notify) -> None:
        self._slides, self._height, self._notify = slides, height, notify
        self._read = self._rows = self._counted = 0
        self._lock = Lock()
        notify(Counting("slides", slides))

    def add(self, *, read: int = 0, rows: int = 0) -> None:
        """So many more slides are read, or cannot be; so many more rows of the montage are written."""
        with self._lock:
            self._read += read
            self._rows += rows
            done = (self._read + self._slides * self._rows // self._height) // 2
            for _ in range(self._counted, done):
                self._notify(Counted())
            self._counted = done


class CellPainter:
    """Paints one cell, band by band from the top, after it was prepared. Used by one thread at a time. Tells *progress*
    once its slide is read."""

    def __init__(self, cell: Cell, sources: Sources, setting: Setting, progress: Progress) -> None:
        self.cell = cell
        self._entry = sources.entry
        self._setting = setting
        self._room = cell.image
        if sources.mask is None and cell.mask is not None and setting.is_fit:  # in the middle, where others have a mask
            shift = (cell.mask.x - cell.image.x) // 2
            self._room = Box(cell.image.x + shift, cell.image.y, cell.image.width, cell.image.height)
        self._image = Picture(sources.image, self._room, setting)
        self._mask = (
            Picture(sources.mask, cell.mask, setting, mask_of=self._image)
            if sources.mask is not None and cell.mask is not None
            else None
        )
        self._pictures = [self._image] if self._mask is None else [self._image, self._mask]
        self._marks: dict[str, Overlay] = {}
        self._caption: Overlay | None = None
        self._progress = progress
        self._is_read = False
        self.bytes = sum(each.bytes for each in self._pictures)

    @property
    def bottom(self) -> int:
        """The row of the montage below its last."""
        return self.cell.box.y + self.cell.box.height

    def prepare(self) -> None:
        """Read what can be read ahead. Raises HimlError where no file can be given any more."""
        for each in self._pictures:
            each.prepare()
        self._caption = caption_for(self._entry, self.cell, self._setting.layout.style)
        if not any(each.is_streamed for each in self._pictures):
            self._count_read()

    def paint(self, band: NDArray[np.uint8], top: int) -> None:
        """Paint what falls on *band*, whose first row is row *top* of the montage; the bands come in order."""
        for each in self._pictures:
            each.paint(band, top)
        box = self.cell.box
        begin, end = max(box.y, top), min(self.bottom, top + len(band))
        rows = band[begin - top : end - top, box.x : box.x + box.width]
        for overlay in self._overlays():
            overlay.paint(rows, begin - box.y)
        if end == self.bottom:
            self._count_read()

    def close(self) -> None:
        """Free what it holds."""
        for each in self._pictures:
            each.close()

    def outcome(self) -> CellOutcome:
        """What became of it, once it is painted."""
        image, mask = self._image, self._mask
        reasons, remarks = [image.reason], [image.remark if image.box is not None else ""]
        if mask is not None:
            reasons += [f"mask: {mask.reason}"] if mask.reason else []
            remarks += [f"mask: {mask.remark}"] if mask.remark and mask.box is not None else []
        return CellOutcome(
            slide_id=self._entry.slide_id,
            label=self._entry.label,
            image=self._entry.image,
            mask=self._entry.mask,
            column=self.cell.column,
            row=self.cell.row,
            box=self.cell.box,
            picture=image.box,
            level=image.level if image.box is not None else None,
            backend=image.backend,
            is_ok=not image.reason,
            reason="; ".join(filter(None, reasons)),
            remark="; ".join(filter(None, remarks)),
        )

    def _overlays(self) -> Iterator[Overlay]:
        if self._image.reason:
            yield self._mark(self._room, NOT_READ, self._image.reason)
        mask_room = self.cell.mask
        if mask_room is not None and (self._mask is None or self._mask.reason):
            if not self._setting.is_fit:
                yield Filled(mask_room, self.cell, NO_MASK)
            elif self._mask is not None:
                yield self._mark(mask_room, MASK_NOT_READ, self._mask.reason)
        if self._caption is not None:
            yield self._caption

    def _mark(self, room: Box, title: str, reason: str) -> Overlay:
        if title not in self._marks:
            self._marks[title] = FailureMark(room, self.cell, title, reason, self._setting.layout.style)
        return self._marks[title]

    def _count_read(self) -> None:
        if not self._is_read:
            self._is_read = True
            self._progress.add(read=1)


def painted_bands(
    layout: Layout, cells: Sequence[CellPainter], pool: Pool, band_bytes: int = BAND_BYTES
) -> Iterator[NDArray[np.uint8]]:
    """Bands of *layout*, shape (rows, its width, 3), complete; the next one is painted meanwhile. *cells* are in the
    layout's order.

    Raises HimlError where no slide can be given any more.
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
