"""The picture in bands of rows from the top, painted cell by cell by all threads, while cells further down are read
ahead; a slide in its cell is read ahead where it is small, row by row where it is large."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from himl_cli.core.events import Counted, Counting, Notify
from himl_cli.core.montage import (
    Backend,
    Box,
    Cell,
    CellOutcome,
    Layout,
    LayoutStyle,
    MontageRequest,
    Size,
    SlideEntry,
    SlideUnreadable,
)
from himl_cli.services.montage.captions import FailureMark, Inscription, caption_for, fill
from himl_cli.services.montage.dataset import SlideFolder
from himl_cli.services.montage.layout import fitted, middle, relative
from himl_cli.services.montage.resampling import Bicubic, Resampler, Resized, Rows, as_pillow, quick
from himl_cli.services.montage.slides.open import open_slide
from himl_cli.services.montage.slides.slide import Slide, level_for
from himl_cli.services.montage.threads import Pool, read_ahead

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
        if not any(each.is_streamed for each in self._pictures):
            self._count_read()

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

    def _count_read(self) -> None:
        if not self._is_read:
            self._is_read = True
            self._progress.add(read=1)


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
