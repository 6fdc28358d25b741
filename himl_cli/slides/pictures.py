"""Slides in a montage: open one with a reader for its format, choose its level, and create its picture. Small ones are
read ahead, and large ones row by row while they are painted."""

from __future__ import annotations

import errno
import logging
import stat
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from colorsys import hsv_to_rgb
from contextlib import ExitStack, closing, suppress
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from himl_cli.core.errors import BadUsage
from himl_cli.core.records import dataclass
from himl_cli.slides.layout import fitted, middle
from himl_cli.slides.readers import (
    APERIO,
    DICOM,
    GENERIC_TIFF,
    HALF,
    HAMAMATSU,
    MIRAX,
    CuSlide,
    MaskRule,
    PictureSlide,
    Slide,
    VendorSlide,
    eight_bits,
    message_of,
    own_range,
    range_remark,
    vendor_of,
)
from himl_cli.slides.resampling import Bicubic, Resampler, Rows, as_pillow, quick, resized
from himl_cli.slides.scale import scale_of, size_at
from himl_cli.slides.slide_records import (
    NOT_THERE,
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
from himl_cli.slides.threads import Pool, read_ahead
from himl_cli.slides.tiff import TiffSlide
from himl_cli.slides.whole import check_dicom, check_mirax, check_tiff

# Module of a backend, and the packages that contain it.
PACKAGES = {Backend.cucim: ("cucim", "cucim-cu12"), Backend.openslide: ("openslide", "openslide-bin openslide-python")}
REASONS = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), NOT_THERE),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "permission denied"),
}
LARGEST_STRETCH = 0.02  # of a mask in one direction
WINDOW = 8 << 20  # approximate bytes of a picture that is read while it is painted
LARGE = 64 << 20  # bytes of a level that is read in one thread and resized in another
NDPI = ".ndpi"  # OpenSlide does not recognise a part of such a file
ROWS = 64  # rows that are stored together and passed on at a time
_COLOURS = (
    *("000000", "ffffff", "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00"),
    *("cc79a7", "882255", "999933", "332288", "aa4499", "66ccee", "777777", "aa3c28"),
)
# More colours: each hue is far from the previous one (by the golden ratio), in three degrees of brightness.
_MORE = [hsv_to_rgb(number * 0.618034 % 1, 0.55 + number % 2 * 0.4, 0.55 + number % 3 * 0.2) for number in range(240)]
# Colours of the labels 0 to 255. A mask of zeros and ones is black and white.
PALETTE = np.array([*(tuple(bytes.fromhex(each)) for each in _COLOURS), *np.rint(np.multiply(_MORE, 255))], np.uint8)
SAMPLE_STEP = 7  # rows and columns between the pixels by which the range of an image is found
DARK = 64  # values of a mask that are all below this are labels, because shades and colours would be black
# More than this share of differences between adjacent pixels that are small, but not 0, means shades.
SMOOTH, SMALL = 0.2, 8
MOST_LABELS, LEAST_SHADES = 32, 64  # numbers of values above and below which labels and shades are a guess
_log = logging.getLogger(__name__)


def check_backend(backend: Backend) -> None:
    """Raise BadUsage if the package of the backend is not installed, or does not load."""
    if backend not in PACKAGES:
        return
    module, packages = PACKAGES[backend]
    try:
        import_module(module)
    except (ImportError, OSError) as err:
        what = f"Backend '{backend.value}' needs a package that cannot be loaded: {message_of(err)}."
        raise BadUsage(what, hint=f"Run 'pip install {packages}' (cuCIM: Linux only), or omit --backend.") from err


