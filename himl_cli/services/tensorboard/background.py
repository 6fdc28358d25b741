"""Calls in daemon threads, a few at a time: a service that stalls holds up neither Ctrl-C nor the other calls."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from himl_cli.core.errors import HimlError

Answer = TypeVar("Answer")
Item = TypeVar("Item")

AT_ONCE = 8
WAIT_SECONDS = 0.5  # between two chances for Ctrl-C, which Windows does not let through to a thread that waits


class BackgroundCalls(Generic[Item, Answer]):
    """Calls *call* with each of *items* and those added later, in their order, `AT_ONCE` at a time.

    `pending` counts the calls whose outcome `next` has not given yet.
    """

    def __init__(self, call: Callable[[Item], Answer], items: Iterable[Item] = ()) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._waiting: deque[Item] = deque()
        self._running: list[Item] = []
        self._threads = 0
        self._outcomes: SimpleQueue[tuple[Item, Answer | BaseException]] = SimpleQueue()
        self.pending = 0
        for item in items:
            self.add(item)

    @property
    def running(self) -> Sequence[Item]:
        with self._lock:
            return [*self._running]

    def add(self, item: Item) -> None:
        self.pending += 1
        with self._lock:
            self._waiting.append(item)
            if self._threads == AT_ONCE:
                return
            self._threads += 1
        threading.Thread(target=self._work, name="himl-tb", daemon=True).start()

    def next(self, timeout: float) -> tuple[Item, Answer | HimlError] | None:
        """An item whose call has ended, with what it gave or the HimlError that it raised; None if none ends within
        *timeout* seconds. Raises any other error."""
        try:
            item, outcome = self._outcomes.get(timeout=timeout)
        except Empty:
            return None
        self.pending -= 1
        if isinstance(outcome, BaseException) and not isinstance(outcome, HimlError):
            raise outcome
        return item, outcome

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                item = self._waiting.popleft()
                self._running.append(item)
            outcomes: list[Answer | BaseException] = []
            with caught(outcomes.append):
                outcomes.append(self._call(item))
            with self._lock:
                self._running.remove(item)
            self._outcomes.put((item, outcomes[0]))


def call_each(call: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """What *call* gives for each of *items*, in their order. Raises the first HimlError in that order."""
    calls = BackgroundCalls(lambda number: call(items[number]), range(len(items)))
    outcomes: dict[int, Answer | HimlError] = {}
    while calls.pending:
        ended = calls.next(WAIT_SECONDS)
        if ended is not None:
            outcomes[ended[0]] = ended[1]
    answers: list[Answer] = []
    for _, outcome in sorted(outcomes.items()):
        if isinstance(outcome, HimlError):
            raise outcome
        answers.append(outcome)
    return answers


@contextmanager
def caught(take: Callable[[BaseException], None]) -> Iterator[None]:
    """Gives whatever is raised within it to *take*, for the thread that waits."""
    try:
        yield
    except BaseException as err:  # noqa: BLE001  # raised by whoever waits for it
        take(err)
