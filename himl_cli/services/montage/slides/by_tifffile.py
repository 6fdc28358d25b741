"""Plain TIFFs, in tiles or strips, read with tifffile and imagecodecs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tifffile import TiffFile, TiffPage

from himl_cli.core.montage import Size, SlideUnreadable
from himl_cli.services.montage.slides.base import Colour
from himl_cli.services.montage.slides.damage import told
from himl_cli.services.montage.slides.tiff_levels import level_pages, opened_tiff, pages_of, remarks_on
from himl_cli.services.montage.slides.tiff_pixels import pixel_rule
from himl_cli.services.montage.slides.tiff_range import SampleRange
from himl_cli.services.montage.slides.tiff_segments import Segments
from himl_cli.services.montage.slides.tiff_strips import Mapping, strips_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logging.getLogger("tifffile").addHandler(
    logging.NullHandler()
)  # without one, its remarks on odd files go to the terminal

_MANY = 64
"""Tiles of a row that are decoded by one thread: larger slides are few, and nobody else has work then."""
_THREADS = 4
_NDPI = 65420


class TiffSlide:
    """A Slide. Decoding frees the interpreter's lock."""

    backend = "tifffile"

    def __init__(self, path: Path, *, as_labels: bool = False) -> None:
        """Raises SlideUnreadable where it is no TIFF, or of a kind that is not read."""
        self._as_labels = as_labels
        self._pool: ThreadPoolExecutor | None = None
        self._values: SampleRange | None = None
        with told("it is no TIFF, or a damaged one"):
            self._file = opened_tiff(path)
        try:
            with told("its structure is damaged"):
                pages = pages_of(self._file)
                self._pages, self._remarks = level_pages(pages), remarks_on(pages)
                self.levels: Sequence[Size] = [(page.imagewidth, page.imagelength) for page in self._pages]
                pixel_rule(self._pages[0], as_labels=as_labels)
                Segments(self._pages[0], 0)
        except BaseException:
            self._file.close()
            raise

    @property
    def remark(self) -> str:
        return "; ".join(filter(None, (*self._remarks, self._values.remark if self._values is not None else "")))

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        page = self._pages[level]
        with told(f"level {level} is damaged"):
            segments, rule = Segments(page, level), pixel_rule(page, as_labels=self._as_labels)
            self._values = rule.values
            yield from strips_of(segments, rule, self.levels[level], background, each=self._mapping(segments))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._file.close()

    def _mapping(self, segments: Segments) -> Mapping:
        threads = min(_THREADS, os.cpu_count() or 1)
        if segments.across <= _MANY or threads == 1:
            return map
        if self._pool is None:
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="himl-tiles")
        return self._pool.map


class LevelCheck:
    """Looks for damage in the compressed bytes of a level whose pixels are decoded by something lenient."""

    def __init__(self, path: Path, levels: Sequence[Size], level: int) -> None:
        """Where the file is no TIFF, or its levels are not *levels*, nothing is looked at. Raises SlideUnreadable where
        nothing of the level is stored."""
        self._file: TiffFile | None = None
        self._segments: Segments | None = None
        self.page: TiffPage | None = None
        self.remark = ""
        try:
            with told("it is no TIFF"):
                self._file = opened_tiff(path)
                pages = pages_of(self._file)
                self.page = _page_of(pages, levels, level)
                self.remark = "; ".join(remarks_on(pages)) if self.page is not None else ""
        except SlideUnreadable:
            self.close()
        if self.page is not None:
            try:
                with told(f"level {level} is damaged"):
                    self._segments = Segments(self.page, level)
            except BaseException:
                self.close()
                raise

    def rows(self, first: int, last: int) -> None:
        """Look at what rows *first* to *last* lie in. Raises SlideUnreadable."""
        if self._segments is not None:
            self._segments.check(first, last)

    def close(self) -> None:
        self._segments = None
        if self._file is not None:
            self._file.close()


def _page_of(pages: list[TiffPage], levels: Sequence[Size], level: int) -> TiffPage | None:
    """That of a level; None where they are counted in another way, or where tiles are stored in another way than a
    TIFF's (Hamamatsu's NDPI)."""
    found = level_pages(pages)
    if _NDPI in pages[0].tags:
        return None
    if [(page.imagewidth, page.imagelength) for page in found] == list(levels):
        return found[level]
    return found[0] if level == 0 and (found[0].imagewidth, found[0].imagelength) == levels[0] else None
