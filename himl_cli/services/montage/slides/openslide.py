"""Slides of scanners' formats, read with OpenSlide.

It is given places in pixels of level 0, and interpolates where that is between two pixels of another level: levels of
more than 8 million pixels may be off by a fraction of a pixel where a strip begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openslide
from PIL import Image

from himl_cli.core.montage import Box, Size, SlideUnreadable
from himl_cli.services.montage.slides.slide import Colour, message_of, strips_of_regions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CACHE_BYTES = 8 << 20
_TILE_ROWS, _MOST_TILE_ROWS = 256, 4096


def vendor_of(path: Path) -> str | None:
    """What OpenSlide takes it for: `aperio`, `generic-tiff` ...; None for nothing that it knows."""
    try:
        return openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None


class VendorSlide:
    """A Slide. Reading frees the interpreter's lock."""

    backend = "openslide"

    def __init__(self, path: Path) -> None:
        """Raises SlideUnreadable where OpenSlide refuses it."""
        self._path = path
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError as err:
            raise SlideUnreadable("OpenSlide knows no such format, or the file is damaged") from err
        except openslide.OpenSlideError as err:
            raise self._refusal(err) from err
        self._slide.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        self.levels: Sequence[Size] = self._slide.level_dimensions

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        text = self._slide.properties.get(f"openslide.level[{level}].tile-height", "")
        tile_rows = int(text) if text.isdecimal() and 0 < int(text) <= _MOST_TILE_ROWS else _TILE_ROWS
        return strips_of_regions(self.levels[level], tile_rows, lambda box: self._rgb(level, box, background))

    def close(self) -> None:
        self._slide.close()

    def _rgb(self, level: int, box: Box, background: Colour | None) -> NDArray[np.uint8]:
        downsample = self._slide.level_downsamples[level]
        try:
            region = self._slide.read_region((int(box.x * downsample), int(box.y * downsample)), level, box.size)
        except openslide.OpenSlideError as err:
            raise self._refusal(err) from err
        if background is None or region.getchannel("A").getextrema() == (255, 255):
            return np.asarray(region.convert("RGB"))
        below = Image.new("RGB", box.size, background)
        below.paste(region, mask=region)
        return np.asarray(below)

    def _refusal(self, error: openslide.OpenSlideError) -> SlideUnreadable:
        words = message_of(error).replace(f"{self._path}: ", "").replace(str(self._path), "the file")
        return SlideUnreadable(f"OpenSlide: {words}")
