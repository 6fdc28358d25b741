"""Tests of `hyperparam_args=` and `hyperdrive_config=`, which become sweeps with either SDK, and of dataset names in
scripts.
"""

from __future__ import annotations

import inspect
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from himl_cli import (
    DatasetConfig,
    create_crossval_hyperdrive_config,
    create_crossval_hyperparam_args_v2,
    create_grid_hyperdrive_config,
    create_grid_hyperparam_args_v2,
)
from himl_cli.api.hyperdrive import EARLY_TERMINATION_ARG, sweep_of_args, sweep_of_config, trial_seconds_of
from himl_cli.api.submit_if_needed import as_configs
from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DataSpec
from himl_cli.core.sweeps import Draw, EarlyStop, SearchRange, SweepSpec
from himl_cli.workspaces.azure.jobs.sdk import load_sdk
from tests.api.scripts import CLUSTER, HERE, job_of, run_script, send, write_script
from tests.api.scripts import lab as lab
from tests.azure.lab import client_python
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.clients import HIML_V1

HI_ML = """compute_cluster_name="cpu-cluster", hyperparam_args={
    PARAM_SAMPLING_ARG: {"learning_rate": Choice([0.1, 0.5, 0.9])}, MAX_TOTAL_TRIALS_ARG: 3,
        SAMPLING_ALGORITHM_ARG: "grid",
    PRIMARY_METRIC_ARG: "val/loss", GOAL_ARG: "Minimize"}"""
NAMES = "PARAM_SAMPLING_ARG, MAX_TOTAL_TRIALS_ARG, SAMPLING_ALGORITHM_ARG, PRIMARY_METRIC_ARG, GOAL_ARG"
SPACE: Mapping[str, Any] = {"lr": [0.1, 0.5, 0.9]}


