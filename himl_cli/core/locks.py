"""Whether somebody holds a lock file. The locks themselves are filelock's."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of *path*; False where there is no such file.

    Looking takes no lock that another look could mistake for a holder's, and needs no permission to write (POSIX; on Windows
    a second look at the same instant may see a holder that is none).
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
