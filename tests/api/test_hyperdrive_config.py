"""`hyperdrive_config=`: azureml's HyperDriveConfig and himl's own cross-validation, by either SDK."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from himl_cli import (
    create_crossval_hyperdrive_config,
    create_crossval_hyperparam_args_v2,
    create_grid_hyperdrive_config,
    create_grid_hyperparam_args_v2,
)
from himl_cli.api.hyperdrive import sweep_of_args, sweep_of_config
from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import Draw, EarlyStop, SearchRange
from tests.api.scripts import write_script
from tests.api.sent_scripts import CLUSTER, HERE, job_of, send
from tests.api.test_submit_v1 import lab as lab
from tests.azure.conftest import client_python
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.clients import HIML_V1

SEEDS = """import warnings
warnings.simplefilter("ignore")
from azureml.core import ScriptRunConfig
from azureml.train.hyperdrive import BanditPolicy, HyperDriveConfig, PrimaryMetricGoal, choice, uniform
from azureml.train.hyperdrive.sampling import RandomParameterSampling
config = HyperDriveConfig(
    run_config=ScriptRunConfig(source_directory=""),
    hyperparameter_sampling=RandomParameterSampling({"--kernel": choice("linear", "rbf"), "--penalty": choice(0.5, 1, 1.5), "c": uniform(0, 1)}),
    policy=BanditPolicy(slack_factor=0.2, evaluation_interval=2, delay_evaluation=1),
    primary_metric_name="Accuracy", primary_metric_goal=PrimaryMetricGoal.MAXIMIZE, max_total_runs=12, max_concurrent_runs=4, max_duration_minutes=90)
