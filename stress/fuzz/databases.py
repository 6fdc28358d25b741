"""SQLite files that himl wrote, and anybody may have written over: the state of a transfer, and the database of a local workspace."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from himl_cli.core.errors import DiskFailed, RunNotFound
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.services.transfer.state import FetchedFile, TransferState
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import SCHEMA, Database, RunStore
from himl_cli.workspaces.local.workspace import LocalWorkspace
from stress.fuzz.strategies import damaged, texts
from stress.fuzz.target import Target, written
from stress.fuzz.workspace import JOB
from tests.support.folders import state_of


@cache
def _transfer_state() -> bytes:
    with TransferState(Path.cwd(), print) as state:
        state.record(FetchedFile("a/b.txt", "r/a/b.txt", "0x8D", 3, 17, b"x" * 16))
        state.begin_part("c", "r/c 0x8E 100")
        state.add_range("c", "r/c 0x8E 100", 0, 50)
    return state_of(Path.cwd()).read_bytes()


def _transfer(content: bytes) -> None:
    with TransferState(Path.cwd(), print):
        pass
    written(str(state_of(Path.cwd())), content)
    with TransferState(Path.cwd(), print) as state:
        state.find("a/b.txt")
        for start, stop in state.ranges("c", "r/c 0x8E 100"):  # numbers, or a TypeError
            assert stop - start < 2**64, (start, stop)
        state.record(FetchedFile("d", "r/d", "", 1, 2, None))
        state.flush()
        state.begin_part("e", "r/e  1")


@cache
def _workspace() -> bytes:
    path = Path.cwd() / "made.db"
    database = Database(path, create=True)
    RunStore(database).add(Run(JOB, "exp", display_name="n", tags={"himl.tries": "[1]", "a": "b"}), status=RunStatus.running, started=1700000000000)
    MetricStore(database).log(JOB, [("loss", 0.5, 1, 1700000000000), ("loss", 0.4, 2, 1700000001000)], {"lr": "1"})
    RunStore(database).end(JOB, RunStatus.completed, exit_code=0)
    database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path.read_bytes()


def _read_workspace(workspace: LocalWorkspace) -> None:
    for run in [*workspace.runs(RunQuery(limit=5))][:3]:
        for read in (workspace.run, workspace.metrics, workspace.values, workspace.parameters):
            read(run.id)
        workspace.results([run], wanted=lambda name: True, whole=True)


def _damaged_workspace(content: bytes) -> None:
    for path in Path.cwd().glob("workspace.db*"):
        path.unlink()
    written("workspace.db", content)
    _read_workspace(LocalWorkspace(Path.cwd()))


def _rows(given: tuple[str, str, Any]) -> None:
    """Another value than himl would write, in one place of the database."""
    table, column, value = given
    for path in Path.cwd().glob("workspace.db*"):
        path.unlink()
    connection = sqlite3.connect(written("workspace.db", _workspace()))
    try:
        connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        connection.commit()
    except (sqlite3.IntegrityError, sqlite3.OperationalError, OverflowError, UnicodeEncodeError):
        return  # SQLite itself does not hold it
    finally:
        connection.close()
    _read_workspace(LocalWorkspace(Path.cwd()))


def _row_values() -> st.SearchStrategy[Any]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")]
    places = [(table, row[1]) for table in tables for row in connection.execute(f"PRAGMA table_info({table})")]
    connection.close()
    odd: Sequence[Any] = (
        None,
        "",
        "x",
        b"\xff\0",
        -1,
        2**63 - 1,
        -(2**63),
        1e308,
        float("inf"),
        "\0",
        "\x1b[31m\n",
        "[1, [2]]",
        "[" * 3000,
        "9" * 5000,
        '{"a": NaN}',
        "Completed",
    )
    values = st.sampled_from(odd) | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(max_size=8) | texts(('{"--lr": 0.1}', "[1, 2]"))
    return st.tuples(st.sampled_from(places), values).map(lambda pair: (*pair[0], pair[1]))


def _stored(name: str, samples: Callable[[], bytes], run: Callable[[bytes], object]) -> Target:
    return Target(f"state/{name}", lambda: damaged([samples()]), run, (DiskFailed, RunNotFound))


def targets() -> list[Target]:
    return [
        _stored("transfer", _transfer_state, _transfer),
        _stored("workspace", _workspace, _damaged_workspace),
        Target("state/rows", _row_values, _rows, (DiskFailed, RunNotFound)),
    ]