def open_slide(path: Path, backend: Backend, *, mask: MaskRule | None = None) -> Slide:
    """Open a slide. The caller closes it.

    `auto` uses OpenSlide for formats of scanners (tifffile for an Aperio slide that it rejects), tifffile for other
    TIFFs, and Pillow for the rest. `cucim` uses cuCIM where it is right, else `auto`. Other backends have no fallback.
    With *mask*, pixels are the labels of that rule, and every *backend* is `auto`, because OpenSlide and cuCIM return
    colours. Raises SlideUnreadable with the reason. Call `check_backend` first.
    """
    begins_as_tiff = _first_bytes(path) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    vendor = vendor_of(path)
    if begins_as_tiff:
        check_tiff(path, is_ndpi=vendor == HAMAMATSU or (vendor is None and path.suffix.lower() == NDPI))
    elif vendor == DICOM:
        check_dicom(path)
    elif vendor == MIRAX:
        check_mirax(path)
    if mask is not None:
        backend = Backend.auto
    if backend is Backend.cucim:
        return _by_cucim(path, begins_as_tiff and vendor in (None, GENERIC_TIFF, APERIO))
    if backend is Backend.openslide:
        return VendorSlide(path)
    if backend is Backend.tifffile and not begins_as_tiff:
        raise SlideUnreadable("it is not a TIFF")
    if backend is Backend.auto and vendor == APERIO:
        with suppress(SlideUnreadable):  # for example, for a compression that OpenSlide does not support
            return VendorSlide(path)
    elif vendor not in (None, GENERIC_TIFF, APERIO):
        if backend is Backend.auto:
            return VendorSlide(path)
        raise SlideUnreadable(f"it is a slide of the format '{vendor}', which tifffile does not support")
    return TiffSlide(path, mask=mask) if begins_as_tiff else PictureSlide(path, mask=mask)


def _by_cucim(path: Path, is_tiff: bool) -> Slide:
    """The slide, by cuCIM if it can read it, since it ends the process or gives wrong pixels for some others."""
    if is_tiff:
        with closing(TiffSlide(path)) as known:
            if known.is_common:
                slide = CuSlide(path, partial(_check_level, path))
                if [*slide.levels] == [*known.levels]:
                    slide.remarks = known.remarks
                    return slide
                slide.close()
    other = open_slide(path, Backend.auto)
    other.remarks = [*other.remarks, "cuCIM does not read it"]
    return other


def _check_level(path: Path, level: int) -> None:
    with closing(TiffSlide(path)) as slide:
        slide.check(level)


def check_shape(mask: Size, slide: Size) -> None:
    """Raise SlideUnreadable if the shape of *mask* is not that of *slide*, within 2 % and the rounding of its sides."""
    across, down = (whole / part for whole, part in zip(slide, mask, strict=True))
    if abs(across / down - 1) > LARGEST_STRETCH + 1 / mask[0] + 1 / mask[1]:
        raise SlideUnreadable(f"{mask[0]} x {mask[1]} pixels do not have the shape of {slide[0]} x {slide[1]}")


