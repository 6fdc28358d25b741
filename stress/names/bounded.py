"""A command that is really started, within bounds of time and memory (Linux)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stress.faults.judge import Ended
from tests.support.forked_himl import PROGRAM

SECONDS = 5.0
"""Of processor time."""
MEMORY = 512 << 20
"""Bytes of address space."""
MOST_SECONDS = 60.0
"""Of any time: on a machine that has other things to do, five of its own may take long."""
_BOUNDED = "import os, resource, sys\nresource.setrlimit(resource.RLIMIT_AS, ({0}, {0}))\nos.execv(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True)
class Bounded:
    """How it ended (None: it had to be ended), the processor seconds that it took, and the most memory it held, in MiB.

    The system counts the memory of the process that started it, too, so that no figure is below what that holds.
    """

    ended: Ended | None
    cpu: float
    memory: float
    wall: float


def run_bounded(arguments: Sequence[str], cwd: Path, env: Mapping[str, str], place: Path) -> Bounded:
    """Run himl with *arguments*; what it prints goes through files in *place*."""
    command = [sys.executable, "-c", _BOUNDED.format(MEMORY), str(PROGRAM), *arguments]
    files = [place / "stdout", place / "stderr"]
    begun = time.monotonic()
    with files[0].open("wb") as out, files[1].open("wb") as err:
        process = subprocess.Popen(command, cwd=cwd, env=os.environ | dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        too_long = threading.Event()

        def end() -> None:
            too_long.set()
            process.kill()

        timer = threading.Timer(MOST_SECONDS, end)
        timer.start()
        _, status, spent = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    texts = [file.read_text(errors="backslashreplace") for file in files]
    ended = None if too_long.is_set() else Ended(process.returncode, *texts)
    return Bounded(ended, spent.ru_utime + spent.ru_stime, spent.ru_maxrss / 1024, time.monotonic() - begun)
