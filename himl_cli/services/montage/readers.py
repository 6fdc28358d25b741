"""What a slide is to whoever draws it; what its readers share (errors, samples as RGB of 8 bits); and the readers that
are a library each: OpenSlide for scanners' formats; NVIDIA's cuCIM for TIFF and SVS, which uses no GPU here; Pillow for
plain pictures (PNG, JPEG, BMP, JPEG 2000, WebP ...).

OpenSlide and cuCIM need not be installed, and give rectangles of a level. OpenSlide is given places in pixels of level
0, and interpolates where that is between two pixels of another level: levels of more than 8 million pixels may be off
by a fraction of a pixel where a strip begins. Plain pictures have one level, and are decoded whole. One that says by
EXIF how it is to be turned is turned. Of files with several pictures the first one counts.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops
from PIL.ImageFile import ImageFile
from tifffile import TiffFileError

from himl_cli.core.montage import Box, Colour, Size, SlideUnreadable

# What libraries raise for damaged files. SyntaxError is Pillow's, for a broken PNG, ImportError imagecodecs', for a
# codec that it was built without.
LIBRARY_ERRORS = (
    *(TiffFileError, OSError, ImportError, ValueError, RuntimeError, LookupError, ArithmeticError, TypeError),
    *(AttributeError, AssertionError, EOFError, SyntaxError, struct.error),
)
LONGEST_MESSAGE = 200
REGION_PIXELS, REGION_COLUMNS = 8 << 20, 4096
TILE_ROWS, MOST_TILE_ROWS = 256, 4096
LARGEST = 400_000_000  # pixels beyond which a picture is refused, since it is decoded whole
# Names of Pillow's plugins. Others are left out: they start programs (EPS), take anything for theirs (TGA), or write to
# the terminal (TIFF).
FORMATS = ("PNG", "JPEG", "BMP", "JPEG2000", "WEBP", "GIF", "PPM", "AVIF")
STRIP_PIXELS = 4 << 20
# What EXIF's numbers mean; from 5 on the picture lies on its side.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Slide(Protocol):
    """An opened slide; used by one thread at a time.

    `backend` is what reads it: `tifffile`, `openslide`, `cucim` or `pillow`. `levels` are the size of each level in
    pixels, the finest first; never empty.
    """

    backend: str
    levels: Sequence[Size]

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        """The level from the top down: arrays of shape (rows, width of the level, 3), RGB, C-contiguous, whose rows sum
        up to its height.

        Other kinds of pixels are converted: 16 bits are scaled, grey and CMYK become RGB; ICC profiles are left aside.
        What is transparent, or not stored, lies on *background*; None: transparency is dropped, as hi-ml did, and what
        is not stored is black. Raises SlideUnreadable, also in the middle.
        """

    def close(self) -> None:
        """Free what it holds."""


@contextmanager
def library_errors(what: str, path: Path | None = None, *kinds: type[Exception]) -> Iterator[None]:
    """Raises SlideUnreadable, beginning with *what*, where a library fails, also with its own *kinds* of errors; *path*
    is taken out of its words."""
    try:
        yield
    except SlideUnreadable:
        raise
    except MemoryError as err:
        raise SlideUnreadable(f"{what}: it does not fit into memory") from err
    except LIBRARY_ERRORS + kinds as err:
        words = message_of(err)
        if path is not None:
            words = words.replace(f"{path}: ", "").replace(str(path), "the file")
        raise SlideUnreadable(f"{what}: {words}" if words else what) from err


def message_of(error: BaseException) -> str:
    """The message of a library's error: one line, no longer than a line should be."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split())
    return words if len(words) <= LONGEST_MESSAGE else f"{words[: LONGEST_MESSAGE - 3]}..."


def eight_bits(samples: NDArray[np.generic], lowest: float, highest: float) -> NDArray[np.uint8]:
    """*samples* scaled so that *lowest* becomes 0 and *highest* 255, rounded; what lies beyond is cut, what is no
    number is 0. Same shape."""
    if samples.dtype == np.uint8 and (lowest, highest) == (0, 255):
        return samples
    has_few = samples.dtype in (np.uint8, np.uint16)  # so few values that a table of them is made
    numbers = np.arange(1 << (8 * samples.dtype.itemsize)) if has_few else samples
    shares = (np.nan_to_num(numbers.astype(np.float64), nan=lowest) - lowest) / (highest - lowest)
    scaled = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    return scaled[samples] if has_few else scaled


