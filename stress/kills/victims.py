"""A command that is really started, the processes that it consists of, and signals to them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stress.faults.judge import Ended
from tests.support.forked_himl import PROGRAM
from tests.support.processes import processes_marked

HIML, GROUP, SUPERVISOR, SHIM, ALL = "himl", "group", "supervisor", "shim", "all"
"""Who gets a signal: the command's process, its process group as by a terminal, the two that look after a job here, or everything."""
_KNOWN_BY = {SUPERVISOR: "himl_cli.workspaces.local.supervisor", SHIM: "shim.py"}
LOOK = 0.02


@dataclass(frozen=True)
class Blow:
    """Signal *number*, *after* so many seconds; of those in *order* it goes to the first that there is then."""

    number: signal.Signals
    after: float
    order: Sequence[str]


@dataclass(frozen=True)
class Struck:
    """A signal that was sent: who got it, and how many seconds after the command's start."""

    number: signal.Signals
    victim: str
    after: float


class Started:
    """`himl` with *arguments* in a session of its own, its streams in files in *place*; all its processes carry *mark*."""

    def __init__(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], mark: str, place: Path) -> None:
        self._mark = mark
        self._said = [place / "stdout", place / "stderr"]
        with self._said[0].open("wb") as stdout, self._said[1].open("wb") as stderr, heeding_interrupts():
            self._begun = time.monotonic()
            self._process = subprocess.Popen(
                [str(PROGRAM), *arguments], cwd=cwd, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )

    @property
    def seconds(self) -> float:
        """How long it is since the start."""
        return time.monotonic() - self._begun

    def strike(self, blow: Blow) -> Struck | None:
        """Wait for the moment of *blow* and send its signal; None where the command has ended before, or none of the victims is there."""
        if self.ended_within(blow.after - self.seconds):
            return None
        for victim in blow.order:
            if found := self._processes(victim):
                after = self.seconds
                sent = [_sent(send, number, blow.number) for send, number in found]
                if any(sent):
                    return Struck(blow.number, victim, after)
        return None

    def ended_within(self, seconds: float) -> bool:
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def outcome(self, limit: float) -> Ended | None:
        """How it ended; None where it has not after *limit* more seconds."""
        if not self.ended_within(limit):
            return None
        return Ended(self._process.returncode, *(path.read_text(encoding="utf-8", errors="backslashreplace") for path in self._said))

    def end(self) -> None:
        """See to it that nothing of it goes on."""
        for line in processes_marked(self._mark, patience=0.0):
            _sent(os.kill, _id_of(line), signal.SIGKILL)
        self._process.wait()

    def _processes(self, victim: str) -> list[tuple[Callable[[int, int], None], int]]:
        """What is to be called for each process of *victim*, and with which number."""
        if victim == HIML:
            return [(os.kill, self._process.pid)]
        if victim == GROUP:
            return [(os.killpg, self._process.pid)]
        marked = processes_marked(self._mark, patience=0.0)
        if victim == ALL:
            return [(os.kill, _id_of(line)) for line in marked]
        return [(os.kill, _id_of(line)) for line in marked if _KNOWN_BY[victim] in line]


def _sent(send: Callable[[int, int], None], number: int, signal_number: signal.Signals) -> bool:
    with suppress(ProcessLookupError):
        send(number, signal_number)
        return True
    return False


def _id_of(line: str) -> int:
    """Of a line of `processes_marked`."""
    return int(line.split()[0])


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """Within it a program is started that heeds Ctrl-C as in a terminal, though this process may pass it over: what is ignored stays so for children."""
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
