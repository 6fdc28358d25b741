"""Processes: detached ones, ranks of a launcher, forks, locks of processes, and signals during work."""

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

# Environment variables with a process's rank on its node, by precedence, each with the variable for the number of ranks
RANKS = {
    "LOCAL_RANK": "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALRANKID": "MPI_LOCALNRANKS",
    "SLURM_LOCALID": "",
}
# Environment variables with a process's rank among those of all nodes, by precedence
RANKS_OF_ALL = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
# All variables by which launchers describe a rank. Jobs that start in a rank do not get them
RANK_NAMES = {
    *(*RANKS, *filter(None, RANKS.values()), *RANKS_OF_ALL),
    *("WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "GLOBAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    *("OMPI_COMM_WORLD_NODE_RANK", "PMI_SIZE", "PMIX_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK"),
    *("ROLE_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_SIZE"),
    *("SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE"),
}
# Environment variables that are equal for all ranks of one launch. None is unique everywhere, so all of them and the
# launcher's process count together. They are equal for two launches of one shell.
LAUNCH_VARIABLES = (
    *("AZUREML_RUN_ID", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"),
    *("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
)
# The environment variable with the folder in which the script of a local job starts
JOB_FOLDER = "HIML_JOB_FOLDER"
PROC = Path("/proc")
ENDED = ("Z", "X")  # states of a process that has ended, in /proc
SIGNATURE_BYTES = 1024  # at most, in the file of a lock
SUPERVISOR = "himl_cli.workspaces.local.supervisor"  # the module of the process that supervises a local job


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


@contextmanager
def standby(module: str) -> Iterator[None]:
    """Start `python -m` *module*, a detached program that reads its work from stdin, so that it loads while this
    process prepares that work. `take_standby` returns its process. Kills a process that was not taken."""
    import subprocess

    command, pipe = [sys.executable, "-m", module], subprocess.PIPE
    # Python adds the current folder to its path, and one of a user may contain any module
    folder = Path(__file__).parents[2]
    with suppress(OSError):  # without it, the process starts later
        _standby[module] = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=folder, **detached()
        )
    try:
        yield
    finally:
        if (process := take_standby(module)) is not None:
            process.kill()
            process.communicate()


def take_standby(module: str) -> subprocess.Popen[bytes] | None:
    """The process of *module* that `standby` started, None if there is none."""
    return _standby.pop(module, None)


_known: weakref.WeakSet[Any] = weakref.WeakSet()


def register_after_fork(thing: Any) -> None:
    """Call the `after_fork` of *thing* in every process forked from now on, while *thing* exists. It must drop the
    parent's resources without closing them."""
    _known.add(thing)


if hasattr(os, "register_at_fork"):  # missing on Windows, which has no fork
    os.register_at_fork(after_in_child=lambda: [thing.after_fork() for thing in list(_known)])


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
        is_free = not path.exists() or lock.try_to_take()
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
    found = _find_process(process.partition("@")[0])
    return found is not None and found[0] == process and found[3] not in ENDED


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


def _signature() -> list[str]:
    """This process: the name of its machine, the machine's start, the namespace of its process id, and the process by
    pid and start. Without /proc, the latter two are `-`."""
    try:
        space = os.readlink(PROC / "self/ns/pid")
    except OSError:
        space = "-"
    found = _find_process("self")
    return [os.uname().nodename or "-", boot_id(), space, found[0] if found is not None else "-"]


def _signature_in(content: bytes) -> list[str]:
    """The signature in a lock's file, of empty texts if there is none, as after a power cut."""
    words = content.decode(errors="replace").strip("\0").split()
    return (words + [""] * 4)[:4]


class ProcessLock:
    """The lock of *path*, held until `release` or the end of this process, of any kind.

    A process that is forked from this one neither holds nor releases it (filelock's own would, when the fork exits).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: Any = None
        self._is_signed = False

    def take(self) -> bool:
        """Whether this process holds the lock now. Waits for a process that only checks it. Raises OSError."""
        deadline = time.monotonic() + 2.0
        while not self.try_to_take():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        register_after_fork(self)
        return True

    def try_to_take(self) -> bool:
        """Whether this process holds the lock now. Raises OSError."""
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

        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
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


def machine_time() -> float:
    """Time on a clock of all processes of this machine: on Linux since its start, elsewhere the time of day."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() if boottime is None else time.clock_gettime(boottime)


LOADED = machine_time()


class LocalRank(NamedTuple):
    """This process among the ranks of one launch on this node. `launcher`, with its node, and `variables` are the same
    for all of them, and differ for others unless a launcher starts ranks twice.

    `variable` is the one with the rank. `began` is the latest possible `machine_time` of the rank's start, `process`
    the rank's first process, `ancestors` this process and its ancestors that are ranks: processes by pid and start,
    unknown without /proc.
    """

    rank: int
    variable: str
    launcher: str
    variables: tuple[str, ...]
    began: float
    process: str
    ancestors: frozenset[str]


def boot_id() -> str:
    """An identifier of this start of the machine, which containers share. Empty where the system has none."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def local_rank(environment: Mapping[str, str]) -> LocalRank | None:
    """The rank in the launcher's variables. None outside a launch, and for the only process on its node."""
    variable = next((name for name in RANKS if environment.get(name, "").isdecimal()), "")
    if not variable or (int(environment[variable]) == 0 and environment.get(RANKS[variable], "") == "1"):
        return None
    rank, found = int(environment[variable]), _find_process("self")
    ancestors: set[str] = set()
    process, began = "", LOADED
    while found is not None and (not ancestors or _rank_of(found[0]) is not None):
        if not ancestors or _rank_of(found[0]) == rank:
            process, _, began, _ = found
        ancestors.add(found[0])
        found = _find_process(found[1])
    machine = boot_id()
    if not machine:
        import platform  # imported late, since it delays every job's start by a millisecond

        machine = platform.node()
    launcher = f"{machine} {found[0] if found is not None else ''}"
    variables = tuple(f"{name}={environment[name]}" for name in LAUNCH_VARIABLES if name in environment)
    return LocalRank(rank, variable, launcher, variables, began, process, frozenset(ancestors))


def rank_of_all(environment: Mapping[str, str]) -> int:
    """This process's rank among those of all nodes, if the launcher sets it. 0 outside a launch."""
    found = next((value for name in RANKS_OF_ALL if (value := environment.get(name, "")).isdecimal()), None)
    me = local_rank(environment) if found is None else None
    return me.rank if me is not None else int(found or 0)


def process_exists(process: str) -> bool:
    """Whether *process*, by pid and start as in `LocalRank`, exists, including as a zombie."""
    found = _find_process(process.partition("@")[0]) if process else None
    return found is not None and found[0] == process


def _find_process(pid: str) -> tuple[str, str, float, str] | None:
    """The pid and start (pids are reused) of a process, the pid of its parent, its start time, and its state. None if
    there is no such process, or no /proc."""
    try:
        text = (PROC / pid / "stat").read_text(errors="replace")
    except OSError:
        return None
    # Fields after the name: state, parent, …, and as the 20th the start in ticks
    fields = text.rpartition(")")[2].split()
    began = (int(fields[19]) + 1) / os.sysconf("SC_CLK_TCK")
    return f"{text.partition(' ')[0]}@{fields[19]}", fields[1], began, fields[0]


def _rank_of(process: str) -> int | None:
    """The local rank that *process* was started with, by any launcher, since scripts pass their rank on under another
    name. None for a process that is not a rank or belongs to another user, -1 if a variable has no number."""
    try:
        entries = (PROC / process.partition("@")[0] / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    variables = dict(entry.decode(errors="surrogateescape").partition("=")[::2] for entry in entries)
    known = [variables[name] for name in RANKS if name in variables]
    return next((int(value) for value in known if value.isdecimal()), -1 if known else None)


@contextmanager
def interruptions(react: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Provide a list that collects SIGINT and SIGTERM, which do not end this process. *react* is called for each.

    A second signal raises KeyboardInterrupt. Outside the main thread the list stays empty.
    """
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt
        react()

    with _handling((signal.SIGINT, signal.SIGTERM), note):
        yield seen


def _terminal_on_stdin() -> int | None:
    """The handle of stdin, if it is a terminal and this process may change it."""
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
