"""Mean, spread and middle of one metric over many runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from himl_cli.core.results import Aggregation, Value


@dataclass(frozen=True)
class Statistics:
    """Of the last values of *count* runs. `std` is the sample's (n - 1), None for one value; all but *count* are None
    where there is no value."""

    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    median: float | None
    count: int


def statistics_of(aggregation: Aggregation) -> dict[str, Statistics]:
    """By metric. Runs without a value, with a text or with NaN do not count; infinities do."""
    return {
        name: _of(numbers(child.results.last.get(name) for child in aggregation.children))
        for name in aggregation.metrics
    }


def numbers(values: Iterable[Value]) -> list[float]:
    """The numbers among *values* that are some."""
    return [
        float(value)
        for value in values
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    ]


def _of(values: Sequence[float]) -> Statistics:
    if not values:
        return Statistics(None, None, None, None, None, 0)
    mean = _mean(values)
    return Statistics(
        mean, _std(values, mean) if len(values) > 1 else None, min(values), max(values), _median(values), len(values)
    )


def _mean(values: Sequence[float]) -> float:
    if all(map(math.isfinite, values)):
        try:
            return math.fsum(values) / len(values)
        except OverflowError:
            return math.fsum(value / len(values) for value in values)
    return sum(values)  # an infinity, or NaN where there are both


def _std(values: Sequence[float], mean: float) -> float:
    """Scaled, so that squares of large and of small numbers stay numbers; NaN where a value is infinite."""
    if not math.isfinite(mean):
        return math.nan
    scale = max(abs(value - mean) for value in values)
    if scale == 0 or not math.isfinite(scale):
        return scale
    return scale * math.sqrt(math.fsum(((value - mean) / scale) ** 2 for value in values) / (len(values) - 1))


def _median(values: Sequence[float]) -> float:
    """The mean of the two in the middle, without overflow where both are large."""
    low, high = statistics.median_low(values), statistics.median_high(values)
    middle = (low + high) / 2
    return middle if math.isfinite(middle) or not (math.isfinite(low) and math.isfinite(high)) else low / 2 + high / 2
