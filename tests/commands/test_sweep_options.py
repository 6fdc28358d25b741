"""`himl submit --sweep`, `--crossval` and `--different_seeds`: options, settings, refusals, and what is shown."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.sweeping import LOG
from tests.support.running import Himl, Outcome, until, write_files
from tests.support.sweeps import lab as lab
from tests.support.sweeps import script as script

LOGGING = """
import argparse, mlflow
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
mlflow.log_metrics({"val/loss": abs(parser.parse_args().lr - 0.05)}, step=1)
"""
LOGGING_THERE = f"""
import argparse, sys
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
sys.argv[1:] = ["val/loss", format(abs(parser.parse_args().lr - 0.05), ".6g")]
{LOG}
"""


@pytest.fixture
def running(lab: StagedWorkspace) -> Iterator[StagedWorkspace]:
    """As `lab`, and the jobs are run."""
    with lab.run_jobs():
        yield lab


def arguments_of_trials(himl: Himl, run_id: str = "latest") -> list[str]:
    """What the script of each trial was given, in their order."""
    children = himl.ok("runs", "show", run_id, "--json").json()["children"]
    return [himl.ok("runs", "logs", child["id"]).stdout.strip() for child in children]


def refused(himl: Himl, project: Path, *options: str, env: dict[str, str] | None = None) -> Outcome:
    """The outcome of a submit that is a usage error: one line, one hint, and nothing was made."""
    outcome = himl("submit", "train.py", *options, env=env)
    assert (outcome.code, outcome.stdout) == (2, ""), outcome.stderr
    assert [line.partition(":")[0] for line in outcome.stderr.splitlines()] in (["error", "hint"], ["error"])
    assert not (project / ".himl").exists()
    return outcome


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sweep", "lr=uniform(1)"), "uniform takes 2 arguments"),
        (("--sweep", "lr="), "the list is empty"),
        (("--sweep", "lr=1,2", "--sampling", "sobol"), "there is no sampling 'sobol'"),
        (("--sweep", "lr=uniform(0,1)"), "A random search needs the number of its trials."),
        (("--sweep", "lr=uniform(0,1)", "--sampling", "bayesian", "--max_trials", "3", "--early_stop", "median"), "exclude each other"),
        (("--sweep", "lr=1,2", "--early-stop", "bandit"), "neither is given"),
        (("--sweep", "lr=1,2", "--max_trials", "0"), "--max_trials 0"),
        (("--sweep", "lr=1,2", "--sweep", "lr=3"), "'lr' is given twice"),
        (("--sweep", "lr=1,2", "--in_place"), "--in_place is for a single run"),
        (("--crossval", "3", "--in_place"), "--in_place is for a single run"),
        (("--max_trials", "3"), "--max_trials belongs to --sweep"),
        (("--early_stop", "median"), "--early_stop belongs to --sweep"),
        (("--crossval_arg", "fold"), "--crossval_arg belongs to --crossval"),
        (("--seed_arg", "seed", "--crossval", "2"), "--seed_arg belongs to --different_seeds"),
        (("--crossval", "3", "--max_trials", "2"), "--max_trials belongs to --sweep"),
        (("--crossval", "3", "--early_stop", "median"), "--early_stop belongs to --sweep"),
        (("--different_seeds", "3", "--early_stop", "median"), "--early_stop belongs to --sweep"),
        (("--crossval", "2", "--crossval_arg", "--fold", "--crossval_count_arg", "fold"), "--crossval_arg and --crossval_count_arg are both 'fold'."),
        (("--sweep", "api_key=sesame-1,sesame-2"), "The hyperparameter 'api_key' looks like a secret"),
        (("--sweep", "lr=1,2", "--", "${{search_space.depth}}"), "'${{search_space.depth}}' names no hyperparameter; there are: lr."),
        (("--create_cluster",), "--create_cluster is for pipelines"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_made(himl: Himl, project: Path, options: tuple[str, ...], said: str) -> None:
    assert said in refused(himl, project, *options).stderr.splitlines()[0]


def test_two_ways_to_many_runs_are_refused_with_the_grid_of_both(himl: Himl, project: Path) -> None:
    outcome = refused(himl, project, "--sweep", "lr=0.1,0.01", "--crossval", "2", "--different_seeds", "3")
    assert outcome.stderr.splitlines() == [
        "error: --sweep and --crossval and --different_seeds were given at once.",
        "hint: To run every combination, list all values: --sweep crossval_index=0,1,2 --sweep random_seed=0,1,2",
    ]


@pytest.mark.parametrize(
    "options",
    [("--sweep", "lr=uniform(1)"), ("--sweep", "lr=normal(0,1)", "--sampling", "bayesian", "--max_trials", "3"), ("--sweep", "lr=1,2", "--max_trials", "-1")],
)
def test_bad_sweeps_for_a_cluster_cost_no_request(himl: Himl, lab: StagedWorkspace, project: Path, options: tuple[str, ...]) -> None:
    refused(himl, project, "--cluster", "cpu-cluster", *options)
    assert not lab.stage.log.all()


def test_a_sweep_cannot_be_recorded_in_azure_whoever_says_so(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    sweep = ("--sweep", "lr=1,2")
    assert "--record_in is for a single run, and --sweep makes many." in refused(himl, project, *sweep, "--record_in", "azure").stderr
    write_files(project, {"himl.toml": "[submit]\nrecord_in = 'azure'\n"})
    outcome = refused(himl, project, *sweep)
    assert f"--record_in is set by {project / 'himl.toml'}:2." in outcome.stderr
    assert "Add --record_in local" in outcome.stderr
    assert not lab.stage.log.all()


def test_grid_values_follow_script_arguments_of_each_trial(himl: Himl) -> None:
    outcome = himl.ok("submit", "train.py", "--sweep", "lr=0.10,1", "--sweep", 'layers="64,32",7', "--max_concurrent", "4", "--", "--epochs", "5")
    assert arguments_of_trials(himl) == [f"--epochs 5 --lr {lr} --layers {layers}" for lr in ("0.1", "1") for layers in ("64,32", "7")]
    assert outcome.stderr.splitlines()[0] == 'Sweep: lr=0.1,1 layers="64,32",7, grid, 4 trials, minimize val/loss.'
    run_id = himl.ok("runs", "list", "--json").json()[0]["id"]
    assert f"All metrics side by side: himl runs aggregate {run_id}" in outcome.stderr


def test_cross_validation_and_seeds(himl: Himl) -> None:
    himl.ok("submit", "train.py", "--crossval", "3")
    assert arguments_of_trials(himl) == ["--crossval_index 0", "--crossval_index 1", "--crossval_index 2"]
    himl.ok("submit", "train.py", "--crossval", "2", "--crossval_arg", "fold", "--crossval-count-arg", "folds")
    assert arguments_of_trials(himl) == ["--folds 2 --fold 0", "--folds 2 --fold 1"]
    himl.ok("submit", "train.py", "--different_seeds", "2", "--seed_arg", "seed")
    assert arguments_of_trials(himl) == ["--seed 0", "--seed 1"]


def test_sweep_in_settings_takes_lists_and_options_override_it(himl: Himl, project: Path) -> None:
    """--crossval and --in_place take its place; in a variable, each line is one hyperparameter."""
    write_files(project, {"himl.toml": "[submit]\nmax_concurrent = 4\n[submit.sweep]\nlr = [0.1, 0.01]\nopt = 'adam,sgd'\n"})
    himl.ok("submit", "train.py")
    assert arguments_of_trials(himl) == [f"--lr {lr} --opt {opt}" for lr in ("0.1", "0.01") for opt in ("adam", "sgd")]
    himl.ok("submit", "train.py", "--crossval", "2")
    assert arguments_of_trials(himl) == ["--crossval_index 0", "--crossval_index 1"]
    assert himl.ok("submit", "train.py", "--in_place").stdout == "\n", "a debugger's run is one run"
    himl.ok("submit", "train.py", env={"HIML_SUBMIT_SWEEP": "n=1,2\nname=a b"})
    assert arguments_of_trials(himl) == ["--n 1 --name a b", "--n 2 --name a b"]


def test_json_and_quiet_print_parent_run_and_log_to_stderr(himl: Himl) -> None:
    outcome = himl.ok("submit", "train.py", "--crossval", "2", "--json")
    run = outcome.json()
    assert (run["status"], run["parent"], run["tags"]["himl.many"]) == ("Completed", None, "crossval")
    assert "trial 1, crossval_index=1: completed" in outcome.stderr
    quiet = himl.ok("submit", "train.py", "--crossval", "2", "-q")
    assert quiet.stdout.strip() == himl.ok("runs", "list", "--json").json()[0]["id"]


def test_the_best_trials_are_shown_at_the_end_best_first(himl: Himl, project: Path) -> None:
    write_files(project, {"log.py": LOGGING})
    outcome = himl.ok("submit", "log.py", "--sweep", "lr=0.3,0.06,0.1", "--max_concurrent", "3")
    table = outcome.stdout.splitlines()[-4:]
    assert table[0].split() == ["TRIAL", "lr", "val/loss", "STATUS", "DURATION"]
    assert [(row.split()[1], row.split()[2]) for row in table[1:]] == [("0.06", "0.01"), ("0.1", "0.05"), ("0.3", "0.25")]
    assert ["best" in row.split() for row in table[1:]] == [True, False, False]


def test_early_stop_in_settings_is_ignored_by_crossval(himl: Himl, project: Path) -> None:
    write_files(project, {"himl.toml": "[submit]\nearly_stop = 'median'\n"})
    told = himl.ok("submit", "train.py", "--crossval", "2").stderr
    assert told.splitlines()[0] == "Cross-validation: crossval_index=0,1, 2 runs, mean of val/loss."
    assert himl.ok("submit", "train.py", "--sweep", "x=1,2").stderr.splitlines()[0] == "Sweep: x=1,2, grid, 2 trials, minimize val/loss, median."


def test_a_secret_that_is_swept_is_named_and_not_shown(himl: Himl, project: Path) -> None:
    outcome = refused(himl, project, "--sweep", "token=hunter2secret,abcSECRET")
    assert "hunter2" not in outcome.stderr
    assert "Give a secret by --env_var." in outcome.stderr
    himl.ok("submit", "train.py", "--sweep", "token_count=1,2")


def test_dry_run_yaml_of_local_sweep_runs_one_trial_at_a_time(himl: Himl, project: Path) -> None:
    text = himl.ok("submit", "train.py", "--sweep", "lr=1,2", "--dry_run").stdout
    assert "max_concurrent_trials: 1\n" in text
    write_files(project, {"job.yml": text})
    again = himl.ok("submit", "job.yml")
    assert "2 trials, 1 at once" in again.stdout


def test_wait_for_cluster_sweep_prints_counts_and_best_first(himl: Himl, running: StagedWorkspace, project: Path) -> None:
    write_files(project, {"log.py": LOGGING_THERE})
    outcome = himl.ok("submit", "log.py", "--cluster", "cpu-cluster", "--sweep", "lr=0.3,0.06", "--max_concurrent", "1", "--wait")
    assert " of 2 trials ended." in outcome.stderr
    rows = [line.split() for line in outcome.stdout.splitlines() if "Completed" in line]
    assert [row[1:3] for row in rows] == [["0.06", "0.01"], ["0.3", "0.25"]]
    run_id = rows[0][0].rpartition("_")[0]
    assert f"himl runs aggregate {run_id}" in outcome.stderr
    assert himl.ok("runs", "logs", run_id).stdout, "a sweep's own log is its main one"


def test_a_sweep_on_a_cluster_is_followed_by_its_own_log(himl: Himl, running: StagedWorkspace) -> None:
    outcome = himl.ok("submit", "train.py", "--cluster", "cpu-cluster", "--crossval", "2", "--follow")
    assert running.artifacts(himl.ok("runs", "list", "--json").json()[0]["id"])["azureml-logs/hyperdrive.txt"].decode() in outcome.stdout
    assert "No trial logged 'val/loss', which they are compared by; --primary_metric names another one." in outcome.stderr


def test_a_dry_run_of_a_sweep_is_a_sweep_job(himl: Himl, lab: StagedWorkspace) -> None:
    shown = himl.ok("submit", "train.py", "--cluster", "cpu-cluster", "--sweep", "lr=uniform(0,1)", "--max_trials", "3", "--dry_run").stdout
    assert "type: sweep" in shown
    assert "max_total_trials: 3" in shown
    assert not lab.stage.log.all()


def test_canceling_says_what_it_means_for_the_others(himl: Himl, project: Path) -> None:
    write_files(project, {"sleep.py": "import time\ntime.sleep(600)\n"})
    run_id = himl.ok("submit", "sleep.py", "--crossval", "3", "--max_concurrent", "3", "--no_wait", "-q").stdout.strip()
    until(lambda: len(himl.ok("runs", "show", run_id, "--json").json()["children"]) == 3)
    assert himl.ok("runs", "cancel", f"{run_id}_1").stdout == f"Asked run '{run_id}_1' to stop; sweep '{run_id}' goes on with its other trials.\n"
    assert himl.ok("runs", "cancel", run_id).stdout == f"Asked run '{run_id}' to stop; its trials stop with it.\n"
    himl("runs", "logs", run_id, "--follow")
    assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Canceled"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_interrupting_a_submit_that_waits_cancels_the_sweep(himl: Himl, project: Path) -> None:
    write_files(project, {"sleep.py": "import time\nprint('up', flush=True)\ntime.sleep(600)\n"})
    process = himl.start("submit", "sleep.py", "--crossval", "3", "--max_concurrent", "2")
    assert process.stdout is not None
    for line in process.stdout:
        if b"trial 1, " in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    assert process.returncode == 130
    shown = himl.ok("runs", "show", "latest", "--json").json()
    assert shown["status"] == "Canceled"
    assert {child["status"] for child in shown["children"]} == {"Canceled"}
    assert json.loads(himl.ok("runs", "list", "--status", "Running", "--json").stdout) == []


def test_dry_run_of_cluster_random_sweep_prints_its_seed(himl: Himl, lab: StagedWorkspace) -> None:
    """The seed that is printed is that of the YAML."""
    options = ("--cluster", "cpu-cluster", "--sweep", "lr=uniform(0,1)", "--max_trials", "3", "--dry_run")
    outcome = himl.ok("submit", "train.py", *options)
    (seed,) = re.findall(r"^  seed: (\d+)$", outcome.stdout, re.MULTILINE)
    assert f"random(seed={seed}), 3 trials" in outcome.stderr
    assert not lab.stage.log.all()
