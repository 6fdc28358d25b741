"""Which running trials are stopped early, by the rules that Azure ML documents.

An interval is one logging of the primary metric. A policy looks at a trial at each multiple of its
`evaluation_interval` that is not below `delay_evaluation`, and compares it with what all trials had logged up to the
same interval. Values that are no finite numbers count as intervals and for nothing else: they never win, and never stop
a trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median

from himl_cli.core.sweeps import EarlyStop, Trial

Verdicts = dict[int, str]


def trials_to_stop(spec: EarlyStop, goal: str, trials: Sequence[Trial]) -> Mapping[int, str]:
    """The numbers of the running trials that the policy stops now, each with the reason. *trials* are all that were
    started."""
    judge = JUDGES[spec.policy]
    sign = 1.0 if goal == "maximize" else -1.0
    by_interval: dict[int, list[Trial]] = {}
    for trial in trials:
        interval = 0 if trial.is_over else last_interval(spec, len(trial.metric))
        if interval:
            by_interval.setdefault(interval, []).append(trial)
    stopped: Verdicts = {}
    for interval, running in by_interval.items():
        stopped |= judge(spec, sign, interval, running, trials)
    return stopped


def last_interval(spec: EarlyStop, logged: int) -> int:
    """The interval at which the policy looks at a trial that logged so many values; 0 where it does not look yet."""
    interval = logged - logged % max(1, spec.evaluation_interval)
    return interval if interval >= spec.delay_evaluation else 0


def _bandit(spec: EarlyStop, sign: float, interval: int, running: Sequence[Trial], trials: Sequence[Trial]) -> Verdicts:
    """Stops what is worse than the best trial by more than the slack."""
    scores = [(score, trial.index) for trial in trials if (score := _best(sign, trial, interval)) is not None]
    if not scores:
        return {}
    best, leader = max(scores, key=lambda found: (found[0], -found[1]))
    worst = _allowed(spec, sign, best)
    slack = (
        f"slack_factor={spec.slack_factor:g}"
        if spec.slack_factor is not None
        else f"slack_amount={spec.slack_amount or 0:g}"
    )
    because = f"trial {leader} had {sign * best:g}, and {slack} allows {sign * worst:g}"
    return {
        trial.index: f"stopped early by bandit at interval {interval}: {sign * score:g}, where {because}"
        for trial in running
        if trial.index != leader and (score := _best(sign, trial, interval)) is not None and score < worst
    }


def _allowed(spec: EarlyStop, sign: float, best: float) -> float:
    """The worst score that is let go on. A factor makes room on the worse side whatever the metric's sign is."""
    if spec.slack_factor is None:
        return best - (spec.slack_amount or 0.0)
    widens = (sign * best >= 0) == (
        sign < 0
    )  # the metric grows where it is positive and minimized, or negative and maximized
    return best * (1 + spec.slack_factor) if widens else best / (1 + spec.slack_factor)


def _median(spec: EarlyStop, sign: float, interval: int, running: Sequence[Trial], trials: Sequence[Trial]) -> Verdicts:
    """Stops what at its best is worse than the median of the running averages of all trials."""
    averages = [fmean(scores) for trial in trials if (scores := _scores(sign, trial, interval))]
    if not averages:
        return {}
    middle = median(averages)
    return {
        trial.index: f"stopped early by median at interval {interval}: {sign * score:g}, where the median of the "
        f"averages is {sign * middle:g}"
        for trial in running
        if (score := _best(sign, trial, interval)) is not None and score < middle
    }


def _truncation(
    spec: EarlyStop, sign: float, interval: int, running: Sequence[Trial], trials: Sequence[Trial]
) -> Verdicts:
    """Stops what is among the worst of the trials that came to this interval."""
    percentage = spec.truncation_percentage or 0
    reached = [
        (score, trial.index)
        for trial in trials
        if len(trial.metric) >= interval and (score := _best(sign, trial, interval)) is not None
    ]
    cut = {index for _, index in sorted(reached)[: len(reached) * percentage // 100]}
    because = f"among the worst {percentage} % of {len(reached)} trials"
    return {
        trial.index: f"stopped early by truncation at interval {interval}: {because}"
        for trial in running
        if trial.index in cut
    }


def _scores(sign: float, trial: Trial, interval: int) -> list[float]:
    """The finite values up to the interval, the higher the better."""
    return [sign * value for value in trial.metric[:interval] if math.isfinite(value)]


def _best(sign: float, trial: Trial, interval: int) -> float | None:
    return max(_scores(sign, trial, interval), default=None)


JUDGES: Mapping[str, Callable[[EarlyStop, float, int, Sequence[Trial], Sequence[Trial]], Verdicts]] = {
    "bandit": _bandit,
    "median": _median,
    "truncation": _truncation,
}
