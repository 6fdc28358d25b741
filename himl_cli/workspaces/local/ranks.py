"""The processes of a job: one shim for each rank, under which its command runs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from himl_cli.core.json_text import read_json
from himl_cli.workspaces.local.system_metrics import out_of_memory

# The end of a rank's process: the rank, a shell's exit code (128 + the signal's number, 127 if the start failed), the
# reason of the failure
RankEnd = tuple[int, int, str]
Ends = queue.SimpleQueue[RankEnd | None]  # None wakes the reader only

SHIM = (sys.executable, "-I", "-S", str(Path(__file__).with_name("shim.py")))


_spares: list[subprocess.Popen[bytes]] = []


def start_spare() -> None:
    """Start a shim for the first rank of a job that is not known yet."""
    _spares.append(_start_shim([]))


def end_spares() -> None:
    """End the shims that no rank has taken."""
    while _spares:
        _close(_spares.pop())


def _start_shim(handles: Sequence[int]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(SHIM, stdin=pipe, stdout=pipe, start_new_session=True, pass_fds=handles)


def _close(shim: subprocess.Popen[bytes], seconds: float | None = None) -> None:
    assert shim.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        shim.stdin.close()
    shim.wait(seconds)


class Rank:
    """One process of the job: loads its shim, starts the command under it, and puts its end into *ends*.

    *stdin* is that of the request. The command inherits *held*, the handle of the job's claim. It writes directly to
    *log* (append mode), so that no line is lost when the supervisor dies. `parent` is the process that started the
    shims of this node, 0 while it is unknown. `name` is the number of the rank, or the variable with it in a command's
    environment, `how_lost` the reason of a rank whose shim reports no end.
    """

    name, how_lost = "0", "its watching process was killed"

    def __init__(self, number: int, stdin: str, log: Path, ends: Ends, held: int | None = None) -> None:
        self._numbers = self._here = range(number, number + 1)  # of the ranks, and of those on this machine
        self._stdin, self._log = stdin, log
        self._held = [] if held is None else [held]
        self._ends = ends
        self.parent = os.getpid()
        handles = [*self._held, *([int(stdin)] if stdin.isdigit() else [])]
        self._shim = _spares.pop() if _spares and not handles else _start_shim(handles)

    def start(self, command: Sequence[str], env: Mapping[str, str], cwd: Path, *, tty: bool = False) -> None:
        job = {"stdin": self._stdin, "log": str(self._log), "cwd": str(cwd), "tty": tty, "held": self._held}
        self._begin(command=command, env=env, own={}, rank="", **job)

    def _begin(self, **job: Any) -> None:
        """Send *job* to the shim (see its `main`), and listen to its reports."""
        self.send(json.dumps(job))
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, word: str) -> None:
        """Send INT, TERM or KILL to every process of the rank."""
        assert self._shim.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended in the meantime
            self._shim.stdin.write(word.encode() + b"\n")
            self._shim.stdin.flush()

    def close(self, seconds: float | None = None) -> None:
        """Close the pipe to the shim, which then ends the remaining processes and itself. Raises TimeoutExpired after
        *seconds*."""
        _close(self._shim, seconds)

    def _listen(self) -> None:
        assert self._shim.stdout is not None
        open_ranks: dict[int, int | None] = dict.fromkeys(self._numbers)  # with the processes of those on this machine
        for line in self._shim.stdout:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # output of another program, as a prologue
                facts = {"rank": self._numbers[0], **read_json(line)}
                if "pid" in facts and facts["rank"] in self._here:
                    open_ranks[facts["rank"]], self.parent = facts["pid"], facts["parent"]
                if (end := end_of(facts)) is not None:
                    del open_ranks[facts["rank"]]
                    self._ends.put((facts["rank"], *end))
        for number, pid in open_ranks.items():
            if pid is not None and sys.platform != "win32":  # end the process group in place of the shim
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            self._ends.put((number, 128 + int(signal.SIGTERM), self.how_lost))


def end_of(facts: Mapping[str, Any]) -> tuple[int, str] | None:
    """The exit code and the reason in a shim's report, None for other reports."""
    if "error" in facts:
        return 127, facts["error"]
    if "exit" not in facts and "signal" not in facts:
        return None
    lack = f"; {out_of_memory(facts['memory'])}" if "memory" in facts else ""
    if "exit" in facts:
        return facts["exit"], f"exit code {facts['exit']}{lack}"
    number = facts["signal"]
    name = next((each.name for each in signal.Signals if each == number), "unknown")
    return 128 + number, f"ended by signal {number} ({name}){lack}"
