"""Hyperparameters of trials, and early stopping of trials, by the rules that Azure ML documents.

Grid and random values depend only on the trial's number, so that a resumed sweep draws the same values. Bayesian
values, from Optuna's tree of Parzen estimators, depend on earlier trials.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from random import Random
from statistics import fmean, median
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.installation import install_command
from himl_cli.core.records import dataclass
from himl_cli.core.sweeps import Draw, EarlyStop, Scalar, SearchRange, SweepSpec, best_of, value_text

Values = Mapping[str, Scalar]


@dataclass()
class Trial:
    """A started trial: its number (0…), its values, and its values of the primary metric in the logged order."""

    index: int
    values: Values
    metric: Sequence[float] = ()
    is_over: bool = False


def check_sampling(spec: SweepSpec) -> None:
    """Raise BadUsage if a package for the sampling of *spec* is not installed."""
    from importlib.util import find_spec

    if spec.sampling == "bayesian" and find_spec("optuna") is None:
        raise BadUsage(
            "Local Bayesian sampling needs Optuna, which is not installed.",
            hint=f"Install it: {install_command('sweep')}",
        )


def make_sampler(spec: SweepSpec) -> Callable[[int, Sequence[Trial]], Values | None]:
    """Return a function for the values of trial *index* (0…) by name, or None after the last trial. Its second argument
    are the trials started before. Raises BadUsage if a package for the sampling is not installed."""
    check_sampling(spec)
    bayesian = BayesianSampler(spec) if spec.sampling == "bayesian" else None

    def values(index: int, past: Sequence[Trial]) -> Values | None:
        if not 0 <= index < spec.max_trials:
            return None
        if bayesian:
            return bayesian.values(index, past)
        # Random values depend only on the seed, the number and the name, not on the rest of the search space
        if spec.sampling != "grid":
            return {
                name: _drawn(found, Random(f"{spec.seed or 0}/{index}/{name}"))  # noqa: S311 - no secret
                for name, found in spec.space.items()
            }
        chosen: dict[str, Scalar] = {}
        # A grid is every combination, with the last hyperparameter changing fastest
        for name in reversed(list(spec.space)):
            index, place = divmod(index, len(spec.space[name].values))
            chosen[name] = spec.space[name].values[place]
        return {name: chosen[name] for name in spec.space} if index == 0 else None

    return values


def _drawn(found: SearchRange, source: Random) -> Scalar:
    """Draw one value of *found*. Uses only the `random` of *source*, the one method with the same numbers in every
    version of Python."""
    if found.draw is Draw.choice:
        return found.values[int(source.random() * len(found.values))]
    first, *others = (float(value) for value in found.values)
    if found.draw is Draw.randint:
        return int(source.random() * first)
    word = found.draw.value.removeprefix("q")
    if word.endswith("uniform"):
        spread = source.random() * (others[0] - first)
    else:  # with mean 0 and deviation 1
        normal = math.sqrt(-2.0 * math.log(1.0 - source.random())) * math.cos(2.0 * math.pi * source.random())
        spread = normal * others[0]
    number = math.exp(first + spread) if word.startswith("log") else first + spread
    return _quantized(number, found.values[2]) if found.draw.value.startswith("q") else number


def _quantized(number: float, step: Scalar) -> int | float:
    """The nearest multiple of *step* to *number*, without rounding errors of binary fractions: 0.3 instead of
    0.30000000000000004."""
    count = round(number / float(step))
    return count * step if isinstance(step, int) else float(f"{count * float(step):.12g}")


class BayesianSampler:
    """Draws values with Optuna. It also learns from trials in *past* that an earlier process started, for a resumed
    sweep.

    Each draw has its own random numbers from the seed and the trial's number, since a process that resumes must not
    draw the first values again.
    """

    def __init__(self, spec: SweepSpec) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec = spec
        self._optuna = optuna
        self._distributions = {name: self._distribution(found) for name, found in spec.space.items()}
        stepped = (Draw.quniform, Draw.qloguniform)  # sampled as numbers of steps
        self._steps = {name: found.values[2] for name, found in spec.space.items() if found.draw in stepped}
        # By their texts, since 3.1 and 3.10 are equal numbers, and a tag has `.5` as a text
        choices = {name: found.values for name, found in spec.space.items() if found.draw is Draw.choice}
        self._choices = {name: {value_text(value): value for value in values} for name, values in choices.items()}
        self._study = optuna.create_study(
            sampler=self._seeded(0), direction="minimize" if spec.goal == "minimize" else "maximize"
        )
        self._asked: dict[int, Any] = {}
        self._reported: set[int] = set()

    def values(self, index: int, past: Sequence[Trial]) -> Values:
        states = self._optuna.trial.TrialState
        for trial in past:
            if not trial.is_over:
                if trial.index not in self._asked:
                    self._asked[trial.index] = self._add(trial, states.RUNNING, None)
            elif trial.index not in self._reported:
                self._reported.add(trial.index)
                best = best_of(self._spec.goal, trial.metric)
                state = states.FAIL if best is None else states.COMPLETE
                if (asked := self._asked.pop(trial.index, None)) is not None:
                    self._study.tell(asked, best, state)
                else:
                    self._add(trial, state, best)
        self._study.sampler = self._seeded(index)
        self._asked[index] = asked = self._study.ask(self._distributions)
        steps = {name: _quantized(asked.params[name] * float(step), step) for name, step in self._steps.items()}
        chosen = {name: values[asked.params[name]] for name, values in self._choices.items()}
        found = {**asked.params, **steps, **chosen}
        return {name: found[name] for name in self._spec.space}

    def _seeded(self, index: int) -> Any:
        seed = Random(f"{self._spec.seed or 0}/{index}").getrandbits(32)  # noqa: S311 - no secret
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # older versions warn that the liar is experimental
            # Running trials count as bad ones, so that concurrent trials explore different values
            return self._optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def _add(self, trial: Trial, state: Any, value: float | None) -> int:
        """Add a trial of an earlier process to the study. Return its number in the study."""
        steps = {name: round(float(trial.values[name]) / float(step)) for name, step in self._steps.items()}
        chosen = {name: value_text(trial.values[name]) for name in self._choices}
        params = {**trial.values, **steps, **chosen}
        create = self._optuna.trial.create_trial
        self._study.add_trial(create(state=state, params=params, distributions=self._distributions, value=value))
        return len(self._study.get_trials(deepcopy=False)) - 1

    def _distribution(self, found: SearchRange) -> Any:
        kinds = self._optuna.distributions
        if found.draw is Draw.choice:
            return kinds.CategoricalDistribution(tuple(map(value_text, found.values)))
        numbers = [float(value) for value in found.values]
        if found.draw is Draw.randint:
            return kinds.IntDistribution(0, int(numbers[0]) - 1)
        is_log = "log" in found.draw.value
        low, high = (math.exp(number) if is_log else number for number in numbers[:2])
        if found.draw in (Draw.quniform, Draw.qloguniform):
            fewest, most = round(low / numbers[2]), round(high / numbers[2])
            return kinds.IntDistribution(fewest, most, log=is_log and fewest > 0)
        return kinds.FloatDistribution(low, high, log=is_log)


def trials_to_stop(spec: EarlyStop, goal: str, trials: Sequence[Trial]) -> Mapping[int, str]:
    """The numbers of the running trials that the policy stops now, each with the reason. *trials* are all started
    trials.

    An interval is one logging of the primary metric. A policy evaluates a trial at each multiple of its
    `evaluation_interval` from `delay_evaluation` on, and compares it with the values that all trials logged up to the
    same interval. NaN and infinities count only as intervals. They never win, and never stop a trial.
    """
    sign = 1.0 if goal == "maximize" else -1.0
    by_interval: dict[int, list[int]] = {}
    for trial in trials:
        if interval := 0 if trial.is_over else last_interval(spec, len(trial.metric)):
            by_interval.setdefault(interval, []).append(trial.index)
    stopped: dict[int, str] = {}
    for interval, running in by_interval.items():
        finite = {
            trial.index: found  # higher is better
            for trial in trials
            if (found := [sign * value for value in trial.metric[:interval] if math.isfinite(value)])
        }
        scores = {index: max(found) for index, found in finite.items()}
        candidates = [index for index in running if index in scores]
        if not candidates:
            continue
        if spec.policy == "truncation":  # stop the worst of the trials that reached this interval
            percentage = spec.truncation_percentage or 0
            come = [each.index for each in trials if len(each.metric) >= interval and each.index in scores]
            come.sort(key=lambda index: (scores[index], index))
            worse = set(come[: len(come) * percentage // 100])
            verdicts = {
                index: f"among the worst {percentage} % of {len(come)} trials" for index in candidates if index in worse
            }
        else:
            leader = max(scores, key=lambda index: (scores[index], -index))
            best = scores[leader]
            if spec.policy == "median":  # the median of the running averages of all trials
                worst = median(fmean(found) for found in finite.values())
                because = f"the median of the averages is {sign * worst:g}"
            else:
                slack = f"slack_amount={spec.slack_amount or 0:g}"
                worst = best - (spec.slack_amount or 0.0)
                # A factor widens on the worse side, for either sign of the metric
                if spec.slack_factor is not None:
                    slack, factor = f"slack_factor={spec.slack_factor:g}", 1 + spec.slack_factor
                    worst = best * factor if (sign * best >= 0) == (sign < 0) else best / factor
                because = f"trial {leader} had {sign * best:g}, and {slack} allows {sign * worst:g}"
            verdicts = {
                index: f"{sign * scores[index]:g}, where {because}"
                for index in candidates
                if scores[index] < worst and (index != leader or spec.policy == "median")
            }
        for index, why in verdicts.items():
            stopped[index] = f"stopped early by {spec.policy} at interval {interval}: {why}"
    return stopped


def last_interval(spec: EarlyStop, logged: int) -> int:
    """The last interval at which the policy evaluates a trial with *logged* values, or 0 before the first."""
    interval = logged - logged % max(1, spec.evaluation_interval)
    return interval if interval >= spec.delay_evaluation else 0
