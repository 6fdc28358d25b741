"""Processes of jobs and of tests, by /proc; whether the databases that they write are sound."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path


def is_sound(project: Path) -> bool:
    """Whether SQLite finds no fault in the workspace's database."""
    return is_sound_file(project / ".himl" / "workspace.db")


def is_sound_file(path: Path) -> bool:
    """Whether SQLite finds no fault in the database at *path*, which nobody writes to."""
    with closing(sqlite3.connect(path)) as database:
        return bool(database.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def processes_below(folder: Path, module: str = "") -> list[int]:
    """Processes that work in *folder* or below it, of those whose command line holds *module*; by /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours
            where, command = os.readlink(entry / "cwd"), (entry / "cmdline").read_bytes()
            if where.startswith(str(folder)) and command and module.encode() in command:
                found.append(int(entry.name))
    return found


def supervisor_of(project: Path) -> int:
    return processes_below(project / ".himl", "himl_cli.workspaces.local.supervisor")[0]


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
        with contextlib.suppress(OSError):
            environment, command = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
            if entry in environment.split(b"\0") and command:
                found.append(f"{folder.name} {command.replace(bytes(1), b' ').decode(errors='replace')}")
    return found
