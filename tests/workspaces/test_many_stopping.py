"""Early stopping: whom each policy stops, at which interval, and whom it never stops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.jobs import EarlyStop
from himl_cli.workspaces.local.sampling import Trial, last_interval, trials_to_stop
from tests.servers.azureml.jobs.sweeps.policies import is_ended

VALUES = st.floats(allow_nan=True, allow_infinity=True, width=32)
METRICS = st.lists(st.tuples(st.lists(VALUES, max_size=8), st.booleans()), max_size=8)
POLICIES = st.sampled_from(
    [
        EarlyStop("bandit", slack_factor=0.2),
        EarlyStop("bandit", slack_amount=0.5, evaluation_interval=2),
        EarlyStop("median", delay_evaluation=2),
        EarlyStop("truncation", truncation_percentage=30),
    ]
)


def trials(*metrics: Sequence[float], over: Sequence[int] = ()) -> list[Trial]:
    return [Trial(index, {}, tuple(metric), is_over=index in over) for index, metric in enumerate(metrics)]


@pytest.mark.parametrize(
    ("goal", "best", "kept", "stopped"),
    [
        ("maximize", 0.8, 0.67, 0.66),  # 0.8 / 1.2 is 0.667: the example of Azure ML's documentation
        ("minimize", 0.5, 0.6, 0.61),
        ("minimize", -1.0, -0.84, -0.83),
        ("maximize", -1.0, -1.19, -1.21),
    ],
)
def test_bandit_stops_trials_beyond_slack_factor_of_best(goal: str, best: float, kept: float, stopped: float) -> None:
    found = trials_to_stop(EarlyStop("bandit", slack_factor=0.2), goal, trials([best], [kept], [stopped], over=[0]))
    assert list(found) == [2]
    assert "stopped early by bandit at interval 1" in found[2]
    assert "trial 0" in found[2]


@pytest.mark.parametrize(("goal", "kept", "stopped"), [("minimize", 1.2, 1.3), ("maximize", 0.8, 0.7)])
def test_bandit_with_an_amount(goal: str, kept: float, stopped: float) -> None:
    assert list(trials_to_stop(EarlyStop("bandit", slack_amount=0.25), goal, trials([1.0], [kept], [stopped]))) == [2]


def test_bandit_compares_best_values_at_the_same_interval() -> None:
    policy = EarlyStop("bandit", slack_factor=0.1)
    was_good = trials([0.5, 0.4, 0.1], [0.43, 9.0])
    assert trials_to_stop(policy, "minimize", was_good) == {}, "the first had 0.4 at interval 2, not yet 0.1"
    assert list(trials_to_stop(policy, "minimize", trials([0.5, 0.4, 0.1], [0.45, 0.45, 0.45]))) == [1]


@pytest.mark.parametrize(("logged", "is_stopped"), [(1, False), (3, False), (4, True), (5, True), (7, True)])
def test_intervals_and_delay(logged: int, is_stopped: bool) -> None:
    policy = EarlyStop("bandit", slack_factor=0.1, evaluation_interval=2, delay_evaluation=4)
    found = trials_to_stop(policy, "minimize", trials([0.1] * 8, [0.9] * logged, over=[0]))
    assert bool(found) is is_stopped
    if is_stopped:
        assert f"at interval {logged - logged % 2}" in found[1]


def test_median_compares_the_best_value_with_the_averages_of_all() -> None:
    averages = ([1.0, 3.0], [2.0, 2.0], [4.0, 4.0])  # running averages 2, 2 and 4: their median is 2
    assert list(trials_to_stop(EarlyStop("median"), "minimize", trials(*averages))) == [2]
    assert list(trials_to_stop(EarlyStop("median"), "maximize", trials([1.0, 1.0], [2.0, 2.0], [4.0, 4.0]))) == [0]
    assert trials_to_stop(EarlyStop("median"), "minimize", trials([5.0, 6.0])) == {}, "alone it is its own median"


def test_median_includes_values_of_earlier_stopped_trials() -> None:
    found = trials_to_stop(EarlyStop("median"), "minimize", trials([9.0], [9.0], [5.0, 5.0, 5.0], over=[0, 1]))
    assert found == {}


def test_truncation_stops_the_worst_of_those_that_came_as_far() -> None:
    policy = EarlyStop("truncation", truncation_percentage=40)
    five = trials([0.1], [0.5], [0.3], [0.4], [0.2])
    assert set(trials_to_stop(policy, "minimize", five)) == {1, 3}
    assert set(trials_to_stop(policy, "maximize", five)) == {0, 4}
    assert trials_to_stop(EarlyStop("truncation", truncation_percentage=30), "minimize", trials([0.1], [0.2], [0.3])) == {}


def test_truncation_counts_already_stopped_trials() -> None:
    """It does not stop the next worst trials at the same interval in their place."""
    policy = EarlyStop("truncation", truncation_percentage=40)
    assert trials_to_stop(policy, "minimize", trials([0.1], [0.5], [0.3], [0.4], [0.2], over=[1, 3])) == {}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("goal", ["minimize", "maximize"])
@pytest.mark.parametrize("policy", [EarlyStop("bandit", slack_factor=0.1), EarlyStop("median"), EarlyStop("truncation", truncation_percentage=50)])
def test_values_that_are_no_numbers_never_win_and_never_stop(odd: float, goal: str, policy: EarlyStop) -> None:
    assert 1 not in trials_to_stop(policy, goal, trials([0.5, 0.5], [odd, odd]))
    assert trials_to_stop(policy, goal, trials([odd, odd], [0.5, 0.5])) == {}


@given(policy=POLICIES, goal=st.sampled_from(["minimize", "maximize"]), metrics=METRICS)
def test_early_stop_handles_any_metric_and_keeps_best_trial(policy: EarlyStop, goal: str, metrics: list[tuple[list[float], bool]]) -> None:
    all_trials = [Trial(index, {}, tuple(metric), is_over=is_over) for index, (metric, is_over) in enumerate(metrics)]
    found = trials_to_stop(policy, goal, all_trials)
    assert all(not all_trials[index].is_over and index < len(all_trials) for index in found)
    finite = [[value for value in trial.metric if math.isfinite(value)] for trial in all_trials]
    assert all(finite[index] for index in found)
    same_length = len({len(trial.metric) for trial in all_trials}) == 1 and bool(all_trials[0].metric) if all_trials else False
    if same_length and policy.evaluation_interval == 1 and any(finite):
        pick = min if goal == "minimize" else max
        best = pick(value for values in finite for value in values)
        winners = {index for index, values in enumerate(finite) if best in values}
        assert not winners <= set(found), "of the best ones one at least goes on"


@given(policy=POLICIES, metrics=METRICS)
def test_goals_are_mirrors(policy: EarlyStop, metrics: list[tuple[list[float], bool]]) -> None:
    low = [Trial(index, {}, tuple(metric), is_over=is_over) for index, (metric, is_over) in enumerate(metrics)]
    high = [Trial(index, {}, tuple(-value for value in metric), is_over=is_over) for index, (metric, is_over) in enumerate(metrics)]
    assert set(trials_to_stop(policy, "minimize", low)) == set(trials_to_stop(policy, "maximize", high))


def test_truncation_skips_shorter_trials_but_counts_ended_ones() -> None:
    policy = EarlyStop("truncation", truncation_percentage=50)
    assert list(trials_to_stop(policy, "maximize", trials([0.1], [0.3, 0.2], [0.4, 0.4], over=[0]))) == [1]
    assert trials_to_stop(policy, "maximize", trials([0.1, 0.1], [0.3, 0.2], over=[0])) == {}, "the finished one is the worst"


WIRE = {"bandit": "Bandit", "median": "MedianStopping", "truncation": "TruncationSelection"}


@given(policy=POLICIES, goal=st.sampled_from(["minimize", "maximize"]), metrics=METRICS)
def test_early_stop_decides_like_the_fake_azure_ml(policy: EarlyStop, goal: str, metrics: list[tuple[list[float], bool]]) -> None:
    fields = {"slackFactor": policy.slack_factor, "slackAmount": policy.slack_amount, "truncationPercentage": policy.truncation_percentage}
    wire = {"policyType": WIRE[policy.policy], **fields}
    series = {str(index): metric for index, (metric, _) in enumerate(metrics)}
    due = {index: last_interval(policy, len(metric)) for index, (metric, is_over) in enumerate(metrics) if not is_over}
    there = {index for index, interval in due.items() if interval and is_ended(wire, str(index), interval, series, maximize=goal == "maximize")}
    all_trials = [Trial(index, {}, tuple(metric), is_over=is_over) for index, (metric, is_over) in enumerate(metrics)]
    assert set(trials_to_stop(policy, goal, all_trials)) == there
