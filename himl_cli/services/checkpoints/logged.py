"""What a run logged of one metric, and the epochs that were logged beside it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from himl_cli.core.checkpoints import Goal
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.runs import Metric, MetricPoint, Run
from himl_cli.core.text import near_matches
from himl_cli.services.checkpoints.telling import same_metric

EPOCH = "epoch"
SHOWN = 6


@dataclass(frozen=True)
class Logged:
    """One value, which may be NaN. `step` is None where only the order tells values apart, `epoch` where no metric
    `epoch` was logged."""

    value: float
    step: int | None
    epoch: int | None


@dataclass(frozen=True)
class LoggedValues:
    """Those of `metric`, by step and in the order logged. `tries` is how many tries of the run may each have logged a
    step."""

    metric: str
    points: Sequence[Logged]
    tries: int

    def better_than(self, value: float | None, goal: Goal) -> float | None:
        """The best of the values where it is better than *value*."""
        numbers = [each.value for each in self.points if math.isfinite(each.value)]
        best = min(numbers, default=None) if goal == "minimize" else max(numbers, default=None)
        if best is None or value is None:
            return None
        return best if (best < value if goal == "minimize" else best > value) else None


def logged_values(metrics: Sequence[Metric], name: str, run: Run, tries: int = 1) -> LoggedValues:
    """Those of the metric called *name*, of the run itself before runs nested in it.

    A metric `epoch` logged beside it says which epoch a step belongs to, as Lightning's loggers log it; where steps
    tell nothing apart, the first value belongs to the first epoch logged, and so on. Raises NotFound naming the metrics
    there are, BadUsage where values cannot be told apart.
    """
    own_first = sorted(metrics, key=lambda metric: metric.run != run.id)
    found = next((metric for metric in own_first if metric.name == name), None) or next(
        (one for one in own_first if same_metric(one.name, name)), None
    )
    if found is None:
        known = sorted({metric.name for metric in metrics})
        more = ", …" if len(known) > SHOWN else ""
        hint = (
            f"It logged: {', '.join(near_matches(name, known) or known[:SHOWN])}{more}."
            if known
            else "It logged no metric at all."
        )
        raise NotFound(
            f"No checkpoint of run '{run.id}' has '{name}' in its name, and the run did not log it.", hint=hint
        )
    epochs = next((metric for metric in own_first if metric.name == EPOCH and metric.run == found.run), None)
    return LoggedValues(name, _points(found, epochs, tries), tries)


def too_often(values: Sequence[float], tries: int) -> bool:
    """Whether *values* of one step are more than so many tries log, each one; what is logged again as it was does not
    count."""
    return len({repr(value) for value in values}) > tries


def cannot_tell(metric: str, times: int, step: int | None) -> BadUsage:
    said = f"'{metric}' was logged {times} times at step {step}: nothing tells which value belongs to which checkpoint."
    return BadUsage(
        said,
        hint="Log it with step=, or a metric 'epoch' beside it each time. Name the checkpoint that you want as "
        "RUN:PATH.",
    )


def _points(found: Metric, epochs: Metric | None, tries: int) -> list[Logged]:
    if epochs is None:
        _check(found, tries)
        return [Logged(point.value, point.step, None) for point in found.points]
    if len(epochs.points) == len(found.points) and any(_is_without_steps(one, tries) for one in (found, epochs)):
        pairs = zip(found.points, epochs.points, strict=True)
        return [Logged(point.value, None, int(epoch.value)) for point, epoch in pairs if math.isfinite(epoch.value)]
    _check(found, tries)
    _check(epochs, tries)
    steps = sorted(_by_step(epochs.points).items())
    return [Logged(point.value, point.step, _epoch_at(steps, point.step)) for point in found.points]


def _by_step(epochs: Sequence[MetricPoint]) -> dict[int, int]:
    return {point.step: int(point.value) for point in epochs if math.isfinite(point.value)}


def _epoch_at(steps: Sequence[tuple[int, int]], step: int) -> int | None:
    """The epoch of the last of *steps* (with their epochs) that is not after *step*; the first one for a step before
    them all."""
    return steps[max(0, bisect_right(steps, (step, math.inf)) - 1)][1] if steps else None


def _is_without_steps(metric: Metric, tries: int) -> bool:
    return len({point.step for point in metric.points}) == 1 and too_often(
        [point.value for point in metric.points], tries
    )


def _check(metric: Metric, tries: int) -> None:
    if _is_without_steps(metric, tries):
        raise cannot_tell(metric.name, len(metric.points), metric.points[0].step)
