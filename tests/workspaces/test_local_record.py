"""The database of a local workspace: damage, versions, many processes, values that SQLite lacks."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import PAGE, SCHEMA_VERSION, Database, RunStore, file_system_of

WRITER = """
import pathlib, sys
from himl_cli.workspaces.local.run_store import Database
from himl_cli.core.runs import Run
from himl_cli.workspaces.local.run_store import RunStore
store = RunStore(Database(pathlib.Path(sys.argv[1]), create=True))
for number in range(50):
    store.add(Run(f"{sys.argv[2]}_{number}", "e", tags={"n": str(number)}), job="job")
"""


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "workspace.db", create=True)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "workspace.db"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(DiskFailed, match=r"workspace\.db' is damaged"):
        Database(path, create=True)
    assert path.read_bytes() == b"not a database " * 100


def test_a_database_of_a_newer_himl_is_left_alone(tmp_path: Path, database: Database) -> None:
    with closing(sqlite3.connect(database.path)) as connection, connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(DiskFailed, match="newer himl") as caught:
        Database(database.path, create=True)
    assert caught.value.hint.startswith("Update himl")


def test_processes_that_create_and_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "workspace.db"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)]) for number in range(6)]
    assert [writer.wait(60) for writer in writers] == [0] * 6
    assert len(RunStore(Database(path)).ids()) == 300


def test_values_that_sqlite_lacks_come_back(database: Database) -> None:
    store = MetricStore(database)
    store.log("r", [("x", value, step, 0) for step, value in enumerate((math.nan, math.inf, -math.inf, 0.5))])
    (metric,) = store.metrics(["r"])
    values = [point.value for point in metric.points]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, 0.5]


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    RunStore(database).add(Run("a", "e"))
    with pytest.raises(DiskFailed):
        RunStore(database).add(Run("a", "other", tags={"left": "behind"}))
    assert database.rows("SELECT * FROM tags") == []


def test_a_full_disk_is_called_so_and_the_next_write_works(database: Database) -> None:
    """SQLite is told a largest size, so that a write fails as on a full disk, in both kinds of journal."""
    for journal in ("WAL", "DELETE"):
        database.rows(f"PRAGMA journal_mode={journal}")
        database.rows("PRAGMA max_page_count=30")
        with pytest.raises(DiskFailed, match="No space left"):
            MetricStore(database).log("r", [("x" * 100, 0.5, step, 0) for step in range(20_000)])
        database.rows("PRAGMA max_page_count=1000000")
        RunStore(database).add(Run(journal, "e"))
    assert len(RunStore(database).ids()) == 2


def test_runs_come_newest_first_over_pages(database: Database) -> None:
    store = RunStore(database)
    names = [f"r{number:04}" for number in range(PAGE * 2 + 5)]
    for name in names:
        store.add(Run(name, "even" if int(name[1:]) % 2 == 0 else "odd"))
    assert [run.id for run in store.query(RunQuery())] == names[::-1]
    assert [run.id for run in store.query(RunQuery(limit=PAGE + 3))] == names[::-1][: PAGE + 3]
    assert {run.experiment for run in store.query(RunQuery(experiment="odd"))} == {"odd"}


def test_filters_hold_together(database: Database) -> None:
    store = RunStore(database)
    for name, team in (("a", "blue"), ("b", "red"), ("c", "blue")):
        store.add(Run(name, "e", tags={"team": team}))
    store.end("a", RunStatus.failed, reason="exit code 1")
    found = store.query(RunQuery(tags={"team": "blue"}, statuses=[RunStatus.failed]), lost=["c"])
    assert {(run.id, run.status) for run in found} == {("a", RunStatus.failed), ("c", RunStatus.failed)}
    assert [run.id for run in store.query(RunQuery(statuses=[RunStatus.queued]), lost=["c"])] == ["b"]


def test_the_first_end_stays(database: Database) -> None:
    store = RunStore(database)
    store.add(Run("a", "e"))
    store.end("a", RunStatus.canceled, exit_code=130)
    store.end("a", RunStatus.completed, exit_code=0)
    run = store.get("a")
    assert run is not None
    assert (run.status, run.exit_code) == (RunStatus.canceled, 130)


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/home/ada/lab", "ext4"), ("/données/lab", "nfs"), ("/mnt/share/lab", "nfs4"), ("/mnt/shared", "ext4"), ("/mnt/with space/x", "cifs"), ("/", "ext4")],
)
def test_the_file_system_is_that_of_the_deepest_mount(folder: str, kind: str) -> None:
    table = "/dev/sda / ext4 rw 0 0\nproc /proc proc rw 0 0\nserver:/x /mnt/share nfs4 rw 0 0\nshort line\n"
    table += "//s/y /mnt/with\\040space cifs rw 0 0\ns:/d /données nfs rw 0 0\n"
    assert file_system_of(Path(folder), table) == kind


REMOVE = """
import os, sys
from pathlib import Path
from himl_cli.workspaces.local.run_folder import RunFolder
gone = []
sys.addaudithook(lambda event, found: gone.append(os.path.basename(found[0])) if event == "os.remove" else None)
RunFolder(Path(sys.argv[1])).remove()
print(*gone)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS inodes that are told with the names")
def test_run_files_are_removed_in_inode_order(tmp_path: Path) -> None:
    """A disk that is not in memory takes many times as long in the order of their folder."""
    for number in range(400):
        (tmp_path / "run" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / str(number % 2) / f"file_{number * 7919 % 400}").touch()
    inodes = [{path.name: path.stat().st_ino for path in (tmp_path / "run" / folder).iterdir()} for folder in "01"]
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "outside")
    gone = subprocess.run([sys.executable, "-c", REMOVE, str(tmp_path / "run")], capture_output=True, text=True, check=True).stdout.split()
    for of_folder in inodes:
        assert [name for name in gone if name in of_folder] == sorted(of_folder, key=lambda name: of_folder[name])
    assert ((tmp_path / "run").exists(), (tmp_path / "outside" / "kept").exists()) == (False, True)
