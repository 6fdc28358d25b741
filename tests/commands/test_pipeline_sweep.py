"""Tests of sweeps over pipelines, in which each trial is a pipeline whose steps get the values.

Local sweeps end, stop and resume. On Azure ML, the tests read the record of the parent run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.azureml_double.faults import Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.support.running import Himl, until, write_files
from tests.support.runs import latest, posix
from tests.support.sweeps import KEEPER, NOTING, children, kill, lines, log_of, notes_folder, pids, show, statuses
from tests.support.sweeps import lab as lab

MAKE = """
import argparse, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--n", type=int, default=1)
parser.add_argument("--output", type=pathlib.Path)
args = parser.parse_args()
(args.output / "n.txt").write_text(str(args.n))
print("made", args.n, os.environ["AZUREML_SWEEP_rate"])
"""
TRAIN = """
import argparse, pathlib, sys
from himl_cli import RUN_CONTEXT
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--input_data", type=pathlib.Path)
args = parser.parse_args()
for step in range(3):
    RUN_CONTEXT.log("val/loss", args.lr * int((args.input_data / "n.txt").read_text()) * (step + 1), step=step)
RUN_CONTEXT.log("own", args.lr)
"""
JUDGE = """
import sys
from himl_cli import RUN_CONTEXT
RUN_CONTEXT.log("val/loss", 100 - float(sys.argv[1]), step=0)
"""


def step(script: str, *arguments: str, **more: str) -> dict[str, Any]:
    return {"type": "PythonScriptStep", "script": script, "source_directory": "src", "arguments": [*arguments], **more}


STEPS = {
    "step1": step("make.py", "--n", "1", name="make", output="numbers"),
    "step2": step("train.py", "--lr=${{search_space.rate}}", name="train", input_dataset_name="numbers"),
}
SCRIPTS = {"src/make.py": MAKE, "src/train.py": TRAIN, "src/judge.py": JUDGE, "src/noting.py": NOTING}


def write_pipeline(project: Path, steps: dict[str, Any]) -> None:
    write_files(project, {**SCRIPTS, "pipe.json": json.dumps(steps)})


@pytest.mark.large("runs many pipelines")
def test_each_trial_is_a_pipeline_with_values_in_its_steps(himl: Himl, project: Path) -> None:
    write_pipeline(project, STEPS)
    write_files(project, {"himl.toml": "[submit]\nmax_concurrent = 2\n[submit.sweep]\nother = [1, 2]\n"})
    done = himl.ok("submit", "pipe.json", "--sweep", "rate=0.1,0.01", "--sweep", "n=2,1", "--tag", "team=blue")
    assert (
        "Sweep: rate=0.1,0.01 n=2,1, grid, 4 trials, minimize val/loss.\nrate is an argument of step2.\n"
        "n is an argument of step1.\n" in done.stderr
    )
    sweep = latest(himl)
    trials = children(himl, sweep["id"])
    assert [json.loads(run["tags"]["hyperparameters"]) for run in trials] == [
        {"rate": r, "n": n} for r in (0.1, 0.01) for n in (2, 1)
    ]
    assert {(run["status"], run["tags"]["himl.many"], run["tags"]["team"], run["parent"]) for run in trials} == {
        ("Completed", "pipeline", "blue", sweep["id"])
    }
    steps = children(himl, f"{sweep['id']}_2")
    assert [(run["id"], run["display_name"], run["parent"]) for run in steps] == [
        (f"{sweep['id']}_2_step{number}", name, f"{sweep['id']}_2") for number, name in ((1, "make"), (2, "train"))
    ]
    assert not {"himl.trial", "hyperparameters", "himl.sweep"} & {name for run in steps for name in run["tags"]}
    assert himl.ok("runs", "logs", steps[0]["id"]).stdout == "made 2 0.01\n"
    assert "--lr=0.01" in steps[1]["command"]
    # The best trial has the best value at any step. The table shows last values.
    assert show(himl, sweep["id"])["primary_metric"]["best"] == f"{sweep['id']}_3"
    told = himl.ok("runs", "aggregate", sweep["id"], "--json").json()["children"]
    assert [each["label"] for each in told] == ["rate=0.1, n=2", "rate=0.1, n=1", "rate=0.01, n=2", "rate=0.01, n=1"]
    assert [each["series"]["val/loss"]["values"][-1] for each in told] == pytest.approx([0.6, 0.3, 0.06, 0.03])
    assert [run["id"] for run in himl.ok("runs", "list", "--json").json()] == [sweep["id"]]
    himl.ok("download", sweep["id"], "--children", "--output_dir", "got")
    assert (project / "got" / f"{sweep['id']}_2_step1" / "user_logs" / "std_log.txt").read_text() == "made 2 0.01\n"
    write_pipeline(
        project, {**STEPS, "step3": step("judge.py", "${{search_space.rate}}", input_datareference_name="numbers")}
    )
    himl.ok("submit", "pipe.json", "--sweep", "rate=1,2", "--notify", "https://127.0.0.1:1/x")
    assert show(himl, latest(himl)["id"])["primary_metric"]["best"] == f"{latest(himl)['id']}_1", (
        "the last step that logged it counts"
    )
    values = [each["last"]["val/loss"] for each in himl.ok("runs", "aggregate", "latest", "--json").json()["children"]]
    assert values == [99, 98]


@pytest.mark.large("runs many pipelines")
def test_a_sweep_of_pipelines_and_one_of_its_trials_are_repeated(himl: Himl, project: Path) -> None:
    write_pipeline(project, STEPS)
    himl.ok("submit", "pipe.json", "--sweep", "rate=0.1,0.01", "--sweep", "n=2")
    sweep = latest(himl)["id"]
    write_files(project, {"src/make.py": "raise SystemExit(1)", "src/train.py": "raise SystemExit(1)"})
    himl.ok("submit", "--from", f"{sweep}_1")
    alone = latest(himl)
    assert (alone["status"], alone["tags"]["himl.many"], alone["tags"]["himl.repeats"]) == (
        "Completed",
        "pipeline",
        f"{sweep}_1",
    )
    assert not {"himl.trial", "hyperparameters", "himl.sweep"} & {*alone["tags"]}
    assert [himl.ok("runs", "logs", each["id"]).stdout for each in children(himl, alone["id"])[:1]] == ["made 2 0.01\n"]
    himl.ok("submit", "--from", sweep, "--max_concurrent", "2")
    again = latest(himl)
    plan = json.loads((project / ".himl" / "runs" / again["id"] / "plan.json").read_text())["many"]
    assert (again["tags"]["himl.repeats"], {job["spec"]["sweep"]["max_concurrent"] for job in plan["jobs"]}) == (
        sweep,
        {2},
    )
    assert [run["tags"]["hyperparameters"] for run in children(himl, again["id"])] == [
        '{"rate": 0.1, "n": 2}',
        '{"rate": 0.01, "n": 2}',
    ]
    assert show(himl, again["id"])["primary_metric"]["best"] == f"{again['id']}_1"


@pytest.mark.large("runs many pipelines")
@posix
def test_a_stopped_sweep_goes_on_with_the_steps_that_are_missing(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_pipeline(project, {"step1": step("noting.py", name="a"), "step2": step("noting.py", "--x", "0", name="b")})
    notes = notes_folder(tmp_path, holds=True)
    himl.ok(
        "submit", "pipe.json", "--sweep", "x=1,2,3", "--max_concurrent", "2", "--no_wait", env={"NOTES": str(notes)}
    )
    sweep = latest(himl)["id"]
    until(lambda: len(lines(notes / "starts")) == 2)
    assert (
        himl.ok("runs", "cancel", sweep).stdout
        == f"Requested cancellation of run '{sweep}'. Its trials stop with it.\n"
    )
    until(lambda: not pids(project, KEEPER))
    assert (show(himl, sweep)["status"], statuses(himl, sweep)) == ("Canceled", ["Canceled"] * 2)
    assert {run["reason"] for run in children(himl, f"{sweep}_0")} == {"its parent was canceled"}
    (notes / "hold").unlink()
    himl.ok("submit", "--resume", sweep, env={"NOTES": str(notes)})
    assert (show(himl, sweep)["status"], statuses(himl, sweep)) == ("Completed", ["Completed"] * 3)
    assert sorted(lines(notes / "ends")) == [f"{sweep}_{trial}_step{number}" for trial in range(3) for number in (1, 2)]
    (notes / "hold").touch()
    himl.ok("submit", "pipe.json", "--sweep", "x=1,2", "--no_wait", env={"NOTES": str(notes)})
    killed = latest(himl)["id"]
    until(lambda: len(pids(project, KEEPER)) == 2 and lines(notes / "starts")[-1] == f"{killed}_0_step1")
    kill(project, KEEPER)
    until(lambda: (show(himl, killed)["status"], statuses(himl, killed)) == ("Failed", ["Failed"]))
    assert [run["status"] for run in children(himl, f"{killed}_0")] == ["Running"]
    going = himl.start("submit", "--resume", killed, env={"NOTES": str(notes)})
    until(lambda: len(pids(project, KEEPER)) == 2)
    (notes / "hold").unlink()
    said = going.communicate(timeout=100)[1].decode()
    assert going.returncode == 0, said
    assert lines(notes / "ends").count(f"{killed}_0_step1") == 1, "the step that was at work went on"
    assert himl("submit", "--resume", f"{killed}_1").code == 2


# Fold 3 fails. A trial over 5 waits to be stopped. A trial below it logs its value only when the policy has evaluated
# the poor one, and ends at once.
WAIT = """
import os, pathlib, sys, time
from himl_cli import RUN_CONTEXT
x, logged = float(sys.argv[1]), pathlib.Path(os.environ.get("NOTES", ".")) / "logged"
if "NOTES" in os.environ and x < 5:
    while not logged.exists():
        time.sleep(0.05)
    time.sleep(1)
