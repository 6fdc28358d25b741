"""Processes: detached ones, one that waits for its work, forks, and which processes of this machine exist. Each
function wraps one operation of the system, so they share little code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import subprocess
    from multiprocessing.connection import Connection

T = TypeVar("T")
R = TypeVar("R")

# The environment variable with the folder in which the script of a local job starts
JOB_FOLDER = "HIML_JOB_FOLDER"
PROC = Path("/proc")
ENDED_STATES = ("Z", "X")  # states of a process that has ended, in /proc
PAUSE_MEANWHILE = 0.1  # seconds between two calls of what a process does while forks work


def detached() -> dict[str, Any]:
    """Arguments of Popen for a process that survives a closed terminal and Ctrl-C."""
    if sys.platform == "win32":
        import subprocess

        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def end_detached(process: subprocess.Popen[bytes]) -> None:
    """Kill a detached process and its children in the same group (on Windows, only the process)."""
    if sys.platform == "win32":
        process.kill()
    else:
        # The group is empty, which macOS reports as EPERM
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


_standby: dict[str, subprocess.Popen[bytes]] = {}


def start_standby(module: str) -> None:
    """Start `python -m` *module*, a detached program that reads its work from stdin, so that it loads while this
    process prepares that work. `take_standby` returns its process."""
    if module in _standby:
        return
    import subprocess

    command, pipe = [sys.executable, "-m", module], subprocess.PIPE
    # Python adds the current folder to its path, and one of a user may contain any module
    folder = Path(__file__).parents[2]
    with suppress(OSError):  # without it, the process starts later
        _standby[module] = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=folder, **detached()
        )


@contextmanager
def standby(module: str) -> Iterator[None]:
    """As `start_standby`. At the end, kills a process that was not taken."""
    start_standby(module)
    try:
        yield
    finally:
        end_standby(module)


def end_standby(module: str) -> None:
    """Kill the process of *module* that waits for work, if there is one."""
    if (process := take_standby(module)) is not None:
        process.kill()
        process.communicate()


def take_standby(module: str) -> subprocess.Popen[bytes] | None:
    """The process of *module* that `start_standby` started, None if there is none."""
    return _standby.pop(module, None)


def in_processes(
    work: Callable[[Sequence[T]], R], items: Sequence[T], number: int, meanwhile: Callable[[], None]
) -> list[R]:
    """The results of *work* for *number* consecutive parts of *items*. This process, which must have one thread, does
    the first part, and a fork of it each other one, while a thread calls *meanwhile* again and again. Raises the first
    exception of *work*, and BrokenPipeError if a fork was killed."""
    if number == 1 or sys.platform == "win32":  # which has no fork
        return [work(items)]
    from multiprocessing import get_context  # imports thirty modules

    size, context, is_done = -(-len(items) // number), get_context("fork"), threading.Event()

    def do(part: Sequence[T], sender: Connection) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C interrupts the first process, which kills this one
        found: tuple[R | None, Exception | None]
        try:
            found = work(part), None
        except Exception as err:  # noqa: BLE001  # the first process raises it
            found = None, err
        with suppress(BrokenPipeError):  # the reader was killed
            sender.send(found)

    def repeat() -> None:
        while not is_done.wait(PAUSE_MEANWHILE):
            meanwhile()

    children, results, repeating = [], list[R](), threading.Thread(target=repeat)
    try:
        for start in range(size, len(items), size):
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=do, args=(items[start : start + size], sender), daemon=True)
            child.start()
            sender.close()
            children.append((child, receiver))
        repeating.start()
        results.append(work(items[:size]))
        for child, receiver in children:
            try:
                result, error = receiver.recv()
            except EOFError:
                raise BrokenPipeError(errno.EPIPE, f"process {child.pid} was killed") from None
            if error is not None:
                raise error
            results.append(result)
        return results
    finally:
        for child, receiver in children:
            child.kill()
            child.join()
            receiver.close()
        is_done.set()
        if repeating.ident is not None:
            repeating.join()


_known: weakref.WeakSet[Any] = weakref.WeakSet()


def register_after_fork(thing: Any) -> None:
    """Call the `after_fork` of *thing* in every process forked from now on, while *thing* exists. It must drop the
    parent's resources without closing them."""
    _known.add(thing)


if hasattr(os, "register_at_fork"):  # missing on Windows, which has no fork
    os.register_at_fork(after_in_child=lambda: [thing.after_fork() for thing in list(_known)])


def machine_time() -> float:
    """Time on a clock of all processes of this machine: on Linux since its start, elsewhere the time of day."""
    if sys.platform != "linux":
        return time.time()
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """An identifier of this start of the machine, which containers share. Empty where the system has none."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def process_exists(process: str) -> bool:
    """Whether *process*, by pid and start as in `LocalRank`, exists, including as a zombie."""
    found = find_process(process.partition("@")[0]) if process else None
    return found is not None and found[0] == process


def find_process(pid: str) -> tuple[str, str, float, str] | None:
    """The pid and start (pids are reused) of a process, the pid of its parent, its start time, and its state. None if
    there is no such process, or no /proc."""
    if sys.platform == "win32":
        return None
    try:
        text = (PROC / pid / "stat").read_text(errors="replace")
    except OSError:
        return None
    # Fields after the name: state, parent, …, and as the 20th the start in ticks
    fields = text.rpartition(")")[2].split()
    began = (int(fields[19]) + 1) / os.sysconf("SC_CLK_TCK")
    return f"{text.partition(' ')[0]}@{fields[19]}", fields[1], began, fields[0]
