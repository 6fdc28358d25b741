"""One process of a job as its supervisor sees it: the shim, the pipe to it, and how it ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from himl_cli.workspaces.local.shim import children_of

SHIM = Path(__file__).with_name("shim.py")


@dataclass(frozen=True)
class RankEnd:
    """How the process of rank `number` ended: an exit code, a signal's number, or why it could not start."""

    number: int
    exit_code: int | None = None
    signal_number: int | None = None
    error: str = ""

    @property
    def is_success(self) -> bool:
        return self.exit_code == 0

    @property
    def code(self) -> int:
        """The exit code as a shell shows it: 128 + the signal's number, 127 where nothing could be started."""
        if self.exit_code is not None:
            return self.exit_code
        return 127 if self.signal_number is None else 128 + self.signal_number

    @property
    def reason(self) -> str:
        """Why the job failed, in words; '' after success."""
        if self.error:
            return self.error
        if self.signal_number is not None:
            return f"ended by signal {self.signal_number} ({signal_name(self.signal_number)})"
        return "" if self.is_success else f"exit code {self.exit_code}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


class Rank:
    """Starts the command of one rank under its shim; its end arrives in *ends*.

    *stdin* is that of the order. The command's output goes straight to *log* (append mode), so a log line is never lost
    to a dying supervisor.
    """

    def __init__(
        self,
        number: int,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        stdin: str,
        ends: queue.Queue[RankEnd],
    ) -> None:
        self.number = number
        self._ends = ends
        with log.open("ab") as stream:
            self._shim = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SHIM), stdin, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                cwd=cwd,
                env=dict(env),
                start_new_session=True,
                pass_fds=(int(stdin),) if stdin.isdigit() else (),
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, word: str) -> None:
        """INT, TERM or KILL to every process of the rank."""
        try:
            assert self._shim.stdin is not None
            self._shim.stdin.write(word.encode() + b"\n")
            self._shim.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it ended in the meantime, which is what was wanted

    def close(self) -> None:
        """Let go of the shim: it ends whatever is left and itself."""
        assert self._shim.stdin is not None
        try:
            self._shim.stdin.close()
        except BrokenPipeError:
            pass
        self._shim.wait()

    def _listen(self) -> None:
        assert self._shim.stdout is not None
        pid, end = None, None
        for line in self._shim.stdout:
            facts = json.loads(line)
            pid = facts.get("pid", pid)
            if "pid" not in facts:
                end = RankEnd(self.number, facts.get("exit"), facts.get("signal"), facts.get("error", ""))
        if end is None:
            end = RankEnd(
                self.number, signal_number=int(signal.SIGTERM), error="the process that watched over it was killed"
            )
            self._end_group(pid)
        self._ends.put(end)

    def _end_group(self, pid: int | None) -> None:
        """The shim itself was killed: end the process group that it cannot end any more."""
        if pid is not None and sys.platform != "win32":
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def end_adopted(seconds: float = 2.0) -> None:
    """Kill what became a child of this process because its shim was killed (Linux, after `become_subreaper`). All ranks
    must be closed."""
    if sys.platform == "win32":
        return
    deadline = time.monotonic() + seconds
    while (adopted := children_of(os.getpid())) and time.monotonic() < deadline:
        for pid in adopted:
            os.kill(pid, signal.SIGKILL)  # its own children are adopted in turn
        for pid in adopted:
            os.waitpid(pid, 0)
