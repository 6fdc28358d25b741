"""Run one process of a job, and never outlive its supervisor. Started as `python -I -S shim.py`, without imports from
himl, while the supervisor prepares the job.

stdin: the process as a JSON object on one line (see `main`), then words from the supervisor, one per line (INT, TERM,
KILL). Its end means that the supervisor has ended.
stdout: one JSON object per line: `{"pid": 7, "parent": 5}` at the start, with the command's process and the parent of
this one, then `{"exit": 3}`, `{"signal": 11}` or `{"error": "…"}`. If the kernel killed a process of its cgroup for
lack of memory meanwhile, the end also has `memory`, the facts of the cgroup.

The command gets a separate process group (on Windows a Job Object). The shim ends processes that the command leaves
behind.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

SECONDS_TO_LEAVE = 1.0  # between TERM and KILL for processes that remain
# By the version of cgroups: the files with the number of killed processes, the limit and the peak
CGROUP_FILES = {
    "": ("memory.events", "memory.max", "memory.peak"),
    "memory": ("memory.oom_control", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
}

if sys.platform == "win32":
    import ctypes

    class Family:
        """The command in a Job Object, which kills its processes when this process ends (learn.microsoft.com: Job
        Objects)."""

        def __init__(self) -> None:
            self._kernel = ctypes.WinDLL("kernel32", use_last_error=True)
            self._kernel.CreateJobObjectW.restype = ctypes.c_void_p
            self._kernel.OpenProcess.restype = ctypes.c_void_p
            self._job = ctypes.c_void_p(self._kernel.CreateJobObjectW(None, None))
            limits = (ctypes.c_uint32 * 36)()  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION, 144 bytes on 64 bit
            limits[4] = 0x2000  # KILL_ON_JOB_CLOSE
            self._kernel.SetInformationJobObject(self._job, 9, limits, ctypes.sizeof(limits))
            self._process: subprocess.Popen[bytes] | None = None

        def start(self, command: list[str], stdin: str, tty: bool, held: list[int]) -> subprocess.Popen[bytes]:
            flags = subprocess.CREATE_NEW_PROCESS_GROUP
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, stderr=2, creationflags=flags)
            rights = 0x0101  # PROCESS_TERMINATE and PROCESS_SET_QUOTA
            handle = ctypes.c_void_p(self._kernel.OpenProcess(rights, False, self._process.pid))
            self._kernel.AssignProcessToJobObject(self._job, handle)
            self._kernel.CloseHandle(handle)
            return self._process

        def wait(self, process: subprocess.Popen[bytes]) -> int:
            return process.wait()

        def send(self, word: str) -> None:
            if word == "KILL":
                self._kernel.TerminateJobObject(self._job, 1)
            elif self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.CTRL_BREAK_EVENT)

        def drain(self) -> None:
            """Do nothing, as there is no terminal."""

        def end(self, seconds: float) -> None:
            if self._process is not None and self._process.poll() is None:
                self.send("TERM")
                deadline = time.monotonic() + seconds
                while self._process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
            self.send("KILL")

else:

    class Family:
        """The command's process group, and on Linux its descendants that left the group."""

        def __init__(self) -> None:
            self._group = 0
            self._output: threading.Thread | None = None
            self._prctl = become_subreaper()

        def start(self, command: list[str], stdin: str, tty: bool, held: list[int]) -> subprocess.Popen[bytes]:
            if stdin.isdigit():
                source = io.FileIO(int(stdin))
            else:
                source = io.FileIO(stdin or os.devnull, opener=lambda path, flags: os.open(path, flags | os.O_NOCTTY))
            if tty:
                return self._start_in_terminal(command, source, held)
            with source:
                process = subprocess.Popen(
                    command, stdin=source, stdout=2, stderr=2, preexec_fn=self._in_the_child, pass_fds=held
                )
            self._group = process.pid
            return process

        def _start_in_terminal(self, command: list[str], source: io.FileIO, held: list[int]) -> subprocess.Popen[bytes]:
            """Start the command in a pseudo terminal of the size of *source*. Threads copy its output to the log, and
            the keys of *source* to it."""
            import fcntl  # both are missing on Windows
            import termios

            ours, theirs = os.openpty()
            modes = termios.tcgetattr(theirs)
            modes[1] &= ~termios.ONLCR  # the log has no carriage returns, which the user's terminal adds
            if not source.isatty():
                modes[3] &= ~termios.ECHO
            termios.tcsetattr(theirs, termios.TCSANOW, modes)
            size = os.get_terminal_size(source.fileno()) if source.isatty() else os.terminal_size((80, 24))
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size.lines, size.columns, 0, 0))

            def in_the_child() -> None:
                os.setsid()
                os.close(os.open(os.ttyname(theirs), os.O_RDWR))  # becomes the terminal of the session
                self._in_the_child()

            process = subprocess.Popen(
                command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=in_the_child, pass_fds=held
            )
            os.close(theirs)
            self._group = process.pid
            self._output = threading.Thread(target=copy, args=(ours, 2), daemon=True)
            self._output.start()
            self._source = source  # stays open for the thread
            threading.Thread(target=copy, args=(source.fileno(), ours, b"\4"), daemon=True).start()
            return process

        def _in_the_child(self) -> None:
            if os.getsid(0) != os.getpid():
                os.setpgid(0, 0)
            if self._prctl is not None:
                self._prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG: even when this process is killed

        def wait(self, process: subprocess.Popen[bytes]) -> int:
            """The command's return code. Also reaps orphans of the command, which are children of this process."""
            while True:
                pid, status = os.waitpid(-1, 0)
                if pid == process.pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    return process.returncode

        def send(self, word: str) -> None:
            number = getattr(signal, "SIG" + word)
            with suppress(ProcessLookupError, PermissionError):  # the group is empty (EPERM on macOS)
                os.killpg(self._group, number)
            for pid in self._strays():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

        def end(self, seconds: float) -> None:
            """Send TERM, then KILL, until no process of the family remains."""
            if not self._is_alive():
                return
            self.send("TERM")
            deadline = time.monotonic() + seconds
            while self._is_alive():
                if time.monotonic() > deadline:
                    self.send("KILL")
                time.sleep(0.02)

        def drain(self) -> None:
            """Wait until the log has the whole output of a terminal."""
            if self._output is not None:
                self._output.join(SECONDS_TO_LEAVE)

        def _is_alive(self) -> bool:
            try:
                os.killpg(self._group, 0)
            except (ProcessLookupError, PermissionError):
                return bool(children_of(os.getpid())) and bool(self._strays())
            if self._strays():
                return True
            # Ignore a group of zombies on Linux. On other systems, init reaps them.
            return self._prctl is None or any(
                group == self._group and state != "Z" for _, state, group in all_processes()
            )

        def _strays(self) -> list[int]:
            """Descendants outside the group, by the kernel's list of children (Linux)."""
            if self._prctl is None:
                return []
            facts = {pid: (state, group) for pid, state, group in all_processes()}
            found: list[int] = []
            todo = [os.getpid()]
            while todo:
                below = [pid for pid in children_of(todo.pop()) if pid in facts]
                todo += below
                found += [pid for pid in below if facts[pid][0] != "Z" and facts[pid][1] != self._group]
            return found


