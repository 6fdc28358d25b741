"""Whether rank 0 of this launch may still come, as far as the system's processes tell."""

from __future__ import annotations

import time

from himl_cli.services.transfer.launch import LocalRank, rank_of
from himl_cli.services.transfer.processes import Process, children_of

LOOK_SECONDS = 1.0
GONE_SECONDS = 3.0
"""After so long without its process, rank 0 has ended: what started as rank 0 may be replaced by another process."""
LATE_SECONDS = 60.0
"""A launcher that has started all other ranks starts rank 0 within so long, or has done so: a process may take as long
as it likes from there."""


class RankZero:
    """Rank 0 as *me*, another rank of its launch, sees it: by the processes that their launcher started.

    Nothing is known, and it may always come, where the system does not tell of processes or each rank has a container
    to itself.
    """

    def __init__(self, me: LocalRank) -> None:
        self._me = me
        self._alive: list[Process] = []
        self._others: set[int] = {me.rank}
        self._looked = self._complete = 0.0
        self._was_seen = False
        self._missed: float | None = None

    def look(self) -> None:
        """See who is there; at most once in LOOK_SECONDS."""
        if self._me.launcher is None or time.monotonic() < self._looked + LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self._alive = [process for process in self._alive if process.is_alive]
        if not self._alive:
            self._find(self._me.launcher)
        if self._alive:
            self._was_seen, self._missed = True, None
        elif self._missed is None:
            self._missed = time.monotonic()
        if self._is_complete and not self._complete:
            self._complete = time.monotonic()

    @property
    def has_died(self) -> bool:
        """Whether it was there, or what would have started it, and is no longer."""
        launcher = self._me.launcher
        if launcher is None or self._missed is None or time.monotonic() < self._missed + GONE_SECONDS:
            return False
        return self._was_seen or not launcher.is_alive

    @property
    def is_overdue(self) -> bool:
        """Whether it was never seen, though all other ranks of the node have been there for LATE_SECONDS."""
        return not self._was_seen and bool(self._complete) and time.monotonic() > self._complete + LATE_SECONDS

    def has_begun_after(self, moment: float) -> bool:
        """Whether a process that is rank 0 was started after *moment*."""
        return any(process.began > moment for process in self._alive)

    @property
    def _is_complete(self) -> bool:
        return self._me.count > 1 and self._others.issuperset(range(1, self._me.count))

    def _find(self, launcher: Process) -> None:
        """What a launcher starts that has a rank is that rank; what that starts in turn may hand it on, under any
        name."""
        for process in children_of(launcher):
            rank = rank_of(process)
            if rank == 0:
                self._alive.append(process)
            elif rank is not None:
                self._others.add(rank)
