"""Locks that show whether a process lives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from himl_cli.core.processes import ProcessLock, is_held

HOLD = """
import sys
from pathlib import Path
from himl_cli.core.processes import ProcessLock
assert ProcessLock(Path(sys.argv[1])).take()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_until_it_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = ProcessLock(path)
    assert not is_held(path)
    assert lock.take()
    assert lock.take()
    assert is_held(path)
    lock.release()
    lock.release()
    assert not is_held(path)


def test_one_process_holds_it_and_its_end_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        assert is_held(path)
        assert not ProcessLock(path).take()
        holder.kill()
    assert not is_held(path)
    mine = ProcessLock(path)
    assert mine.take()
    mine.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_does_not_give_it_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = """
import os, sys
from pathlib import Path
from himl_cli.core.processes import ProcessLock, is_held
path = Path(sys.argv[1])
lock = ProcessLock(path)
lock.take()
child = os.fork()
if not child:
    lock.release()
    sys.exit(0)
os.waitpid(child, 0)
assert is_held(path)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
