"""The options about many runs, and the sweep that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import HYPERPARAMETER_NAME, Draw, SearchRange, SweepSpec
from himl_cli.services.sweeps.checks import check_count, check_sweep, points_of
from himl_cli.services.sweeps.spaces import parse_space
from himl_cli.services.sweeps.stops import parse_early_stop, parse_sampling

SPLIT, COUNT, SEED = "crossval_index", "crossval_count", "random_seed"
"""The usual names of the arguments: hi-ml's."""


@dataclass(frozen=True)
class SweepRequest:
    """The options as typed. Of `sweep`, `crossval` and `different_seeds` one at most is set, else the job is a single
    run."""

    sweep: Sequence[str] = ()
    sampling: str | None = None
    max_trials: int | None = None
    max_concurrent: int | None = None
    primary_metric: str = "val/loss"
    goal: str = "minimize"
    early_stop: str | None = None
    crossval: int | None = None
    crossval_arg: str = SPLIT
    different_seeds: int | None = None
    seed_arg: str = SEED


def sweep_of(asked: SweepRequest, *, on_cluster: bool) -> SweepSpec:
    """The sweep that is meant, one of the three kinds being set. Raises BadUsage for what cannot be run where it would
    run."""
    early_stop = parse_early_stop(asked.early_stop) if asked.early_stop else None
    kind, space, sampling, seed, trials = _trials(asked, on_cluster=on_cluster)
    spec = SweepSpec(
        space=space,
        sampling=sampling,
        max_trials=trials,
        max_concurrent=asked.max_concurrent
        if asked.max_concurrent is None
        else min(asked.max_concurrent, max(trials, 1)),
        primary_metric=asked.primary_metric,
        goal=asked.goal,
        early_stop=early_stop,
        seed=seed,
        kind=kind,
    )
    check_sweep(spec, on_cluster=on_cluster)
    return spec


def _trials(asked: SweepRequest, *, on_cluster: bool) -> tuple[str, dict[str, SearchRange], str, int | None, int]:
    """The kind, the space, the sampling with its seed, and the number of trials."""
    if asked.crossval is not None:
        check_count(
            asked.crossval, on_cluster=on_cluster, hint="Give --crossval {} at most."
        )  # before that many values are made
        return (
            "crossval",
            _numbered("--crossval", asked.crossval, 2, "--crossval_arg", asked.crossval_arg),
            "grid",
            None,
            asked.crossval,
        )
    if asked.different_seeds is not None:
        check_count(asked.different_seeds, on_cluster=on_cluster, hint="Give --different_seeds {} at most.")
        return (
            "seeds",
            _numbered("--different_seeds", asked.different_seeds, 1, "--seed_arg", asked.seed_arg),
            "grid",
            None,
            asked.different_seeds,
        )
    space = parse_space(asked.sweep)
    is_listed = all(found.draw is Draw.choice for found in space.values())
    sampling, seed = parse_sampling(asked.sampling) if asked.sampling else ("grid" if is_listed else "random", None)
    if sampling == "grid" and is_listed:
        points = points_of(space.values())
        return "sweep", space, sampling, seed, points if asked.max_trials is None else min(points, asked.max_trials)
    if asked.max_trials is None and sampling != "grid":
        raise BadUsage(f"A {sampling} search needs the number of its trials.", hint="Add --max_trials N")
    return "sweep", space, sampling, seed, 1 if asked.max_trials is None else asked.max_trials


def _numbered(option: str, count: int, least: int, argument_option: str, argument: str) -> dict[str, SearchRange]:
    """The numbers 0 to count - 1 as values of one argument."""
    if count < least:
        raise BadUsage(f"{option} {count}: at least {least} {'is' if least == 1 else 'are'} needed.")
    return {argument_name(argument_option, argument): SearchRange(Draw.choice, tuple(range(count)))}


def argument_name(option: str, argument: str) -> str:
    """*argument* without leading dashes. Raises BadUsage, naming *option*, for what can be no argument's name."""
    name = argument.strip().lstrip("-")
    if not HYPERPARAMETER_NAME.fullmatch(name):
        raise BadUsage(
            f"{option} '{argument}' cannot be an argument's name.", hint="Letters, digits, _, - and dots make one."
        )
    return name
