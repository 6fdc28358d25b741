"""Slides for the benchmark: tiled JPEG TIFFs of three levels, tissue-like, the same for the same seed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

FINEST = (4000, 3000)
"""Width and height of level 0 in pixels; each further level has half of both, so level 1 has 2000 x 1500."""
LEVELS, TILE = 3, 256
EOSIN, HAEMATOXYLIN = np.array([214, 122, 176], np.float32), np.array([92, 58, 138], np.float32)


def make_slides(folder: Path, count: int, seed: int) -> None:
    """Write *count* slides called `slide_000.tiff`, ... into *folder*."""
    folder.mkdir(parents=True)
    base = _texture(np.random.default_rng(seed))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda number: _write(folder / f"slide_{number:03}.tiff", _slide(base, seed, number)), range(count)))


def _noise(random: np.random.Generator, cell: int) -> NDArray[np.float32]:
    """Values from 0 to 1 for each pixel of level 0, smooth over *cell* pixels."""
    coarse = random.random((FINEST[1] // cell + 2, FINEST[0] // cell + 2), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize(FINEST, Image.Resampling.BICUBIC))


def _texture(random: np.random.Generator) -> NDArray[np.float32]:
    """Shape (2, height, width): where tissue is, and how dark its grain."""
    shape = sum(_noise(random, cell) * weight for cell, weight in ((900, 0.6), (300, 0.3), (80, 0.1)))
    grain = sum(_noise(random, cell) * weight for cell, weight in ((40, 0.4), (12, 0.45), (5, 0.15)))
    return np.stack([shape, grain])


def _slide(base: NDArray[np.float32], seed: int, number: int) -> NDArray[np.uint8]:
    random = np.random.default_rng([seed, number])
    shape, grain = (np.roll(part, tuple(random.integers(0, 3000, 2)), (0, 1)) for part in base)
    tissue = np.clip((shape - 0.5) * 12, 0, 1)[..., None]
    stain = EOSIN + (HAEMATOXYLIN - EOSIN) * np.clip((grain[..., None] - 0.35) * 3, 0, 1)
    speckle = random.integers(-3, 4, (*grain.shape, 1), dtype=np.int8)
    return np.clip(244 + (stain - 244) * tissue + speckle, 0, 255).astype(np.uint8)


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    picture = Image.fromarray(pixels)
    with tifffile.TiffWriter(path) as file:
        for level in range(LEVELS):
            file.write(
                np.asarray(picture.reduce(2**level)),
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 85},
                subfiletype=1 if level else 0,
                metadata=None,
            )
