"""Threads that create a montage, and functions that distribute work among them."""

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
SECONDS = 0.5  # length of one wait, because Windows handles Ctrl-C only between waits


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def reuse_freed_memory() -> None:
    """Let glibc reuse freed memory instead of returning it and allocating new pages. Arrays of some megabytes come and
    go, and without this, a montage takes 8 % more processor time. Does nothing without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for threshold in (-3, -1):  # the thresholds of memory maps and of trimming, see mallopt(3)
            mallopt(threshold, 1 << 30)


class Pool(ThreadPoolExecutor):
    """*workers* threads for reading, painting and encoding. A task must not wait for one that has not begun.

    On an error, it calls *stop*. Tasks end at their next `check`, and those that have not begun are dropped.
    """

    def __init__(self, workers: int, stop: Callable[[], None] | None = None) -> None:
        super().__init__(workers, thread_name_prefix="himl-montage")
        self.workers = workers
        self._stop = stop
        self._ending = Event()

    def check(self) -> None:
        """Raise CancelledError if the montage is being stopped."""
        if self._ending.is_set():
            raise CancelledError

    def results(self, futures: Iterable[Future[Result]]) -> list[Result]:
        """Wait for all *futures* and return their results in order. Raises the first failure at once."""
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
    """Yield the result of *function* for each item, in order. The threads of *pool* do the work, and this one does what
    they have not begun. With None, this thread does all of it.

    All results may be in memory at once. Raises what *function* raises.
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
    """Yield *items*, while *pool* creates the next one. A task of the pool may consume them, because it creates an item
    itself if no thread has begun it.

    Closing it waits for the item in progress. Raises what *items* raise.
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
