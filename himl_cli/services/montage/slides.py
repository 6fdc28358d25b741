"""Slides as a montage has them: opening one with what reads its format, which of its levels is read, and its picture in
its room: read ahead where it is small, row by row while it is painted where it is large."""

from __future__ import annotations

import errno
import logging
import stat
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import (
    Backend,
    Box,
    Layout,
    LayoutStyle,
    MontageRequest,
    Size,
    SlideEntry,
    SlideFolder,
    SlideUnreadable,
)
from himl_cli.services.montage.layout import fitted, middle
from himl_cli.services.montage.readers import CuSlide, PictureSlide, Slide, VendorSlide, message_of, vendor_of
from himl_cli.services.montage.resampling import Bicubic, Resampler, Rows, as_pillow, quick, resized
from himl_cli.services.montage.threads import Pool, read_ahead
from himl_cli.services.montage.tiff import TiffSlide

GENERIC_TIFF = "generic-tiff"  # what OpenSlide calls a TIFF that is of no scanner's format
APERIO = "aperio"
# What is imported for a backend, and the packages that hold it.
PACKAGES = {Backend.cucim: ("cucim", "cucim-cu12"), Backend.openslide: ("openslide", "openslide-bin openslide-python")}
REASONS = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "it does not exist"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "it may not be read (permission denied)"),
}
WINDOW = 8 << 20  # bytes that a picture needs which is read while it is painted, roughly
LARGE = 64 << 20  # bytes of a level that is read in one thread and resized in another
ROWS = 64  # rows that are kept together, and handed on at a time
_COLOURS = (
    *("000000", "ffffff", "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00"),
    *("cc79a7", "882255", "999933", "332288", "aa4499", "66ccee", "777777", "aa3c28"),
)
# The colours of labels 0, 1, 2 ...: a mask of zeros and ones is black and white.
PALETTE = np.array([tuple(bytes.fromhex(colour)) for colour in _COLOURS], np.uint8)
_log = logging.getLogger(__name__)


def check_backend(backend: Backend) -> None:
    """Raises BadUsage where the package that it needs is not installed, or does not load."""
    if backend not in PACKAGES:
        return
    module, packages = PACKAGES[backend]
    try:
        import_module(module)
    except (ImportError, OSError) as err:
        what = f"Backend '{backend.value}' needs a package that cannot be loaded here: {message_of(err)}."
        raise BadUsage(what, hint=f"Run 'pip install {packages}' (cuCIM: Linux only), or leave out --backend.") from err


def open_slide(path: Path, backend: Backend, *, as_labels: bool = False) -> Slide:
    """The slide, opened; the caller closes it.

    With *as_labels*, for masks, grey values are kept as they are (cut at 255), not scaled by the range of their bits.
    `auto` takes OpenSlide for formats of scanners (tifffile for an Aperio slide that it refuses), tifffile for other
    TIFFs and Pillow for the rest; other backends stand alone.
    Raises SlideUnreadable with the reason. The backend's package was looked at before: `check_backend`.
    """
    begins_as_tiff = _first_bytes(path) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    if backend is Backend.cucim:
        return CuSlide(path)
    if backend is Backend.openslide:
        return VendorSlide(path)
    if backend is Backend.tifffile and not begins_as_tiff:
        raise SlideUnreadable("it is no TIFF")
    vendor = vendor_of(path)
    if backend is Backend.auto and vendor == APERIO:
        with suppress(SlideUnreadable):  # a compression that OpenSlide lacks, say
            return VendorSlide(path)
    elif vendor not in (None, GENERIC_TIFF, APERIO):
        if backend is Backend.auto:
            return VendorSlide(path)
        raise SlideUnreadable(f"it is a slide of the format '{vendor}', which the backend tifffile does not read")
    return TiffSlide(path, as_labels=as_labels) if begins_as_tiff else PictureSlide(path, as_labels=as_labels)


def _first_bytes(path: Path) -> bytes:
    """Four of them. Raises SlideUnreadable for what is no file, has nothing in it, or may not be read."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise SlideUnreadable("it is a folder")
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for somebody to write
            raise SlideUnreadable("it is no ordinary file")
        if not found.st_size:
            raise SlideUnreadable("it is empty")
        with path.open("rb") as file:
            return file.read(4)
    except OSError as err:
        raise SlideUnreadable(REASONS.get(err.errno or 0, f"it cannot be opened: {message_of(err)}")) from err
    except ValueError as err:  # a null byte in the name
        raise SlideUnreadable("it does not exist: no file can have that name") from err


def level_for(levels: Sequence[Size], requested: int | None, target: Size) -> tuple[int, str]:
    """The level to read, and a remark where it is not the one *requested*.

    A missing level gives way to the coarsest there is, which is the nearest. None: the coarsest one that is at least as
    wide and as high as *target*, the finest where none is. *levels* are sizes, the finest first; never empty.
    """
    if requested is None:
        covering = [number for number, size in enumerate(levels) if size[0] >= target[0] and size[1] >= target[1]]
        return (covering[-1] if covering else 0), ""
    if requested < len(levels):
        return requested, ""
    last = len(levels) - 1
    present = f"levels 0 to {last} are there" if last else "level 0 is the only one"
    return last, f"level {requested} is missing ({present}): level {last} was read"


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
            self._rows = resized(chain((first,), strips), size, box.size, bicubic)
            self.is_streamed = True
        elif _bytes(size) <= _bytes(box.size):  # all of the slide's pixels are held, and resized while they are painted
            held = deque(strips)
            self._has_labels = is_mask and _is_labels(iter(held))
            self._rows = resized(_drained(held), size, box.size, bicubic)
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
