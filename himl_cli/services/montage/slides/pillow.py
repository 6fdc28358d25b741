"""Plain pictures, read with Pillow: PNG, JPEG, BMP, JPEG 2000, WebP ... They have one level, and are decoded whole.

A picture that says by EXIF how it is to be turned is turned. Of files with several pictures the first one counts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile

from himl_cli.core.montage import Size, SlideUnreadable
from himl_cli.services.montage.slides.slide import (
    LIBRARY_ERRORS,
    Colour,
    clipped_labels,
    eight_bits,
    grey_to_rgb,
    library_errors,
    message_of,
)

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
        assert level == 0
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
