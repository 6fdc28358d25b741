"""What the samples of a TIFF page mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tifffile import TIFF, TiffPage

from himl_cli.core.montage import SlideUnreadable
from himl_cli.services.montage.slides.base import Colour
from himl_cli.services.montage.slides.colours import (
    as_they_are,
    eight_bits,
    in_three,
    laid_over,
    rgb_of_cmyk,
    rgb_of_ycbcr,
)
from himl_cli.services.montage.slides.damage import UnknownKind
from himl_cli.services.montage.slides.tiff_range import SampleRange, sample_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

JPEG = frozenset({6, 7, 34892, 33007})
"""Compressions whose decoder gives RGB for YCbCr."""
JPEG_2000 = frozenset({33003, 33004, 33005, 34712})

_APERIO_YCBCR = 33003
_COLOUR_MAP = 320
_GREYS, _WHITE_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = (0, 1), 0, 2, 3, 5, 6
_COLOURS_OF = {0: 1, 1: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_PREMULTIPLIED, _STRAIGHT = 1, 2


@dataclass(frozen=True)
class PixelRule:
    """`photometric` as in the tag; `values` is what becomes 0 and 255; `alpha` is the number of the sample that tells
    how opaque a pixel is."""

    photometric: int
    values: SampleRange
    alpha: int | None
    is_premultiplied: bool
    palette: NDArray[np.uint8] | None
    as_labels: bool

    def rgb(self, samples: NDArray[np.generic], background: Colour | None) -> NDArray[np.uint8]:
        """*samples*, shape (rows, columns, samples of a pixel), as RGB."""
        if samples.dtype == np.bool_:
            samples = samples.view(np.uint8)
        colours = samples[..., : _COLOURS_OF[self.photometric]]
        made = self._colours(colours)
        if self.alpha is None or background is None:
            return made
        alpha = eight_bits(samples[..., self.alpha], self.values.lowest, self.values.highest)
        return laid_over(made, alpha, background, premultiplied=self.is_premultiplied)

    def _colours(self, colours: NDArray[np.generic]) -> NDArray[np.uint8]:
        if self.palette is not None:
            return self.palette[np.minimum(colours[..., 0], len(self.palette) - 1)]
        if self.as_labels and self.photometric in _GREYS:
            return in_three(as_they_are(colours[..., 0]))
        self.values.saw(colours)
        scaled = eight_bits(colours, self.values.lowest, self.values.highest)
        if self.photometric in _GREYS:
            return in_three(255 - scaled[..., 0] if self.photometric == _WHITE_IS_ZERO else scaled[..., 0])
        if self.photometric == _CMYK:
            return rgb_of_cmyk(scaled)
        return rgb_of_ycbcr(scaled) if self.photometric == _YCBCR else scaled


def pixel_rule(page: TiffPage, *, as_labels: bool) -> PixelRule:
    """How its samples become colours. Raises SlideUnreadable for pixels that are not read; UnknownKind for a
    compression that is not read here."""
    compression = int(page.compression)
    if compression != 1 and compression not in TIFF.DECOMPRESSORS:
        raise UnknownKind(f"no decoder for its compression ({_name(page.compression)})")
    photometric = _photometric(page, compression)
    if page.samplesperpixel < _COLOURS_OF[photometric]:
        raise SlideUnreadable(
            f"its pixels are said to be {_name(page.photometric)}, and have {page.samplesperpixel} samples"
        )
    if page.imagedepth != 1 or page.tiledepth > 1:
        raise SlideUnreadable(f"it is a stack of {page.imagedepth} pictures")
    alpha, is_premultiplied = _alpha(page, _COLOURS_OF[photometric])
    palette = _palette(page) if photometric == _PALETTE else None
    return PixelRule(photometric, sample_range(page, as_labels=as_labels), alpha, is_premultiplied, palette, as_labels)


def _photometric(page: TiffPage, compression: int) -> int:
    """That of the decoded samples."""
    photometric = int(page.photometric)
    if compression == _APERIO_YCBCR:
        return _YCBCR
    if photometric == _YCBCR and (compression in JPEG or compression in JPEG_2000):
        return _RGB
    if photometric not in _COLOURS_OF:
        raise SlideUnreadable(f"its pixels are of a kind that is not read ({_name(page.photometric)})")
    return photometric


def _alpha(page: TiffPage, colours: int) -> tuple[int | None, bool]:
    """Samples that are said to be alpha; others beside the colours are left aside."""
    for number, kind in enumerate(page.extrasamples, start=colours):
        if int(kind) in {_PREMULTIPLIED, _STRAIGHT} and number < page.samplesperpixel:
            return number, int(kind) == _PREMULTIPLIED
    return None, False


def _palette(page: TiffPage) -> NDArray[np.uint8]:
    """Shape (entries, 3). Values are of 16 bits; some writers put 8 bits into them."""
    table = np.asarray(page.tags.valueof(_COLOUR_MAP, ()), np.uint16)
    if table.size == 0 or table.size % 3:
        raise SlideUnreadable("its table of colours is missing")
    entries = table.reshape(3, -1).T
    return np.ascontiguousarray(eight_bits(entries, 0, 65535) if entries.max() > 255 else entries.astype(np.uint8))


def _name(tag_value: object) -> str:
    return str(getattr(tag_value, "name", tag_value))
