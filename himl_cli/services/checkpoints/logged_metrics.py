"""What a run logged of one metric, with its epochs, and which checkpoint each value belongs to."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.runs import Metric, Run
from himl_cli.core.text import near_matches
from himl_cli.services.checkpoints.candidates import Candidate
from himl_cli.services.checkpoints.names import same_metric

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
    """Those of `metric`, by step and in the order logged. `attempts` is how many tries may each have logged a
    step."""

    metric: str
    points: Sequence[Logged]
    attempts: int


def logged_values(metrics: Sequence[Metric], name: str, run: Run, attempts: int = 1) -> LoggedValues:
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
    return LoggedValues(name, _points(found, epochs, attempts), attempts)


def _is_too_often(values: Sequence[float], attempts: int) -> bool:
    """Whether *values* of one step are more than so many tries log, each one; what is logged again as it was does not
    count."""
    return len({repr(value) for value in values}) > attempts


def _ambiguous(metric: str, times: int, step: int | None) -> BadUsage:
    said = f"'{metric}' was logged {times} times at step {step}: nothing tells which value belongs to which checkpoint."
    return BadUsage(
        said,
        hint="Log it with step=, or a metric 'epoch' beside it each time. Name the checkpoint that you want as "
        "RUN:PATH.",
    )


def _points(found: Metric, epochs: Metric | None, attempts: int) -> list[Logged]:
    if epochs is None:
        _check(found, attempts)
        return [Logged(point.value, point.step, None) for point in found.points]
    if len(epochs.points) == len(found.points) and any(_is_without_steps(one, attempts) for one in (found, epochs)):
        pairs = zip(found.points, epochs.points, strict=True)
        return [Logged(point.value, None, int(epoch.value)) for point, epoch in pairs if math.isfinite(epoch.value)]
    _check(found, attempts)
    _check(epochs, attempts)
    steps = sorted({point.step: int(point.value) for point in epochs.points if math.isfinite(point.value)}.items())

    def epoch_at(step: int) -> int | None:
        """That of the last step that is not after *step*; the first one for a step before them all."""
        return steps[max(0, bisect_right(steps, (step, math.inf)) - 1)][1] if steps else None

    return [Logged(point.value, point.step, epoch_at(point.step)) for point in found.points]


def _is_without_steps(metric: Metric, attempts: int) -> bool:
    return len({point.step for point in metric.points}) == 1 and _is_too_often(
        [point.value for point in metric.points], attempts
    )


def _check(metric: Metric, attempts: int) -> None:
    if _is_without_steps(metric, attempts):
        raise _ambiguous(metric.name, len(metric.points), metric.points[0].step)


Found = dict[Candidate, Sequence[Logged]]
"""The points of the one step that each checkpoint belongs to: several where tries logged it again."""


def match_values(
    logged: LoggedValues, checkpoints: Sequence[Candidate]
) -> tuple[Sequence[tuple[Candidate, float]], str]:
    """The values of *checkpoints* that have one: at the step in a name, else at its epoch; and a sentence about the
    counting where there was more than one way.

    Lightning's step N is that after the values of N-1 were logged: so N-1 counts where all names have a value there,
    else N. Where no metric `epoch` was logged, steps may be epochs: that counts if it fits more of the names that have
    a step, too. Raises BadUsage where values of one step cannot be told apart.
    """
    has_epochs = any(point.epoch is not None for point in logged.points)
    before, at = (_at_step(logged, checkpoints, offset, has_epochs) for offset in (1, 0))
    stepped = [one for one in checkpoints if one.parsed.step is not None]
    is_before = len(before) == len(stepped) or len(before) > len(at)
    by_step = before if is_before else at
    by_epoch = _at_epoch(logged, checkpoints, has_epochs)
    of_both = [one for one in by_epoch if one.parsed.step is not None]
    steps_fit = bool(by_step) and len(by_step) >= len(of_both)
    matched = {**by_epoch, **by_step} if has_epochs else by_step if steps_fit else by_epoch
    text = ""
    if by_step and (has_epochs or steps_fit) and (before.keys() & at.keys() or (of_both and not has_epochs)):
        which = "the step before the one in a name, as Lightning counts" if is_before else "the step in a name"
        text = f"{logged.metric} is that of {which}{', not of its epoch' if of_both and not has_epochs else ''}."
    values: list[tuple[Candidate, float]] = []
    for one, points in matched.items():
        if points[-1].step is not None and _is_too_often([point.value for point in points], logged.attempts):
            raise _ambiguous(logged.metric, len(points), points[-1].step)
        values.append((one, points[-1].value))
    return values, text


def _at_step(logged: LoggedValues, checkpoints: Sequence[Candidate], offset: int, has_epochs: bool) -> Found:
    """By the steps in names, less *offset*; a name's epoch has to agree where epochs are known."""
    by_step: dict[int | None, list[Logged]] = defaultdict(list)
    for point in logged.points:
        by_step[point.step].append(point)
    found: Found = {}
    for one in checkpoints:
        parsed = one.parsed
        points = by_step.get(parsed.step - offset, []) if parsed.step is not None else []
        fitting = [point for point in points if not has_epochs or parsed.epoch in (None, point.epoch)]
        if fitting:
            found[one] = fitting
    return found


def _at_epoch(logged: LoggedValues, checkpoints: Sequence[Candidate], has_epochs: bool) -> Found:
    """By the epochs in names: the last step of each; without logged epochs, the step of that number."""
    by_epoch: dict[int | None, list[Logged]] = defaultdict(list)
    for point in logged.points:
        by_epoch[point.epoch if has_epochs else point.step].append(point)
    found: Found = {}
    for one in checkpoints:
        points = by_epoch.get(one.parsed.epoch) if one.parsed.epoch is not None else None
        if points:
            found[one] = [each for each in points if each.step == points[-1].step]
    return found