"""
SAY = "(info.output_folder / 'said.json').write_text(json.dumps(sys.argv[1:])); info.run.log('val/loss', 1.0)"


def by_v1(script: Path) -> str:
    """What the script says that submits itself, run where azureml-train-core is."""
    done = subprocess.run([str(client_python(HIML_V1)), str(script), "--azureml"], cwd=script.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def said_by_trials(lab: StagedWorkspace) -> list[list[str]]:
    return [json.loads(lab.artifacts(run.run_id)["outputs/said.json"]) for run in lab.state.runs.values() if run.parent_id]


@pytest.mark.timeout(1800)  # the first use of a client builds its environment
@pytest.mark.parametrize("sdk", ["strictly_aml_v1=True", "strictly_aml_v1=False"])
def test_a_hyperdrive_config_is_sent_by_either_sdk(lab: StagedWorkspace, project: Path, sdk: str) -> None:
    script = write_script(project, "train.py", f"{CLUSTER}, {sdk}, hyperdrive_config=config", HERE)
    script.write_text(SEEDS + script.read_text())
    by_v1(script)
    job = job_of(lab)
    assert job["searchSpace"] == {"kernel": ["choice", [["linear", "rbf"]]], "penalty": ["choice", [[0.5, 1, 1.5]]], "c": ["uniform", [0, 1]]}
    assert job["samplingAlgorithm"]["samplingAlgorithmType"] == "Random"
    assert job["objective"] == {"goal": "maximize", "primaryMetric": "Accuracy"}
    limits = {name: job["limits"][name] for name in ("maxTotalTrials", "maxConcurrentTrials", "timeout")}
    assert limits | {"timeout": None} == {"maxTotalTrials": 12, "maxConcurrentTrials": 4, "timeout": None}
    assert limits["timeout"] in ("PT90M", "PT1H30M")
    policy = job["earlyTermination"]
    assert (policy["policyType"], policy["slackFactor"], policy["evaluationInterval"], policy["delayEvaluation"]) == ("Bandit", 0.2, 2, 1)
    (run,) = lab.state.runs.values()
    assert (run.definition is not None) == (sdk == "strictly_aml_v1=True")


@pytest.mark.timeout(1800)
def test_a_cross_validation_goes_by_azureml_as_well(lab: StagedWorkspace, project: Path) -> None:
    call = f"""{CLUSTER}, strictly_aml_v1=True, wait_for_completion=True, hyperdrive_config=create_crossval_hyperdrive_config(2, "split"),
        after_submission=lambda run: print("AFTER", type(run).__name__)"""
    script = write_script(project, "train.py", call, SAY)
    script.write_text(f"from himl_cli import create_crossval_hyperdrive_config\n{script.read_text()}")
    with lab.run_jobs():
        assert "AFTER HyperDriveRun" in by_v1(script)
    assert sorted(said_by_trials(lab)) == [["--split", "0"], ["--split", "1"]]


def test_a_cross_validation_needs_no_azureml_package(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", f"{CLUSTER}, wait_for_completion=True, hyperdrive_config=create_crossval_hyperdrive_config(num_splits=3)", SAY)
    script.write_text(f"from himl_cli import create_crossval_hyperdrive_config\n{script.read_text()}")
    with lab.run_jobs():
        send(script, "--epochs", "2")
    (sweep,) = [run for run in lab.state.runs.values() if run.parent_id is None]
    assert sorted(said_by_trials(lab)) == [["--epochs", "2", "--crossval_index", str(index)] for index in range(3)]
    assert sweep.tags["himl.many"] == "crossval"
    tags = [json.loads(run.tags["hyperparameters"]) for run in lab.state.runs.values() if run.parent_id]
    assert sorted(tags, key=str) == [{"crossval_index": str(index)} for index in range(3)]
    assert (sweep.job or {})["objective"] == {"goal": "minimize", "primaryMetric": "val/loss"}


def test_its_arguments_are_hi_mls() -> None:
    sweep = sweep_of_config(create_crossval_hyperdrive_config(4, cross_val_index_arg_name="--fold", metric_name="auc"))
    assert dict(sweep.space) == {"fold": SearchRange(Draw.choice, ("0", "1", "2", "3"))}  # texts, as in hi-ml
    assert (sweep.sampling, sweep.max_trials, sweep.primary_metric, sweep.goal) == ("grid", 4, "auc", "minimize")
    with pytest.raises(ValueError, match="num_splits is at least 1"):
        create_crossval_hyperdrive_config(0)
    with pytest.raises(ValueError, match="num_splits is a whole number, not '3'"):
        create_crossval_hyperdrive_config("3")  # type: ignore[arg-type]


def test_a_grid_is_a_sweep_by_either_argument() -> None:
    space = {"model": SearchRange(Draw.choice, ("small", "large"))}
    by_config = sweep_of_config(create_grid_hyperdrive_config(["small", "large"], "--model", "auc"))
    by_args = sweep_of_args(create_grid_hyperparam_args_v2(["small", "large"], "model", "auc"))
    for sweep in (by_config, by_args):
        assert (dict(sweep.space), sweep.sampling, sweep.max_trials, sweep.primary_metric, sweep.goal) == (space, "grid", 2, "auc", "minimize")
    splits = sweep_of_args(create_crossval_hyperparam_args_v2(2))
    assert (dict(splits.space), splits.primary_metric) == ({"crossval_index": SearchRange(Draw.choice, ("0", "1"))}, "val/loss")
    with pytest.raises(ValueError, match="values is a list with one value at least"):
        create_grid_hyperdrive_config([], "model", "auc")
    with pytest.raises(ValueError, match="num_splits is at least 1"):
        create_crossval_hyperparam_args_v2(0)


def config(**fields: Any) -> SimpleNamespace:
    """What a HyperDriveConfig holds."""
    given = {
        "generator_config": {"name": "GRID", "parameter_space": {"lr": ["choice", [[0.1, 0.2]]]}},
        "primary_metric_config": {"name": "loss", "goal": "minimize"},
        "policy_config": {"name": "Default"},
        "max_total_runs": 2,
        "max_concurrent_runs": 2,
        "max_duration_minutes": 10080,
    }
    return SimpleNamespace(**{f"_{name}": value for name, value in (given | fields).items()})


@pytest.mark.parametrize(
    ("policy", "stop"),
    [
        ({"name": "Default"}, None),
        ({"name": "MedianStopping", "properties": {"evaluation_interval": 1, "delay_evaluation": 5}}, EarlyStop("median", 1, 5)),
        ({"name": "Bandit", "properties": {"evaluation_interval": 1, "slack_amount": 0.2}}, EarlyStop("bandit", slack_amount=0.2)),
        ({"name": "TruncationSelection", "properties": {"truncation_percentage": 10}}, EarlyStop("truncation", truncation_percentage=10)),
    ],
)
def test_policies_are_understood(policy: dict[str, Any], stop: EarlyStop | None) -> None:
    assert sweep_of_config(config(policy_config=policy)).early_stop == stop


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (object(), "no HyperDriveConfig"),
        (config(pipeline=object()), "the argument pipeline"),
        (config(estimator=object()), "the argument estimator"),
        (config(resume_from=[object()]), "the argument resume_from"),
        (config(policy_config={"name": "Own"}), "policy 'Own'"),
        (config(generator_config={"name": "GRID", "parameter_space": {"lr": ["choice", [[{"a": 1}]]]}}), "neither a number nor a text"),
    ],
)
def test_what_cannot_be_sent_is_said(given: object, words: str) -> None:
    with pytest.raises(BadUsage, match=words):
        sweep_of_config(given)


def test_hyperdrive_default_limits_become_sweep_limits() -> None:
    usual = sweep_of_config(config())
    assert (usual.max_seconds, usual.max_concurrent) == (7 * 24 * 3600, None)
    other = sweep_of_config(config(max_duration_minutes=90, max_total_runs=200, max_concurrent_runs=4))
    assert (other.max_seconds, other.max_concurrent) == (5400, 4)
    assert sweep_of_config(config(max_total_runs=200, max_concurrent_runs=200)).max_concurrent is None
