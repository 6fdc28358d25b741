"""Reading many runs of a local workspace at once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from himl_cli.core.runs import RunQuery
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.support.runs import RecordedRuns

MANY = 1100  # more than are asked for at once


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    """Trials, each with two metrics of three points, whose last values are `10 * number + 2` and `number`."""
    found = RecordedRuns(project)
    found.add("sweep")
    for number in range(3):
        found.add(f"sweep_{number}", parent="sweep")
        found.log(f"sweep_{number}", [("loss", 10.0 * number + step, step, 1000 - step) for step in (2, 0, 1)] + [("acc", float(number), 0, 5)] * 3)
    return found


def last(workspace: LocalWorkspace) -> dict[str, dict[str, object]]:
    found = workspace.results(list(workspace.runs(RunQuery(parent="sweep"))), wanted=lambda name: True, whole=False)
    return {run_id: dict(results.last) for run_id, results in found.items()}


def test_a_workspace_of_an_earlier_version_is_read_as_well(recorded: RecordedRuns, project: Path) -> None:
    wanted = {f"sweep_{number}": {"loss": 10.0 * number + 2, "acc": float(number)} for number in range(3)}
    assert last(recorded.workspace) == wanted
    connection = sqlite3.connect(project / ".himl" / "workspace.db")
    connection.execute("DROP INDEX metrics_by_step")
    connection.execute("CREATE INDEX metrics_by_run ON metrics (run, name)")
    connection.close()
    assert last(LocalWorkspace(project / ".himl")) == wanted


def test_more_runs_and_names_than_a_query_takes_at_once(recorded: RecordedRuns, project: Path) -> None:
    recorded.log("sweep_1", [(f"metric {number}", float(number), 0, 0) for number in range(MANY)])
    with sqlite3.connect(project / ".himl" / "workspace.db") as connection:
        connection.executemany(
            "INSERT INTO runs (id, job, parent, experiment, display_name, description, command, folder, status, created)"
            " VALUES (?, ?, 'sweep', 'train', '', '', '', '', 'Completed', ?)",
            [(f"sweep_{number}", f"sweep_{number}", number) for number in range(3, MANY + 1)],
        )
        connection.execute("INSERT INTO metrics (run, name, step, time, value) VALUES (?, 'loss', 0, 0, 7.5)", (f"sweep_{MANY}",))
    connection.close()
    found = last(recorded.workspace)
    assert len(found) == MANY + 1
    assert found[f"sweep_{MANY}"] == {"loss": 7.5}
    runs = list(recorded.workspace.runs(RunQuery(parent="sweep")))
    some = recorded.workspace.results(runs, wanted=lambda name: name != "loss", whole=True)
    assert len(some["sweep_1"].series) == MANY + 1
    assert not some[f"sweep_{MANY}"].last


def test_files_that_hold_no_records_are_passed_over(recorded: RecordedRuns, project: Path) -> None:
    folder = project / ".himl" / "runs" / "sweep_0" / "artifacts" / "logged"
    folder.mkdir(parents=True)
    (folder / "word.jsonl").write_text('[1]\n{"kind": "scalar"}\n{"time": "2026-03-01T12:00:00+00:00", "kind": "scalar", "values": {"word": "yes"}}\n{"ti')
    (folder / "notes.txt").write_text("mine")
    assert last(recorded.workspace)["sweep_0"]["word"] == "yes"


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
