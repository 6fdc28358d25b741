"""Tests of a local workspace: its database, the files of its runs and datastores, and the command line and folders of a
job.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from himl_cli.core.blobs import Bytes, FetchRequest, StoreRequest
from himl_cli.core.errors import BadUsage, BlobChanged, DiskFailed, NotFound, RunNotFound
from himl_cli.core.events import Event
from himl_cli.core.files import walk_files
from himl_cli.core.jobs import (
    DataSpec,
    Entry,
    EntryKind,
    JobSpec,
    PipelineSpec,
    Snapshot,
    StepOutput,
    StepSpec,
)
from himl_cli.core.locks import ProcessLock
from himl_cli.core.mounts import is_local_folder, mount_of, mounts_of_macos
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.core.sweeps import Draw, SearchRange, SweepSpec, fill_command
from himl_cli.render.forms import json_form
from himl_cli.services.submission.snapshot import take_snapshot
from himl_cli.workspaces.local.file_blobs import PAGE as BLOB_PAGE
from himl_cli.workspaces.local.file_blobs import DatastoreFolder, RunFiles
from himl_cli.workspaces.local.launch_request import LaunchRequest, job_command, resolve_folders, shown_command
from himl_cli.workspaces.local.logged_values import last_points, read_results, read_texts, series_of
from himl_cli.workspaces.local.metric_store import MetricStore, begin_attempt, sampled_series
from himl_cli.workspaces.local.run_folder import RECORD, RunFolder
from himl_cli.workspaces.local.run_store import PAGE, Database, RunStore, as_time
from himl_cli.workspaces.local.schema import SCHEMA_VERSION
from himl_cli.workspaces.local.staging import replace_files, stage_files
from himl_cli.workspaces.local.sweep_plan import plan_pipeline, plan_sweep
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.conftest import lacking
from tests.guards.test_work import calls_of
from tests.support.folders import SharedDisk
from tests.support.running import until, write_files
from tests.support.runs import RecordedRuns
from tests.support.stores import Received, Stored, listed, named, sending


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "workspace.db", create=True)


def test_a_damaged_or_newer_database_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "workspace.db"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(DiskFailed, match=r"workspace\.db' is damaged"):
        Database(path, create=True)
    assert path.read_bytes() == b"not a database " * 100
    path.unlink()
    Database(path, create=True).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(DiskFailed, match="newer himl") as caught:
        Database(path, create=True)
    assert caught.value.hint.startswith("Update himl")


@pytest.mark.usefixtures("known_disk")
def test_a_database_of_an_earlier_version_gets_the_missing_tables(tmp_path: Path, database: Database) -> None:
    RunStore(database).add(Run("r", "e"))
    database.rows("PRAGMA journal_mode=DELETE")
    database.rows("DROP TABLE client_records")
    database.rows("PRAGMA user_version=1")
    database.close()
    assert MetricStore(database).kept("r") == {}
    assert [database.rows(f"PRAGMA {name}")[0][0] for name in ("user_version", "journal_mode")] == [
        SCHEMA_VERSION,
        "truncate",
    ]
    assert RunStore(database).ids() == ["r"]


EARLIER = Path(__file__).with_name("earlier_databases")
"""Databases that earlier versions of himl wrote: one job of two attempts, one whose clock was set back."""
VALUES = {
    ("first", "accuracy"): ["nan"],
    ("first", "loss"): ["1.0", "0.125", "0.0625"],
    ("second", "loss"): ["0.5", "0.25"],
}


def values_of(metrics: MetricStore) -> dict[tuple[str, str], list[str]]:
    return {
        (each.run, each.name): [str(point.value) for point in each.points]
        for each in metrics.metrics(["first", "second"])
    }


def of_earlier(folder: Path, version: int) -> Path:
    with closing(sqlite3.connect(folder / "workspace.db")) as connection:
        connection.executescript((EARLIER / f"version_{version}.sql").read_text())
    return folder / "workspace.db"


@pytest.mark.usefixtures("known_disk")
@pytest.mark.parametrize("version", [1, 2])
def test_a_database_of_an_earlier_himl_keeps_its_values_and_positions(tmp_path: Path, version: int) -> None:
    """Also while a process of that himl uses it. A mirror continues after the point that it sent last."""
    with closing(sqlite3.connect(of_earlier(tmp_path, version), isolation_level=None)) as earlier:
        columns = "SELECT run, name, step, time, value, rowid FROM metrics WHERE run = ? AND rowid > ? ORDER BY rowid"
        before = [earlier.execute(columns, (run, 2)).fetchall() for run in ("first", "second")]
        metrics, runs = MetricStore(database := Database(tmp_path / "workspace.db")), RunStore(database)
        assert (values_of(metrics), metrics.parameters("first")) == (VALUES, {"lr": "0.1"})
        assert last_points(database, ["first"])["first"]["loss"][1:3] == (0.0625, 2)
        assert metrics.counts(["first", "second"]) == {pair: len(values) for pair, values in VALUES.items()}
        entries, last = metrics.logged_after("first", 4)
        assert ([row.values for entry in entries for row in entry.rows], last) == (
            [{"loss": 0.125}, {"loss": 0.0625}],
            8,
        )
        assert [earlier.execute(columns, (run, 2)).fetchall() for run in ("first", "second")] == before
        new = (
            "INSERT INTO metrics (run, name, value, step, time) SELECT ?1, 'loss', 0.5, ?2, 9 WHERE NOT EXISTS "
            "(SELECT 1 FROM metrics WHERE run = ?1 AND step = ?2 AND rowid > 8)"
        )
        for step in (3, 3, 0):  # the second one is known, the last one is of an earlier step
            earlier.execute(new, ("second", step))
        metrics.log("second", [("loss", 0.75, 4, 9)])
        assert values_of(metrics)["second", "loss"] == ["0.5", "0.25", "0.5", "0.5", "0.75"]
        found = [
            [row.step for entry in metrics.logged_after("second", place)[0] for row in entry.rows]
            for place in (8, 9, 10)
        ]
        assert found == [[3, 0, 4], [0, 4], [4]]
        earlier.execute("DELETE FROM metrics WHERE run = 'second'")
        assert values_of(metrics) == {pair: values for pair, values in VALUES.items() if pair[0] == "first"}
        runs.delete(["first"], lambda name: None)
    facts = [database.rows(f"PRAGMA {name}")[0][0] for name in ("user_version", "auto_vacuum", "integrity_check")]
    assert facts == [SCHEMA_VERSION, 2, "ok"]
    assert [database.rows(f"SELECT count(*) FROM {table}")[0][0] for table in ("series", "points", "metrics")] == [
        0,
        0,
        0,
    ]


def test_who_may_only_read_a_database_of_an_earlier_himl_sees_its_values(
    tmp_path: Path, read_only: Callable[[Path], Path]
) -> None:
    (folder := tmp_path / "shared").mkdir()
    of_earlier(folder, 2)
    database = Database(read_only(folder) / "workspace.db")
    assert values_of(MetricStore(database)) == VALUES
    assert last_points(database, ["first"])["first"]["loss"][1:3] == (0.0625, 2)
    assert MetricStore(database).logged_after("first", 4)[1] == 8


def test_points_after_a_position_are_all_that_were_logged_since(database: Database) -> None:
    """Whether or not their steps and times grow, and however many positions there are."""
    metrics, order = MetricStore(database), random.Random(5)
    for number in range(60):
        points = [("loss", float(number), step, order.randrange(3)) for step in order.sample(range(number + 5), 2)]
        metrics.log("r", points if number % 3 else [("loss", float(number), number + 5, number)])
    places = [row[0] for row in database.rows("SELECT rowid FROM metrics WHERE run = 'r' ORDER BY rowid")]
    for place in (0, *places):
        entries, last = metrics.logged_after("r", place)
        assert (sum(len(entry.rows) for entry in entries), last) == (sum(each > place for each in places), places[-1])


@pytest.mark.parametrize("most", [2, 3, 7, 320])
def test_sampled_points_are_evenly_spaced_among_those_that_count(database: Database, most: int) -> None:
    """With steps that repeat, values that are not numbers, and attempts that replace the values of earlier ones."""
    metrics, order = MetricStore(database), random.Random(most)
    RunStore(database).add(Run("r", "e"))
    for first in (0, 40, 25):
        points = [(order.choice([0.5, math.nan, math.inf]), first + number // 2, number) for number in range(60)]
        metrics.log("r", [("loss", *point) for point in points])
        begin_attempt(database, "r")
        whole = series_of(database, ["r"], "loss")["r"]
        for begin, end in ((None, None), (10, 30), (30, 30), (first, None), (None, 3), (900, 901), (-(2**70), 2**70)):
            columns = zip(whole.steps, map(str, whole.values), whole.times, strict=True)
            points_in_range = sorted(
                (point for point in columns if (begin or 0) <= point[0] <= (999 if end is None else end)),
                key=lambda point: (point[0], point[2]),
            )
            count = len(points_in_range)
            places = range(count) if count <= most else [number * (count - 1) // (most - 1) for number in range(most)]
            found = sampled_series(database, "r", "loss", most, begin, end)
            sampled = [] if found is None else [*zip(found.steps, map(str, found.values), found.times, strict=True)]
            assert sampled == [points_in_range[place] for place in places]
    assert sampled_series(database, "r", "accuracy", most, None, None) is None


def test_a_full_disk_is_called_so_and_the_next_write_works(database: Database) -> None:
    for journal in ("WAL", "DELETE"):
        database.rows(f"PRAGMA journal_mode={journal}")
        database.rows("PRAGMA max_page_count=30")
        with pytest.raises(DiskFailed, match="No space left"):
            MetricStore(database).log("r", [("x" * 100, 0.5, step, 0) for step in range(20_000)])
        database.rows("PRAGMA max_page_count=1000000")
        RunStore(database).add(Run(journal, "e"))
    assert len(RunStore(database).ids()) == 2


@pytest.mark.large("takes long, and other tests run its branches")
def test_runs_come_newest_first_over_pages(database: Database) -> None:
    store = RunStore(database)
    names = [f"r{number:04}" for number in range(PAGE * 2 + 5)]
    for name in names:
        store.add(Run(name, "even" if int(name[1:]) % 2 == 0 else "odd"))
    assert [run.id for run in store.query(RunQuery())] == names[::-1]
    assert [run.id for run in store.query(RunQuery(limit=PAGE + 3))] == names[::-1][: PAGE + 3]
    store.end(names[0], RunStatus.failed, reason="exit code 1")
    lost = store.query(RunQuery(experiment="even", statuses=[RunStatus.failed]), lost=[names[2]])
    assert {(run.id, run.status) for run in lost} == {(names[0], RunStatus.failed), (names[2], RunStatus.failed)}
    assert {run.experiment for run in store.query(RunQuery(experiment="odd"))} == {"odd"}


def test_runs_come_in_the_order_of_their_start_on_request(database: Database) -> None:
    store = RunStore(database)
    for number, started in enumerate((as_time(30), as_time(10), None, as_time(20))):
        store.add(Run(f"r{number}", "e", RunStatus.running, started=started))
    assert [run.id for run in store.query(RunQuery(by_start=True))] == ["r2", "r0", "r3", "r1"]
    assert [run.id for run in store.query(RunQuery(by_start=True, limit=2))] == ["r2", "r0"]


@pytest.mark.large("takes long, and other tests run its branches")
def test_work_of_sqlite_grows_with_the_runs_that_are_listed_or_not_at_all(database: Database) -> None:
    """Counts steps of SQLite's virtual machine. A search per page would take a hundred times as many for ten times as
    many runs.
    """
    store, steps = RunStore(database), list[int]()

    def counted(wanted: RunQuery | None) -> int:
        steps.clear()
        if wanted is None:
            assert len(store.ids_like("no_such_run")) >= 20
            return len(steps)
        assert sum(1 for _ in store.query(wanted)) == wanted.limit or wanted.limit is None
        return len(steps)

    with database.writing() as connection:
        connection.set_progress_handler(lambda: steps.append(1), 100)
    queries = {
        "all": RunQuery(),
        "children": RunQuery(parent="r0000"),
        "experiment": RunQuery(experiment="e"),
        "newest": RunQuery(limit=20),
        "a wrong id": None,
    }
    work = {name: list[int]() for name in queries}
    for first, last in ((0, PAGE), (PAGE, 10 * PAGE)):
        store.add(*(Run(f"c{number:04}", "e", parent="r0000") for number in range(first, last)))
        store.add(*(Run(f"r{number:04}", "e") for number in range(first, last)))
        for name, query in queries.items():
            work[name].append(counted(query))
    assert {name for name, (few, many) in work.items() if many > 20 * few} == set()
    few, many = work["newest"]
    assert many < 2 * few


@pytest.mark.large("takes long, and other tests run its branches")
def test_work_of_sqlite_grows_no_faster_than_the_points(database: Database) -> None:
    """Counts steps of SQLite's virtual machine: for twice as many points, as many for a new point, for the last ones
    and for those that a mirror has not sent, and otherwise at most twice as many. A metric without steps is no
    exception."""
    metrics, steps, added = MetricStore(database), list[int](), itertools.count()

    def log() -> None:
        number = next(added)
        metrics.log("r", [("loss", 0.5, number, number), ("same step", 0.5, 0, number)])

    def send() -> None:
        place = database.rows("SELECT last FROM places")[0][0] - 10
        assert sum(len(entry.rows) for entry in metrics.logged_after("r", place)[0]) == 10

    same: dict[str, Callable[[], object]] = {
        "log": log,
        "send": send,
        "last": lambda: last_points(database, ["r"], "loss".__eq__),
    }
    more: dict[str, Callable[[], object]] = {
        "read": lambda: metrics.metrics(["r"]),
        "count": lambda: metrics.counts(["r"]),
        "follow": lambda: metrics.values_after("loss", {"r": 0}),
    }
    with database.writing() as connection:
        connection.set_progress_handler(lambda: steps.append(1), 10)
    work = {name: list[int]() for name in (*same, *more)}
    for _ in range(2):
        for _ in range(1000):
            log()
        for name, look in [*same.items(), *more.items()]:
            steps.clear()
            look()
            work[name].append(len(steps))
    assert {
        name: counts for name, counts in work.items() if counts[1] > (1.2 if name in same else 2.1) * counts[0] + 3
    } == {}


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_wrong_id_is_compared_with_a_limited_number_of_runs(database: Database) -> None:
    """The run that it resembles may be the oldest one."""
    workspace, calls = LocalWorkspace(database.path.parent), list[int]()

    def look(run_id: str) -> RunNotFound:
        with pytest.raises(RunNotFound) as caught:
            workspace.run(run_id)
        return caught.value

    for start in (0, 2000):
        names = (
            f"unet_{1_750_000_000 + number}_{number * 0x9E3779B1 % (1 << 32):08x}"
            for number in range(start, start + 2000)
        )
        RunStore(database).add(*(Run(name, "unet") for name in names))
        look("unet_1750000000_x")
        calls.append(calls_of(lambda: look("unet_1749999999_00000000")))
    assert calls[1] <= 1.1 * calls[0]
    assert look("unet_1750000001_9e3779b0").similar[0] == "unet_1750000001_9e3779b1"
    assert look("inet_1750000001_9e3779b1").similar[0] == "unet_1750000001_9e3779b1"
    assert look("9e3779b1").abbreviated == look("9e37").abbreviated == ("unet_1750000001_9e3779b1",)
    assert [look(text).abbreviated for text in ("9e3", "1750", "3779b1_", "*")] == [()] * 4


def test_a_run_is_shown_without_reading_all_its_points(tmp_path: Path) -> None:
    """Only the points of system metrics count, of which a mean is shown. Later attempts replace values."""
    runs, calls = RecordedRuns(tmp_path), list[int]()
    run_id, nested = runs.add("r1"), runs.add("n1", parent="r1")
    runs.workspace.values(run_id, whole=False)
    for attempt in range(3):
        for first in (0, 500):
            for name, each in (("loss", run_id), ("loss", nested), ("system/cpu_utilization_percentage", run_id)):
                steps = range(2) if name[0] == "s" else range(first + 100 * attempt, first + 500)
                runs.log(
                    each,
                    [(name, math.nan if step == 999 else step / 7, step, 1_772_366_400_000 - step) for step in steps],
                )
            calls.append(calls_of(lambda: runs.workspace.values(run_id, whole=False)))
        with closing(Database(tmp_path / ".himl" / "workspace.db")) as database:
            begin_attempt(database, run_id)
    assert calls[1] <= 1.1 * calls[0], "500 points, and twice as many"
    whole, few = (runs.workspace.values(run_id, whole=whole).metrics for whole in (True, False))
    assert json_form(few) == json_form(whole)
    assert [(one.name, one.run, one.count, len(one.points)) for one in few] == [
        ("loss", "r1", 800, 1),
        ("system/cpu_utilization_percentage", "r1", 2, 2),
        ("loss", "n1", 800, 1),
    ]


@pytest.mark.large("takes long, and other tests run its branches")
def test_logging_a_parameter_reads_no_others(tmp_path: Path) -> None:
    runs = RecordedRuns(tmp_path)
    run_id, peaks = runs.add("r1"), list[int]()
    for number in range(2):
        tracemalloc.start()
        runs.workspace.log_parameters(run_id, {f"own{number}": "1"})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        runs.workspace.log_parameters(run_id, {f"p{each}": "1" for each in range(5000)})
    assert peaks[1] < 2 * peaks[0] + 50_000, "bytes at the first and at the second parameter"
    with pytest.raises(BadUsage, match=r"'p17' of run 'r1' already has the value '1', not '2'"):
        runs.workspace.log_parameters(run_id, {"p17": "2"})


def test_deleting_a_run_makes_the_database_smaller(database: Database) -> None:
    for name in ("kept", "large"):
        RunStore(database).add(Run(name, "e"))
        MetricStore(database).log(
            name, [("loss", step / 7, step, step) for step in range(100 if name == "kept" else 60_000)]
        )
    pages = [database.rows("PRAGMA page_count")[0][0]]
    assert 4096 * pages[0] < 45 * 60_100, "bytes of all points"
    RunStore(database).delete(["large"], lambda name: None)
    assert database.rows("PRAGMA page_count")[0][0] < pages[0] / 5
    assert len(MetricStore(database).metrics(["kept"])[0].points) == 100
    database.close()
    assert database.path.stat().st_size < 4096 * pages[0] / 5


def test_the_first_end_stays_and_a_run_is_added_once(database: Database) -> None:
    store = RunStore(database)
    store.add(Run("a", "e"))
    store.end("a", RunStatus.canceled, exit_code=130)
    store.end("a", RunStatus.completed, exit_code=0)
    run = store.get("a")
    assert run is not None
    assert (run.status, run.exit_code) == (RunStatus.canceled, 130)
    with pytest.raises(DiskFailed):
        store.add(Run("a", "other", tags={"left": "behind"}))
    assert database.rows("SELECT * FROM tags") == [], "a transaction that fails leaves nothing"


def test_a_deletion_that_fails_leaves_no_run_and_the_next_one_removes_its_folder(database: Database) -> None:
    store = RunStore(database)
    for name in "abc":
        store.add(Run(name, "e", tags={"team": "red"}))

    def fail(run_id: str) -> None:
        raise DiskFailed(run_id)

    with pytest.raises(DiskFailed, match="a"):
        store.delete(["a", "b"], fail)
    store.tag("a", {"team": "blue"})
    assert ([*store.ids()], len(database.rows("SELECT * FROM tags"))) == (["c"], 1)
    removed = list[str]()
    store.delete([], removed.append)
    store.delete(["c"], removed.append)
    assert removed == ["a", "b", "c"]


def test_the_file_system_is_that_of_the_deepest_mount() -> None:
    table = "/dev/sda / ext4 rw 0 0\nproc /proc proc rw 0 0\nserver:/x /mnt/share nfs4 rw 0 0\nshort line\n"
    table += "//s/y /mnt/with\\040space cifs rw 0 0\ns:/d /données nfs rw 0 0\n"
    kinds = {
        "/": "ext4",
        "/données/lab": "nfs",
        "/mnt/share/lab": "nfs4",
        "/mnt/shared": "ext4",
        "/mnt/with space/x": "cifs",
    }
    assert {folder: mount_of(Path(folder), table)[0] for folder in kinds} == kinds
    macos = "/dev/disk3s1 on / (apfs, sealed, local, journaled)\nmap auto_home on /System/home (autofs, nobrowse)\n"
    macos += "//ada@server/lab on /Volumes/lab data (smbfs, nodev)\n"
    kinds = {"/Users/ada": "apfs", "/System/home/x": "autofs", "/Volumes/lab data/y": "smbfs"}
    assert {folder: mount_of(Path(folder), mounts_of_macos(macos))[0] for folder in kinds} == kinds


LOAD = """
import sys
import time
from pathlib import Path
from himl_cli.core.errors import DiskFailed
from himl_cli.core.logged import Logged, LoggedKind, LoggedRow
from himl_cli.core.runs import Run, RunEnd, RunStatus
from himl_cli.workspaces.local.workspace import LocalWorkspace

