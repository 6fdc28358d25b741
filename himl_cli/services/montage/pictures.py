"""One slide, or one mask, in its room of a cell: read ahead where it is small, row by row where it is large."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from himl_cli.core.montage import Backend, Box, Layout, LayoutStyle, MontageRequest, Size, SlideEntry, SlideUnreadable
from himl_cli.services.montage.dataset import SlideFolder
from himl_cli.services.montage.layout import fitted, middle
from himl_cli.services.montage.resampling import Bicubic, Resampler, Resized, as_pillow, quick
from himl_cli.services.montage.slides.open import open_slide
from himl_cli.services.montage.slides.slide import Slide, level_for
from himl_cli.services.montage.threads import Pool, read_ahead

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 8 << 20
"""Bytes that a picture needs which is read while it is painted, roughly."""
LARGE = 64 << 20
"""Bytes of a level that is read in one thread and resized in another."""
ROWS = 64
"""Rows that are kept together, and handed on at a time."""
LABELS = 16
_COLOURS = (
    *("000000", "ffffff", "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00"),
    *("cc79a7", "882255", "999933", "332288", "aa4499", "66ccee", "777777", "aa3c28"),
)
PALETTE = np.array([tuple(bytes.fromhex(colour)) for colour in _COLOURS], np.uint8)
"""The colours of labels 0, 1, 2 ...: a mask of zeros and ones is black and white."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the dataset. `levels` is empty where it was not looked into, or where it cannot be read; `reason` says
    why."""

    name: str
    levels: Sequence[Size] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Sources:
    """An entry's files."""

    entry: SlideEntry
    image: Source
    mask: Source | None


def find_sources(entries: Sequence[SlideEntry], slides: SlideFolder, backend: Backend, pool: Pool) -> list[Sources]:
    """The files of *entries*; with their levels where *slides* gives files as often as one likes."""

    def source(name: str, is_mask: bool) -> Source:
        pool.check()
        if not slides.is_rereadable:
            return Source(name)
        try:
            with _opened(name, slides, backend, is_mask=is_mask) as slide:
                return Source(name, tuple(slide.levels))
        except SlideUnreadable as err:
            return Source(name, reason=str(err))

    images = [pool.submit(source, entry.image, False) for entry in entries]
    masks = [pool.submit(source, entry.mask, True) for entry in entries if entry.mask is not None]
    of_masks = iter(pool.results(masks))
    found = zip(entries, pool.results(images), strict=True)
    return [Sources(entry, image, next(of_masks) if entry.mask is not None else None) for entry, image in found]


@contextmanager
def _opened(name: str, slides: SlideFolder, backend: Backend, *, is_mask: bool) -> Iterator[Slide]:
    """The slide, open within the `with`; of a mask, numbers are kept, whatever their width.

    Raises SlideUnreadable; another HimlError where no file can be given any more.
    """
    with slides.local_path(name) as path:
        slide = open_slide(path, backend, as_labels=is_mask)
        try:
            yield slide
        finally:
            slide.close()


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
        self._rows: Resized | _Rows | None = None
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
        self._setting.pool.check()
        if self.reason:
            return
        setting = self._setting
        opened = _opened(self._source.name, setting.slides, setting.request.backend, is_mask=self._image is not None)
        try:
            self._begin(self._open.enter_context(opened))
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
        elif self._image is not None and self._has_labels:
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
        strips = self._checked(
            slide.strips(level, setting.layout.background if setting.is_fit and not is_mask else None)
        )
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
            self._rows = _Rows(pixels)
        self.box, self.level = box, level

    def _checked(self, strips: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
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


class _Rows:
    """Rows that are all there, and freed as they are given: a few at a time are kept in memory of their own."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._parts = deque(pixels[top : top + ROWS].copy() for top in range(0, len(pixels), ROWS))

    def fill(self, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As `Resized.fill`."""
        done = 0
        while done < len(out):
            part = self._parts.popleft()
            taken = part[: len(out) - done]
            out[done : done + len(taken)] = taken
            done += len(taken)
            if len(taken) < len(part):
                self._parts.appendleft(part[len(taken) :])
        return out


def _drained(held: deque[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """A few rows at a time: what is made of them waits in memory, in every cell of the row."""
    while held:
        strip = held.popleft()
        for top in range(0, len(strip), ROWS):
            yield strip[top : top + ROWS]


def _is_labels(strips: Iterator[NDArray[np.uint8]]) -> bool:
    """Whether the pixels are grey and all below LABELS: numbers of kinds, and not shades. They are read no further than
    needed."""
    return all(int(strip.max(initial=0)) < LABELS and bool((strip == strip[..., :1]).all()) for strip in strips)


def _bytes(size: Size) -> int:
    return 3 * size[0] * size[1]
