"""Points of a metric, put in order: what can be drawn of each run, and the mean and the spread over runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from himl_cli.core.results import Series, Value

FEW = (
    10  # from this many runs on, the band is that of the quartiles: a standard deviation says little of what is skewed
)
MOST_STEPS = 1000  # of mean and band
MOST_POINTS = 4000  # of one curve
MOST_OF_ALL, FEWEST_POINTS = (
    200_000,
    200,
)  # of all curves of a panel, which has some hundred pixels; of one of very many
PRESENT = 0.9


@dataclass(frozen=True)
class Curve:
    """One run's points by step, each step once; values may be NaN or infinite. `child` is the run's place in the
    aggregation."""

    child: int
    steps: Any
    values: Any

    @property
    def last(self) -> float:
        return float(self.values[-1])

    @property
    def is_broken(self) -> bool:
        """Whether there are values that cannot be drawn."""
        return not bool(np.isfinite(self.values).all())


@dataclass(frozen=True)
class Spread:
    """Mean and band over runs, by step; `count` is the number of values behind each. `band` says what the band is."""

    steps: Any
    mean: Any
    low: Any
    high: Any
    count: Any
    band: str


def curve_of(child: int, series: Series) -> Curve | None:
    """The points in the order of their steps; of a step that was logged again, the latest counts. None where there is
    none."""
    steps, values, times = (
        np.asarray(series.steps, dtype=float),
        as_floats(series.values),
        np.asarray(series.times, dtype=float),
    )
    if not steps.size:
        return None
    order = np.lexsort((times, steps))
    steps, values = steps[order], values[order]
    is_latest: Any = np.append(steps[1:] != steps[:-1], True)
    return Curve(child, steps[is_latest], values[is_latest])


def single(child: int, value: Value) -> Curve | None:
    """A value without steps; None for one that is no number."""
    if isinstance(value, str) or value is None:
        return None
    return Curve(child, np.zeros(1), as_floats([value]))


def as_floats(values: Sequence[Any]) -> Any:
    """Numbers as an array; whole numbers that no float holds are infinite."""
    try:
        return np.asarray(values, dtype=float)
    except OverflowError:
        return np.asarray([_as_float(value) for value in values])


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """A curve of more than *most* points as its lows and highs, so that it is drawn fast, a file of a picture stays
    small and no peak is lost."""
    size = curve.steps.size
    if size <= most:
        return curve
    width = -(-size // max(1, most // 2))
    known = np.isfinite(curve.values)
    lows, highs, gaps = (
        _in_pieces(values, width, filler)
        for values, filler in (
            (np.where(known, curve.values, np.inf), np.inf),
            (np.where(known, curve.values, -np.inf), -np.inf),
            (known, True),
        )
    )
    begins = np.arange(lows.shape[0]) * width
    places = np.concatenate(
        [
            [0, size - 1],
            begins + lows.argmin(axis=1),
            begins + highs.argmax(axis=1),
            (begins + gaps.argmin(axis=1))[~gaps.all(axis=1)],
        ]
    )
    places = np.unique(places)
    return Curve(curve.child, curve.steps[places], curve.values[places])


def points_each(curves: int) -> int:
    """How many points each of so many curves of a panel is drawn with."""
    return min(MOST_POINTS, max(FEWEST_POINTS, MOST_OF_ALL // max(1, curves)))


def _in_pieces(values: Any, width: int, filler: float) -> Any:
    """*values* as rows of so many; the last row is filled up."""
    return np.pad(values, (0, -values.size % width), constant_values=filler).reshape(-1, width)


def spread_of(curves: Sequence[Curve]) -> Spread | None:
    """Mean and band at the steps that the runs have in common; None where there are none.

    A step is common where nine in ten of the runs that had begun and not ended by then have it, and these are at least
    two and half of all. So runs that log at different steps make no zigzag, and the few that went on longest are not
    passed off as all. Values that are not finite do not count.
    """
    if len(curves) < 2:
        return None
    union, count = np.unique(np.concatenate([curve.steps for curve in curves]), return_counts=True)
    begun = np.searchsorted(np.sort([curve.steps[0] for curve in curves]), union, side="right")
    ended = np.searchsorted(np.sort([curve.steps[-1] for curve in curves]), union, side="left")
    open_then = begun - ended
    common = union[(count >= PRESENT * open_then) & (count >= max(2, len(curves) / 2))]
    if common.size > MOST_STEPS:
        common = common[np.unique(np.linspace(0, common.size - 1, MOST_STEPS).astype(int))]
    return _statistics(common, np.stack([_values_at(curve, common) for curve in curves])) if common.size else None


def _values_at(curve: Curve, steps: Any) -> Any:
    """The values at *steps*, NaN where there is no finite one."""
    places = np.clip(np.searchsorted(curve.steps, steps), 0, curve.steps.size - 1)
    return np.where((curve.steps[places] == steps) & np.isfinite(curve.values[places]), curve.values[places], np.nan)


def _statistics(steps: Any, table: Any) -> Spread | None:
    count = np.isfinite(table).sum(axis=0)
    enough = count >= max(2, table.shape[0] / 2)
    steps, table, count = steps[enough], table[:, enough], count[enough]
    if not steps.size:
        return None
    mean, low, high, band = band_of(table)
    return Spread(steps, mean, low, high, count, band)


def band_of(table: Any) -> tuple[Any, Any, Any, str]:
    """Mean, lower and upper end of the band over the rows of *table* (runs × steps; NaN: no value), and what the band
    is."""
    scale = max(1.0, float(np.nanmax(np.abs(table))))  # 1e300 has no square
    scaled = table / scale
    mean = np.nanmean(scaled, axis=0)
    if table.shape[0] < FEW:
        deviation = np.sqrt(
            np.nansum((scaled - mean) ** 2, axis=0) / np.maximum(np.isfinite(scaled).sum(axis=0) - 1, 1)
        )
        return mean * scale, (mean - deviation) * scale, (mean + deviation) * scale, "± standard deviation"
    low, high = np.nanpercentile(scaled, [25, 75], axis=0)
    return mean * scale, low * scale, high * scale, "middle half of the runs"
