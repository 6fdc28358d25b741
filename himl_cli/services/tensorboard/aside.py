"""Calls beside the others."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

from himl_cli.core.errors import HimlError

Answer = TypeVar("Answer")
Item = TypeVar("Item")

AT_ONCE = 8
SECONDS = 0.5


class Aside(Generic[Answer]):
    """*act*, called in a thread that nobody has to wait for: a service that stalls would hold up Ctrl-C for minutes."""

    def __init__(self, act: Callable[[], Answer]) -> None:
        self._act = act
        self._ended: SimpleQueue[Answer | BaseException] = SimpleQueue()
        threading.Thread(target=self._work, name="himl-tb", daemon=True).start()

    def _work(self) -> None:
        with Caught(self._ended.put):
            self._ended.put(self._act())

    def poll(self) -> Answer | HimlError | None:
        """What it gave, or the HimlError that it raised, once; None before that."""
        try:
            return self._checked(self._ended.get_nowait())
        except Empty:
            return None

    def wait(self) -> Answer | HimlError:
        """As `poll`, once there is something. Ctrl-C ends the waiting."""
        while True:
            with suppress(Empty):
                return self._checked(self._ended.get(timeout=SECONDS))

    def _checked(self, ended: Answer | BaseException) -> Answer | HimlError:
        if isinstance(ended, BaseException) and not isinstance(ended, HimlError):
            raise ended
        return ended


def several(ask: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """What *ask* says to each of *items*, in their order; AT_ONCE are asked at a time. Raises the first HimlError in
    that order."""
    answers: list[Answer] = []
    asides: deque[Aside[Answer]] = deque()
    waiting = iter(items)
    for item in islice(waiting, AT_ONCE):
        asides.append(Aside(partial(ask, item)))
    while asides:
        ended = asides.popleft().wait()
        if isinstance(ended, HimlError):
            raise ended
        answers.append(ended)
        for item in islice(waiting, 1):
            asides.append(Aside(partial(ask, item)))
    return answers


class Caught:
    """What is raised within it is given to *take*, for the thread that waits."""

    def __init__(self, take: Callable[[BaseException], None]) -> None:
        self._take = take

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if value is not None:
            self._take(value)
        return True
