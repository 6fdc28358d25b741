"""The making of a montage: slides are read, painted into bands of rows from the top down, and the bands are handed to
the files until these are complete.

All threads paint a band, cell by cell, while cells further down are read ahead.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from himl_cli.core.events import Counted, Counting, Notice, Notify
from himl_cli.core.montage import (
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
)
from himl_cli.core.processes import terminations
from himl_cli.core.text import with_and
from himl_cli.services.montage.captions import FailureMark, Inscription, caption_for, fill, undrawable
from himl_cli.services.montage.encoding import JpegFile, PngFile
from himl_cli.services.montage.files import (
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
from himl_cli.services.montage.layout import fit_layout, himl_layout, himl_order, relative
from himl_cli.services.montage.pyramid import DeepZoom, Tiling, write_page
from himl_cli.services.montage.slides import Picture, Setting, Sources, check_backend, find_sources, level_for
from himl_cli.services.montage.threads import Pool, reuse_freed_memory

BAND_BYTES = 6 << 20
LEAST_ROWS = 16  # a band has a multiple of these, but for the last one: blocks of JPEG are as high
# Pixels of cells that are prepared, and not painted to their end. Only those of the present row of cells may be more.
AHEAD_BYTES = 64 << 20
NO_MASK = (119, 161, 120)  # what hi-ml fills the place of a mask with that is not there, or cannot be read


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

    def __init__(self, cell: Cell, entry: SlideEntry, sources: Sources, setting: Setting, progress: Progress) -> None:
        self.cell = cell
        self.bottom = cell.box.y + cell.box.height  # the row of the montage below its last
        self._entry, self._setting, self._progress = entry, setting, progress
        image, mask = sources
        self._room = cell.image
        if mask is None and cell.mask is not None and setting.is_fit:  # in the middle, where others have a mask
            shift = (cell.mask.x - cell.image.x) // 2
            self._room = Box(cell.image.x + shift, cell.image.y, cell.image.width, cell.image.height)
        self._image = Picture(image, self._room, setting)
        self._mask: Picture | None = None
        if mask is not None and cell.mask is not None:
            self._mask = Picture(mask, cell.mask, setting, mask_of=self._image)
        self._pictures = [each for each in (self._image, self._mask) if each is not None]
        self._marks: dict[str, FailureMark] = {}
        self._caption: Inscription | None = None
        self._is_read = False
        self.bytes = sum(each.bytes for each in self._pictures)

    def prepare(self) -> None:
        """Read what can be read ahead. Raises HimlError where no file can be given any more."""
        for each in self._pictures:
            each.prepare()
        self._caption = caption_for(self._entry, self.cell, self._setting.layout.style)
        self._is_read = not any(each.is_streamed for each in self._pictures)
        self._progress.add(read=int(self._is_read))

    def paint(self, band: NDArray[np.uint8], top: int) -> None:
        """Paint what falls on *band*, whose first row is row *top* of the montage; the bands come in order."""
        for each in self._pictures:
            each.paint(band, top)
        box, image, mask, mask_room = self.cell.box, self._image, self._mask, self.cell.mask
        begin, end = max(box.y, top), min(self.bottom, top + len(band))
        rows = band[begin - top : end - top, box.x : box.x + box.width]
        if image.reason:
            self._mark("not read", self._room, image.reason).paint(rows, begin - box.y)
        if mask_room is not None and not self._setting.is_fit and (mask is None or mask.reason):
            fill(rows, begin - box.y, relative(mask_room, box), NO_MASK)
        elif mask_room is not None and mask is not None and mask.reason:
            self._mark("mask not read", mask_room, mask.reason).paint(rows, begin - box.y)
        if self._caption is not None:
            self._caption.paint(rows, begin - box.y)
        if end == self.bottom and not self._is_read:
            self._progress.add(read=1)

    def close(self) -> None:
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

    def _mark(self, title: str, room: Box, reason: str) -> FailureMark:
        if title not in self._marks:
            self._marks[title] = FailureMark(room, self.cell, title, reason, self._setting.layout.style)
        return self._marks[title]


def painted_bands(
    layout: Layout, cells: Sequence[CellPainter], pool: Pool, band_bytes: int = BAND_BYTES
) -> Iterator[NDArray[np.uint8]]:
    """Bands of *layout*, shape (rows, its width, 3), complete; the next one is painted meanwhile, and as many cells as
    memory allows are prepared. *cells* are in the layout's order.

    Raises HimlError where no slide can be given any more.
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
            pool.results([prepared])
            active.append(cell)
        band: NDArray[np.uint8] = np.empty((bottom - top, layout.size[0], 3), np.uint8)
        band[:] = ground
        painting = [pool.submit(cell.paint, band, top) for cell in active]
        if complete is not None:
            yield complete
        pool.results(painting)
        complete = band
        for cell in active:
            if cell.bottom <= bottom:
                cell.close()
                held -= cell.bytes
        active = [cell for cell in active if cell.bottom > bottom]
    if complete is not None:
        yield complete


Sink = PngFile | JpegFile | DeepZoom
# What writes each format, and where in the folder of new files.
SINKS: dict[ImageFormat, tuple[type[Sink], str]] = {
    ImageFormat.png: (PngFile, PNG),
    ImageFormat.jpg: (JpegFile, JPG),
    ImageFormat.dzi: (DeepZoom, ""),
}
# Pixels that the slides of one row of cells may hold together, so that all of a slide is read before any of it is
# painted.
HELD_BYTES = 192 << 20
IMPORTANCE = (PNG, JPG, PAGE, DZI, RECORD)
MOST_CHARACTERS = 10
GROWTH = 2  # how far slides may be enlarged, in width and height, without a word


