"""How sweeps of the double and their trials end: by failing, by a policy, by a cancelation, by their time."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.servers.azureml.jobs.sweeps.policies import is_ended, is_looked_at
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.submitting import call
from tests.servers.sweeping import LOGS, RATES, limits, statuses, submit_sweep, swept
from tests.support.running import until

WAITS = "touch outputs; sleep 600"


def test_some_failing_trials_do_not_fail_the_sweep(running: StagedWorkspace) -> None:
    swept(running, "[ ${{search_space.lr}} != 0.2 ]", RATES)
    assert statuses(running) == ["Completed", "Failed", "Completed", "Completed"]


def test_a_sweep_can_be_made_to_fail_with_any_trial(azure: StagedWorkspace) -> None:
    with azure.run_jobs(fails_with_a_trial=True):
        sweep = swept(azure, "[ ${{search_space.lr}} != 0.2 ]", RATES, "Failed")
    assert sweep.error is not None


def test_when_the_first_three_fail_no_more_are_started(running: StagedWorkspace) -> None:
    sweep = swept(running, "exit 1", RATES, "Failed")
    assert statuses(running) == ["Failed"] * 3
    assert "initial child jobs have failed due to user error" in str(sweep.error)


def test_a_sweep_of_two_that_fail_has_other_words(running: StagedWorkspace) -> None:
    sweep = swept(running, "exit 1", {"lr": ["choice", [[0.1, 0.2]]]}, "Failed")
    assert "User errors were found in at least one of the child runs." in str(sweep.error)


BANDIT = {"policyType": "Bandit", "slackAmount": 0.2}
MEDIAN = {"policyType": "MedianStopping"}
TRUNCATION = {"policyType": "TruncationSelection", "truncationPercentage": 50}


@pytest.mark.parametrize("policy", [BANDIT, MEDIAN, TRUNCATION], ids=lambda policy: str(policy["policyType"]))
def test_a_policy_ends_the_trial_that_falls_behind(running: StagedWorkspace, policy: dict[str, Any]) -> None:
    command = f"{LOGS} ${{{{search_space.lr}}}} ${{{{search_space.lr}}}}; [ ${{{{search_space.lr}}}} = 0.6 ] || sleep 600"
    rates = {"lr": ["choice", [[0.6, 0.1]]]}
    sweep = swept(running, command, rates, earlyTermination={**policy, "evaluationInterval": 1, "delayEvaluation": 2})
    assert statuses(running) == ["Completed", "Canceled"]
    assert "[sweep_1_1] have been marked for cancel" in running.artifacts("sweep_1")["azureml-logs/hyperdrive.txt"].decode()
    assert sweep.properties["best_child_run_id"] == "sweep_1_0"


@pytest.mark.parametrize(
    ("policy", "ended"),
    [
        (BANDIT, "a"),
        ({"policyType": "Bandit", "slackFactor": 0.2}, "ab"),
        ({"policyType": "Bandit", "slackFactor": 3}, ""),
        (MEDIAN, "a"),
        (TRUNCATION, "ab"),
        ({"policyType": "TruncationSelection", "truncationPercentage": 40}, "a"),
    ],
    ids=str,
)
@pytest.mark.parametrize("maximize", [True, False])
def test_a_policy_compares_what_was_logged_by_the_same_interval(policy: dict[str, Any], ended: str, *, maximize: bool) -> None:
    series = {"a": [0.3, 0.25], "b": [0.2, 0.45, 9.0], "c": [math.nan, 0.6, 9.0], "d": [0.5, 0.6]}
    if not maximize:
        series = {name: [1 / value if policy.get("slackFactor") else -value for value in values] for name, values in series.items()}
    assert "".join(name for name in series if is_ended(policy, name, 2, series, maximize=maximize)) == ended


def test_truncation_ranks_those_that_came_as_far() -> None:
    policy = {"policyType": "TruncationSelection", "truncationPercentage": 50}
    series = {"a": [0.1], "b": [0.3, 0.2], "c": [0.4, 0.4]}
    assert [name for name in series if is_ended(policy, name, 2, series, maximize=True)] == ["b"]


def test_policy_is_evaluated_at_interval_multiples_after_delay() -> None:
    policy = {"evaluationInterval": 2, "delayEvaluation": 3}
    assert [interval for interval in range(1, 9) if is_looked_at(policy, interval)] == [4, 6, 8]


def test_a_cancelation_reaches_all_trials(running: StagedWorkspace) -> None:
    submit_sweep(running, WAITS, RATES, limits=limits(4, 2))
    until(lambda: statuses(running) == ["Running"] * 2, lambda: statuses(running))
    assert call(running, "POST", "/jobs/sweep_1/cancel").status == 202
    sweep = running.wait_for("sweep_1", "Canceled")
    assert statuses(running) == ["Canceled"] * 2
    assert sweep.tags["_aml_system_cancellation_requested"] == "true"


def test_one_trial_is_canceled_alone(running: StagedWorkspace) -> None:
    submit_sweep(running, "[ ${{search_space.lr}} != 0.1 ] || sleep 600", RATES)
    until(lambda: statuses(running) == ["Running"], lambda: statuses(running))
    history = f"https://{running.state.data_plane_host}/history/v1.0{running.state.path}/experiments/e/runs/sweep_1_0/cancel"
    assert call(running, "POST", history).status == 200
    running.wait_for("sweep_1", "Completed")
    assert statuses(running) == ["Canceled", "Completed", "Completed", "Completed"]


def test_times_end_trials_and_the_sweep(azure: StagedWorkspace) -> None:
    with azure.run_jobs(minute=1.0):
        swept(azure, "sleep 600", {"lr": ["choice", [[1]]]}, limits=limits(1, 1, trialTimeout="PT1M"))
        assert statuses(azure) == ["Canceled"]
        azure.state.forget_run("sweep_1")
        swept(azure, "sleep 600", RATES, "Canceled", limits=limits(4, 4, timeout="PT1M"))
