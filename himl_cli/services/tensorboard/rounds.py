"""One look at many runs, several at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from himl_cli.core.errors import HimlError
from himl_cli.services.tensorboard.aside import Caught
from himl_cli.services.tensorboard.feeds import RunFeed

AT_ONCE = 8


class Round:
    """A look at each of *feeds*, in threads that nobody has to wait for."""

    def __init__(self, feeds: Sequence[RunFeed]) -> None:
        self._waiting = deque(feeds)
        self._ended: SimpleQueue[tuple[RunFeed, BaseException | None]] = SimpleQueue()
        self._left = len(feeds)
        self._busy: list[RunFeed | None] = [None] * min(AT_ONCE, len(feeds))
        for place in range(len(self._busy)):
            threading.Thread(target=self._work, args=(place,), name="himl-tb", daemon=True).start()

    @property
    def is_through(self) -> bool:
        return self._left == 0

    @property
    def busy(self) -> list[RunFeed]:
        """The feeds that are just looked at."""
        return [feed for feed in self._busy if feed is not None]

    def _work(self, place: int) -> None:
        while True:
            try:
                feed = self._waiting.popleft()
            except IndexError:
                return
            self._busy[place] = feed
            errors: list[BaseException] = []
            with Caught(errors.append):
                feed.look()
            self._busy[place] = None
            self._ended.put((feed, errors[0] if errors else None))

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
