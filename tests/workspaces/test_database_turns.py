"""Writers of one workspace wait for each other, and each gets its turn when the database is free for a moment."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.run_store import RunStore

WAITING, HELD, FREE, ROUNDS = 8, 0.8, 0.08, 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "workspace.db"
    Database(path, create=True).close()
    return path


def test_who_waits_looks_often_however_long_it_has_waited(path: Path) -> None:
    """SQLite's own waiting looks each 100 ms in the end: whoever came just now gets in first, and others wait for a minute."""
    assert any(all(_got_in(path)) for _ in range(ROUNDS))


def _got_in(path: Path) -> list[bool]:
    """For each of WAITING writers, who come one by one while the database is held, whether the short time was enough in which it was free."""
    again = threading.Event()

    def write(number: int) -> bool:
        time.sleep(number * HELD / 2 / WAITING)
        with closing(Database(path)) as database:
            RunStore(database).tag("run", {f"key_{number}": "x"})
        return not again.is_set()

    with closing(Database(path)) as holder, ThreadPoolExecutor(WAITING) as pool:
        with holder.writing():
            waiting = [pool.submit(write, number) for number in range(WAITING)]
            time.sleep(HELD)
        time.sleep(FREE)
        with holder.writing():
            again.set()
            time.sleep(FREE)
        return [one.result() for one in waiting]


def test_what_is_held_for_too_long_is_told(path: Path) -> None:
    with closing(Database(path)) as holder, closing(Database(path, patience=0.2)) as other, holder.writing():
        begun = time.monotonic()
        with pytest.raises(DiskFailed, match="is busy: other processes kept writing to it"):
            RunStore(other).tag("run", {"key": "x"})
        assert time.monotonic() - begun >= 0.2
    with closing(Database(path)) as database:
        assert database.rows("SELECT * FROM tags") == []
