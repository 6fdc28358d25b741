"""Create a montage: read slides, paint them into bands of rows from top to bottom, and pass the bands to the files.

All threads paint one band, cell by cell, while cells further down are read ahead.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Counted, Counting, Notice, Notify
from himl_cli.core.signals import terminations
from himl_cli.core.text import with_and
from himl_cli.slides.captions import FailureMark, Inscription, ScaleBar, caption_for, fill, undrawable
from himl_cli.slides.encoding import JpegFile, PngFile
from himl_cli.slides.layout import LEAST_CELL, fit_layout, himl_layout, himl_order, relative
from himl_cli.slides.output_folder import (
    DZI,
    FILES_OF,
    JPG,
    PAGE,
    PNG,
    RECORD,
    check_inputs,
    earlier_files,
    output_folder,
    publish,
    write_record,
)
from himl_cli.slides.pictures import Picture, Setting, Sources, check_backend, find_sources, level_for
from himl_cli.slides.pyramid import DeepZoom, Tiling, write_page
from himl_cli.slides.readers import PictureSlide
from himl_cli.slides.slide_records import (
    DEFAULT_WIDTH,
    Box,
    Cell,
    CellOutcome,
    ImageFormat,
    Layout,
    LayoutStyle,
    MontageRequest,
    MontageResult,
    Size,
    SlideEntry,
    SlideFolder,
    grouped_remarks,
    none_read,
)
from himl_cli.slides.threads import Pool, reuse_freed_memory

BAND_BYTES = 6 << 20
LEAST_ROWS = 16  # bands have a multiple of this, except the last one, because JPEG blocks have this height
# Pixels of cells that are prepared but not fully painted. Only the current row of cells may exceed it.
AHEAD_BYTES = 64 << 20
NO_MASK = (119, 161, 120)  # hi-ml's colour for a missing or unreadable mask


class Progress:
    """Reports the number of *slides* and each finished one to *notify*. Any thread may call it.

    Reading a slide counts as half of its work, and writing its rows as the other half, since either can take most of
    the time.
    """

    def __init__(self, slides: int, height: int, notify: Notify) -> None:
        self._slides, self._height, self._notify = slides, height, notify
        self._read = self._rows = self._counted = 0
        self._lock = Lock()
        notify(Counting("slides", slides))

    def add(self, *, read: int = 0, rows: int = 0) -> None:
        """Add a number of slides that were read or failed, and of rows of the montage that were written."""
        with self._lock:
            self._read += read
            self._rows += rows
            done = (self._read + self._slides * self._rows // self._height) // 2
            for _ in range(self._counted, done):
                self._notify(Counted())
            self._counted = done


class CellPainter:
    """Painter of one prepared cell, band by band from the top, in one thread at a time. Reports to *progress* when its
    slide is read."""

    def __init__(self, cell: Cell, entry: SlideEntry, sources: Sources, setting: Setting, progress: Progress) -> None:
        self.cell = cell
        self.bottom = cell.box.y + cell.box.height  # the first row of the montage below it
        self._entry, self._setting, self._progress = entry, setting, progress
        image, mask = sources
        self._area = cell.image
        if mask is None and cell.mask is not None and setting.is_fit:  # use the space of the missing mask, centred
            shift = (cell.mask.x - cell.image.x) // 2
            self._area = Box(cell.image.x + shift, cell.image.y, cell.image.width, cell.image.height)
        self._image = Picture(image, self._area, setting)
        self._mask: Picture | None = None
        if mask is not None and cell.mask is not None:
            self._mask = Picture(mask, cell.mask, setting, mask_of=self._image)
        self._pictures = [each for each in (self._image, self._mask) if each is not None]
        self._marks: dict[str, FailureMark] = {}
        self._caption: Inscription | None = None
        self._is_read = False
        self.bytes = sum(each.bytes for each in self._pictures)

    def prepare(self) -> None:
        """Read ahead as much as possible. Raises HimlError if no more files can be provided."""
        for each in self._pictures:
            each.prepare()
        self._caption = caption_for(self._entry, self.cell, self._setting.layout.style)
        self._is_read = not any(each.is_streamed for each in self._pictures)
        self._progress.add(read=int(self._is_read))

    def paint(self, band: NDArray[np.uint8], top: int) -> None:
        """Paint the part that overlaps *band*, which starts at row *top* of the montage. Bands come in order."""
        for each in self._pictures:
            each.paint(band, top)
        box, image, mask, mask_area = self.cell.box, self._image, self._mask, self.cell.mask
        begin, end = max(box.y, top), min(self.bottom, top + len(band))
        rows = band[begin - top : end - top, box.x : box.x + box.width]
        if image.reason:
            self._mark("not read", self._area, image.reason).paint(rows, begin - box.y)
        if mask_area is not None and not self._setting.is_fit and (mask is None or mask.reason):
            fill(rows, begin - box.y, relative(mask_area, box), NO_MASK)
        elif mask_area is not None and mask is not None and mask.reason:
            self._mark("mask not read", mask_area, mask.reason).paint(rows, begin - box.y)
        if self._caption is not None:
            self._caption.paint(rows, begin - box.y)
        if end == self.bottom and not self._is_read:
            self._progress.add(read=1)

    def close(self) -> None:
        for each in self._pictures:
            each.close()

    def outcome(self) -> CellOutcome:
        """Result of the cell, after it is painted."""
        image, mask = self._image, self._mask
        reasons, remarks = [image.reason], [image.remark if image.box is not None else ""]
        if mask is not None:
            reasons += [f"mask: {mask.reason}"] if mask.reason else []
            remarks += [f"mask: {mask.remark}"] if mask.remark and mask.box is not None else []
        return CellOutcome(
            self._entry.slide_id,
            self._entry.image,
            self._entry.label,
            self._entry.mask,
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

    def _mark(self, title: str, area: Box, reason: str) -> FailureMark:
        if title not in self._marks:
            self._marks[title] = FailureMark(area, self.cell, title, reason, self._setting.layout.style)
        return self._marks[title]


def painted_bands(
    layout: Layout, cells: Sequence[CellPainter], pool: Pool, band_bytes: int = BAND_BYTES
) -> Iterator[NDArray[np.uint8]]:
    """Yield complete bands of *layout*, shape (rows, its width, 3). Meanwhile, the next one is painted, and as many
    cells as memory allows are prepared. *cells* are in the layout's order.

    Raises HimlError if no more slides can be provided.
    """
    waiting = deque(cells)
    begun: deque[tuple[CellPainter, Future[None]]] = deque()
    active: list[CellPainter] = []
    held = 0
    complete: NDArray[np.uint8] | None = None
    rows = max(1, band_bytes // (3 * layout.size[0] * LEAST_ROWS)) * LEAST_ROWS
    ground = np.tile(np.array(layout.background, np.uint8), (layout.size[0], 1))
    for top in range(0, layout.size[1], rows):
        bottom = min(top + rows, layout.size[1])
        while waiting and (waiting[0].cell.box.y < bottom or held + waiting[0].bytes <= AHEAD_BYTES):
            cell = waiting.popleft()
            held += cell.bytes
            begun.append((cell, pool.submit(cell.prepare)))
        while begun and begun[0][0].cell.box.y < bottom:
            cell, prepared = begun.popleft()
            prepared.result()
            active.append(cell)
        band: NDArray[np.uint8] = np.empty((bottom - top, layout.size[0], 3), np.uint8)
        band[:] = ground
        painting = [pool.submit(cell.paint, band, top) for cell in active]
        if complete is not None:
            yield complete
        for painted in painting:
            painted.result()
        complete = band
        for cell in active:
            if cell.bottom <= bottom:
                cell.close()
                held -= cell.bytes
        active = [cell for cell in active if cell.bottom > bottom]
    if complete is not None:
        yield complete


Sink = PngFile | JpegFile | DeepZoom
# Writer of each format, and its path in the folder of new files.
SINKS: dict[ImageFormat, tuple[type[Sink], str]] = {
    ImageFormat.png: (PngFile, PNG),
    ImageFormat.jpg: (JpegFile, JPG),
    ImageFormat.dzi: (DeepZoom, ""),
}
# Pixels that the slides of one row of cells may hold together, if all of a slide is read before painting.
HELD_BYTES = 192 << 20
IMPORTANCE = (PNG, JPG, PAGE, DZI, RECORD)
MOST_CHARACTERS = 10
GROWTH = 2  # factor of enlargement in width and height up to which there is no remark


def make_montage(
    request: MontageRequest,
    entries: Sequence[SlideEntry],
    folder: SlideFolder,
    notify: Notify,
    lists: Sequence[Path] = (),
) -> MontageResult:
    """Write the montage of *entries*, whose files are in *folder*, to `request.output` when all of it is complete.

    An unreadable slide becomes a marked cell, and is named in the result. *notify* receives Counting, Counted (from
    several threads), and Notices. Raises BadUsage for a backend that is not installed, a width that is too small, or if
    slides, the *lists* of slides or other files would be replaced, DiskFailed, HimlError if another montage is being
    written to that folder, SlidesFailed if no slide is readable, and what *folder* raises if it cannot provide files.
    Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt. After any error, no files are left, and earlier ones stay.
    """
    began = time.monotonic()
    check_backend(request.backend)
    reuse_freed_memory()
    names = [*(name for each in request.formats for name in FILES_OF[each]), RECORD]
    if request.layout is LayoutStyle.himl:
        entries = himl_order(entries)
    with (
        terminations(and_hangups=True),
        output_folder(request.output) as new,
        ExitStack() as opened,  # closes files and slides after the pool, when no thread uses them
        Pool(request.workers, folder.stop) as pool,  # an error ends threads that wait for files
    ):

        def compose() -> tuple[Layout, Size | None, list[CellOutcome], Sequence[str]]:
            check_inputs(request.output, entries, folder, lists)
            removed = earlier_files(request.output, names)
            folder.expect([name for entry in entries for name in (entry.image, entry.mask) if name])
            found = find_sources(entries, folder, request, pool)
            if not folder.is_rereadable and request.layout is LayoutStyle.fit:
                notify(Notice("Slides are read only once, so that cells are 4:3 for all shapes of slides."))
            layout = _layout(request, found)
            bar = None if request.mpp is None else ScaleBar(layout, request.mpp)
            if bar is not None:
                layout = replace(layout, size=(layout.size[0], layout.size[1] + bar.height))
            sinks: list[Sink] = []
            for kind, name in (SINKS[each] for each in request.formats):
                sinks.append(kind(new / name, layout.size, pool))
                opened.callback(sinks[-1].abort)  # no effect on a complete file
            jpg_size = JpegFile.size_for(layout.size) if ImageFormat.jpg in request.formats else None
            pictures = layout.columns * (2 if any(mask is not None for _, mask in found) else 1)
            setting = Setting(request, layout, folder, pool, HELD_BYTES // pictures)
            for text in (*layout_remarks(layout, entries, jpg_size), *_growth_remarks(setting, found)):
                notify(Notice(text))
            progress = Progress(len(layout.cells), layout.size[1], notify)
            cells = [
                CellPainter(cell, entries[cell.entry], found[cell.entry], setting, progress) for cell in layout.cells
            ]
            for cell in cells:
                opened.callback(cell.close)
            top = 0
            for band in painted_bands(layout, cells, pool):
                if bar is not None:
                    bar.paint(band, top)
                top += len(band)
                for sink in sinks:
                    sink.write(band)
                progress.add(rows=len(band))
            for sink in sinks:
                sink.finish()
            outcomes = [cell.outcome() for cell in cells]
            if not any(outcome.is_ok for outcome in outcomes):
                raise none_read(outcomes)
            write_record(new / RECORD, outcomes)
            if ImageFormat.dzi in request.formats:
                write_page(new / PAGE, Tiling(layout.size), outcomes, "Montage")
            publish(request.output, names, removed)
            return layout, jpg_size, outcomes, removed

        layout, jpg_size, outcomes, removed = pool.run(compose)
    for text in _late_remarks(request, outcomes, removed):
        notify(Notice(text))
    files = [request.output / name for name in IMPORTANCE if name in names]
    seconds = time.monotonic() - began
    return MontageResult(files, layout.size, jpg_size, layout.columns, layout.rows, outcomes, seconds, request.mpp)


def _layout(request: MontageRequest, found: Sequence[Sources]) -> Layout:
    has_masks = any(mask is not None for _, mask in found)
    if request.layout is LayoutStyle.himl:
        return himl_layout(len(found), has_masks=has_masks, width=request.width or DEFAULT_WIDTH)
    if request.mpp is not None:
        return _scaled_layout(request.mpp, found, has_masks=has_masks)
    width = request.width
    # Unopened slides may be large.
    if width is None and any(not image.levels and not image.reason for image, _ in found):
        width = DEFAULT_WIDTH
    aspects = [image.levels[0][0] / image.levels[0][1] if image.levels else None for image, _ in found]
    levels = [image.levels for image, _ in found if image.levels]
    sizes = [each[level_for(each, request.level, each[0])[0]] for each in levels]
    return fit_layout(aspects, has_masks=has_masks, width=width, sizes=sizes)


def _scaled_layout(mpp: float, found: Sequence[Sources], *, has_masks: bool) -> Layout:
    """Layout with cells for the largest slide at *mpp* micrometres per pixel. Raises BadUsage."""
    if any(not image.levels and not image.reason for image, _ in found):
        raise BadUsage(
            "--mpp needs the sizes of all slides, which do not fit together into the cache of slides.",
            hint="Increase HIML_SLIDE_CACHE_GB, or omit --mpp.",
        )
    sizes = [image.size for image, _ in found if image.size is not None]
    wide, high = (max((size[side] for size in sizes), default=LEAST_CELL) for side in (0, 1))
    layout = fit_layout([wide / high] * len(found), has_masks=has_masks, sizes=[(wide, high)])
    shrunk = max(wide / layout.cells[0].image.width, high / layout.cells[0].image.height)
    if shrunk > 1.01:
        raise BadUsage(
            f"At {mpp:g} µm per pixel, the montage would be wider than {DEFAULT_WIDTH:,} pixels.",
            hint=f"Use --mpp {float(f'{mpp * shrunk * 1.05:.2g}'):g} or more.",
        )
    return layout


def layout_remarks(layout: Layout, entries: Sequence[SlideEntry], jpg_size: Size | None) -> Iterator[str]:
    """Remarks before painting, one sentence each."""
    if layout.remark:
        yield layout.remark
    lacking = undrawable(entries) if layout.style is LayoutStyle.himl or not layout.remark else ""
    if lacking:
        more = " and others" if len(lacking) > MOST_CHARACTERS else ""
        shown = " ".join(lacking[:MOST_CHARACTERS])
        yield f"Captions show boxes for characters that the font does not have: {shown}{more}."
    if jpg_size is not None and jpg_size != layout.size:
        yield (
            f"montage.jpg is scaled to {jpg_size[0]:,} x {jpg_size[1]:,} pixels, because a JPEG cannot have the "
            f"montage's {layout.size[0]:,} x {layout.size[1]:,}."
        )


def _growth_remarks(setting: Setting, found: Sequence[Sources]) -> Iterator[str]:
    if setting.is_fit and setting.request.width is None:
        return
    growths, is_finer_there = [], False
    for cell in setting.layout.cells:
        if levels := found[cell.entry][0].levels:
            box = setting.box(cell.image, levels[0])
            level, _ = level_for(levels, setting.request.level, box.size)
            growths.append(math.sqrt(math.prod(box.size) / math.prod(levels[level])))
            is_finer_there |= level > 0
    growth = statistics.median(growths) if growths else 0
    if growth > GROWTH:
        width = math.ceil(setting.layout.size[0] / growth)
        way = "To avoid that, omit --width." if setting.is_fit else f"--width {width} shows as much."
        finer = " For finer levels, use --level auto." if is_finer_there else ""
        yield (
            f"The median slide is enlarged {growth:.1f} times in width and height, which shows no more detail. "
            f"{way}{finer}"
        )


def _late_remarks(request: MontageRequest, cells: Sequence[CellOutcome], removed: Sequence[str]) -> Iterator[str]:
    """Remarks on levels other than the requested one (not for masks and plain images, which often have one level), on
    pixels, and on files in the output folder from other montages."""
    count = sum(cell.level not in (None, request.level) and cell.backend != PictureSlide.backend for cell in cells)
    if count and request.level is not None:
        slides = "one slide" if count == 1 else f"{count:,} slides"
        yield (
            f"Level {request.level} is missing in {slides}, for which the nearest one was read. See the column "
            "'remark' of montage.csv."
        )
    yield from grouped_remarks(cells)
    if removed:
        yield f"Removed {with_and(removed)} of an earlier montage from '{request.output}'."
