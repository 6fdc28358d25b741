"""Values that earlier trials make promising, by Optuna's tree of Parzen estimators."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from himl_cli.core.sweeps import Draw, Scalar, SearchRange, SweepSpec, Trial, best_of
from himl_cli.workspaces.local.many.stepping import stepped


class BayesianSampler:
    """Asks Optuna. Trials of *past* that were started by an earlier process (of a sweep that was resumed) are told to
    it as well.

    Each draw has random numbers of its own, from the seed and the trial's number: a process that goes on must not draw
    the first values again.
    """

    def __init__(self, spec: SweepSpec) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec = spec
        self._optuna = optuna
        self._distributions = {name: _distribution(optuna, found) for name, found in spec.space.items()}
        self._study = optuna.create_study(
            sampler=self._sampler(0), direction="minimize" if spec.goal == "minimize" else "maximize"
        )
        self._asked: dict[int, Any] = {}
        self._told: set[int] = set()

    def values(self, index: int, past: Sequence[Trial]) -> Mapping[str, Scalar] | None:
        if not 0 <= index < self._spec.max_trials:
            return None
        for trial in past:
            if trial.is_over and trial.index not in self._told:
                self._tell(trial)
            elif not trial.is_over and trial.index not in self._asked:
                self._asked[trial.index] = self._added(trial, self._optuna.trial.TrialState.RUNNING, None)
        self._study.sampler = self._sampler(index)
        self._asked[index] = asked = self._study.ask(self._distributions)
        return {name: _value(found, asked.params[name]) for name, found in self._spec.space.items()}

    def _sampler(self, index: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # older versions call the liar an experiment
            # Trials that are still running count as bad ones, so that concurrent trials do not all look at the same
            # place.
            return self._optuna.samplers.TPESampler(
                seed=Random(f"{self._spec.seed or 0}/{index}").getrandbits(32), constant_liar=True
            )

    def _tell(self, trial: Trial) -> None:
        self._told.add(trial.index)
        best = best_of(self._spec.goal, trial.metric)
        state = self._optuna.trial.TrialState.FAIL if best is None else self._optuna.trial.TrialState.COMPLETE
        asked = self._asked.pop(trial.index, None)
        if asked is not None:
            self._study.tell(asked, best, state)
            return
        self._added(trial, state, best)

    def _added(self, trial: Trial, state: Any, value: float | None) -> int:
        """Tell of a trial that was not asked for here; its number in the study."""
        inner = {name: _parameter(found, trial.values[name]) for name, found in self._spec.space.items()}
        self._study.add_trial(
            self._optuna.trial.create_trial(state=state, params=inner, distributions=self._distributions, value=value)
        )
        return len(self._study.get_trials(deepcopy=False)) - 1


def _distribution(optuna: Any, found: SearchRange) -> Any:
    """*found* as Optuna has it; of stepped ranges, the number of steps."""
    if found.draw is Draw.choice:
        return optuna.distributions.CategoricalDistribution(tuple(found.values))
    numbers = [float(value) for value in found.values]
    if found.draw is Draw.randint:
        return optuna.distributions.IntDistribution(0, int(numbers[0]) - 1)
    is_log = "log" in found.draw.value
    low, high = (math.exp(number) if is_log else number for number in numbers[:2])
    if found.draw in (Draw.quniform, Draw.qloguniform):
        fewest, most = round(low / numbers[2]), round(high / numbers[2])
        return optuna.distributions.IntDistribution(fewest, most, log=is_log and fewest > 0)
    return optuna.distributions.FloatDistribution(low, high, log=is_log)


def _value(found: SearchRange, parameter: Any) -> Scalar:
    """What the script gets for Optuna's *parameter*."""
    if found.draw in (Draw.quniform, Draw.qloguniform):
        return stepped(parameter * float(found.values[2]), found.values[2])
    value: Scalar = parameter
    return value


def _parameter(found: SearchRange, value: Scalar) -> Any:
    """The opposite of `_value`."""
    return round(float(value) / float(found.values[2])) if found.draw in (Draw.quniform, Draw.qloguniform) else value
