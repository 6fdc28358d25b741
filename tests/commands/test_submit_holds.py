"""What must hold whatever happens to a job: a true recorded state, no process left, no log lost, no record damaged."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.processes import MARK, command_of, is_sound, processes_below, supervisor_of
from tests.support.running import Himl, until, write_files
from tests.support.runs import POSIX, STUBBORN, runs, started, status


def test_nested_runs_that_were_left_open_end_with_their_job(himl: Himl, project: Path) -> None:
    nested = "import mlflow, os\nmlflow.start_run()\nmlflow.start_run(nested=True)\nmlflow.log_metric('loss', 0.5)\nos._exit(3)\n"
    write_files(project, {"train.py": nested})
    assert himl("submit", "train.py").code == 1
    shown = himl.ok("runs", "show", "latest", "--json").json()
    assert [child["status"] for child in shown["children"]] == ["Failed"]
    child = himl.ok("runs", "show", shown["children"][0]["id"], "--json").json()
    assert (child["status"], child["reason"]) == ("Failed", "the job ended"), "recorded, not only read off a free lock"


@POSIX
def test_a_killed_supervisor_leaves_no_process_and_a_failed_run(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": STUBBORN})
    process = started(himl, project)
    os.kill(supervisor_of(project), signal.SIGKILL)
    _, talk = process.communicate(timeout=100)
    assert process.returncode == 1
    assert b"supervisor" in talk
    until(lambda: processes_below(project) == [])
    (run,) = runs(himl)
    assert (run["status"], run["duration"]) == ("Failed", None)
    assert himl.ok("runs", "logs", run["id"]).stdout == "up\n"
    assert is_sound(project)


@POSIX
def test_killing_supervisor_and_shim_together_leaves_no_script(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time\nprint('up', flush=True)\ntime.sleep(600)\n"})
    process = started(himl, project)
    for pid in processes_below(project):
        if b"himl_cli" in command_of(pid):
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=100)
    until(lambda: processes_below(project) == [])
    assert status(himl) == "Failed"


@POSIX
def test_sigterm_to_supervisor_ends_job_and_records_failure(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time\nprint('up', flush=True)\ntime.sleep(600)\n"})
    process = started(himl, project)
    os.kill(supervisor_of(project), signal.SIGTERM)
    process.communicate(timeout=100)
    (run,) = runs(himl)
    assert (run["status"], "SIGTERM" in run["reason"]) == ("Failed", True)
    until(lambda: processes_below(project) == [])


def test_after_a_reboot_a_run_without_an_end_reads_as_failed(himl: Himl, project: Path) -> None:
    """What a machine that went down leaves: an open record, a lock file that nobody holds. No process id is looked at."""
    write_files(project, {"train.py": ""})
    himl.ok("submit", "train.py")
    until(lambda: processes_below(project) == [])
    with closing(sqlite3.connect(project / ".himl" / "workspace.db")) as database, database:
        database.execute("UPDATE runs SET status = 'Running', ended = NULL, exit_code = NULL")
    (run,) = himl.ok("runs", "list", "--status", "failed", "--json").json()
    assert (run["status"], "supervisor" in run["reason"]) == ("Failed", True)
    assert himl.ok("runs", "list", "--status", "running", "--json").json() == []


@POSIX
def test_a_script_that_dies_by_a_signal_says_which(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import os, signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)\n"})
    outcome = himl("submit", "train.py")
    assert (outcome.code, "signal 11 (SIGSEGV)" in outcome.stderr, outcome.stdout) == (1, True, "before\n")
    assert runs(himl)[0]["exit_code"] == 139


@POSIX
def test_what_a_finished_script_left_in_the_background_is_ended(himl: Himl, project: Path) -> None:
    sleep = "[sys.executable, '-c', 'import time; time.sleep(600)']"
    script = f"import subprocess, sys\nfor apart in (False, True):\n    subprocess.Popen({sleep}, start_new_session=apart)\n"
    write_files(project, {"train.py": script})
    himl.ok("submit", "train.py")
    until(lambda: processes_below(project) == [])


def test_eight_submits_at_once(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import os, pathlib\npathlib.Path('outputs/id').write_text(os.environ['AZUREML_RUN_ID'])\n"})
    processes = [himl.start("submit", "train.py", "-q") for _ in range(8)]
    ids = {process.communicate(timeout=100)[0].decode().strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 8
    recorded = runs(himl)
    assert {run["id"] for run in recorded} == ids
    assert {run["status"] for run in recorded} == {"Completed"}
    assert len(ids) == 8
    assert all((project / ".himl" / "runs" / run_id / "code" / "outputs" / "id").read_text() == run_id for run_id in ids)
    assert is_sound(project)


def test_twenty_thousand_output_files(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": "for i in range(20000):\n    open(f'outputs/{i}', 'w').close()\n"})
    himl.ok("submit", "train.py")
    listed = himl.ok("download", "--list", "--prefix", "outputs/", "-q").stdout.splitlines()
    assert len(listed) == 20000
    assert himl.ok("runs", "delete", "latest", "--yes").code == 0
    assert list((project / ".himl" / "runs").iterdir()) == []


def test_log_bytes_that_are_not_utf_8_come_out_as_they_went_in(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import sys\nsys.stdout.buffer.write(bytes(range(256)) * 3)\n"})
    assert himl.ok("submit", "train.py").raw_stdout == bytes(range(256)) * 3
    assert himl.ok("runs", "logs", "latest").raw_stdout == bytes(range(256)) * 3


def test_two_hundred_megabytes_of_log(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import sys\nfor i in range(200):\n    sys.stdout.buffer.write(b'%09d\\n' % i * 100_000)\n"})
    with (project / "copy").open("wb") as copy:
        subprocess.run([str(himl.program), "submit", "train.py"], cwd=project, stdout=copy, stderr=subprocess.DEVNULL, check=True, timeout=120)
    log = project / ".himl" / "runs" / runs(himl)[0]["id"] / "user_logs" / "std_log.txt"
    assert log.stat().st_size == (project / "copy").stat().st_size == 200_000_000
    assert himl("runs", "logs", "latest").raw_stdout == log.read_bytes()


def test_a_missing_interpreter_is_said(himl: Himl, project: Path, require_program: Callable[[str], str]) -> None:
    require_program("bash")
    write_files(project, {"run.sh": "exec /nowhere/python train.py\n"})
    outcome = himl("submit", "run.sh")
    assert (outcome.code, "/nowhere/python" in outcome.stdout) == (1, True)
    assert runs(himl)[0]["exit_code"] == 127


def test_an_interpreter_that_vanishes_before_the_start_is_said(himl: Himl, project: Path, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/nowhere/interpreter\n")
    broken.chmod(0o755)
    write_files(project, {"train.py": ""})
    outcome = himl("submit", "train.py", "--python", broken)
    assert outcome.code == 1
    (run,) = runs(himl)
    assert (run["status"], str(broken) in run["reason"]) == ("Failed", True)


@POSIX
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(himl: Himl, project: Path, closed: str) -> None:
    write_files(project, {"train.py": "print('ran')"})
    done = subprocess.run(["sh", "-c", f'"{himl.program}" submit train.py {closed}; echo $?'], cwd=project, capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines()[-1:] == ["0"], done
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    assert status(himl) == "Completed"
    assert is_sound(project)


@pytest.mark.skipif(sys.platform != "linux", reason="finding daemons that left their group needs Linux")
def test_a_killed_shim_leaves_no_daemon_of_the_script(himl: Himl, project: Path) -> None:
    daemon = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    write_files(project, {"train.py": f"import subprocess, sys, time\n{daemon}\nprint('up', flush=True)\ntime.sleep(600)\n"})
    process = started(himl, project)
    (shim,) = [pid for pid in processes_below(project / ".himl") if b"shim.py" in command_of(pid)]
    os.kill(shim, signal.SIGKILL)
    process.communicate(timeout=100)
    assert (process.returncode, status(himl)) == (1, "Failed")
    until(lambda: processes_below(project) == [])


@POSIX
def test_nothing_of_the_tests_escapes_the_check_for_leftovers(himl: Himl, project: Path) -> None:
    """The mark that the session's last check looks for reaches the script through supervisor and shim."""
    write_files(project, {"train.py": f"import os; print(os.environ['{MARK}'])"})
    assert himl.ok("submit", "train.py").stdout.strip() == os.environ[MARK]


