"""One call beside the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

from himl_cli.core.errors import HimlError

Answer = TypeVar("Answer")


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
            ended = self._ended.get_nowait()
        except Empty:
            return None
        if isinstance(ended, BaseException) and not isinstance(ended, HimlError):
            raise ended
        return ended


class Caught:
    """What is raised within it is given to *take*, for the thread that waits."""

    def __init__(self, take: Callable[[BaseException], None]) -> None:
        self._take = take

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> bool:
        if value is not None:
            self._take(value)
        return True
