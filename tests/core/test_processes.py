"""Work that forks of a process share."""

from __future__ import annotations

import subprocess
import sys

import pytest

SHARED = """
import os, signal, sys, time
from himl_cli.core.processes import in_processes

def fail(part):
    raise FileNotFoundError(2, "gone", part[0])

def die(part):
    os.kill(os.getpid(), signal.SIGKILL)

def later(act):  # in the last part
    return lambda part: act(part) if part[-1] == 9 else sum(part)

calls = []
assert in_processes(sum, range(10), 1, calls.clear) == [45]
assert in_processes(list, range(10), 4, calls.clear) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]

def slow(part):
    while not calls:
        time.sleep(0.01)

in_processes(lambda part: None if part[0] else slow(part), range(10), 2, lambda: calls.append(os.getpid()))
assert {*calls} == {os.getpid()}
places = in_processes(lambda part: (os.getpid(), os.getppid()), range(10), 3, calls.clear)
assert places[0][0] == os.getpid() and [above for _, above in places[1:]] == [os.getpid()] * 2
assert len({*places}) == 3
press_ctrl_c = later(lambda part: os.kill(os.getpid(), signal.SIGINT))
assert in_processes(press_ctrl_c, range(10), 3, calls.clear) == [6, 22, None]
for act, error in (fail, FileNotFoundError), (die, BrokenPipeError), (lambda part: {}[part[0]], KeyError):
    try:
        in_processes(later(act), range(10), 3, calls.clear)
    except error as err:
        print(err)
    else:
        sys.exit(f"no {error}")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("none left")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="himl forks only on Linux")
def test_forks_share_the_work_and_report_failures_in_their_part() -> None:
    done = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()
    assert (done.returncode, done.stderr, said[0], said[2:]) == (0, "", "[Errno 2] gone: 8", ["8", "none left"])
    assert said[1].startswith("[Errno 32] process ")
