"""Sweeps that the double really runs: what is drawn, how many run, what they are given and leave, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.submitting import call
from tests.servers.sweeping import LOGS, RATES, limits, put_sweep, statuses, submit_sweep, swept, trials, values
from tests.support.running import until

RANDOM = {"samplingAlgorithmType": "Random", "seed": 7}
BAYESIAN = {"samplingAlgorithmType": "Bayesian"}


def printed(azure: StagedWorkspace, index: int) -> str:
    return azure.artifacts(f"sweep_1_{index}")["user_logs/std_log.txt"].decode()


def test_grid_runs_each_point_with_values_in_command_and_env(running: StagedWorkspace) -> None:
    swept(running, "echo ${{search_space.lr}} ${{ search_space.depth }} $AZUREML_SWEEP_lr $AZUREML_SWEEP_depth $AZUREML_RUN_ID")
    assert values(running) == [{"lr": lr, "depth": depth} for lr in (0.1, 0.01) for depth in (3, 5)]
    assert [printed(running, index) for index in range(4)] == [
        f"{lr} {depth} {lr} {depth} sweep_1_{index}\n" for index, (lr, depth) in enumerate([(0.1, 3), (0.1, 5), (0.01, 3), (0.01, 5)])
    ]
    assert statuses(running) == ["Completed"] * 4
    assert running.state.runs["sweep_1"].tags["_aml_system_sweep_1_2"] == '{"lr": 0.01, "depth": 3}'


def test_new_sweep_is_running_with_service_tags(azure: StagedWorkspace) -> None:
    answer = put_sweep(azure, "echo ${{search_space.lr}}", earlyTermination={"policyType": "Bandit", "slackFactor": 0.1, "evaluationInterval": 2})
    told = answer.json["properties"]
    assert (answer.status, told["status"], told["objective"]["goal"], "Tracking" in told["services"]) == (201, "Running", "Maximize", False)
    assert len(told["tags"]["_aml_system_platform_config"]) > 7000
    assert json.loads(told["tags"]["_aml_system_policy_config"]) == {
        "name": "Bandit",
        "properties": {"evaluation_interval": 2, "delay_evaluation": 0, "slack_factor": 0.1},
    }
    assert told["tags"]["_aml_system_max_duration_minutes"] == "60"
    assert (told["properties"]["runTemplate"], told["properties"]["space_size"]) == ("HyperDrive", "4")
    assert json.loads(told["properties"]["primary_metric_config"]) == {"name": "accuracy", "goal": "maximize"}


def test_what_a_sweep_without_limits_says_of_itself(azure: StagedWorkspace) -> None:
    policy = {"policyType": "TruncationSelection", "truncationPercentage": 20}
    told = put_sweep(azure, "true", limits={"jobLimitsType": "Sweep", "maxTotalTrials": 200}, earlyTermination=policy).json["properties"]
    assert (told["tags"]["_aml_system_max_duration_minutes"], told["tags"]["_aml_system_max_concurrent_jobs"]) == ("86400", "200")
    assert (told["limits"]["maxTotalTrials"], told["limits"]["maxConcurrentTrials"], told["limits"]["timeout"]) == (200, None, None)
    assert json.loads(told["tags"]["_aml_system_policy_config"])["properties"]["exclude_finished_jobs"] is False


WORDS = {"word": ["choice", [["a  b"]]]}


@pytest.mark.parametrize(("way", "single", "plain", "double"), [("variable", "$AZUREML_SWEEP_word", "a b", "a  b"), ("text", "a  b", "a b", "a  b")])
def test_what_stands_for_a_value_in_a_command(azure: StagedWorkspace, way: str, single: str, plain: str, double: str) -> None:
    placeholder = "${{search_space.word}}"
    with azure.run_jobs(values_by=way):
        swept(azure, f'echo \'{placeholder}\'; echo {placeholder}; echo "{placeholder}"; echo "$AZUREML_SWEEP_word"', WORDS)
    assert printed(azure, 0).splitlines() == [single, plain, double, "a  b"]


@pytest.mark.parametrize(
    ("place", "of_trial", "of_sweep"),
    [
        ("tag", ["hyperparameters", "_aml_system_hyperparameters"], "_aml_system_sweep_1_0"),
        ("old_tag", ["hyperparameters"], "_aml_system_sweep_1_0"),
        ("system_tag", ["_aml_system_hyperparameters"], "_aml_system_sweep_1_0"),
        ("sweep", [], "_aml_system_sweep_1_0"),
        ("old_sweep", [], "sweep_1_0"),
    ],
)
def test_where_the_values_of_a_trial_are_recorded(azure: StagedWorkspace, place: str, of_trial: list[str], of_sweep: str) -> None:
    with azure.run_jobs(values_in=place):
        sweep = swept(azure, "true", {"lr": ["choice", [[0.1]]]})
    assert azure.state.runs["sweep_1_0"].tags == dict.fromkeys(of_trial, '{"lr": 0.1}')
    assert [name for name in sweep.tags if name.endswith("sweep_1_0")] == [of_sweep]


def test_children_are_runs_with_parent_and_root(running: StagedWorkspace) -> None:
    swept(running, "true", RATES)
    history = f"https://{running.state.data_plane_host}/history/v1.0{running.state.path}"
    children = call(running, "GET", f"{history}/runs/sweep_1/children").json["value"]
    assert {(child["parentRunId"], child["rootRunId"], child["runType"], child["target"]) for child in children} == {
        ("sweep_1", "sweep_1", "azureml.scriptrun", "cpu-cluster")
    }
    assert {child["runId"]: json.loads(child["tags"]["hyperparameters"])["lr"] for child in children} == {
        f"sweep_1_{index}": lr for index, lr in enumerate((0.1, 0.2, 0.3, 0.4))
    }


def test_random_points_are_drawn_by_their_seed(running: StagedWorkspace) -> None:
    space = {"lr": ["uniform", [0.001, 0.1]], "width": ["randint", [8]], "decay": ["loguniform", [-6, -1]], "noise": ["qnormal", [0, 50, 4]]}
    found = []
    for _ in range(2):
        swept(running, "true", space, samplingAlgorithm=RANDOM, limits=limits(3, 3))
        found.append(values(running))
        for name in ["sweep_1", *running.state.runs["sweep_1"].children]:
            running.state.forget_run(name)
    assert found[0] == found[1]
    assert len({json.dumps(one) for one in found[0]}) == 3
    for one in found[0]:
        assert 0.001 <= one["lr"] <= 0.1
        assert one["width"] in range(8)
        assert 0.002 < one["decay"] < 0.37
        assert one["noise"] % 4 == 0


def test_random_points_of_a_small_space_are_not_drawn_twice(running: StagedWorkspace) -> None:
    swept(running, "true", RATES, samplingAlgorithm={"samplingAlgorithmType": "Random"}, limits=limits(20, 4))
    assert sorted(one["lr"] for one in values(running)) == [0.1, 0.2, 0.3, 0.4]


def test_bayesian_sampling_stays_within_the_space(running: StagedWorkspace) -> None:
    swept(running, "true", {"lr": ["quniform", [0, 100, 25]]}, samplingAlgorithm={"samplingAlgorithmType": "Bayesian"}, limits=limits(2, 1))
    assert all(one["lr"] in (0, 25, 50, 75, 100) for one in values(running))


def test_no_more_trials_run_at_a_time_than_the_limit_allows(azure: StagedWorkspace) -> None:
    with azure.run_jobs(hold="Running") as jobs:
        submit_sweep(azure, "true", RATES, limits=limits(4, 3))
        until(lambda: statuses(azure) == ["Running"] * 3, lambda: statuses(azure))
        jobs.release("sweep_1_1")
        until(lambda: len(trials(azure)) == 4, lambda: statuses(azure))
        assert statuses(azure)[1] == "Completed"
        jobs.release()
        azure.wait_for("sweep_1", "Completed")


def test_the_total_of_trials_is_limited(running: StagedWorkspace) -> None:
    swept(running, "true", RATES, limits=limits(2, 4))
    assert len(trials(running)) == 2


def test_the_best_trial_is_named_and_kept_in_a_table(running: StagedWorkspace) -> None:
    sweep = swept(running, f"{LOGS} ${{{{search_space.lr}}}} 0.15", RATES)
    assert (sweep.properties["best_child_run_id"], sweep.properties["score"]) == ("sweep_1_3", "0.4")
    rows = [point.data for point in sweep.metrics["best_child_by_primary_metric"].points]
    assert [(row["run_id"], row["metric_value"], row["final"]) for row in rows][-2:] == [("sweep_1_3", 0.4, False), ("sweep_1_3", 0.4, True)]


def test_its_log_tells_what_was_started_and_how_it_ended(running: StagedWorkspace) -> None:
    swept(running, "true", RATES)
    log = running.artifacts("sweep_1")["azureml-logs/hyperdrive.txt"].decode()
    assert "Scheduling job, id='sweep_1_3'" in log
    assert log.rstrip().endswith("Changing Run Status from Running to Completed")
    history = f"https://{running.state.data_plane_host}/history/v1.0{running.state.path}/runs/sweep_1/details"
    assert list(call(running, "GET", history).json["logFiles"]) == ["azureml-logs/hyperdrive.txt"]


def test_an_older_sweep_has_a_child_that_is_no_trial(azure: StagedWorkspace) -> None:
    with azure.run_jobs(prepares=True):
        sweep = swept(azure, "true", RATES)
    assert [child for child in sweep.children if "hyperparameters" not in azure.state.runs[child].tags] == ["sweep_1_preparation"]


@pytest.mark.parametrize(
    "change",
    [
        {"samplingAlgorithm": {"samplingAlgorithmType": "Sobol"}},
        {"samplingAlgorithm": {"samplingAlgorithmType": "Bayesian"}, "earlyTermination": {"policyType": "MedianStopping"}},
        {"samplingAlgorithm": {"samplingAlgorithmType": "Bayesian"}, "space": {"lr": ["normal", [0, 1]]}},
        {"space": {}},
        {"space": {"lr": ["choice", [[]]]}},
        {"space": {"lr": ["choice", [1, 2]]}},
        {"space": {"lr": ["uniform", [1]]}},
        {"space": {"lr": ["uniform", [2, 1]]}},
        {"space": {"lr": ["dance", [2, 1]]}},
        {"space": {"lr": ["uniform", [0, 1]]}},
        {"space": {"lr": ["randint", [0]]}, "samplingAlgorithm": RANDOM},
        {"limits": limits(1001, 1)},
        {"limits": limits(1, 0)},
        {"limits": limits(200, 101)},
        {"space": {"lr": ["quniform", [0, 1, 0.1]]}, "samplingAlgorithm": RANDOM},
        {"space": {"lr": ["quniform", [0.0, 10, 1]]}, "samplingAlgorithm": BAYESIAN},
        {"space": {"lr": ["quniform", [0, 100_001, 1]]}, "samplingAlgorithm": BAYESIAN},
        {"space": {"lr": ["choice", [[1, "a"]]]}, "samplingAlgorithm": BAYESIAN},
        {"limits": limits(1, 1, timeout="an hour")},
        {"objective": {"goal": "maximize"}},
        {"objective": {"goal": "win", "primaryMetric": "a"}},
        {"earlyTermination": {"policyType": "Bandit"}},
        {"earlyTermination": {"policyType": "Whim"}},
        {"earlyTermination": {"policyType": "TruncationSelection", "truncationPercentage": 100}},
        {"trial": {"command": "echo ${{search_space.other}}"}},
        {"trial": {"command": ""}},
        {"computeId": "/computes/none"},
    ],
    ids=str,
)
def test_what_cannot_be_swept_is_refused(azure: StagedWorkspace, change: dict[str, Any]) -> None:
    space = change.pop("space", RATES)
    assert put_sweep(azure, "echo", space, **change).status == 400
    assert azure.state.runs == {}


def test_sweep_sent_twice_is_refused_and_keeps_its_tags(azure: StagedWorkspace) -> None:
    submit_sweep(azure, "true", RATES)
    before = dict(azure.state.runs["sweep_1"].tags)
    again = put_sweep(azure, "true", RATES)
    causes = [one["info"]["value"]["code"] for one in again.json["error"]["additionalInfo"] if one["type"] == "InnerError"]
    assert (again.status, causes) == (400, ["JobPropertyImmutable"])
    assert azure.state.runs["sweep_1"].tags == before
    told = call(azure, "GET", "/jobs/sweep_1").json["properties"]
    assert call(azure, "PUT", "/jobs/sweep_1", {"properties": {**told, "displayName": "other"}}).status == 200


def test_inputs_and_outputs_of_trials_have_places_of_their_own(running: StagedWorkspace) -> None:
    running.put_blobs("workspaceblobstore", {"scans/a.txt": b"data"})
    inputs = {"scans": {"jobInputType": "uri_folder", "uri": "azureml://datastores/workspaceblobstore/paths/scans/", "mode": "ReadOnlyMount"}}
    outputs = {"model": {"jobOutputType": "uri_folder", "mode": "ReadWriteMount"}}
    command = 'cat "$AZUREML_SWEEP_scans/a.txt" > ${{outputs.model}}/copy.txt; echo ${{search_space.lr}} >> ${{outputs.model}}/copy.txt'
    swept(running, command, RATES, inputs=inputs, outputs=outputs, limits=limits(2, 2))
    assert [running.get_blob("workspaceblobstore", f"azureml/sweep_1_{index}/model/copy.txt") for index in range(2)] == [b"data0.1\n", b"data0.2\n"]


@pytest.mark.parametrize(("which", "names"), [("own", ["sweep_1_0", "sweep_1_1"]), ("sweep", ["sweep_1"])])
def test_whose_name_stands_in_the_place_of_an_output(azure: StagedWorkspace, which: str, names: list[str]) -> None:
    uri = "azureml://datastores/workspaceblobstore/paths/made/${{name}}/"
    outputs = {"model": {"jobOutputType": "uri_folder", "mode": "ReadWriteMount", "uri": uri}}
    with azure.run_jobs(trial_name=which):
        swept(azure, "echo ${{search_space.lr}} > ${{outputs.model}}/rate.txt", RATES, outputs=outputs, limits=limits(2, 1))
    assert sorted(name for name in azure.blob_names("workspaceblobstore") if name.startswith("made/")) == [f"made/{name}/rate.txt" for name in names]
