"""Which of a run's checkpoints is meant: the last, that of an epoch, or the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from himl_cli.core.checkpoints import FROM_RUN, PUSHED, Choice, Goal
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.runs import Metric, Run
from himl_cli.services.checkpoints.candidates import Candidate, have_one_content, is_recovery, newest_of_each_name, newest_try, without_exports
from himl_cli.services.checkpoints.names import FOLDER, LAST
from himl_cli.services.checkpoints.refusals import ambiguous, nothing
from himl_cli.workspaces.base import BlobStore

ENDING = LAST[LAST.index(".") :]
GOALS = ("minimize", "maximize")


@dataclass(frozen=True)
class Chosen:
    """`why` is a sentence where it is not as one would expect; `value` that of `metric` where the choice was made by one."""

    candidate: Candidate
    why: str = ""
    metric: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Offer:
    """A run, its checkpoints, the names of files it has in `outputs/`, and its metrics for the asking."""

    run: Run
    files: BlobStore
    found: Sequence[Candidate]
    names: Iterable[str]
    metrics: Callable[[], Sequence[Metric]]


def choice_of(select: str | None = None, metric: str | None = None, goal: str | None = None) -> Choice:
    """What `last`, `best` or `epoch=N` means together with a metric and a goal, either of which asks for the best. Raises BadUsage."""
    if goal is not None and goal not in GOALS:
        raise BadUsage(f"There is no goal '{goal}'.", hint="Goals are minimize and maximize.")
    if metric is not None and not metric.strip():
        raise BadUsage("--metric got an empty value.", hint="Is a shell variable unset?")
    by_value = metric is not None or goal is not None
    kind, equals, number = ("best" if by_value else "last", "", "") if select is None else select.strip().partition("=")
    if kind == "epoch" and equals and number.strip().isdecimal():
        if by_value:
            raise BadUsage("--metric and --goal choose the best checkpoint, and an epoch is named.", hint="Leave one of them out.")
        return Choice("epoch", int(number))
    if kind not in ("last", "best") or equals:
        raise BadUsage(f"There is no checkpoint to select by '{select}'.", hint="Give last, best, or epoch=N (as in the file's name; Lightning counts from 0).")
    if kind == "last" and by_value:
        raise BadUsage("--metric and --goal choose the best checkpoint, and the last is asked for.", hint="Leave out --select last.")
    return Choice(cast("Literal['last', 'best']", kind), metric=metric and metric.strip(), goal=cast("Goal | None", goal))


def choose(offer: Offer, choice: Choice) -> Chosen:
    """The checkpoint of *offer* that *choice* means. Raises NotFound where none fits, BadUsage where several do and cannot be told apart."""
    if choice.kind == "last":
        return _last(offer)
    if choice.kind == "epoch":
        return _of_epoch(offer, choice.epoch or 0)
    from himl_cli.services.checkpoints.best import best_of_offer

    return best_of_offer(offer, choice)


def choose_in_best_trial(offer: Offer, choice: Choice) -> Chosen:
    """As `choose`, of a sweep's best trial: where no name says which of its checkpoints is the best, the last one, and that is told."""
    try:
        return choose(offer, choice)
    except NotFound:
        if choice.kind != "best" or choice.metric is not None:
            raise
    last = _last(offer)
    told = "No name of its checkpoints says which is the best; its last one is taken."
    return replace(last, why=f"{told} {last.why}".strip())


def the_only(offer: Offer, found: Sequence[Candidate], what: str, hint: str = "") -> Candidate:
    """The one of *found*, or any of them where all have one content. Raises BadUsage naming them."""
    if len(found) > 1 and not have_one_content(found, offer.files):
        raise ambiguous(offer.run, f"{len(found)} checkpoints {what}", found, hint)
    return found[0]


def _last(offer: Offer) -> Chosen:
    order = {one: (one.rank, one.told.step or -1) for one in offer.found if one.rank is not None}
    ranked = sorted(order, key=lambda one: order[one], reverse=True)
    if not ranked:
        raise nothing(offer.run, f"no {FOLDER}/{LAST}", offer.names)

    def first(those: Sequence[Candidate], why: str = "") -> Chosen:
        alike = [one for one in those if order[one] == order[those[0]]]
        usual = [one for one in alike if one.name.endswith(ENDING)] or alike
        return Chosen(the_only(offer, usual, "that may be the last"), why)

    of_newest_try = newest_try(ranked)
    lasts = [one for one in ranked if not is_recovery(one)]
    if not lasts:
        return first(of_newest_try, f"Run '{offer.run.id}' has no {LAST}; its recovery checkpoint is taken.")
    if of_newest_try[0].attempt > lasts[0].attempt:
        return first(of_newest_try, f"The newest try of run '{offer.run.id}' has no {LAST}; its recovery checkpoint is taken.")
    later = [one for one in ranked if is_recovery(one) and _is_later(one, lasts[0])] if _may_be_brought(offer.run, lasts[0]) else []
    if later:
        return first(newest_try(later), f"Run '{offer.run.id}' began with its {LAST} and wrote recovery checkpoints later; that of the highest epoch is taken.")
    return first(lasts)


def _may_be_brought(run: Run, last: Candidate) -> bool:
    """Whether *last* may be what the run began with, and not what it reached."""
    return PUSHED not in run.tags and (FROM_RUN in run.tags or (last.modified is not None and last.modified < run.created))


def _is_later(one: Candidate, other: Candidate) -> bool:
    return one.modified is not None and other.modified is not None and one.modified > other.modified


def _of_epoch(offer: Offer, epoch: int) -> Chosen:
    fitting = [one for one in without_exports(offer.found) if one.told.epoch == epoch]
    if not fitting:
        known = sorted({one.told.epoch for one in offer.found if one.told.epoch is not None})
        hint = f"Epochs in names: {_numbers(known)}." if known else ""
        raise nothing(offer.run, f"no checkpoint whose name says epoch {epoch}", offer.names, hint)
    return Chosen(the_only(offer, newest_of_each_name(newest_try(fitting)), f"of epoch {epoch}"))


def _numbers(numbers: Sequence[int], most: int = 8) -> str:
    return ", ".join(map(str, numbers if len(numbers) <= most else [*numbers[: most // 2], "…", *numbers[-most // 2 :]]))
