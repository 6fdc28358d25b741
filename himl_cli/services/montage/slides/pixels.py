"""Samples of any kind as RGB of 8 bits. ICC profiles are left aside: colours are shown as their numbers stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tifffile import TIFF, TiffPage

from himl_cli.core.montage import SlideUnreadable
from himl_cli.services.montage.slides.slide import Colour

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLACK: Colour = (0, 0, 0)
JPEG = frozenset({6, 7, 34892, 33007})
"""Compressions whose decoder gives RGB for YCbCr."""
JPEG_2000 = frozenset({33003, 33004, 33005, 34712})

_APERIO_YCBCR = 33003
_COLOUR_MAP, _MAX_SAMPLE, _S_MIN_SAMPLE, _S_MAX_SAMPLE = 320, 281, 340, 341
_UNSIGNED, _FLOAT = 1, 3
_GREYS, _WHITE_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = (0, 1), 0, 2, 3, 5, 6
_SAMPLES_OF = {0: 1, 1: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_PREMULTIPLIED, _STRAIGHT = 1, 2


@dataclass(frozen=True)
class PixelRule:
    """How the samples of a TIFF page become colours: `photometric` as in the tag, `lowest` and `highest` become 0 and
    255, `alpha` is the number of the sample that tells how opaque a pixel is."""

    photometric: int
    lowest: float
    highest: float
    alpha: int | None
    is_premultiplied: bool
    palette: NDArray[np.uint8] | None
    as_labels: bool

    def rgb(self, samples: NDArray[np.generic], background: Colour | None) -> NDArray[np.uint8]:
        """*samples*, shape (rows, columns, samples of a pixel), as RGB."""
        if samples.dtype == np.bool_:
            samples = samples.view(np.uint8)
        made = self._colours(samples[..., : _SAMPLES_OF[self.photometric]])
        if self.alpha is None or background is None:
            return made
        alpha = eight_bits(samples[..., self.alpha], self.lowest, self.highest)
        return laid_over(made, alpha, background, premultiplied=self.is_premultiplied)

    def _colours(self, colours: NDArray[np.generic]) -> NDArray[np.uint8]:
        if self.palette is not None:
            return self.palette[np.minimum(colours[..., 0], len(self.palette) - 1)]
        if self.as_labels and self.photometric in _GREYS:
            return grey_to_rgb(clipped_labels(colours[..., 0]))
        scaled = eight_bits(colours, self.lowest, self.highest)
        if self.photometric in _GREYS:
            return grey_to_rgb(255 - scaled[..., 0] if self.photometric == _WHITE_IS_ZERO else scaled[..., 0])
        if self.photometric == _CMYK:  # the plain formula, without a profile of paper and press
            light = 255 - scaled.astype(np.uint16)
            return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)
        return _rgb_of_ycbcr(scaled) if self.photometric == _YCBCR else scaled


def pixel_rule(page: TiffPage, *, as_labels: bool) -> PixelRule:
    """How the samples of *page* become colours. Raises SlideUnreadable for pixels and compressions that are not
    read."""
    compression, photometric = int(page.compression), int(page.photometric)
    if compression != 1 and compression not in TIFF.DECOMPRESSORS:
        raise SlideUnreadable(f"no decoder for its compression ({_name(page.compression)})")
    if compression == _APERIO_YCBCR:
        photometric = _YCBCR
    elif photometric == _YCBCR and compression in JPEG | JPEG_2000:
        photometric = _RGB  # as the decoder gives it
    colours = _SAMPLES_OF.get(photometric)
    if colours is None or page.samplesperpixel < colours or page.imagedepth != 1 or page.tiledepth > 1:
        kind = f"{_name(page.photometric)}, {page.samplesperpixel} samples, depth {page.imagedepth}"
        raise SlideUnreadable(f"its pixels are of a kind that is not read ({kind})")
    kinds = [int(kind) for kind in page.extrasamples[: page.samplesperpixel - colours]]
    extra = next((number for number, kind in enumerate(kinds) if kind in (_PREMULTIPLIED, _STRAIGHT)), None)
    return PixelRule(
        photometric,
        *_sample_range(page, as_labels=as_labels),
        alpha=None if extra is None else colours + extra,
        is_premultiplied=extra is not None and kinds[extra] == _PREMULTIPLIED,
        palette=_palette(page) if photometric == _PALETTE else None,
        as_labels=as_labels,
    )


def _sample_range(page: TiffPage, *, as_labels: bool) -> tuple[float, float]:
    """The numbers that are black and white.

    Those of the bits, but 2^n - 1 where MaxSampleValue says that of wider samples n bits are used; 0 to 1 for floats,
    unless their tags say otherwise. Of 32 bits and more all are hardly ever used: there the file has to say which,
    unless its numbers are labels. Raises SlideUnreadable.
    """
    bits, kind = page.bitspersample, int(page.sampleformat)
    if page.dtype is None or not isinstance(bits, int):
        raise SlideUnreadable(f"its samples are of a kind that is not read ({bits} bits)")
    if kind not in (_UNSIGNED, _FLOAT):
        raise SlideUnreadable(f"its samples are of a kind that is not read ({_name(page.sampleformat)})")
    lowest, highest = _number(page, _S_MIN_SAMPLE), _number(page, _S_MAX_SAMPLE)
    if kind == _FLOAT:
        return (lowest, highest) if lowest is not None and highest is not None and lowest < highest else (0, 1)
    declared = _number(page, _MAX_SAMPLE) or 0
    if bits >= 32 and not as_labels:
        used = declared or highest or 0.0
        if used <= 0:
            raise SlideUnreadable(f"its samples have {bits} bits, and no MaxSampleValue says which numbers are used")
        return 0, used
    return 0, declared if declared in {float((1 << width) - 1) for width in range(9, bits)} else float((1 << bits) - 1)


def _number(page: TiffPage, tag: int) -> float | None:
    value = page.tags.valueof(tag)
    if isinstance(value, tuple):
        value = min(value) if tag == _S_MIN_SAMPLE else max(value)
    return float(value) if isinstance(value, (int, float)) else None


def _palette(page: TiffPage) -> NDArray[np.uint8]:
    """Shape (entries, 3). Values are of 16 bits; some writers put 8 bits into them."""
    table = np.asarray(page.tags.valueof(_COLOUR_MAP, ()), np.uint16)
    if table.size == 0 or table.size % 3:
        raise SlideUnreadable("its table of colours is missing")
    entries = table.reshape(3, -1).T
    return np.ascontiguousarray(eight_bits(entries, 0, 65535) if entries.max() > 255 else entries.astype(np.uint8))


def _name(tag_value: object) -> str:
    return str(getattr(tag_value, "name", tag_value))


def eight_bits(samples: NDArray[np.generic], lowest: float, highest: float) -> NDArray[np.uint8]:
    """*samples* scaled so that *lowest* becomes 0 and *highest* 255, rounded; what lies beyond is cut, what is no
    number is 0. Same shape."""
    if samples.dtype == np.uint8 and (lowest, highest) == (0, 255):
        return samples
    if samples.dtype in (np.uint8, np.uint16):
        numbers = np.arange(1 << (8 * samples.dtype.itemsize), dtype=np.float64)
        return _scaled(numbers, lowest, highest)[samples]
    return _scaled(samples.astype(np.float64), lowest, highest)


def _scaled(numbers: NDArray[np.float64], lowest: float, highest: float) -> NDArray[np.uint8]:
    shares = (np.nan_to_num(numbers, nan=lowest) - lowest) / (highest - lowest)
    return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)


def clipped_labels(samples: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Labels: numbers keep their value, those over 255 become 255, those below 0 become 0. Same shape."""
    return samples if samples.dtype == np.uint8 else np.clip(np.nan_to_num(samples), 0, 255).astype(np.uint8)


def grey_to_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey, shape (rows, columns), as RGB."""
    made = np.empty((*grey.shape, 3), np.uint8)
    made[...] = grey[..., None]
    return made


def _rgb_of_ycbcr(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shape (rows, columns, 3), full range, with the weights of ITU-R BT.601 as in JPEG."""
    y, cb, cr = (samples[..., number].astype(np.float32) for number in range(3))
    cb -= 128
    cr -= 128
    made = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def laid_over(
    rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], background: Colour | None, *, premultiplied: bool = False
) -> NDArray[np.uint8]:
    """*rgb*, shape (rows, columns, 3), on *background* as opaque as *alpha*, shape (rows, columns), says; on None:
    without regard to alpha."""
    if background is None or bool((alpha == 255).all()):
        return rgb
    share = alpha[..., None].astype(np.uint16)
    rest = np.array(background, np.uint16) * (255 - share)
    if premultiplied:
        return np.minimum(rgb + (rest + 127) // 255, 255).astype(np.uint8)
    return ((rgb * share + rest + 127) // 255).astype(np.uint8)
