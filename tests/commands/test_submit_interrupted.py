"""A submit that waits for its job and is interrupted or killed, or loses its terminal: the job is canceled, or goes on, and is recorded so."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.processes import processes_below
from tests.support.running import Himl, until, write_files
from tests.support.runs import POSIX, STUBBORN, started, status


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
def test_interrupted_quiet_submit_still_prints_run_id(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time\nprint('up', flush=True); time.sleep(600)\n"})
    process = himl.start("submit", "train.py", "-q")
    assert process.stderr is not None
    assert process.stderr.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=100)
    assert (process.returncode, printed.decode()) == (130, himl.ok("runs", "list", "-q").stdout)


@POSIX
def test_ctrl_c_kills_script_that_ignores_signals(himl: Himl, project: Path) -> None:
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
def test_ctrl_c_cancels_script_while_output_pipe_is_full(himl: Himl, project: Path) -> None:
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
def test_second_ctrl_c_stops_waiting_for_run_to_end(himl: Himl, project: Path) -> None:
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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_foreground_group_cancels_the_job(himl: Himl, project: Path, number: signal.Signals) -> None:
    """The supervisor is not in that group, so the outcome is recorded all the same."""
    write_files(project, {"train.py": "import time\nprint('up', flush=True)\ntime.sleep(600)\n"})
    process = started(himl, project)
    os.killpg(process.pid, number)
    process.communicate(timeout=100)
    assert (process.returncode, status(himl)) == (130, "Canceled")
