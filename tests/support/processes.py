"""Processes of jobs and of tests, by /proc, and integrity checks of their databases."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path


def is_sound(project: Path) -> bool:
    """Whether the workspace's database passes SQLite's integrity check."""
    return is_sound_file(project / ".himl" / "workspace.db")


def is_sound_file(path: Path) -> bool:
    """Whether the database at *path*, which no process may write to, passes SQLite's integrity check."""
    with closing(sqlite3.connect(path)) as database:
        return bool(database.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def processes_below(folder: Path, module: str = "") -> list[int]:
    """Processes with a working directory in *folder* and *module* in their command line, by /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            where, command = os.readlink(entry / "cwd"), (entry / "cmdline").read_bytes()
            if where.startswith(str(folder)) and command and module.encode() in command:
                found.append(int(entry.name))
    return found


def supervisor_of(project: Path) -> int:
    return processes_below(project / ".himl", "himl_cli.workspaces.local.supervisor")[0]


MARK = "TESTED_WITH_MARK"


def processes_marked(mark: str, *, patience: float) -> list[str]:
    """Command lines of processes with *mark* in their environment, after waiting up to *patience* seconds for their
    end. Needs /proc.
    """
    deadline = time.monotonic() + patience
    while True:
        found = _marked_now(f"{MARK}={mark}".encode())
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def stop(processes: list[str]) -> None:
    """End the processes from `processes_marked`."""
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
