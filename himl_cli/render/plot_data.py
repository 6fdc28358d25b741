"""Points of a metric, put in order: what can be drawn of each run, and the mean and the spread over runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from himl_cli.core.results import Aggregation, Child, Series, Value
from himl_cli.core.runs import RunStatus
from himl_cli.core.sweeps import Scalar, value_text
from himl_cli.core.text import shorten

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


MOST_PANELS = 12  # of one figure


@dataclass(frozen=True)
class Panel:
    """One metric and the points of the runs that have it."""

    metric: str
    curves: Sequence[Curve]

    @property
    def has_steps(self) -> bool:
        """Whether it is drawn over steps: some run has two of them."""
        return any(curve.steps.size > 1 for curve in self.curves)


@dataclass(frozen=True)
class Family:
    """Panels of one figure; `part` counts the figures of one family from 1, 0 where there is only one."""

    name: str
    panels: Sequence[Panel]
    part: int = 0

    @property
    def title(self) -> str:
        return f"{self.name} ({self.part})" if self.part else self.name


def is_shown(child: Child) -> bool:
    """Runs that failed are named and not drawn: where they stopped says nothing of their settings, and would bend the
    mean."""
    return child.run.status is not RunStatus.failed


def families_of(aggregation: Aggregation) -> list[Family]:
    """All figures, in the order of their metrics. Metrics without a number are left out."""
    by_name: dict[str, list[Panel]] = {}
    for metric in aggregation.metrics:
        curves = [
            curve
            for place, child in enumerate(aggregation.children)
            if is_shown(child) and (curve := _curve(place, child, metric)) is not None
        ]
        if curves:
            by_name.setdefault(family_name(metric), []).append(Panel(metric, curves))
    return [
        family
        for name, panels in by_name.items()
        for family in _parts(name, sorted(panels, key=lambda panel: _natural(panel.metric)))
    ]


def family_name(metric: str) -> str:
    """What stands after the last `/`, or the whole name where nothing does."""
    return metric.rsplit("/", 1)[-1].strip() or metric


def _natural(text: str) -> list[tuple[int, str]]:
    """So that `class_2` comes before `class_10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def curves_by_metric(families: Sequence[Family]) -> Mapping[str, Sequence[Curve]]:
    return {panel.metric: panel.curves for family in families for panel in family.panels}


def _curve(place: int, child: Child, metric: str) -> Curve | None:
    series = child.results.series.get(metric)
    if series is not None:
        return curve_of(place, series)
    return single(place, child.results.last.get(metric))


def _parts(name: str, panels: Sequence[Panel]) -> list[Family]:
    if len(panels) <= MOST_PANELS:
        return [Family(name, panels)]
    return [
        Family(name, panels[begin : begin + MOST_PANELS], begin // MOST_PANELS + 1)
        for begin in range(0, len(panels), MOST_PANELS)
    ]


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def plain(text: str) -> str:
    """*text* as matplotlib shows it unchanged: dollars begin no formula, line ends and control characters are
    spaces."""
    return _CONTROL.sub(" ", text).replace("$", r"\$")


def number(value: float) -> str:
    """A number with four digits; nothing that is not finite is made to look like one."""
    return f"{value:.4g}" if math.isfinite(value) else ("NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞"))


def names_of(children: Sequence[Child]) -> list[str]:
    """What each run is called in legends: the hyperparameters in which the runs differ, else its label. Two that would
    be called alike get their ids."""
    varying = varying_hyperparameters(children)
    names = [
        _values_text({name: child.hyperparameters[name] for name in varying if name in child.hyperparameters})
        or child.label
        for child in children
    ]
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return [
        f"{name} ({child.run.id})" if counts[name] > 1 and name != child.run.id else name
        for name, child in zip(names, children, strict=True)
    ]


def varying_hyperparameters(children: Sequence[Child]) -> list[str]:
    """The hyperparameters in which the runs differ, in their order; all of them where there is one run."""
    names = dict.fromkeys(name for child in children for name in child.hyperparameters)
    if len(children) < 2:
        return [*names]
    return [name for name in names if len({_key(child.hyperparameters.get(name)) for child in children}) > 1]


def _key(value: Scalar | None) -> tuple[str, str]:
    return type(value).__name__, repr(value)


def _values_text(values: Mapping[str, Scalar]) -> str:
    return ", ".join(
        f"{name}={number(value) if isinstance(value, float) else value_text(value)}" for name, value in values.items()
    )


def listed(names: Sequence[str], most: int = 3) -> str:
    """Some of *names*, and how many more there are."""
    shown = "; ".join(shorten(name, 40) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