folder, host = Path(sys.argv[1]), sys.argv[2]
workspace, complete = LocalWorkspace(folder), []
(folder / f"ready_{host}").touch()
while len([*folder.glob("ready_*")]) < 2:
    time.sleep(0.01)
for number in range(3):
    run_id = f"{host}_{number}"
    try:
        workspace.start_run(Run(run_id, "e"))
        for step in range(20):
            workspace.log(run_id, [Logged("loss", LoggedKind.scalar, [LoggedRow({"loss": 0.5}, step)])])
        workspace.end_run(run_id, RunEnd(RunStatus.completed))
        complete.append(run_id)
    except DiskFailed as err:
        print(err, file=sys.stderr)
print(*complete)
"""


def on_known_disk(folder: Path) -> None:
    """Skip the test if the mount table does not show the file system, as below chroot."""
    if not is_local_folder(folder):
        lacking("a folder whose file system the mount table shows to be of this machine")


@pytest.mark.parametrize("has_locks", [True, False])
def test_machines_that_share_a_disk_lose_no_values(shared_disk: SharedDisk, has_locks: bool) -> None:
    on_known_disk(shared_disk.folder)
    LocalWorkspace(shared_disk.folder / ".himl").make()
    path = shared_disk.folder / ".himl" / "workspace.db"
    with closing(Database(path, create=True)) as database:
        assert database.rows("PRAGMA journal_mode")[0][0] == "wal", "as on a disk of this machine"
    prefix = shared_disk.prefix(has_locks=has_locks)
    opening = "import sys; from himl_cli.workspaces.local.run_store import *; Database(Path(sys.argv[1]))"
    subprocess.run([*prefix, sys.executable, "-c", opening, str(shared_disk.mount / ".himl" / path.name)], check=True)
    loads = [
        subprocess.Popen(
            [*prefix, sys.executable, "-c", LOAD, str(shared_disk.mount / ".himl"), host],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in "ab"
    ]
    said = [load.communicate(timeout=120) for load in loads]
    assert [load.returncode for load in loads] == [0, 0], said
    complete = [run_id for out, _ in said for run_id in out.split()]
    with closing(Database(path)) as database:
        assert database.rows("PRAGMA journal_mode")[0][0] == "truncate", "as the mount requires"
        assert database.rows("PRAGMA integrity_check")[0][0] == "ok"
        values = {row[0]: row[1] for row in database.rows("SELECT run, count(*) FROM metrics GROUP BY run")}
    assert {run_id: values.get(run_id) for run_id in complete} == dict.fromkeys(complete, 20), said
    refusals = [line for _, err in said for line in err.splitlines()]
    assert len(complete) + len(refusals) == 6, said
    assert has_locks <= (not refusals)
    # While both begin at the same moment, SQLite itself may refuse one of them
    expected = ("does not show locks of another mount of it, where run", "Cannot ")
    assert [line for line in refusals if not any(text in line for text in expected)] == []


ENDS_AND_LOOKS = """
import sys
from pathlib import Path
from himl_cli.core.runs import Run, RunEnd, RunStatus
from himl_cli.workspaces.local.workspace import LocalWorkspace

