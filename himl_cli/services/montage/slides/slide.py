"""What a slide is to whoever draws it, and what its readers share: levels, errors, and samples as RGB of 8 bits."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFileError

from himl_cli.core.montage import Size, SlideUnreadable

Colour = tuple[int, int, int]

# What libraries raise for damaged files. SyntaxError is Pillow's, for a broken PNG, ImportError imagecodecs', for a
# codec that it was built without.
LIBRARY_ERRORS = (
    *(TiffFileError, OSError, ImportError, ValueError, RuntimeError, LookupError, ArithmeticError, TypeError),
    *(AttributeError, AssertionError, EOFError, SyntaxError, struct.error),
)
LONGEST_MESSAGE = 200


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

        Other kinds of pixels are converted: 16 bits are scaled, grey and CMYK become RGB; ICC profiles are left aside.
        What is transparent, or not stored, lies on *background*; None: transparency is dropped, as hi-ml did, and what
        is not stored is black. Raises SlideUnreadable, also in the middle.
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
def library_errors(what: str, path: Path | None = None, *kinds: type[Exception]) -> Iterator[None]:
    """Raises SlideUnreadable, beginning with *what*, where a library fails, also with its own *kinds* of errors; *path*
    is taken out of its words."""
    try:
        yield
    except SlideUnreadable:
        raise
    except MemoryError as err:
        raise SlideUnreadable(f"{what}: it does not fit into memory") from err
    except LIBRARY_ERRORS + kinds as err:
        words = message_of(err)
        if path is not None:
            words = words.replace(f"{path}: ", "").replace(str(path), "the file")
        raise SlideUnreadable(f"{what}: {words}" if words else what) from err


def message_of(error: BaseException) -> str:
    """The message of a library's error: one line, no longer than a line should be."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split())
    return words if len(words) <= LONGEST_MESSAGE else f"{words[: LONGEST_MESSAGE - 3]}..."


def eight_bits(samples: NDArray[np.generic], lowest: float, highest: float) -> NDArray[np.uint8]:
    """*samples* scaled so that *lowest* becomes 0 and *highest* 255, rounded; what lies beyond is cut, what is no
    number is 0. Same shape."""
    if samples.dtype == np.uint8 and (lowest, highest) == (0, 255):
        return samples
    has_few = samples.dtype in (np.uint8, np.uint16)  # so few values that a table of them is made
    numbers = np.arange(1 << (8 * samples.dtype.itemsize)) if has_few else samples
    shares = (np.nan_to_num(numbers.astype(np.float64), nan=lowest) - lowest) / (highest - lowest)
    scaled = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    return scaled[samples] if has_few else scaled


def clipped_labels(samples: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Labels: numbers keep their value, those over 255 become 255, those below 0 become 0. Same shape."""
    return samples if samples.dtype == np.uint8 else np.clip(np.nan_to_num(samples), 0, 255).astype(np.uint8)


def grey_to_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey, shape (rows, columns), as RGB."""
    return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))


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
