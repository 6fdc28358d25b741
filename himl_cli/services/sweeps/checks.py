"""What no workspace can run, and what Azure ML would refuse, said before it is asked."""

from __future__ import annotations

from collections.abc import Iterable

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import MASK, mask_arguments
from himl_cli.core.sweeps import GOALS, REPEATED, Draw, SearchRange, SweepSpec, value_text
from himl_cli.services.sweeps.spaces import checked_range
from himl_cli.services.sweeps.stops import SAMPLINGS, checked_stop

MOST_TRIALS_ON_AZURE = 1000
MOST_AT_ONCE_ON_AZURE = 100
MOST_STEPS_ON_AZURE = 100_000
"""Of a Bayesian quniform."""
MOST_TRIALS_HERE = 100_000
BAYESIAN_ON_AZURE = (Draw.choice, Draw.uniform, Draw.quniform)
UNBOUNDED = (Draw.normal, Draw.lognormal, Draw.qnormal, Draw.qlognormal)


def check_sweep(spec: SweepSpec, *, on_cluster: bool) -> None:
    """Raises BadUsage where *spec* cannot be run: here, or with *on_cluster* on Azure ML."""
    if not spec.space:
        raise BadUsage("The search space is empty.", hint="Give at least one --sweep NAME=SPEC")
    check_count(spec.max_trials, on_cluster=on_cluster)
    for name, found in spec.space.items():
        checked_range(found, f"--sweep {name}")
        if spec.kind not in REPEATED:
            _check_no_secret(name, found)
    if spec.sampling not in SAMPLINGS:
        raise BadUsage(
            f"--sampling {spec.sampling}: there is no such sampling.", hint=f"There are: {', '.join(SAMPLINGS)}."
        )
    if spec.goal not in GOALS:
        raise BadUsage(f"--goal cannot be '{spec.goal}'.", hint=f"It is one of: {', '.join(GOALS)}.")
    if not spec.primary_metric.strip():
        raise BadUsage(
            "--primary_metric is empty.", hint="Name the metric that the script logs: --primary_metric val/loss"
        )
    _check_numbers(spec)
    if spec.early_stop is not None:
        checked_stop(spec.early_stop)
    _check_sampling(spec, on_cluster=on_cluster)
    if on_cluster:
        _check_for_azure(spec)


def _check_no_secret(name: str, found: SearchRange) -> None:
    """Values are told, logged and kept: what is masked elsewhere cannot be one."""
    shown = (
        mask_arguments([f"--{name}={value_text(value)}"])[0] for value in found.values if found.draw is Draw.choice
    )
    if any(MASK in text for text in shown):
        raise BadUsage(
            f"The hyperparameter '{name}' looks like a secret, and the values of hyperparameters are shown and kept.",
            hint=f"Give a secret by --env_var. If it is none, use another name: --sweep x=A,B -- --{name} "
            f"'${{{{search_space.x}}}}'",
        )


def check_count(trials: int, *, on_cluster: bool, hint: str = "Give --max_trials {}.") -> None:
    """Raises BadUsage, whose *hint* names the number, for more trials than can be run."""
    most, who = (
        (MOST_TRIALS_ON_AZURE, "Azure ML takes {:,}.") if on_cluster else (MOST_TRIALS_HERE, "here {:,} are the most.")
    )
    if trials > most:
        raise BadUsage(f"These are {trials:,} trials; {who.format(most)}", hint=hint.format(most))


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
        raise BadUsage(
            f"--sampling grid: '{name}' is drawn from {draw.value}, which has no grid.",
            hint="Give a list of values, or --sampling random",
        )
    if spec.sampling != "bayesian":
        return
    if spec.early_stop is not None:
        raise BadUsage(
            "--sampling bayesian and --early_stop exclude each other: it learns from trials that ran to their end.",
            hint="Leave one of them out.",
        )
    refused = {
        name: draw
        for name, draw in drawn.items()
        if draw in UNBOUNDED or (on_cluster and draw not in BAYESIAN_ON_AZURE)
    }
    for name, draw in refused.items():
        known = ", ".join(
            each.value
            for each in (BAYESIAN_ON_AZURE if on_cluster else [each for each in Draw if each not in UNBOUNDED])
        )
        there = " on Azure ML" if on_cluster and draw not in UNBOUNDED else ""
        raise BadUsage(
            f"--sampling bayesian{there} cannot draw '{name}' from {draw.value}.",
            hint=f"It takes {known}; or use --sampling random",
        )


def _check_for_azure(spec: SweepSpec) -> None:
    if spec.max_concurrent is not None and min(spec.max_concurrent, spec.max_trials) > MOST_AT_ONCE_ON_AZURE:
        raise BadUsage(
            f"--max_concurrent {spec.max_concurrent}: Azure ML takes {MOST_AT_ONCE_ON_AZURE} at most.",
            hint="Without --max_concurrent all trials start at once, as far as the cluster has nodes.",
        )
    for name, found in spec.space.items():
        _check_step_for_azure(name, found)
        if spec.sampling == "bayesian":
            _check_bayesian_for_azure(name, found)


def _check_step_for_azure(name: str, found: SearchRange) -> None:
    """Its documents and azureml have whole numbers only for q."""
    if found.draw.value.startswith("q") and float(found.values[2]) != int(float(found.values[2])):
        raise BadUsage(
            f"--sweep {name}: Azure ML takes a whole number for q of {found.draw.value}, not {found.values[2]}.",
            hint=f"List the values, --sweep {name}=A,B,C, or draw whole numbers and divide them in the script.",
        )


def _check_bayesian_for_azure(name: str, found: SearchRange) -> None:
    """What azureml's own client checks of a Bayesian search space."""
    if found.draw is Draw.quniform:
        if not all(isinstance(value, int) for value in found.values):
            raise BadUsage(
                f"--sweep {name}: with --sampling bayesian Azure ML takes whole numbers only for quniform.",
                hint="Use uniform(low,high).",
            )
        low, high, step = (int(value) for value in found.values)
        if (high - low) / step > MOST_STEPS_ON_AZURE:
            raise BadUsage(
                f"--sweep {name}: with --sampling bayesian quniform has {MOST_STEPS_ON_AZURE:,} steps at most on "
                "Azure ML.",
                hint="Give a larger q, or use uniform(low,high).",
            )
    texts = [isinstance(value, (str, bool)) for value in found.values]  # truth values are sent as texts
    if found.draw is Draw.choice and any(texts) and not all(texts):
        raise BadUsage(
            f"--sweep {name}: with --sampling bayesian Azure ML takes a list of numbers or a list of words, not both "
            "in one.",
            hint="Use --sampling random, or write all values in one way.",
        )