def make_montage(
    request: MontageRequest,
    entries: Sequence[SlideEntry],
    folder: SlideFolder,
    notify: Notify,
    lists: Sequence[Path] = (),
) -> MontageResult:
    """Write the montage of *entries*, whose files lie in *folder*, into `request.output`, once all of it is complete.

    A slide that cannot be read is a marked cell of it, and named in the result. *notify* hears Counting and Counted,
    the latter from several threads, and Notices. Raises BadUsage for a backend that is not installed, a width that is
    too small, and where slides, or the *lists* that named them, or what is no montage's would be replaced; DiskFailed,
    HimlError where another montage is being written to that folder, and what *folder* raises where no file can be
    given. Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt; then, as after any error, nothing is left.
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
        ExitStack() as opened,  # files and slides, left after the pool: nobody uses them any more
        Pool(request.workers, folder.stop) as pool,  # threads that wait for files end on an error
    ):
        removed, left = earlier_files(request.output, names)
        check_inputs(request.output, entries, folder, lists)
        folder.expect([name for entry in entries for name in (entry.image, entry.mask) if name])
        found = find_sources(entries, folder, request.backend, pool)
        if not folder.is_rereadable and request.layout is LayoutStyle.fit:
            notify(Notice("Slides are read once: cells are 4:3, whatever the slides' shapes."))
        layout = _layout(request, found)
        sinks: list[Sink] = []
        for kind, name in (SINKS[each] for each in request.formats):
            sinks.append(kind(new / name, layout.size, pool))
            opened.callback(sinks[-1].abort)  # which does nothing to a file that is complete
        jpg_size = JpegFile.size_for(layout.size) if ImageFormat.jpg in request.formats else None
        pictures = layout.columns * (2 if any(mask is not None for _, mask in found) else 1)
        setting = Setting(request, layout, folder, pool, HELD_BYTES // pictures)
        for text in (*layout_remarks(layout, entries, jpg_size), *_growth_remarks(setting, found)):
            notify(Notice(text))
        progress = Progress(len(layout.cells), layout.size[1], notify)
        cells = [CellPainter(cell, entries[cell.entry], found[cell.entry], setting, progress) for cell in layout.cells]
        for cell in cells:
            opened.callback(cell.close)
        for band in painted_bands(layout, cells, pool):
            for sink in sinks:
                sink.write(band)
            progress.add(rows=len(band))
        for sink in sinks:
            sink.finish()
        outcomes = [cell.outcome() for cell in cells]
        write_record(new / RECORD, outcomes)
        if ImageFormat.dzi in request.formats:
            write_page(new / PAGE, Tiling(layout.size), outcomes, "Montage")
        publish(request.output, names, removed)
    for text in _late_remarks(request, outcomes, removed, left):
        notify(Notice(text))
    files = [request.output / name for name in IMPORTANCE if name in names]
    seconds = time.monotonic() - began
    return MontageResult(files, layout.size, jpg_size, layout.columns, layout.rows, outcomes, seconds)


def _layout(request: MontageRequest, found: Sequence[Sources]) -> Layout:
    has_masks = any(mask is not None for _, mask in found)
    if request.layout is LayoutStyle.himl:
        return himl_layout(len(found), has_masks=has_masks, width=request.width or DEFAULT_WIDTH)
    width = request.width
    if width is None and any(not image.levels and not image.reason for image, _ in found):  # not looked into: large
        width = DEFAULT_WIDTH
    aspects = [image.levels[0][0] / image.levels[0][1] if image.levels else None for image, _ in found]
    levels = [image.levels for image, _ in found if image.levels]
    sizes = [each[level_for(each, request.level, each[0])[0]] for each in levels]
    return fit_layout(aspects, has_masks=has_masks, width=width, sizes=sizes)


def layout_remarks(layout: Layout, entries: Sequence[SlideEntry], jpg_size: Size | None) -> Iterator[str]:
    """What is known before anything is painted, a sentence each."""
    if layout.remark:
        yield layout.remark
    lacking = undrawable(entries) if layout.style is LayoutStyle.himl or not layout.remark else ""
    if lacking:
        more = " and others" if len(lacking) > MOST_CHARACTERS else ""
        shown = " ".join(lacking[:MOST_CHARACTERS])
        yield f"Captions show boxes for characters that their font lacks: {shown}{more}."
    if jpg_size is not None and jpg_size != layout.size:
        yield (
            f"montage.jpg is scaled to {jpg_size[0]:,} x {jpg_size[1]:,} pixels: a JPEG cannot have the montage's "
            f"{layout.size[0]:,} x {layout.size[1]:,}."
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
        way = "Without --width none is enlarged." if setting.is_fit else f"--width {width} shows as much."
        finer = " --level auto reads finer levels." if is_finer_there else ""
        yield (
            f"The median slide is enlarged {growth:.1f} times in width and height, which shows nothing more of it. "
            f"{way}{finer}"
        )


def _late_remarks(
    request: MontageRequest, cells: Sequence[CellOutcome], removed: Sequence[str], left: Sequence[str]
) -> Iterator[str]:
    """Other levels than the one asked for (masks are often files of one level, which is nothing to tell of), and files
    of the output folder that are not this montage's."""
    count = sum(cell.level not in (None, request.level) for cell in cells) if request.level is not None else 0
    if count:
        slides = "one slide" if count == 1 else f"{count:,} slides"
        yield (
            f"Level {request.level} is missing in {slides}: the nearest one was read. The column 'remark' of "
            "montage.csv tells which."
        )
    if removed:
        were = "was" if len(removed) == 1 else "were"
        yield f"{with_and(removed)} of an earlier montage {were} removed from '{request.output}': this one has none."
    if left:
        are = "is" if len(left) == 1 else "are"
        yield f"{with_and(left)} in '{request.output}' {are} older than this montage and no part of it."
