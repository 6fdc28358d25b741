"""Slides of scanners' formats, read with OpenSlide.

It is given places in pixels of level 0, and interpolates where that is between two pixels of another level: levels of
more than 8 million pixels may be off by a fraction of a pixel where a strip begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openslide
from PIL import Image

from himl_cli.core.montage import Size, SlideUnreadable
from himl_cli.services.montage.slides.base import GENERIC_TIFF, Colour
from himl_cli.services.montage.slides.by_tifffile import LevelCheck
from himl_cli.services.montage.slides.damage import words_of
from himl_cli.services.montage.slides.openslide_misreads import misreading
from himl_cli.services.montage.slides.regions import strips_of_regions
from himl_cli.services.montage.slides.tiff_pixels import pixel_rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CACHE_BYTES = 8 << 20
_TILE_ROWS = 256


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
        """Raises SlideUnreadable where OpenSlide refuses it, or is known to misread it."""
        self._path = path
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError as err:
            raise SlideUnreadable("OpenSlide knows no such format, or the file is damaged") from err
        except openslide.OpenSlideError as err:
            raise self._refusal(err) from err
        self._slide.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        self.levels: Sequence[Size] = self._slide.level_dimensions
        self._is_generic = self._slide.properties.get(openslide.PROPERTY_NAME_VENDOR) == GENERIC_TIFF
        self.remark = ""
        if self._is_generic:
            try:
                with closing(LevelCheck(path, self.levels, 0)) as check:
                    self._check_kind(check)
                    self.remark = check.remark
            except BaseException:
                self._slide.close()
                raise

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        told_rows = self._slide.properties.get(f"openslide.level[{level}].tile-height", "")
        tile_rows = int(told_rows) if told_rows.isdecimal() and 0 < int(told_rows) <= 4096 else _TILE_ROWS
        with closing(LevelCheck(self._path, self.levels, level)) as check:
            self._check_kind(check)
            yield from strips_of_regions(
                self.levels[level],
                tile_rows,
                check.rows,
                lambda box: self._rgb(level, (box.x, box.y), box.size, background),
            )

    def close(self) -> None:
        self._slide.close()

    def _rgb(self, level: int, corner: Size, size: Size, background: Colour | None) -> NDArray[np.uint8]:
        downsample = self._slide.level_downsamples[level]
        place = int(corner[0] * downsample), int(corner[1] * downsample)
        try:
            region = self._slide.read_region(place, level, size)
        except openslide.OpenSlideError as err:
            raise self._refusal(err) from err
        if background is None or region.getchannel("A").getextrema() == (255, 255):
            return np.asarray(region.convert("RGB"))
        below = Image.new("RGB", size, background)
        below.paste(region, mask=region)
        return np.asarray(below)

    def _check_kind(self, check: LevelCheck) -> None:
        """Raises SlideUnreadable for pixels of a plain TIFF that OpenSlide misreads."""
        page = check.page
        wrong = misreading(page) if page is not None and self._is_generic else ""
        if page is None or not wrong:
            return
        try:
            pixel_rule(page, as_labels=False)
        except SlideUnreadable:
            raise SlideUnreadable(f"OpenSlide misreads {wrong}") from None
        raise SlideUnreadable(f"OpenSlide misreads {wrong}; --backend auto reads it")

    def _refusal(self, error: openslide.OpenSlideError) -> SlideUnreadable:
        return SlideUnreadable(
            f"OpenSlide: {words_of(error).replace(f'{self._path}: ', '').replace(str(self._path), 'the file')}"
        )
