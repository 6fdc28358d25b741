"""A page of a TIFF from the top down, whatever it is cut into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from himl_cli.core.montage import Size, SlideUnreadable
from himl_cli.services.montage.slides.base import Colour
from himl_cli.services.montage.slides.colours import BLACK
from himl_cli.services.montage.slides.tiff_pixels import PixelRule
from himl_cli.services.montage.slides.tiff_segments import Segments

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 64
"""Strips of fewer rows are joined."""
STRIP_BYTES = 16 << 20
"""How large a strip becomes where its rows can be chosen."""
BAND_BYTES = 160 << 20
"""A row of tiles that is larger, as RGB, is made in parts, for each of which its tiles are decoded again."""

Mapping = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]
"""`map`, or that of a pool of threads."""


def strips_of(
    segments: Segments,
    rule: PixelRule,
    size: Size,
    background: Colour | None,
    *,
    band_bytes: int = BAND_BYTES,
    each: Mapping = map,
) -> Iterator[NDArray[np.uint8]]:
    """As `Slide.strips`; none has more than *band_bytes*, but for one row. The tiles of a row are decoded by *each*.

    Raises SlideUnreadable, also in the middle.
    """
    if segments.across > 1:
        segments.check_size()
        return _from_tiles(segments, rule, size, background, band_bytes, each)
    if segments.is_plain and segments.kind == "strip":
        return _joined(_from_plain_strips(segments, rule, size, background))
    segments.check_size()
    return _joined(_from_whole_rows(segments, rule, size, background))


def _from_tiles(
    segments: Segments, rule: PixelRule, size: Size, background: Colour | None, band_bytes: int, each: Mapping
) -> Iterator[NDArray[np.uint8]]:
    width, height = size
    for down in range(segments.down):
        segments.fetch_row(down)
        rows = min(segments.rows, height - down * segments.rows)
        most = max(1, min(rows, band_bytes // (3 * width)))
        for first in range(0, rows, most):
            band: NDArray[np.uint8] = np.empty((min(most, rows - first), width, 3), np.uint8)
            for _ in each(_Filling(band, segments, down, first, rule, background), range(segments.across)):
                pass
            yield band
            del band  # or it would be kept while the next one is made


@dataclass(frozen=True)
class _Filling:
    """Fills *band* with rows *first* and following of row *down* of tiles, a tile at a time."""

    band: NDArray[np.uint8]
    segments: Segments
    down: int
    first: int
    rule: PixelRule
    background: Colour | None

    def __call__(self, across: int) -> None:
        columns = self.segments.columns
        part = self.band[:, across * columns : (across + 1) * columns]
        samples = self.segments.decoded(self.down * self.segments.across + across)
        _fill(
            part,
            samples if samples is None else samples[self.first : self.first + part.shape[0]],
            self.rule,
            self.background,
        )


def _from_whole_rows(
    segments: Segments, rule: PixelRule, size: Size, background: Colour | None
) -> Iterator[NDArray[np.uint8]]:
    """From segments that are as wide as the picture: each is decoded once."""
    width, height = size
    most = max(ROWS, STRIP_BYTES // (3 * width))
    for down in range(segments.down):
        rows = min(segments.rows, height - down * segments.rows)
        samples = segments.decoded(down)
        for first in range(0, rows, most):
            part: NDArray[np.uint8] = np.empty((min(most, rows - first), width, 3), np.uint8)
            _fill(part, samples if samples is None else samples[first : first + most], rule, background)
            yield part


def _from_plain_strips(
    segments: Segments, rule: PixelRule, size: Size, background: Colour | None
) -> Iterator[NDArray[np.uint8]]:
    width, height = size
    most = max(ROWS, STRIP_BYTES // (segments.sample_bytes * width))
    for down in range(segments.down):
        rows = min(segments.rows, height - down * segments.rows)
        for first in range(0, rows, most):
            part: NDArray[np.uint8] = np.empty((min(most, rows - first), width, 3), np.uint8)
            _fill(part, segments.plain_rows(down, first, part.shape[0]), rule, background)
            yield part


def _fill(
    part: NDArray[np.uint8], samples: NDArray[np.generic] | None, rule: PixelRule, background: Colour | None
) -> None:
    """Write the left upper corner of *samples* into *part*; where nothing is stored, the background."""
    rows, columns = part.shape[:2]
    if samples is None:
        part[...] = background or BLACK
    elif samples.shape[0] < rows or samples.shape[1] < columns:
        raise SlideUnreadable(
            f"a tile of {samples.shape[1]} x {samples.shape[0]} pixels is too small for its place of {columns} x {rows}"
        )
    else:
        part[...] = rule.rgb(samples[:rows, :columns], background)


def _joined(strips: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    waiting: list[NDArray[np.uint8]] = []
    for strip in strips:
        waiting.append(strip)
        if sum(one.shape[0] for one in waiting) >= ROWS:
            yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            waiting = []
    if waiting:
        yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
