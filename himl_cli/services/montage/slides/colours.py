"""Samples of any kind as RGB of 8 bits. ICC profiles are left aside: colours are shown as their numbers stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from himl_cli.services.montage.slides.base import Colour

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLACK: Colour = (0, 0, 0)


def eight_bits(samples: NDArray[np.generic], lowest: float, highest: float) -> NDArray[np.uint8]:
    """*samples* scaled so that *lowest* becomes 0 and *highest* 255, rounded; what lies beyond is cut, what is no
    number is 0. Same shape."""
    if samples.dtype == np.uint8 and (lowest, highest) == (0, 255):
        return samples
    if samples.dtype in (np.uint8, np.uint16):
        numbers = np.arange(1 << (8 * samples.dtype.itemsize), dtype=np.float64)
        return _scaled(numbers, lowest, highest)[samples]
    return _scaled(samples.astype(np.float64), lowest, highest)


def as_they_are(samples: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Labels: numbers keep their value, those over 255 become 255, those below 0 become 0. Same shape."""
    if samples.dtype == np.uint8:
        return samples
    return np.clip(np.nan_to_num(samples), 0, 255).astype(np.uint8)


def in_three(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey, shape (rows, columns), as RGB."""
    made = np.empty((*grey.shape, 3), np.uint8)
    made[...] = grey[..., None]
    return made


def rgb_of_cmyk(inks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shape (rows, columns, 4), 255 is full ink. The plain formula, without a profile of paper and press."""
    light = 255 - inks.astype(np.uint16)
    return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)


def rgb_of_ycbcr(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
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
    without a thought of alpha."""
    if background is None or bool((alpha == 255).all()):
        return rgb
    share = alpha[..., None].astype(np.uint16)
    rest = np.array(background, np.uint16) * (255 - share)
    if premultiplied:
        return np.minimum(rgb + (rest + 127) // 255, 255).astype(np.uint8)
    return ((rgb * share + rest + 127) // 255).astype(np.uint8)


def _scaled(numbers: NDArray[np.float64], lowest: float, highest: float) -> NDArray[np.uint8]:
    shares = (np.nan_to_num(numbers, nan=lowest) - lowest) / (highest - lowest)
    return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
