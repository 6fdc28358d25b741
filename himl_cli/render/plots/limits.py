"""Which part of an axis is shown: all values where that makes sense, else that of most, so that one run that diverged
does not flatten the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

DECADES = 3.0  # from which on an axis is logarithmic
MOST_DECADES = 1.5  # that nine in ten values have to span then: a score that begins near 0 is no reason
MARGIN = 0.05
LARGEST = 1e307
SMALLEST = 1e-290
MOST_LOGARITHMIC = 1e120  # matplotlib's logarithmic axes break near the ends of what floats hold


@dataclass(frozen=True)
class Limits:
    """Ends of an axis; `beyond` is the number of finite values that lie outside."""

    low: float
    high: float
    is_log: bool
    beyond: int = 0

    def clamped(self, values: Any) -> Any:
        """Values on the drawing board: what lies far outside still leads out of the picture, by numbers that can be
        drawn."""
        if self.is_log:
            reach = min(self.high / self.low, 1e25) ** 2
            return np.clip(values, max(self.low / reach, 1e-300), min(self.high * reach, LARGEST))
        room = self.high - self.low
        return np.clip(values, self.low - 2 * room, self.high + 2 * room)


def limits_of(values: Any) -> Limits:
    """The axis for *values*; those that are not finite are passed over. Logarithmic where all shown ones are positive
    and span more than three decades."""
    known = np.asarray(values, dtype=float)
    known = np.clip(known[np.isfinite(known)], -LARGEST, LARGEST)
    if not known.size:
        return Limits(0.0, 1.0, False)
    kept = known[_is_near(np.log10(known), 30.0)] if _is_wide(known) else known[_is_near(known, 1000.0)]
    if _is_wide(kept):
        low, high = (float(end) for end in np.power(10.0, _ends(np.log10(kept))))
        is_log = True
    else:
        low, high = _ends(kept)
        is_log = False
    return Limits(low, high, is_log, int(((known < low) | (known > high)).sum()))


def _is_wide(values: Any) -> bool:
    if values.min() <= 1 / MOST_LOGARITHMIC or values.max() >= MOST_LOGARITHMIC:
        return False
    decades = np.log10(values)
    low, high = np.percentile(decades, [5, 95])
    return bool(decades.max() - decades.min() > DECADES and high - low > MOST_DECADES)


def _is_near(values: Any, far: float) -> Any:
    """Which values are shown: all, unless they reach more than *far* times as far as the third in their middle."""
    unit = max(1.0, float(np.abs(values).max()))  # so that no difference overflows
    scaled = values / unit
    for low, high in ((35, 65), (25, 75), (5, 95)):
        low, high = np.percentile(scaled, [low, high])
        if high > low:
            if scaled.max() - scaled.min() > far * (high - low):
                return np.abs(scaled - np.median(scaled)) <= far / 5 * (high - low)
            break
    return np.ones(values.shape, dtype=bool)


def _ends(values: Any) -> tuple[float, float]:
    """Both ends with some room beside them; of values that are all the same, so that they stand in the middle."""
    low, high = float(values.min()), float(values.max())
    biggest = max(abs(low), abs(high))
    room = high - low
    if room <= max(1e-9 * biggest, SMALLEST):
        room = biggest if biggest > SMALLEST else 1.0
    return low - MARGIN * room, high + MARGIN * room
