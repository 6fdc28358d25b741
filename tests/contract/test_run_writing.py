"""What every workspace promises that programs write to: the same cases on both. A new backend adds one seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import BadUsage, RunNotFound
from himl_cli.core.logged import Logged, LoggedKind, LoggedRow
from himl_cli.core.runs import Run, RunEnd, RunQuery, RunStatus
from himl_cli.services.runs import writing
from himl_cli.workspaces.base import RunRecorder
from tests.support.stores import Stored
from tests.support.workspaces import COMPLETED, Seed, Seen, azure, local


@pytest.fixture(params=[local, azure], ids=["local", "azure"])
def workspace(request: pytest.FixtureRequest, project: Path) -> Iterator[Seen]:
    seed: Seed = request.param
    with seed(request, project) as found:
        assert isinstance(found, RunRecorder)
        yield found
        for run in found.runs(RunQuery()):
            found.end_run(run.id, COMPLETED)  # gives back the locks of those kept here


@pytest.fixture
def run_id(workspace: Seen) -> str:
    return workspace.start_run(Run("train_1_aa", "train")).id


def values(workspace: Seen, run_id: str) -> dict[str, list[tuple[int, float]]]:
    return {metric.name: [(point.step, point.value) for point in metric.points] for metric in workspace.metrics(run_id)}


def test_a_run_is_started_found_and_ended(workspace: Seen) -> None:
    new = Run("train_1_aa", "train", display_name="first try", description="by hand", tags={"team": "blue"})
    started = workspace.start_run(new)
    assert (started.id, started.experiment, started.status) == ("train_1_aa", "train", RunStatus.running)
    assert (started.display_name, started.description, started.tags, started.parent) == ("first try", "by hand", {"team": "blue"}, None)
    assert started.started is not None
    assert [run.id for run in workspace.runs(RunQuery("train"))] == ["train_1_aa"]
    ended = workspace.end_run("train_1_aa", COMPLETED)
    assert ended.status is RunStatus.completed
    assert ended.ended is not None
    assert workspace.run("train_1_aa") == ended


def test_starting_it_again_changes_nothing(workspace: Seen, run_id: str) -> None:
    before = workspace.run(run_id)
    assert workspace.start_run(Run(run_id, "other", display_name="other")) == before
    workspace.end_run(run_id, COMPLETED)
    assert workspace.start_run(Run(run_id, "train")).status is RunStatus.completed


def test_a_failed_run_tells_why_and_the_first_end_stays(workspace: Seen, run_id: str) -> None:
    failed = workspace.end_run(run_id, RunEnd(RunStatus.failed, "no memory left"))
    assert (failed.status, failed.reason) == (RunStatus.failed, "no memory left")
    assert workspace.end_run(run_id, COMPLETED) == failed


def test_a_run_below_another_is_its_child(workspace: Seen, run_id: str) -> None:
    child = workspace.start_run(Run("train_2_bb", "train", parent=run_id))
    assert (child.parent, child.status) == (run_id, RunStatus.running)
    workspace.log("train_2_bb", [writing.scalar("loss", 0.5)])
    assert [(metric.run, metric.name) for metric in workspace.metrics(run_id)] == [("train_2_bb", "loss")]
    assert [run.id for run in workspace.runs(RunQuery(parent=run_id))] == ["train_2_bb"]
    assert workspace.end_run("train_2_bb", COMPLETED).status is RunStatus.completed
    with pytest.raises(RunNotFound, match="No run 'nope'"):
        workspace.start_run(Run("train_3_cc", "train", parent="nope"))


def test_scalars_come_back_with_their_steps(workspace: Seen, run_id: str) -> None:
    losses = [writing.scalar("loss", value, step) for step, value in enumerate([1, 0.5, math.inf])]
    workspace.log(run_id, [*losses, writing.scalar("odd name/ü", True), writing.scalar("loss", 0.25, 7)])
    workspace.settle(run_id)
    assert values(workspace, run_id) == {"loss": [(0, 1.0), (1, 0.5), (2, math.inf), (7, 0.25)], "odd name/ü": [(0, 1.0)]}


def test_a_value_that_is_no_number_is_one(workspace: Seen, run_id: str) -> None:
    workspace.log(run_id, [writing.scalar("loss", math.nan)])
    ((_, value),) = values(workspace, run_id)["loss"]
    assert math.isnan(value)


def test_values_without_steps_stay_in_order(workspace: Seen, run_id: str) -> None:
    for start in range(0, 600, 200):
        workspace.log(run_id, [writing.scalar("loss", float(number)) for number in range(start, start + 200)])
    assert [value for _, value in values(workspace, run_id)["loss"]] == [float(number) for number in range(600)]


def test_lists_are_counted_on(workspace: Seen, run_id: str) -> None:
    workspace.log(run_id, [writing.values("sizes", [3, 2]), writing.values("sizes", [1]), writing.values("many", range(700))])
    workspace.log(run_id, [writing.values("sizes", [0.5])])
    found = values(workspace, run_id)
    assert found["sizes"] == [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.5)]
    assert found["many"] == [(number, float(number)) for number in range(700)]


def test_columns_of_numbers_of_a_table_are_metrics(workspace: Seen, run_id: str) -> None:
    workspace.log(run_id, [writing.table("fruit", {"name": ["lime", "lemon"], "size": [3, 7.5]}), writing.row("fruit", {"name": "fig", "size": 1})])
    workspace.log(run_id, [writing.row("fruit", {"name": "plum", "size": 2})])
    assert values(workspace, run_id) == {"fruit/size": [(0, 3.0), (1, 7.5), (2, 1.0), (3, 2.0)]}


def test_texts_and_images_are_no_metrics(workspace: Seen, run_id: str) -> None:
    workspace.log(run_id, [writing.scalar("word", "yes"), writing.values("words", ["a", "b"]), writing.image("plot", "plot.png")])
    assert values(workspace, run_id) == {}


def test_texts_come_back_beside_the_numbers(workspace: Seen, run_id: str) -> None:
    child = workspace.start_run(Run("train_2_bb", "train", parent=run_id)).id
    workspace.log(child, [writing.scalar("kernel/kind", "rbf", 3)])
    workspace.log(run_id, [writing.scalar("word", "yes"), writing.scalar("word", "größer\nno"), writing.scalar("number", "3.5")])
    workspace.log(run_id, [writing.values("words", ["a", None, "b"]), writing.values("mixed", [1, "a"]), writing.image("plot", "plot.png")])
    workspace.log(run_id, [writing.table("fruit", {"kind": ["lime", "fig"], "size": [3, math.nan]}), writing.row("one", {"kind": "plum"})])
    workspace.settle(run_id)
    workspace.end_run(child, COMPLETED)
    found = workspace.values(run_id)
    assert {(texts.run, texts.name): [(point.step, point.value) for point in texts.points] for texts in found.texts} == {
        (run_id, "fruit/kind"): [(0, "lime"), (1, "fig")],
        (run_id, "mixed"): [(0, "1"), (1, "a")],
        (run_id, "number"): [(0, "3.5")],
        (run_id, "one/kind"): [(0, "plum")],
        (run_id, "word"): [(0, "yes"), (0, "größer\nno")],
        (run_id, "words"): [(0, "a"), (2, "b")],
        (child, "kernel/kind"): [(3, "rbf")],
    }
    assert [metric.name for metric in found.metrics] == [metric.name for metric in workspace.metrics(run_id)] == ["fruit/size"]


def test_a_table_of_one_column_is_named_as_every_table(workspace: Seen, run_id: str) -> None:
    workspace.log(run_id, [writing.row("rr", {"x": 1}), writing.table("t", {"a": [1, 2]}), writing.row("same", {"same": 3})])
    assert values(workspace, run_id) == {"rr/x": [(0, 1.0)], "t/a": [(0, 1.0), (1, 2.0)], "same/same": [(0, 3.0)]}


def test_what_is_sent_twice_is_kept_once(workspace: Seen, run_id: str) -> None:
    entries = [writing.scalar("loss", 0.5), writing.values("sizes", [1, 2]), writing.table("t", {"a": [1, 2], "b": ["x", "y"]})]
    workspace.log(run_id, entries)
    workspace.log(run_id, entries)
    assert values(workspace, run_id) == {"loss": [(0, 0.5)], "sizes": [(0, 1.0), (1, 2.0)], "t/a": [(0, 1.0), (1, 2.0)]}


def test_equal_values_are_different_points(workspace: Seen, run_id: str) -> None:
    workspace.log(run_id, [Logged("acc", LoggedKind.scalar, [LoggedRow({"acc": 1.0}) for _ in range(3)])])
    assert [value for _, value in values(workspace, run_id)["acc"]] == [1.0, 1.0, 1.0]


def test_parameters_keep_their_values(workspace: Seen, run_id: str) -> None:
    many = {f"p{number}": str(number) for number in range(150)}
    workspace.log_parameters(run_id, many)
    workspace.log_parameters(run_id, {"p1": "1", "lr": "0.1"})
    assert workspace.parameters(run_id) == dict(sorted({**many, "lr": "0.1"}.items()))
    with pytest.raises(BadUsage, match="lr"):
        workspace.log_parameters(run_id, {"lr": "0.2"})
    assert workspace.parameters(run_id)["lr"] == "0.1"


def stored(workspace: Seen, run_id: str, files: dict[str, bytes], folder: Path) -> Stored:
    requests = []
    for number, (name, content) in enumerate(files.items()):
        (folder / str(number)).write_bytes(content)
        requests.append(StoreRequest(folder / str(number), name, len(content), hashlib.md5(content).digest()))
    sink = Stored()
    workspace.run_files(run_id).store(iter(requests), sink, workers=4)
    return sink


def test_files_are_stored_and_replaced(workspace: Seen, run_id: str, tmp_path: Path) -> None:
    files = {"outputs/model.bin": b"m" * 10, "plots/größe #1.png": b"p", "empty": b"", **{f"many/{number:03}": b"x" for number in range(60)}}
    assert stored(workspace, run_id, files, tmp_path).errors == {}
    place = workspace.run_files(run_id)
    assert {blob.name: blob.size for page in place.list() for blob in page} == {name: len(content) for name, content in files.items()}
    assert stored(workspace, run_id, {"outputs/model.bin": b"new", "beside": b"b"}, tmp_path).errors == {}
    assert b"".join(workspace.run_files(run_id).read("outputs/model.bin")) == b"new"
    assert b"".join(workspace.run_files(run_id).read("beside")) == b"b"


def test_a_large_file_arrives(workspace: Seen, run_id: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * (9 << 12)  # 9 MiB: more than goes in one request
    assert stored(workspace, run_id, {"outputs/large": content}, tmp_path).errors == {}
    assert b"".join(workspace.run_files(run_id).read("outputs/large")) == content


def test_a_name_that_cannot_be_is_refused(workspace: Seen, run_id: str, tmp_path: Path) -> None:
    sink = stored(workspace, run_id, {"../up": b"x", "good": b"x"}, tmp_path)
    assert [*sink.errors] == ["../up"]
    assert [blob.name for page in workspace.run_files(run_id).list() for blob in page] == ["good"]


@pytest.mark.parametrize("unknown", ["nope", "..", "a/b"])
def test_an_unknown_run_is_not_made_up(workspace: Seen, unknown: str) -> None:
    for write in (
        lambda: workspace.log(unknown, [writing.scalar("loss", 1)]),
        lambda: workspace.log_parameters(unknown, {"a": "b"}),
        lambda: workspace.settle(unknown),
        lambda: workspace.end_run(unknown, COMPLETED),
        lambda: workspace.run_files(unknown),
    ):
        with pytest.raises(RunNotFound, match="No run '"):
            write()
    assert [*workspace.runs(RunQuery())] == []