def unrecorded(himl: Himl, project: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A submit that cannot go on, since the record is being written to, and the folder of its run."""
    before = set((project / ".himl" / "runs").iterdir())
    process = himl.start("submit", "train.py")
    until(lambda: any((folder / "lock").exists() for folder in {*(project / ".himl" / "runs").iterdir()} - before))
    (folder,) = {*(project / ".himl" / "runs").iterdir()} - before
    return process, folder


@POSIX
def test_next_submit_removes_leftovers_of_killed_start(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print('up')"})
    himl.ok("submit", "train.py")
    with closing(sqlite3.connect(project / ".himl" / "workspace.db")) as database:
        database.execute("BEGIN IMMEDIATE")
        killed, left = unrecorded(himl, project)
        killed.kill()
        os.kill(supervisor_of(project), signal.SIGKILL)
        killed.communicate(timeout=100)
        until(lambda: processes_below(project) == [])
        assert left.is_dir()
        going_on, folder = unrecorded(himl, project)
        assert not left.exists()
        other, _ = unrecorded(himl, project)
        assert folder.is_dir(), "one that is being started is no leftover"
    for process in (going_on, other):
        _, talk = process.communicate(timeout=100)
        assert process.returncode == 0, talk
    assert {path.name for path in (project / ".himl" / "runs").iterdir()} == {run["id"] for run in runs(himl)}
    assert [*(project / ".himl" / "starting").iterdir()] == []
