"""Early termination: which trials a policy ends, by what they logged of the primary metric so far.

Every value that a trial logs is one interval. A policy looks at a trial at each multiple of `evaluationInterval` from `delayEvaluation` on, and compares it
with what the others had logged by the same interval.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from tests.servers.azureml.state import Json

Series = Mapping[str, Sequence[float]]
"""Values of the primary metric by trial, in the order logged."""


def is_looked_at(policy: Json, interval: int) -> bool:
    """Whether the policy looks at a trial that has logged its *interval*th value (1...)."""
    every, delay = max(1, int(policy.get("evaluationInterval") or 1)), int(policy.get("delayEvaluation") or 0)
    return interval % every == 0 and interval >= delay


def is_ended(policy: Json, trial: str, interval: int, series: Series, *, maximize: bool) -> bool:
    """Whether the policy ends *trial* at *interval*; values that are no numbers never end one."""
    seen = {name: [value for value in values[:interval] if math.isfinite(value)] for name, values in series.items()}
    seen = {name: values for name, values in seen.items() if values}
    if trial not in seen:
        return False
    sign = 1.0 if maximize else -1.0
    best = {name: max(values, key=lambda value: sign * value) for name, values in seen.items()}
    if policy["policyType"] == "TruncationSelection":
        best = {name: value for name, value in best.items() if len(series[name]) >= interval}
    return _POLICIES[policy["policyType"]](policy, trial, seen, best, sign)


def _bandit(policy: Json, trial: str, seen: Series, best: Mapping[str, float], sign: float) -> bool:
    """Worse than the best one by more than the slack: a factor of it, or an amount."""
    top = max(best.values(), key=lambda value: sign * value)
    if policy.get("slackAmount"):
        return sign * best[trial] < sign * top - float(policy["slackAmount"])
    slack = 1 + float(policy["slackFactor"])
    allowed = top / slack if sign * top > 0 else top * slack
    return sign * best[trial] < sign * allowed


def _median(policy: Json, trial: str, seen: Series, best: Mapping[str, float], sign: float) -> bool:
    """Its best value is worse than the median of all running averages."""
    averages = [statistics.fmean(values) for values in seen.values()]
    return len(averages) > 1 and sign * best[trial] < sign * statistics.median(averages)


def _truncation(policy: Json, trial: str, seen: Series, best: Mapping[str, float], sign: float) -> bool:
    """Among the worst so many percent, rounded down, of those that came to this interval, whether they run still or not."""
    count = len(best) * int(policy["truncationPercentage"]) // 100
    return trial in sorted(best, key=lambda name: (sign * best[name], name))[:count]


_POLICIES: Mapping[str, Callable[[Json, str, Series, Mapping[str, float], float], bool]] = {
    "Bandit": _bandit,
    "MedianStopping": _median,
    "TruncationSelection": _truncation,
}
