"""The best checkpoint: by the values in the names of files, or by what the run logged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from himl_cli.core.checkpoints import Choice, Goal
from himl_cli.services.checkpoints.candidates import (
    Candidate,
    have_md5s,
    have_one_size,
    newest_of_each_name,
    newest_try,
    without_exports,
)
from himl_cli.services.checkpoints.goals import goal_of
from himl_cli.services.checkpoints.logged import logged_values
from himl_cli.services.checkpoints.matching import match
from himl_cli.services.checkpoints.offers import Chosen, Offer, the_only
from himl_cli.services.checkpoints.refusals import ambiguous, nothing
from himl_cli.services.checkpoints.telling import ends_with_metric, same_metric

Valued = tuple[Candidate, float]


def best_of_offer(offer: Offer, choice: Choice) -> Chosen:
    """By the metric of *choice*, in names if any has it, else as the run logged it; without one, by the only metric
    that names have. As `choose`."""
    usable = without_exports(offer.found)
    named = newest_of_each_name(one for one in usable if one.told.metrics or one.told.best_of is not None)
    if choice.metric is not None:
        return _best_by(offer, named, choice.metric, choice.goal) or _best_logged(
            offer, usable, choice.metric, choice.goal
        )
    metrics = _metrics_in(named)
    if len(metrics) > 1:
        with_values = [one for one in named if one.told.metrics]
        told = f"checkpoints with {len(metrics)} metrics in their names: {', '.join(metrics)}"
        raise ambiguous(offer.run, told, with_values, f"Add --metric {metrics[0]}, say.")
    declared = _declared(named)
    if not metrics and not declared:
        raise nothing(
            offer.run,
            "no checkpoint whose name says that it is the best",
            offer.names,
            "Add --metric NAME to choose by what the run logged.",
        )
    if not metrics:
        only = the_only(offer, declared, "that are the best by their names", "Add --metric NAME.")
        return Chosen(only, metric=only.told.best_of or "")
    best = _best_in_names(offer, named, metrics, metrics[0], choice.goal)
    return _beside_declared(offer, best, declared)


def _beside_declared(offer: Offer, best: Chosen, declared: Sequence[Candidate]) -> Chosen:
    """*best* by its value, where those *declared* the best (`best.ckpt`) are the same, or may be as far as anybody can
    see. Raises BadUsage."""
    both = [*declared, best.candidate]
    if declared and have_one_size(both) and not have_md5s(both, offer.files):
        other = declared[0].name.rpartition("/")[2]
        told = (
            f"It is chosen by the {best.metric} in its name; no MD5 is on record to tell whether '{other}' is the same."
        )
        return replace(best, why=f"{best.why} {told}".strip())
    the_only(offer, both, "that are the best by their names", f"Add --metric {best.metric}.")
    return best


def _best_by(offer: Offer, named: Sequence[Candidate], metric: str, goal: Goal | None) -> Chosen | None:
    """None where no name has *metric*, nor one that ends with it as `resnet-val_loss` does with `val_loss`."""
    known = _metrics_in(named)
    if any(same_metric(each, metric) for each in known):
        return _best_in_names(offer, named, [metric], metric, goal)
    declared = [one for one in _declared(named) if one.told.best_of and same_metric(one.told.best_of, metric)]
    if declared:
        return Chosen(the_only(offer, declared, f"that are the best by {metric} by their names"), metric=metric)
    fitting = [each for each in known if ends_with_metric(each, metric)]
    if len(fitting) > 1:
        having = [one for one in named if any(each in fitting for each in one.told.metrics or {})]
        raise ambiguous(
            offer.run,
            f"{len(fitting)} metrics that may be '{metric}': {', '.join(fitting)}",
            having,
            f"Add --metric {fitting[0]}, say.",
        )
    if not fitting:
        return None
    best = _best_in_names(offer, named, fitting, metric, goal)
    return replace(best, why=f"'{fitting[0]}' in names is taken for {metric}.")


def _best_in_names(
    offer: Offer, named: Iterable[Candidate], labels: Sequence[str], metric: str, goal: Goal | None
) -> Chosen:
    """By the values that stand behind any of *labels*."""
    pairs = ((one, name, value) for one in named for name, value in (one.told.metrics or {}).items())
    values = [(one, value) for one, name, value in pairs if any(same_metric(name, label) for label in labels)]
    return _best_of(offer, values, metric, goal_of(metric, goal))


def _best_logged(offer: Offer, usable: Sequence[Candidate], metric: str, goal: Goal | None) -> Chosen:
    known = goal_of(metric, goal)  # before the service is asked for the metrics
    tries = 1 + max((one.attempt for one in offer.found), default=0)
    logged = logged_values(offer.metrics(), metric, offer.run, tries)
    counted = newest_of_each_name(one for one in usable if one.told.epoch is not None or one.told.step is not None)
    matched = match(logged, counted)
    if not matched.values:
        raise nothing(
            offer.run, f"no checkpoint whose name has an epoch or step that '{metric}' was logged for", offer.names
        )
    chosen = _best_of(offer, matched.values, metric, known)
    better = logged.better_than(chosen.value, known)
    missed = f"{metric} was better, {better:g}, where no checkpoint was kept." if better is not None else ""
    return replace(chosen, why=" ".join(filter(None, (matched.told, missed))))


def _best_of(offer: Offer, values: Sequence[Valued], metric: str, goal: Goal) -> Chosen:
    """Infinite values count only where there are no others."""
    numbers = [value for _, value in values if not math.isnan(value)]
    numbers = [value for value in numbers if math.isfinite(value)] or numbers
    if not numbers:
        raise nothing(offer.run, f"no checkpoint for which {metric} is a number", offer.names)
    best = min(numbers) if goal == "minimize" else max(numbers)
    winners = [one for one, value in values if value == best]
    if len({(one.told.epoch, one.told.step) for one in winners}) == 1:
        winners = newest_try(winners)
    return Chosen(the_only(offer, winners, f"with the best {metric}, {best:g}"), metric=metric, value=best)


def _declared(named: Iterable[Candidate]) -> list[Candidate]:
    """Those that are called the best, of each metric the newest try's."""
    of_metric: dict[str, list[Candidate]] = {}
    for one in named:
        if one.told.best_of is not None:
            key = next((known for known in of_metric if same_metric(known, one.told.best_of)), one.told.best_of)
            of_metric.setdefault(key, []).append(one)
    return [one for those in of_metric.values() for one in newest_try(those)]


def _metrics_in(named: Iterable[Candidate]) -> list[str]:
    """The metrics that names have, each as it is first spelled, in the order of the names."""
    known: list[str] = []
    for one in sorted(named, key=lambda one: one.name):
        known += [name for name in one.told.metrics or {} if not any(same_metric(name, other) for other in known)]
    return known
