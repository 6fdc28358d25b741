"""Foreground of slides: the pixels that count as tissue, by a rule that is computed once per slide on a coarse level.

Tissue absorbs light of some colours more than of others, so that it differs from the white of its slide in colour, or
else in darkness. Areas that were not scanned and black borders are darker than any tissue, and pens have one channel
that exceeds both others more than stains allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod, sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from himl_cli.core.records import dataclass
from himl_cli.slides.readers import Slide
from himl_cli.slides.slide_records import Colour

WHITE = (255, 255, 255)
PIECE = 1 << 17  # pixels that are classified together, so that their planes fit in processor caches
SAMPLE = 1 << 18  # number of pixels for the rule, of the coarsest level that has as many
BLACK = 64  # a pixel whose channels are all below this is a border, a pen or an unscanned area
LEAST_COLOUR = 12  # minimum difference between the losses of two channels, compared with the white of the slide
LEAST_LOSS = 60  # minimum loss of all channels of tissue without colour, such as a silver stain
# If foreground and background of a slide without colours differ less than this, there is only background, because even
# noise has a threshold.
LEAST_CONTRAST = 10
LEAST_SHARE = 0.001  # share of coloured pixels below which a slide counts as grey
BRIGHT, NEUTRAL, LEAST_WHITE = 200, 20, 0.01  # the white of a slide: channels, their difference, the share of pixels
# Light is warm or cool, so that green is between red and blue, up to SLACK. Stains absorb most of green, except DAB. A
# background has one colour: of the pixels within FAR of its colour, the share LEAST_EVEN is within NEAR.
LEAST_LIGHT, MOST_TINT, SLACK, NEAR, FAR, LEAST_EVEN = 150, 110, 6, 8, 24, 0.7
# Least share of pixels of a tinted background, and how many times the share of whiter pixels it has at least
LEAST_TINTED, TIMES_WHITE = 0.05, 10
# On a slide with the greatest values in all channels, which may be pixels that were not scanned, this share is needed
LEAST_BESIDE_WHITE = 0.3
DARK, MOST_DARK = 128, 0.5  # the background may be dark if more than this share of the pixels is darker
NOT_WHITE = "its background is not white, so that --foreground saturation may be wrong"
DARK_BACKGROUND = "its background is dark, so that --foreground saturation is wrong (use mask, or --occupancy 0)"
TINTED = "its background has a tint, which counts as white with --foreground saturation"
QUALITY = ("mean", "saturation", "sharpness", "pen", "black")
# The excess of red, green and blue over the other two that no stain has: haematoxylin has 75 in blue, DAB 70 in red.
PEN = (150, 20, 90)


@dataclass(frozen=True)
class Foreground:
    """The rule of one slide. Pixels whose mean of red, green and blue is below `threshold` are
    foreground. None: those that differ in colour from `white`, or have all channels below `limit`. Only a `plain` rule
    counts pens and black pixels. `remark` says that the background is a guess, if the slide has little white.
    """

    threshold: float | None = None
    white: Colour = WHITE
    limit: int = 0
    plain: bool = False
    remark: str = ""

    def columns(self, band: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Number of foreground pixels in each column of *band*, shape (rows, columns, 3). Except for a plain rule, it
        is that of every second row, scaled: JPEG stores colours of two rows together."""
        rows = band if self.plain else band[::2]
        piece = min(255, max(1, PIECE // band.shape[1]))  # counts of 255 rows have 8 bits, which is fastest
        parts = (self.of(rows[top : top + piece]).view(np.uint8) for top in range(0, len(rows), piece))
        counts = np.sum([part.sum(axis=0, dtype=np.uint8) for part in parts], axis=0, dtype=np.int64)
        return (counts * len(band) + len(rows) // 2) // len(rows)

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether each pixel is foreground, shape (rows, columns)."""
        if self.threshold is not None:
            found = _brightness(pixels) < ceil(3 * self.threshold)
        if self.plain:
            return found
        planes = _planes(pixels)
        if self.threshold is None:
            found = _colour(planes, self.white) >= LEAST_COLOUR
            if self.limit > BLACK:
                found |= _greatest(*planes) < self.limit
        if found.any():
            found &= _may_be_tissue(planes)
        return found


Plane: TypeAlias = NDArray[np.uint8]
Planes: TypeAlias = tuple[Plane, ...]  # red, green and blue, each of shape (rows, columns)


def foreground_of(slide: Slide, rule: str) -> Foreground:
    """The *rule* for this slide: `saturation`, `otsu` or `threshold=N`. Reads a coarse level.

    Raises SlideUnreadable."""
    if rule.startswith("threshold="):
        return Foreground(threshold=float(rule.partition("=")[2]))
    if rule == "otsu":
        histogram: NDArray[np.int64] = np.zeros(3 * 255 + 1, np.int64)
        for strip in slide.strips(len(slide.levels) - 1, WHITE):
            histogram += np.bincount(_brightness(strip).ravel(), minlength=len(histogram))
        return Foreground(threshold=otsu_threshold(histogram), plain=True)
    level = next((each for each in reversed(range(len(slide.levels))) if prod(slide.levels[each]) >= SAMPLE), 0)
    planes = _planes(np.concatenate([*_sampled(slide, level)]))
    lightest, darkest = _greatest(*planes), _least(*planes)
    white, remark = _white(planes, lightest, darkest)
    usable = _may_be_tissue(planes)
    limit = min(white) - LEAST_LOSS
    if (usable & (_colour(planes, white) >= LEAST_COLOUR)).mean() < LEAST_SHARE:
        limit, contrast = _split(np.bincount(lightest[usable], minlength=256), np.arange(256.0))
        limit = limit + 1 if contrast >= LEAST_CONTRAST else 0
    return Foreground(white=white, limit=limit, remark=remark)


def _white(planes: Planes, lightest: Plane, darkest: Plane) -> tuple[Colour, str]:
    """The colour of the background, and a remark if it is a guess."""
    if (lightest < DARK).mean() > MOST_DARK:
        return WHITE, DARK_BACKGROUND
    is_full = darkest == 255
    bright = (darkest >= BRIGHT) & (lightest - darkest <= NEUTRAL)
    neutral, full = float((bright & ~is_full).mean()), float(is_full.mean())
    if neutral < 1 / TIMES_WHITE:
        colour, share = _tint(planes, lightest, darkest)
        is_clear = full < LEAST_WHITE or (min(colour) >= BRIGHT and share >= LEAST_BESIDE_WHITE)
        if share >= max(LEAST_TINTED, TIMES_WHITE * neutral) and is_clear:
            return colour, f"{TINTED} {colour}"
    if neutral + full < LEAST_WHITE:
        return WHITE, NOT_WHITE
    return _median(planes, bright), ""


def _tint(planes: Planes, lightest: Plane, darkest: Plane) -> tuple[Colour, float]:
    """The most frequent colour that light may have, and the share of its pixels (0: too uneven for a background)."""
    red, green, blue = (plane.astype(np.int16) for plane in planes)
    is_between = (green >= np.minimum(red, blue) - SLACK) & (green <= np.maximum(red, blue) + SLACK)
    possible = is_between & (lightest >= LEAST_LIGHT) & (lightest - darkest <= MOST_TINT) & (darkest < 255)
    if not possible.any():
        return WHITE, 0.0
    bins = (red >> 3 << 10) + (green >> 3 << 5) + (blue >> 3)
    fullest = int(np.argmax(np.bincount(bins[possible], minlength=1)))
    colour: Colour = ((fullest >> 10) * 8 + 4, (fullest >> 5 & 31) * 8 + 4, (fullest & 31) * 8 + 4)
    off = _distance(planes, colour)
    colour = _median(planes, possible & (off <= NEAR))
    off = _distance(planes, colour)
    near, around = int((off <= NEAR).sum()), int((off <= FAR).sum())
    return colour, near / off.size if near >= LEAST_EVEN * around else 0.0


def _median(planes: Planes, chosen: NDArray[np.bool_]) -> Colour:
    red, green, blue = (int(np.median(plane[chosen])) for plane in planes)
    return red, green, blue


def _distance(planes: Planes, colour: Colour) -> NDArray[np.int16]:
    """The greatest difference of a channel."""
    differences = [np.abs(plane.astype(np.int16) - value) for plane, value in zip(planes, colour, strict=True)]
    return np.maximum(np.maximum(differences[0], differences[1]), differences[2])


def otsu_threshold(histogram: NDArray[np.int64]) -> float:
    """Threshold of the mean of red, green and blue by Otsu's method, with 256 bins between the least and the greatest
    mean as in scikit-image, and so in hi-ml. *histogram* has the number of pixels for each sum of the channels."""
    means = np.arange(len(histogram)) / 3
    present = means[histogram > 0]
    least, most = float(present.min()), float(present.max())
    if least == most:
        return least
    counts, edges = np.histogram(means, 256, (least, most), weights=histogram.astype(float))
    centres = (edges[:-1] + edges[1:]) / 2
    return float(centres[_split(counts, centres)[0]])


def _split(counts: NDArray[np.floating | np.integer], values: NDArray[np.float64]) -> tuple[int, float]:
    """The last bin of the dark class that differs most from the light one, and the difference of their means."""
    dark, total = np.cumsum(counts), np.cumsum(counts * values)
    light = dark[-1] - dark
    places = np.flatnonzero((dark > 0) & (light > 0))
    if not len(places):
        return 0, 0.0
    contrast = (total[-1] - total[places]) / light[places] - total[places] / dark[places]
    best = int(np.argmax(dark[places].astype(float) * light[places] * contrast**2))
    return int(places[best]), float(contrast[best])


def _sampled(slide: Slide, level: int) -> Iterator[NDArray[np.uint8]]:
    """Every pixel of the level, or of a large one every few rows and columns."""
    step = ceil(sqrt(prod(slide.levels[level]) / SAMPLE))
    first = 0
    for strip in slide.strips(level, WHITE):
        yield strip[first::step, ::step].copy()
        first = (first - len(strip)) % step
        del strip  # before the next one is created


def _planes(pixels: NDArray[np.uint8]) -> Planes:
    return tuple(np.ascontiguousarray(pixels[..., channel]) for channel in range(3))


def _greatest(red: Plane, green: Plane, blue: Plane) -> Plane:
    return np.maximum(np.maximum(red, green), blue)


def _least(red: Plane, green: Plane, blue: Plane) -> Plane:
    return np.minimum(np.minimum(red, green), blue)


def _brightness(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Sum of red, green and blue, from 0 to 765."""
    total = np.add(pixels[..., 0], pixels[..., 1], dtype=np.uint16)
    total += pixels[..., 2]
    return total


def _colour(planes: Planes, white: Colour) -> NDArray[np.uint8]:
    """Difference between the greatest and the least loss of a channel, compared with *white*."""
    width = planes[0].shape[1]  # rows of numbers are ten times as fast as one number
    shown = [np.minimum(plane, np.full(width, most, np.uint8)) for plane, most in zip(planes, white, strict=True)]
    for plane, most in zip(shown, white, strict=True):
        if most < max(white):
            plane += np.full(width, max(white) - most, np.uint8)
    return _greatest(*shown) - _least(*shown)


def quality_of(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """QUALITY of a tile, shape (rows, columns, 3): the mean of all channels (0 to 255), the mean saturation (0 to 1),
    the sharpness (variance of the Laplacian of the mean of the channels), and the shares of pixels of pens and of black
    pixels."""
    planes = _planes(pixels)
    greatest, grey = _greatest(*planes), pixels.mean(axis=2, dtype=np.float32)
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    laplacian = around - 4 * grey[1:-1, 1:-1]
    black = greatest < BLACK
    values = (
        grey.mean(dtype=np.float64),
        ((greatest - _least(*planes)) / np.maximum(greatest, 1)).mean(),
        laplacian.var(dtype=np.float64) if laplacian.size else 0.0,
        (~_may_be_tissue(planes) & ~black).mean(),
        black.mean(),
    )
    return {name: round(float(value), 4) for name, value in zip(QUALITY, values, strict=True)}


def _may_be_tissue(planes: Planes) -> NDArray[np.bool_]:
    """Whether a pixel is neither black nor of a pen."""
    red, green, blue = planes
    others = np.maximum(green, blue), np.maximum(red, blue), np.maximum(red, green)
    greatest = np.maximum(others[2], blue)
    found = greatest >= BLACK
    for below, least in zip(others, PEN, strict=True):
        found &= greatest - below < least
    return found
