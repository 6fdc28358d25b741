"""What no workspace can run, and what Azure ML would refuse, said before it is asked."""

from __future__ import annotations

from collections.abc import Iterable

from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import Draw, SearchRange, SweepSpec
from himl_cli.services.sweeps.spaces import checked_range
from himl_cli.services.sweeps.stops import SAMPLINGS, checked_stop

GOALS = ("minimize", "maximize")
MOST_TRIALS_ON_AZURE = 1000
MOST_TRIALS_HERE = 100_000
BAYESIAN_ON_AZURE = (Draw.choice, Draw.uniform, Draw.quniform)
UNBOUNDED = (Draw.normal, Draw.lognormal, Draw.qnormal, Draw.qlognormal)


def check_sweep(spec: SweepSpec, *, on_cluster: bool) -> None:
    """Raises BadUsage where *spec* cannot be run: here, or with *on_cluster* on Azure ML."""
    if not spec.space:
        raise BadUsage("The search space is empty.", hint="Give at least one --sweep NAME=SPEC")
    for name, found in spec.space.items():
        checked_range(found, f"--sweep {name}")
    if spec.sampling not in SAMPLINGS:
        raise BadUsage(f"--sampling {spec.sampling}: there is no such sampling.", hint=f"There are: {', '.join(SAMPLINGS)}.")
    if spec.goal not in GOALS:
        raise BadUsage(f"--goal cannot be '{spec.goal}'.", hint=f"It is one of: {', '.join(GOALS)}.")
    if not spec.primary_metric.strip():
        raise BadUsage("--primary_metric is empty.", hint="Name the metric that the script logs: --primary_metric val/loss")
    _check_numbers(spec)
    if spec.early_stop is not None:
        checked_stop(spec.early_stop)
    _check_sampling(spec, on_cluster=on_cluster)
    if on_cluster:
        _check_for_azure(spec)
    elif spec.max_trials > MOST_TRIALS_HERE:
        raise BadUsage(f"These are {spec.max_trials:,} trials; here {MOST_TRIALS_HERE:,} are the most.", hint="Give --max_trials N.")


def points_of(space: Iterable[SearchRange]) -> int:
    """How many combinations there are of values that are all listed."""
    count = 1
    for found in space:
        count *= len(found.values)
    return count


def _check_numbers(spec: SweepSpec) -> None:
    if spec.max_trials < 1:
        raise BadUsage(f"--max_trials {spec.max_trials}: at least 1 is needed.")
    if spec.max_concurrent is not None and spec.max_concurrent < 1:
        raise BadUsage(f"--max_concurrent {spec.max_concurrent}: at least 1 is needed.")


def _check_sampling(spec: SweepSpec, *, on_cluster: bool) -> None:
    drawn = {name: found.draw for name, found in spec.space.items() if found.draw is not Draw.choice}
    if spec.sampling == "grid" and drawn:
        name, draw = next(iter(drawn.items()))
        raise BadUsage(f"--sampling grid: '{name}' is drawn from {draw.value}, which has no grid.", hint="Give a list of values, or --sampling random")
    if spec.sampling != "bayesian":
        return
    if spec.early_stop is not None:
        raise BadUsage("--sampling bayesian and --early_stop exclude each other: it learns from trials that ran to their end.", hint="Leave one of them out.")
    refused = {name: draw for name, draw in drawn.items() if draw in UNBOUNDED or (on_cluster and draw not in BAYESIAN_ON_AZURE)}
    for name, draw in refused.items():
        known = ", ".join(each.value for each in (BAYESIAN_ON_AZURE if on_cluster else [each for each in Draw if each not in UNBOUNDED]))
        there = " on Azure ML" if on_cluster and draw not in UNBOUNDED else ""
        raise BadUsage(f"--sampling bayesian{there} cannot draw '{name}' from {draw.value}.", hint=f"It takes {known}; or use --sampling random")


def _check_for_azure(spec: SweepSpec) -> None:
    if spec.max_trials > MOST_TRIALS_ON_AZURE:
        raise BadUsage(f"These are {spec.max_trials:,} trials; Azure ML takes {MOST_TRIALS_ON_AZURE:,}.", hint=f"Give --max_trials {MOST_TRIALS_ON_AZURE}.")
