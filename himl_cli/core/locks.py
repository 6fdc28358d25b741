"""Locks of files that end with the process that holds them, and signatures for machines that do not see the locks."""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from himl_cli.core.processes import ENDED_STATES, PROC, boot_id, find_process, machine_time, register_after_fork

SIGNATURE_BYTES = 1024  # at most, in the file of a lock


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of *path*, or may hold it: the file cannot be opened, or `unseen_holder`. False
    if there is no such file."""
    return is_locked(path) or bool(unseen_holder(path))


def is_locked(path: Path, *, seen: bool = False) -> bool:
    """Whether a process holds the lock of *path* as this machine sees it, or (unless *seen*) signed it and lives on
    this machine. True if the file cannot be opened, False if there is no such file.

    The check takes no lock that another check could mistake for a holder's, and needs no permission to write (POSIX. On
    Windows, two checks at the same instant may mistake each other for a holder).
    """
    if sys.platform == "win32":
        lock = ProcessLock(path)
        is_free = not path.exists() or lock.take(0.0)
        lock.release()
        return not is_free
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # no right, no handle left, or a failure of the file system
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        _, boot, space, process = _signature_in(os.read(handle, SIGNATURE_BYTES))
    except OSError:
        return True
    finally:
        os.close(handle)
    if seen or not boot or [boot, space] != _signature()[1:3]:
        return False
    found = find_process(process.partition("@")[0])
    return found is not None and found[0] == process and found[3] not in ENDED_STATES


def unseen_holder(path: Path) -> str:
    """Where the process runs that signed the lock of *path* and may still hold it, although `is_locked` is false: the
    name of another machine, or a container of this one. Some file systems do not show locks there.

    Empty if the lock was released or never signed, and if its holder ended: it ran on this machine, in the same
    container, or before the machine's last start.
    """
    try:
        signed = path.stat().st_mtime
        host, boot, space, _ = _signature_in(path.read_bytes())
    except OSError:
        return ""
    if not host or [boot, space] == (own := _signature())[1:3]:
        return ""
    if boot == own[1]:
        return f"another container on {host}"
    has_restarted = host == own[0] and signed < time.time() - machine_time()
    return "" if has_restarted else host


def has_restarted_since(path: Path) -> bool:
    """Whether this machine has started again since a process of it signed the lock of *path* and ended."""
    try:
        boot = _signature_in(path.read_bytes())[1]
    except OSError:
        return False
    return bool(boot) and boot != boot_id() and not unseen_holder(path)


def _signature() -> list[str]:
    """This process: the name of its machine, the machine's start, the namespace of its process id, and the process by
    pid and start. Without /proc, the latter two are `-`. Windows signs no locks."""
    if sys.platform == "win32":
        return ["-", "", "-", "-"]
    try:
        space = os.readlink(PROC / "self/ns/pid")
    except OSError:
        space = "-"
    found = find_process("self")
    return [os.uname().nodename or "-", boot_id(), space, found[0] if found is not None else "-"]


def _signature_in(content: bytes) -> list[str]:
    """The signature in a lock's file, of empty texts if there is none, as after a power cut."""
    words = content.decode(errors="replace").strip("\0").split()
    return (words + [""] * 4)[:4]


class ProcessLock:
    """The lock of *path*, held until `release` or the end of this process, of any kind. *mode* is that of a new file.

    As a context, it waits for the lock and holds it. A process that is forked from this one neither holds nor releases
    it (filelock's own would, when the fork exits).
    """

    def __init__(self, path: Path, *, mode: int = 0o666) -> None:
        self._path = path
        self._mode = mode
        self._held: Any = None
        self._is_signed = False

    def __enter__(self) -> ProcessLock:
        self.take(math.inf)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self, seconds: float = 2.0) -> bool:
        """Whether this process holds the lock now. Waits up to *seconds* for another one, which may only be checking
        the lock. Raises OSError."""
        deadline = time.monotonic() + seconds
        while not self._is_taken():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        register_after_fork(self)
        return True

    def _is_taken(self) -> bool:
        if self._held is not None:
            return True
        if sys.platform == "win32":
            from filelock import FileLock, Timeout

            lock = FileLock(self._path, mode=self._mode, thread_local=False)
            with suppress(Timeout):
                lock.acquire(timeout=0)
                self._held = lock
            return self._held is not None
        import fcntl

        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), self._mode)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._held = handle
        return True

    def sign(self) -> None:
        """Write into the file of the held lock which process holds it, for machines that do not see the lock (POSIX).
        `release` removes the signature. Raises OSError."""
        if sys.platform != "win32":
            content = " ".join(_signature()).encode()
            os.pwrite(self._held, content, 0)
            os.ftruncate(self._held, len(content))
            os.close(os.dup(self._held))  # network file systems send what was written when a handle is closed
            self._is_signed = True

    def release(self) -> None:
        """Release the lock if it is held."""
        held, self._held = self._held, None
        if held is None:
            return
        if sys.platform == "win32":
            held.release()
            return
        import fcntl

        if self._is_signed:
            with suppress(OSError):
                os.ftruncate(held, 0)
        fcntl.flock(held, fcntl.LOCK_UN)  # closing alone would leave the lock to forked processes
        os.close(held)

    def after_fork(self) -> None:
        """In a forked process, close the handle, which unlocks nothing."""
        held, self._held = self._held, None
        if held is not None and sys.platform != "win32":
            os.close(held)
