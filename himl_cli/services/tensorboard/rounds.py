"""One look at many runs, several at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from types import TracebackType

from himl_cli.core.errors import HimlError
from himl_cli.services.tensorboard.feeds import RunFeed

AT_ONCE = 8


class Round:
    """A look at each of *feeds*, in threads that nobody has to wait for: a service that stalls would hold up Ctrl-C for minutes."""

    def __init__(self, feeds: Sequence[RunFeed]) -> None:
        self._waiting = deque(feeds)
        self._ended: SimpleQueue[tuple[RunFeed, BaseException | None]] = SimpleQueue()
        self._left = len(feeds)
        for _ in range(min(AT_ONCE, len(feeds))):
            threading.Thread(target=self._work, name="himl-tb", daemon=True).start()

    @property
    def is_through(self) -> bool:
        return self._left == 0

    def _work(self) -> None:
        while True:
            try:
                feed = self._waiting.popleft()
            except IndexError:
                return
            with _Outcome(feed, self._ended):
                feed.look()

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


class _Outcome:
    """Within it a feed is looked at; how that ended is put to *ended*, for the thread that waits."""

    def __init__(self, feed: RunFeed, ended: SimpleQueue[tuple[RunFeed, BaseException | None]]) -> None:
        self._feed = feed
        self._ended = ended

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> bool:
        self._ended.put((self._feed, value))
        return True
