"""Many runs of one job: what its hyperparameters are drawn from, how many trials there are, and when one is stopped early."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from himl_cli.core.placeholders import PLACEHOLDER, SEARCH_SPACE

Scalar = str | int | float | bool
"""One value of a hyperparameter."""

HYPERPARAMETERS = "hyperparameters"
"""The tag of a trial that holds its values, a JSON object: HyperDrive's name, which both workspaces use."""


class Draw(str, Enum):
    """What a value is drawn from. The words and the order of arguments are Azure ML's; of the `log…` ones the arguments are exponents of e."""

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


@dataclass(frozen=True)
class SearchRange:
    """`values` are the choices of `choice`; else the arguments of the distribution.

    These are (low, high) or (mu, sigma), with a step behind them for `q…`, and (upper,) for `randint`, which gives 0 to upper - 1.
    """

    draw: Draw
    values: Sequence[Scalar]


@dataclass(frozen=True)
class EarlyStop:
    """When a trial is stopped: `policy` is `bandit` (one of the slacks is set), `median` or `truncation`.

    The policy looks at each *evaluation_interval*th value of the primary metric, and passes over the first *delay_evaluation* of them.
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

    `sampling` is `grid`, `random` or `bayesian`; `seed` None: the workspace's choice. `max_trials` is the number of trials in all (of a grid at most
    its points); `max_concurrent` None: the workspace's choice. `goal` is `minimize` or `maximize`.
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


@dataclass(frozen=True)
class Trial:
    """One trial that was started: its number (0…), its values, and what is known of its primary metric, in the order logged."""

    index: int
    values: Mapping[str, Scalar]
    metric: Sequence[float] = field(default_factory=tuple)
    is_over: bool = False


def hyperparameters_of(tags: Mapping[str, str]) -> dict[str, Scalar]:
    """The values of a trial by name, as its tags tell them; empty for a run that is no trial."""
    try:
        found = json.loads(tags.get(HYPERPARAMETERS, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


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
