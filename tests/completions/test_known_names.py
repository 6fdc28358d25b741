"""Names of the local workspace for completions: which, in what order, by which index, and never a failure."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from himl_cli.workspaces.local.completion_names import EXPERIMENTS, FEW, MOST, NEWEST, completion_names
from tests.support.runs import RecordedRuns

HOSTILE = [
    "a b",
    "a'b",
    'a"b',
    "$(touch x)",
    "`touch x`",
    "a;b",
    "a\nb",
    "größe",
    "-rf",
    "~root",
    "a:b",
    "a=b",
    "a,b",
    "{a,b}",
    "*",
    "",
    "!x",
    "\x1b[31m",
    "a\\b",
]


@pytest.fixture
def recorded(tmp_path: Path) -> RecordedRuns:
    return RecordedRuns(tmp_path)


def test_runs_come_newest_first_and_begin_as_asked(recorded: RecordedRuns, tmp_path: Path) -> None:
    for name in ("train_1_aa", "other_1_bb", "train_0_cc", "Train_2_dd"):
        recorded.add(name)
    assert completion_names(tmp_path / ".himl", "runs", "") == ["Train_2_dd", "train_0_cc", "other_1_bb", "train_1_aa"]
    assert completion_names(tmp_path / ".himl", "runs", "train_") == ["train_0_cc", "train_1_aa"]
    assert completion_names(tmp_path / ".himl", "runs", "nothing") == []


def test_trials_wait_for_the_whole_id_above_them(recorded: RecordedRuns, tmp_path: Path) -> None:
    recorded.add("sweep_1_aa")
    for number in range(3):
        recorded.add(f"sweep_1_aa_{number}", parent="sweep_1_aa")
    recorded.add("sweep_2_bb")
    folder = tmp_path / ".himl"
    assert completion_names(folder, "runs", "sweep_") == ["sweep_2_bb", "sweep_1_aa"]
    assert completion_names(folder, "runs", "sweep_1_a") == ["sweep_1_aa"]
    assert completion_names(folder, "runs", "sweep_1_aa") == ["sweep_1_aa", "sweep_1_aa_2", "sweep_1_aa_1", "sweep_1_aa_0"]
    assert completion_names(folder, "runs", "sweep_1_aa_") == ["sweep_1_aa_2", "sweep_1_aa_1", "sweep_1_aa_0"]


def test_experiments_come_once_each_by_name(recorded: RecordedRuns, tmp_path: Path) -> None:
    for number, experiment in enumerate(["seg", "digits", "seg", "dig"]):
        recorded.add(f"run_{number}_aa", experiment=experiment)
    assert completion_names(tmp_path / ".himl", "experiments", "") == ["dig", "digits", "seg"]
    assert completion_names(tmp_path / ".himl", "experiments", "digi") == ["digits"]
    assert completion_names(tmp_path / ".himl", "experiments", "z") == []


def test_names_that_a_shell_might_read_are_left_out(recorded: RecordedRuns, tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE):
        recorded.add(f"run_{number}_aa", experiment=name)
    recorded.add("fine_1_aa", experiment="val/fine-1.0+x")
    assert completion_names(tmp_path / ".himl", "experiments", "") == ["val/fine-1.0+x"]
    assert completion_names(tmp_path / ".himl", "experiments", "$") == []


def test_an_answer_has_an_end(recorded: RecordedRuns, tmp_path: Path) -> None:
    recorded.add_many(MOST + 50)
    assert len(completion_names(tmp_path / ".himl", "runs", "many_")) == MOST


@pytest.mark.parametrize(("prefix", "count"), [("", MOST), ("many_", MOST), ("nothing", 0), ("many_1772366400_00000000", 1)])
def test_completion_misses_no_name_among_100000_runs(recorded: RecordedRuns, tmp_path: Path, prefix: str, count: int) -> None:
    recorded.add_many(100_000)
    assert len(completion_names(tmp_path / ".himl", "runs", prefix)) == count
    assert completion_names(tmp_path / ".himl", "experiments", "m") == ["many"]


@pytest.mark.parametrize("query", [FEW, NEWEST, EXPERIMENTS], ids=["few", "newest", "experiments"])
def test_no_query_reads_or_sorts_all_runs(recorded: RecordedRuns, tmp_path: Path, query: str) -> None:
    recorded.add("train_1_aa")
    with closing(sqlite3.connect(tmp_path / ".himl" / "workspace.db")) as connection:
        values = ["1"] * max(number for number in (1, 2, 3) if f"?{number}" in query)
        steps = [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
    assert any("USING" in step and "INDEX" in step for step in steps)
    assert not [step for step in steps if "B-TREE" in step or ("runs" in step and "INDEX" not in step)]


def test_what_cannot_be_read_has_no_names(tmp_path: Path) -> None:
    folder = tmp_path / ".himl"
    assert completion_names(folder, "runs", "") == []
    folder.mkdir()
    assert completion_names(folder, "runs", "") == []
    (folder / "workspace.db").write_bytes(b"this is no database" * 1000)
    assert completion_names(folder, "runs", "") == []
    assert sorted(path.name for path in folder.iterdir()) == ["workspace.db"]
    (folder / "workspace.db").write_bytes(b"")
    assert completion_names(folder, "experiments", "") == []


def test_looking_leaves_no_files(tmp_path: Path) -> None:
    RecordedRuns(tmp_path).add("train_1_aa")
    gc.collect()  # closes the record, and takes the files of its journal away
    before = sorted(path.name for path in (tmp_path / ".himl").iterdir())
    assert "workspace.db-wal" not in before
    assert completion_names(tmp_path / ".himl", "runs", "") == ["train_1_aa"]
    assert sorted(path.name for path in (tmp_path / ".himl").iterdir()) == before


def test_a_record_that_is_being_written_is_not_waited_for(recorded: RecordedRuns, tmp_path: Path) -> None:
    recorded.add("train_1_aa")
    writer = sqlite3.connect(tmp_path / ".himl" / "workspace.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE runs SET status = 'Failed'")
    assert completion_names(tmp_path / ".himl", "runs", "") == ["train_1_aa"]
    writer.close()


def test_a_workspace_that_may_only_be_read_has_names(tmp_path: Path, read_only: Callable[[Path], Path]) -> None:
    RecordedRuns(tmp_path).add("train_1_aa")
    gc.collect()
    assert completion_names(read_only(tmp_path / ".himl"), "runs", "") == ["train_1_aa"]


def test_half_a_character_is_refused(recorded: RecordedRuns, tmp_path: Path) -> None:
    recorded.add("train_1_aa")
    with pytest.raises(UnicodeEncodeError):
        completion_names(tmp_path / ".himl", "runs", "\ud800")
