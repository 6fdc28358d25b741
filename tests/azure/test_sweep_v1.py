"""`himl submit --sdk v1 --sweep …`: azureml-train-core, unmodified, sends the sweep to the double, which runs it; himl and azureml-core read it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.azure.conftest import client_python
from tests.azure.v1_project import himl as himl
from tests.azure.v1_project import lab as lab
from tests.azure.v1_project import refused, submitted
from tests.azure.v1_project import running as running
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.clients import HIML_V1
from tests.support.running import Himl, write_files

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment

SCORE = """
import argparse, json
from pathlib import Path
from himl_cli import RUN_CONTEXT
parser = argparse.ArgumentParser()
parser.add_argument("--fixed")
parser.add_argument("--name")
parser.add_argument("--lr", type=float)
args = parser.parse_args()
RUN_CONTEXT.log("score", args.lr)
Path("outputs").mkdir(exist_ok=True)
Path("outputs/found.json").write_text(json.dumps(vars(args)))
"""
READ = """
import json, sys, warnings
warnings.simplefilter("ignore")
from azureml.core import Run, Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
from azureml.train.hyperdrive import HyperDriveRun
import os
auth = ServicePrincipalAuthentication(os.environ["HIML_TENANT_ID"], os.environ["HIML_SERVICE_PRINCIPAL_ID"], os.environ["HIML_SERVICE_PRINCIPAL_PASSWORD"])
run = Run.get(Workspace.from_config(auth=auth), sys.argv[1])
best = run.get_best_run_by_primary_metric()
print(json.dumps([type(run).__name__, best.id, sorted(run.get_hyperparameters()), run.hyperdrive_config._max_total_runs]))
"""


@pytest.fixture
def project_with_score(project: Path) -> Path:
    write_files(project, {"score.py": SCORE})
    return project


@pytest.mark.usefixtures("running")
def test_a_grid_runs_as_hyperdrive_and_is_read_by_both(lab: StagedWorkspace, himl: Himl, project_with_score: Path) -> None:
    sweep = ("--sweep", "lr=0.1,0.01", "--sweep", "name=a b,$HOME", "--primary_metric", "score", "--goal", "maximize", "--max_concurrent", "2")
    run_id = submitted(himl, "score.py", *sweep, "--tag", "team=blue", "--", "--fixed", "x y")
    lab.wait_for(run_id, "Completed")
    trials = {run.run_id: json.loads(lab.artifacts(run.run_id)["outputs/found.json"]) for run in lab.state.runs.values() if run.parent_id == run_id}
    assert sorted(trials) == [f"{run_id}_{index}" for index in range(4)]
    wanted = [{"fixed": "x y", "name": name, "lr": lr} for lr in (0.1, 0.01) for name in ("a b", "$HOME")]
    assert sorted(trials.values(), key=str) == sorted(wanted, key=str)
    shown = himl.ok("runs", "show", run_id, "--json").json()
    assert (shown["status"], shown["tags"]["team"], shown["tags"]["himl.goal"]) == ("Completed", "blue", "maximize")
    assert not [name for name in shown["tags"] if name.startswith("_aml_system_")]
    done = subprocess.run([str(client_python(HIML_V1)), "-c", READ, run_id], cwd=project_with_score, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kind, best, known, most = json.loads(done.stdout.splitlines()[-1])
    assert (kind, sorted(trials), most) == ("HyperDriveRun", known, 4)
    assert trials[best]["lr"] == 0.1


def test_draws_policies_and_limits_arrive(lab: StagedWorkspace, himl: Himl, project_with_score: Path) -> None:
    sweep = ("--sweep", "lr=loguniform(-6,-1)", "--sweep", "n=randint(5)", "--sampling", "random", "--max_trials", "7", "--max_run_duration", "1h")
    run_id = submitted(himl, "score.py", *sweep, "--early_stop", "bandit(slack_factor=0.2,evaluation_interval=2)")
    job = lab.state.runs[run_id].job
    assert job is not None
    assert job["searchSpace"] == {"lr": ["loguniform", [-6, -1]], "n": ["randint", [5]]}
    assert job["samplingAlgorithm"]["samplingAlgorithmType"] == "Random"
    assert job["earlyTermination"] == {"policyType": "Bandit", "slackFactor": 0.2, "evaluationInterval": 2, "delayEvaluation": 0}
    assert (job["limits"]["maxTotalTrials"], job["limits"]["trialTimeout"]) == (7, "PT3600S")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-m", "score"), "runs a Python script"),
        (("score.py", "--", "--rate", "${{search_space.lr}}"), "given to the script as --NAME"),
        (("score.py", "--input", "d=faces", "--", "--in=${{inputs.d}}"), "whole words only"),
    ],
)
def test_what_hyperdrive_cannot_do_is_refused_first(lab: StagedWorkspace, himl: Himl, project_with_score: Path, arguments: tuple[str, ...], words: str) -> None:
    at = 2 if arguments[0] == "-m" else 1
    done = himl("submit", "--sdk", "v1", "--cluster", "cpu-cluster", *arguments[:at], "--sweep", "lr=0.1,0.2", *arguments[at:])
    refused(done, 2, words)
    assert lab.requests() == []


REFUSES = """
import warnings
warnings.simplefilter("ignore")
from himl_cli.core.errors import HimlError
from himl_cli.workspaces.azure.jobs.v1 import sdk_errors
import azureml.core
from azureml.train import hyperdrive
try:
    with sdk_errors(None):
        hyperdrive.TruncationSelectionPolicy(truncation_percentage=200)
except HimlError as err:
    print(type(err).__name__, err.exit_code, err)
"""


def test_what_azureml_refuses_of_a_sweep_is_a_usage_error() -> None:
    done = subprocess.run([str(client_python(HIML_V1)), "-c", REFUSES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\nBadUsage 2 azureml-core refuses the job: " in f"\n{done.stdout}", done.stdout + done.stderr


def test_150_trials_default_to_maximum_concurrency_of_100(lab: StagedWorkspace, himl: Himl, project_with_score: Path) -> None:
    run_id = submitted(himl, "score.py", "--sweep", f"lr={','.join(map(str, range(150)))}")
    job = lab.state.runs[run_id].job
    assert job is not None
    assert (job["limits"]["maxTotalTrials"], job["limits"]["maxConcurrentTrials"]) == (150, 100)


def test_a_value_that_is_named_as_its_argument_is_given_once(lab: StagedWorkspace, himl: Himl, project_with_score: Path) -> None:
    run_id = submitted(himl, "score.py", "--sweep", "lr=0.1,0.2", "--", "--lr", "${{search_space.lr}}", "--fixed", "x")
    definition = lab.state.runs[run_id].definition
    assert definition is not None
    assert definition["arguments"] == ["--fixed", "x"]


def test_nobody_is_told_what_is_submitted() -> None:
    """azureml-telemetry, which the extra brings along, is on for some parts of azureml-core unless it is told otherwise."""
    program = "from himl_cli.workspaces.azure.jobs.v1 import quiet_sdk\nwith quiet_sdk():\n    from azureml.data import _loggerfactory as found\n"
    done = subprocess.run([str(client_python(HIML_V1)), "-c", f"{program}print(found.telemetry_enabled)"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
