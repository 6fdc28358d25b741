"""TIFF and SVS slides, read with NVIDIA's cuCIM. It uses no GPU for what is asked of it here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cucim import CuImage

from himl_cli.core.montage import Box, Size, SlideUnreadable
from himl_cli.services.montage.slides.pixels import grey_to_rgb, laid_over
from himl_cli.services.montage.slides.slide import Colour, library_errors, strips_of_regions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TILE_ROWS = 256


class CuSlide:
    """A Slide."""

    backend = "cucim"

    def __init__(self, path: Path) -> None:
        """Raises SlideUnreadable where cuCIM refuses it."""
        self._path = path
        with library_errors("cuCIM cannot open it", path):
            self._image = CuImage(str(path))
            found = self._image.resolutions
            self.levels: Sequence[Size] = [(int(width), int(height)) for width, height in found["level_dimensions"]]
            self._downsamples = [float(value) for value in found["level_downsamples"]]

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        return strips_of_regions(self.levels[level], _TILE_ROWS, lambda box: self._rgb(level, box, background))

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
