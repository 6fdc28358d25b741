"""SIGINT and SIGTERM while something is under way that must not be dropped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptions(react: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """A list that each SIGINT and SIGTERM is noted in, instead of ending this process; *react* is called for each.

    A second one from somebody who will not wait raises KeyboardInterrupt. Outside the main thread, where Python hears no signals, the list stays empty.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def note(number: int, frame: object) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt
        react()

    numbers = [signal.SIGINT, signal.SIGTERM]
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield seen
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def take_time_to_end(seconds: float = 2.0) -> None:
    """From now on Ctrl-C is passed over for so many seconds: the end is near, and one more would only cut it short with a traceback."""
    if threading.current_thread() is not threading.main_thread():
        return
    deadline = time.monotonic() + seconds

    def pass_over(number: int, frame: object) -> None:
        if time.monotonic() > deadline:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, pass_over)


@contextmanager
def terminations() -> Iterator[None]:
    """Within it, SIGTERM ends what is under way as Ctrl-C does: by KeyboardInterrupt, so that what there is can be kept."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
