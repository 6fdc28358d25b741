"""Sweeps that run here and are canceled, interrupted or killed, or whose disk fills: what becomes of their trials, and what is recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.folders import SmallDisk
from tests.support.running import Himl, Outcome, until, write_files
from tests.support.sweeps import KEEPER, NOTING, SUPERVISOR, children, kill, lines, log_of, notes_folder, pids, show, statuses

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX, /proc")


@POSIX
def test_sweep_cancel_stops_others_and_retries_stuck_trial(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    himl.ok("submit", "train.py", "--no_wait", "--sweep", "n=1,2", "--max_concurrent", "2", env={"NOTES": str(notes)})
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    until(lambda: len(lines(notes / "starts")) == 2)
    runs = project / ".himl" / "runs"
    stuck = runs / f"{parent}_0" / "go"
    supervisors = pids(project, SUPERVISOR)
    for pid in supervisors:
        os.kill(pid, signal.SIGSTOP)  # that the file is gone for a moment must not be seen
    stuck.unlink()
    stuck.mkdir()
    for pid in supervisors:
        os.kill(pid, signal.SIGCONT)
    himl.ok("runs", "cancel", parent)
    until(lambda: "It is tried again." in log_of(project, parent))
    until(lambda: show(himl, f"{parent}_1")["status"] == "Canceled")
    stuck.rmdir()
    until(lambda: show(himl, parent)["status"] == "Canceled")
    assert statuses(himl, parent) == ["Canceled", "Canceled"]


@POSIX
def test_canceling_the_sweep_cancels_its_trials(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    himl.ok("submit", "train.py", "--no_wait", "--sweep", "n=1,2,3,4", "--max_concurrent", "2", env={"NOTES": str(notes)})
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    until(lambda: len(lines(notes / "starts")) == 2)
    himl.ok("runs", "cancel", parent)
    until(lambda: not pids(project, KEEPER))
    assert statuses(himl, parent) == ["Canceled", "Canceled"]
    assert {run["reason"] for run in children(himl, parent)} == {"its parent was canceled"}
    assert show(himl, parent)["status"] == "Canceled"
    assert lines(notes / "ends") == []


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_a_submit_that_waits_cancels_everything(himl: Himl, project: Path, tmp_path: Path, number: signal.Signals) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    process = himl.start("submit", "train.py", "--sweep", "n=1,2,3", "--max_concurrent", "2", env={"NOTES": str(notes)})
    until(lambda: len(lines(notes / "starts")) == 2)
    process.send_signal(number)
    process.communicate(timeout=100)
    assert process.returncode == 130
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    assert (show(himl, parent)["status"], statuses(himl, parent)) == ("Canceled", ["Canceled", "Canceled"])
    until(lambda: not pids(project, b"himl_cli"))


@POSIX
def test_canceling_one_trial_lets_the_others_go_on(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    himl.ok("submit", "train.py", "--no_wait", "--sweep", "n=1,2,3", env={"NOTES": str(notes)})
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    until(lambda: len(lines(notes / "starts")) == 1)
    himl.ok("runs", "cancel", f"{parent}_0")
    until(lambda: len(lines(notes / "starts")) == 2)
    (notes / "hold").unlink()
    until(lambda: not pids(project, KEEPER))
    assert statuses(himl, parent) == ["Canceled", "Completed", "Completed"]
    assert show(himl, parent)["reason"] == "1 of 3 trials were canceled"


@POSIX
def test_killed_keeper_leaves_trials_running_and_cancelable(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    himl.ok("submit", "train.py", "--no_wait", "--sweep", "n=1,2,3", "--max_concurrent", "2", env={"NOTES": str(notes)})
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    until(lambda: len(lines(notes / "starts")) == 2)
    kill(project, KEEPER)
    run = show(himl, parent)
    assert (run["status"], "keeper ended without recording" in run["reason"]) == ("Failed", True)
    assert run["reason"].endswith(f"what it had started goes on to its end; to do what is missing: himl submit --resume {parent}")
    assert statuses(himl, parent) == ["Running", "Running"]
    refused = himl("runs", "delete", parent, "--yes")
    assert (refused.code, "is still at work" in refused.stderr) == (2, True)
    himl.ok("runs", "cancel", f"{parent}_0")
    until(lambda: statuses(himl, parent) == ["Canceled", "Running"])
    himl.ok("runs", "cancel", parent)
    until(lambda: statuses(himl, parent) == ["Canceled", "Canceled"])
    himl.ok("runs", "delete", parent, "--yes")
    assert list((project / ".himl/runs").iterdir()) == []


@POSIX
def test_sigterm_to_keeper_ends_trials_and_records_failure(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    himl.ok("submit", "train.py", "--no_wait", "--sweep", "n=1,2,3", "--max_concurrent", "2", env={"NOTES": str(notes)})
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    until(lambda: len(lines(notes / "starts")) == 2)
    for pid in pids(project, KEEPER):
        os.kill(pid, signal.SIGTERM)
    until(lambda: not pids(project, KEEPER))
    assert statuses(himl, parent) == ["Failed", "Failed"]
    assert "SIGTERM" in show(himl, parent)["reason"]


@POSIX
def test_wait_for_sweep_with_killed_keeper_hints_at_resume(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    process = himl.start("submit", "train.py", "--sweep", "n=1,2", env={"NOTES": str(notes)})
    until(lambda: len(lines(notes / "starts")) == 1)
    kill(project, KEEPER)
    _, told = process.communicate(timeout=100)
    (notes / "hold").unlink()
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    until(lambda: statuses(himl, parent) == ["Completed"])
    assert process.returncode == 1
    assert f"; to do what is missing: himl submit --resume {parent}" in told.decode()


@POSIX
def test_killed_supervisor_fails_its_trial_and_others_go_on(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    himl.ok("submit", "train.py", "--no_wait", "--sweep", "n=1,2", env={"NOTES": str(notes)})
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    until(lambda: len(lines(notes / "starts")) == 1)
    for pid in pids(project, SUPERVISOR):
        os.kill(pid, signal.SIGKILL)
    (notes / "hold").unlink()
    until(lambda: not pids(project, KEEPER))
    assert statuses(himl, parent) == ["Failed", "Completed"]
    assert show(himl, parent)["reason"] == "1 of 2 trials failed"


def test_full_disk_during_trials_still_records_sweep_failure(himl: Himl, small_disk: SmallDisk) -> None:
    """Once there is room again, it can be resumed."""
    write_script = (
        'printf \'import os, sys\\nwith open("outputs/x", "wb") as s: s.write(b"x" * (9000000 if os.path.exists(os.environ["FILL"]) else 1))\\n\' > train.py'
    )
    submit = "FILL=$PWD/train.py himl submit train.py --sweep n=1,2; echo code $?"
    resume = "rm -f .himl/runs/*/code/outputs/x; FILL=/nowhere himl submit --resume latest -q >/dev/null; echo code $?"
    script = f"{write_script}; {submit}; himl runs show latest --json; {resume}; himl runs show latest --json"
    done = himl_on_disk(himl, small_disk, script)
    told = [line for line in done.stdout.splitlines() if line.startswith(("code", "{"))]
    assert [told[0], told[2]] == ["code 1", "code 0"], done.stdout + done.stderr
    before, after = json.loads(told[1]), json.loads(told[3])
    assert (before["status"], before["reason"]) == ("Failed", "2 of 2 trials failed")
    assert [run["status"] for run in after["children"]] == ["Completed", "Completed"]


def himl_on_disk(himl: Himl, disk: SmallDisk, script: str) -> Outcome:
    """What a shell did that runs in the folder of the disk, with `himl` on its PATH."""
    environment = os.environ | {"PATH": f"{himl.program.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([*disk.prefix, "sh", "-c", f"cd '{disk.folder}'; {script}"], capture_output=True, env=environment, timeout=100)
    return Outcome(done.returncode, done.stdout, done.stderr)
