"""Several requests at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

AT_ONCE = 8
"""Requests under way at once: enough to hide the way to the service, few enough not to be throttled."""
MANY_AT_ONCE = 32
"""Where thousands of small answers are read; as many connections are kept open (`pipeline.CONNECTIONS`)."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def ask_all(ask: Callable[[Item], Answer], items: Sequence[Item], *, at_once: int = AT_ONCE) -> list[Answer]:
    """What *ask* says to each of the *items*, in their order, by *at_once* threads; the first error is raised, and what
    was not begun is dropped.

    What is under way then is waited for, except by somebody who interrupts: a service that stalls would hold him up for
    minutes.
    """
    if len(items) < 2:
        return [ask(item) for item in items]
    questions = [_Question(ask, item) for item in items]
    waiting: SimpleQueue[_Question[Item, Answer]] = SimpleQueue()
    for question in questions:
        waiting.put(question)
    # daemons, for the interpreter waits for the threads of an executor, however it ends
    threads = [
        threading.Thread(target=_work, args=(waiting,), name="himl-ask", daemon=True)
        for _ in range(min(at_once, len(items)))
    ]
    for thread in threads:
        thread.start()
    try:
        answers = [question.wait() for question in questions]
    except BaseException as err:
        _drop(waiting)
        if not isinstance(err, KeyboardInterrupt):
            _join(threads)
        raise
    _join(threads)
    return answers


class _Question(Generic[Item, Answer]):
    """One item on its way: answered, or failed with `error`."""

    def __init__(self, ask: Callable[[Item], Answer], item: Item) -> None:
        self._ask = ask
        self._item = item
        self._answers: list[Answer] = []
        self._error: BaseException | None = None
        self._is_through = threading.Event()

    def answer(self) -> None:
        """Ask; nothing is raised here, but by `wait`."""
        with self:
            self._answers.append(self._ask(self._item))

    def wait(self) -> Answer:
        self._is_through.wait()
        if self._error is not None:
            raise self._error
        return self._answers[0]

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._error = error
        self._is_through.set()
        return True


def _work(waiting: SimpleQueue[_Question[Item, Answer]]) -> None:
    while True:
        try:
            question = waiting.get_nowait()
        except Empty:
            return
        question.answer()


def _drop(waiting: SimpleQueue[_Question[Item, Answer]]) -> None:
    while True:
        try:
            waiting.get_nowait()
        except Empty:
            return


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join()
