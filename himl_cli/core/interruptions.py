"""SIGINT, SIGTERM and SIGHUP while something is under way that must not be dropped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptions(react: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """A list that each SIGINT and SIGTERM is noted in, instead of ending this process; *react* is called for each.

    A second one from somebody who will not wait raises KeyboardInterrupt. Outside the main thread, where Python hears
    no signals, the list stays empty.
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
    """From now on Ctrl-C is passed over for so many seconds: the end is near, and one more would only cut it short with
    a traceback."""
    if threading.current_thread() is not threading.main_thread():
        return
    deadline = time.monotonic() + seconds

    def pass_over(number: int, frame: object) -> None:
        if time.monotonic() > deadline:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, pass_over)


@contextmanager
def terminations(*, and_hangups: bool = False) -> Iterator[None]:
    """Within it, SIGTERM ends what is under way as Ctrl-C does: by KeyboardInterrupt, so that what there is can be
    kept.

    *and_hangups*: so does SIGHUP, the end of the terminal, of which shells and systems may send several: those after
    the first are passed over. A signal that has a handler, or is ignored as under `nohup`, is left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hangup = getattr(signal, "SIGHUP", None) if and_hangups else None
    numbers = [
        number
        for number in (signal.SIGTERM, hangup)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL
    ]

    def end(number: int, frame: object) -> None:
        if number == hangup:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
