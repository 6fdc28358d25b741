"""Starting a launcher, and what became of the ranks that it started."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launcher.py")
LOOK = 0.02

Steps = Sequence[tuple[int, float]]
"""Ranks in the order in which they are started, each with the seconds before that."""


@dataclass
class RankEnd:
    """One rank: when it was started and when it ended (seconds since the epoch, 0 where it did not), and what it left. `code` is None where it did not end."""

    pid: int
    started: float
    ended: float = 0.0
    code: int | None = None
    stdout: str = ""
    stderr: str = ""


@dataclass
class Launch:
    """What became of all ranks of one launch. `moment` is when its last rank was started."""

    ends: dict[int, RankEnd] = field(default_factory=dict)

    @property
    def moment(self) -> float:
        return max(end.started for end in self.ends.values())

    @property
    def seconds(self) -> float:
        """From the start of its last rank to the end of its last one; of those that ended."""
        return max(0.0, max(end.ended for end in self.ends.values()) - self.moment)

    @property
    def waited(self) -> float:
        """How much of that was after the end of rank 0."""
        return min(self.seconds, max(0.0, max(end.ended for end in self.ends.values()) - self.ends[0].ended))


class Launcher:
    """A process that starts *command* as ranks, with its files in *folder*; it is gone, and all ranks with it, after `close`."""

    def __init__(self, folder: Path, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], reaps: bool) -> None:
        folder.mkdir()
        self._folder, self._count = folder, 0
        self._said: queue.Queue[str] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, str(LAUNCHER), str(folder), *(["reaps"] if reaps else []), "--", *command],
            cwd=cwd,
            env=os.environ | dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def launch(self, steps: Steps, limit: float, look: Callable[[Launch], None] = lambda launch: None) -> Launch:
        """Start these ranks and wait until all have ended, or until *limit* seconds after the last was started; *look* sees them meanwhile."""
        assert self._process.stdin is not None
        print(json.dumps(steps), file=self._process.stdin, flush=True)
        launch, number, is_done = Launch(), self._count, False
        self._count += 1
        while not is_done and not (len(launch.ends) == len(steps) and time.time() > launch.moment + limit):
            with contextlib.suppress(queue.Empty):
                is_done = self._hear(launch, self._said.get(timeout=LOOK))
            look(launch)
        for rank, end in launch.ends.items():
            end.stdout, end.stderr = ((self._folder / f"{number}-{rank}.{kind}").read_text(errors="replace") for kind in ("out", "err"))
        return launch

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put("")

    @staticmethod
    def _hear(launch: Launch, line: str) -> bool:
        """Note what the launcher said; whether all ranks have ended. Raises AssertionError where it ended itself."""
        assert line, "the launcher ended"
        told = json.loads(line)
        if "pid" in told:
            launch.ends[told["rank"]] = RankEnd(told["pid"], told["started"])
        elif "code" in told:
            launch.ends[told["rank"]].code, launch.ends[told["rank"]].ended = told["code"], told["ended"]
        return "done" in told