def _first_bytes(path: Path) -> bytes:
    """First four bytes. Raises SlideUnreadable for an empty or unreadable file, or anything but a file."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise SlideUnreadable("it is a folder")
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would block
            raise SlideUnreadable("it is not a regular file")
        if not found.st_size:
            raise SlideUnreadable("it is empty")
        with path.open("rb") as file:
            return file.read(4)
    except OSError as err:
        raise SlideUnreadable(REASONS.get(err.errno or 0, f"it cannot be opened: {message_of(err)}")) from err
    except ValueError as err:  # a null byte in the name
        raise SlideUnreadable("it does not exist, because its name is invalid") from err


def level_for(levels: Sequence[Size], requested: int | None, target: Size) -> tuple[int, str]:
    """Level to read, and a remark if it is not the one *requested*.

    A missing level is replaced by the coarsest one, which is the nearest. None selects the coarsest level that is at
    least as wide and high as *target*, or the finest. *levels* are sizes, the finest first, never empty.
    """
    if requested is None:
        covering = [number for number, size in enumerate(levels) if size[0] >= target[0] and size[1] >= target[1]]
        return (covering[-1] if covering else 0), ""
    if requested < len(levels):
        return requested, ""
    last = len(levels) - 1
    present = f"it has levels 0 to {last}" if last else "it has only level 0"
    return last, f"level {requested} is missing ({present}), and level {last} was read"


@dataclass(frozen=True)
class Source:
    """A file of the dataset. `levels` is empty if the file was not opened or is unreadable, for which `reason` is the
    reason. `size` is its size in the montage if a scale was requested."""

    name: str
    levels: Sequence[Size] = ()
    reason: str = ""
    size: Size | None = None


Sources = tuple[Source, Source | None]  # an entry's image and mask


def find_sources(
    entries: Sequence[SlideEntry], slides: SlideFolder, request: MontageRequest, pool: Pool
) -> list[Sources]:
    """Files of *entries*, with their levels and their sizes at the scale of *request* if *slides* can open files
    repeatedly."""

    def source(name: str, row: Mapping[str, str] | None) -> Source:
        """The file *name*, of an image with this *row* in the CSV, or of a mask (None)."""
        pool.check()
        if not slides.is_rereadable:
            return Source(name)
        try:
            with (
                slides.local_path(name) as path,
                closing(open_slide(path, request.backend, mask=MaskRule() if row is None else None)) as slide,
            ):
                size = None
                if request.mpp is not None and row is not None:
                    scale = scale_of(path, slide.levels[0], row, request.assume_mpp)
                    size = size_at(slide.levels[0], scale, request.mpp)
                return Source(name, tuple(slide.levels), size=size)
        except SlideUnreadable as err:
            return Source(name, reason=str(err))

    def sources(entry: SlideEntry) -> Sources:
        return source(entry.image, entry.more), None if entry.mask is None else source(entry.mask, None)

    found = [pool.submit(sources, entry) for entry in entries]
    return [each.result() for each in found]


@dataclass(frozen=True)
class Setting:
    """Data shared by all pictures of a montage. A picture may hold at most *most_held* bytes of pixels."""

    request: MontageRequest
    layout: Layout
    slides: SlideFolder
    pool: Pool
    most_held: int

    @property
    def is_fit(self) -> bool:
        return self.layout.style is LayoutStyle.fit

    def box(self, area: Box, size: Size) -> Box:
        """Part of *area* that a slide of *size* fills. hi-ml's layout stretches it."""
        return fitted(area, size) if self.is_fit else area


