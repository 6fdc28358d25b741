"""The files of raw results, and what is printed of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stress.records import Outcome, Record, RecordFile, Result, lost, read_records
from stress.report import lost_lines, table, totals
from tests.support.machine import machine, source, versions

META = {"part": "faults", "full": False, "seed": 8}
RECORDS = [
    Record("faults/tb/flip/01", Result(Outcome.lost, 0, 1.234, 1, None, "exit code 0, but 'x' is lacking", {"met": "FlipByte(at=1)"})),
    Record("faults/list/reset/00", Result(Outcome.survived, 0, 0.5, 2, 0)),
    Record("faults/list/reset/01", Result(Outcome.reported, 5, 6.0, 5, 0)),
    Record("faults/list/reset/02", Result(Outcome.not_met, 0, 0.4, 0, 0)),
]


def written(folder: Path) -> RecordFile:
    file = RecordFile(folder / "results", META)
    for record in RECORDS:
        file.add(record)
    return file


def test_a_file_begins_with_the_run_and_has_the_cases_in_order(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.finish(12.34, full=True)
    lines = file.path.read_text().splitlines()
    assert json.loads(lines[0]) == {"kind": "meta", "part": "faults", "full": True, "seed": 8, "seconds": 12.3}
    assert lines[1] == '{"again":0,"code":0,"facts":{},"hits":2,"id":"faults/list/reset/00","kind":"case","outcome":"survived","seconds":0.5,"why":""}'
    meta, records = read_records(file.path)
    assert meta == json.loads(lines[0])
    assert [record.id for record in records] == sorted(record.id for record in RECORDS)
    assert records[-1].result == Result(Outcome.lost, 0, 1.23, 1, None, "exit code 0, but 'x' is lacking", {"met": "FlipByte(at=1)"})


def test_interrupted_run_keeps_records_but_is_no_result(tmp_path: Path) -> None:
    path = written(tmp_path).path
    assert len(path.read_text().splitlines()) == 1 + len(RECORDS)
    with pytest.raises(ValueError, match=r"'faults\.jsonl' has no meta line of a run that came to its end"):
        read_records(path)


@pytest.mark.parametrize("line", ['{"kind":"case","id":"a/b/0"}', '{"kind":"case","id":"a/b/0","outcome":"won","code":0,"seconds":1}', "{}"])
def test_a_line_that_is_no_case_is_refused(tmp_path: Path, line: str) -> None:
    file = written(tmp_path)
    file.finish(1.0, full=True)
    with file.path.open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"not the line of a case|not a valid Outcome"):
        read_records(file.path)


def test_table_counts_each_cell_and_totals_omit_unmet_cases() -> None:
    assert table(RECORDS) == [
        "           list     tb",
        "flip          -  0/0/1",
        "reset  1/1/0 +1      -",
    ]
    assert totals(RECORDS) == "3 injected: 1 survived, 1 reported, 1 lost; 1 cases in which it was not met"


def test_what_is_lost_is_told_with_the_command_that_shows_it() -> None:
    assert [record.id for record in lost(RECORDS)] == ["faults/tb/flip/01"]
    assert lost_lines(RECORDS, 8) == [
        "LOST faults/tb/flip/01: exit code 0, but 'x' is lacking",
        "     met: FlipByte(at=1)",
        "     python -m stress --case faults/tb/flip/01 --seed 8",
    ]


def test_the_machine_is_told_without_its_names(tmp_path: Path) -> None:
    told = json.dumps([machine(tmp_path), versions(), source()])
    assert set(versions()) == {"python", "himl", "azurite", "node", "libcurl", "azure-ai-ml", "hypothesis"}
    assert str(tmp_path) not in told
    assert str(Path.home()) not in told


def test_result_files_do_not_make_source_dirty(tmp_path: Path, git: Callable[..., str]) -> None:
    (tmp_path / "stress" / "results").mkdir(parents=True)
    (tmp_path / "a.py").write_text("a = 1\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        git(tmp_path, *arguments)
    (tmp_path / "stress" / "results" / "faults.jsonl").write_text("{}\n")
    assert source(tmp_path) == {"commit": git(tmp_path, "rev-parse", "HEAD").strip(), "dirty": False}
    (tmp_path / "a.py").write_text("a = 2\n")
    assert source(tmp_path)["dirty"]


def test_a_run_that_was_ended_goes_on_where_it_was(tmp_path: Path) -> None:
    first = RecordFile(tmp_path, {"part": "names", "seed": 3, "commit": "abc", "dirty": False})
    first.add(Record("names/a/b/01", Result(Outcome.survived, 0, 1.0)))
    file = RecordFile.to_go_on(first.path, {"commit": "def", "dirty": False})
    assert ([record.id for record in file.records], file.seed) == (["names/a/b/01"], 3)
    file.add(Record("names/a/b/00", Result(Outcome.survived, 0, 1.0)))
    file.finish(2.0, full=True)
    meta, records = read_records(file.path)
    assert (meta["commit"], meta["went_on"]) == ("abc", [{"commit": "def", "dirty": False, "after": 1}])
    assert [record.id for record in records] == ["names/a/b/00", "names/a/b/01"]
    with pytest.raises(ValueError, match="was ended before"):
        RecordFile.to_go_on(file.path, {"commit": "def", "dirty": False})
