"""`himl submit --max_run_duration` on a cluster: who ended the job is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure_jobs import CONDA
from tests.support.running import Himl, write_files

SUBMIT = ("submit", "train.py", "--cluster", "cpu-cluster", "--max_run_duration")


@pytest.fixture
def running(azure_environment: StagedWorkspace, project: Path) -> Iterator[StagedWorkspace]:
    """A project whose script does not end by itself, and a workspace that runs what it is sent."""
    azure_environment.write_config(project)
    write_files(project, {"train.py": "import time\nprint('begun', flush=True)\ntime.sleep(600)\n", "environment.yml": CONDA})
    with azure_environment.run_jobs(minute=1.0):
        yield azure_environment


def test_a_job_that_ran_too_long_says_so(running: StagedWorkspace, himl: Himl) -> None:
    done = himl(*SUBMIT, "1m", "--wait")
    assert done.code == 1
    assert "was canceled: it ran for as long as --max_run_duration let it (60 s)." in " ".join(done.stderr.split())
    (run_id,) = running.state.runs
    assert "--max_run_duration" in himl.ok("runs", "show", run_id, "--json").json()["reason"]


def test_run_limit_below_a_minute_is_raised_to_one_minute(running: StagedWorkspace, himl: Himl) -> None:
    """The service reads a limit below a minute as 60 days."""
    done = himl(*SUBMIT, "5s", "--wait")
    said = " ".join(done.stderr.split())
    assert done.code == 1
    assert "--max_run_duration is a minute at least on a cluster: 60 s, not 5 s." in said
    assert "it ran for as long as --max_run_duration let it (60 s)." in said
    (run,) = running.state.runs.values()
    assert run.job
    assert run.job["limits"]["timeout"] == "PT1M"


def test_one_that_was_canceled_before_says_nothing_of_the_limit(running: StagedWorkspace, himl: Himl) -> None:
    run_id = himl.ok(*SUBMIT, "8h", "-q").stdout.strip()
    running.wait_for(run_id, "Running")
    himl.ok("runs", "cancel", run_id)
    running.wait_for(run_id, "Canceled")
    assert himl.ok("runs", "show", run_id, "--json").json()["reason"] == ""
