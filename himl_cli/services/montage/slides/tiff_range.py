"""Which numbers of a TIFF's samples are black and white."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from tifffile import TiffPage

from himl_cli.core.montage import SlideUnreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNSIGNED, FLOAT = 1, 3
_MIN_SAMPLE, _MAX_SAMPLE, _S_MIN_SAMPLE, _S_MAX_SAMPLE = 280, 281, 340, 341
_DARK = 16


class SampleRange:
    """`lowest` and `highest` become 0 and 255. What it `saw` may be from several threads."""

    def __init__(self, lowest: float, highest: float, *, is_float: bool = False, is_told: bool = False) -> None:
        self.lowest, self.highest = lowest, highest
        self._is_float, self._is_told = is_float, is_told
        self._largest: float | None = None
        self._lock = Lock()

    @property
    def is_uncertain(self) -> bool:
        """Whether the file says too little to rely on it."""
        return not self._is_told and (self._is_float or self.highest > 255)

    @property
    def remark(self) -> str:
        """What does not fit the range, of what was seen so far."""
        if self._largest is None:
            return ""
        if self._is_float:
            return f"its samples are floats{f' up to {self._largest:g}' if self._largest > 1 else ''}, taken as 0 to 1"
        if self._largest * _DARK > self.highest + 1:
            return ""
        return (
            f"no value is over {self._largest:,.0f} of {self.highest:,.0f}, and no MaxSampleValue says that fewer "
            "bits count"
        )

    def saw(self, samples: NDArray[np.generic]) -> None:
        """Remember the largest of *samples*."""
        if self.is_uncertain and samples.size:
            largest = float(np.fmax.reduce(samples, axis=None))
            with self._lock:
                self._largest = largest if self._largest is None else max(self._largest, largest)


def sample_range(page: TiffPage, *, as_labels: bool) -> SampleRange:
    """The declared range.

    That of the bits, but 2^n - 1 where MaxSampleValue says that of wider samples n bits are used; 0 to 1 for floats,
    unless told. Of 32 bits and more all are hardly ever used: there the file has to say which, unless its numbers are
    labels. Raises SlideUnreadable.
    """
    bits, kind = page.bitspersample, int(page.sampleformat)
    if page.dtype is None or not isinstance(bits, int):
        raise SlideUnreadable(f"its samples are of a kind that is not read ({bits} bits)")
    lowest, highest = _number(page, _S_MIN_SAMPLE), _number(page, _S_MAX_SAMPLE)
    is_told = lowest is not None and highest is not None and lowest < highest
    if kind == FLOAT:
        return (
            SampleRange(lowest or 0, highest or 0, is_float=True, is_told=True)
            if is_told
            else SampleRange(0, 1, is_float=True)
        )
    if kind != UNSIGNED:
        raise SlideUnreadable(
            f"its samples are of a kind that is not read ({getattr(page.sampleformat, 'name', kind)})"
        )
    told = _number(page, _MAX_SAMPLE) or 0
    if bits >= 32 and not as_labels:
        highest = told or highest or 0
        if highest <= 0:
            raise SlideUnreadable(f"its samples have {bits} bits, and no MaxSampleValue says which numbers are used")
        return SampleRange(0, highest, is_told=True)
    if told in {float((1 << used) - 1) for used in range(9, bits)}:
        return SampleRange(0, told, is_told=True)
    return SampleRange(0, float((1 << bits) - 1), is_told=told == (1 << bits) - 1)


def _number(page: TiffPage, tag: int) -> float | None:
    value = page.tags.valueof(tag)
    if isinstance(value, tuple):
        value = max(value) if tag != _S_MIN_SAMPLE else min(value)
    return float(value) if isinstance(value, (int, float)) else None
