"""Processes of this machine, as Linux tells of them, and when this one began. All moments are seconds of `now`.

Where there is no /proc, nothing is known of other processes.
"""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
DEAD = frozenset("ZX")
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Process:
    """A process that lives or lived; a pid alone is used again. `ticks` is when it started, in ticks of the system's
    clock; `parent` is a pid."""

    pid: int
    ticks: int
    parent: int = field(compare=False)

    @property
    def began(self) -> float:
        """When it had started at the latest."""
        return (self.ticks + 1) / _ticks_a_second()

    @property
    def is_alive(self) -> bool:
        return find_process(self.pid) == self

    @property
    def is_there(self) -> bool:
        """Whether it lives, or has ended and its parent has not asked yet how."""
        return find_process(self.pid, but=_NOTHING) == self


def now() -> float:
    """The moment, on a clock that all processes of this machine share: Linux's since its start, elsewhere that of the
    day."""
    since_start = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() if since_start is None else time.clock_gettime(since_start)


LOADED = now()


def this_process() -> Process | None:
    return find_process("self")


def find_process(pid: int | str, *, but: frozenset[str] = DEAD) -> Process | None:
    """The process *pid*, *but* not in these states; None where there is none, or where the system does not tell."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # after the name: state, parent, …, start time as the twentieth
    if len(fields) < 20 or fields[0] in but:
        return None
    return Process(int(text.partition(" ")[0]), int(fields[19]), int(fields[1]))


def children_of(process: Process) -> list[Process]:
    """The living processes that *process* started itself; none where the system does not tell."""
    try:
        lists = [(task / "children").read_text().split() for task in (PROC / str(process.pid) / "task").iterdir()]
        pids = [pid for one in lists for pid in one]
    except OSError:  # it ended, or the kernel keeps no such lists
        pids = [path.name for path in PROC.glob("[0-9]*")]
    found = [child for child in map(find_process, pids) if child is not None]
    return [child for child in found if child.parent == process.pid]


def variables_of(process: Process) -> dict[str, str]:
    """Those that *process* was started with; none of one that may not be looked at."""
    try:
        entries = (PROC / str(process.pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (entry.decode(errors="surrogateescape").partition("=") for entry in entries)
    return {name: value for name, _, value in pairs if name}


@functools.cache
def _ticks_a_second() -> int:
    return os.sysconf("SC_CLK_TCK")