class Picture:
    """Picture of *source* in *area*. Call `prepare`, then `paint` from top to bottom, in one thread at a time. A mask
    belongs to an image, which is prepared first.

    An unreadable one has a `reason`. If that is found after some rows were painted, `box` ends with these.
    """

    def __init__(self, source: Source, area: Box, setting: Setting, *, mask_of: Picture | None = None) -> None:
        self.reason = source.reason
        self.remark = ""
        self._remarks: list[str] = []
        self.level: int | None = None
        self.backend = ""
        self.box: Box | None = None
        self.is_streamed = False  # read during painting
        self._source, self._area, self._setting, self._image = source, area, setting, mask_of
        self._rows: Rows | None = None
        self._open = ExitStack()
        self._painted = 0
        self._channel: int | None = None  # of the labels of a mask
        self._shown: NDArray[np.uint8] | None = None  # by value of a dark image
        self._levels: Sequence[Size] = ()

    @property
    def bytes(self) -> int:
        """Approximate memory use after it is prepared."""
        if self.reason:
            return 0
        if not self._source.levels:
            return self._setting.most_held
        box, level, _ = self._placed(self._source.levels)
        least = min(_bytes(self._source.levels[level]), _bytes(box.size))
        return least if least <= self._setting.most_held else WINDOW

    def prepare(self) -> None:
        """Open it, and read all of it if its pixels, or the resized ones, fit in the limit. Raises HimlError if no more
        files can be provided."""
        setting = self._setting
        setting.pool.check()
        if self.reason:
            return
        try:
            path = self._open.enter_context(setting.slides.local_path(self._source.name))
            # Masks keep their numbers, with any width.
            rule = None if self._image is None else MaskRule()
            slide = open_slide(path, setting.request.backend, mask=rule)
            self._begin(self._open.enter_context(closing(slide)))
        except (SlideUnreadable, MemoryError) as err:
            self._fail(err)
        except BaseException:
            self.close()
            raise
        if not self.is_streamed:
            self._open.close()

    def paint(self, band: NDArray[np.uint8], top: int) -> None:
        """Paint the part that overlaps *band*, which starts at row *top* of the montage, where the previous band
        ended."""
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
            np.multiply(rows, np.uint8(255), out=rows)  # as in hi-ml, which keeps the lower 8 bits
        elif self._channel is not None:
            rows[:] = PALETTE[rows[..., self._channel]]
        elif self._shown is not None:
            rows[:] = self._shown[rows]
        self._painted += len(rows)
        if self._painted == self.box.height:
            self.close()

    def close(self) -> None:
        self._rows = None
        self._open.close()

    def _placed(self, levels: Sequence[Size]) -> tuple[Box, int, str]:
        """Box that it fills, index of the level to read, and a remark. Without a requested width, it is not enlarged. A
        mask follows its image."""
        if self._source.size is not None:
            box = middle(self._area, self._source.size)
            growth = box.width / levels[0][0]
            remark = f"it is enlarged {growth:.1f} times, because its finest level is coarser" if growth > 1.05 else ""
            return box, level_for(levels, None, box.size)[0], remark
        box = self._setting.box(self._area, levels[0])
        level, remark = level_for(levels, self._setting.request.level, box.size)
        if self._setting.request.width is None and self._setting.is_fit:
            if self._image is None:
                box = fitted(middle(self._area, levels[level]), levels[level])
            elif self._image.box is not None:
                box = fitted(middle(self._area, self._image.box.size), levels[0])
        return box, level, remark

    def _begin(self, slide: Slide) -> None:
        setting, is_mask = self._setting, self._image is not None
        self.backend, self._levels = slide.backend, slide.levels
        if self._image is not None and self._image._levels and setting.is_fit:
            check_shape(slide.levels[0], self._image._levels[0])
        box, level, remark = self._placed(slide.levels)
        is_plain = slide.backend == PictureSlide.backend and self._source.size is None
        self._remarks = [] if is_plain else [remark]  # plain pictures have no levels
        size = slide.levels[level]
        _log.debug(
            "'%s': %s, level %d of %d, %d x %d pixels",
            *(self._source.name, slide.backend, level, len(slide.levels), *size),
        )
        background = setting.layout.background if setting.is_fit and not is_mask else None
        strips = self._checked(slide.strips(level, background))
        if _bytes(size) >= LARGE:
            ahead = strips = read_ahead(strips, setting.pool)
            self._open.callback(ahead.close)  # before the slide is closed
        # Pillow resizes montages that are compared with those of hi-ml, as hi-ml did.
        bicubic: Bicubic | None = None if is_mask else quick() if setting.is_fit else as_pillow
        if min(_bytes(size), _bytes(box.size)) > setting.most_held:
            self._inspect(slide, slide.strips(len(slide.levels) - 1, None))  # all of it is too large
            first = next(strips)  # detect an unreadable slide before anything is painted
            self._rows = resized(chain((first,), strips), size, box.size, bicubic)
            self.is_streamed = True
        elif _bytes(size) <= _bytes(box.size):  # hold all pixels of the slide, and resize them during painting
            held = deque(strips)
            self._inspect(slide, iter(held))
            self._rows = resized(_drained(held), size, box.size, bicubic)
        else:
            resampler = Resampler(size, box.size, bicubic)
            pixels = np.concatenate([rows for strip in strips for rows in resampler.stream(strip)])
            resampler.finish()
            self._inspect(slide, iter((pixels,)))
            parts = deque(pixels[top : top + ROWS].copy() for top in range(0, len(pixels), ROWS))
            self._rows = Rows(_drained(parts), box.size)
        self.box, self.level = box, level
        self.remark = "; ".join(filter(None, [*self._remarks, *slide.remarks]))

    def _inspect(self, slide: Slide, strips: Iterator[NDArray[np.uint8]]) -> None:
        """Choose how a mask, or an image that is dark, is shown, by its *strips*."""
        rule = slide.mask_rule
        if rule is not None and rule.threshold:
            self._remarks.append(f"it is a JPEG, so that values up to {rule.threshold:g} are background")
        if not self._setting.is_fit:
            return
        if rule is None:
            own = _dark_range(strips)
            if own is not None:
                self._remarks.append(range_remark(*own))
                self._shown = eight_bits(np.arange(256, dtype=np.uint8), *own)
        elif rule.scale <= 1:
            self._channel, remark = _label_channel(strips)
            self._remarks.append(remark)

    def _checked(self, strips: Iterator[NDArray[np.uint8]]) -> Generator[NDArray[np.uint8], None, None]:
        for strip in strips:
            self._setting.pool.check()
            yield strip
            del strip

    def _fail(self, error: SlideUnreadable | MemoryError) -> None:
        self.reason = str(error) if isinstance(error, SlideUnreadable) else "it does not fit in memory"
        self.close()
        self.is_streamed = False
        if self.box is not None:
            self.box = Box(self.box.x, self.box.y, self.box.width, self._painted) if self._painted else None


