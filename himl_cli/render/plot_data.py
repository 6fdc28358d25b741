"""The data of plots, and the look of each run in all figures: panels and families of metrics, curves by step, mean and
spread, the ends of axes, names, colours.

Few runs have a colour and a line style each, and a name. Many runs are coloured by the most informative hyperparameter,
or grey if there is none, and the best few are named. The colours work with each kind of colour blindness: those of
Okabe and Ito, and viridis without its lightest end.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, LogNorm, Normalize

from himl_cli.core.logged import Aggregation, Child, Series
from himl_cli.core.records import dataclass
from himl_cli.core.runs import RunStatus
from himl_cli.core.sweeps import Scalar, value_text
from himl_cli.core.text import shorten

MOST_POINTS = 4000  # per curve
LARGEST_VALUE, LARGEST_LOGARITHMIC = 1e307, 1e120
"""matplotlib's logarithmic axes fail near the ends of the range of floats."""
MOST_PANELS = 12  # per figure


@dataclass(frozen=True)
class Curve:
    """One run's points by step, each step once. Values may be NaN or infinite. `child` is the run's index in the
    aggregation."""

    child: int
    steps: Any
    values: Any

    @property
    def last(self) -> float:
        return float(self.values[-1])


@dataclass(frozen=True)
class Spread:
    """Mean and band over runs, by step. `count` is the number of values at each step. `band` describes the band."""

    steps: Any
    mean: Any
    low: Any
    high: Any
    count: Any
    band: str


def curve_of(child: int, series: Series) -> Curve:
    """The points in the order of their steps. The latest value of a step counts."""
    steps, times = np.asarray(series.steps, dtype=float), np.asarray(series.times, dtype=float)
    order = np.lexsort((times, steps))
    steps, values = steps[order], _as_floats(series.values)[order]
    is_latest: Any = np.append(steps[1:] != steps[:-1], True)
    return Curve(child, steps[is_latest], values[is_latest])


