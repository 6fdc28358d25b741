"""The threads that a montage is made with, and work that they share."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, wait
from threading import Event
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
SECONDS = 0.5  # how long is waited at a time: on Windows, Ctrl-C is heard in between only


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def reuse_freed_memory() -> None:
    """Let glibc use again what was freed, rather than give it back and take new pages: pictures of some megabytes come
    and go, and without it a montage takes 8 % more of the processor's time. Does nothing where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for threshold in (-3, -1):  # of memory maps and of trimming, see mallopt(3)
            mallopt(threshold, 1 << 30)


class Pool(ThreadPoolExecutor):
    """*workers* threads for everything: reading, painting, encoding. None of their tasks may wait for one that has not
    begun.

    Left by an error, it calls *stop*; tasks end at their next `check`, and those that have not begun are dropped.
    """

    def __init__(self, workers: int, stop: Callable[[], None] | None = None) -> None:
        super().__init__(workers, thread_name_prefix="himl-montage")
        self.workers = workers
        self._stop = stop
        self._ending = Event()

    def check(self) -> None:
        """Raises CancelledError where the montage is being given up."""
        if self._ending.is_set():
            raise CancelledError

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
        if kind is not None:
            self._ending.set()
            if self._stop is not None:
                self._stop()
        self.shutdown(wait=True, cancel_futures=kind is not None)


def map_in_order(pool: Executor | None, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """What *function* makes of each item, in their order, by the threads of *pool*, and by this one for what they have
    not begun; None: by this one alone.

    All results may be held at once. Raises what *function* raises.
    """
    if pool is None or len(items) < 2:
        yield from map(function, items)
        return
    futures = [pool.submit(function, item) for item in items]
    try:
        for number, item in enumerate(items):
            yield function(item) if futures[number].cancel() else futures[number].result()
    finally:
        for future in futures:
            future.cancel()


def read_ahead(items: Iterator[Item], pool: Executor) -> Generator[Item, None, None]:
    """*items*, of which the next one is made by *pool* meanwhile. A task of the pool may ask for them: what no thread
    has begun it makes itself.

    Closed, it waits for what is being made. Raises what *items* raise.
    """
    coming = pool.submit(next, items, None)
    try:
        while (item := next(items, None) if coming.cancel() else coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
            del item
    finally:
        if not coming.cancel():
            wait((coming,))
