"""Pictures to resize in strips, and what Pillow makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from himl_cli.core.montage import Size
from himl_cli.services.montage.resampling import Resampler, Rows, as_pillow, quick

if TYPE_CHECKING:
    from numpy.typing import NDArray

WAYS = pytest.mark.parametrize("way", [as_pillow, quick(), None], ids=["as_pillow", "quick", "nearest"])


def picture(size: Size, seed: int = 0) -> NDArray[np.uint8]:
    """Noise with hard edges: what shows a difference most."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[size[1] // 3 : size[1] // 2] = 255
    pixels[:, size[0] // 4 : size[0] // 3] //= 8
    return pixels


def cut(pixels: NDArray[np.uint8], heights: list[int]) -> Iterator[NDArray[np.uint8]]:
    """Strips of these heights, over and over."""
    top = count = 0
    while top < len(pixels):
        height = heights[count % len(heights)]
        yield pixels[top : top + height]
        top, count = top + height, count + 1


def by_pillow(pixels: NDArray[np.uint8], target: Size) -> NDArray[np.uint8]:
    """Bicubic, first along x: in this order Pillow resizes wherever the height does not shrink much more than the width."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((target[0], image.height), Image.Resampling.BICUBIC).resize(target, Image.Resampling.BICUBIC))


def fed(resampler: Resampler, strips: Iterator[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    made = [rows for strip in strips for rows in resampler.stream(strip)]
    resampler.finish()
    return np.concatenate(made)


def pull(rows: Rows, size: Size) -> NDArray[np.uint8]:
    """The next of *rows*: *size* is their width, and how many."""
    made: NDArray[np.uint8] = np.empty((size[1], size[0], 3), np.uint8)
    rows.fill(made)
    return made


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())
