"""Bearing with a service that does not answer for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from himl_cli.core.errors import ServiceFailed
from himl_cli.core.events import Notice, Notify

SECONDS_OF_PATIENCE = 600.0


class Patience:
    """For whoever watches something that goes on without them: a failure is said once, and counts only if no answer
    comes for ten minutes."""

    def __init__(
        self, notify: Notify, *, seconds: float = SECONDS_OF_PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._notify = notify
        self._seconds = seconds
        self._clock = clock
        self._failing_since: float | None = None

    def answered(self) -> None:
        """The service answered."""
        if self._failing_since is not None:
            self._failing_since = None
            self._notify(Notice("The service answers again."))

    def bear(self, failure: ServiceFailed) -> None:
        """The service did not answer. Raises *failure* once that has lasted too long."""
        if self._failing_since is None:
            self._failing_since = self._clock()
            self._notify(Notice(f"{failure} Still trying; the run goes on meanwhile."))
        elif self._clock() - self._failing_since > self._seconds:
            raise failure
