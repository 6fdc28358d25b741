"""Plain pictures, read with Pillow: PNG, JPEG, BMP, JPEG 2000, WebP ... They have one level, and are decoded whole.

A picture that says by EXIF how it is to be turned is turned. Of files with several pictures the first one counts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile

from himl_cli.core.montage import Size, SlideUnreadable
from himl_cli.services.montage.slides.pixels import clipped_labels, eight_bits, grey_to_rgb
from himl_cli.services.montage.slides.slide import LIBRARY_ERRORS, Colour, library_errors, message_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 400_000_000
"""Pixels beyond which a picture is refused, since it is decoded whole."""

_FORMATS = ("PNG", "JPEG", "BMP", "JPEG2000", "WEBP", "GIF", "PPM", "AVIF")
"""Names of Pillow's plugins. Others are left out: they start programs (EPS), take anything for theirs (TGA), or write
to the terminal (TIFF)."""
_JPEGS = {"JPEG", "MPO"}
_STRIP_PIXELS = 4 << 20
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {5, 6, 7, 8}


class PictureSlide:
    """A Slide. Decoding frees the interpreter's lock."""

    backend = "pillow"

    def __init__(self, path: Path, *, as_labels: bool = False) -> None:
        """Raises SlideUnreadable for what Pillow does not know, and for what is too large."""
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
        self._orientation = _orientation_of(self._image)
        self.levels: Sequence[Size] = [(height, width) if self._orientation in _SIDEWAYS else (width, height)]

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        assert level == 0
        with library_errors("it is damaged"):
            self._image.load()
            turn = _TURNS.get(self._orientation)
            image = self._image if turn is None else self._image.transpose(turn)
            width, height = image.size
            rows = max(1, _STRIP_PIXELS // width)
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
        if part.mode == "CMYK" and self._image.format in _JPEGS and "adobe" not in self._image.info:
            part = ImageChops.invert(part)  # Pillow takes all inks for inverted, which only Adobe's marker says
        if background is None or not part.has_transparency_data:
            return np.asarray(part.convert("RGB"))
        below = Image.new("RGB", part.size, background)
        shown = part.convert("RGBA")
        below.paste(shown, mask=shown)
        return np.asarray(below)


def _orientation_of(image: ImageFile) -> int:
    """What EXIF says; 1 where it says nothing, or cannot be read."""
    if image.format == "PNG" and "exif" not in image.info:  # for a PNG, Pillow would decode all of it to look for them
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except LIBRARY_ERRORS:
        return 1


def _opened(path: Path) -> ImageFile:
    """As `Image.open`, without its limit of size, which is the process's and no caller's. Raises what Pillow raises,
    and SlideUnreadable."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of odd metadata
    Image.init()
    with path.open("rb") as file:
        prefix = file.read(16)
    for name in _FORMATS:
        if name in Image.OPEN:
            factory, accept = Image.OPEN[name]
            verdict = accept is None or accept(prefix)
            if verdict and not isinstance(verdict, str):  # words say what is not installed for it
                try:
                    return factory(os.fspath(path), os.fspath(path))  # type: ignore[arg-type]
                except Image.DecompressionBombError as err:
                    raise SlideUnreadable(f"it has more pixels than are read of its format: {message_of(err)}") from err
    raise SlideUnreadable("it is no picture of a known format")
