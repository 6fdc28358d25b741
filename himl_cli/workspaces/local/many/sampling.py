"""Which values a trial gets.

Grid and random depend on the trial's number alone, so that a sweep that is resumed draws what it would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from himl_cli.core.errors import BadUsage
from himl_cli.core.installing import install_command
from himl_cli.core.sweeps import Draw, Scalar, SearchRange, SweepSpec, Trial
from himl_cli.workspaces.local.many.stepping import stepped

BAYESIAN = "bayesian"


class Sampler(Protocol):
    """Gives each trial its values."""

    def values(self, index: int, past: Sequence[Trial]) -> Mapping[str, Scalar] | None:
        """The values of trial *index* (0…), by name; None where there are no more trials. *past* are the trials that
        were started before."""


def check_sampling(spec: SweepSpec) -> None:
    """Raises BadUsage where what the sampling of *spec* needs is not installed."""
    from importlib.util import find_spec

    if spec.sampling == BAYESIAN and find_spec("optuna") is None:
        raise BadUsage(
            "Bayesian sampling here needs Optuna, which is not installed.",
            hint=f"To install it: {install_command('sweep')}",
        )


def make_sampler(spec: SweepSpec) -> Sampler:
    """The sampler that *spec* asks for. Raises BadUsage where what it needs is not installed."""
    check_sampling(spec)
    if spec.sampling == BAYESIAN:
        from himl_cli.workspaces.local.many.bayesian import BayesianSampler

        return BayesianSampler(spec)
    return Grid(spec) if spec.sampling == "grid" else RandomDraws(spec)


@dataclass(frozen=True)
class Grid:
    """Every combination of the values, the last hyperparameter changing fastest."""

    spec: SweepSpec

    def values(self, index: int, past: Sequence[Trial]) -> Mapping[str, Scalar] | None:
        if not 0 <= index < self.spec.max_trials:
            return None
        chosen: dict[str, Scalar] = {}
        for name in reversed(list(self.spec.space)):
            values = self.spec.space[name].values
            index, place = divmod(index, len(values))
            chosen[name] = values[place]
        return {name: chosen[name] for name in self.spec.space} if index == 0 else None


@dataclass(frozen=True)
class RandomDraws:
    """Each value by itself, from the seed, the trial's number and the hyperparameter's name: what else is searched
    makes no difference."""

    spec: SweepSpec

    def values(self, index: int, past: Sequence[Trial]) -> Mapping[str, Scalar] | None:
        if not 0 <= index < self.spec.max_trials:
            return None
        seed = self.spec.seed or 0
        return {name: drawn(found, Random(f"{seed}/{index}/{name}")) for name, found in self.spec.space.items()}


def drawn(found: SearchRange, source: Random) -> Scalar:
    """One value of *found*. Of *source* only `random` is asked, the one method that gives the same numbers in every
    version of Python."""
    if found.draw is Draw.choice:
        return found.values[int(source.random() * len(found.values))]
    first, *others = (float(value) for value in found.values)
    if found.draw is Draw.randint:
        return int(source.random() * first)
    word = found.draw.value.removeprefix("q")
    spread = source.random() * (others[0] - first) if word.endswith("uniform") else _normal(source) * others[0]
    number = math.exp(first + spread) if word.startswith("log") else first + spread
    return stepped(number, found.values[2]) if found.draw.value.startswith("q") else number


def _normal(source: Random) -> float:
    """A number of the normal distribution of mean 0 and deviation 1."""
    return math.sqrt(-2.0 * math.log(1.0 - source.random())) * math.cos(2.0 * math.pi * source.random())
