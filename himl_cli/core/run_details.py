"""Everything that is known of one run, as a record."""

from __future__ import annotations

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

    `best` is the run with the best last value (empty: none has a value that is a number). `best_on_the_way` is the run that had the best value of all at
    some step, as the workspace tells it; empty where that is the same one, or not known. `is_repeated` for folds and seeds: none of them is the best.
    """

    metric: str
    goal: str
    trials: Sequence[TrialView]
    best: str = ""
    best_on_the_way: str = ""
    is_repeated: bool = False

    @property
    def ranked(self) -> Sequence[TrialView]:
        """The trials, the best one first, those without a value last; folds and seeds in their order."""
        if self.is_repeated:
            return self.trials
        sign = -1.0 if self.goal == "maximize" else 1.0
        ranks = {trial.run.id: (trial.value is None or trial.value != trial.value, sign * (trial.value or 0.0)) for trial in self.trials}
        return sorted(self.trials, key=lambda trial: ranks[trial.run.id] if not ranks[trial.run.id][0] else (True, 0.0))


@dataclass(frozen=True)
class RunDetails:
    """A run with what it logged and the runs below it; `metrics` and `texts` hold those of nested runs too, each with its run.

    `sweep` is there for a run whose children are trials; `below` are the children of those children that have some, by id.
    """

    run: Run
    parameters: Mapping[str, str]
    metrics: Sequence[Metric]
    children: Sequence[Run]
    texts: Sequence[Texts] = ()
    sweep: SweepView | None = None
    below: Mapping[str, Sequence[Run]] = field(default_factory=dict)
