"""The threads that a montage is made with."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import CancelledError, Future, wait
from threading import Event
from types import TracebackType
from typing import TypeVar

from himl_cli.services.montage.threads import Threads

Result = TypeVar("Result")
SECONDS = 0.5
"""How long is waited at a time: on Windows, Ctrl-C is heard in between only."""


class Pool(Threads):
    """*workers* threads for everything: reading, painting, encoding. None of their tasks may wait for one that has not
    begun.

    After `give_up` tasks end at their next `check`. Left by an error, those that have not begun are dropped.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers, thread_name_prefix="himl-montage")
        self._ending = Event()

    def check(self) -> None:
        """Raises CancelledError where the montage is being given up."""
        if self._ending.is_set():
            raise CancelledError

    def give_up(self) -> None:
        """From here on `check` raises. Nothing is cancelled yet: who waits for a task that is cancelled in the queue
        would wait for ever."""
        self._ending.set()

    def results(self, futures: Iterable[Future[Result]]) -> list[Result]:
        """What they return, in their order, once all are done. Raises what the first that failed raised, at once."""
        results = []
        for future in futures:
            while not wait((future,), SECONDS).done:
                pass
            results.append(future.result())
        return results

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(wait=True, cancel_futures=kind is not None)
