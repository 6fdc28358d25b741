"""The making of a montage: slides are read, painted into bands of rows from the top down, and the bands are handed to
the files until these are complete.

All threads paint a band, cell by cell, while cells further down are read ahead; a slide is read ahead where it is
small, row by row where it is large.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from himl_cli.core.events import Counted, Counting, Notice, Notify
from himl_cli.core.montage import (
    DEFAULT_WIDTH,
    Backend,
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
    SlideUnreadable,
)
from himl_cli.core.processes import terminations
from himl_cli.services.montage.captions import FailureMark, Inscription, caption_for, fill, undrawable
from himl_cli.services.montage.dataset import SlideFolder
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
from himl_cli.services.montage.layout import fit_layout, fitted, himl_layout, himl_order, middle, relative
from himl_cli.services.montage.pyramid import DeepZoom, Tiling, write_page
from himl_cli.services.montage.resampling import Bicubic, Resampler, Resized, Rows, as_pillow, quick
from himl_cli.services.montage.slides.open import check_backend, open_slide
from himl_cli.services.montage.slides.slide import Slide, level_for
from himl_cli.services.montage.threads import Pool, read_ahead, reuse_freed_memory

WINDOW = 8 << 20  # bytes that a picture needs which is read while it is painted, roughly
LARGE = 64 << 20  # bytes of a level that is read in one thread and resized in another
ROWS = 64  # rows that are kept together, and handed on at a time
BAND_BYTES = 6 << 20
LEAST_ROWS = 16  # a band has a multiple of these, but for the last one: blocks of JPEG are as high
# Pixels of cells that are prepared, and not painted to their end. Only those of the present row of cells may be more.
AHEAD_BYTES = 64 << 20
_COLOURS = (
    *("000000", "ffffff", "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00"),
    *("cc79a7", "882255", "999933", "332288", "aa4499", "66ccee", "777777", "aa3c28"),
)
# The colours of labels 0, 1, 2 ...: a mask of zeros and ones is black and white.
PALETTE = np.array([tuple(bytes.fromhex(colour)) for colour in _COLOURS], np.uint8)
NO_MASK = (119, 161, 120)  # what hi-ml fills the place of a mask with that is not there, or cannot be read
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the dataset. `levels` is empty where it was not looked into, or where it cannot be read; `reason` says
    why."""

    name: str
    levels: Sequence[Size] = ()
    reason: str = ""


Sources = tuple[Source, Source | None]  # an entry's image and mask


def find_sources(entries: Sequence[SlideEntry], slides: SlideFolder, backend: Backend, pool: Pool) -> list[Sources]:
    """The files of *entries*; with their levels where *slides* gives files as often as one likes."""

    def source(name: str, is_mask: bool) -> Source:
        pool.check()
        if not slides.is_rereadable:
            return Source(name)
        try:
            with slides.local_path(name) as path, closing(open_slide(path, backend, as_labels=is_mask)) as slide:
                return Source(name, tuple(slide.levels))
        except SlideUnreadable as err:
            return Source(name, reason=str(err))

    def sources(entry: SlideEntry) -> Sources:
        return source(entry.image, False), None if entry.mask is None else source(entry.mask, True)

    return pool.results([pool.submit(sources, entry) for entry in entries])


@dataclass(frozen=True)
class Setting:
    """What all pictures of a montage share. *most_held* is how many bytes of pixels one may hold."""

    request: MontageRequest
    layout: Layout
    slides: SlideFolder
    pool: Pool
    most_held: int

    @property
    def is_fit(self) -> bool:
        return self.layout.style is LayoutStyle.fit

    def box(self, room: Box, size: Size) -> Box:
        """What a slide of *size* fills of its room: hi-ml's way is to stretch it."""
        return fitted(room, size) if self.is_fit else room