workspace = LocalWorkspace(Path(sys.argv[1]))
workspace.start_run(Run("a", "e"))
workspace.end_run("a", RunEnd(RunStatus.completed))
print("ended", flush=True)
sys.stdin.readline()
print(workspace.run("a").status.value, flush=True)
"""

RECORDS = """
import sys
from pathlib import Path
from himl_cli.core.runs import Run
from himl_cli.workspaces.local.run_store import Database
from himl_cli.workspaces.local.workspace import LocalWorkspace

folder = Path(sys.argv[1])
LocalWorkspace(folder).start_run(Run("b", "e"))
journal = folder / "workspace.db-journal"
with Database(folder / "workspace.db").writing() as connection:
    connection.execute("PRAGMA cache_size=1")  # what has no room goes into the file, and the journal becomes valid
    connection.execute("UPDATE runs SET experiment = 'other'")
    connection.executemany("INSERT INTO tags VALUES ('b', ?, ?)", [(str(number), "x" * 900) for number in range(200)])
    print(journal.stat().st_size > 0, flush=True)
    sys.stdin.readline()
    print(journal.exists() and journal.stat().st_size > 0, flush=True)
"""


def test_who_has_recorded_does_not_undo_what_another_machine_writes(shared_disk: SharedDisk) -> None:
    """SQLite takes the journal of a writer whose lock it does not see for that of one that crashed."""
    on_known_disk(shared_disk.folder)
    LocalWorkspace(shared_disk.folder / ".himl").make()
    command = [*shared_disk.prefix(has_locks=False), sys.executable, "-c"]
    with ExitStack() as stack:

        def start(script: str) -> subprocess.Popen[str]:
            words, pipe = [*command, script, str(shared_disk.mount / ".himl")], subprocess.PIPE
            return stack.enter_context(subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True))

        def said(process: subprocess.Popen[str], answer: str = "") -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(answer)
            process.stdin.flush()
            return process.stdout.readline().strip()

        first = start(ENDS_AND_LOOKS)
        assert said(first) == "ended"
        second = start(RECORDS)
        assert said(second) == "True", "a journal"
        assert said(first, "\n") == "Completed"
        assert said(second, "\n") == "True", "the journal is still there"
    assert (first.returncode, second.returncode) == (0, 0)


REFUSED = """
import sys, time
from himl_cli.workspaces.local.run_store import *
begun = time.monotonic()
try:
    Database(Path(sys.argv[1]))
