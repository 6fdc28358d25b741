"""Threads that create a montage, and functions that distribute work among them."""

from __future__ import annotations

import _thread
import ctypes
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import NoReturn, ParamSpec, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")
SECONDS = 0.5  # length of one wait, because Windows handles Ctrl-C only between waits


def cores() -> int:
    """Number of cores that this process may use."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


def reuse_freed_memory() -> None:
    """Let glibc reuse freed memory instead of returning it and allocating new pages. Arrays of some megabytes come and
    go, and without this, a montage takes 8 % more processor time. Does nothing without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for threshold in (-3, -1):  # the thresholds of memory maps and of trimming, see mallopt(3)
            mallopt(threshold, 1 << 30)


class Pool(ThreadPoolExecutor):
    """*workers* threads for reading, painting and encoding. A task must not wait for one that has not begun.

    On an error, it calls *stop*. Tasks end at their next `check`, and no others begin: their futures have
    CancelledError. (`Future.cancel` would let `wait` wait for them forever.)
    """

    def __init__(self, workers: int, stop: Callable[[], None] | None = None) -> None:
        super().__init__(workers, thread_name_prefix="himl-montage")
        self.workers = workers
        self._stop = stop
        self._is_ending = False
        self._is_running = False

    def run(self, work: Callable[[], Result]) -> Result:
        """The result of *work*, which gives tasks to the pool from a thread of its own. Raises what *work* raises.

        Python raises KeyboardInterrupt between any two instructions of the main thread, also where a condition has
        taken its lock and the block that releases it has not begun. Threads that need the lock would wait forever. So
        the main thread only waits, and takes no locks that tasks need.
        """
        outcomes: SimpleQueue[Callable[[], Result]] = SimpleQueue()

        def keep() -> None:
            try:
                result = work()
                outcomes.put(lambda: result)
            except BaseException as err:  # noqa: BLE001  # raised by `run`
                outcomes.put(partial(_raise, err))
            self._is_running = False

        self._is_running = True
        _thread.start_new_thread(keep, ())  # a `Thread` would wait for its start with a condition
        while True:
            with suppress(Empty):
                return outcomes.get(timeout=SECONDS)()

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        def task() -> Result:
            self.check()
            return fn(*args, **kwargs)

        self.check()
        return super().submit(task)

    def check(self) -> None:
        """Raise CancelledError if the montage is being stopped."""
        if self._is_ending:
            raise CancelledError

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._is_ending = True
            if self._stop is not None:
                self._stop()
            while self._is_running:
                time.sleep(0.01)
        self.shutdown(wait=True)


def _raise(error: BaseException) -> NoReturn:
    raise error


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