class Picture:
    """*source* in *room*: `prepare` first, then `paint`, from the top down. Used by one thread at a time. A mask is
    that of an image, prepared before it.

    What cannot be read has a `reason`. Where that comes out after rows of it were painted, `box` ends with those.
    """

    def __init__(self, source: Source, room: Box, setting: Setting, *, mask_of: Picture | None = None) -> None:
        self.reason = source.reason
        self.remark = ""
        self.level: int | None = None
        self.backend = ""
        self.box: Box | None = None
        self.is_streamed = False  # whether it is read while it is painted
        self._source, self._room, self._setting, self._image = source, room, setting, mask_of
        self._rows: Rows | None = None
        self._open = ExitStack()
        self._painted = 0
        self._has_labels = False

    @property
    def bytes(self) -> int:
        """How much memory it needs once it is prepared, roughly."""
        if self.reason:
            return 0
        if not self._source.levels:
            return self._setting.most_held
        box, level, _ = self._placed(self._source.levels)
        least = min(_bytes(self._source.levels[level]), _bytes(box.size))
        return least if least <= self._setting.most_held else WINDOW

    def prepare(self) -> None:
        """Open it; read all of it where its pixels, or those that they become, may be held. Raises HimlError where no
        file can be given any more."""
        setting = self._setting
        setting.pool.check()
        if self.reason:
            return
        try:
            path = self._open.enter_context(setting.slides.local_path(self._source.name))
            # Of a mask, numbers are kept, whatever their width.
            slide = open_slide(path, setting.request.backend, as_labels=self._image is not None)
            self._begin(self._open.enter_context(closing(slide)))
        except (SlideUnreadable, MemoryError) as err:
            self._fail(err)
        except BaseException:
            self.close()
            raise
        if not self.is_streamed:
            self._open.close()

    def paint(self, band: NDArray[np.uint8], top: int) -> None:
        """Write what falls on *band*, whose first row is row *top* of the montage, and which ends where the one before
        began."""
        if self.box is None or self._rows is None:
            return
        begin, end = max(self.box.y, top), min(self.box.y + self.box.height, top + len(band))
        if begin >= end:
            return
        rows = band[begin - top : end - top, self.box.x : self.box.x + self.box.width]
        try:
            self._rows.fill(rows)
        except (SlideUnreadable, MemoryError) as err:
            self._fail(err)
            return
        if self._image is not None and not self._setting.is_fit:
            np.multiply(rows, np.uint8(255), out=rows)  # hi-ml's way: the lower 8 bits remain
        elif self._has_labels:
            rows[:] = PALETTE[rows[..., 0]]
        self._painted += len(rows)
        if self._painted == self.box.height:
            self.close()

    def close(self) -> None:
        """Free what it holds."""
        self._rows = None
        self._open.close()

    def _placed(self, levels: Sequence[Size]) -> tuple[Box, int, str]:
        """What it fills, which of its *levels* is read, and a remark on that. Where no width was asked for it is not
        enlarged; a mask is as its image is."""
        box = self._setting.box(self._room, levels[0])
        level, remark = level_for(levels, self._setting.request.level, box.size)
        if self._setting.request.width is None and self._setting.is_fit:
            if self._image is None:
                box = fitted(middle(self._room, levels[level]), levels[level])
            elif self._image.box is not None:
                box = fitted(middle(self._room, self._image.box.size), levels[0])
        return box, level, remark

    def _begin(self, slide: Slide) -> None:
        setting, is_mask = self._setting, self._image is not None
        self.backend = slide.backend
        box, level, self.remark = self._placed(slide.levels)
        size = slide.levels[level]
        _log.debug(
            "'%s': %s, level %d of %d, %d x %d pixels",
            *(self._source.name, slide.backend, level, len(slide.levels), *size),
        )
        background = setting.layout.background if setting.is_fit and not is_mask else None
        strips = self._checked(slide.strips(level, background))
        if _bytes(size) >= LARGE:
            ahead = strips = read_ahead(strips, setting.pool)
            self._open.callback(ahead.close)  # before the slide is
        # Montages that are compared with hi-ml's are resized by Pillow, as those were.
        bicubic: Bicubic | None = None if is_mask else quick() if setting.is_fit else as_pillow
        if min(_bytes(size), _bytes(box.size)) > setting.most_held:
            if is_mask and setting.is_fit:  # it is too large to be looked at whole: its coarsest level is
                self._has_labels = _is_labels(slide.strips(len(slide.levels) - 1, None))
            first = next(strips)  # what cannot be read at all is known before anything of it is painted
            self._rows = Resized(chain((first,), strips), size, box.size, bicubic)
            self.is_streamed = True
        elif _bytes(size) <= _bytes(box.size):  # all of the slide's pixels are held, and resized while they are painted
            held = deque(strips)
            self._has_labels = is_mask and _is_labels(iter(held))
            self._rows = Resized(_drained(held), size, box.size, bicubic)
        else:
            resampler = Resampler(size, box.size, bicubic)
            pixels = np.concatenate([rows for strip in strips for rows in resampler.stream(strip)])
            resampler.finish()
            self._has_labels = is_mask and _is_labels(iter((pixels,)))
            parts = deque(pixels[top : top + ROWS].copy() for top in range(0, len(pixels), ROWS))
            self._rows = Rows(_drained(parts), box.size)
        self.box, self.level = box, level

    def _checked(self, strips: Iterator[NDArray[np.uint8]]) -> Generator[NDArray[np.uint8], None, None]:
        for strip in strips:
            self._setting.pool.check()
            yield strip
            del strip

    def _fail(self, error: SlideUnreadable | MemoryError) -> None:
        self.reason = str(error) if isinstance(error, SlideUnreadable) else "there is not enough memory for it"
        self.close()
        self.is_streamed = False
        if self.box is not None:
            self.box = Box(self.box.x, self.box.y, self.box.width, self._painted) if self._painted else None


