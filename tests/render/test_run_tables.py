"""The columns of a table of runs."""

from __future__ import annotations

from datetime import datetime, timezone

from himl_cli.core.runs import Run, RunStatus
from himl_cli.render.run_tables import RUN_COLUMNS, WORKSPACE_COLUMN, run_columns

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def run(run_id: str, workspace: str) -> Run:
    return Run(run_id, "train", RunStatus.completed, NOON, workspace=workspace)


def test_the_workspace_is_a_column_once_there_are_two() -> None:
    here, there = run("a", "local workspace '.himl'"), run("b", "workspace team/lab")
    assert tuple(run_columns([here, here])) == RUN_COLUMNS
    assert tuple(run_columns([])) == RUN_COLUMNS
    assert tuple(run_columns([here, there])) == (*RUN_COLUMNS, WORKSPACE_COLUMN)


def test_a_workspace_is_short_for_people_and_whole_for_programs() -> None:
    here, there = run("a", "local workspace '.himl'"), run("b", "workspace team/lab")
    assert [WORKSPACE_COLUMN.text(each) for each in (here, there)] == ["local", "team/lab"]
    assert WORKSPACE_COLUMN.plain is not None
    assert WORKSPACE_COLUMN.plain(there) == "workspace team/lab"


def test_a_name_that_is_the_id_is_not_shown_twice() -> None:
    (column,) = [column for column in RUN_COLUMNS if column.title == "DISPLAY NAME"]
    named = Run("a", "train", RunStatus.completed, NOON, display_name="a")
    assert column.text(named) == ""
    assert column.plain is not None
    assert column.plain(named) == "a"
