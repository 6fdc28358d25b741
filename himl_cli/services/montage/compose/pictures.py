"""One slide, or one mask, in its room of a cell: read ahead where it is small, row by row where it is large."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import numpy as np

from himl_cli.core.montage import Box, Layout, LayoutStyle, MontageRequest, Size, SlideUnreadable
from himl_cli.services.montage.bicubic import Bicubic, as_pillow, quick
from himl_cli.services.montage.compose.masks import has_labels, is_labels, make_visible
from himl_cli.services.montage.compose.pool import Pool
from himl_cli.services.montage.compose.read_ahead import read_ahead
from himl_cli.services.montage.compose.sources import Source, opened
from himl_cli.services.montage.layout.placing import fitted, middle
from himl_cli.services.montage.places import SlidePlace
from himl_cli.services.montage.resampling import Resampler, Resized
from himl_cli.services.montage.slides.base import Colour, Slide
from himl_cli.services.montage.slides.levels import level_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 8 << 20
"""Bytes that a picture needs which is read while it is painted, roughly."""
LARGE = 64 << 20
"""Bytes of a level that is read in one thread and resized in another."""
ROWS = 64
"""Rows that are kept together, and handed on at a time."""
_log = logging.getLogger(__name__)
NO_MEMORY = "there is not enough memory for it"


class Rows(Protocol):
    """The rows of a picture from the top, as Resized gives them."""

    def fill(self, out: NDArray[np.uint8]) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Setting:
    """What all pictures of a montage share. *held* is how many bytes of pixels one may hold."""

    request: MontageRequest
    layout: Layout
    place: SlidePlace
    pool: Pool
    held: int

    @property
    def background(self) -> Colour | None:
        return self.layout.background if self.layout.style is LayoutStyle.fit else None

    def box(self, room: Box, size: Size) -> Box:
        """What a slide of *size* fills of its room: hi-ml's way is to stretch it."""
        return fitted(room, size) if self.layout.style is LayoutStyle.fit else room


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
        self._source, self._room, self._setting, self._image, self._is_mask = (
            source,
            room,
            setting,
            mask_of,
            mask_of is not None,
        )
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
            return self._setting.held
        box, level, _ = self._placed(self._source.levels)
        least = min(_bytes(self._source.levels[level]), _bytes(box.size))
        return least if least <= self._setting.held else WINDOW

    def prepare(self) -> None:
        """Open it; read all of it where its pixels, or those that they become, may be held. Raises HimlError where
        nothing can be brought any more."""
        self._setting.pool.check()
        if self.reason:
            return
        try:
            self._begin(self._open.enter_context(self._opened()))
        except SlideUnreadable as err:
            self._fail(str(err))
        except MemoryError:
            self._fail(NO_MEMORY)
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
        except SlideUnreadable as err:
            self._fail(str(err))
            return
        except MemoryError:
            self._fail(NO_MEMORY)
            return
        if self._is_mask:
            make_visible(rows, self._setting.layout.style, labels=self._has_labels)
        self._painted += len(rows)
        if self._painted == self.box.height:
            self.close()

    def close(self) -> None:
        """Free what it holds."""
        self._rows = None
        self._open.close()

    @property
    def _bicubic(self) -> Bicubic | None:
        """The old montages were made by Pillow: those that are compared with them are too."""
        if self._is_mask:
            return None
        return as_pillow if self._setting.layout.style is LayoutStyle.himl else quick()

    def _opened(self) -> AbstractContextManager[Slide]:
        return opened(self._source.name, self._setting.place, self._setting.request.backend, is_mask=self._is_mask)

    def _placed(self, levels: Sequence[Size]) -> tuple[Box, int, str]:
        """What it fills, which of its *levels* is read, and a remark on that. Where no width was asked for it is not
        enlarged; a mask is as its image is."""
        box = self._setting.box(self._room, levels[0])
        level, remark = level_for(levels, self._setting.request.level, box.size)
        if self._setting.request.width is None and self._setting.layout.style is LayoutStyle.fit:
            if self._image is None:
                box = fitted(middle(self._room, levels[level]), levels[level])
            elif self._image.box is not None:
                box = fitted(middle(self._room, self._image.box.size), levels[0])
        return box, level, remark

    def _begin(self, slide: Slide) -> None:
        self.backend = slide.backend
        box, level, self.remark = self._placed(slide.levels)
        size = slide.levels[level]
        _log.debug(
            "'%s': %s, level %d of %d, %d x %d pixels",
            self._source.name,
            slide.backend,
            level,
            len(slide.levels),
            *size,
        )
        self._open.callback(self._hear, slide)
        strips = self._strips(slide, level)
        if min(_bytes(size), _bytes(box.size)) > self._setting.held:
            self._stream(slide, strips, size, box.size)
        elif _bytes(size) <= _bytes(box.size):
            self._hold(strips, size, box.size)
        else:
            self._resize(strips, size, box.size)
        self.box, self.level = box, level

    def _hear(self, slide: Slide) -> None:
        """What the reader says once it has read."""
        self.remark = "; ".join(filter(None, (self.remark, slide.remark)))

    def _stream(self, slide: Slide, strips: Iterator[NDArray[np.uint8]], size: Size, target: Size) -> None:
        if self._is_mask and self._setting.layout.style is LayoutStyle.fit:
            self._has_labels = has_labels(slide)
        first = next(strips)  # what cannot be read at all is known before anything of it is painted
        self._rows = Resized(chain((first,), strips), size, target, self._bicubic)
        self.is_streamed = True

    def _hold(self, strips: Iterator[NDArray[np.uint8]], size: Size, target: Size) -> None:
        """All of the slide's pixels, which are resized while they are painted."""
        held = deque(strips)
        self._has_labels = self._is_mask and is_labels(iter(held))
        self._rows = Resized(_drained(held), size, target, self._bicubic)

    def _resize(self, strips: Iterator[NDArray[np.uint8]], size: Size, target: Size) -> None:
        resampler = Resampler(size, target, self._bicubic)
        pixels = np.concatenate([rows for strip in strips for rows in resampler.stream(strip)])
        resampler.finish()
        self._has_labels = self._is_mask and is_labels(iter((pixels,)))
        self._rows = _Held(pixels)

    def _strips(self, slide: Slide, level: int) -> Iterator[NDArray[np.uint8]]:
        strips = self._checked(slide.strips(level, None if self._is_mask else self._setting.background))
        if _bytes(slide.levels[level]) < LARGE:
            return strips
        ahead = read_ahead(strips, self._setting.pool)
        self._open.callback(ahead.close)  # before the slide is
        return ahead

    def _checked(self, strips: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        for strip in strips:
            self._setting.pool.check()
            yield strip
            del strip

    def _fail(self, reason: str) -> None:
        self.reason = reason
        self.close()
        self.is_streamed = False
        if self.box is not None:
            self.box = Box(self.box.x, self.box.y, self.box.width, self._painted) if self._painted else None


class _Held:
    """Rows that are all there, and let go of as they are given: a few at a time are kept in memory of their own."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._parts = deque(pixels[top : top + ROWS].copy() for top in range(0, len(pixels), ROWS))

    def fill(self, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
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


def _bytes(size: Size) -> int:
    return 3 * size[0] * size[1]
