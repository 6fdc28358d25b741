"""Which of a run's checkpoints is meant: the last, that of an epoch, or the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

from himl_cli.core.checkpoints import Choice, Goal
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.sweeps import GOALS
from himl_cli.core.text import non_blank
from himl_cli.services.checkpoints.best import best_of_offer
from himl_cli.services.checkpoints.candidates import newest_of_each_name, newest_try, without_exports
from himl_cli.services.checkpoints.last import last_of_offer
from himl_cli.services.checkpoints.offers import Chosen, Offer, the_only
from himl_cli.services.checkpoints.refusals import nothing


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
    return Choice(
        cast("Literal['last', 'best']", kind), metric=metric and metric.strip(), goal=cast("Goal | None", goal)
    )


def choose(offer: Offer, choice: Choice) -> Chosen:
    """The checkpoint of *offer* that *choice* means. Raises NotFound where none fits, BadUsage where several do and
    cannot be told apart."""
    if choice.kind == "last":
        return last_of_offer(offer)
    if choice.kind == "epoch":
        return _of_epoch(offer, choice.epoch or 0)
    return best_of_offer(offer, choice)


def choose_in_best_trial(offer: Offer, choice: Choice) -> Chosen:
    """As `choose`, of a sweep's best trial: where no name says which of its checkpoints is the best, the last one, and
    that is told."""
    try:
        return choose(offer, choice)
    except NotFound:
        if choice.kind != "best" or choice.metric is not None:
            raise
    last = last_of_offer(offer)
    told = "No name of its checkpoints says which is the best; its last one is taken."
    return replace(last, why=f"{told} {last.why}".strip())


def _of_epoch(offer: Offer, epoch: int) -> Chosen:
    fitting = [one for one in without_exports(offer.found) if one.told.epoch == epoch]
    if not fitting:
        known = sorted({one.told.epoch for one in offer.found if one.told.epoch is not None})
        hint = f"Epochs in names: {_numbers(known)}." if known else ""
        raise nothing(offer.run, f"no checkpoint whose name says epoch {epoch}", offer.names, hint)
    return Chosen(the_only(offer, newest_of_each_name(newest_try(fitting)), f"of epoch {epoch}"))


def _numbers(numbers: Sequence[int], most: int = 8) -> str:
    return ", ".join(
        map(str, numbers if len(numbers) <= most else [*numbers[: most // 2], "…", *numbers[-most // 2 :]])
    )
