"""The columns of a table of runs."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from himl_cli.core.runs import Run, RunStatus
from himl_cli.render.output import fitted
from himl_cli.render.run_views import RUN_COLUMNS, WORKSPACE_COLUMN, run_columns

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def run(run_id: str, workspace: str) -> Run:
    return Run(run_id, "train", RunStatus.completed, NOON, workspace=workspace)


def test_the_workspace_is_a_column_once_there_are_two() -> None:
    here, there = run("a", "local workspace '.himl'"), run("b", "workspace team/lab")
    titles = [column.title for column in RUN_COLUMNS]
    assert [column.title for column in run_columns([here, here])] == titles
    assert tuple(run_columns([])) == RUN_COLUMNS
    assert [column.title for column in run_columns([here, there])] == [*titles, WORKSPACE_COLUMN.title]


@pytest.mark.parametrize(("named", "kept"), [(1, "EXPERIMENT"), (4, "DISPLAY NAME")])
def test_narrow_table_keeps_experiment_over_rare_display_name(named: int, kept: str) -> None:
    runs = [
        Run(f"train_177236640{number}_0a1b2c3d", "a_long_experiment", RunStatus.completed, NOON, started=NOON, display_name="a long name" * (number < named))
        for number in range(4)
    ]
    columns = run_columns(runs)
    natural = [max(len(column.title), *(len(column.text(run)) for run in runs)) for column in columns]
    shown = {column.title for column, size in zip(columns, fitted(natural, columns, 75), strict=True) if size}
    assert {"EXPERIMENT", "DISPLAY NAME"} & shown == {kept}


def test_a_workspace_is_short_for_people_and_whole_for_programs() -> None:
    here, there = run("a", "local workspace '.himl'"), run("b", "workspace team/lab")
    assert [WORKSPACE_COLUMN.text(each) for each in (here, there)] == ["local", "team/lab"]
    assert WORKSPACE_COLUMN.plain is not None
    assert [WORKSPACE_COLUMN.plain(each) for each in (here, there)] == ["local workspace '.himl'", "team/lab"]


def test_a_name_that_is_the_id_is_not_shown_twice() -> None:
    (column,) = [column for column in RUN_COLUMNS if column.title == "DISPLAY NAME"]
    named = Run("a", "train", RunStatus.completed, NOON, display_name="a")
    assert column.text(named) == ""
    assert column.plain is not None
    assert column.plain(named) == "a"