def clipped_labels(samples: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Labels: numbers keep their value, those over 255 become 255, those below 0 become 0. Same shape."""
    return samples if samples.dtype == np.uint8 else np.clip(np.nan_to_num(samples), 0, 255).astype(np.uint8)


def grey_to_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey, shape (rows, columns), as RGB."""
    return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))


def laid_over(
    rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], background: Colour | None, *, premultiplied: bool = False
) -> NDArray[np.uint8]:
    """*rgb*, shape (rows, columns, 3), on *background* as opaque as *alpha*, shape (rows, columns), says; on None:
    without regard to alpha."""
    if background is None or bool((alpha == 255).all()):
        return rgb
    share = alpha[..., None].astype(np.uint16)
    rest = np.array(background, np.uint16) * (255 - share)
    if premultiplied:
        return np.minimum(rgb + (rest + 127) // 255, 255).astype(np.uint8)
    return ((rgb * share + rest + 127) // 255).astype(np.uint8)


def vendor_of(path: Path) -> str | None:
    """What OpenSlide takes it for: `aperio`, `generic-tiff` ...; None for nothing that it knows, and where it does not
    load here."""
    try:
        import openslide
    except (ImportError, OSError):
        return None
    try:
        return openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None


def objective_power(path: Path) -> float | None:
    """The magnification of level 0, such as 40, where OpenSlide finds it in the file."""
    try:
        import openslide
    except (ImportError, OSError):
        return None
    try:
        with openslide.OpenSlide(path) as slide:
            return float(slide.properties[openslide.PROPERTY_NAME_OBJECTIVE_POWER])
    except (OSError, KeyError, ValueError, openslide.OpenSlideError):
        return None


class VendorSlide:
    """A Slide that OpenSlide reads, without the interpreter's lock. Raises SlideUnreadable where OpenSlide refuses
    it."""

    backend = "openslide"

    def __init__(self, path: Path) -> None:
        import openslide

        self._path, self._error = path, openslide.OpenSlideError
        with library_errors("OpenSlide", path, self._error):
            try:
                self._slide = openslide.OpenSlide(path)
            except openslide.OpenSlideUnsupportedFormatError as err:
                raise SlideUnreadable("OpenSlide knows no such format, or the file is damaged") from err
        self._slide.set_cache(openslide.OpenSlideCache(8 << 20))
        self.levels: Sequence[Size] = self._slide.level_dimensions

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        text = self._slide.properties.get(f"openslide.level[{level}].tile-height", "")
        tile_rows = int(text) if text.isdecimal() and 0 < int(text) <= MOST_TILE_ROWS else TILE_ROWS
        return _strips(self.levels[level], tile_rows, lambda box: self._rgb(level, box, background))

    def close(self) -> None:
        self._slide.close()

    def _rgb(self, level: int, box: Box, background: Colour | None) -> NDArray[np.uint8]:
        downsample = self._slide.level_downsamples[level]
        with library_errors("OpenSlide", self._path, self._error):
            region = self._slide.read_region((int(box.x * downsample), int(box.y * downsample)), level, box.size)
        if background is None or region.getchannel("A").getextrema() == (255, 255):
            return np.asarray(region.convert("RGB"))
        return _pasted(region, background)


class CuSlide:
    """A Slide that cuCIM reads. Raises SlideUnreadable where cuCIM refuses it."""

    backend = "cucim"

    def __init__(self, path: Path) -> None:
        from cucim import CuImage

        self._path = path
        with library_errors("cuCIM cannot open it", path):
            self._image = CuImage(str(path))
            found = self._image.resolutions
            self.levels: Sequence[Size] = [(int(width), int(height)) for width, height in found["level_dimensions"]]
            self._downsamples = [float(value) for value in found["level_downsamples"]]

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        return _strips(self.levels[level], TILE_ROWS, lambda box: self._rgb(level, box, background))

    def close(self) -> None:
        self._image.close()

    def _rgb(self, level: int, box: Box, background: Colour | None) -> NDArray[np.uint8]:
        """cuCIM is given places in pixels of level 0 and rounds down to one of the level: the first that lies in it is
        meant."""
        downsample = self._downsamples[level]
        with library_errors("cuCIM cannot read it", self._path):
            place = ceil(box.x * downsample), ceil(box.y * downsample)
            samples = np.asarray(self._image.read_region(place, box.size, level))
        if samples.dtype != np.uint8 or samples.shape[:2] != (box.height, box.width):
            raise SlideUnreadable(f"cuCIM gives {samples.dtype} pixels of shape {samples.shape}, which are not read")
        if samples.shape[2] == 1:
            return grey_to_rgb(samples[..., 0])
        return laid_over(samples[..., :3], samples[..., 3], background) if samples.shape[2] == 4 else samples


def _pasted(image: Image.Image, background: Colour) -> NDArray[np.uint8]:
    below = Image.new("RGB", image.size, background)
    below.paste(image, mask=image)
    return np.asarray(below)


def _strips(size: Size, tile_rows: int, read: Callable[[Box], NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """The strips of a level of *size*, each *read* as rectangles: whole rows of tiles, at most 8 megapixels a rectangle
    unless one row of tiles has more.

    OpenSlide reads in pieces of 4,096 columns, and rounds where each begins: ours begin where its own would.
    """
    width, height = size
    most = max(1, REGION_PIXELS // (width * tile_rows)) * tile_rows
    for top, bottom in pairwise([*range(0, height, most), height]):
        rows = bottom - top
        columns = max(1, REGION_PIXELS // (rows * REGION_COLUMNS)) * REGION_COLUMNS
        strip: NDArray[np.uint8] = np.empty((rows, width, 3), np.uint8)
        for left in range(0, width, columns):
            box = Box(left, top, min(columns, width - left), rows)
            strip[:, box.x : box.x + box.width] = read(box)
        yield strip
        del strip  # or it would be kept while the next one is made


class PictureSlide:
    """A Slide; decoding frees the interpreter's lock. Raises SlideUnreadable for what Pillow does not know, or what is
    too large."""

    backend = "pillow"

    def __init__(self, path: Path, *, as_labels: bool = False) -> None:
        self._as_labels = as_labels
        with library_errors("it is no picture of a known format"):
            self._image = _opened(path)
        width, height = self._image.size
        if width * height > LARGEST:
            self._image.close()
            raise SlideUnreadable(
                f"it is {width} x {height} pixels in one piece; more than {LARGEST // 1_000_000} million are read from "
                "tiled TIFFs only"
            )
        self._orientation = 1
        # Of a PNG without EXIF, Pillow would decode all to look for it.
        if self._image.format != "PNG" or "exif" in self._image.info:
            with suppress(*LIBRARY_ERRORS):
                self._orientation = int(self._image.getexif().get(ExifTags.Base.Orientation, 1))
        self.levels: Sequence[Size] = [(height, width) if self._orientation in (5, 6, 7, 8) else (width, height)]

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        with library_errors("it is damaged"):
            self._image.load()
            turn = TURNS.get(self._orientation)
            image = self._image if turn is None else self._image.transpose(turn)
            width, height = image.size
            rows = max(1, STRIP_PIXELS // width)
            for top in range(0, height, rows):
                part = image.crop((0, top, width, min(height, top + rows)))
                yield np.ascontiguousarray(self._rgb(part, background))

    def close(self) -> None:
        self._image.close()

    def _rgb(self, part: Image.Image, background: Colour | None) -> NDArray[np.uint8]:
        if part.mode in {"I", "F"} or part.mode.startswith("I;16"):
            samples = np.asarray(part)
            highest = 1.0 if part.mode == "F" else 65535.0
            return grey_to_rgb(clipped_labels(samples) if self._as_labels else eight_bits(samples, 0, highest))
        if part.mode == "1" and self._as_labels:
            return grey_to_rgb(np.asarray(part).astype(np.uint8))
        if part.mode == "CMYK" and self._image.format in {"JPEG", "MPO"} and "adobe" not in self._image.info:
            part = ImageChops.invert(part)  # Pillow takes all inks for inverted, which only Adobe's marker says
        if background is None or not part.has_transparency_data:
            return np.asarray(part.convert("RGB"))
        return _pasted(part.convert("RGBA"), background)


def _opened(path: Path) -> ImageFile:
    """As `Image.open`, without its limit of size, which is the process's and no caller's. Raises what Pillow raises,
    and SlideUnreadable."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of odd metadata
    Image.init()
    with path.open("rb") as file:
        prefix = file.read(16)
    for name in FORMATS:
        if name in Image.OPEN:
            factory, accept = Image.OPEN[name]
            verdict = accept is None or accept(prefix)
            if verdict and not isinstance(verdict, str):  # words say what is not installed for it
                try:
                    return factory(os.fspath(path), os.fspath(path))  # type: ignore[arg-type]
                except Image.DecompressionBombError as err:
                    raise SlideUnreadable(f"it has more pixels than are read of its format: {message_of(err)}") from err
    raise SlideUnreadable("it is no picture of a known format")
