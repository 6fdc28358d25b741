"""What counts as wrong with many blobs, runs, writers and looks."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.azure.storage.container import AzureBlobs
from himl_cli.workspaces.azure.storage.signing import SasSigner
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import Database, RunStore
from stress.gauges import slope
from stress.load.cases import LARGE, load_cases
from stress.load.listing import wrong_listing
from stress.load.measured import Measured, growth_wrong, measured
from stress.load.polling import Figures, wrong_rises
from stress.load.runs import non_linear, wrong_answers, wrong_submissions
from stress.load.synthetic import blob_name, service_that_makes_up_blobs, wrong_plan
from stress.load.writers import TURNS, wrong_rows, wrong_tags, wrong_writers

IDS = ["a_1", "b_2", "c_3"]


def test_all_that_is_large_is_a_cell_that_there_is() -> None:
    cells = {case.cell for case in load_cases()}
    assert cells > LARGE
    assert len(cells - LARGE) == len(LARGE)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="NEEDS Linux, which tells a process's peak of memory")
def test_memory_is_that_of_the_program(tmp_path: Path) -> None:
    for seconds in (0.2, 5.0):  # the longer time for a machine that is too slow to look while the memory is held
        small, large = (
            measured([sys.executable, "-c", f"import time; kept = b'x' * ({size} << 20); time.sleep({seconds})"], tmp_path / "out", tmp_path, {})
            for size in (1, 40)
        )
        if large.peak - small.peak > 30:
            break
    assert 30 < large.peak - small.peak < 90
    assert growth_wrong(small.peak, large.peak, 4.0) != []
    assert growth_wrong(small.peak, small.peak + 3, 4.0) == []


def test_a_listing_has_all_names_in_their_order() -> None:
    done = Measured(0, 1.0, 60.0, "")
    assert wrong_listing(done, ["x/a", "x/b"], ["a", "b"], "list") == []
    assert wrong_listing(done, ["x/b", "x/a"], ["a", "b"], "list") != []
    assert wrong_listing(done, ["x/a"], ["a", "b"], "list") == ["list of 2 has 1 lines"]
    assert wrong_listing(Measured(0, 1.0, 151.0, ""), ["a"], ["a"], "list") != []
    assert wrong_listing(Measured(5, 1.0, 60.0, "error: no"), [], ["a"], "list") == ["list of 1: exit code 5: error: no"]


def test_made_up_blobs_are_listed_page_by_page_and_in_order() -> None:
    with service_that_makes_up_blobs() as port:
        names = [blob.name for page in AzureBlobs(f"http://127.0.0.1:{port}/account/5001", SasSigner("sig=x")).list() for blob in page]
    assert names == sorted(names) == [blob_name(number) for number in range(5001)]


def test_a_plan_wants_each_blob_once_and_in_order() -> None:
    told = {"wanted": 2, "bytes": 32, "first": blob_name(0), "last": blob_name(1), "in_order": True}
    assert wrong_plan(json.dumps(told), 2) == []
    assert wrong_plan(json.dumps({**told, "in_order": False}), 2) != []
    assert wrong_plan(json.dumps({**told, "wanted": 1}), 2) != []


def test_answers_about_runs_are_told_from_wrong_ones() -> None:
    runs = [{"id": run_id} for run_id in IDS[::-1]]
    told = {"list": runs, "show": runs[1], "latest": runs[0], "tagged": [runs[1]], "aggregate": IDS}
    assert wrong_answers(IDS, "b_2", told) == []
    for name, other in {"list": runs[::-1], "show": runs[0], "latest": runs[1], "tagged": runs, "aggregate": IDS[:2]}.items():
        assert len(wrong_answers(IDS, "b_2", {**told, name: other})) == 1


def test_submissions_are_all_there_and_completed() -> None:
    listed = {run_id: {"status": "Completed"} for run_id in IDS}
    assert wrong_submissions({"b_2", "c_3"}, ["a_1"], listed, 2) == []
    assert wrong_submissions({"b_2", "c_3"}, ["a_1"], {**listed, "c_3": {"status": "Failed"}}, 2) == ["1 are not Completed, as c_3"]
    assert wrong_submissions({"b_2"}, ["a_1"], listed, 2) != []


def test_only_what_grows_faster_than_the_runs_is_too_slow() -> None:
    assert non_linear({"list": 0.2}, {"list": 1.4}, 5.0) == []
    assert non_linear({"list": 0.2}, {"list": 5.0}, 5.0) == ["'list' takes 25 times as long for 5 times as many runs"]


def test_rows_of_writers_are_all_there_with_their_own_values(tmp_path: Path) -> None:
    path = tmp_path / "workspace.db"
    with closing(Database(path, create=True)) as database:
        store, metrics = RunStore(database), MetricStore(database)
        for turn in range(3):
            run_id = f"w000_{turn:04d}"
            store.add(Run(run_id, "writers", tags={"writer": "0"}))
            store.end(run_id, RunStatus.completed, exit_code=0)
            metrics.log(run_id, [("loss", float(turn), 0, 1)])
    assert wrong_rows(path, 1) == [f"runs, tags and values are (3, 3, 3, 3), not {(TURNS,) * 4}"]
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE metrics SET value = 7")
        raw.execute("UPDATE tags SET value = '1'")
    assert wrong_rows(path, 1) == [f"runs, tags and values are (3, 0, 0, 3), not {(TURNS,) * 4}"]
    assert wrong_writers([{"errors": []}, {"errors": ["is busy"]}]) == ["1 writes failed, as: is busy"]


def test_tags_of_all_commands_are_there() -> None:
    assert wrong_tags({"key_0": "0", "key_1": "1", "team": "a"}, [(0, ""), (0, "")]) == []
    assert wrong_tags({"key_0": "0", "key_1": "0"}, [(0, ""), (0, "")]) == ["1 tags are lacking, or have other values"]
    assert len(wrong_tags({"key_0": "0"}, [(0, ""), (1, "error")])) == 2


def test_a_rise_is_told_from_noise() -> None:
    steady = Figures([40.0, 70.0, *[72.0, 72.3] * 9], [30.0, 32.0, *[32.0, 33.0] * 9])
    assert wrong_rises(*steady.rises()) == []
    rising = Figures([70.0 + number for number in range(25)], [30.0 + number for number in range(25)])
    assert len(wrong_rises(*rising.rises())) == 2
    assert (slope([1.0, 3.0, 5.0]), slope([7.0])) == (2.0, 0.0)
