"""Jobs that the installed program runs here, in tests: submits that wait for one, and what is recorded of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.running import Himl
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


def latest(himl: Himl) -> dict[str, Any]:
    """The newest run, in full."""
    run = himl.ok("runs", "show", "--run", "latest", "--json").json()
    return dict(run)


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