def _as_floats(values: Sequence[Any]) -> Any:
    """Numbers as an array. Integers beyond the range of floats become infinite."""
    try:
        return np.asarray(values, dtype=float)
    except OverflowError:
        most = int(sys.float_info.max)
        has_float = [not isinstance(each, int) or abs(each) <= most for each in values]
        ends = [math.inf if each > 0 else -math.inf for each in values]
        return np.asarray([one if has else end for one, has, end in zip(values, has_float, ends, strict=True)], float)


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """A curve of more than *most* points as its lows and highs, so that drawing is fast, files are small, and no peak
    is lost."""
    size = curve.steps.size
    if size <= most:
        return curve
    width = -(-size // max(1, most // 2))
    known = np.isfinite(curve.values)

    def rows(values: Any, filler: float) -> Any:
        return np.pad(values, (0, -size % width), constant_values=filler).reshape(-1, width)

    lows = rows(np.where(known, curve.values, np.inf), np.inf)
    highs = rows(np.where(known, curve.values, -np.inf), -np.inf)
    gaps = rows(known, True)
    begins = np.arange(lows.shape[0]) * width
    first_gaps = (begins + gaps.argmin(axis=1))[~gaps.all(axis=1)]
    kept = [[0, size - 1], begins + lows.argmin(axis=1), begins + highs.argmax(axis=1), first_gaps]
    places = np.unique(np.concatenate(kept))
    return Curve(curve.child, curve.steps[places], curve.values[places])


def spread_of(curves: Sequence[Curve]) -> Spread | None:
    """Mean and band at the steps that the runs have in common, or None if there are none.

    A step is common if nine in ten of the runs in progress at that step have it, and these are at least two and half of
    all. So runs that log at different steps make no zigzag, and the few longest runs do not represent all. NaN and
    infinities do not count.
    """
    if len(curves) < 2:
        return None
    union, count = np.unique(np.concatenate([curve.steps for curve in curves]), return_counts=True)
    begun = np.searchsorted(np.sort([curve.steps[0] for curve in curves]), union, side="right")
    ended = np.searchsorted(np.sort([curve.steps[-1] for curve in curves]), union, side="left")
    open_then = begun - ended
    common = union[(count >= 0.9 * open_then) & (count >= max(2, len(curves) / 2))]
    if not common.size:
        return None
    common = common[np.unique(np.linspace(0, common.size - 1, min(common.size, 1000)).astype(int))]
    rows = []
    for curve in curves:
        places = np.clip(np.searchsorted(curve.steps, common), 0, curve.steps.size - 1)
        values = curve.values[places]
        rows.append(np.where((curve.steps[places] == common) & np.isfinite(values), values, np.nan))
    table = np.stack(rows)
    count = np.isfinite(table).sum(axis=0)
    enough = count >= max(2, table.shape[0] / 2)
    if not enough.any():
        return None
    mean, low, high, band = band_of(table[:, enough])
    return Spread(common[enough], mean, low, high, count[enough], band)


def band_of(table: Any) -> tuple[Any, Any, Any, str]:
    """Mean, lower and upper end of the band over the rows of *table* (runs × steps, NaN: no value), and a description
    of the band."""
    scale = max(1.0, float(np.nanmax(np.abs(table))))  # prevents that the square of 1e300 overflows
    scaled = table / scale
    mean = np.nanmean(scaled, axis=0)
    # Many runs get quartiles, since a standard deviation misleads for skewed values
    if table.shape[0] < 10:
        deviation = np.sqrt(
            np.nansum((scaled - mean) ** 2, axis=0) / np.maximum(np.isfinite(scaled).sum(axis=0) - 1, 1)
        )
        return mean * scale, (mean - deviation) * scale, (mean + deviation) * scale, "± standard deviation"
    low, high = np.nanpercentile(scaled, [25, 75], axis=0)
    return mean * scale, low * scale, high * scale, "middle half of the runs"


@dataclass(frozen=True)
class AxisLimits:
    """Ends of an axis. `beyond` is the number of finite values outside."""

    low: float
    high: float
    is_log: bool
    beyond: int = 0

    def clamped(self, values: Any) -> Any:
        """Values limited to numbers that matplotlib can draw. Lines to values far outside still leave the picture."""
        if self.is_log:
            reach = min(self.high / self.low, 1e25) ** 2
            return np.clip(values, max(self.low / reach, 1e-300), min(self.high * reach, LARGEST_VALUE))
        room = self.high - self.low
        return np.clip(values, self.low - 2 * room, self.high + 2 * room)


def limits_of(values: Any) -> AxisLimits:
    """The axis for *values*, without NaN and infinities. It is logarithmic if all shown ones are positive and span more
    than three decades."""
    known = np.asarray(values, dtype=float)
    known = np.clip(known[np.isfinite(known)], -LARGEST_VALUE, LARGEST_VALUE)
    if not known.size:
        return AxisLimits(0.0, 1.0, False)
    kept = known[_is_near(np.log10(known), 30.0)] if _is_wide(known) else known[_is_near(known, 1000.0)]
    is_log = _is_wide(kept)
    low, high = _ends(np.log10(kept) if is_log else kept)
    if is_log:
        low, high = 10.0**low, 10.0**high
    return AxisLimits(low, high, is_log, int(((known < low) | (known > high)).sum()))


def _is_wide(values: Any) -> bool:
    """Whether they span three decades, and nine in ten of them one and a half. A score that begins near 0 does not."""
    if values.min() <= 1 / LARGEST_LOGARITHMIC or values.max() >= LARGEST_LOGARITHMIC:
        return False
    decades = np.log10(values)
    low, high = np.percentile(decades, [5, 95])
    return bool(np.ptp(decades) > 3 and high - low > 1.5)


def _is_near(values: Any, far: float) -> Any:
    """Which values are shown: all, unless they reach more than *far* times as far as the middle third."""
    scaled = values / max(1.0, float(np.abs(values).max()))  # prevents overflow of differences
    for share in (35, 25, 5):
        low, high = np.percentile(scaled, [share, 100 - share])
        if high > low:
            is_far = np.ptp(scaled) > far * (high - low)
            return (np.abs(scaled - np.median(scaled)) <= far / 5 * (high - low)) | (not is_far)
    return np.ones(values.shape, dtype=bool)


def _ends(values: Any) -> tuple[float, float]:
    """Both ends of the axis with margins. Equal values are in the middle."""
    low, high = float(values.min()), float(values.max())
    biggest, room = max(abs(low), abs(high)), high - low
    if room <= max(1e-9 * biggest, 1e-290):
        room = biggest if biggest > 1e-290 else 1.0
    return low - 0.05 * room, high + 0.05 * room


@dataclass(frozen=True)
class Family:
    """One figure. Each of its panels is a metric with the points of the runs that have it. `part` numbers the figures
    of a family from 1, and is 0 for a single one."""

    name: str
    panels: Mapping[str, Sequence[Curve]]
    part: int = 0

    @property
    def title(self) -> str:
        return f"{self.name} ({self.part})" if self.part else self.name


def have_steps(curves: Sequence[Curve]) -> bool:
    """Whether the curves are drawn over steps, because a run has two of them."""
    return any(curve.steps.size > 1 for curve in curves)


def is_shown(child: Child) -> bool:
    """Failed runs are named but not drawn, since the point of failure is unrelated to their settings, and would change
    the mean."""
    return child.run.status is not RunStatus.failed


def families_of(aggregation: Aggregation) -> list[Family]:
    """All figures, in the order of their metrics. Metrics without a number are omitted. The name of a family is the
    part after the last `/` of its metrics. `class_2` comes before `class_10`."""
    by_name: dict[str, dict[str, Sequence[Curve]]] = {}
    for metric in aggregation.metrics:
        drawn: list[Curve] = []
        for place, child in enumerate(aggregation.children):
            series, last = child.results.series.get(metric), child.results.last.get(metric)
            if is_shown(child) and series is not None and len(series.steps):
                drawn.append(curve_of(place, series))
            elif is_shown(child) and series is None and last is not None and not isinstance(last, str):
                drawn.append(Curve(place, np.zeros(1), _as_floats([last])))
        if drawn:
            by_name.setdefault(metric.rsplit("/", 1)[-1].strip() or metric, {})[metric] = drawn
    families = []
    for name, panels in by_name.items():
        ordered = sorted(panels.items(), key=lambda panel: _by_numbers(panel[0]))
        for begin in range(0, len(ordered), MOST_PANELS):
            part = begin // MOST_PANELS + 1 if len(ordered) > MOST_PANELS else 0
            families.append(Family(name, dict(ordered[begin : begin + MOST_PANELS]), part))
    return families


def _by_numbers(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def plain(text: str) -> str:
    """*text* for matplotlib to show unchanged: dollars begin no formula, line ends and control characters are
    spaces."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).replace("$", r"\$")


def number(value: float) -> str:
    """A number with four digits, or NaN or an infinity."""
    return f"{value:.4g}" if math.isfinite(value) else ("NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞"))


def names_of(children: Sequence[Child]) -> list[str]:
    """The names of the runs in legends: the hyperparameters in which they differ, else their labels. Equal names get
    the runs' ids."""
    varying = varying_hyperparameters(children)
    names = []
    for child in children:
        values = {name: child.hyperparameters[name] for name in varying if name in child.hyperparameters}
        texts = [f"{name}={number(each) if type(each) is float else value_text(each)}" for name, each in values.items()]
        names.append(", ".join(texts) or child.label)
    counts = Counter(names)
    return [
        f"{name} ({child.run.id})" if counts[name] > 1 and name != child.run.id else name
        for name, child in zip(names, children, strict=True)
    ]


def varying_hyperparameters(children: Sequence[Child]) -> list[str]:
    """The hyperparameters in which the runs differ, in their order. All of them for a single run."""
    names = dict.fromkeys(name for child in children for name in child.hyperparameters)
    if len(children) < 2:
        return [*names]
    values = {name: [child.hyperparameters.get(name) for child in children] for name in names}
    return [name for name in names if len({(type(each).__name__, repr(each)) for each in values[name]}) > 1]


def listed(names: Sequence[str], most: int = 3) -> str:
    shown = "; ".join(shorten(name, 40) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)))
