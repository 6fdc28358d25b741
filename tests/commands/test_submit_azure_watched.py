"""`himl submit --cluster` that waits for its job or follows its log: how the job ended, Ctrl-C, and a service that is away for a while."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.azureml.faults import Status
from tests.servers.azureml.jobs.runner import JobRunner
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import SUBMIT
from tests.support.azure import azure_project as azure_project
from tests.support.azure import running as running
from tests.support.running import Himl, until, write_files

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")


@pytest.fixture
def held(azure_project: StagedWorkspace) -> Iterator[JobRunner]:
    """As `azure_project`; a job is queued until it is released."""
    with azure_project.run_jobs(hold=True) as jobs:
        yield jobs


def submitted(himl: Himl, *options: str, arguments: tuple[str, ...] = ("--epochs", "3")) -> str:
    """The id of a job that was sent and is not waited for."""
    return himl.ok(*SUBMIT, *options, "-q", "--", *arguments).stdout.strip()


def test_waiting_says_how_it_went_and_prints_no_log(himl: Himl, running: StagedWorkspace) -> None:
    outcome = himl.ok(*SUBMIT, "--wait", "--", "--epochs", "3")
    run_id = outcome.stdout.splitlines()[0]
    assert "epochs" not in outcome.stdout + outcome.stderr
    assert f"Details: himl runs show {run_id}" in outcome.stderr
    assert himl.ok(*SUBMIT, "--wait", "--json", "--", "--epochs", "3").json()["status"] == "Completed"
    quiet = himl.ok(*SUBMIT, "--wait", "-q", "--", "--epochs", "3")
    assert (quiet.stdout.strip() in running.state.runs, quiet.stderr) == (True, "")


def test_failed_job_exits_1_and_prints_last_log_lines(himl: Himl, running: StagedWorkspace, project: Path) -> None:
    """With --follow, which has printed the log already, the lines are not repeated."""
    write_files(project, {"train.py": "import sys\nfor n in range(40): print('line', n)\nsys.exit(7)\n"})
    waited = himl(*SUBMIT, "--wait")
    assert waited.code == 1
    assert "line 39" in waited.stderr
    assert "line 19\n" not in waited.stderr
    run_id = waited.stdout.splitlines()[0]
    assert waited.stderr.splitlines()[-2] == f"error: Run '{run_id}' failed: Execution failed. User process 'python' exited with status code 7."
    followed = himl(*SUBMIT, "--follow")
    assert (followed.code, followed.stdout.splitlines()[-1], "line 39" in followed.stderr) == (1, "line 39", False)


def test_the_log_of_the_rank_that_failed_is_shown(himl: Himl, running: StagedWorkspace, project: Path) -> None:
    write_files(project, {"train.py": "import os, sys, time\nif os.environ['RANK'] == '1':\n    print('boom'); sys.exit(7)\ntime.sleep(600)"})
    followed = himl(*SUBMIT, "--processes_per_node", "2", "--follow")
    assert (followed.code, followed.stdout) == (1, "")
    assert "The last lines of user_logs/std_log_process_1.txt:\nboom\n" in followed.stderr
    assert followed.stderr.splitlines()[-1].endswith("--file std_log_process_1.txt")


def test_a_queued_job_is_canceled(himl: Himl, held: JobRunner, azure_project: StagedWorkspace) -> None:
    run_id = submitted(himl)
    azure_project.wait_for(run_id, "Queued")
    assert himl("runs", "logs", run_id).code == 3
    assert himl.ok("runs", "cancel", run_id).stdout == f"Asked run '{run_id}' to stop.\n"
    azure_project.wait_for(run_id, "Canceled")
    assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Canceled"
    assert "ended without a log" in himl("runs", "logs", "--follow", run_id).stderr


@posix
@pytest.mark.parametrize("mode", ["--wait", "--follow"])
def test_ctrl_c_leaves_the_job_running_and_says_how_to_cancel(himl: Himl, held: JobRunner, azure_project: StagedWorkspace, mode: str) -> None:
    with himl.start(*SUBMIT, mode, "--", "--epochs", "3") as waiting:
        assert waiting.stderr is not None
        said = b""
        while b"is queued" not in said:
            line = waiting.stderr.readline()
            assert line, said
            said += line
        os.kill(waiting.pid, signal.SIGINT)
        _, rest = waiting.communicate(timeout=100)
    (run_id,) = azure_project.state.runs
    assert waiting.returncode == 130
    assert f"Stopped watching; run '{run_id}' goes on." in rest.decode()
    assert f"himl runs cancel {run_id}" in rest.decode()
    held.release(run_id)
    azure_project.wait_for(run_id, "Completed")


@posix
def test_interrupted_quiet_wait_prints_run_id_and_job_goes_on(himl: Himl, held: JobRunner, azure_project: StagedWorkspace) -> None:
    """`run=$(himl submit -q --wait ...)` has it then, and can go on with the job."""
    with himl.start(*SUBMIT, "--wait", "-q", "--", "--epochs", "3") as waiting:
        until(lambda: azure_project.requests("GET .*/history/.*/runs/"))
        os.kill(waiting.pid, signal.SIGINT)
        printed, said = waiting.communicate(timeout=100)
    (run_id,) = azure_project.state.runs
    assert (waiting.returncode, printed.decode()) == (130, f"{run_id}\n"), said
    held.release(run_id)
    azure_project.wait_for(run_id, "Completed")


@posix
def test_missing_ca_bundle_while_following_is_named_and_retried(himl: Himl, held: JobRunner, azure_project: StagedWorkspace, project: Path) -> None:
    """It is borne with, as a network that is away: the file may be about to be replaced."""
    bundle = project / "authorities.pem"
    bundle.write_bytes(Path(azure_project.environment()["REQUESTS_CA_BUNDLE"]).read_bytes())
    with himl.start(*SUBMIT, "--follow", "--", "--epochs", "3", env={"REQUESTS_CA_BUNDLE": str(bundle)}) as waiting:
        assert waiting.stderr is not None
        while b"is queued" not in waiting.stderr.readline():
            assert waiting.poll() is None
        bundle.rename(project / "elsewhere.pem")
        assert b"authorities.pem' (REQUESTS_CA_BUNDLE) are not there any more. Still trying" in (line := waiting.stderr.readline()), line
        (project / "elsewhere.pem").rename(bundle)
        (run_id,) = azure_project.state.runs
        held.release(run_id)
        printed, said = waiting.communicate(timeout=100)
    assert (waiting.returncode, printed) == (0, b"epochs 3 blue\n"), said


def test_a_log_that_is_waited_for_is_printed_once_it_comes(himl: Himl, held: JobRunner, azure_project: StagedWorkspace) -> None:
    run_id = submitted(himl)
    with himl.start("runs", "logs", "--follow", run_id) as watcher:
        assert watcher.stderr is not None
        assert b"has no log yet" in watcher.stderr.readline()
        held.release(run_id)
        printed, _ = watcher.communicate(timeout=100)
    assert (watcher.returncode, printed) == (0, b"epochs 3 blue\n")


def test_following_outlives_a_service_that_is_away_for_a_while(himl: Himl, held: JobRunner, azure_project: StagedWorkspace) -> None:
    """It is said once that it does not answer, and once that it does again; nothing of the log is lost."""
    with himl.start(*SUBMIT, "--follow", "--", "--epochs", "3") as waiting:
        assert waiting.stderr is not None
        while b"is queued" not in waiting.stderr.readline():
            assert waiting.poll() is None
        azure_project.stage.faults.add(Status(503, retry_after=300), "GET .*/runs/", times=2)
        (run_id,) = azure_project.state.runs
        held.release(run_id)
        printed, said = waiting.communicate(timeout=100)
    assert (waiting.returncode, printed) == (0, b"epochs 3 blue\n"), said
    assert said.decode().count("Still trying; the run goes on meanwhile.") == 1
    assert said.decode().count("The service answers again.") == 1


def test_waiting_outlives_a_service_that_is_away_for_a_while(himl: Himl, running: StagedWorkspace) -> None:
    running.stage.faults.add(Status(503, retry_after=300), "GET .*/runs/", times=2)
    outcome = himl.ok(*SUBMIT, "--wait", "--", "--epochs", "3")
    assert outcome.stderr.count("Still trying") == 1


def test_follow_prints_log_rewritten_in_full_without_repeats(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    write_files(project, {"train.py": "import time\nfor n in range(4):\n    print('line', n, flush=True); time.sleep(0.7)\n"})
    with azure_project.run_jobs(whole_logs=True):
        assert himl.ok(*SUBMIT, "--follow").stdout == "line 0\nline 1\nline 2\nline 3\n"


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_submit_leaves_nothing_that_runs(himl: Himl, azure_project: StagedWorkspace, project: Path, number: signal.Signals) -> None:
    with azure_project.stage.holding("GET .*/computes/"), himl.start(*SUBMIT) as sending:
        until(lambda: azure_project.requests("GET .*/computes/") or azure_project.requests("token"))
        sending.send_signal(number)
        _, said = sending.communicate(timeout=100)
    assert (sending.returncode, azure_project.state.runs) == (130, {})
    assert "nothing runs" in said.decode()
    assert not (project / "most_recent_run.txt").exists()
