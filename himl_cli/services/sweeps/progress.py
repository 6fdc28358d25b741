"""How far a sweep has come, told while it is waited for."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

from himl_cli.core.events import Notice, Notify
from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.workspaces.base import Workspace

TRIALS_A_SECOND = 50
WORDS = {RunStatus.failed: "failed", RunStatus.canceled: "canceled"}


class SweepProgress:
    """Tells *notify* how many of *trials* have ended, whenever that has changed; without trials, nothing is asked or
    told."""

    def __init__(
        self,
        workspace: Workspace,
        run_id: str,
        trials: int,
        notify: Notify,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workspace = workspace
        self._run_id = run_id
        self._trials = trials
        self._notify = notify
        self._told = ""
        self._clock = clock
        self._next_look = -math.inf

    def look(self) -> None:
        """Ask for the trials there are, unless that was a short time ago: the more there are, the more it costs. Raises
        what the workspace raises."""
        now = self._clock()
        if not self._trials or now < self._next_look:
            return
        self._next_look = now + self._trials / TRIALS_A_SECOND
        states = Counter(run.status for run in self._workspace.runs(RunQuery(parent=self._run_id)))
        ended = sum(count for status, count in states.items() if status.is_final)
        parts = [
            f"{ended} of {self._trials} trial{'s' * (self._trials != 1)} ended",
            *(f"{states[status]} {word}" for status, word in WORDS.items() if states[status]),
        ]
        text = ", ".join(parts)
        if ended and text != self._told:
            self._notify(Notice(f"{text}."))
            self._told = text
