"""Making masks visible, whose values are often small numbers that say a kind of tissue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from himl_cli.core.montage import LayoutStyle
from himl_cli.services.montage.slides.base import Slide

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS = 16
PALETTE = np.array(
    [
        *(
            (0, 0, 0),
            (255, 255, 255),
            (230, 159, 0),
            (86, 180, 233),
            (0, 158, 115),
            (240, 228, 66),
            (0, 114, 178),
            (213, 94, 0),
        ),
        *(
            (204, 121, 167),
            (136, 34, 85),
            (153, 153, 51),
            (51, 34, 136),
            (170, 68, 153),
            (102, 204, 238),
            (119, 119, 119),
            (170, 60, 40),
        ),
    ],
    np.uint8,
)
"""The colours of labels 0, 1, 2 ...: a mask of zeros and ones is black and white."""


def is_labels(strips: Iterator[NDArray[np.uint8]]) -> bool:
    """Whether the pixels are grey and all below LABELS: numbers of kinds, and not shades. They are read no further than
    needed."""
    return all(int(strip.max(initial=0)) < LABELS and bool((strip == strip[..., :1]).all()) for strip in strips)


def has_labels(slide: Slide) -> bool:
    """The same of a mask too large to be looked at whole, by its coarsest level. Raises SlideUnreadable."""
    return is_labels(slide.strips(len(slide.levels) - 1, None))


def make_visible(rows: NDArray[np.uint8], style: LayoutStyle, *, labels: bool) -> None:
    """In place: hi-ml's way is values times 255, of which the lower 8 bits remain; otherwise *labels* get their
    colours, and shades stay as they are."""
    if style is LayoutStyle.himl:
        np.multiply(rows, np.uint8(255), out=rows)
    elif labels:
        rows[:] = PALETTE[rows[..., 0]]
