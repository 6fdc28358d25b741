"""Pictures for test slides, seeded, and other kinds of pixels made of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels: TypeAlias = NDArray[Any]
Size = tuple[int, int]

SIZE: Size = (600, 430)
"""Width and height of a picture where nothing else is said; no multiple of a tile."""


def _noise(random: np.random.Generator, size: Size, scale: int) -> NDArray[np.float32]:
    """Smooth noise from 0 to 1, shape (height, width), whose spots are about *scale* pixels wide."""
    width, height = size
    coarse = random.random((height // scale + 4, width // scale + 4), dtype=np.float32)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC, box=(1, 1, 1 + max(1, width / scale), 1 + max(1, height / scale)))
    return np.clip(np.asarray(image, dtype=np.float32), 0, 1)


def _tissue(seed: int, size: Size) -> NDArray[np.float32]:
    """How much tissue there is, 0 to 1, shape (height, width)."""
    random = np.random.default_rng(seed)
    width, height = size
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    field: Pixels = np.zeros((height, width), np.float32)
    for _ in range(3):
        cx, cy, rx, ry = np.asarray(random.uniform((-0.5, -0.5, 0.25, 0.25), (0.5, 0.5, 0.6, 0.5)), np.float32)
        field = np.maximum(field, 1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2)
    ragged = field + 0.7 * (_noise(random, size, max(4, min(size) // 8)) - 0.5)
    return np.clip(ragged * 6, 0, 1).astype(np.float32)


def slide_picture(seed: int, size: Size = SIZE) -> NDArray[np.uint8]:
    """Something like stained tissue on a light ground, RGB, shape (height, width, 3). *size* is (width, height)."""
    random = np.random.default_rng(seed + 1000)
    tissue = _tissue(seed, size)[:, :, None]
    texture = _noise(random, size, 12)[:, :, None]
    nuclei = np.clip((_noise(random, size, 5)[:, :, None] - 0.68) * 8, 0, 1)
    pink, rose, purple, ground = (np.array(colour, np.float32) for colour in ((235, 160, 200), (200, 110, 165), (85, 50, 125), (243, 241, 244)))
    stained = pink * (1 - texture) + rose * texture
    stained = stained * (1 - nuclei) + purple * nuclei
    return np.clip(ground * (1 - tissue) + stained * tissue, 0, 255).astype(np.uint8)


def mask_picture(seed: int, size: Size = SIZE) -> NDArray[np.uint8]:
    """Labels 0 to 5 for the slide of that seed, shape (height, width): 0 where no tissue is."""
    tissue = _tissue(seed, size)
    grades = _noise(np.random.default_rng(seed + 2000), size, max(4, min(size) // 5))
    lowest, highest = float(grades.min()), float(grades.max())
    labels = 1 + np.minimum((grades - lowest) / max(highest - lowest, 1e-6) * 5, 4).astype(np.uint8)
    return np.where(tissue > 0.5, labels, 0).astype(np.uint8)


def reduced(pixels: Pixels, factor: int) -> Pixels:
    """The next coarser level: means of *factor* x *factor* pixels. Masks (two dimensions, 8 bit) keep their values: one pixel of each square."""
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    cut = pixels[: height * factor, : width * factor]
    if pixels.ndim == 2 and pixels.dtype == np.uint8:
        return np.ascontiguousarray(cut[::factor, ::factor])
    means = cut.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))
    return np.rint(means).astype(pixels.dtype).reshape(height, width, *pixels.shape[2:])


def pyramid(pixels: Pixels, levels: int, factor: int = 2) -> list[Pixels]:
    """*levels* pictures, the finest first."""
    made = [pixels]
    while len(made) < levels:
        made.append(reduced(made[-1], factor))
    return made


def with_alpha(pixels: Pixels, *, premultiplied: bool = False) -> Pixels:
    """RGBA: the left third is fully transparent, the middle one half, the right one opaque."""
    third = pixels.shape[1] // 3
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    alpha[:, :third], alpha[:, third : 2 * third] = 0, 128
    colour = (pixels.astype(np.uint16) * alpha // 255).astype(np.uint8) if premultiplied else pixels
    return np.concatenate([colour, alpha], axis=2)


def over(rgba: Pixels, background: tuple[int, int, int]) -> Pixels:
    """What *rgba* (colours not premultiplied) looks like on *background*."""
    alpha = rgba[:, :, 3:].astype(np.float64) / 255
    return np.rint(rgba[:, :, :3] * alpha + np.array(background) * (1 - alpha)).astype(np.uint8)


def as_grey(pixels: Pixels) -> Pixels:
    """Grey, shape (height, width)."""
    return np.asarray(Image.fromarray(pixels).convert("L"))


def as_ycbcr(pixels: Pixels) -> Pixels:
    """Lightness and two colour differences, as in JPEG."""
    return np.asarray(Image.fromarray(pixels).convert("YCbCr"))


def as_cmyk(pixels: Pixels) -> Pixels:
    """Cyan, magenta, yellow and no black: 255 is full ink."""
    return np.concatenate([255 - pixels, np.zeros((*pixels.shape[:2], 1), np.uint8)], axis=2)


def as_palette(pixels: Pixels) -> Image.Image:
    """At most 64 colours."""
    return Image.fromarray(pixels).quantize(64)