except DiskFailed as err:
    print("sooner than a write:" if time.monotonic() - begun < BUSY_SECONDS / 2 else "late:", err)
"""


def test_a_wal_journal_in_use_is_named_soon_where_machines_share_a_disk(shared_disk: SharedDisk) -> None:
    on_known_disk(shared_disk.folder)
    LocalWorkspace(shared_disk.folder / ".himl").make()
    path = shared_disk.folder / ".himl" / "workspace.db"
    with closing(Database(path, create=True)) as database:
        database.rows("SELECT * FROM runs")
        command = [
            *shared_disk.prefix(has_locks=True),
            sys.executable,
            "-c",
            REFUSED,
            str(shared_disk.mount / ".himl" / path.name),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith("sooner than a write: Other processes of this machine use"), done.stdout + done.stderr


def test_two_first_jobs_of_other_machines_share_a_workspace_at_once(tmp_path: Path) -> None:
    on_known_disk(tmp_path)
    path = tmp_path / "workspace.db"
    with ExitStack() as stack:
        databases = [stack.enter_context(closing(Database(path, create=True))) for _ in range(3)]
        assert [each.rows("SELECT * FROM runs") for each in databases] == [[]] * 3
        with ThreadPoolExecutor() as pool:
            list(pool.map(Database.share, databases))
        assert "wal" not in [each.rows("PRAGMA journal_mode")[0][0] for each in databases]


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_database_is_shared_only_without_other_users(tmp_path: Path) -> None:
    on_known_disk(tmp_path)
    path = tmp_path / "workspace.db"
    with closing(Database(path, create=True)) as database, closing(Database(path)) as other:
        assert other.rows("SELECT * FROM runs") == []
        with pytest.raises(DiskFailed, match="Other processes of this machine use"):
            database.share()
        other.close()
        database.share()
        assert other.rows("PRAGMA journal_mode")[0][0] == "truncate", "for good"
        statements, questions = list[str](), list[int]()
        with database.writing() as connection:
            connection.set_trace_callback(statements.append)
        for count in (10, 100):
            statements.clear()
            MetricStore(database).log("r", [(f"m{number}", 1.0, 0, 1) for number in range(count)])
            questions.append(sum(not each.startswith("INSERT") for each in statements))
        assert questions[0] == questions[1]
    with closing(Database(path)) as database:
        MetricStore(database).log("r", [("m", 1.0, 1, 1)])
    assert path.with_name("workspace.db-journal").stat().st_size == 0, "transactions create and delete no file"


def test_values_are_read_in_one_transaction(tmp_path: Path) -> None:
    """Each transaction takes a network file system about ten requests."""
    with closing(Database(tmp_path / "workspace.db", create=True)) as database:
        RunStore(database).add(Run("r", "e", RunStatus.running))
        MetricStore(database).log("r", [("loss", 1.0, 0, 1)], [("lr", "0.1")])
        statements = list[str]()
        with database.writing() as connection:
            connection.set_trace_callback(statements.append)
        statements.clear()
        read_results(database, tmp_path / "runs", ["r"], wanted=lambda name: True, whole=True)
    found = [each.split()[0] for each in statements]
    assert (found[0], found[-1], found.count("BEGIN"), found.count("SELECT") > 3) == ("BEGIN", "COMMIT", 1, True)


def test_a_look_at_watched_runs_takes_three_transactions(tmp_path: Path) -> None:
    """One for the jobs in progress, one for those in queues among the jobs without a process, one for the runs and
    their values.
    """
    runs, connections, statements = RecordedRuns(tmp_path), list[sqlite3.Connection](), list[str]()
    for name in ("first", "second"):
        runs.add(name, status=RunStatus.running)
        runs.log(name, [("loss", 1.0, 0, 0)])
    is_heard = True  # hooks cannot be removed
    sys.addaudithook(
        lambda event, found: connections.append(found[0]) if is_heard and event == "sqlite3.connect/handle" else None
    )
    workspace = LocalWorkspace(tmp_path / ".himl")
    watched = workspace.many(["first", "second"])
    is_heard = False
    for connection in connections:
        connection.set_trace_callback(statements.append)
    found = workspace.refresh(watched)
    assert [dict(found[run.id][1].last) for run in watched] == [{"loss": 1.0}] * 2
    is_open, transactions = False, 0
    for each in statements:
        transactions += each == "BEGIN" or (each.startswith("SELECT") and not is_open)
        is_open = each != "COMMIT" and (is_open or each == "BEGIN")
    assert transactions == 3, statements


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS inodes that are told with the names")
def test_run_files_are_removed_in_inode_order(tmp_path: Path) -> None:
    write_files(
        tmp_path, {f"run/{number % 2}/file_{number * 7919 % 100}": "" for number in range(100)} | {"outside/kept": ""}
    )
    inodes = [{path.name: path.stat().st_ino for path in (tmp_path / "run" / folder).iterdir()} for folder in "01"]
    (tmp_path / "run" / "link").symlink_to(tmp_path / "outside")
    gone: list[str] = []
    is_heard = True  # hooks cannot be removed
    sys.addaudithook(
        lambda event, found: gone.append(os.path.basename(found[0])) if is_heard and event == "os.remove" else None
    )
    RunFolder(tmp_path / "run").remove()
    is_heard = False
    for of_folder in inodes:
        assert [name for name in gone if name in of_folder] == sorted(of_folder, key=lambda name: of_folder[name])
    assert ((tmp_path / "run").exists(), (tmp_path / "outside" / "kept").exists()) == (False, True)


def test_nested_run_with_hyperparameters_tag_is_not_a_trial(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("job")
    runs.add("inner", parent="job", tags={"hyperparameters": '{"lr": 0.1}'})
    runs.log("inner", [("loss", 0.5, 0, 0)])
    runs.add("trial", parent="job", tags={"hyperparameters": '{"lr": 0.1}', "himl.trial": "0"})
    runs.log("trial", [("acc", 1.0, 0, 0)])
    found = runs.workspace.results([runs.workspace.run("job")], wanted=lambda name: True, whole=False)
    assert dict(found["job"].last) == {"loss": 0.5}
    assert [metric.name for metric in runs.workspace.metrics("job")] == ["loss"]


def line(text: str, **more: Any) -> JobSpec:
    return JobSpec("exp", Entry(EntryKind.command, text), Snapshot(Path(), (), 0), **more)


def pass_over(event: Event) -> None:
    """Ignore an event."""


@pytest.mark.skipif(os.name == "nt", reason="symlinks need a right on Windows")
def test_new_code_is_not_written_through_links(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {
            "project/a.py": "new",
            "project/lib/b.py": "new",
            "outside/a.py": "mine",
            "outside/b.py": "mine",
            "code/x": "",
        },
    )
    spec = replace(line("true"), snapshot=Snapshot(tmp_path / "project", ["a.py", "lib/b.py"], 2))
    for link, target in (("a.py", "a.py"), ("lib", "")):
        (tmp_path / "code" / link).symlink_to(tmp_path / "outside" / target)
        for stale in ([], ["lib/b.py"]):
            with pytest.raises(DiskFailed, match=f"The link '.*{link}' leads out of the run's folder."):
                replace_files(spec, tmp_path / "code", stale)
        (tmp_path / "code" / link).unlink()
    assert {path.read_text() for path in (tmp_path / "outside").iterdir()} == {"mine"}
    replace_files(spec, tmp_path / "code", [])
    assert (tmp_path / "code" / "lib" / "b.py").read_text() == "new"


def test_arguments_stand_behind_the_line_for_bash_as_on_azure_ml(tmp_path: Path) -> None:
    spec = line("python a.py", arguments=["--data", "${{inputs.d}}", "it's", "--api_key", "sesame"])
    assert shown_command(spec) == """python a.py --data '${{inputs.d}}' 'it'"'"'s' --api_key '***'"""
    order = LaunchRequest(str(tmp_path), spec, "", {"d": "/my data"}, {})
    assert job_command(order)[1:] == ["-c", """python a.py --data '/my data' 'it'"'"'s' --api_key sesame"""]


def test_input_folder_that_cannot_be_quoted_is_refused(tmp_path: Path) -> None:
    spec = line("cat <<EOF\n${{inputs.d}}\nEOF", inputs=[DataSpec("d", "x", local=str(tmp_path))])
    resolve_folders(spec, tmp_path, "run", pass_over)
    (tmp_path / "my data").mkdir()
    steps = [
        StepSpec("first", "First", line("true", outputs=[DataSpec("o", "")])),
        StepSpec(
            "second",
            "Second",
            line("echo `ls ${{inputs.d}}`", inputs=[DataSpec("d", "")]),
            {"d": StepOutput("first", "o")},
        ),
    ]
    pipeline = PipelineSpec("exp", steps)
    assert [job.place for job in plan_pipeline(tmp_path, pipeline, lambda name: tmp_path / "data", pass_over).jobs] == [
        "steps/0",
        "steps/0",
    ]
    with pytest.raises(BadUsage, match=r"^second: himl cannot quote .* after .`.\."):
        plan_pipeline(tmp_path, pipeline, lambda name: tmp_path / "my data", pass_over)
    with pytest.raises(BadUsage, match=r"himl cannot quote .* after .<<.\."):
        resolve_folders(
            line(spec.entry.target, inputs=[DataSpec("d", "x", local=str(tmp_path / "my data"))]),
            tmp_path,
            "run",
            pass_over,
        )


def test_names_of_hyperparameters_and_datastores_lead_nowhere_else(tmp_path: Path) -> None:
    for name, value, message in (
        ("a=b", "1", "Invalid name of a hyperparameter"),
        ("a", "b c", r"himl cannot quote .* after .`.\."),
    ):
        sweep = SweepSpec({name: SearchRange(Draw.choice, [1, value])}, "grid", 2)
        with pytest.raises(BadUsage, match=message):
            plan_sweep(tmp_path, line(f"echo `echo ${{{{search_space.{name}}}}}`", sweep=sweep), tmp_path, pass_over)
    default = tmp_path / "datastores" / "local"
    default.mkdir(parents=True)
    for name in ("..", "../..", "a/b", "/tmp", "C:", "a\\b"):
        for data in (
            {"inputs": [DataSpec("d", "datastores", datastore=name)]},
            {"outputs": [DataSpec("d", "esc", datastore=name)]},
        ):
            with pytest.raises(BadUsage, match="Invalid name of a datastore"):
                resolve_folders(line("true", **data), default, "run", pass_over)


def test_only_what_a_dead_start_left_is_removed(tmp_path: Path) -> None:
    workspace = LocalWorkspace(tmp_path / ".himl")
    workspace.make()
    for name in ("dead", "alive", "logged"):
        (workspace.folder / "runs" / name).mkdir()
        write_files(workspace.folder, {f"starting/{name}": "", f"runs/{name}/go": ""})
    (workspace.folder / "runs" / "logged" / "user_logs").mkdir()
    held = ProcessLock(workspace.folder / "starting" / "alive")
    assert held.take()
    workspace.prepare(pass_over)
    assert {path.name for path in (workspace.folder / "runs").iterdir()} == {"alive", "logged"}
    assert [path.name for path in (workspace.folder / "starting").iterdir()] == ["alive"]
    held.release()


LINE = "${{inputs.x}}"


def words_printed(line: str, value: str) -> list[str]:
    """Return the words, separated by zero bytes, that bash prints for *line* with *value* in it."""
    done = subprocess.run(["bash", "-c", fill_command(line, {"inputs": {"x": value}})], capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode().split("\0")


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@settings(max_examples=25)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
def test_a_value_stays_one_word_wherever_it_stands(value: str) -> None:
    line = f"printf '%s\\0' {LINE} \"{LINE}\" '{LINE}' a\\ {LINE}\"b\\\"{LINE}\" \\'{LINE}; HOME=x"
    line += f"; (printf '%s\\0' {LINE}; printf '%s\\0' \"{LINE}\"; printf '%s\\0' \"$HOME\"{LINE}) # ' in a comment"
    assert words_printed(line, value) == [
        value,
        value,
        value,
        f'a {value}b"{value}',
        f"'{value}",
        value,
        value,
        f"x{value}",
        "",
    ]


def test_unquotable_placeholder_accepts_only_plain_values() -> None:
    for line, sign in (
        (f"cat <<EOF\nfolder {LINE}\nEOF\n", "<<"),
        (f"echo `ls {LINE}`", "`"),
        (f'echo "$(case a in a) ls {LINE};; esac)"', "$("),
        (f'echo "${{HOME:-"a"}} {LINE}"', "${"),
        (f"echo $'it\\'s {LINE}'", "$'"),
        (f"# don't touch {LINE}", "#"),
        (f"echo \\{LINE}", "\\"),
    ):
        assert fill_command(line, {"inputs": {"x": "/data/plain-1.5"}}) == line.replace(LINE, "/data/plain-1.5")
        with pytest.raises(BadUsage) as caught:
            fill_command(line, {"inputs": {"x": "/my data"}})
        assert str(caught.value) == f"himl cannot quote '/my data' for '{LINE}' after '{sign}'."


def test_texts_are_in_the_order_logged_whatever_the_clock_says(tmp_path: Path) -> None:
    times = ("2026-01-01T10:00:00+02:00", "2026-01-01T09:00:00", "2026-01-01T08:30:00+00:00")
    lines = [f'{{"kind": "scalar", "values": {{"name": "said at {time}"}}, "time": "{time}"}}\n' for time in times]
    write_files(tmp_path, {"logged/words.jsonl": "".join(lines)})
    [texts] = read_texts(tmp_path, "run")
    assert [point.value.removeprefix("said at ") for point in texts.points] == [*times]
    assert [point.time.hour for point in texts.points] == [10, 9, 8]


def test_what_is_held_for_too_long_is_told_and_else_waited_for(database: Database) -> None:
    RunStore(database).add(Run("run", "e"))
    with closing(Database(database.path, patience=0.2)) as other:
        with database.writing(), pytest.raises(DiskFailed, match="is busy: other processes write to it"):
            RunStore(other).tag("run", {"key": "x"})
        assert database.rows("SELECT * FROM tags") == []
        RunStore(other).tag("run", {"key": "y"})
    assert [row["value"] for row in database.rows("SELECT value FROM tags")] == ["y"]


POSIX_NAMES = pytest.mark.skipif(sys.platform == "win32", reason="NEEDS POSIX file names and links")


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunFiles, Path, Path]:
    folder, code = tmp_path / "run", tmp_path / "run" / "code"
    for path in (folder / "user_logs", folder / "artifacts", code / "outputs", code / "logs"):
        path.mkdir(parents=True)
    return RunFiles(folder, code, "run 'demo_1'"), folder, code


@pytest.fixture
def datastore(tmp_path: Path) -> Iterator[DatastoreFolder]:
    (tmp_path / "data").mkdir()
    database = Database(tmp_path / "workspace.db", create=True)
    yield DatastoreFolder(tmp_path / "data", "local", database)
    database.close()


def store_body(store: DatastoreFolder, source: Path, name: str, body: bytes) -> Stored:
    sink = Stored()
    store.store([sending(source, name, body)], sink, workers=1)
    return sink


def fetch(store: RunFiles | DatastoreFolder, *requests: FetchRequest) -> Received:
    sink = Received()
    store.fetch(requests, sink, workers=1)
    return sink


def test_run_files_merge_output_folders_and_artifacts_sorted(run: tuple[RunFiles, Path, Path], tmp_path: Path) -> None:
    store, folder, code = run
    paths = ["code/outputs/m.ckpt", "code/logs/events", "user_logs/std_log.txt"]
    paths += ["artifacts/plot.png", "artifacts/model/a", "artifacts/outputs/m.ckpt", "artifacts/outputs/n"]
    write_files(folder, {path: path for path in paths})
    (code / "train.py").write_text("not an artifact")
    expected = ["logs/events", "model/a", "outputs/m.ckpt", "outputs/n", "plot.png", "user_logs/std_log.txt"]
    assert [blob.name for blob in listed(store)] == expected
    assert [blob.name for blob in listed(store, "outputs/m")] == ["outputs/m.ckpt"]
    assert b"".join(store.read("outputs/m.ckpt")) == b"code/outputs/m.ckpt"
    assert b"".join(store.read("outputs/n")) == b"artifacts/outputs/n"
    assert store.stat("train.py") is None
    assert listed(RunFiles(folder / "gone", folder / "gone" / "code", "run 'gone'")) == []
    names, sink = ("outputs/m.ckpt", "outputs/other", "note"), Stored()
    store.store([sending(tmp_path / "x", name, b"new") for name in names], sink, workers=1)
    assert sink.errors == {}
    assert [b"".join(store.read(name)) for name in names] == [b"new"] * 3, "what is stored replaces what is shown"
    assert {path.name for path in (code / "outputs").iterdir()} == {"m.ckpt"}


@pytest.fixture
def linked(run: tuple[RunFiles, Path, Path], tmp_path: Path) -> tuple[RunFiles, Path]:
    """A run with a link of every kind, and the folder outside of it."""
    store, folder, code = run
    outside = tmp_path / "outside"
    write_files(outside, {"key": "private", "more/deep": "private", "logs/events": "private"})
    write_files(code, {"outputs/epoch=3.ckpt": "ours", "outputs/blobs/a": "ours"})
    links: dict[str, str | Path] = {
        "code/outputs/key": outside / "key",
        "code/outputs/more": outside / "more",
        "code/outputs/relative": "../../../outside/key",
        "code/outputs/chain": code / "outputs" / "key",
        "code/outputs/gone": outside / "gone",
        "code/outputs/last.ckpt": "epoch=3.ckpt",
        "code/outputs/model": "blobs",
        "user_logs/std_log.txt": outside / "key",
        "artifacts/plot.png": outside / "key",
    }
    (code / "logs").rmdir()
    try:
        (code / "logs").symlink_to(outside / "logs")
        for name, target in links.items():
            (folder / name).symlink_to(target)
    except OSError:
        pytest.skip("NEEDS the right to make symlinks")
    return store, outside


def test_links_that_lead_out_of_a_run_are_no_files_of_it(
    linked: tuple[RunFiles, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, outside = linked
    ours = ["outputs/blobs/a", "outputs/epoch=3.ckpt", "outputs/last.ckpt", "outputs/model/a"]
    theirs = [
        "logs/events",
        "outputs/chain",
        "outputs/key",
        "outputs/more/deep",
        "outputs/relative",
        "plot.png",
        "user_logs/std_log.txt",
    ]
    for _ in range(2):
        assert [blob.name for blob in listed(store)] == ours
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith("himl omits links that lead out of run 'demo_1': 'logs/', ")
    assert warning.endswith(" and 4 more. To include them, add --follow_links to himl download or himl tb.")
    assert b"".join(store.read("outputs/model/a")) == b"ours"
    for name in theirs:
        assert store.stat(name) is None, name
        with pytest.raises(NotFound):
            store.read(name)
    sink = Stored()
    store.store([sending(tmp_path / "x", name, b"new") for name in (*theirs, "outputs/more/new")], sink, workers=1)
    assert [*sink.errors] == ["plot.png"], "the others become logged files"
    assert {path.read_text() for path in outside.rglob("*") if path.is_file()} == {"private"}
    shutil.rmtree(tmp_path / "run" / "artifacts" / "outputs")
    shutil.rmtree(tmp_path / "run" / "artifacts" / "logs")
    follows = RunFiles(tmp_path / "run", tmp_path / "run" / "code", "run 'demo_1'")
    follows.follows_links = True
    assert [blob.name for blob in listed(follows)] == sorted([*ours, *theirs])
    assert b"".join(follows.read("outputs/chain")) == b"private"


def test_file_that_becomes_a_link_after_it_was_listed_is_not_read(linked: tuple[RunFiles, Path]) -> None:
    store, outside = linked
    (blob,) = listed(store, "outputs/epoch=3.ckpt")
    pieces, path = store.read(blob.name), store.path_of(blob.name)
    assert path is not None
    path.unlink()
    path.symlink_to(outside / "key")
    with pytest.raises(DiskFailed):
        next(pieces)
    received = fetch(store, FetchRequest(replace(blob, etag=""), 0, blob.size))
    assert list(received.errors) == [blob.name], received


def test_only_logs_may_grow_while_they_are_fetched(run: tuple[RunFiles, Path, Path]) -> None:
    store, folder, code = run
    for name, may_grow in (("user_logs/std_log.txt", True), ("logs/events", True), ("outputs/log", False)):
        path = (folder if name.startswith("user") else code) / name
        path.write_bytes(b"line 1\n")
        blob = named(store, name)
        with open(path, "ab") as log:
            log.write(b"line 2\n")
        sink = fetch(store, FetchRequest(blob, 0, blob.size))
        digest = hashlib.md5(b"line 1\n").digest() if may_grow else None
        assert (sink.md5s.get((name, 0)), store.md5(blob)) == (digest, digest)
        assert {failed: type(error) for failed, error in sink.errors.items()} == (
            {} if may_grow else {name: BlobChanged}
        )
        assert not may_grow or sink.bodies == {(name, 0): b"line 1\n"}
    write_files(code, {"logs/cut": "line 1\n", "logs/replaced": "line 1\n"})
    blobs = [named(store, "logs/cut"), named(store, "logs/replaced")]
    write_files(code, {"logs/cut": "l", "logs/new": "line 1\nline 2\n"})
    os.replace(code / "logs" / "new", code / "logs" / "replaced")
    sink = fetch(store, *(FetchRequest(blob, 0, blob.size) for blob in blobs))
    assert {name: type(error) for name, error in sink.errors.items()} == {
        "logs/cut": BlobChanged,
        "logs/replaced": BlobChanged,
    }


@POSIX_NAMES
def test_a_file_that_is_replaced_while_it_is_fetched_has_changed(run: tuple[RunFiles, Path, Path]) -> None:
    store, _, code = run
    path = code / "outputs/big"
    path.write_bytes(b"old" * 1_000_000)

    class Replacing(Received):
        def write(self, request: FetchRequest, offset: int, data: Bytes) -> None:
            if offset == 0:
                path.with_name("new").write_bytes(b"new" * 1_000_000)
                os.replace(path.with_name("new"), path)

    sink = Replacing()
    store.fetch([FetchRequest(named(store, "outputs/big"), 0, 3_000_000)], sink, workers=1)
    assert isinstance(sink.errors["outputs/big"], BlobChanged)
    assert sink.md5s == {}


def test_resumed_and_ranged_fetches_report_md5_of_whole_file(run: tuple[RunFiles, Path, Path]) -> None:
    store, _, code = run
    body = bytes(range(256)) * 20_000
    (code / "outputs" / "big").write_bytes(body)
    blob = named(store, "outputs/big")
    resumed = fetch(store, FetchRequest(blob, 3_000_001, blob.size - 3_000_001))
    ranged = fetch(
        store,
        FetchRequest(blob, 0, 100),
        FetchRequest(blob, 100, 1_000_000),
        FetchRequest(blob, 2_000_000, blob.size - 2_000_000),
    )
    assert resumed.md5s == {("outputs/big", 3_000_001): hashlib.md5(body).digest()}
    assert [*ranged.md5s.values()] == [None, None, hashlib.md5(body).digest()]


def test_a_recorded_md5_holds_until_the_file_changes(datastore: DatastoreFolder, tmp_path: Path) -> None:
    sink = store_body(datastore, tmp_path / "x", "models/x", b"content")
    digest = hashlib.md5(b"content").digest()
    assert (sink.blobs["models/x"].md5, named(datastore, "models/x").md5, listed(datastore)[0].md5) == (
        digest,
        digest,
        digest,
    )
    (tmp_path / "data/models/x").write_bytes(b"changed, longer")
    assert named(datastore, "models/x").md5 is None
    assert datastore.md5(named(datastore, "models/x")) == hashlib.md5(b"changed, longer").digest()
    store_body(datastore, tmp_path / "x", "x", b"content")
    before = (tmp_path / "data/x").stat()
    (tmp_path / "data/x").write_bytes(b"c0ntent")
    os.utime(tmp_path / "data/x", ns=(before.st_atime_ns, before.st_mtime_ns))
    fetched = fetch(datastore, FetchRequest(named(datastore, "x"), 0, 7))
    assert (fetched.bodies[("x", 0)], fetched.md5s[("x", 0)]) == (b"c0ntent", digest), (
        "of what was stored, not of what it became"
    )


def test_parts_of_other_processes_stay_until_they_are_a_day_old(datastore: DatastoreFolder, tmp_path: Path) -> None:
    # Of a container whose process has the id of this one
    theirs = [f".{os.getpid()}-{number}.himl-part" for number in range(100)]
    old = [".1-7.himl-part", ".0123456789abcdef.himl-part"]
    others = [".model.bin.0a1b.himl-part"]  # of a download, which the next one resumes
    write_files(tmp_path / "data", dict.fromkeys((*theirs, *old, *others), "part"))
    for name in (*old, *others):
        os.utime(tmp_path / "data" / name, (1_000_000_000, 1_000_000_000))
    sink = store_body(datastore, tmp_path / "x", "model.bin", b"new")
    assert sink.errors == {}
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"model.bin", *theirs, *others}


def test_many_stored_files_are_all_recorded_and_listed_in_pages(datastore: DatastoreFolder, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x")
    md5 = hashlib.md5(b"x").digest()
    sink = Stored()
    datastore.store(
        (StoreRequest(body, f"d{number % 7}/{number:04d}", 1, md5) for number in range(BLOB_PAGE + 5)), sink, workers=1
    )
    pages = [*datastore.list()]
    assert ([len(page) for page in pages], {blob.md5 for page in pages for blob in page}) == ([BLOB_PAGE, 5], {md5})
    assert [path.name for path in (tmp_path / "data").rglob("*.himl-part")] == []


@POSIX_NAMES
def test_links_are_followed_once_and_what_is_no_file_is_left_out(datastore: DatastoreFolder, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "folder").mkdir()
    (data / "folder/file").write_text("x")
    (data / "loop").symlink_to(data, target_is_directory=True)
    (data / "again").symlink_to(data / "folder", target_is_directory=True)
    (data / "linked").symlink_to(data / "folder/file")
    (data / "broken").symlink_to(data / "nowhere")
    (data / "circle").symlink_to(data / "circle")
    os.mkfifo(data / "pipe")
    (data / ".x.himl-part").write_text("partial")
    (data / ".himl-transfer.db").write_text("state")
    assert [blob.name for blob in listed(datastore)] == ["again/file", "folder/file", "linked"]
    assert datastore.stat("pipe") is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="NEEDS file names that are not Unicode")
def test_names_that_are_not_utf_8_are_stored_listed_and_fetched(datastore: DatastoreFolder, tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfc\xdfe")
    sink = store_body(datastore, tmp_path / "x", name, b"hello")
    blob = named(datastore, name)
    assert (sink.errors, listed(datastore), blob.md5) == ({}, [blob], hashlib.md5(b"hello").digest())
    assert fetch(datastore, FetchRequest(blob, 0, 5)).bodies == {(name, 0): b"hello"}


@POSIX_NAMES
def test_listing_unreadable_folder_raises_disk_failed(datastore: DatastoreFolder, tmp_path: Path) -> None:
    locked = tmp_path / "data/locked"
    locked.mkdir()
    locked.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:  # modes do not stop this user
        os.seteuid(65534)
    try:
        with pytest.raises(DiskFailed, match="Cannot read"):
            listed(datastore)
    finally:
        if is_root:
            os.seteuid(0)
        locked.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="paths are limited")
def test_folders_may_be_deeper_than_pythons_stack(tmp_path: Path) -> None:
    """A folder may also be deeper than a path is long."""
    names = [f"data{folders}/last.txt" for folders in ("", "/d" * 300)]
    for number, name in enumerate(names):
        project, copy = tmp_path / f"project{number}", tmp_path / f"copy{number}"
        write_files(project, {name: "x", "train.py": ""})
        spec = JobSpec("e", Entry(EntryKind.script, "train.py"), Snapshot(project, [name, "train.py"], 1))
        (folder := RunFolder(copy)).code.mkdir(parents=True)
        far = os.open(folder.code, os.O_RDONLY)
        for _ in range(30):
            os.mkdir("far" * 70, dir_fd=far)
            far, above = os.open("far" * 70, os.O_RDONLY, dir_fd=far), far
            os.close(above)
        os.close(far)
        # The first round, with the usual limit, imports what is needed
        with stack_of(1000 if number == 0 else 200):
            assert take_snapshot(project).snapshot.files == [name, "train.py"]
            stage_files(spec, folder.code, is_stopped=lambda: False)
            folder.write(RECORD, {"in_place": False})
            os.utime(folder.path / RECORD, (0, 0))
            assert sorted(name for name, _ in folder.files_elsewhere()) == [name, "train.py"]
            assert [found.name for found in walk_files(str(folder.code))] == [name, "train.py"]
            folder.remove()
        assert not folder.path.exists()


STAGING = """
import os, resource, sys, time
from pathlib import Path
from himl_cli.core.jobs import Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.mounts import is_local_folder
from himl_cli.workspaces.local.code_store import staged_files
from himl_cli.workspaces.local.staging import Stopped, stage_files

