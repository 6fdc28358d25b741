"""What a keeper of many runs stands on: its children, what they logged, the words of their supervisors, files that are in use."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.keeping import Outcome, RunKeeper
from himl_cli.workspaces.local.many.children import Children
from himl_cli.workspaces.local.many.course import Course
from himl_cli.workspaces.local.many.family import Family
from himl_cli.workspaces.local.many.plan import Plan
from himl_cli.workspaces.local.many.readings import Readings
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_folder import RunFolder, once_free
from himl_cli.workspaces.local.run_store import NewRun, RunStore
from himl_cli.workspaces.local.starting import events_of


@pytest.fixture
def metrics(tmp_path: Path) -> MetricStore:
    return MetricStore(Database(tmp_path / "workspace.db", create=True))


def test_of_very_many_runs_what_came_after_their_places_is_read_in_the_order_logged(metrics: MetricStore) -> None:
    metrics.log("r39999", [("loss", 1.0, 0, 0), ("other", 9.0, 0, 0)])
    metrics.log("r0", [("loss", 2.0, 0, 0), ("loss", 3.0, 1, 0)])
    metrics.log("r39999", [("loss", 4.0, 1, 0)])
    places = {f"r{number}": 0 for number in range(40_000)}
    found = metrics.values_after("loss", places)
    assert [(run, value) for run, _, value in found] == [("r39999", 1.0), ("r0", 2.0), ("r0", 3.0), ("r39999", 4.0)]
    assert metrics.values_after("loss", {**places, "r0": found[1][1], "r39999": found[3][1]}) == [found[2]]


def test_nothing_is_read_again_where_nobody_wrote(metrics: MetricStore, tmp_path: Path) -> None:
    script = MetricStore(Database(tmp_path / "workspace.db"))
    readings = Readings(metrics, "loss")
    script.log("r", [("loss", 1.0, 0, 0)])
    assert [value for _, _, value in readings.look({"r": 0})] == [1.0]
    assert readings.look({"r": 0}) == [], "nobody wrote, so nobody looked"
    script.log("other", [("loss", 5.0, 0, 0)])
    assert [value for _, _, value in readings.look({"r": 0})] == [1.0]


def test_looking_rests_after_every_look_whether_it_found_something_or_not(metrics: MetricStore) -> None:
    readings = Readings(metrics, "loss")
    assert readings.is_due
    assert readings.look({"r": 0}) == []
    readings.rest_after(1000.0)
    assert not readings.is_due


def test_a_child_that_comes_up_after_it_was_asked_to_stop_is_asked_again(tmp_path: Path) -> None:
    children, folder = Children(tmp_path), RunFolder(tmp_path / "r_0")
    folder.path.mkdir()
    folder.let_it_run()
    children.put_back("r_0", "")
    assert children.cancel("r_0", "a verdict") is None
    assert (folder.is_cancel_asked(), folder.why_canceled()) == (True, "a verdict")
    folder.let_it_run()  # as its supervisor does when it takes the run up
    assert children.terminate_all() is None
    assert folder.is_cancel_asked()


def test_one_that_cannot_be_asked_to_stop_keeps_no_other_from_it(tmp_path: Path) -> None:
    children = Children(tmp_path)
    for number in range(4):
        folder = RunFolder(tmp_path / f"r_{number}")
        folder.path.mkdir()
        if number % 2:
            folder.let_it_run()
        else:
            (folder.path / "go").mkdir()
        children.put_back(folder.run_id, "")
    assert isinstance(children.cancel_all("why"), DiskFailed)
    assert [RunFolder(tmp_path / f"r_{number}").is_cancel_asked() for number in range(4)] == [False, True, False, True]


def test_an_end_is_not_lost_while_runs_cannot_be_read(tmp_path: Path) -> None:
    store = RunStore(Database(tmp_path / "workspace.db", create=True))
    store.add(NewRun(id="r_0", job="r_0", experiment="exp"))
    store.end("r_0", RunStatus.completed)
    plan = Plan(str(tmp_path / "r"), str(tmp_path), "sweep", "exp", "", "", {}, "", [])
    family = Family(plan, store, Children(tmp_path), Course(tmp_path / "log.txt"), lambda: None)
    family.children.put_back("r_0", "")
    with closing(sqlite3.connect(tmp_path / "workspace.db")) as other:
        other.execute("ALTER TABLE runs RENAME TO away")
        assert [family.next_end(), family.next_end(), len(family.children)] == [None, None, 1]
        other.execute("ALTER TABLE away RENAME TO runs")
    found = family.next_end()
    assert found is not None
    assert (found[0] and found[0].status, found[1:]) == (RunStatus.completed, ("r_0", ""))
    (said,) = (tmp_path / "log.txt").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d Cannot use '.*': no such table: runs\. It is tried again\.", said)


class OnAFullDisk(RunKeeper):
    def new_run(self) -> NewRun:
        return NewRun(id="r", job="r", experiment="exp")

    def work(self, store: RunStore) -> Outcome:
        raise DiskFailed("No space left to write 'workspace.db'.")


def test_what_the_disk_does_is_no_fault_of_himl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r").mkdir()
    before = signal.getsignal(signal.SIGTERM)
    try:
        OnAFullDisk(str(tmp_path / "r"), str(tmp_path), again=False).keep()
    finally:
        signal.signal(signal.SIGTERM, before)
    run = RunStore(Database(tmp_path / "workspace.db")).get("r")
    assert run is not None
    assert (run.status, run.reason) == (RunStatus.failed, "No space left to write 'workspace.db'")
    assert capsys.readouterr().err == "", "no traceback"


def test_an_end_that_is_put_back_is_told_again(tmp_path: Path) -> None:
    children = Children(tmp_path)
    children.refuse("r_0", "why")
    assert children.ended(1.0) == ("r_0", "why")
    assert len(children) == 0
    children.put_back("r_0", "why")
    assert (len(children), children.ended(1.0)) == (1, ("r_0", "why"))


def test_what_else_a_supervisor_prints_is_passed_over() -> None:
    script = 'import sys; sys.stdout.buffer.write(b\'hello\\n\\xff\\n[1]\\n{}\\n{"event": "recorded"}\\n\\n7\\n\')'
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert list(events_of(process)) == [{"event": "recorded"}]


def test_a_file_that_is_in_use_is_tried_again_for_a_while() -> None:
    tries = []

    def act() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise PermissionError("in use")
        return len(tries)

    assert once_free(act, seconds=60.0) == 3
    tries.clear()
    with pytest.raises(PermissionError):
        once_free(act, seconds=0.0)