FEW_POINTS = len(COLOURS) * len(STYLES)
GREY = "#8a8a8a"
BEST = (("#D55E00", "-"), ("#CC79A7", (0, (5, 2))), ("#E69F00", (0, (1, 1.3))))
"""The colours and line styles of the three best of many runs, which no colour bar contains."""


@dataclass(frozen=True)
class Look:
    """The line or point of a run. `name` is empty if it is not in the legend."""

    colour: Any
    style: Any = "-"
    width: float = 1.5
    alpha: float = 1.0
    name: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Scheme:
    """The looks of all runs by index, and a colour bar (the hyperparameter, and the norm and the colour map that turn
    its values into colours), or colours of categories by name."""

    looks: Mapping[int, Look]
    scale: tuple[str, Any, Any] | None = None
    categories: Mapping[str, Any] = field(default_factory=dict)


def scheme_of(
    children: Sequence[Child], families: Sequence[Family], primary: str | None, goal: str, best_run: str = ""
) -> Scheme:
    """The looks of the runs that are shown. *families* are all figures. *best_run* is the id of the best trial of a
    search."""
    shown = [place for place, child in enumerate(children) if is_shown(child)]
    names = names_of(children)
    if len(shown) <= FEW_POINTS:
        styles = [(colour, style) for style in STYLES for colour in COLOURS]
        looks = {place: Look(*style, 1.5, 0.95, names[place]) for place, style in zip(shown, styles, strict=False)}
        for place in shown:
            if children[place].run.id == best_run:
                looks[place] = replace(looks[place], width=2.2, name=f"best: {names[place]}", is_best=True)
        return Scheme(looks)
    primary = primary or "val/loss"
    curves = [curve for family in families for curve in family.panels.get(primary, ())]
    finals = {curve.child: curve.last for curve in curves if np.isfinite(curve.last)}

    def order(place: int) -> tuple[bool, float, int]:
        is_best = children[place].run.id == best_run
        return not is_best, finals[place] if goal == "minimize" else -finals[place], place

    best = sorted(finals, key=order)[:3]
    alpha = 0.75 if len(shown) <= 40 else 0.5 if len(shown) <= 120 else 0.35
    varying = varying_hyperparameters([children[place] for place in shown])
    name, values = _most_telling(children, shown, varying, finals)
    colours: dict[int, Any] = {}
    scale: tuple[str, Any, Any] | None = None
    categories: dict[str, Any] = {}
    if _are_numbers(values) and values:
        numbers = {place: float(value) for place, value in values.items()}
        low, high = min(numbers.values()), max(numbers.values())
        norm = LogNorm(low, high) if low > 0 and high / low >= 100 else Normalize(low, high)
        shades = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.9, 256)))
        scale, colours = (name, norm, shades), {place: shades(norm(each)) for place, each in numbers.items()}
    else:
        words = {place: value_text(value) for place, value in values.items()}
        by_word = dict(zip(sorted({*words.values()}), COLOURS, strict=False))
        categories = {f"{name}={word}": colour for word, colour in by_word.items()}
        colours = {place: by_word[word] for place, word in words.items()}
    looks = {place: Look(colours.get(place, GREY), "-", 0.9, alpha) for place in shown}
    if varying and not values:  # folds or seeds have no best run
        best = []
    for rank, (place, (colour, style)) in enumerate(zip(best, BEST, strict=False)):
        words_of_best = f"{'best' if rank == 0 else f'no. {rank + 1}'}: {names[place]}"
        label = f"{words_of_best} ({primary} {number(finals[place])})"
        looks[place] = Look(looks[place].colour if categories else colour, style, 1.9, 1.0, label, True)
    return Scheme({place: looks[place] for place in dict.fromkeys([*best, *looks])}, scale, categories)


