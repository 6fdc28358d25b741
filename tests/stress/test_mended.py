"""Lost cases that are run again: what their file says then."""

from __future__ import annotations

from pathlib import Path

from stress.__main__ import main
from stress.mended import with_mended
from stress.records import Outcome, Record, RecordFile, Result

LOST, SURVIVED = Result(Outcome.lost, 0, 1.0, why="wrong bytes"), Result(Outcome.survived, 0, 1.0)
COMMIT = {"commit": "abc", "dirty": False}


def test_the_first_reason_is_kept_with_the_commit_that_is_right() -> None:
    before = {name: Record(name, LOST) for name in ("a", "b")}
    meta = with_mended({"part": "names"}, before, {"a": Record("a", SURVIVED), "b": Record("b", LOST)}, COMMIT)
    assert meta == {"part": "names", "mended": {"a": {"why": "wrong bytes", **COMMIT}}}
    again = with_mended(meta, {"a": Record("a", Result(Outcome.lost, 1, 1.0, why="later"))}, {"a": Record("a", SURVIVED)}, {**COMMIT, "commit": "def"})
    assert again["mended"] == {"a": {"why": "wrong bytes", **COMMIT, "commit": "def"}}


def test_where_nothing_was_lost_nothing_is_run_or_written(tmp_path: Path) -> None:
    file = RecordFile(tmp_path, {"part": "names", "seed": 1})
    file.add(Record("names/download/dots/00", SURVIVED))
    file.finish(1.0, full=True)
    before = file.path.read_bytes()
    assert main(["--mended", "--results", str(tmp_path)]) == 0
    assert file.path.read_bytes() == before
