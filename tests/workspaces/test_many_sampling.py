"""The values of trials: what each kind of distribution gives, and that a trial's values depend on its number alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.jobs import Draw, Scalar, SearchRange, SweepSpec
from himl_cli.workspaces.local.sampling import Trial, make_sampler

SEEDS = st.integers(min_value=0, max_value=2**31 - 1)


def spec(sampling: str, space: dict[str, SearchRange], trials: int, seed: int | None = None, goal: str = "minimize") -> SweepSpec:
    return SweepSpec(space, sampling, trials, goal=goal, seed=seed)


def choice(*values: Scalar) -> SearchRange:
    return SearchRange(Draw.choice, values)


def draws(found: SearchRange, count: int, seed: int = 0) -> list[float]:
    sampler = make_sampler(spec("random", {"x": found}, count, seed))
    values = [sampler(index, ()) for index in range(count)]
    return [float(value["x"]) for value in values if value is not None]


def test_grid_yields_each_combination_once_last_key_fastest() -> None:
    sampler = make_sampler(spec("grid", {"lr": choice(0.1, 0.01), "depth": choice(1, 2, 3)}, 6))
    given_values = [sampler(index, ()) for index in range(6)]
    assert given_values == [{"lr": lr, "depth": depth} for lr, depth in itertools.product((0.1, 0.01), (1, 2, 3))]
    assert sampler(6, ()) is None


def test_a_grid_ends_where_its_points_or_its_trials_do() -> None:
    space = {"a": choice("x", "y"), "b": choice(1, 2)}
    assert make_sampler(spec("grid", space, 100))(4, ()) is None
    assert make_sampler(spec("grid", space, 3))(2, ()) == {"a": "y", "b": 1}
    assert make_sampler(spec("grid", space, 3))(3, ()) is None


@given(seed=SEEDS, index=st.integers(min_value=0, max_value=50))
def test_random_values_depend_on_seed_number_and_name_alone(seed: int, index: int) -> None:
    lr, depth = SearchRange(Draw.uniform, (0.0, 1.0)), SearchRange(Draw.randint, (100,))
    alone = make_sampler(spec("random", {"lr": lr}, 100, seed))(index, ())
    past = [Trial(number, {"lr": 0.5}, (float(number),), is_over=True) for number in range(index)]
    together = make_sampler(spec("random", {"depth": depth, "lr": lr}, 51, seed))(index, past)
    assert alone is not None
    assert together is not None
    assert together["lr"] == alone["lr"]


def test_random_values_differ_between_trials_and_seeds() -> None:
    uniform = SearchRange(Draw.uniform, (0, 1))
    assert len(set(draws(uniform, 200))) == 200
    assert draws(uniform, 20, seed=1) != draws(uniform, 20, seed=2)


@given(low=st.floats(-50, 50), width=st.floats(1e-3, 100), seed=SEEDS)
def test_values_stay_within_what_is_asked_for(low: float, width: float, seed: int) -> None:
    high = low + width
    assert all(low <= value <= high for value in draws(SearchRange(Draw.uniform, (low, high)), 20, seed))
    assert all(math.exp(low) * 0.999 <= value <= math.exp(high) * 1.001 for value in draws(SearchRange(Draw.loguniform, (low, high)), 20, seed))


@given(n=st.integers(1, 50), seed=SEEDS)
def test_randint_gives_whole_numbers_below_n(n: int, seed: int) -> None:
    sampler = make_sampler(spec("random", {"x": SearchRange(Draw.randint, (n,))}, 20, seed))
    values = [value["x"] for index in range(20) if (value := sampler(index, ())) is not None]
    assert all(type(value) is int and 0 <= value < n for value in values)


@pytest.mark.parametrize(
    ("found", "mean", "deviation"),
    [
        (SearchRange(Draw.uniform, (2, 4)), 3.0, 2 / math.sqrt(12)),
        (SearchRange(Draw.normal, (5, 2)), 5.0, 2.0),
        (SearchRange(Draw.randint, (11,)), 5.0, math.sqrt(10)),
        (SearchRange(Draw.qnormal, (50, 10, 1)), 50.0, 10.0),
        (SearchRange(Draw.choice, (0, 10)), 5.0, 5.0),
    ],
)
def test_random_values_match_mean_and_deviation(found: SearchRange, mean: float, deviation: float) -> None:
    values = draws(found, 4000)
    assert fmean(values) == pytest.approx(mean, abs=4 * deviation / math.sqrt(4000))
    assert stdev(values) == pytest.approx(deviation, rel=0.06)


@pytest.mark.parametrize("draw", [Draw.loguniform, Draw.lognormal])
def test_of_log_distributions_the_arguments_are_exponents(draw: Draw) -> None:
    logarithms = [math.log(value) for value in draws(SearchRange(draw, (-6, -2) if draw is Draw.loguniform else (-4, 1)), 4000)]
    assert fmean(logarithms) == pytest.approx(-4, abs=0.08)


@pytest.mark.parametrize("draw", [Draw.quniform, Draw.qloguniform, Draw.qnormal, Draw.qlognormal])
@pytest.mark.parametrize("step", [2, 0.1, 16])
def test_quantized_values_are_multiples_of_step_and_of_its_type(draw: Draw, step: float) -> None:
    arguments: Sequence[float] = {Draw.quniform: (1, 99), Draw.qloguniform: (0, 5), Draw.qnormal: (30, 9), Draw.qlognormal: (3, 0.5)}[draw]
    sampler = make_sampler(spec("random", {"x": SearchRange(draw, (*arguments, step))}, 100))
    values = [value["x"] for index in range(100) if (value := sampler(index, ())) is not None]
    assert {type(value) for value in values} == {type(step)}
    assert all(float(value) / step == pytest.approx(round(float(value) / step)) for value in values)
    assert all(len(repr(value)) < 8 for value in values), "no 0.30000000000000004"


def score(values: dict[str, Scalar]) -> float:
    return (float(values["x"]) - 0.3) ** 2


def searched(space: dict[str, SearchRange], trials: int, stop_at: int | None = None, past: list[Trial] | None = None, goal: str = "minimize") -> list[Trial]:
    """The trials of a Bayesian search, one after another, up to *stop_at*, going on from *past*."""
    sampler, trial_list = make_sampler(spec("bayesian", space, trials, goal=goal)), past or []
    for index in range(len(trial_list), trials if stop_at is None else stop_at):
        values = sampler(index, trial_list)
        assert values is not None
        sign = 1 if goal == "minimize" else -1
        trial_list.append(Trial(index, values, (sign * score(dict(values)),), is_over=True))
    return trial_list


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_bayesian_search_converges_and_is_reproducible(goal: str) -> None:
    space = {"x": SearchRange(Draw.uniform, (-5, 5)), "kind": choice("a", "b")}
    trials = searched(space, 40, goal=goal)
    assert min(abs(float(trial.values["x"]) - 0.3) for trial in trials[20:]) < 0.3
    assert fmean(abs(float(trial.values["x"]) - 0.3) for trial in trials[25:]) < fmean(abs(float(trial.values["x"]) - 0.3) for trial in trials[:10])
    assert [trial.values for trial in searched(space, 40, goal=goal)] == [trial.values for trial in trials]


def test_resumed_bayesian_search_learns_from_earlier_trials() -> None:
    space = {
        "x": SearchRange(Draw.quniform, (-5, 5, 0.1)),
        "n": SearchRange(Draw.randint, (8,)),
        "lr": SearchRange(Draw.loguniform, (-9, -2)),
        "batch": SearchRange(Draw.qloguniform, (2, 5, 8)),
    }
    before = searched(space, 40, stop_at=20)
    after = searched(space, 40, past=list(before))
    assert after[:20] == before
    assert fmean(abs(float(trial.values["x"]) - 0.3) for trial in after[28:]) < 2.0
    assert {type(trial.values["n"]) for trial in after} == {int}
    assert all(int(trial.values["batch"]) % 8 == 0 for trial in after)
    assert make_sampler(spec("bayesian", space, 40))(40, after) is None


@pytest.mark.parametrize("stop_at", [1, 4, 15])
def test_resumed_bayesian_search_draws_the_same_values(stop_at: int) -> None:
    space = {"x": SearchRange(Draw.uniform, (-5, 5)), "lr": SearchRange(Draw.loguniform, (-9, -2))}
    whole = searched(space, 20)
    resumed = searched(space, 20, past=searched(space, 20, stop_at=stop_at))
    assert resumed == whole
    assert len({trial.values["x"] for trial in resumed}) == 20


def test_resumed_bayesian_search_accounts_for_running_trials() -> None:
    """They count as bad ones, so that others keep away from them, whoever started them."""
    space = {"x": SearchRange(Draw.uniform, (-5, 5))}
    before = searched(space, 40, stop_at=20)
    one = make_sampler(spec("bayesian", space, 40))
    past: list[Trial] = []
    for index in range(26):
        values = one(index, past)
        assert values is not None
        past.append(before[index] if index < 20 else Trial(index, values, (), is_over=False))
    wanted = one(26, past)
    resumed = make_sampler(spec("bayesian", space, 40))
    assert resumed(26, past) == wanted
    assert make_sampler(spec("bayesian", space, 40))(26, before) != wanted
    ended = [*past[:20], *(Trial(trial.index, trial.values, (0.5,), is_over=True) for trial in past[20:])]
    assert resumed(27, ended) is not None


def test_bayesian_search_continues_despite_trials_without_value() -> None:
    sampler = make_sampler(spec("bayesian", {"x": SearchRange(Draw.uniform, (0, 1))}, 10))
    past: list[Trial] = []
    for index, metric in enumerate([(), (math.nan,), (math.inf, 0.5), (1.0,)]):
        values = sampler(index, past)
        assert values is not None
        past.append(Trial(index, values, metric, is_over=index != 3))
    assert sampler(4, past) is not None
