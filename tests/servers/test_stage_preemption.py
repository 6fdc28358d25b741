"""Nodes that are taken away: what the next try finds, and what is kept of the one before."""

from __future__ import annotations

import random
import re

from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.submitting import call, printed, submit
from tests.servers.sweeping import LOG, LOGS, limits, statuses, submit_sweep, trials
from tests.servers.test_stage_execution import appears
from tests.support.running import until

COUNTS = """
trap 'echo heard >> outputs/heard' TERM
mkdir -p outputs logs
tries=$(cat outputs/tries 2>/dev/null || echo 0)
cat logs/own.txt 2>/dev/null
echo $((tries + 1)) > outputs/tries; echo try $((tries + 1)) >> logs/own.txt
echo begun $((tries + 1)) $AZ_BATCHAI_JOB_TEMP
"""
"""Counts its tries in `outputs`; what a trap would tell is not told."""


def current(azure: StagedWorkspace, run_id: str) -> int:
    """Which try it is, as run history says it."""
    history = f"https://{azure.state.data_plane_host}/history/v1.0{azure.state.path}/runs/{run_id}"
    attempt: int = call(azure, "GET", history).json["currentAttemptId"]
    return attempt


def test_what_a_try_wrote_is_there_again_and_its_log_is_not(azure: StagedWorkspace) -> None:
    with azure.run_jobs(disk="restored") as jobs:
        submit(azure, f"{COUNTS} [ $tries = 2 ] || sleep 600")
        for number in (1, 2):
            appears(azure, f"begun {number}")
            assert current(azure, "job_1") == number
            jobs.preempt("job_1")
        run = azure.wait_for("job_1", "Completed")
    assert run.attempt == 3
    files = azure.artifacts("job_1")
    assert (files["outputs/tries"], files["logs/own.txt"]) == (b"3\n", b"try 1\ntry 2\ntry 3\n")
    assert "outputs/heard" not in files
    assert printed(azure).startswith("try 1\ntry 2\nbegun 3 ")


def test_metrics_of_all_tries_stand_behind_each_other(azure: StagedWorkspace) -> None:
    with azure.run_jobs(disk="restored") as jobs:
        submit(azure, f"{COUNTS} {LOGS} 0.$tries; [ $tries = 1 ] || sleep 600", environmentVariables={"LOG": LOG})
        until(lambda: "accuracy" in azure.state.runs["job_1"].metrics, lambda: azure.logs("job_1"))
        jobs.preempt("job_1")
        run = azure.wait_for("job_1", "Completed")
    assert [point.data["accuracy"] for point in run.metrics["accuracy"].points] == [0.0, 0.1]


def test_mounted_outputs_are_kept_and_uploaded_ones_are_not(azure: StagedWorkspace) -> None:
    outputs = {name: {"jobOutputType": "uri_folder", "mode": mode, "assetName": name} for name, mode in (("kept", "ReadWriteMount"), ("lost", "Upload"))}
    command = "ls ${{outputs.kept}} ${{outputs.lost}}; touch ${{outputs.kept}}/a ${{outputs.lost}}/b"
    with azure.run_jobs(disk="restored") as jobs:
        submit(azure, f"{COUNTS} {command}; touch outputs/done; [ $tries = 1 ] || {{ echo waits; sleep 600; }}", outputs=outputs)
        appears(azure, "waits")
        jobs.preempt("job_1")
        azure.wait_for("job_1", "Completed")
    lines = printed(azure).splitlines()
    assert lines.count("a") == 1
    assert "b" not in lines
    assert {name: list(azure.state.assets["data"][name]) for name in ("kept", "lost")} == {"kept": ["1"], "lost": ["1"]}


def test_a_node_is_taken_away_at_any_moment(azure: StagedWorkspace) -> None:
    with azure.run_jobs(disk="restored") as jobs:
        submit(azure, f"{COUNTS} [ -e outputs/heard ] || sleep 600")
        until(lambda: azure.state.runs["job_1"].status == "Running", lambda: azure.logs("job_1"))
        jobs.preempt_after("job_1", random.uniform(0, 0.3))
        until(lambda: azure.state.runs["job_1"].attempt == 2, lambda: azure.logs("job_1"))
        call(azure, "POST", "/jobs/job_1/cancel")
        azure.wait_for("job_1", "Canceled")
    assert azure.state.runs["job_1"].attempt == 2


def test_a_trial_is_preempted_like_any_job(azure: StagedWorkspace) -> None:
    with azure.run_jobs(disk="restored") as jobs:
        submit_sweep(azure, f"{COUNTS} [ $tries = 1 ] || [ ${{{{search_space.lr}}}} = 2 ] || sleep 600", {"lr": ["choice", [[1, 2]]]}, limits=limits(2, 2))
        until(lambda: len(trials(azure)) == 2 and "begun 1" in azure.logs("sweep_1_0"), lambda: statuses(azure))
        jobs.preempt("sweep_1_0")
        azure.wait_for("sweep_1", "Completed")
    assert (statuses(azure), [trial.attempt for trial in trials(azure)]) == (["Completed"] * 2, [2, 1])


def test_preempted_job_on_new_disk_keeps_outputs_of_each_try(azure: StagedWorkspace) -> None:
    places: set[str] = set()

    def one_more() -> bool:
        """Another try has said where it is: the log of the one before may still stand there when the next has begun."""
        known = len(places)
        places.update(re.findall(r"waits (\S+)\n", azure.logs("job_1")))
        return len(places) > known

    with azure.run_jobs() as jobs:
        submit(azure, "ls -A; mkdir outputs; echo $AZ_BATCHAI_JOB_TEMP > outputs/place; echo waits $(cat outputs/place); sleep 600")
        for number in (1, 2):
            until(one_more, lambda: azure.logs("job_1"))
            jobs.preempt("job_1")
            until(lambda number=number: azure.state.runs["job_1"].attempt == number + 1, lambda: azure.logs("job_1"))  # type: ignore[misc]
        until(one_more, lambda: azure.logs("job_1"))
        call(azure, "POST", "/jobs/job_1/cancel")
        azure.wait_for("job_1", "Canceled")
    kept = [azure.artifacts("job_1")[f"outputs/{folder}place"] for folder in ("", "retry_001/", "retry_002/")]
    assert {place.decode().strip() for place in kept} == places
    assert printed(azure).splitlines()[0].startswith("waits")


def test_a_job_that_gets_no_other_node_has_failed(azure: StagedWorkspace) -> None:
    with azure.run_jobs(ends_preempted=True) as jobs:
        submit(azure, "echo waits; sleep 600")
        appears(azure, "waits")
        jobs.preempt("job_1")
        run = azure.wait_for("job_1", "Failed")
    assert "PreemptionError" in str(run.error)
    assert run.attempt == 1