RUN_CONTEXT.log("val/loss", x, step=0)
RUN_CONTEXT.flush()
if x > 5:
    logged.touch()
    time.sleep(100)
sys.exit(x == 3)
"""


@posix
def test_a_poor_pipeline_is_stopped_early_and_a_failing_one_fails_the_sweep(
    himl: Himl, project: Path, tmp_path: Path
) -> None:
    write_pipeline(project, {"step1": step("wait.py", "${{search_space.x}}", name="a")})
    write_files(project, {"src/wait.py": WAIT})
    stop = ("--early_stop", "bandit(slack_factor=0.1)", "--max_concurrent", "2")
    himl.ok("submit", "pipe.json", "--sweep", "x=1,9", *stop, env={"NOTES": str(notes_folder(tmp_path))})
    sweep = latest(himl)["id"]
    assert statuses(himl, sweep) == ["Completed", "Canceled"]
    assert (children(himl, sweep)[1]["tags"]["himl.stopped_early"], "bandit" in children(himl, sweep)[1]["reason"]) == (
        "bandit",
        True,
    )
    assert himl("submit", "pipe.json", "--sweep", "x=3,2,1", "--max_failures", "1").code == 1
    assert show(himl, "latest")["reason"] == "the first trial to end failed; 2 of 3 were not started"
    assert himl("submit", "pipe.json", "--crossval", "4", "--crossval_arg", "x").code == 1
    assert show(himl, "latest")["reason"] == "1 of 4 trials failed"
    assert "val/loss: mean" in log_of(project, latest(himl)["id"])


def test_what_no_sweep_of_pipelines_can_be_is_refused(himl: Himl, project: Path) -> None:
    write_pipeline(project, STEPS)
    at_once = "does not apply to pipelines on Azure ML, because himl submits them all at once"
    rate, gpu = ("--sweep", "rate=1,2"), ("--cluster", "gpu", "--docker_image", "x")
    for options, message in {
        (
            "--sweep",
            "rate=1",
            "--sweep",
            "depth=1",
        ): "no step uses the hyperparameter 'depth': none has --depth or ${{search_space.depth}} as an argument.",
        (): "step2: 'arguments' '${{search_space.rate}}' names no hyperparameter",
        (*rate, "--cluster", "slurm:x"): "A sweep of pipelines cannot run on Slurm.",
        (*rate, *gpu, "--max_concurrent", "2"): f"--max_concurrent 2 {at_once}",
        (*rate, *gpu, "--early_stop", "median"): f"--early_stop {at_once}",
        (*rate, *gpu, "--sampling", "bayesian", "--max_trials", "2"): f"--sampling bayesian {at_once}",
        (
            "--sweep",
            "rate=uniform(0,1)",
            *gpu,
            "--max_trials",
            "1001",
        ): "The sweep has 1,001 pipelines. The limit is 1,000.",
        ("--max_trials", "3"): "--max_trials needs --sweep.",
        (
            *rate,
            *gpu,
            "--max_failures",
            "1",
        ): "--max_failures 1 applies to local jobs only, and this job runs on cluster 'gpu'.",
    }.items():
        refused = himl("submit", "pipe.json", *options, "--dry_run")
        assert (refused.code, message in refused.stderr) == (2, True), refused.stderr
    assert not (project / ".himl").exists()
    told = himl.ok("submit", "pipe.json", *rate, *gpu, "--dry_run", env={"HIML_SUBMIT_MAX_CONCURRENT": "2"}).stdout
    assert told.startswith("# the first of 2 pipelines, rate=1. The others differ in these values.\n")
    assert "--lr=1" in told


ON_AZURE = ("--cluster", "cpu-cluster", "--docker_image", "docker.io/python:3.11")


@pytest.mark.large("runs many pipelines")
def test_on_azure_ml_the_pipelines_are_children_of_a_record(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    fails = JUDGE + "sys.exit(float(sys.argv[1]) == 3)\n"
    judge = step("fails.py", "${{search_space.rate}}", name="judge", input_datareference_name="numbers")
    write_pipeline(project, {"step1": STEPS["step1"], "step2": judge})
    write_files(project, {"src/fails.py": fails})
    with lab.run_jobs():
        sent = himl(
            "submit",
            "pipe.json",
            *ON_AZURE,
            "--sweep",
            "rate=1,2",
            "--goal",
            "maximize",
            "--tag",
            "team=blue",
            "--wait",
            "--json",
        )
        assert sent.code == 0, sent.stderr
        failed = himl("submit", "pipe.json", *ON_AZURE, "--sweep", "rate=3,4", "--wait", "-q")
    assert (failed.code, "1 of 2 trials failed" in failed.stderr) == (1, True), failed.stderr
    sweep = sent.json()["id"]
    assert [run.status for run in (lab.state.runs[sweep], lab.state.runs[failed.stdout.split()[0]])] == [
        "Completed",
        "Failed",
    ]
    jobs = [lab.state.runs[f"{sweep}_{number}"].job or {} for number in (0, 1)]
    assert [job["parentJobName"] for job in jobs] == [sweep] * 2
    assert [job["jobs"]["step2"]["environment_variables"]["AZUREML_SWEEP_rate"] for job in jobs] == ["1", "2"]
    runs = himl.ok("runs", "list", "--json").json()
    assert [(run["id"], run["status"], run["tags"].get("team")) for run in runs][1:] == [(sweep, "Completed", "blue")]
    told = show(himl, sweep)
    assert (told["primary_metric"]["best"], told["tags"]["himl.many"], told["metrics"]) == (f"{sweep}_0", "sweep", [])
    assert [json.loads(run["tags"]["hyperparameters"]) for run in children(himl, sweep)] == [{"rate": 1}, {"rate": 2}]
    assert {run["display_name"] for run in children(himl, f"{sweep}_1")} == {"make", "judge"}
    values = [each["last"]["val/loss"] for each in himl.ok("runs", "aggregate", sweep, "--json").json()["children"]]
    assert values == [99, 98]


def test_a_sweep_on_azure_ml_is_canceled_and_ends_by_those_that_were_sent(
    himl: Himl, lab: StagedWorkspace, stage: Stage, project: Path
) -> None:
    write_pipeline(project, {"step1": STEPS["step1"] | {"arguments": ["--n", "1"]}})
    with lab.run_jobs(hold=True):
        sweep = himl.ok("submit", "pipe.json", *ON_AZURE, "--sweep", "n=1,2,3", "-q").stdout.strip()
        assert show(himl, sweep)["status"] == "Running"
        assert (
            himl.ok("runs", "cancel", sweep).stdout
            == f"Requested cancellation of run '{sweep}'. Its trials stop with it.\n"
        )
        until(lambda: statuses(himl, sweep) == ["Canceled"] * 3)
    assert (show(himl, sweep)["status"], lab.state.runs[sweep].status) == ("Canceled", "Canceled")
    write_pipeline(project, {"step1": step("judge.py", "${{search_space.n}}", name="judge")})
    stage.faults.add(Status(403, code="AuthorizationFailed", message="No."), r"^PUT .*/jobs/\w+_1\?")
    with lab.run_jobs():
        refused = himl("submit", "pipe.json", *ON_AZURE, "--sweep", "n=1,2,3")
        assert (refused.code, "1 of 3 pipelines were submitted and continue. 'himl runs show" in refused.stderr) == (
            4,
            True,
        ), refused.stderr
        half = himl.ok("runs", "list", "-q").stdout.split()[0]
        until(lambda: show(himl, half)["status"] == "Completed")
    assert (lab.state.runs[half].status, len(children(himl, half))) == ("Completed", 1)
    stage.faults.add(Status(403, code="AuthorizationFailed", message="No."), r"^PUT .*/jobs/\w+_0\?")
    assert himl("submit", "pipe.json", *ON_AZURE, "--sweep", "n=1,2,3").code == 4
    none = show(himl, himl.ok("runs", "list", "-q").stdout.split()[0])
    assert (none["status"], none["reason"]) == ("Failed", "himl submitted none of its pipelines")
