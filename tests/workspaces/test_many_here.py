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
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.controller import Children
from himl_cli.workspaces.local.launch import events_of
from himl_cli.workspaces.local.launch_request import Plan
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_folder import RunFolder, once_free
from himl_cli.workspaces.local.run_process import TERMINATED, Outcome, RunProcess
from himl_cli.workspaces.local.run_store import Database, RunStore


@pytest.fixture
def metrics(tmp_path: Path) -> MetricStore:
    return MetricStore(Database(tmp_path / "workspace.db", create=True))


def test_new_metric_values_of_many_runs_come_in_logged_order(metrics: MetricStore) -> None:
    metrics.log("r39999", [("loss", 1.0, 0, 0), ("other", 9.0, 0, 0)])
    metrics.log("r0", [("loss", 2.0, 0, 0), ("loss", 3.0, 1, 0)])
    metrics.log("r39999", [("loss", 4.0, 1, 0)])
    places = {f"r{number}": 0 for number in range(40_000)}
    found = metrics.values_after("loss", places)
    assert [(run, value) for run, _, value in found] == [("r39999", 1.0), ("r0", 2.0), ("r0", 3.0), ("r39999", 4.0)]
    assert metrics.values_after("loss", {**places, "r0": found[1][1], "r39999": found[3][1]}) == [found[2]]


def test_only_what_others_write_changes_the_version(metrics: MetricStore, tmp_path: Path) -> None:
    script = MetricStore(Database(tmp_path / "workspace.db"))
    versions = [metrics.version(), metrics.version()]
    script.log("r", [("loss", 1.0, 0, 0)])
    assert (versions[0] == versions[1], metrics.version() == versions[0]) == (True, False)


def children_of_a_sweep(tmp_path: Path, stopping: Outcome | None = None) -> Children:
    (tmp_path / "r" / "user_logs").mkdir(parents=True)
    plan = Plan(str(tmp_path / "r"), "sweep", Run("r", "exp"), [])
    return Children(plan, RunStore(Database(tmp_path / "workspace.db", create=True)), lambda: stopping)


def logged(tmp_path: Path) -> list[str]:
    return [line.split(" ", 1)[1] for line in (tmp_path / "r" / "user_logs" / "std_log.txt").read_text().splitlines()]


def test_cancel_is_repeated_for_child_that_starts_late(tmp_path: Path) -> None:
    stopping = Outcome(RunStatus.failed, reason=TERMINATED)
    children, folder = children_of_a_sweep(tmp_path, stopping), RunFolder(tmp_path / "r_0")
    folder.path.mkdir()
    folder.allow_to_run()
    children.add_ended("r_0", "")
    children.cancel("r_0", "a verdict")
    assert (folder.is_cancel_asked(), folder.why_canceled()) == (True, "a verdict")
    folder.allow_to_run()  # as its supervisor does when it takes the run up
    assert children.stopping == stopping
    assert folder.is_cancel_asked()


def test_one_that_cannot_be_asked_to_stop_keeps_no_other_from_it(tmp_path: Path) -> None:
    children = children_of_a_sweep(tmp_path, Outcome(RunStatus.canceled, reason="canceled"))
    for number in range(4):
        folder = RunFolder(tmp_path / f"r_{number}")
        folder.path.mkdir()
        if number % 2:
            folder.allow_to_run()
        else:
            (folder.path / "go").mkdir()
        children.add_ended(folder.run_id, "")
    assert children.stopping is not None
    assert [RunFolder(tmp_path / f"r_{number}").is_cancel_asked() for number in range(4)] == [False, True, False, True]
    assert sum(line.endswith("It is tried again.") for line in logged(tmp_path)) == 2


def test_an_end_is_not_lost_while_runs_cannot_be_read(tmp_path: Path) -> None:
    children = children_of_a_sweep(tmp_path)
    children.store.add(Run("r_0", "exp"))
    children.store.end("r_0", RunStatus.completed)
    children.add_ended("r_0", "")
    with closing(sqlite3.connect(tmp_path / "workspace.db")) as other:
        other.execute("ALTER TABLE runs RENAME TO away")
        assert [children.next_end(), children.next_end(), len(children.at_work)] == [None, None, 1]
        other.execute("ALTER TABLE away RENAME TO runs")
    found = children.next_end()
    assert found is not None
    assert (found[0] and found[0].status, found[1:], len(children.at_work)) == (RunStatus.completed, ("r_0", ""), 0)
    (line,) = logged(tmp_path)
    assert re.fullmatch(r"Cannot use '.*': no such table: runs\. It is tried again\.", line)


class OnAFullDisk(RunProcess):
    def work(self, store: RunStore) -> Outcome:
        raise DiskFailed("No space left to write 'workspace.db'.")


def test_what_the_disk_does_is_no_fault_of_himl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    before = signal.getsignal(signal.SIGTERM)
    try:
        OnAFullDisk(Run("r", "exp"), str(folder), folder, again=False).run()
    finally:
        signal.signal(signal.SIGTERM, before)
    run = RunStore(Database(tmp_path / "workspace.db")).get("r")
    assert run is not None
    assert (run.status, run.reason) == (RunStatus.failed, "No space left to write 'workspace.db'")
    assert capsys.readouterr().err == "", "no traceback"


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
