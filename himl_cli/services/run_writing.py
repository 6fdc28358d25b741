"""Writing to a run while a program works: entries are gathered and sent by a thread, a second after they came at the
latest.

A service that is out of reach for a while loses nothing: what could not be sent is kept and sent again. At the end of
the interpreter what is left is sent, and where that fails, a warning says how much was lost.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from itertools import islice

from himl_cli.core.errors import DiskFailed, HimlError, NotAllowed, NotAllowedNow, NotFound, ServiceFailed
from himl_cli.core.processes import register_after_fork
from himl_cli.core.results import Logged
from himl_cli.workspaces.base import RunRecorder

log = logging.getLogger(__name__)

SECONDS_TO_GATHER = 1.0
SECONDS_BETWEEN_TRIES = (5.0, 60.0)
FULL = 500
"""Entries at which they are sent at once, and of one batch."""
MOST_KEPT = 1_000_000
_NOT_NOW = (ServiceFailed, DiskFailed, NotAllowedNow)
_OF_THE_RUN = (NotFound, NotAllowed)
"""What concerns all that is written, and not one entry of it."""

_busy: set[RunWriter] = set()
"""Those that have something to send: nobody else may hold them any more."""


class RunWriter:
    """What this process logs to one run, on its way to *workspace*. Any thread may call it.

    In a forked process nothing is gathered (nobody would send it at that process's end): each entry is sent when it
    comes.
    """

    def __init__(
        self, workspace: RunRecorder, run_id: str, *, pauses: tuple[float, float] = SECONDS_BETWEEN_TRIES
    ) -> None:
        """*pauses*: seconds until what could not be sent is tried again, at first and at most."""
        self._workspace = workspace
        self._pauses = pauses
        self._run_id = run_id
        self._waiting: deque[Logged] = deque()
        self._dropped = 0
        self._is_fork = False
        self._make_locks()
        register_after_fork(self)

    def add(self, entry: Logged) -> None:
        """Take *entry*; it is sent soon. Raises only in a forked process, as `flush` does."""
        if not entry.rows:
            return
        with self._lock:
            self._waiting.append(entry)
            if len(self._waiting) > MOST_KEPT:
                self._waiting.popleft()
                self._dropped += 1
            if not self._is_fork:
                self._start()
        if self._is_fork or self._quit.is_set():
            self.flush()
        elif len(self._waiting) >= FULL:
            self._full.set()

    def flush(self) -> None:
        """Send what there is, and come back once it is kept.

        Raises ServiceFailed, DiskFailed or NotAllowedNow where it cannot be sent now (it stays, and is sent later), and
        what else the workspace raises for entries that it does not take (those are dropped, once the others are sent).
        """
        refused: HimlError | None = None
        with self._sending:
            while batch := self._next():
                refused = self._send(batch) or refused
        self._say_dropped()
        if refused is not None:
            raise refused

    def _send(self, batch: Sequence[Logged]) -> HimlError | None:
        """Send *batch*; where it is not taken, its halves, so that one entry does not take others with it. What was
        refused, if anything was."""
        try:
            self._workspace.log(self._run_id, batch)
        except _NOT_NOW:
            raise
        except HimlError as err:
            if len(batch) > 1 and not isinstance(err, _OF_THE_RUN):
                half = len(batch) // 2
                first = self._send(batch[:half])
                return self._send(batch[half:]) or first
            self._done(batch)
            return err
        self._done(batch)
        return None

    def settle(self, seconds: float) -> None:
        """As `flush`, and wait, as many seconds at most, until all of it can be read back."""
        self.flush()
        self._workspace.settle(self._run_id, seconds)

    @property
    def left(self) -> int:
        """How many entries wait."""
        return len(self._waiting)

    def end(self) -> None:
        """At the end of the interpreter: send what is left. Raises nothing; what is lost is said."""
        self._quit.set()
        self._full.set()
        while self.left:
            try:
                self.flush()
            except _NOT_NOW as err:
                log.warning("%d entries that were logged to run '%s' are lost: %s", self.left, self._run_id, err)
                return
            except HimlError as err:
                log.warning("Some of what was logged to run '%s' was not taken: %s", self._run_id, err)

    def after_fork(self) -> None:
        """What waits is the parent's to send, and its locks may be held by threads that are not here."""
        _busy.discard(self)
        self._waiting.clear()
        self._is_fork = True
        self._make_locks()

    def _make_locks(self) -> None:
        self._lock = threading.Lock()
        self._sending = threading.RLock()
        self._full = threading.Event()
        self._quit = threading.Event()
        self._is_working = False

    def _next(self) -> list[Logged]:
        with self._lock:
            return [*islice(self._waiting, FULL)]

    def _done(self, batch: Sequence[Logged]) -> None:
        with self._lock:
            for entry in batch:
                if self._waiting and self._waiting[0] is entry:  # else there was no room for it meanwhile
                    self._waiting.popleft()

    def _start(self) -> None:
        """Let a thread send what there is, unless one does. Within the lock."""
        _busy.add(self)
        if self._is_working or self._quit.is_set():
            return
        self._is_working = True
        try:
            threading.Thread(target=self._work, name="himl-writer", daemon=True).start()
        except RuntimeError:  # the interpreter is ending: `end` sends it
            self._is_working = False

    def _work(self) -> None:
        """Send what comes until nothing more waits."""
        failures = 0
        while True:
            if failures:  # however much comes meanwhile, a service that is down is not asked more often
                first, longest = self._pauses
                self._quit.wait(min(longest, first * 2.0 ** min(failures - 1, 20)))
            else:
                self._full.wait(SECONDS_TO_GATHER)
            self._full.clear()
            if self._quit.is_set():
                return
            failures = self._tried(failures)
            if failures:
                continue
            with self._lock:
                if not self._waiting:
                    self._is_working = False
                    _busy.discard(self)
                    return

    def _tried(self, failures: int) -> int:
        """How many tries in a row failed, with this one."""
        try:
            self.flush()
        except _NOT_NOW as err:
            if failures == 0:
                log.warning("What is logged to run '%s' cannot be sent now and is kept: %s", self._run_id, err)
            return failures + 1
        except HimlError as err:
            log.warning("Some of what was logged to run '%s' was not taken: %s", self._run_id, err)
        if failures:
            log.warning("What was logged to run '%s' meanwhile has been sent.", self._run_id)
        return 0

    def _say_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning(
                "%d entries that were logged to run '%s' are lost: it could not be reached for too long.",
                dropped,
                self._run_id,
            )


# What is registered last is called first. Finalizers are registered all at once, with the first of them: this one is
# made so that `_end_all` comes before those that close connections, to a database or to a service, which it still
# needs.
weakref.finalize(RunWriter, int)


@atexit.register
def _end_all() -> None:
    """Send what is there before the interpreter ends."""
    for writer in list(_busy):
        writer.end()
