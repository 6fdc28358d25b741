"""The best checkpoint: by the values in the names of files, or by what the run logged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from himl_cli.core.checkpoints import Choice, Goal
from himl_cli.services.checkpoints.candidates import Candidate, newest_of_each_name
from himl_cli.services.checkpoints.choosing import Chosen, Offer, the_only
from himl_cli.services.checkpoints.goals import goal_of
from himl_cli.services.checkpoints.logged import logged_values
from himl_cli.services.checkpoints.refusals import ambiguous, nothing
from himl_cli.services.checkpoints.telling import same_metric

Valued = tuple[Candidate, float]


def best_of_offer(offer: Offer, choice: Choice) -> Chosen:
    """By the metric of *choice*, in names if any has it, else as the run logged it; without one, by the only metric that names have. As `choose`."""
    named = newest_of_each_name(one for one in offer.found if one.told.metrics or one.told.best_of is not None)
    if choice.metric is not None:
        return _best_by(offer, named, choice.metric, choice.goal) or _best_logged(offer, choice.metric, choice.goal)
    metrics = _metrics_in(named)
    if len(metrics) > 1:
        with_values = [one for one in named if one.told.metrics]
        told = f"checkpoints with {len(metrics)} metrics in their names: {', '.join(metrics)}"
        raise ambiguous(offer.run, told, with_values, f"Add --metric {metrics[0]}, say.")
    declared = _newest_try(one for one in named if one.told.best_of is not None)
    if not metrics and not declared:
        raise nothing(offer.run, "no checkpoint whose name says that it is the best", offer.names, "Add --metric NAME to choose by what the run logged.")
    best = _best_in_names(offer, named, metrics[0], choice.goal) if metrics else None
    if not declared:
        assert best is not None
        return best
    only = the_only(offer, [*declared, *([best.candidate] if best else [])], "that are the best by their names", "Add --metric NAME.")
    return best or Chosen(only, metric=only.told.best_of or "")


def _best_by(offer: Offer, named: Sequence[Candidate], metric: str, goal: Goal | None) -> Chosen | None:
    """None where no name has *metric*."""
    if any(same_metric(known, metric) for known in _metrics_in(named)):
        return _best_in_names(offer, named, metric, goal)
    declared = _newest_try(one for one in named if one.told.best_of and same_metric(one.told.best_of, metric))
    return Chosen(the_only(offer, declared, f"that are the best by {metric} by their names"), metric=metric) if declared else None


def _best_in_names(offer: Offer, named: Iterable[Candidate], metric: str, goal: Goal | None) -> Chosen:
    values = [(one, value) for one in named for name, value in (one.told.metrics or {}).items() if same_metric(name, metric)]
    return _best_of(offer, values, metric, goal_of(metric, goal))


def _best_logged(offer: Offer, metric: str, goal: Goal | None) -> Chosen:
    known = goal_of(metric, goal)  # before the service is asked for the metrics
    values = logged_values(offer.metrics(), metric, offer.run)
    counted = newest_of_each_name(one for one in offer.found if one.told.epoch is not None or one.told.step is not None)
    valued = [(one, value) for one in counted if (value := values.of(one.told.epoch, one.told.step)) is not None]
    if not valued:
        raise nothing(offer.run, f"no checkpoint whose name has an epoch or step that '{metric}' was logged for", offer.names)
    chosen = _best_of(offer, valued, metric, known)
    better = values.better_than(chosen.value, known)
    return chosen if better is None else Chosen(chosen.candidate, f"{metric} was better, {better:g}, where no checkpoint was kept.", metric, chosen.value)


def _best_of(offer: Offer, values: Sequence[Valued], metric: str, goal: Goal) -> Chosen:
    numbers = [value for _, value in values if not math.isnan(value)]
    if not numbers:
        raise nothing(offer.run, f"no checkpoint for which {metric} is a number", offer.names)
    best = min(numbers) if goal == "minimize" else max(numbers)
    winners = [one for one, value in values if value == best]
    if len({(one.told.epoch, one.told.step) for one in winners}) == 1:
        winners = _newest_try(winners)
    return Chosen(the_only(offer, winners, f"with the best {metric}, {best:g}"), metric=metric, value=best)


def _newest_try(found: Iterable[Candidate]) -> list[Candidate]:
    there = list(found)
    newest = max((one.attempt for one in there), default=0)
    return [one for one in there if one.attempt == newest]


def _metrics_in(named: Iterable[Candidate]) -> list[str]:
    """The metrics that names have, each as it is first spelled, in the order of the names."""
    known: list[str] = []
    for one in sorted(named, key=lambda one: one.name):
        known += [name for name in one.told.metrics or {} if not any(same_metric(name, other) for other in known)]
    return known
