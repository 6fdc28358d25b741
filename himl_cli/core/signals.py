"""Signals during work: recorded, raised as for Ctrl-C, or ignored at the end; and the keys of the terminal."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress


class Interruptions(list[int]):
    """The SIGINT and SIGTERM that arrived. A thread can wait for the first one without looking again and again."""

    def __init__(self) -> None:
        super().__init__()
        from queue import SimpleQueue

        self._news = SimpleQueue[None]()  # a handler of signals may put into it, even while another one does

    def note(self, number: int) -> None:
        """Collect a signal, and end the wait."""
        self.append(number)
        self.end_wait()

    def end_wait(self) -> None:
        """Let `wait` return in the thread that waits, or that waits next."""
        self._news.put(None)

    def wait(self) -> bool:
        """Wait for a signal or for `end_wait`. Returns whether a signal arrived."""
        if not self:
            self._news.get()
        return bool(self)


@contextmanager
def interruptions(react: Callable[[], None] = lambda: None) -> Iterator[Interruptions]:
    """Provide a list that collects SIGINT and SIGTERM, which do not end this process. *react* is called for each.

    A second signal raises KeyboardInterrupt. Outside the main thread the list stays empty.
    """
    seen = Interruptions()

    def note(number: int, frame: object) -> None:
        seen.note(number)
        if len(seen) > 1:
            raise KeyboardInterrupt
        react()

    with _handling((signal.SIGINT, signal.SIGTERM), note):
        yield seen


def _terminal_on_stdin() -> int | None:
    """The handle of stdin, if it is a terminal and this process may change it. None on Windows."""
    if sys.platform == "win32":
        return None
    try:
        handle = sys.stdin.fileno()
        is_ours = os.isatty(handle)
    except (AttributeError, ValueError, OSError):  # closed, or replaced by an object without a file
        return None
    with suppress(OSError):  # it is not the terminal of this session
        is_ours = is_ours and os.tcgetpgrp(handle) == os.getpgrp()
    return handle if is_ours else None


@contextmanager
def unbuffered_terminal() -> Iterator[None]:
    """Let the terminal on stdin deliver each key at once, without printing it, while another process reads the keys.
    Ctrl-C stays a signal. Does nothing without a terminal, or in the background."""
    handle = _terminal_on_stdin()
    if sys.platform == "win32" or handle is None:
        yield
        return
    import termios

    before = termios.tcgetattr(handle)
    modes = [*before[:3], before[3] & ~(termios.ICANON | termios.ECHO), *before[4:]]
    termios.tcsetattr(handle, termios.TCSANOW, modes)
    try:
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


@contextmanager
def terminations(*, and_hangups: bool = False) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, as for Ctrl-C, so that results can be saved.

    *and_hangups* includes SIGHUP, the end of the terminal. Shells and systems may send several, so that those after the
    first are ignored. A signal that has a handler, or is ignored as under `nohup`, is left alone.
    """
    hangup = getattr(signal, "SIGHUP", None) if and_hangups else None

    def end(number: int, frame: object) -> None:
        if number == hangup:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = [number for number in (signal.SIGTERM, hangup) if number is not None]
    with _handling([number for number in numbers if signal.getsignal(number) is signal.SIG_DFL], end):
        yield


@contextmanager
def _handling(numbers: Iterable[int], handle: Callable[[int, object], None]) -> Iterator[None]:
    """Call *handle* for each signal. Outside the main thread Python receives none."""
    is_heard = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in numbers if is_heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def take_time_to_end(seconds: float = 2.0) -> None:
    """Ignore Ctrl-C for *seconds* from now on, since the process ends soon, and an interruption would only add a
    traceback."""
    if threading.current_thread() is not threading.main_thread():
        return
    deadline = time.monotonic() + seconds

    def pass_over(number: int, frame: object) -> None:
        if time.monotonic() > deadline:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, pass_over)