def _drained(held: deque[NDArray[np.uint8]]) -> Generator[NDArray[np.uint8], None, None]:
    """Yield a few rows at a time, and free them after use, because each cell of the row holds its results in memory."""
    while held:
        strip = held.popleft()
        for top in range(0, len(strip), ROWS):
            yield strip[top : top + ROWS]


def _dark_range(strips: Iterator[NDArray[np.uint8]]) -> tuple[float, float] | None:
    """Range of the values of an image with *strips* that use less than half of 8 bits, as of fluorescence. None for
    others, of which no more strips are read than necessary."""
    samples = []
    for strip in strips:
        samples.append(strip[::SAMPLE_STEP, ::SAMPLE_STEP])
        if np.count_nonzero(samples[-1] >= HALF) > samples[-1].size / 1000:
            return None
        del strip
    return own_range(np.concatenate(samples, axis=None), 255.0)


def _label_channel(strips: Iterator[NDArray[np.uint8]]) -> tuple[int | None, str]:
    """Channel with the labels of a mask, by the values in its *strips*, and a remark if it is a guess. None for shades
    and colours, which are shown as they are.

    Labels are in all channels, or in the only one that varies. Labels of adjacent pixels are mostly equal, and shades
    mostly differ a little.
    """
    counts: NDArray[np.int64] = np.zeros((3, 256), np.int64)
    is_grey, pairs, close = True, 0, 0
    for strip in strips:
        is_grey = is_grey and bool((strip == strip[..., :1]).all())
        counts += [np.bincount(strip[..., channel].ravel(), minlength=256) for channel in range(3)]
        values = strip.max(axis=2).astype(np.int16)
        steps = np.abs(np.diff(values, axis=1))[np.minimum(values[:, 1:], values[:, :-1]) > 0]
        pairs, close = pairs + steps.size, close + int(((steps > 0) & (steps <= SMALL)).sum())
    used = [channel for channel in range(3) if counts[channel, 1:].any()]
    varying = [channel for channel in used if np.count_nonzero(counts[channel]) > 1]
    channel = (varying or used or [0])[0]
    labels = (np.flatnonzero(counts[channel, 1:]) + 1).tolist()
    is_dark = not counts[:, DARK:].any()
    if not is_grey and len(varying or used) > 1:
        name = ("red", "green", "blue")[channel]
        return (channel, f"several channels have labels ({name} is shown)") if is_dark else (None, "")
    if labels == [255]:
        return None, ""
    is_smooth = close > SMOOTH * pairs and not is_dark
    is_guess = len(labels) < LEAST_SHADES if is_smooth else len(labels) > MOST_LABELS
    remark = f"{'shades' if is_smooth else 'labels'} are a guess ({len(labels)} values)" if is_guess else ""
    return None if is_smooth else channel, remark


def _bytes(size: Size) -> int:
    return 3 * size[0] * size[1]
