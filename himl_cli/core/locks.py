"""Whether somebody holds a lock file, and holding one as long as this process lives."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from himl_cli.core.forks import tell_of_forks

SECONDS_TO_TAKE = 2.0


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of *path*; False where there is no such file.

    Looking takes no lock that another look could mistake for a holder's, and needs no permission to write (POSIX; on
    Windows a second look at the same instant may see a holder that is none).
    """
    if sys.platform == "win32":
        return path.exists() and _is_held_by_file_lock(path)
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _is_held_by_file_lock(path: Path) -> bool:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


class HeldLock:
    """The lock of *path*, held until `release` or the end of this process, however that comes.

    A process that is forked from this one neither holds it nor gives it back (filelock's own would, when the fork
    exits).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: Any = None

    def take(self) -> bool:
        """Whether it is ours now. Someone who merely looks at it is waited for. Raises OSError."""
        deadline = time.monotonic() + SECONDS_TO_TAKE
        while self._held is None:
            self._held = _try_to_take(self._path)
            if self._held is None:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.02)
        tell_of_forks(self)
        return True

    def release(self) -> None:
        """Give it back; nothing happens where it is not held."""
        held, self._held = self._held, None
        if held is None:
            return
        if sys.platform == "win32":
            held.release()
            return
        import fcntl

        fcntl.flock(held, fcntl.LOCK_UN)  # closing alone would leave it to processes that were forked meanwhile
        os.close(held)

    def after_fork(self) -> None:
        """In a forked process: close our end of it, which unlocks nothing."""
        held, self._held = self._held, None
        if held is not None and sys.platform != "win32":
            os.close(held)


def _try_to_take(path: Path) -> Any:
    """What holds the lock; None where somebody else has it."""
    if sys.platform == "win32":
        from filelock import FileLock, Timeout

        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
