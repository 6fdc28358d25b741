"""Processes of jobs and of tests: finding them, their peak of memory, a step between any two lines of code."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType


def is_sound(project: Path) -> bool:
    """Whether SQLite finds no fault in the workspace's database."""
    return is_sound_file(project / ".himl" / "workspace.db")


def is_sound_file(path: Path) -> bool:
    """Whether SQLite finds no fault in the database at *path*, which nobody writes to."""
    with closing(sqlite3.connect(path)) as database:
        return bool(database.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def processes_below(project: Path) -> list[int]:
    """Processes that work in *project* or below it, by /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if where.startswith(str(project)) and command_of(int(entry.name)):
                found.append(int(entry.name))
    return found


def command_of(pid: int) -> bytes:
    """What a process was started as, by /proc; nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def supervisor_of(project: Path) -> int:
    """The supervisor's process, found by what it was started as. Raises AssertionError where there is none."""
    for pid in processes_below(project / ".himl"):
        if b"himl_cli.workspaces.local.supervisor" in command_of(pid):
            return pid
    raise AssertionError("no supervisor")


MARK = "TESTED_WITH_MARK"


def processes_marked(mark: str, *, patience: float) -> list[str]:
    """Command lines of processes that carry *mark*, after waiting up to *patience* seconds for them to end; needs /proc."""
    deadline = time.monotonic() + patience
    while True:
        found = _marked_now(f"{MARK}={mark}".encode())
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def stop(processes: list[str]) -> None:
    """End processes as `processes_marked` named them."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process.split()[0]), getattr(signal, "SIGKILL", signal.SIGTERM))


def _marked_now(entry: bytes) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile, or is not ours
            continue
        if entry in environment.split(b"\0") and command:
            found.append(f"{folder.name} {command.replace(bytes(1), b' ').decode(errors='replace')}")
    return found


CODE = """
import re, sys
from pathlib import Path

def kilobytes(figure):
    return int(re.search(figure + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

setup, work = sys.argv.pop(1), sys.argv.pop(1)
exec(setup)
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
exec(work)
print((kilobytes("VmHWM") - before) // 1024)
"""
"""`ru_maxrss` begins with what the parent has: in a child of a large process it notices nothing. VmHWM begins anew, once a 5 is written to clear_refs."""


def peak_of(setup: str, work: str, *arguments: str) -> int:
    """The MiB that *work* takes at its peak, on top of what *setup* left; both see *arguments* as `sys.argv[1:]`. Linux only."""
    ran = subprocess.run([sys.executable, "-c", CODE, setup, work, *arguments], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


Step = Callable[[FrameType, str, object], None]


@contextmanager
def at_each_step(react: Step) -> Iterator[None]:
    """Call *react* at each call and return in this thread; once it has raised, no more."""
    before = sys.getprofile()
    sys.setprofile(react)
    try:
        yield
    finally:
        sys.setprofile(before)
