"""Looks at many runs, several at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from queue import Empty, SimpleQueue

from himl_cli.core.errors import HimlError
from himl_cli.services.tensorboard.aside import Caught
from himl_cli.services.tensorboard.feeds import RunFeed

AT_ONCE = 8


class Looks:
    """A look at each of *feeds* and of those added later, in threads that nobody has to wait for: one that stalls holds
    up no other."""

    def __init__(self, feeds: Iterable[RunFeed] = ()) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[RunFeed] = deque()
        self._busy: list[RunFeed] = []
        self._threads = 0
        self._ended: SimpleQueue[tuple[RunFeed, BaseException | None]] = SimpleQueue()
        self._left = 0
        for feed in feeds:
            self.add(feed)

    @property
    def are_through(self) -> bool:
        """Whether `ended` has told of all that were added."""
        return self._left == 0

    @property
    def busy(self) -> list[RunFeed]:
        """The feeds that are just looked at."""
        with self._lock:
            return [*self._busy]

    def add(self, feed: RunFeed) -> None:
        """Look at *feed* as soon as there is room; not again before `ended` has told of it."""
        self._left += 1
        with self._lock:
            self._waiting.append(feed)
            if self._threads == AT_ONCE:
                return
            self._threads += 1
        threading.Thread(target=self._work, name="himl-tb", daemon=True).start()

    def _work(self) -> None:
        while (feed := self._next()) is not None:
            errors: list[BaseException] = []
            with Caught(errors.append):
                feed.look()
            with self._lock:
                self._busy.remove(feed)
            self._ended.put((feed, errors[0] if errors else None))

    def _next(self) -> RunFeed | None:
        with self._lock:
            if not self._waiting:
                self._threads -= 1
                return None
            self._busy.append(self._waiting.popleft())
            return self._busy[-1]

    def ended(self, seconds: float) -> tuple[RunFeed, HimlError | None] | None:
        """A feed that was looked at, and what went wrong; None where none ends within so many seconds."""
        try:
            feed, error = self._ended.get(timeout=seconds)
        except Empty:
            return None
        self._left -= 1
        if error is not None and not isinstance(error, HimlError):
            raise error
        return feed, error
