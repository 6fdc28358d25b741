"""Plain TIFFs, in tiles or strips, read with tifffile and imagecodecs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tifffile import TiffFile

from himl_cli.core.montage import Size, SlideUnreadable
from himl_cli.services.montage.slides.base import Colour
from himl_cli.services.montage.slides.damage import told
from himl_cli.services.montage.slides.tiff_levels import level_pages
from himl_cli.services.montage.slides.tiff_pixels import pixel_rule
from himl_cli.services.montage.slides.tiff_segments import Segments
from himl_cli.services.montage.slides.tiff_strips import strips_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # without one, its remarks on odd files go to the terminal


class TiffSlide:
    """A Slide. Decoding frees the interpreter's lock."""

    backend = "tifffile"

    def __init__(self, path: Path, *, as_labels: bool = False) -> None:
        """Raises SlideUnreadable where it is no TIFF, or of a kind that is not read."""
        self._as_labels = as_labels
        with told("it is no TIFF, or a damaged one"):
            self._file = TiffFile(path, mode="r", _multifile=False)
        try:
            with told("its structure is damaged"):
                self._pages = level_pages(self._file)
                self.levels: Sequence[Size] = [(page.imagewidth, page.imagelength) for page in self._pages]
                pixel_rule(self._pages[0], as_labels=as_labels)
                Segments(self._pages[0], 0)
        except BaseException:
            self._file.close()
            raise

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        page = self._pages[level]
        with told(f"level {level} is damaged"):
            segments = Segments(page, level)
            strips = strips_of(segments, pixel_rule(page, as_labels=self._as_labels), self.levels[level], background)
            yield from strips

    def close(self) -> None:
        self._file.close()


class LevelCheck:
    """Looks for damage in the compressed bytes of a level whose pixels are decoded by something lenient."""

    def __init__(self, path: Path, levels: Sequence[Size], level: int) -> None:
        """Where the file is no TIFF, or its levels are not *levels*, nothing is looked at."""
        self._file: TiffFile | None = None
        self._segments: Segments | None = None
        self.is_wide_grey = False
        try:
            with told("it is no TIFF"):
                self._file = TiffFile(path, mode="r", _multifile=False)
                pages = level_pages(self._file)
                if [(page.imagewidth, page.imagelength) for page in pages] == list(levels):
                    self._segments = Segments(pages[level], level)
                    self.is_wide_grey = pages[level].samplesperpixel == 1 and pages[level].bitspersample == 16
        except SlideUnreadable:
            self.close()

    def rows(self, first: int, last: int) -> None:
        """Look at what rows *first* to *last* lie in. Raises SlideUnreadable."""
        if self._segments is not None:
            self._segments.check(first, last)

    def close(self) -> None:
        self._segments = None
        if self._file is not None:
            self._file.close()
