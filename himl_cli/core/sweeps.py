"""Many runs of one job: what its hyperparameters are drawn from, how many trials there are, and when one is stopped
early."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from himl_cli.core.text import read_json

SEARCH_SPACE = "search_space"
# Group 1 is `inputs`, `outputs` or `search_space`, group 2 the key, whatever characters it is of: one that names
# nothing is better refused than sent
PLACEHOLDER = re.compile(r"\$\{\{\s*(inputs|outputs|search_space)\.([^\s{}]+)\s*\}\}")


Scalar = str | int | float | bool  # one value of a hyperparameter

# The tag of a trial that holds its values, a JSON object: HyperDrive's name, which both workspaces use
HYPERPARAMETERS = "hyperparameters"
TRIAL = "himl.trial"  # the tag of a trial that holds its number (0…)
# The tag of a trial that a policy stopped: the policy's word. It counts only where the trial is canceled, for it may
# have ended by itself first.
STOPPED_EARLY = "himl.stopped_early"
MANY = "himl.many"  # the tag of a run whose children are jobs of their own: `sweep`, `crossval`, `seeds` or `pipeline`
REPEATED = ("crossval", "seeds")  # kinds of which no trial is the best: their mean and spread are what counts
SWEPT = "himl.sweep"  # the tag of a sweep that says in a line what is searched and how
# Tags of a sweep: the metric that trials are compared by, `minimize` or `maximize`, and at the end the id of the best
# trial's run
PRIMARY_METRIC = "himl.primary_metric"
GOAL = "himl.goal"
BEST_TRIAL = "himl.best_trial"

GOALS = ("minimize", "maximize")
HYPERPARAMETER_NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)


class Draw(str, Enum):
    """What a value is drawn from. The words and the order of arguments are Azure ML's; of the `log…` ones the arguments
    are exponents of e."""

    choice = "choice"
    uniform = "uniform"
    loguniform = "loguniform"
    normal = "normal"
    lognormal = "lognormal"
    randint = "randint"
    quniform = "quniform"
    qloguniform = "qloguniform"
    qnormal = "qnormal"
    qlognormal = "qlognormal"


def argument_names(draw: Draw) -> tuple[str, ...]:
    """What Azure ML calls the arguments of a distribution, in their order; none for `choice`."""
    if draw in (Draw.choice, Draw.randint):
        return ("upper",) if draw is Draw.randint else ()
    ends = ("mu", "sigma") if draw.value.endswith("normal") else ("min_value", "max_value")
    return (*ends, "q") if draw.value.startswith("q") else ends


@dataclass(frozen=True)
class SearchRange:
    """`values` are the choices of `choice`; else the arguments of the distribution.

    These are (low, high) or (mu, sigma), with a step behind them for `q…`, and (upper,) for `randint`, which gives 0 to
    upper - 1.
    """

    draw: Draw
    values: Sequence[Scalar]


@dataclass(frozen=True)
class EarlyStop:
    """When a trial is stopped: `policy` is `bandit` (one of the slacks is set), `median` or `truncation`.

    The policy looks at each *evaluation_interval*th value of the primary metric, and passes over the first
    *delay_evaluation* of them.
    """

    policy: str
    evaluation_interval: int = 1
    delay_evaluation: int = 0
    slack_factor: float | None = None
    slack_amount: float | None = None
    truncation_percentage: int | None = None


@dataclass(frozen=True)
class SweepSpec:
    """Trials of one job. `kind` is what the user asked for: `sweep`, `crossval` or `seeds`.

    `sampling` is `grid`, `random` or `bayesian`; `seed` None: the workspace's choice. `max_trials` is the number of
    trials in all (of a grid at most its points); `max_concurrent` None: the workspace's choice. `goal` is `minimize` or
    `maximize`. `max_seconds` limits the sweep as a whole (on a cluster only), None: the workspace's own limit.
    """

    space: Mapping[str, SearchRange]
    sampling: str = "grid"
    max_trials: int = 1
    max_concurrent: int | None = None
    primary_metric: str = "val/loss"
    goal: str = "minimize"
    early_stop: EarlyStop | None = None
    seed: int | None = None
    kind: str = "sweep"
    max_seconds: float | None = None


def best_of(goal: str, values: Iterable[float]) -> float | None:
    """The best of the values that are finite numbers; None where there is none."""
    finite = (value for value in values if math.isfinite(value))
    return min(finite, default=None) if goal == "minimize" else max(finite, default=None)


def hyperparameters_of(tags: Mapping[str, str]) -> dict[str, Scalar]:
    """The values of a trial by name, as its tags tell them; empty for a run that is no trial. Dashes before a name, as
    of azureml's `--lr`, are left out."""
    try:
        found = read_json(tags.get(HYPERPARAMETERS, "{}"))
    except ValueError:
        return {}
    return {name.lstrip("-"): value for name, value in found.items()} if isinstance(found, dict) else {}


def with_search_space(arguments: Sequence[str], names: Iterable[str]) -> list[str]:
    """*arguments* with `--NAME ${{search_space.NAME}}` behind them for each of *names* that none of them names."""
    named = {found[2] for argument in arguments for found in PLACEHOLDER.finditer(argument) if found[1] == SEARCH_SPACE}
    missing = [name for name in names if name not in named]
    return [*arguments, *(text for name in missing for text in (f"--{name}", f"${{{{{SEARCH_SPACE}.{name}}}}}"))]


def values_text(values: Mapping[str, Scalar]) -> str:
    """Values as people read them: `lr=0.01, depth=3`."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in values.items())


def value_text(value: Scalar) -> str:
    """One value as a script's argument: numbers in full, truth values as Python writes them."""
    return repr(value) if isinstance(value, float) else str(value)