def copy(source: int, target: int, end: bytes = b"") -> None:
    """Copy everything from one handle to another, and then *end*."""
    data = b"..."
    while data:
        try:
            data = os.read(source, 65536)
        except OSError:  # the terminal is closed
            return
        left = data or end
        with suppress(OSError):  # a full disk must not block the command
            while left:
                left = left[os.write(target, left) :]


def become_subreaper() -> Callable[..., int] | None:
    """Make orphans of the command children of this process (prctl(2), PR_SET_CHILD_SUBREAPER). Returns prctl on Linux,
    else None."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    prctl(36, 1, 0, 0, 0)
    return prctl


def all_processes() -> list[tuple[int, str, int]]:
    """Id, state and process group of every process (Linux; proc(5))."""
    found: list[tuple[int, str, int]] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        # A process may have ended in the meantime
        with suppress(OSError), open(f"/proc/{name}/stat", errors="replace") as stat:
            state, _, group = stat.read().rpartition(")")[2].split()[:3]
            found.append((int(name), state, int(group)))
    return found


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):  # the process has ended, or the kernel has no such list
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as children:
                found += [int(child) for child in children.read().split()]
    return found


def memory_of_cgroup(root: str = "/") -> dict[str, int]:
    """Facts of the memory cgroup of this process on Linux (cgroups(7), in version 1 or 2), as far as they are known:
    `oom_kill`, the number of its processes that the kernel killed when memory ran out, and `limit` and `peak` in
    bytes. *root* has the folders `proc` and `sys`."""
    found: dict[str, int] = {}
    with suppress(OSError, ValueError, KeyError):
        with open(os.path.join(root, "proc/self/cgroup")) as lines:
            paths = {controllers: path for _, controllers, path in (line.strip().split(":", 2) for line in lines)}
        version = "memory" if "memory" in paths else ""
        top = os.path.join(root, "sys/fs/cgroup", version)
        events, limit, peak = CGROUP_FILES[version]
        # In a container, the path may be that on the host, and the files are at the top. A process in a cgroup without
        # the files counts in the next one above
        path = paths[version].strip("/")
        while path and not os.path.exists(os.path.join(top, path, events)):
            path = os.path.dirname(path)
        with open(os.path.join(top, path, events)) as lines:
            found["oom_kill"] = int(dict(line.split() for line in lines)["oom_kill"])
        for name, file in (("limit", limit), ("peak", peak)):
            # The limit may be the word `max`, and old kernels have no peak
            with suppress(OSError, ValueError), open(os.path.join(top, path, file)) as text:
                found[name] = int(text.read())
    return found


def main() -> None:
    """Run the process on stdin, an object with these keys. `command`: the program and its arguments. `stdin`: a device,
    the number of a handle, or '' for none. `tty`: whether it runs in a pseudo terminal. `log`: the file that gets both
    stdout and stderr, '' for the shim's stderr. `cwd`, `env`: the folder and all variables, or those of the shim if
    empty. `held`: handles that the command inherits, or missing. `own`: more variables, which refer to those that a
    starter of many processes sets for each. `rank`: such a reference to the number of this process, which its reports
    then contain, else empty.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):  # the command would inherit SIG_IGN, but not a handler
            signal.signal(getattr(signal, name), lambda number, frame: None)
    family = Family()
    line = sys.stdin.readline()
    if not line:  # the supervisor ended without starting the job
        return
    job = json.loads(line)
    if job["env"]:
        os.environ.clear()
        os.environ.update(job["env"])
    os.environ.update({name: os.path.expandvars(text) for name, text in job["own"].items()})
    if job["rank"]:
        sender["rank"] = int(os.path.expandvars(job["rank"]))
    try:
        if job["log"]:
            with open(job["log"], "ab") as log:
                os.dup2(log.fileno(), 2)
        if job["cwd"]:
            os.chdir(job["cwd"])
        killed = memory_of_cgroup().get("oom_kill")
        process = family.start(job["command"], job["stdin"], job["tty"], job.get("held", []))
    except OSError as err:
        report(error=f"cannot start '{job['command'][0]}': {err.strerror or err}")
        return
    report(pid=process.pid, parent=os.getppid())
    threading.Thread(target=obey, args=(family,), daemon=True).start()
    code = family.wait(process)
    family.end(SECONDS_TO_LEAVE)
    family.drain()
    memory = memory_of_cgroup()
    lack = {"memory": memory} if killed is not None and memory.get("oom_kill", 0) > killed else {}
    report(**({"signal": -code} if code < 0 else {"exit": code}), **lack)


def obey(family: Family) -> None:
    """Send the supervisor's signals. When the pipe closes, end all processes including this one."""
    for line in sys.stdin:
        family.send(line.strip())
    family.end(SECONDS_TO_LEAVE)
    os._exit(1)


sender: dict[str, int] = {}  # the rank of this process, if a starter merges the reports of several


def report(**facts: str | int | dict[str, int]) -> None:
    with suppress(OSError):  # the supervisor has ended, and obey() ends the rest
        os.write(1, json.dumps(sender | facts).encode() + b"\n")


if __name__ == "__main__":
    main()
    os._exit(0)  # skips the cleanup at exit, because the supervisor waits for this process
