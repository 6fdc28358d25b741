"""`himl submit --sweep … --cluster`: a sweep on Azure ML from the command line, waited for, shown, canceled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, write_files

TRAIN = """
import argparse
from himl_cli import RUN_CONTEXT
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--name")
args = parser.parse_args()
RUN_CONTEXT.log("score", args.lr)
if args.name == "fails":
    raise SystemExit(3)
"""
CONDA = "dependencies:\n- python=3.11\n- pip:\n  - himl-cli\n"
SWEEP = ("--cluster", "cpu-cluster", "--primary_metric", "score", "--goal", "maximize")


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure_environment.write_config(project)
    write_files(project, {"train.py": TRAIN, "environment.yml": CONDA})
    return azure_environment


def test_a_sweep_is_waited_for_and_shown(lab: StagedWorkspace, himl: Himl) -> None:
    with lab.run_jobs():
        done = himl.ok("submit", "train.py", *SWEEP, "--sweep", "lr=0.1,0.5", "--sweep", "name=a b,c", "--wait", "-q")
    run_id = done.stdout.split()[0]
    shown = himl.ok("runs", "show", run_id, "--json").json()
    assert shown["status"] == "Completed"
    assert {name for name in shown["tags"] if name.startswith("_aml_system_")} == set()
    listed = himl.ok("runs", "show", run_id).stdout
    assert len(listed) < 3000
    trials = [f"{run_id}_{index}" for index in range(4)]
    assert [trial for trial in trials if himl.ok("runs", "show", trial, "--json").json()["parent"] != run_id] == []
    assert shown["tags"]["himl.best_trial"] in trials[2:]
    own_of_service = [each["name"] for each in (*shown["metrics"], *shown["texts"]) if each["name"].startswith("best_child_by_primary_metric")]
    assert own_of_service == []


def test_a_sweep_whose_trials_all_fail_fails(lab: StagedWorkspace, himl: Himl) -> None:
    with lab.run_jobs():
        done = himl("submit", "train.py", *SWEEP, "--sweep", "lr=0.1,0.5", "--wait", "--", "--name", "fails")
    assert done.code == 1, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("fails", [False, True])
def test_wait_exits_1_for_failed_trial_of_completed_sweep(lab: StagedWorkspace, himl: Himl, *, fails: bool) -> None:
    with lab.run_jobs(fails_with_a_trial=fails):
        done = himl("submit", "train.py", *SWEEP, "--sweep", "lr=0.1", "--sweep", "name=good,fails", "--wait", "-q")
    run_id = done.stdout.split()[0]
    text = " ".join(done.stderr.split())
    assert (done.code, lab.state.runs[run_id].status) == (1, "Failed" if fails else "Completed")
    assert ("1 of 2 trials failed" in text) is not fails
    assert f"himl runs logs {run_id}_1" in text


def test_canceling_a_sweep_cancels_its_trials(lab: StagedWorkspace, himl: Himl) -> None:
    with lab.run_jobs(hold=True):
        run_id = himl.ok("submit", "train.py", *SWEEP, "--sweep", "lr=0.1,0.5", "-q").stdout.strip()
        himl.ok("runs", "cancel", run_id)
        lab.wait_for(run_id, "Canceled")
    assert {run.status for run in lab.state.runs.values()} == {"Canceled"}


def test_bad_sweeps_end_before_any_request(lab: StagedWorkspace, himl: Himl) -> None:
    for spec, word in (("lr=uniform(1)", "uniform takes 2"), ("lr=", "empty"), ("optimizer.lr=0.1,0.2", "search_space.optimizer_lr")):
        done = himl("submit", "train.py", *SWEEP, "--sweep", spec)
        assert (done.code, word in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert lab.requests() == []
