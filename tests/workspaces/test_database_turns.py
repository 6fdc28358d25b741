"""Writers of one workspace wait for each other, and each gets its turn when the database is free for a moment."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import FrameType

import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.workspaces.local.run_store import Database, RunStore
from tests.support.processes import Step, at_each_step

WAITING, LONG, SHORT = 8, 0.8, 0.05


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "workspace.db"
    Database(path, create=True).close()
    return path


def test_who_waits_looks_often_however_long_it_has_waited(path: Path) -> None:
    """SQLite's own waiting looks each 100 ms in the end: whoever came just now gets in first, and others wait for a minute."""
    looked = [threading.Event() for _ in range(WAITING)]

    def write(number: int) -> None:
        with closing(Database(path)) as database, at_each_step(noting(looked[number])):
            RunStore(database).tag("run", {f"key_{number}": "x"})

    with closing(Database(path)) as holder, ThreadPoolExecutor(WAITING) as pool:
        with holder.writing():
            waiting = [pool.submit(write, number) for number in range(WAITING)]
            assert all(each.wait(60) for each in looked)
        for one in waiting:
            one.result()
        assert [row["name"] for row in holder.rows("SELECT name FROM tags ORDER BY name")] == [f"key_{number}" for number in range(WAITING)]


def noting(looked: threading.Event) -> Step:
    """Sets *looked* at a pause between two looks that is short, though there have been pauses for LONG."""
    come = time.monotonic()
    begun = come

    def note(frame: FrameType, event: str, called: object) -> None:
        nonlocal begun
        now = time.monotonic()
        if called is time.sleep and event == "c_call":
            begun = now
        elif called is time.sleep and begun - come > LONG and now - begun < SHORT:
            looked.set()

    return note


def test_what_is_held_for_too_long_is_told(path: Path) -> None:
    with closing(Database(path)) as holder, closing(Database(path, patience=0.2)) as other, holder.writing():
        begun = time.monotonic()
        with pytest.raises(DiskFailed, match="is busy: other processes kept writing to it"):
            RunStore(other).tag("run", {"key": "x"})
        assert time.monotonic() - begun >= 0.2
    with closing(Database(path)) as database:
        assert database.rows("SELECT * FROM tags") == []
