"""Slides read by libraries that give rectangles of a level: OpenSlide, for scanners' formats, and NVIDIA's cuCIM, for
TIFF and SVS, which uses no GPU for what is asked of it here. Neither has to be installed.

OpenSlide is given places in pixels of level 0, and interpolates where that is between two pixels of another level:
levels of more than 8 million pixels may be off by a fraction of a pixel where a strip begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from himl_cli.core.montage import Box, Size, SlideUnreadable
from himl_cli.services.montage.slides.slide import Colour, grey_to_rgb, laid_over, library_errors

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
