"""Which of a run's checkpoints is meant: the last, that of an epoch, or the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from himl_cli.core.checkpoints import FROM_RUN, PUSHED, Choice, Goal
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.sweeps import GOALS
from himl_cli.core.text import non_blank
from himl_cli.services.checkpoints.candidates import (
    Candidate,
    Candidates,
    have_one_size,
    newest_attempt,
    newest_of_each_name,
)
from himl_cli.services.checkpoints.logged_metrics import logged_values, match_values
from himl_cli.services.checkpoints.names import FOLDER, LAST, ends_with_metric, goal_of, same_metric

MOST_EPOCHS = 8
ENDING = LAST[LAST.index(".") :]


@dataclass(frozen=True)
class Selection:
    """`why` is a sentence where it is not as one would expect; `value` that of `metric` where the choice was made by
    one."""

    candidate: Candidate
    why: str = ""
    metric: str = ""
    value: float | None = None


def choice_of(select: str | None = None, metric: str | None = None, goal: str | None = None) -> Choice:
    """What `last`, `best` or `epoch=N` means together with a metric and a goal, either of which asks for the best.
    Raises BadUsage."""
    if goal is not None and goal not in GOALS:
        raise BadUsage(f"There is no goal '{goal}'.", hint="Goals are minimize and maximize.")
    non_blank("--metric", metric)
    by_value = metric is not None or goal is not None
    kind, equals, number = ("best" if by_value else "last", "", "") if select is None else select.strip().partition("=")
    if kind == "epoch" and equals and number.strip().isdecimal():
        if by_value:
            raise BadUsage(
                "--metric and --goal choose the best checkpoint, and an epoch is named.", hint="Leave one of them out."
            )
        return Choice("epoch", int(number))
    if kind not in ("last", "best") or equals:
        raise BadUsage(
            f"There is no checkpoint to select by '{select}'.",
            hint="Give last, best, or epoch=N (as in the file's name; Lightning counts from 0).",
        )
    if kind == "last" and by_value:
        raise BadUsage(
            "--metric and --goal choose the best checkpoint, and the last is asked for.",
            hint="Leave out --select last.",
        )
    best_or_last = cast("Literal['last', 'best']", kind)
    return Choice(best_or_last, metric=metric and metric.strip(), goal=cast("Goal | None", goal))


def choose(candidates: Candidates, choice: Choice, *, of_best_trial: bool = False) -> Selection:
    """The checkpoint that *choice* means; of a sweep's best trial, where no name says which one is the best, the last.

    Raises NotFound where none fits, BadUsage where several do and cannot be told apart.
    """
    if choice.kind == "last":
        return _last(candidates)
    if choice.kind == "epoch":
        fitting = [one for one in candidates.usable if one.parsed.epoch == choice.epoch]
        if not fitting:
            known = sorted({one.parsed.epoch for one in candidates.found if one.parsed.epoch is not None})
            half = MOST_EPOCHS // 2
            numbers = [*map(str, known)]
            shown = numbers if len(known) <= MOST_EPOCHS else [*numbers[:half], "…", *numbers[-half:]]
            hint = f"Epochs in names: {', '.join(shown)}." if known else ""
            raise candidates.nothing(f"no checkpoint whose name says epoch {choice.epoch}", hint)
        newest = newest_of_each_name(newest_attempt(fitting))
        return Selection(candidates.only(newest, f"of epoch {choice.epoch}"))
    try:
        return _best(candidates, choice)
    except NotFound:
        if not of_best_trial or choice.metric is not None:
            raise
    last = _last(candidates)
    text = "No name of its checkpoints says which is the best; its last one is taken."
    return replace(last, why=f"{text} {last.why}".strip())


def _last(candidates: Candidates) -> Selection:
    """The newest try's `last.ckpt` or recovery checkpoint: where the run can go on."""
    run = candidates.run
    order = {one: (one.rank, one.parsed.step or -1) for one in candidates.found if one.rank is not None}
    ranked = sorted(order, key=lambda one: order[one], reverse=True)
    if not ranked:
        raise candidates.nothing(f"no {FOLDER}/{LAST}")
    fitting, why = newest_attempt(ranked), ""
    lasts = [one for one in ranked if not one.is_recovery]
    if not lasts:
        why = f"Run '{run.id}' has no {LAST}; its recovery checkpoint is taken."
    elif fitting[0].attempt > lasts[0].attempt:
        why = f"The newest try of run '{run.id}' has no {LAST}; its recovery checkpoint is taken."
    else:
        fitting, last = lasts, lasts[0]
        is_old = last.modified is not None and last.modified < run.created
        if PUSHED not in run.tags and (FROM_RUN in run.tags or is_old):  # perhaps the run began with it
            recoveries = [one for one in ranked if one.is_recovery]
            later = [one for one in recoveries if one.modified and last.modified and one.modified > last.modified]
            if later:
                fitting = newest_attempt(later)
                why = f"Run '{run.id}' began with its {LAST} and wrote recovery checkpoints later; "
                why += "that of the highest epoch is taken."
    alike = [one for one in fitting if order[one] == order[fitting[0]]]
    usual = [one for one in alike if one.name.endswith(ENDING)] or alike
    return Selection(candidates.only(usual, "that may be the last"), why)


