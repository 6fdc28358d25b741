"""What the job's own client and the machine notice while the server is met by others."""

from __future__ import annotations

import threading
from http.client import HTTPException
from types import TracebackType

from stress.endpoint.targets import Target

PAUSE = 0.25


class Watch:
    """While the context lasts, the job's own client logs one step after the other, and the most that the server takes is noted.

    `waits` are the seconds of each step, `troubles` what went wrong with one; `threads` and `handles` are those above what there were at first.
    """

    def __init__(self, target: Target) -> None:
        self.waits: list[float] = []
        self.troubles: list[str] = []
        self.threads = self.handles = 0
        self.growth = 0.0
        self._target = target
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        gauge = self._target.gauge
        self._log()
        self._at_first = gauge.threads, gauge.handles, gauge.resident
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()
        self._log()

    def _run(self) -> None:
        while not self._is_over.wait(PAUSE):
            self._log()
            self._look()

    def _log(self) -> None:
        if not self.troubles:
            try:
                self.waits.append(self._target.log(len(self.waits)))
            except (OSError, HTTPException, AssertionError) as e:
                self.troubles.append(f"step {len(self.waits)} of the job's own client: {type(e).__name__} {e}")

    def _look(self) -> None:
        gauge = self._target.gauge
        try:
            threads, handles, resident = gauge.threads, gauge.handles, gauge.resident
        except OSError as e:
            self.troubles.append(f"the server is gone: {e}")
            return
        self.threads = max(self.threads, threads - self._at_first[0])
        self.handles = max(self.handles, handles - self._at_first[1])
        self.growth = max(self.growth, resident - self._at_first[2])
