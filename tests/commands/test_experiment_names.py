"""The name of an experiment, from what the user says to what the service gets, and back to its runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import SUBMIT
from tests.support.azure import azure_project as azure_project
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns

OLD_NAME = "No run is of an experiment 'lab-exp'; this is experiment 'lab_exp'.\n"
ON_CLUSTER = ("--cluster", "cpu-cluster", "--docker_image", "docker.io/python:3.11")


def test_a_dash_stays_and_no_older_run_is_served_for_the_new_one(himl: Himl, azure_project: StagedWorkspace) -> None:
    """By every command that looks for the experiment; an experiment of the old name has a run too."""
    for experiment, run_id in (("lab-exp", "of_the_sdk"), ("lab_exp", "of_old_himl")):
        azure_project.put_artifacts(azure_project.add_run(run_id, experiment), {"outputs/which.txt": run_id.encode()})
    sent = himl.ok(*SUBMIT, "--experiment", "lab-exp", "--json", "--", "--epochs", "1")
    run_id = sent.json()["id"]
    assert (sent.json()["experiment"], "experiment is called" in sent.stderr) == ("lab-exp", False)
    assert run_id.startswith("lab-exp_")
    azure_project.state.runs[run_id].status = "Completed"
    azure_project.put_artifacts(azure_project.state.runs[run_id], {"outputs/which.txt": b"new", "logs/events.out.tfevents.1": b"x"})
    wanted = ("--experiment", "lab-exp")
    assert himl.ok("runs", "list", *wanted, "-q").stdout == f"{run_id}\nof_the_sdk\n"
    assert himl.ok("runs", "show", *wanted, "-q").stdout == f"{run_id}\n"
    himl.ok("download", *wanted, "--prefix", "outputs", "--flat", "--output_dir", "got")
    assert [path.read_bytes() for path in (himl.folder / "got").rglob("which.txt")] == [b"new"]
    himl.ok("tb", *wanted, "--sync_only", "--run_logs_dir", "curves")
    assert [path.read_bytes() for path in (himl.folder / "curves").rglob("*tfevents*")] == [b"x"]


def test_experiment_stored_with_underscores_is_found_with_note(himl: Himl, azure_project: StagedWorkspace) -> None:
    azure_project.put_artifacts(azure_project.add_run("lab_exp_1_aa", "lab_exp"), {"outputs/which.txt": b"old"})
    wanted = ("--experiment", "lab-exp")
    for command in (("runs", "list"), ("runs", "show"), ("runs", "aggregate"), ("download", "--list")):
        outcome = himl.ok(*command, *wanted, "--json")
        assert (OLD_NAME in outcome.stderr, "lab_exp_1_aa" in outcome.stdout or "which" in outcome.stdout) == (True, True), command
    assert himl.ok("runs", "list", "--experiment", "lab_exp").stderr == ""


def test_runs_kept_here_are_found_by_the_same_rule(himl: Himl, project: Path) -> None:
    runs = RecordedRuns(project)
    files = {"logs/events.out.tfevents.1": b"", "outputs/checkpoints/last.ckpt": b"weights"}
    runs.add("lab_exp_1_aa", experiment="lab_exp", files=files)
    for command in (("runs", "list"), ("runs", "show"), ("tb", "--sync_only"), ("checkpoint", "fetch")):
        assert OLD_NAME in himl.ok(*command, "--experiment", "lab-exp").stderr, command
    runs.add("a_b-c_3_cc", experiment="a_b-c")
    assert himl.ok("runs", "list", "--experiment", "a__b-c", "-q").stdout == "a_b-c_3_cc\n", "hi-ml makes one _ of several"
    runs.add("lab-exp_2_bb", experiment="lab-exp")
    assert himl.ok("runs", "list", "--experiment", "lab-exp", "-q").stdout == "lab-exp_2_bb\n"
    failed = himl.ok("runs", "list", "--experiment", "lab-exp", "--tags", "team=red")
    assert failed.stderr == "No runs in local workspace '.himl' match.\n", "the experiment is there: no other one is meant"
    assert himl("runs", "show", "--experiment", "lab-epx").stderr.splitlines()[1] == "hint: Did you mean lab-exp or lab_exp?"


@pytest.mark.parametrize("asked", ["DEV-train-pipeline", "9-lives", "a" * 256])
def test_names_that_the_service_takes_are_sent_as_they_are(himl: Himl, azure_project: StagedWorkspace, asked: str) -> None:
    azure_job = ("--experiment", asked, "--json", "--", "--epochs", "1")
    sent = himl.ok(*SUBMIT, *azure_job)
    (job,) = [run.job for run in azure_project.state.runs.values()]
    assert ((job or {})["experimentName"], sent.json()["experiment"]) == (asked, asked)
    assert "is called" not in sent.stderr
    assert f"experiment_name: {asked}\n" in himl.ok(*SUBMIT, "--dry_run", "--experiment", asked).stdout


def test_other_names_are_made_so_and_the_reason_is_the_service_s(himl: Himl, azure_project: StagedWorkspace) -> None:
    sent = himl.ok(*SUBMIT, "--experiment", "-ada/new-loss", "--json", "--", "--epochs", "1")
    assert sent.json()["experiment"] == "ada_new-loss"
    rule = "letters, digits, _ and - only, 256 at most, the first a letter or digit"
    assert f"called 'ada_new-loss', since Azure ML does not take the name '-ada/new-loss': {rule}.\n" in sent.stderr


def test_dash_in_experiment_name_is_kept_for_all_kinds_of_jobs(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    """Job files, pipelines, local jobs recorded in Azure and pushed checkpoints."""
    step = {"type": "PythonScriptStep", "name": "one", "script": "one.py", "source_directory": ".", "arguments": []}
    job = "type: command\nexperiment_name: dash-exp\ncommand: ls\nenvironment: {image: docker.io/python:3.11}\ncompute: azureml:cpu-cluster\n"
    write_files(project, {"job.yml": job, "dev-pipe.json": json.dumps({"step1": step}), "one.py": "1"})
    himl.ok("submit", "job.yml")
    himl.ok("submit", "dev-pipe.json", "--cluster", "cpu-cluster")
    himl.ok("submit", "one.py", "--record_in", "azure", "--experiment", "told-exp")
    himl.ok("checkpoint", "push", "one.py", "--from", "latest", "--experiment", "pushed-exp", "-w", "local")
    assert himl.ok("submit", "job.yml", "--cluster", "local", "--json").json()["experiment"] == "dash-exp"
    experiments = {run.experiment.name for run in azure_project.state.runs.values()}
    assert experiments == {"dash-exp", "dev-pipe", "told-exp"}
    here = himl.ok("runs", "list", "-w", "local", "--num_runs", "all", "--json").json()
    assert {run["experiment"] for run in here} == {"told-exp", "pushed-exp", "dash-exp"}
