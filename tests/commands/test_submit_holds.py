"""What must hold whatever happens to a job: a true recorded state, no process left, no log lost, no record damaged."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import lacking
from tests.leftovers import MARK
from tests.local_jobs import command_of, is_sound, processes_below, supervisor_of
from tests.running import Himl, write_files
from tests.special_folders import SmallDisk, made_read_only
from tests.waiting import until

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and process groups of POSIX")

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(0.5)
print("up", flush=True)
time.sleep(600)
"""


def runs(himl: Himl) -> list[dict[str, Any]]:
    return list(himl.ok("runs", "list", "--num_runs", "all", "--json").json())


def status(himl: Himl) -> str:
    return str(runs(himl)[0]["status"])


def started(himl: Himl, project: Path, *options: str) -> subprocess.Popen[bytes]:
    """A submit of train.py that waits, and whose script has printed `up`."""
    process = himl.start("submit", "train.py", *options)
    until(lambda: any(beginning(log) == b"up" for log in (project / ".himl" / "runs").glob("*/user_logs/std_log.txt")))
    return process


def beginning(log: Path) -> bytes:
    """The first two bytes: the whole of a log that grows as fast as it is read has no end."""
    with log.open("rb") as stream:
        return stream.read(2)


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_a_waiting_submit_cancels_the_job(himl: Himl, project: Path, number: signal.Signals) -> None:
    write_files(project, {"train.py": "import time\ntry:\n    print('up', flush=True); time.sleep(600)\nexcept KeyboardInterrupt:\n    print('saved')\n"})
    process = started(himl, project)
    process.send_signal(number)
    output, talk = process.communicate(timeout=100)
    assert (process.returncode, status(himl)) == (130, "Canceled"), talk
    assert output == b"up\nsaved\n"
    until(lambda: processes_below(project) == [])


@POSIX
def test_a_quiet_submit_that_is_interrupted_prints_the_id_all_the_same(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time\nprint('up', flush=True); time.sleep(600)\n"})
    process = himl.start("submit", "train.py", "-q")
    assert process.stderr is not None
    assert process.stderr.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=100)
    assert (process.returncode, printed.decode()) == (130, himl.ok("runs", "list", "-q").stdout)


