"""What a slide is to whoever draws it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from himl_cli.core.montage import Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Colour = tuple[int, int, int]
GENERIC_TIFF = "generic-tiff"
"""What OpenSlide calls a TIFF that is of no scanner's format."""


class Slide(Protocol):
    """An opened slide; used by one thread at a time."""

    @property
    def backend(self) -> str:
        """What reads it: `tifffile`, `openslide`, `cucim` or `pillow`."""

    @property
    def levels(self) -> Sequence[Size]:
        """The size of each level in pixels, the finest first; never empty."""

    @property
    def remark(self) -> str:
        """What a user should know of what is not shown, or not surely right; nothing as a rule. Complete once the
        strips are read."""

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        """The level from the top down: arrays of shape (rows, width of the level, 3), RGB, C-contiguous, whose rows sum
        up to its height.

        Other kinds of pixels are converted: 16 bits are scaled, grey and CMYK become RGB. What is transparent, or not
        stored, lies on *background*; None: transparency is dropped, as the predecessor did, and what is not stored is
        black. Raises SlideUnreadable, also in the middle.
        """

    def close(self) -> None:
        """Free what it holds."""