@pytest.mark.large("takes long, and other tests run its branches")
def test_hi_mls_example_is_sent_as_a_sweep(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", f'{HI_ML[:-1]}, "timeout": 7200, "trial_timeout": 600}}', HERE)
    quiet = (
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore')\n"
        "    from azure.ai.ml.sweep import Choice\n"
    )
    script.write_text(f"{quiet}from himl_cli import {NAMES}\n{script.read_text()}")
    assert run_script(script).stdout == "this ran here\n"
    assert lab.requests() == []
    send(script, "--epochs", "3")
    job = job_of(lab)
    assert job["jobType"] == "Sweep"
    assert job["searchSpace"] == {"learning_rate": ["choice", [[0.1, 0.5, 0.9]]]}
    assert job["samplingAlgorithm"] == {"samplingAlgorithmType": "Grid"}
    assert job["objective"] == {"goal": "minimize", "primaryMetric": "val/loss"}
    assert (job["limits"]["maxTotalTrials"], job["limits"]["timeout"], job["limits"]["trialTimeout"]) == (
        3,
        "PT2H",
        "PT10M",
    )
    assert job["trial"]["command"] == "python train.py --epochs 3 --learning_rate ${{search_space.learning_rate}}"


@pytest.mark.large("takes long, and other tests run its branches")
def test_sweep_runs_with_prefix_and_is_waited_for(lab: StagedWorkspace, project: Path) -> None:
    call = f"""{CLUSTER}, wait_for_completion=True, hyperdrive_argument_prefix="+",
        hyperparam_args={{"parameter_sampling": {{"name": ["a b", "$HOME"]}}, "primary_metric": "score"}},
        after_submission=lambda job, client: print("AFTER", job.type,
            client.jobs.get(job.name).objective.primary_metric)"""
    after = "info.run.log('score', 1.0); (info.output_folder / 'said.json').write_text(json.dumps(sys.argv[1:]))"
    with lab.run_jobs():
        done = send(write_script(project, "train.py", call, after))
    assert "AFTER sweep score" in done.stdout
    (sweep,) = [run for run in lab.state.runs.values() if run.parent_id is None]
    trials = {
        run.run_id: json.loads(lab.artifacts(run.run_id)["outputs/said.json"])
        for run in lab.state.runs.values()
        if run.parent_id
    }
    assert trials == {f"{sweep.run_id}_0": ["+name=a b"], f"{sweep.run_id}_1": ["+name=$HOME"]}
    assert sweep.status == "Completed"
    assert f"himl runs aggregate {sweep.run_id}" in " ".join(done.stderr.split())


def test_objects_of_azure_ai_ml_texts_and_lists_mean_the_same() -> None:
    load_sdk()
    from azure.ai.ml import sweep as sdk

    limits = {"timeout": 7200, "trial_timeout": 600, "max_concurrent_trials": 2}
    given: dict[str, Any] = {"parameter_sampling": SPACE, "early_termination_policy": "median_stopping", **limits}
    found = sweep_of_args(given)
    assert (found.early_stop, found.max_seconds, found.max_concurrent, trial_seconds_of(given)) == (
        EarlyStop("median"),
        7200,
        2,
        600,
    )
    assert EARLY_TERMINATION_ARG == "early_termination_policy"
    for most, trials in ((50, 3), (2, 2), (None, 3)):  # a grid has only as many trials as points
        assert (
            sweep_of_args({"parameter_sampling": SPACE, **({"max_total_trials": most} if most else {})}).max_trials
            == trials
        )
    forms = {
        "a": (sdk.Choice([1, "x"]), [1, "x"], SearchRange(Draw.choice, (1, "x"))),
        "b": (sdk.Uniform(0.0, 1.5), "uniform(0.0, 1.5)", SearchRange(Draw.uniform, (0.0, 1.5))),
        "c": (sdk.LogUniform(-6, -1), "loguniform(-6,-1)", SearchRange(Draw.loguniform, (-6, -1))),
        "d": (sdk.Normal(0, 2), "normal(0,2)", SearchRange(Draw.normal, (0, 2))),
        "e": (sdk.QLogNormal(0, 1, 1), "qlognormal(0,1,1)", SearchRange(Draw.qlognormal, (0, 1, 1))),
        "f": (sdk.QUniform(8, 32, 4), "quniform(8,32,4)", SearchRange(Draw.quniform, (8, 32, 4))),
        "g": (sdk.Randint(10), "randint(10)", SearchRange(Draw.randint, (10,))),
    }
    for index in (0, 1):
        found = sweep_of_args(
            {"parameter_sampling": {name: same[index] for name, same in forms.items()}, "max_total_trials": 5}
        )
        assert dict(found.space) == {name: same[2] for name, same in forms.items()}
        assert (found.sampling, found.max_trials) == ("random", 5)

    def of(**more: Any) -> SweepSpec:
        return sweep_of_args({"parameter_sampling": {"lr": "uniform(0,1)"}, "max_total_trials": 4, **more})

    assert (
        of(sampling_algorithm=sdk.RandomSamplingAlgorithm(seed=7)).seed,
        of(sampling_algorithm="random(seed=7)").seed,
    ) == (7, 7)
    assert of(sampling_algorithm=sdk.BayesianSamplingAlgorithm()).sampling == "bayesian"
    bandit = EarlyStop("bandit", 2, 5, slack_factor=0.1)
    assert (
        of(early_termination=sdk.BanditPolicy(evaluation_interval=2, delay_evaluation=5, slack_factor=0.1)).early_stop
        == bandit
    )
    assert (
        of(early_termination="bandit(slack_factor=0.1, evaluation_interval=2, delay_evaluation=5)").early_stop == bandit
    )
    assert of(early_termination=sdk.MedianStoppingPolicy(delay_evaluation=5)).early_stop == EarlyStop("median", 1, 5)
    truncation = sdk.TruncationSelectionPolicy(truncation_percentage=20, evaluation_interval=1)
    assert of(early_termination=truncation).early_stop == EarlyStop("truncation", truncation_percentage=20)
    assert of(max_concurrent_trials=2).max_concurrent == 2


def test_args_that_cannot_be_sent_are_told() -> None:
    def space(given: object, **more: object) -> dict[str, object]:
        return {"parameter_sampling": given, **more}

    wrongs: dict[str, Any] = {
        "unknown key 'parameter_samplin'": {"parameter_samplin": SPACE},
        "'parameter_sampling' is missing": {"primary_metric": "loss"},
        "hyperparam_args must be a dictionary, not list": [1],
        "Hyperparameters must be a dictionary, not list": space([0.1]),
        "'lr' must be a list or a distribution, not float": space({"lr": 0.1}),
        "must have numbers or text": space({"lr": [[0.1]]}),
        "'-l'": space({"-l": [0.1]}),
        "'max_total_trials' is missing": space({"lr": "uniform(0,1)"}),
        "must be an integer": space(SPACE, max_total_trials="many"),
        "himl does not support 'compute'": space(SPACE, compute="gpu"),
        "'timeout' must be a number of seconds": space(SPACE, timeout="2h"),
        "are equivalent": space(SPACE, early_termination="median", early_termination_policy="median"),
    }
    for words, given in wrongs.items():
        with pytest.raises(BadUsage, match=words):
            sweep_of_args(given)


@pytest.mark.large("takes long, and other tests run its branches")
def test_invalid_hyperparam_args_are_value_error_before_request(lab: StagedWorkspace, project: Path) -> None:
    wrongs = {
        '"sampling_algorithm": "bayesian", "max_total_trials": 20, "early_termination": "median"}': (
            "sampling_algorithm bayesian and early_termination"
        ),
        '"goal": "best"}': "goal cannot be 'best'",
        '"max_total_trials": 0}': "max_total_trials must be at least 1, not 0",
        '"trial_timeout": 600}, max_run_duration="1h"': (
            "max_run_duration and hyperparam_args' trial_timeout cannot differ"
        ),
    }
    for more, words in wrongs.items():
        script = write_script(
            project, "train.py", f'{CLUSTER}, hyperparam_args={{"parameter_sampling": {{"lr": [0.1, 0.2]}}, {more}', ""
        )
        script.write_text(
            script.read_text().replace("info = ", "try:\n    info = ")
            + "except ValueError as err:\n    print('ValueError', err)\n"
        )
        done = run_script(script, "--azureml")
        assert words in done.stdout, done.stderr
    assert lab.requests() == []


SEEDS = """import warnings
warnings.simplefilter("ignore")
from azureml.core import ScriptRunConfig
from azureml.train.hyperdrive import BanditPolicy, HyperDriveConfig, PrimaryMetricGoal, choice, uniform
from azureml.train.hyperdrive.sampling import RandomParameterSampling
config = HyperDriveConfig(
    run_config=ScriptRunConfig(source_directory=""),
    hyperparameter_sampling=RandomParameterSampling(
        {"--kernel": choice("linear", "rbf"), "--penalty": choice(0.5, 1, 1.5), "c": uniform(0, 1)}
    ),
    policy=BanditPolicy(slack_factor=0.2, evaluation_interval=2, delay_evaluation=1),
    primary_metric_name="Accuracy", primary_metric_goal=PrimaryMetricGoal.MAXIMIZE, max_total_runs=12,
        max_concurrent_runs=4, max_duration_minutes=90)
"""
SAY = "(info.output_folder / 'said.json').write_text(json.dumps(sys.argv[1:])); info.run.log('val/loss', 1.0)"


def by_v1(script: Path) -> str:
    """Return the output of a script that submits itself, in an environment with azureml-train-core."""
    done = subprocess.run(
        [str(client_python(HIML_V1)), str(script), "--azureml"], cwd=script.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def said_by_trials(lab: StagedWorkspace) -> list[list[str]]:
    return [
        json.loads(lab.artifacts(run.run_id)["outputs/said.json"]) for run in lab.state.runs.values() if run.parent_id
    ]


# The first use of a client builds its environment.
@pytest.mark.timeout(1800)
def test_hyperdrive_config_is_sent_by_azure_ai_ml(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", f"{CLUSTER}, strictly_aml_v1=False, hyperdrive_config=config", HERE)
    script.write_text(SEEDS + script.read_text())
    by_v1(script)
    job = job_of(lab)
    assert job["searchSpace"] == {
        "kernel": ["choice", [["linear", "rbf"]]],
        "penalty": ["choice", [[0.5, 1, 1.5]]],
        "c": ["uniform", [0, 1]],
    }
    assert job["samplingAlgorithm"]["samplingAlgorithmType"] == "Random"
    assert job["objective"] == {"goal": "maximize", "primaryMetric": "Accuracy"}
    limits = {name: job["limits"][name] for name in ("maxTotalTrials", "maxConcurrentTrials", "timeout")}
    assert limits == {"maxTotalTrials": 12, "maxConcurrentTrials": 4, "timeout": "PT1H30M"}
    policy = job["earlyTermination"]
    assert (policy["policyType"], policy["slackFactor"], policy["evaluationInterval"], policy["delayEvaluation"]) == (
        "Bandit",
        0.2,
        2,
        1,
    )
    (run,) = lab.state.runs.values()
    assert run.definition is None


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("is_v1", [False, True])
def test_a_cross_validation_runs_with_and_without_azureml(lab: StagedWorkspace, project: Path, is_v1: bool) -> None:
    config = "hyperdrive_config=create_crossval_hyperdrive_config(num_splits=2)"
    after = ", after_submission=lambda run: print('AFTER', type(run).__name__)" if is_v1 else ""
    script = write_script(
        project, "train.py", f"{CLUSTER}, strictly_aml_v1={is_v1}, wait_for_completion=True, {config}{after}", SAY
    )
    script.write_text(f"from himl_cli import create_crossval_hyperdrive_config\n{script.read_text()}")
    with lab.run_jobs():
        if is_v1:
            assert "AFTER HyperDriveRun" in by_v1(script)
            assert all(run.definition is not None for run in lab.state.runs.values() if run.parent_id is None)
            assert sorted(said_by_trials(lab)) == [["--crossval_index", "0"], ["--crossval_index", "1"]]
            return
        send(script, "--epochs", "2")
    (sweep,) = [run for run in lab.state.runs.values() if run.parent_id is None]
    assert sorted(said_by_trials(lab)) == [["--epochs", "2", "--crossval_index", str(index)] for index in range(2)]
    assert sweep.tags["himl.many"] == "crossval"
    tags = [json.loads(run.tags["hyperparameters"]) for run in lab.state.runs.values() if run.parent_id]
    assert sorted(tags, key=str) == [{"crossval_index": str(index)} for index in range(2)]
    assert (sweep.job or {})["objective"] == {"goal": "minimize", "primaryMetric": "val/loss"}


def test_grids_and_cross_validations_are_sweeps() -> None:
    folds = sweep_of_config(create_crossval_hyperdrive_config(4, cross_val_index_arg_name="--fold", metric_name="auc"))
    # hi-ml also passes them as strings.
    assert dict(folds.space) == {"fold": SearchRange(Draw.choice, ("0", "1", "2", "3"))}
    assert (folds.sampling, folds.max_trials, folds.primary_metric, folds.goal) == ("grid", 4, "auc", "minimize")
    with pytest.raises(ValueError, match="num_splits must be at least 1"):
        create_crossval_hyperdrive_config(0)
    with pytest.raises(ValueError, match="num_splits must be an integer, not '3'"):
        create_crossval_hyperdrive_config("3")  # type: ignore[arg-type]
    space = {"model": SearchRange(Draw.choice, ("small", "large"))}
    by_config = sweep_of_config(create_grid_hyperdrive_config(["small", "large"], "--model", "auc"))
    by_args = sweep_of_args(create_grid_hyperparam_args_v2(["small", "large"], "model", "auc"))
    for sweep in (by_config, by_args):
        assert (dict(sweep.space), sweep.sampling, sweep.max_trials, sweep.primary_metric, sweep.goal) == (
            space,
            "grid",
            2,
            "auc",
            "minimize",
        )
    splits = sweep_of_args(create_crossval_hyperparam_args_v2(2))
    assert (dict(splits.space), splits.primary_metric) == (
        {"crossval_index": SearchRange(Draw.choice, ("0", "1"))},
        "val/loss",
    )
    with pytest.raises(ValueError, match="values must be a list with at least one value"):
        create_grid_hyperdrive_config([], "model", "auc")
    with pytest.raises(ValueError, match="num_splits must be at least 1"):
        create_crossval_hyperparam_args_v2(0)


def config(**fields: Any) -> SimpleNamespace:
    given = {
        "generator_config": {"name": "GRID", "parameter_space": {"lr": ["choice", [[0.1, 0.2]]]}},
        "primary_metric_config": {"name": "loss", "goal": "minimize"},
        "policy_config": {"name": "Default"},
        "max_total_runs": 2,
        "max_concurrent_runs": 2,
        "max_duration_minutes": 10080,
    }
    return SimpleNamespace(**{f"_{name}": value for name, value in (given | fields).items()})


def test_policies_and_limits_of_hyperdrive_are_understood() -> None:
    policies: list[tuple[dict[str, Any], EarlyStop | None]] = [
        ({"name": "Default"}, None),
        (
            {"name": "MedianStopping", "properties": {"evaluation_interval": 1, "delay_evaluation": 5}},
            EarlyStop("median", 1, 5),
        ),
        (
            {"name": "Bandit", "properties": {"evaluation_interval": 1, "slack_amount": 0.2}},
            EarlyStop("bandit", slack_amount=0.2),
        ),
        (
            {"name": "TruncationSelection", "properties": {"truncation_percentage": 10}},
            EarlyStop("truncation", truncation_percentage=10),
        ),
    ]
    for policy, stop in policies:
        assert sweep_of_config(config(policy_config=policy)).early_stop == stop
    wrongs: dict[str, object] = {
        "must be a HyperDriveConfig": object(),
        "the argument pipeline": config(pipeline=object()),
        "the argument estimator": config(estimator=object()),
        "the argument resume_from": config(resume_from=[object()]),
        "policy 'Own'": config(policy_config={"name": "Own"}),
        "must have numbers or text": config(
            generator_config={"name": "GRID", "parameter_space": {"lr": ["choice", [[{"a": 1}]]]}}
        ),
    }
    for words, given in wrongs.items():
        with pytest.raises(BadUsage, match=words):
            sweep_of_config(given)
    usual = sweep_of_config(config())
    assert (usual.max_seconds, usual.max_concurrent) == (7 * 24 * 3600, None)
    other = sweep_of_config(config(max_duration_minutes=90, max_total_runs=200, max_concurrent_runs=4))
    assert (other.max_seconds, other.max_concurrent) == (5400, 4)
    assert sweep_of_config(config(max_total_runs=200, max_concurrent_runs=200)).max_concurrent is None


def test_arguments_modes_and_keys_of_a_dataset(caplog: pytest.LogCaptureFixture) -> None:
    parameters = {name: each.default for name, each in inspect.signature(DatasetConfig).parameters.items()}
    none = dict.fromkeys(("version", "use_mounting", "target_folder", "local_folder", "data_name"))
    assert [*parameters.items()] == [
        *{"name": inspect.Parameter.empty, "datastore": "", "overwrite_existing": True, **none}.items()
    ]
    inputs: list[tuple[dict[str, Any], DataSpec]] = [
        ({}, DataSpec("INPUT_3", "data", mode="download")),
        ({"datastore": "blobs", "version": 7}, DataSpec("INPUT_3", "data", "7", "blobs", "download")),
        (
            {"use_mounting": True, "target_folder": "/tmp/mnist"},
            DataSpec("INPUT_3", "data", mode="mount", target=str(Path("/tmp/mnist"))),
        ),
        (
            {"use_mounting": False, "local_folder": Path("here"), "target_folder": ""},
            DataSpec("INPUT_3", "data", mode="download", local="here"),
        ),
        ({"data_name": "images"}, DataSpec("images", "data", mode="download")),
    ]
    outputs: list[tuple[dict[str, Any], DataSpec]] = [
        ({}, DataSpec("OUTPUT_0", "data", mode="mount")),
        (
            {"use_mounting": True, "overwrite_existing": False},
            DataSpec("OUTPUT_0", "data", mode="mount", overwrite=False),
        ),
        (
            {"use_mounting": False, "datastore": "blobs", "local_folder": "here"},
            DataSpec("OUTPUT_0", "data", None, "blobs", "upload", local="here"),
        ),
        ({"data_name": "masks"}, DataSpec("masks", "data", mode="mount")),
    ]
    assert [DatasetConfig("data", **given).to_input(3) for given, _ in inputs] == [spec for _, spec in inputs]
    assert [DatasetConfig("data", **given).to_output(0) for given, _ in outputs] == [spec for _, spec in outputs]
    assert as_configs(None) == []
    assert as_configs([" a ", DatasetConfig("b", version=2)]) == [DatasetConfig("a"), DatasetConfig("b", version=2)]
    assert DatasetConfig("data", target_folder="/tmp/out").to_output(0).target is None
    assert "himl ignores target_folder" in caplog.text


def test_invalid_datasets_are_refused() -> None:
    wrongs: dict[str, list[dict[str, Any]]] = {
        "data_name": [{"name": "data", "data_name": name} for name in ("a b", "1st", "${{x}}")],
        "name of a dataset must not be empty": [{"name": ""}, {"name": "  "}],
        r"'data': target_folder must not be '\.'": [
            {"name": "data", "target_folder": target} for target in (".", "./", Path("."))
        ],
    }
    for words, cases in wrongs.items():
        for given in cases:
            with pytest.raises(ValueError, match=words):
                DatasetConfig(**given)
    no_lists: list[Any] = ["a", DatasetConfig("a"), [Path("a")], [None]]
    for datasets in no_lists:
        with pytest.raises(TypeError, match=r"must be a list|must be a name or a DatasetConfig"):
            as_configs(datasets)
