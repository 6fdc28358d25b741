"""Processes: those started apart from this one, those that a launcher started as ranks, forks, locks that one holds,
and signals during work."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import subprocess

# Variables that hold a process's rank on its node, the first that is set counts; beside each, the one with their
# number.
RANKS = {
    "LOCAL_RANK": "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALRANKID": "MPI_LOCALNRANKS",
    "SLURM_LOCALID": "",
}
# Variables that hold a process's rank among those of all nodes, the first that is set counts.
RANKS_OF_ALL = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
# What all ranks of one launch have alike. None is unique by itself everywhere, so all of them and the launcher's
# process count together; a shell that starts ranks twice has them alike in both launches.
LAUNCH_VARIABLES = (
    *("AZUREML_RUN_ID", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"),
    *("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
)
PROC = Path("/proc")


def detached() -> dict[str, Any]:
    """Arguments of Popen for a process that a closed terminal and Ctrl-C do not reach."""
    if sys.platform == "win32":
        import subprocess

        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def end_detached(process: subprocess.Popen[bytes]) -> None:
    """End at once a process that was started so, and what it started that did not leave it (on Windows, it alone)."""
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError, PermissionError):  # the group is empty (macOS says so with EPERM)
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


_known: weakref.WeakSet[Any] = weakref.WeakSet()


def register_after_fork(thing: Any) -> None:
    """Call its `after_fork` in every process that is forked from here on, as long as it lives: there it forgets,
    without closing, what belongs to the parent."""
    _known.add(thing)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=lambda: [thing.after_fork() for thing in list(_known)])


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of *path*; False where there is no such file.

    Looking takes no lock that another look could mistake for a holder's, and needs no permission to write (POSIX; on
    Windows a second look at the same instant may see a holder that is none).
    """
    if sys.platform == "win32":
        lock = ProcessLock(path)
        is_free = not path.exists() or lock.try_to_take()
        lock.release()
        return not is_free
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


class ProcessLock:
    """The lock of *path*, held until `release` or the end of this process, however that comes.

    A process that is forked from this one neither holds it nor gives it back (filelock's own would, when the fork
    exits).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: Any = None

    def take(self) -> bool:
        """Whether it is ours now. Someone who merely looks at it is waited for. Raises OSError."""
        deadline = time.monotonic() + 2.0
        while not self.try_to_take():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        register_after_fork(self)
        return True

    def try_to_take(self) -> bool:
        """Whether it is ours now. Raises OSError."""
        if self._held is not None:
            return True
        if sys.platform == "win32":
            from filelock import FileLock, Timeout

            lock = FileLock(self._path, thread_local=False)
            with suppress(Timeout):
                lock.acquire(timeout=0)
                self._held = lock
            return self._held is not None
        import fcntl

        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._held = handle
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


def machine_time() -> float:
    """On a clock that all processes of this machine share: Linux's since its start, elsewhere that of the day."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() if boottime is None else time.clock_gettime(boottime)


LOADED = machine_time()


class LocalRank(NamedTuple):
    """This process among those that one launcher started on this node: `launcher`, with its node, and `variables` are
    the same for all of them, and for others only where it starts ranks twice.

    `variable` is the one that holds the rank. `began` is the `machine_time` at which the rank had been started at the
    latest, `process` the one that the launcher started as it, `ancestors` this process and those above it that are
    ranks: processes by pid and start, unknown where there is no /proc.
    """

    rank: int
    variable: str
    launcher: str
    variables: tuple[str, ...]
    began: float
    process: str
    ancestors: frozenset[str]


def local_rank(environment: Mapping[str, str]) -> LocalRank | None:
    """The rank in the launcher's variables; None outside a launch, and for a process that is alone on its node."""
    variable = next((name for name in RANKS if environment.get(name, "").isdecimal()), "")
    if not variable or (int(environment[variable]) == 0 and environment.get(RANKS[variable], "") == "1"):
        return None
    rank, found = int(environment[variable]), _find_process("self")
    ancestors: set[str] = set()
    process, began = "", LOADED
    while found is not None and (not ancestors or _rank_of(found[0]) is not None):
        if not ancestors or _rank_of(found[0]) == rank:
            process, _, began = found
        ancestors.add(found[0])
        found = _find_process(found[1])
    try:
        node = (PROC / "sys/kernel/random/boot_id").read_text()  # that of containers is the same, not their name
    except OSError:
        import platform  # where there is no /proc: it takes a millisecond of every job's start

        node = platform.node()
    launcher = f"{node} {found[0] if found is not None else ''}"
    variables = tuple(f"{name}={environment[name]}" for name in LAUNCH_VARIABLES if name in environment)
    return LocalRank(rank, variable, launcher, variables, began, process, frozenset(ancestors))


def rank_of_all(environment: Mapping[str, str]) -> int:
    """This process's rank among those of all nodes, as far as the launcher says; 0 outside a launch."""
    found = next((value for name in RANKS_OF_ALL if (value := environment.get(name, "")).isdecimal()), None)
    me = local_rank(environment) if found is None else None
    return me.rank if me is not None else int(found or 0)


def process_exists(process: str) -> bool:
    """Whether *process*, by pid and start as `LocalRank` has it, is still there, if only because its parent has not
    asked how it ended."""
    found = _find_process(process.partition("@")[0]) if process else None
    return found is not None and found[0] == process


def _find_process(pid: str) -> tuple[str, str, float] | None:
    """Its pid and start (a pid alone is used again), the pid of its parent, and when it began; None where there is
    none, or no /proc."""
    try:
        text = (PROC / pid / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # after the name: state, parent, …, start in ticks as the twentieth
    began = (int(fields[19]) + 1) / os.sysconf("SC_CLK_TCK")
    return f"{text.partition(' ')[0]}@{fields[19]}", fields[1], began


def _rank_of(process: str) -> int | None:
    """The local rank that *process* was started as, by any launcher: scripts hand their rank on under another one's
    name. None for one that is no rank, or somebody else's; -1 where a variable is there without a number."""
    try:
        entries = (PROC / process.partition("@")[0] / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    variables = dict(entry.decode(errors="surrogateescape").partition("=")[::2] for entry in entries)
    known = [variables[name] for name in RANKS if name in variables]
    return next((int(value) for value in known if value.isdecimal()), -1 if known else None)


@contextmanager
def interruptions(react: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """A list that each SIGINT and SIGTERM is noted in, instead of ending this process; *react* is called for each.

    A second one from somebody who will not wait raises KeyboardInterrupt. Outside the main thread the list stays empty.
    """
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt
        react()

    with _handling((signal.SIGINT, signal.SIGTERM), note):
        yield seen


@contextmanager
def terminations(*, and_hangups: bool = False) -> Iterator[None]:
    """Within it, SIGTERM ends what is under way as Ctrl-C does: by KeyboardInterrupt, so that what there is can be
    kept.

    *and_hangups*: so does SIGHUP, the end of the terminal, of which shells and systems may send several: those after
    the first are passed over. A signal that has a handler, or is ignored as under `nohup`, is left alone.
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
    """Within it *handle* is called for each signal; outside the main thread Python hears none."""
    is_heard = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in numbers if is_heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


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
