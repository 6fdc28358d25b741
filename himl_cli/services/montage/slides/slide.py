"""What a slide is to whoever draws it, and what its readers share."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from tifffile import TiffFileError

from himl_cli.core.montage import Box, Size, SlideUnreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

Colour = tuple[int, int, int]
GENERIC_TIFF = "generic-tiff"
"""What OpenSlide calls a TIFF that is of no scanner's format."""

LIBRARY_ERRORS = (
    TiffFileError,
    OSError,
    ImportError,
    ValueError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    SyntaxError,
    struct.error,
)
"""What libraries raise for damaged files. SyntaxError is Pillow's, for a broken PNG, ImportError imagecodecs', for a
codec that it was built without."""

_LONGEST_MESSAGE = 200
_REGION_PIXELS = 8 << 20
_REGION_COLUMNS = 4096


class Slide(Protocol):
    """An opened slide; used by one thread at a time."""

    @property
    def backend(self) -> str:
        """What reads it: `tifffile`, `openslide`, `cucim` or `pillow`."""

    @property
    def levels(self) -> Sequence[Size]:
        """The size of each level in pixels, the finest first; never empty."""

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        """The level from the top down: arrays of shape (rows, width of the level, 3), RGB, C-contiguous, whose rows sum
        up to its height.

        Other kinds of pixels are converted: 16 bits are scaled, grey and CMYK become RGB. What is transparent, or not
        stored, lies on *background*; None: transparency is dropped, as hi-ml did, and what is not stored is black.
        Raises SlideUnreadable, also in the middle.
        """

    def close(self) -> None:
        """Free what it holds."""


def level_for(levels: Sequence[Size], requested: int | None, target: Size) -> tuple[int, str]:
    """The level to read, and a remark where it is not the one *requested*.

    A missing level gives way to the coarsest there is, which is the nearest. None: the coarsest one that is at least as
    wide and as high as *target*, the finest where none is. *levels* are sizes, the finest first; never empty.
    """
    if requested is None:
        covering = [number for number, size in enumerate(levels) if size[0] >= target[0] and size[1] >= target[1]]
        return (covering[-1] if covering else 0), ""
    if requested < len(levels):
        return requested, ""
    last = len(levels) - 1
    present = f"levels 0 to {last} are there" if last else "level 0 is the only one"
    return last, f"level {requested} is missing ({present}): level {last} was read"


@contextmanager
def library_errors(what: str, path: Path | None = None) -> Iterator[None]:
    """Raises SlideUnreadable, beginning with *what*, where a library fails; *path* is taken out of the library's
    words."""
    try:
        yield
    except SlideUnreadable:
        raise
    except MemoryError as err:
        raise SlideUnreadable(f"{what}: it does not fit into memory") from err
    except LIBRARY_ERRORS as err:
        words = message_of(err) if path is None else message_of(err).replace(str(path), "the file")
        raise SlideUnreadable(f"{what}: {words}" if words else what) from err


def message_of(error: BaseException) -> str:
    """The message of a library's error: one line, no longer than a line should be."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split())
    return words if len(words) <= _LONGEST_MESSAGE else f"{words[: _LONGEST_MESSAGE - 3]}..."


def strips_of_regions(
    size: Size, tile_rows: int, read: Callable[[Box], NDArray[np.uint8]]
) -> Iterator[NDArray[np.uint8]]:
    """The strips of a level of *size*, each *read* as rectangles by a library that knows no strips: whole rows of
    tiles, at most 8 megapixels a rectangle unless one row of tiles has more.

    OpenSlide reads in pieces of 4,096 columns, and rounds where each begins: ours begin where its own would.
    """
    width, height = size
    most = max(1, _REGION_PIXELS // (width * tile_rows)) * tile_rows
    for top, bottom in pairwise([*range(0, height, most), height]):
        rows = bottom - top
        columns = max(1, _REGION_PIXELS // (rows * _REGION_COLUMNS)) * _REGION_COLUMNS
        strip: NDArray[np.uint8] = np.empty((rows, width, 3), np.uint8)
        for left in range(0, width, columns):
            box = Box(left, top, min(columns, width - left), rows)
            strip[:, box.x : box.x + box.width] = read(box)
        yield strip
        del strip  # or it would be kept while the next one is made
