"""Which logged value belongs to which checkpoint, by the epochs and steps in names: one way of counting for all of a
run's checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from himl_cli.services.checkpoints.candidates import Candidate
from himl_cli.services.checkpoints.logged import Logged, LoggedValues, cannot_tell, too_often

Found = dict[Candidate, Sequence[Logged]]
"""The points of the one step that each checkpoint belongs to: several where tries logged it again."""


@dataclass(frozen=True)
class Matched:
    """The value of each checkpoint that has one; `told` is a sentence about the counting where there was more than one
    way."""

    values: Sequence[tuple[Candidate, float]]
    told: str = ""


def match(logged: LoggedValues, checkpoints: Sequence[Candidate]) -> Matched:
    """The values of *checkpoints*: at the step in a name, else at its epoch.

    Lightning's step N is that after the values of N-1 were logged: so N-1 counts where all names have a value there,
    else N. Where no metric `epoch` was logged, steps may be epochs: that counts if it fits more of the names that have
    a step, too. Raises BadUsage where values of one step cannot be told apart.
    """
    has_epochs = any(point.epoch is not None for point in logged.points)
    before, at = (_at_step(logged, checkpoints, offset, has_epochs) for offset in (1, 0))
    stepped = [one for one in checkpoints if one.told.step is not None]
    is_before = len(before) == len(stepped) or len(before) > len(at)
    by_step = before if is_before else at
    by_epoch = _at_epoch(logged, checkpoints, has_epochs)
    of_both = [one for one in by_epoch if one.told.step is not None]
    steps_fit = bool(by_step) and len(by_step) >= len(of_both)
    taken = {**by_epoch, **by_step} if has_epochs else by_step if steps_fit else by_epoch
    told = ""
    if by_step and (has_epochs or steps_fit) and (before.keys() & at.keys() or (of_both and not has_epochs)):
        which = "the step before the one in a name, as Lightning counts" if is_before else "the step in a name"
        told = f"{logged.metric} is that of {which}{', not of its epoch' if of_both and not has_epochs else ''}."
    return Matched([(one, _newest(logged, points)) for one, points in taken.items()], told)


def _newest(logged: LoggedValues, points: Sequence[Logged]) -> float:
    if points[-1].step is not None and too_often([point.value for point in points], logged.tries):
        raise cannot_tell(logged.metric, len(points), points[-1].step)
    return points[-1].value


def _at_step(logged: LoggedValues, checkpoints: Sequence[Candidate], offset: int, has_epochs: bool) -> Found:
    """By the steps in names, less *offset*; a name's epoch has to agree where epochs are known."""
    found: Found = {}
    points = _by_step(logged.points)
    for one in checkpoints:
        if one.told.step is None:
            continue
        fitting = [
            each
            for each in points.get(one.told.step - offset, ())
            if not has_epochs or one.told.epoch in (None, each.epoch)
        ]
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
        points = by_epoch.get(one.told.epoch) if one.told.epoch is not None else None
        if points:
            found[one] = [each for each in points if each.step == points[-1].step]
    return found


def _by_step(points: Sequence[Logged]) -> Mapping[int, Sequence[Logged]]:
    by_step: dict[int, list[Logged]] = defaultdict(list)
    for point in points:
        if point.step is not None:
            by_step[point.step].append(point)
    return by_step