def _drained(held: deque[NDArray[np.uint8]]) -> Generator[NDArray[np.uint8], None, None]:
    """A few rows at a time: what is made of them waits in memory, in every cell of the row; they are freed as they are
    used."""
    while held:
        strip = held.popleft()
        for top in range(0, len(strip), ROWS):
            yield strip[top : top + ROWS]


def _is_labels(strips: Iterator[NDArray[np.uint8]]) -> bool:
    """Whether the pixels are grey and all have a colour in PALETTE: numbers of kinds, and not shades. They are read no
    further than needed."""
    return all(int(strip.max(initial=0)) < len(PALETTE) and bool((strip == strip[..., :1]).all()) for strip in strips)


def _bytes(size: Size) -> int:
    return 3 * size[0] * size[1]


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
        ExitStack() as slides,  # left after the pool: nobody reads them any more
        Pool(request.workers, folder.stop) as pool,  # threads that wait for files end on an error
    ):
        removed, left = earlier_files(request.output, names)
        check_inputs(request.output, entries, folder, lists)
        folder.expect([name for entry in entries for name in (entry.image, entry.mask) if name])
        found = find_sources(entries, folder, request.backend, pool)
        layout = _layout(request, found)
        sinks: list[Sink] = []
        for kind, name in (SINKS[each] for each in request.formats):
            sinks.append(kind(new / name, layout.size, pool))
            slides.callback(sinks[-1].abort)  # which does nothing to a file that is complete
        jpg_size = JpegFile.size_for(layout.size) if ImageFormat.jpg in request.formats else None
        pictures = layout.columns * (2 if any(mask is not None for _, mask in found) else 1)
        setting = Setting(request, layout, folder, pool, HELD_BYTES // pictures)
        for text in (*layout_remarks(layout, entries, jpg_size), *_growth_remarks(setting, found)):
            notify(Notice(text))
        progress = Progress(len(layout.cells), layout.size[1], notify)
        cells = [CellPainter(cell, entries[cell.entry], found[cell.entry], setting, progress) for cell in layout.cells]
        for cell in cells:
            slides.callback(cell.close)
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
        yield f"{_and(removed)} of an earlier montage {were} removed from '{request.output}': this one has none."
    if left:
        are = "is" if len(left) == 1 else "are"
        yield f"{_and(left)} in '{request.output}' {are} older than this montage and no part of it."


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