def _best(candidates: Candidates, choice: Choice) -> Selection:
    """By the metric of *choice*, in names if any has it, else as the run logged it; without one, by the only metric
    that names have."""
    usable = candidates.usable
    named = newest_of_each_name(one for one in usable if one.parsed.metrics or one.parsed.best_of is not None)
    if choice.metric is not None:
        by_name = _best_by_name(candidates, named, choice.metric, choice.goal)
        return by_name or _best_logged(candidates, usable, choice.metric, choice.goal)
    metrics = _metrics_in(named)
    if len(metrics) > 1:
        text = f"checkpoints with {len(metrics)} metrics in their names: {', '.join(metrics)}"
        with_values = [one for one in named if one.parsed.metrics]
        raise candidates.ambiguous(text, with_values, f"Add --metric {metrics[0]}, say.")
    declared, what = _declared(named), "that are the best by their names"
    if not metrics:
        if not declared:
            hint = "Add --metric NAME to choose by what the run logged."
            raise candidates.nothing("no checkpoint whose name says that it is the best", hint)
        only = candidates.only(declared, what, "Add --metric NAME.")
        return Selection(only, metric=only.parsed.best_of or "")
    best = _best_in_names(candidates, named, metrics, metrics[0], choice.goal)
    both = [*declared, best.candidate]
    if declared and have_one_size(both) and not candidates.have_md5s(both):  # `best.ckpt` may be the same
        same = f"no MD5 is on record to tell whether '{declared[0].name.rpartition('/')[2]}' is the same."
        return replace(best, why=f"{best.why} It is chosen by the {best.metric} in its name; {same}".strip())
    candidates.only(both, what, f"Add --metric {best.metric}.")
    return best


def _best_by_name(
    candidates: Candidates, named: Sequence[Candidate], metric: str, goal: Goal | None
) -> Selection | None:
    """None where no name has *metric*, nor one that ends with it as `resnet-val_loss` does with `val_loss`."""
    known = _metrics_in(named)
    if any(same_metric(each, metric) for each in known):
        return _best_in_names(candidates, named, [metric], metric, goal)
    declared = [one for one in _declared(named) if one.parsed.best_of and same_metric(one.parsed.best_of, metric)]
    if declared:
        return Selection(candidates.only(declared, f"that are the best by {metric} by their names"), metric=metric)
    fitting = [each for each in known if ends_with_metric(each, metric)]
    if len(fitting) > 1:
        having = [one for one in named if any(each in fitting for each in one.parsed.metrics or {})]
        text = f"{len(fitting)} metrics that may be '{metric}': {', '.join(fitting)}"
        raise candidates.ambiguous(text, having, f"Add --metric {fitting[0]}, say.")
    if not fitting:
        return None
    best = _best_in_names(candidates, named, fitting, metric, goal)
    return replace(best, why=f"'{fitting[0]}' in names is taken for {metric}.")


def _best_in_names(
    candidates: Candidates, named: Iterable[Candidate], labels: Sequence[str], metric: str, goal: Goal | None
) -> Selection:
    """By the values that stand behind any of *labels*."""
    pairs = ((one, name, value) for one in named for name, value in (one.parsed.metrics or {}).items())
    values = [(one, value) for one, name, value in pairs if any(same_metric(name, label) for label in labels)]
    return _best_of(candidates, values, metric, goal_of(metric, goal))


def _best_logged(candidates: Candidates, usable: Sequence[Candidate], metric: str, goal: Goal | None) -> Selection:
    known = goal_of(metric, goal)  # before the service is asked for the metrics
    attempts = 1 + max((one.attempt for one in candidates.found), default=0)
    logged = logged_values(candidates.metrics(), metric, candidates.run, attempts)
    counted = newest_of_each_name(one for one in usable if one.parsed.epoch is not None or one.parsed.step is not None)
    values, text = match_values(logged, counted)
    if not values:
        raise candidates.nothing(f"no checkpoint whose name has an epoch or step that '{metric}' was logged for")
    best = _best_of(candidates, values, metric, known)
    assert best.value is not None
    numbers = [best.value, *(point.value for point in logged.points if math.isfinite(point.value))]
    top = min(numbers) if known == "minimize" else max(numbers)
    missed = f"{metric} was better, {top:g}, where no checkpoint was kept." if top != best.value else ""
    return replace(best, why=" ".join(filter(None, (text, missed))))


def _best_of(candidates: Candidates, values: Sequence[tuple[Candidate, float]], metric: str, goal: Goal) -> Selection:
    """Infinite values count only where there are no others."""
    numbers = [value for _, value in values if not math.isnan(value)]
    numbers = [value for value in numbers if math.isfinite(value)] or numbers
    if not numbers:
        raise candidates.nothing(f"no checkpoint for which {metric} is a number")
    best = min(numbers) if goal == "minimize" else max(numbers)
    winners = [one for one, value in values if value == best]
    if len({(one.parsed.epoch, one.parsed.step) for one in winners}) == 1:
        winners = newest_attempt(winners)
    only = candidates.only(winners, f"with the best {metric}, {best:g}")
    return Selection(only, metric=metric, value=best)


def _declared(named: Iterable[Candidate]) -> list[Candidate]:
    """Those that are called the best, of each metric the newest try's."""
    of_metric: dict[str, list[Candidate]] = {}
    for one in named:
        name = one.parsed.best_of
        if name is not None:
            of_metric.setdefault(next((known for known in of_metric if same_metric(known, name)), name), []).append(one)
    return [one for alike in of_metric.values() for one in newest_attempt(alike)]


def _metrics_in(named: Iterable[Candidate]) -> list[str]:
    """The metrics that names have, each as it is first spelled, in the order of the names."""
    known: list[str] = []
    for one in sorted(named, key=lambda one: one.name):
        known += [name for name in one.parsed.metrics or {} if not any(same_metric(name, other) for other in known)]
    return known