def _most_telling(
    children: Sequence[Child], shown: Sequence[int], names: Sequence[str], finals: Mapping[int, float]
) -> tuple[str, Mapping[int, Scalar]]:
    """The hyperparameter of *names* with the highest correlation with the primary metric, else the one with the most
    values, and its values by run. Empty if runs are only numbered."""
    candidates: list[tuple[float, int, str, Mapping[int, Scalar]]] = [(-1.0, 0, "", {})]
    for name in names:
        settings = {place: children[place].hyperparameters for place in shown}
        values = {place: setting[name] for place, setting in settings.items() if name in setting}
        distinct = len({*map(str, values.values())})
        has_category_each = not _are_numbers(values) and distinct > len(COLOURS)
        # 0, 1, 2, … are folds or seeds, which explain nothing
        is_numbering = all(type(value) is int for value in values.values()) and len(values) == len(shown)
        if not (has_category_each or (is_numbering and {*values.values()} == {*range(len(shown))})):
            candidates.append((_correlation(values, finals), distinct, name, values))
    return max(candidates, key=lambda found: found[:2])[2:]


def _correlation(values: Mapping[int, Scalar], finals: Mapping[int, float]) -> float:
    """The correlation of the ranks of the values with those of the primary metric, 0 to 1. For categories, the square
    root of the share of the ranks' variance between them."""
    places = [place for place in values if place in finals]
    if len(places) < 3:
        return 0.0
    results = _ranks(np.array([finals[place] for place in places]))
    if results.std() == 0:
        return 0.0
    if _are_numbers(values):
        given = _ranks(np.array([float(values[place]) for place in places]))
        return 0.0 if given.std() == 0 else round(abs(float(np.corrcoef(given, results)[0, 1])), 2)
    groups: dict[str, list[float]] = {}
    for place, rank in zip(places, results, strict=True):
        groups.setdefault(str(values[place]), []).append(float(rank))
    between = sum(len(group) * (np.mean(group) - results.mean()) ** 2 for group in groups.values()) / (
        len(places) * results.var()
    )
    return round(float(np.sqrt(between)), 2)


def _ranks(values: Any) -> Any:
    """Ranks. Equal values have the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _are_numbers(values: Mapping[int, Scalar]) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
        for value in values.values()
    )
