"""Starting a job's processes, and leaving none of them behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE = 30.0  # seconds between asking a process to end and ending it


class Process:
    """One `bash -c` in a process group of its own; what it prints goes to the file *log*."""

    def __init__(self, command: str, folder: Path, variables: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                ["bash", "-c", command],
                cwd=folder,
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """Its exit code, as a shell would tell it; None while it runs."""
        code = self._popen.poll()
        return code if code is None or code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """To the whole group, whether or not its leader is still there."""
        if sys.platform == "win32":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(self._popen.pid)], capture_output=True, check=False)
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether its leader ended within *seconds*."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
            return True
        return False


def end(processes: Sequence[Process]) -> None:
    """Ask all of them to end, and end what is left of their groups."""
    running = [process for process in processes if process.code is None]
    for process in running:
        process.signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for process in running:
        process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait(GRACE)


def kill(processes: Sequence[Process]) -> None:
    """End all of them at once, as a machine that is taken away does: nothing of them hears of it."""
    for process in processes:
        process.signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    for process in processes:
        process.wait(GRACE)


def end_strays(mark: str) -> None:
    """End what left its group but still carries *mark* (`NAME=value`) in its environment, as the end of a container does; needs /proc."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), getattr(signal, "SIGKILL", signal.SIGTERM))
