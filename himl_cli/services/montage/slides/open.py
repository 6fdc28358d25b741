"""Opening a slide with what reads its format, and slides that a library reads by itself: scanners' formats with
OpenSlide; TIFF and SVS with NVIDIA's cuCIM, which uses no GPU for what is asked of it here; plain pictures (PNG, JPEG,
BMP, JPEG 2000, WebP ...) with Pillow.

OpenSlide and cuCIM need not be installed, and give rectangles of a level. OpenSlide is given places in pixels of level
0, and interpolates where that is between two pixels of another level: levels of more than 8 million pixels may be off
by a fraction of a pixel where a strip begins. Plain pictures have one level, and are decoded whole. One that says by
EXIF how it is to be turned is turned. Of files with several pictures the first one counts.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import Backend, Box, Size, SlideUnreadable
from himl_cli.services.montage.slides.slide import (
    LIBRARY_ERRORS,
    Colour,
    Slide,
    clipped_labels,
    eight_bits,
    grey_to_rgb,
    laid_over,
    library_errors,
    message_of,
)
from himl_cli.services.montage.slides.tiff import TiffSlide

GENERIC_TIFF = "generic-tiff"  # what OpenSlide calls a TIFF that is of no scanner's format
REGION_PIXELS, REGION_COLUMNS = 8 << 20, 4096
TILE_ROWS, MOST_TILE_ROWS = 256, 4096


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
        below = Image.new("RGB", box.size, background)
        below.paste(region, mask=region)
        return np.asarray(below)


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


LARGEST = 400_000_000  # pixels beyond which a picture is refused, since it is decoded whole

# Names of Pillow's plugins. Others are left out: they start programs (EPS), take anything for theirs (TGA), or write to
# the terminal (TIFF).
FORMATS = ("PNG", "JPEG", "BMP", "JPEG2000", "WEBP", "GIF", "PPM", "AVIF")
STRIP_PIXELS = 4 << 20
ORIENTATION = 0x0112
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
                self._orientation = int(self._image.getexif().get(ORIENTATION, 1))
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
        below = Image.new("RGB", part.size, background)
        shown = part.convert("RGBA")
        below.paste(shown, mask=shown)
        return np.asarray(below)


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


APERIO = "aperio"
# What is imported for a backend, and the packages that hold it.
PACKAGES = {Backend.cucim: ("cucim", "cucim-cu12"), Backend.openslide: ("openslide", "openslide-bin openslide-python")}
REASONS = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "it does not exist"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "it may not be read (permission denied)"),
}


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
    Raises SlideUnreadable with the reason; BadUsage for a backend that is not installed.
    """
    begins_as_tiff = _first_bytes(path) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    check_backend(backend)
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