here, cores, names = Path.cwd(), len(os.sched_getaffinity(0)), [f"package_{n % 9}/{n}.py" for n in range(4001)]
for name in names:
    os.makedirs(os.path.dirname(f"project/{name}"), exist_ok=True)
    Path("project", name).write_text(name)

def staged(to, *more, is_stopped=lambda: False, **brought):
    (here / to).mkdir()
    snapshot = Snapshot(here / "project", [*names, *more], 1)
    spec = JobSpec("e", Entry(EntryKind.script, "train.py"), snapshot, brought=brought)
    stage_files(spec, here / to, is_stopped=is_stopped)
    return staged_files(here / to)

assert [*staged("all", "vanished")] == names
assert [(here / "all" / name).read_text() for name in names] == names
assert (resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0) == (cores > 1 or not is_local_folder(here))
for given, error in ({"last": str(here / "none")}, FileNotFoundError), ({"is_stopped": lambda: True}, Stopped):
    try:
        staged(error.__name__, **given)
    except error:
        continue
    sys.exit(f"no {error}")
print("slow", flush=True)
staged("slow", is_stopped=lambda: time.sleep(0.06))
"""


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(sys.platform != "linux", reason="himl forks only on Linux")
def test_forks_copy_a_part_of_many_files_and_end_with_their_process(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STAGING], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "slow\n"
        until(lambda: len(list((tmp_path / "slow").rglob("*.py"))) > 2)
        process.kill()
        assert process.stdout.read() == "", "the forks have ended too"
        assert not (tmp_path / "slow.json").exists()


@contextmanager
def stack_of(frames: int) -> Iterator[None]:
    """Allow that many frames above the present one."""
    limit, present = sys.getrecursionlimit(), len(inspect.stack(0))
    sys.setrecursionlimit(present + frames)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


SEGMENT = st.text(alphabet="a0.- /é", min_size=1, max_size=4)


@pytest.mark.large("takes long, and other tests run its branches")
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(
        st.lists(SEGMENT.filter(lambda text: "/" not in text and text not in (".", "..")), min_size=1, max_size=3).map(
            "/".join
        ),
        max_size=12,
    ),
    SEGMENT,
)
def test_walking_sorts_names_as_plain_strings(tmp_path: Path, names: set[str], prefix: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    made: set[str] = set()
    for name in sorted(names):
        with suppress(OSError):  # a name that is both a file and a folder
            write_files(folder, {name: ""})
            made.add(name)
    assert [found.name for found in walk_files(str(folder))] == sorted(made)
    assert [found.name for found in walk_files(str(folder), prefix)] == sorted(
        name for name in made if name.startswith(prefix)
    )
