"""Looking at the jobs of a local workspace from outside: their processes by /proc, their record by SQLite."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path


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
