"""`submit_to_azure_if_needed(hyperparam_args=…)`: hi-ml's dictionary becomes a sweep job."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from himl_cli.api.hyperdrive import EARLY_TERMINATION_ARG, sweep_of_args, trial_seconds_of
from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import Draw, EarlyStop, SearchRange, SweepSpec
from himl_cli.workspaces.azure.jobs.sdk import load_sdk
from tests.api.scripts import run_script, said, write_script
from tests.api.sent_scripts import CLUSTER, HERE, job_of, send
from tests.api.sent_scripts import lab as lab
from tests.servers.azureml.seeding import StagedWorkspace

HI_ML = """compute_cluster_name="cpu-cluster", hyperparam_args={
    PARAM_SAMPLING_ARG: {"learning_rate": Choice([0.1, 0.5, 0.9])}, MAX_TOTAL_TRIALS_ARG: 3, SAMPLING_ALGORITHM_ARG: "grid",
    PRIMARY_METRIC_ARG: "val/loss", GOAL_ARG: "Minimize"}"""
NAMES = "PARAM_SAMPLING_ARG, MAX_TOTAL_TRIALS_ARG, SAMPLING_ALGORITHM_ARG, PRIMARY_METRIC_ARG, GOAL_ARG"
SPACE: Mapping[str, Any] = {"lr": [0.1, 0.5, 0.9]}


def hi_ml_script(project: Path, call: str, after: str) -> Path:
    script = write_script(project, "train.py", call, after)
    quiet = "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore')\n    from azure.ai.ml.sweep import Choice\n"
    script.write_text(f"{quiet}from himl_cli import {NAMES}\n{script.read_text()}")
    return script


def test_hi_mls_example_is_sent_as_a_sweep(lab: StagedWorkspace, project: Path) -> None:
    send(hi_ml_script(project, HI_ML, HERE), "--epochs", "3")
    job = job_of(lab)
    assert job["jobType"] == "Sweep"
    assert job["searchSpace"] == {"learning_rate": ["choice", [[0.1, 0.5, 0.9]]]}
    assert job["samplingAlgorithm"] == {"samplingAlgorithmType": "Grid"}
    assert job["objective"] == {"goal": "minimize", "primaryMetric": "val/loss"}
    assert job["limits"]["maxTotalTrials"] == 3
    assert job["trial"]["command"] == "python train.py --epochs 3 --learning_rate ${{search_space.learning_rate}}"


def test_without_the_flag_the_script_runs_here_with_no_search(lab: StagedWorkspace, project: Path) -> None:
    assert said(hi_ml_script(project, HI_ML, "say(here=not info.is_running_in_azure_ml)")) == {"here": True}
    assert lab.requests() == []


def test_the_sweep_runs_and_is_waited_for(lab: StagedWorkspace, project: Path) -> None:
    call = f"""{CLUSTER}, wait_for_completion=True, hyperparam_args={{"parameter_sampling": {{"name": ["a b", "$HOME"]}}, "primary_metric": "score"}},
        after_submission=lambda job, client: print("AFTER", job.type, client.jobs.get(job.name).objective.primary_metric)"""
    after = "info.run.log('score', 1.0); (info.output_folder / 'said.json').write_text(json.dumps(sys.argv[1:]))"
    with lab.run_jobs():
        done = send(write_script(project, "train.py", call, after))
    assert "AFTER sweep score" in done.stdout
    (sweep,) = [run for run in lab.state.runs.values() if run.parent_id is None]
    trials = {run.run_id: json.loads(lab.artifacts(run.run_id)["outputs/said.json"]) for run in lab.state.runs.values() if run.parent_id}
    assert trials == {f"{sweep.run_id}_0": ["--name", "a b"], f"{sweep.run_id}_1": ["--name", "$HOME"]}
    assert sweep.status == "Completed"
    assert f"himl runs aggregate {sweep.run_id}" in " ".join(done.stderr.split())


def test_objects_of_azure_ai_ml_texts_and_lists_mean_the_same() -> None:
    load_sdk()
    from azure.ai.ml import sweep as sdk

    given = {
        "a": (sdk.Choice([1, "x"]), [1, "x"], SearchRange(Draw.choice, (1, "x"))),
        "b": (sdk.Uniform(0.0, 1.5), "uniform(0.0, 1.5)", SearchRange(Draw.uniform, (0.0, 1.5))),
        "c": (sdk.LogUniform(-6, -1), "loguniform(-6,-1)", SearchRange(Draw.loguniform, (-6, -1))),
        "d": (sdk.Normal(0, 2), "normal(0,2)", SearchRange(Draw.normal, (0, 2))),
        "e": (sdk.QLogNormal(0, 1, 1), "qlognormal(0,1,1)", SearchRange(Draw.qlognormal, (0, 1, 1))),
        "f": (sdk.QUniform(8, 32, 4), "quniform(8,32,4)", SearchRange(Draw.quniform, (8, 32, 4))),
        "g": (sdk.Randint(10), "randint(10)", SearchRange(Draw.randint, (10,))),
    }
    for index in (0, 1):
        found = sweep_of_args({"parameter_sampling": {name: forms[index] for name, forms in given.items()}, "max_total_trials": 5})
        assert dict(found.space) == {name: forms[2] for name, forms in given.items()}
        assert (found.sampling, found.max_trials) == ("random", 5)


def test_samplings_and_policies_of_azure_ai_ml_are_understood() -> None:
    load_sdk()
    from azure.ai.ml import sweep as sdk

    def of(**more: Any) -> SweepSpec:
        return sweep_of_args({"parameter_sampling": {"lr": "uniform(0,1)"}, "max_total_trials": 4, **more})

    assert (of(sampling_algorithm=sdk.RandomSamplingAlgorithm(seed=7)).seed, of(sampling_algorithm="random(seed=7)").seed) == (7, 7)
    assert of(sampling_algorithm=sdk.BayesianSamplingAlgorithm()).sampling == "bayesian"
    bandit = EarlyStop("bandit", 2, 5, slack_factor=0.1)
    assert of(early_termination=sdk.BanditPolicy(evaluation_interval=2, delay_evaluation=5, slack_factor=0.1)).early_stop == bandit
    assert of(early_termination="bandit(slack_factor=0.1, evaluation_interval=2, delay_evaluation=5)").early_stop == bandit
    assert of(early_termination=sdk.MedianStoppingPolicy(delay_evaluation=5)).early_stop == EarlyStop("median", 1, 5)
    truncation = sdk.TruncationSelectionPolicy(truncation_percentage=20, evaluation_interval=1)
    assert of(early_termination=truncation).early_stop == EarlyStop("truncation", truncation_percentage=20)
    assert of(max_concurrent_trials=2).max_concurrent == 2


def test_what_hi_ml_hands_to_azure_ai_ml_is_taken_by_its_name() -> None:
    given = {"parameter_sampling": SPACE, "early_termination_policy": "median_stopping", "timeout": 7200, "trial_timeout": 600, "max_concurrent_trials": 2}
    found = sweep_of_args(given)
    assert (found.early_stop, found.max_seconds, found.max_concurrent, trial_seconds_of(given)) == (EarlyStop("median"), 7200, 2, 600)
    assert EARLY_TERMINATION_ARG == "early_termination_policy"


def test_the_limits_of_a_sweep_and_its_trials_are_sent(lab: StagedWorkspace, project: Path) -> None:
    call = f'{CLUSTER}, hyperparam_args={{"parameter_sampling": {{"lr": [0.1, 0.2]}}, "timeout": 7200, "trial_timeout": 600}}'
    send(write_script(project, "train.py", call, HERE))
    limits = job_of(lab)["limits"]
    assert (limits["timeout"], limits["trialTimeout"]) == ("PT2H", "PT10M")
    both = run_script(write_script(project, "both.py", f'{call}, max_run_duration="1h"', HERE), "--azureml")
    assert "max_run_duration and hyperparam_args' trial_timeout are two limits of each trial" in both.stderr


def test_a_grid_has_no_more_trials_than_points() -> None:
    assert sweep_of_args({"parameter_sampling": SPACE, "max_total_trials": 50}).max_trials == 3
    assert sweep_of_args({"parameter_sampling": SPACE, "max_total_trials": 2}).max_trials == 2
    assert sweep_of_args({"parameter_sampling": SPACE}).max_trials == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"parameter_samplin": SPACE}, "unknown 'parameter_samplin'"),
        ({"primary_metric": "loss"}, "'parameter_sampling' is missing"),
        ([1], "hyperparam_args is a dictionary, not list"),
        ({"parameter_sampling": [0.1]}, "dictionary by name, not list"),
        ({"parameter_sampling": {"lr": 0.1}}, "'lr': float is nothing to draw values from"),
        ({"parameter_sampling": {"lr": [[0.1]]}}, "neither a number nor a text"),
        ({"parameter_sampling": {"-l": [0.1]}}, "'-l'"),
        ({"parameter_sampling": {"lr": "uniform(1)"}}, "uniform takes 2 arguments"),
        ({"parameter_sampling": {"lr": "uniform(0,1)"}}, "'max_total_trials' is missing"),
        ({"parameter_sampling": SPACE, "max_total_trials": "many"}, "whole number"),
        ({"parameter_sampling": SPACE, "compute": "gpu"}, "'compute' cannot be given here"),
        ({"parameter_sampling": SPACE, "timeout": "2h"}, "'timeout' is a number of seconds"),
        ({"parameter_sampling": SPACE, "early_termination": "median", "early_termination_policy": "median"}, "are the same"),
        ({"parameter_sampling": SPACE, "sampling_algorithm": "sobol"}, "no sampling 'sobol'"),
        ({"parameter_sampling": SPACE, "early_termination": "bandit(slack=1)"}, "unknown 'slack'"),
    ],
)
def test_what_cannot_be_sent_is_said(given: Mapping[str, Any], words: str) -> None:
    with pytest.raises(BadUsage, match=words.replace("(", r"\(")):
        sweep_of_args(given)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('"sampling_algorithm": "bayesian", "max_total_trials": 20, "early_termination": "median"', "sampling_algorithm bayesian and early_termination"),
        ('"goal": "best"', "goal cannot be 'best'"),
        ('"max_total_trials": 0', "max_total_trials 0: at least 1 is needed"),
    ],
)
def test_invalid_hyperparam_args_are_value_error_before_request(lab: StagedWorkspace, project: Path, more: str, words: str) -> None:
    call = f'{CLUSTER}, hyperparam_args={{"parameter_sampling": {{"lr": [0.1, 0.2]}}, {more}}}'
    script = write_script(project, "train.py", call, "")
    script.write_text(script.read_text().replace("info = ", "try:\n    info = ") + "except ValueError as err:\n    print('ValueError', err)\n")
    done = run_script(script, "--azureml")
    assert words in done.stdout, done.stderr
    assert lab.requests() == []