@POSIX
def test_ctrl_c_on_a_script_that_ignores_signals_ends_it_by_sigkill(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": STUBBORN})
    process = started(himl, project)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    assert (process.returncode, status(himl)) == (130, "Canceled")
    assert time.monotonic() - begun > 14, "SIGKILL comes after 10 s and 5 more"
    until(lambda: processes_below(project) == [])


@POSIX
def test_sigterm_follows_a_sigint_that_is_ignored(himl: Himl, project: Path) -> None:
    script = "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit('told to'))\n"
    write_files(project, {"train.py": f"{script}print('up', flush=True)\ntime.sleep(600)\n"})
    process = started(himl, project)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    assert (process.returncode, status(himl)) == (130, "Canceled")
    assert time.monotonic() - begun > 9, "SIGTERM comes after 10 s"
    assert himl.ok("runs", "logs", "latest").stdout == "up\ntold to\n", "SIGKILL would have let it say nothing"


@POSIX
def test_ctrl_c_reaches_a_script_that_writes_faster_than_anybody_reads(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time\nprint('up', flush=True)\nfor _ in range(20_000):\n    print('x' * 5000)\ntime.sleep(600)\n"})
    process = started(himl, project)
    time.sleep(0.5)  # until the pipe is full, and the waiting submit held up by it
    process.send_signal(signal.SIGINT)
    until(lambda: status(himl) == "Canceled", "canceled although nobody has read the output yet")
    process.communicate(timeout=100)
    assert process.returncode == 130


@POSIX
def test_ctrl_c_while_a_large_file_is_copied(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print('ran')"})
    with (project / "big.bin").open("wb") as stream:
        stream.truncate(20_000_000_000)
    process = himl.start("submit", "train.py")
    copies = project / ".himl" / "runs"
    until(lambda: any(copies.glob("*/code/big.bin")))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert (process.returncode, status(himl), output) == (130, "Canceled", b"")
    himl.ok("runs", "delete", "--run", "latest", "--yes")


@POSIX
def test_a_second_ctrl_c_stops_waiting_and_says_that_the_run_is_still_ending(himl: Himl, project: Path) -> None:
    script = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)\n"
    write_files(project, {"train.py": script})
    process = started(himl, project)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while b"Canceling run" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=100)
    assert (process.returncode, b"still being stopped" in talk) == (130, True)
    until(lambda: status(himl) == "Canceled")


@POSIX
def test_a_job_can_be_canceled_on_a_full_disk(himl: Himl, small_disk: SmallDisk) -> None:
    script = "import time; print(1, flush=True); time.sleep(600)"
    begin = f"echo '{script}' > train.py; himl submit train.py -q --no_wait >/dev/null; until himl runs logs latest | grep -q 1; do sleep 0.1; done"
    fill = f"{begin}; dd if=/dev/zero of=fill bs=1k 2>/dev/null"
    done = on_disk(himl, small_disk, f"{fill}; himl runs cancel --run latest; echo code $?; rm fill; himl runs logs latest --follow; himl runs list --json")
    assert "code 0" in done.stdout, done.stdout + done.stderr
    assert '"Canceled"' in done.stdout


def test_a_running_job_is_running_for_who_may_only_read(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time\nprint('up', flush=True)\ntime.sleep(600)\n"})
    process = started(himl, project)
    undo = made_read_only(project)
    try:
        seen = [run["status"] for run in runs(himl)]
    finally:
        if undo:
            undo()
    himl.ok("runs", "cancel", "--run", "latest")
    process.communicate(timeout=100)
    if undo is None:
        lacking("a folder that cannot be written (by permission, or by a read-only mount as root)")
    assert seen == ["Running"]


def test_a_job_that_succeeded_stays_so_when_its_outputs_cannot_be_kept(himl: Himl, project: Path) -> None:
    """In place, and the place where outputs are kept is taken by a file."""
    script = "import os, pathlib\nrun = os.environ['AZUREML_RUN_ID']\n(pathlib.Path('.himl/runs') / run / 'code' / 'outputs').write_text('in the way')\n"
    write_files(project, {"train.py": script + "pathlib.Path('outputs/new').write_text('n')\n"})
    assert himl("submit", "train.py", "--in_place").code == 0
    (run,) = runs(himl)
    assert (run["status"], run["exit_code"], "could be kept" in run["reason"]) == ("Completed", 0, True)


def test_nested_runs_that_were_left_open_end_with_their_job(himl: Himl, project: Path) -> None:
    nested = "import mlflow, os\nmlflow.start_run()\nmlflow.start_run(nested=True)\nmlflow.log_metric('loss', 0.5)\nos._exit(3)\n"
    write_files(project, {"train.py": nested})
    assert himl("submit", "train.py").code == 1
    shown = himl.ok("runs", "show", "latest", "--json").json()
    assert [child["status"] for child in shown["children"]] == ["Failed"]
    child = himl.ok("runs", "show", shown["children"][0]["id"], "--json").json()
    assert (child["status"], child["reason"]) == ("Failed", "the job ended"), "recorded, not only read off a free lock"


@POSIX
def test_a_closed_terminal_leaves_the_job_running(himl: Himl, project: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    write_files(
        project, {"train.py": f"import os, time\nprint('up', flush=True)\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.05)\nprint('done')\n"}
    )
    process = started(himl, project)
    os.killpg(process.pid, signal.SIGHUP)
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGHUP
    assert status(himl) == "Running"
    go.touch()
    until(lambda: status(himl) == "Completed")
    assert himl.ok("runs", "logs", "latest").stdout == "up\ndone\n"


@POSIX
def test_a_killed_submit_leaves_the_job_running(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time\nprint('up', flush=True)\ntime.sleep(1)\nprint('done')\n"})
    process = started(himl, project)
    process.kill()
    process.communicate(timeout=100)
    until(lambda: status(himl) == "Completed")


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
def test_a_supervisor_that_is_told_to_terminate_ends_the_job_and_records_it(himl: Himl, project: Path) -> None:
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


def test_a_project_that_may_only_be_read(himl: Himl, project: Path, tmp_path: Path, read_only: Callable[[Path], Path]) -> None:
    write_files(project, {"train.py": "print('ran')"})
    read_only(project)
    refused = himl("submit", "train.py")
    assert (refused.code, len(refused.stderr.strip().splitlines())) == (1, 3), refused.stderr
    assert "--workspace" in refused.stderr
    elsewhere = himl("submit", "train.py", "--workspace", tmp_path / "lab")
    assert (elsewhere.code, elsewhere.stdout) == (0, "ran\n")
    assert "most_recent_run.txt" in elsewhere.stderr


def test_a_workspace_that_may_only_be_read_can_be_read(himl: Himl, project: Path, read_only: Callable[[Path], Path]) -> None:
    write_files(project, {"train.py": "print('ran')"})
    himl.ok("submit", "train.py")
    read_only(project)
    (run,) = runs(himl)
    assert (run["status"], himl.ok("runs", "logs", run["id"]).stdout) == ("Completed", "ran\n")
    refused = himl("runs", "tag", run["id"], "a=b")
    assert (refused.code, "workspace.db" in refused.stderr) == (1, True)


def on_disk(himl: Himl, disk: SmallDisk, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in the small disk's folder; `himl` is the program."""
    code = f'cd "{disk.folder}" && himl() {{ "{himl.program}" "$@"; }} && {script}'
    return subprocess.run([*disk.prefix, "sh", "-c", code], capture_output=True, text=True, timeout=100, env=dict(os.environ))


def test_a_disk_that_fills_while_the_job_runs(himl: Himl, small_disk: SmallDisk) -> None:
    fill = 'printf \'print(1, flush=True)\\nopen("outputs/big", "wb").write(b"x" * 9000000)\\n\' > train.py'
    done = on_disk(himl, small_disk, f"{fill}; himl submit train.py; echo code $?; himl runs list --json")
    assert "code 1" in done.stdout
    assert '"Failed"' in done.stdout
    assert "no space is left" in done.stdout
    assert not small_disk.is_shared or is_sound(small_disk.folder)
    assert "No space left on device" in done.stdout + done.stderr


def test_a_disk_that_is_too_small_for_the_snapshot(himl: Himl, small_disk: SmallDisk, project: Path) -> None:
    (project / "big.bin").write_bytes(os.urandom(9_000_000))
    write_files(project, {"train.py": ""})
    done = on_disk(
        himl,
        small_disk,
        f"cd '{project}'; himl submit train.py --workspace '{small_disk.folder}'; echo code $?; himl runs list --json --workspace '{small_disk.folder}'",
    )
    assert "code 1" in done.stdout
    assert "No space left on device" in done.stderr
    assert '"Failed"' in done.stdout


def test_a_disk_that_is_full_from_the_start(himl: Himl, small_disk: SmallDisk) -> None:
    fill = "printf 'print(1)' > train.py; cat /dev/zero > full 2>/dev/null; "
    done = on_disk(
        himl, small_disk, f"{fill} himl submit train.py; echo code $?; rm full; himl runs list --json; himl submit train.py -q >/dev/null; echo code $?"
    )
    assert [line for line in done.stdout.splitlines() if line.startswith("code")] == ["code 1", "code 0"], done.stdout + done.stderr
    assert "[]" in done.stdout.splitlines(), "a job that was refused leaves nothing"
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_that_is_refused_for_want_of_space_leaves_nothing(himl: Himl, small_disk: SmallDisk) -> None:
    """Room for the workspace and the run's folder, none for what recording the end would need."""
    begin = "printf 'print(1)' > train.py; mkdir -p .himl/runs; dd if=/dev/zero of=fill bs=1k 2>/dev/null; truncate -s -60K fill"
    done = on_disk(himl, small_disk, f"{begin}; himl submit train.py; echo code $?; ls .himl/runs | wc -l")
    assert done.stdout.split() == ["code", "1", "0"], done.stdout + done.stderr
    assert "Cannot record the run: No space left" in done.stderr


def test_a_disk_that_others_filled_still_gives_and_takes_back(himl: Himl, small_disk: SmallDisk) -> None:
    script = "print(1); open('outputs/model', 'wb').write(bytes(500_000))"
    fill = f'echo "{script}" > train.py; himl submit train.py -q >/dev/null;'
    settle = "while [ -e .himl/workspace.db-wal ]; do sleep 0.05; done; dd if=/dev/zero of=fill bs=1k 2>/dev/null;"  # an ending supervisor gives room back
    look = "himl runs list --json; himl runs logs latest; himl runs delete latest --yes; echo code $?; himl runs list --json;"
    done = on_disk(himl, small_disk, f"{fill} {settle} {look} rm fill; himl submit train.py -q >/dev/null; echo code $?")
    lines = done.stdout.splitlines()
    assert '"Completed"' in lines[0], done.stdout + done.stderr
    assert [line for line in lines[1:] if line.startswith("code")] == ["code 0", "code 0"], done.stdout + done.stderr
    assert "[]" in lines


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


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_foreground_group_cancels_the_job(himl: Himl, project: Path, number: signal.Signals) -> None:
    """The supervisor is not in that group, so the outcome is recorded all the same."""
    write_files(project, {"train.py": "import time\nprint('up', flush=True)\ntime.sleep(600)\n"})
    process = started(himl, project)
    os.killpg(process.pid, number)
    process.communicate(timeout=100)
    assert (process.returncode, status(himl)) == (130, "Canceled")
