"""Everything that is known of one run, as a record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from himl_cli.core.runs import Metric, Run, Texts
from himl_cli.core.sweeps import Scalar


@dataclass(frozen=True)
class TrialView:
    """A trial: its run, its values, and the last value of the primary metric (None: it has none)."""

    run: Run
    hyperparameters: Mapping[str, Scalar]
    value: float | None


@dataclass(frozen=True)
class SweepView:
    """The trials of a sweep in their order, and what they are compared by.

    `best` is the run that the workspace has recorded as the best one, by its best value at any step; as long as none
    is, the one with the best last value that is a number (empty: there is none). `is_repeated` for folds and seeds:
    none of them is the best.
    """

    metric: str
    goal: str
    trials: Sequence[TrialView]
    best: str = ""
    is_repeated: bool = False

    @property
    def ranked(self) -> Sequence[TrialView]:
        """The best trial, the others by their last values, and those last whose value is no number, or that have none;
        folds and seeds in their order."""
        return self.trials if self.is_repeated else sorted(self.trials, key=self._rank)

    @property
    def best_at_the_end(self) -> str:
        """The run with the best last value that is a number; empty where none has one."""
        numbers = [trial for trial in self.trials if trial.value is not None and math.isfinite(trial.value)]
        return min(numbers, key=lambda trial: self._sign * (trial.value or 0.0)).run.id if numbers else ""

    @property
    def _sign(self) -> float:
        return -1.0 if self.goal == "maximize" else 1.0

    def _rank(self, trial: TrialView) -> tuple[int, float]:
        is_best = trial.run.id == self.best
        if trial.value is None:
            return 0 if is_best else 4, 0.0
        if math.isnan(trial.value):
            return 0 if is_best else 3, 0.0
        return 0 if is_best else 2 if math.isinf(trial.value) else 1, self._sign * trial.value


@dataclass(frozen=True)
class RunDetails:
    """A run with what it logged and the runs below it; `metrics` and `texts` hold those of nested runs too, each with
    its run.

    `sweep` is there for a run whose children are trials; `below` are the children of those children that have some, by
    id.
    """

    run: Run
    parameters: Mapping[str, str]
    metrics: Sequence[Metric]
    children: Sequence[Run]
    texts: Sequence[Texts] = ()
    sweep: SweepView | None = None
    below: Mapping[str, Sequence[Run]] = field(default_factory=dict)
