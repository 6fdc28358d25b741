"""Tests of choosing a run's checkpoint: the last one, that of an epoch, or the best one, by file names or logged
metrics.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Sequence
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.locks import ProcessLock
from himl_cli.core.logged import goal_of
from himl_cli.core.runs import BROUGHT, FROM_RUN, PUSHED, RunStatus
from himl_cli.core.sweeps import BEST_TRIAL, GOAL, HYPERPARAMETERS, MANY, PRIMARY_METRIC
from himl_cli.services.checkpoints.names import (
    CheckpointKind,
    best_first,
    is_whole,
    on_disk,
    parse_name,
    rank_of,
    same_metric,
)
from himl_cli.services.checkpoints.select import Candidates, candidates_of, choice_of, choose, content_of
from himl_cli.services.checkpoints.source import find_checkpoint
from tests.support.running import write_files
from tests.support.runs import CREATED, HERE, RETRY, RUN, RecordedRuns, add, found, log, name
from tests.support.stores import ListedFiles


@pytest.fixture
def runs(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", "weights" * 100)
    return stream.getvalue()


def test_name_tells_epoch_step_metrics_and_their_goal() -> None:
    told: dict[str, tuple[int | None, int | None, dict[str, float]]] = {
        "epoch=3-step=40-val_loss=0.12.ckpt": (3, 40, {"val_loss": 0.12}),
        "epoch=03-val/loss=0.12-v1.ckpt": (3, None, {"val/loss": 0.12}),
        "val_loss=-0.50-val_acc=.9-epoch=10.pt": (10, None, {"val_loss": -0.5, "val_acc": 0.9}),
        "epoch=3-val_loss=inf.ckpt": (3, None, {"val_loss": math.inf}),
        "checkpoint_epoch12_step800.pth": (12, 800, {}),
        "epoch=5 (val_loss=0.05).ckpt": (5, None, {"val_loss": 0.05}),
        "model-epoch=1-val/acc=0.5.ckpt": (1, None, {"val/acc": 0.5}),
        "resnet-val_loss=0.30.ckpt": (None, None, {"resnet-val_loss": 0.3}),
    }
    for text, meant in told.items():
        parsed_one = parse_name(text)
        assert (parsed_one.epoch, parsed_one.step, parsed_one.metrics) == meant
    best = {
        "best-v3.ckpt": "",
        "best_model.pt": "",
        "best_val_loss.ckpt": "val_loss",
        "best-val/auc.ckpt": None,
        "best-epoch=3.ckpt": "",
    }
    best |= {"best_epoch=3-val_loss=0.1.ckpt": None, "bestow.ckpt": None}
    assert {text: parse_name(text).best_of for text in best} == best
    parsed = [parse_name(text) for text in ("epoch=3-a=0.1.ckpt", "epoch=3-a=0.1-v7.ckpt")]
    assert [(one.stem, one.version) for one in parsed] == [("epoch=3-a=0.1", 0), ("epoch=3-a=0.1", 7)]
    assert same_metric("val/loss", "val_loss")
    assert not same_metric("val_loss", "loss")
    common = dict.fromkeys(("val/loss", "valLoss", "dice_loss", "test_RMSE"), "minimize")
    common |= dict.fromkeys(("val_acc", "F1", "valAUC", "mean_dice", "val_mAP", "mAP50", "mIoU"), "maximize")
    assert {metric: goal_of(metric, None) for metric in common} == common
    for metric in (
        "score",
        "closs",
        "accident",
        "neg_log_loss",
        "val_neg_rmse",
        "inverseLoss",
        "error_free_rate",
        "loss_scale",
        "interruptions",
    ):
        assert goal_of(metric, "maximize") == "maximize"
        with pytest.raises(BadUsage, match=metric) as caught:
            goal_of(metric, None)
        assert "--goal" in caught.value.hint


def test_recovery_files_and_retry_folders_are_ranked() -> None:
    for files in (
        ["recovery_epoch=10.ckpt", "recovery_epoch=9-v2.ckpt", "recovery_epoch=9-v1.ckpt", "recovery_epoch=9.ckpt"],
        ["recovery_epoch=0.ckpt", "autosave-v1.ckpt", "autosave.ckpt", "last.ckpt"],
    ):
        others = [
            "recovery_epoch=17.ckpt.tmp",
            ".recovery_epoch=18.ckpt",
            "recovery_epoch=19.ckpt~",
            "best.ckpt",
            "notes.txt",
            "my_recovery_9.ckpt",
        ]
        assert best_first(f"{HERE}/{each}" for each in (*others, *reversed(files))) == [
            f"{HERE}/{each}" for each in files
        ]
    names = [
        f"{HERE}/recovery_epoch=5.ckpt",
        "outputs/retry_001/checkpoints/recovery_epoch=7.ckpt",
        "outputs/retry_002/checkpoints/recovery_epoch=6.ckpt",
    ]
    assert best_first(names)[0] == names[1]
    same = [
        f"{HERE}/recovery_epoch=7-v3.ckpt",
        "outputs/retry_002/checkpoints/recovery_epoch=7.ckpt",
        "outputs/retry_010/checkpoints/recovery_epoch=7.ckpt",
    ]
    assert best_first(same) == [same[2], same[1], same[0]]
    assert best_first(["ckpt/recovery_1", "retry_001/ckpt/recovery_2", f"{HERE}/recovery_3"], "ckpt") == [
        "retry_001/ckpt/recovery_2",
        "ckpt/recovery_1",
    ]
    for elsewhere in (
        "recovery_1.ckpt",
        "outputs/recovery_1.ckpt",
        f"{HERE}/old/recovery_1.ckpt",
        "outputs/retry_x/checkpoints/recovery_1.ckpt",
    ):
        assert rank_of(elsewhere) is None


def test_checkpoint_on_disk_is_taken_only_if_all_files_are_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = json.dumps(
        {"__metadata__": {"epoch": "3"}, "w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    ).encode()
    for ending, content in (("ckpt", archive()), ("safetensors", struct.pack("<Q", len(header)) + header + bytes(16))):
        path = tmp_path / f"recovery_1.{ending}"
        path.write_bytes(content)
        assert is_whole(path)
        for size in (*range(0, len(content), 7), len(content) - 1):
            path.write_bytes(content[:size])
            assert not is_whole(path) or (ending == "ckpt" and size < 4), size
    folder = tmp_path / HERE / "recovery_epoch=4.ckpt"
    folder.mkdir(parents=True)
    write_files(tmp_path / HERE, {"last.ckpt": archive()})
    assert on_disk(tmp_path) == tmp_path / HERE / "last.ckpt", "what submit brought is the last choice"
    (tmp_path / HERE / "last.ckpt").unlink()
    assert on_disk(tmp_path) is None
    write_files(folder, {"a.pt": archive(), "b.pt": archive()})
    write_files(tmp_path / HERE, {"last.ckpt": archive()})
    assert on_disk(tmp_path) == folder
    write_files(folder, {"b.pt": archive()[:50]})
    assert on_disk(tmp_path, least=CheckpointKind.autosave) is None
    caplog.clear()
    write_files(
        tmp_path / HERE,
        {
            "recovery_5.ckpt": archive(),
            "recovery_6.ckpt": archive(),
            "recovery_7.ckpt": archive()[:-9],
            "recovery_8.ckpt": b"",
        },
    )
    assert on_disk(tmp_path) == tmp_path / HERE / "recovery_6.ckpt"
    assert [
        f"'{HERE}/recovery_{epoch}.ckpt'" in record.getMessage()
        for epoch, record in zip((8, 7), caplog.records, strict=True)
    ] == [True, True]


STARTED_FROM = {FROM_RUN: "old"}


@pytest.mark.parametrize(("names", "options", "taken"), [
    (["last.ckpt", "last-v1.ckpt", "last-v10.ckpt", "last-v9.ckpt"], {}, "last-v10.ckpt"),
    (["last.ckpt", f"{RETRY}/last.ckpt", "outputs/retry_000/checkpoints/last.ckpt"], {}, f"{RETRY}/last.ckpt"),
    (["last.ckpt", f"{RETRY}/recovery_epoch=4.ckpt"], {}, f"{RETRY}/recovery_epoch=4.ckpt"),
    (["last.ckpt/a", "last.ckpt/b/c", "recovery_epoch=2.ckpt"], {}, "last.ckpt"),
    (["recovery_epoch=9.ckpt", f"{RETRY}/recovery_epoch=2.ckpt"], {}, f"{RETRY}/recovery_epoch=2.ckpt"),
    (["last.ckpt", "recovery_epoch=1.ckpt", "recovery_epoch=2.ckpt"], {"tags": STARTED_FROM}, "recovery_epoch=2.ckpt"),
    (["last.ckpt", "best.ckpt"], {"tags": STARTED_FROM}, "last.ckpt"),
    (["last.ckpt", "recovery_epoch=1.ckpt"], {"tags": {**STARTED_FROM, PUSHED: "1"}}, "last.ckpt"),
    (["epoch=3.ckpt", "epoch=13.ckpt", "last.ckpt"], {"select": "epoch=3"}, "epoch=3.ckpt"),
    (["epoch=3.ckpt", f"{RETRY}/recovery_epoch=3.ckpt"], {"select": "epoch=3"}, f"{RETRY}/recovery_epoch=3.ckpt"),
    (["epoch=3.ckpt", "epoch=3-v1.ckpt"], {"select": "epoch=3"}, "epoch=3-v1.ckpt"),
    (["epoch=3.ckpt/shard_0.pt", "epoch=3.ckpt/shard_1.pt"], {"select": "epoch=3"}, "epoch=3.ckpt"),
    (["epoch=3.ckpt", "epoch=3.json"], {"select": "epoch=3"}, "epoch=3.ckpt"),
    (["epoch=1-val_loss=0.30.ckpt", "epoch=2-val_loss=1e-3.ckpt", "last.ckpt"], {"select": "best"},
        "epoch=2-val_loss=1e-3.ckpt"),
    (["epoch=1-val_acc=0.30.ckpt", "epoch=2-val_acc=0.9.ckpt"], {"select": "best", "goal": "minimize"},
        "epoch=1-val_acc=0.30.ckpt"),
    (["epoch=1-val_loss=nan.ckpt", "epoch=2-val_loss=7.ckpt"], {"select": "best"}, "epoch=2-val_loss=7.ckpt"),
    (["a-val_loss=0.3-val_acc=0.9.ckpt", "b-val_loss=0.1-val_acc=0.8.ckpt"], {"select": "best", "metric": "val/acc"},
        "a-val_loss=0.3-val_acc=0.9.ckpt"),
    (["resnet-val_loss=0.30.ckpt", "resnet-val_loss=0.20.ckpt"], {"select": "best", "metric": "val_loss"},
        "resnet-val_loss=0.20.ckpt"),
    (["epoch=0-val_loss=0.1.onnx", "epoch=1-val_loss=0.2.ckpt"], {"select": "best"}, "epoch=1-val_loss=0.2.ckpt"),
    (["epoch=0-val_loss=0.1.h5", "epoch=1-val_loss=0.2.h5"], {"select": "best"}, "epoch=0-val_loss=0.1.h5"),
    (["best_val_loss.ckpt", "best_val_auc.ckpt"], {"select": "best", "metric": "val/auc", "goal": "maximize"},
        "best_val_auc.ckpt"),
    (["epoch=1-val_loss=0.1.ckpt", f"{RETRY}/epoch=1-val_loss=0.1.ckpt"], {"select": "best"},
        f"{RETRY}/epoch=1-val_loss=0.1.ckpt"),
])  # fmt: skip
def test_checkpoint_is_chosen_by_names(
    runs: RecordedRuns, names: list[str], options: dict[str, Any], taken: str
) -> None:
    """A checkpoint that a run started from is not a result of it, unless it was pushed."""
    add(runs, *names, tags=options.get("tags"))
    assert name(runs, *(options.get(key) for key in ("select", "metric", "goal"))) == taken


def test_last_older_than_run_was_brought_and_two_are_refused(runs: RecordedRuns) -> None:
    add(runs, "last.ckpt", "recovery_epoch=1.ckpt")
    path = runs.folder / ".himl" / "runs" / RUN / "code" / HERE / "last.ckpt"
    os.utime(path, (CREATED - 100, CREATED - 100))
    assert name(runs) == "recovery_epoch=1.ckpt"
    same = (f"{RETRY}/recovery_2", f"{RETRY}/recovery_epoch=2.ckpt")
    write_files(
        runs.folder / ".himl" / "runs" / RUN / "code" / "outputs", {each.removeprefix("outputs/"): "x" for each in same}
    )
    assert name(runs).startswith(f"{RETRY}/recovery")
    runs.add("other_1_aa", files={f"{HERE}/last.pth": "a", f"{HERE}/last.pt": "b"})
    with pytest.raises(BadUsage, match="2 checkpoints that may be the last") as caught:
        found(runs, source="other_1_aa")
    assert caught.value.hint == "Give one: other_1_aa:last.pt, other_1_aa:last.pth"


def test_ambiguous_epoch_or_invalid_choice_is_refused(runs: RecordedRuns) -> None:
    same = ["epoch=4.ckpt", "recovery_epoch=4.ckpt"]
    add(runs, "epoch=3-step=40.ckpt", "epoch=3-step=80.ckpt", *same, content=dict.fromkeys(same, "same"))
    with pytest.raises(BadUsage, match="2 checkpoints of epoch 3") as caught:
        found(runs, "epoch=3")
    assert caught.value.hint == f"Give one: {RUN}:epoch=3-step=40.ckpt, {RUN}:epoch=3-step=80.ckpt"
    assert name(runs, "epoch=4") == "epoch=4.ckpt"
    with pytest.raises(NotFound, match="epoch 5") as missing:
        found(runs, "epoch=5")
    assert "Epochs in names: 3, 4." in missing.value.hint
    invalid: dict[str, tuple[str | None, str | None, str | None]] = {
        "epoch=N, not 'epoch=-1'": ("epoch=-1", None, None),
        "--metric and --goal select the best": ("epoch=1", "loss", None),
        "cannot be combined with --select last": ("last", None, "minimize"),
        "no goal 'least'": ("best", "loss", "least"),
        "--metric got an empty value": (None, " ", None),
    }
    for message, words in invalid.items():
        with pytest.raises(BadUsage, match=message):
            choice_of(*words)


@pytest.mark.parametrize(("names", "metric", "message", "hint"), [
    (["epoch=1-val_loss=0.3-val_acc=0.9.ckpt"], None, "2 metrics in their names: val_loss, val_acc",
        "--metric val_loss"),
    (["epoch=1-val_loss=0.1.ckpt", "epoch=2-val_loss=0.1.ckpt"], None, "2 checkpoints with the best val_loss, 0.1",
        f"{RUN}:epoch=2-val_loss=0.1.ckpt"),
    (["best_a.ckpt", f"{RETRY}/best_b.ckpt"], None, "2 checkpoints with a name that marks the best",
        f"{RUN}:{RETRY}/best_b.ckpt"),
    (["a-val_loss=0.1.ckpt", "b-val_loss=0.2.ckpt"], "val_loss",
        "2 metrics that match 'val_loss': a-val_loss, b-val_loss", "--metric a-val_loss"),
    (["epoch=1-score=0.1.ckpt"], None, "'score' does not show whether to minimize or maximize", "--goal maximize"),
    (["epoch=1-val_loss=0.1.ckpt"], "score", "'score' does not show whether", "--goal"),
])  # fmt: skip
def test_ambiguous_best_is_refused(
    runs: RecordedRuns, names: list[str], metric: str | None, message: str, hint: str
) -> None:
    add(runs, *names)
    with pytest.raises(BadUsage) as caught:
        found(runs, "best", metric)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_missing_best_is_refused_and_equal_content_is_one(runs: RecordedRuns) -> None:
    add(runs, "last.ckpt", "epoch=1.ckpt")
    with pytest.raises(NotFound, match="no checkpoint with a name that marks the best") as caught:
        found(runs, "best")
    assert "--metric NAME" in caught.value.hint
    with pytest.raises(NotFound, match="'val/loss' was not logged by run") as unlogged:
        found(runs, "best", "val/loss")
    assert unlogged.value.hint == "It logged no metrics."
    runs.add("equal_1_aa", files={f"{HERE}/best.ckpt": "same", f"{HERE}/resnet-val_loss=0.1.ckpt": "same"})
    assert found(runs, "best", source="equal_1_aa").names == [f"{HERE}/resnet-val_loss=0.1.ckpt"]
    assert found(runs, None, "val_loss", source="equal_1_aa").why == "Using 'resnet-val_loss' from names as val_loss."


class WithoutMd5s(ListedFiles):
    """Files of a service without recorded MD5s."""

    def md5(self, blob: BlobInfo) -> None:
        return None


@pytest.mark.parametrize(("size", "taken"), [(8, "epoch=3-val_loss=0.12.ckpt"), (9, None)])
def test_best_without_md5_prefers_name_with_metric_value(runs: RecordedRuns, size: int, taken: str | None) -> None:
    """This applies only if the sizes are equal. Otherwise both count as the best, which is an error."""
    runs.add(RUN)
    sizes = {"best.ckpt": size, "epoch=2-val_loss=0.20.ckpt": 8, "epoch=3-val_loss=0.12.ckpt": 8}
    blobs = [BlobInfo(f"{HERE}/{each}", number, "etag", None, None) for each, number in sizes.items()]
    offer = Candidates(
        runs.workspace.run(RUN), WithoutMd5s(runs.workspace.run_files(RUN), blobs), candidates_of(blobs), list
    )
    if taken:
        chosen = choose(offer, choice_of("best"))
        assert (chosen.inside, "its MD5 is unknown" in chosen.why) == (f"{HERE}/{taken}", True)
        return
    with pytest.raises(BadUsage, match="2 checkpoints with a name that marks the best") as caught:
        choose(offer, choice_of("best"))
    assert "--metric val_loss" in caught.value.hint


def test_best_by_value_logged_for_epoch(runs: RecordedRuns) -> None:
    add(runs, "epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt", "recovery_epoch=3.ckpt", "last.ckpt")
    log(runs, "val/loss", {0: 0.5, 1: 0.2, 2: math.nan, 3: 0.3, 4: 0.1})
    taken = found(runs, None, "val/loss")
    assert (taken.names, taken.epoch, taken.metric, taken.value) == ([f"{HERE}/epoch=1.ckpt"], 1, "val/loss", 0.2)
    assert taken.why == "val/loss was better (0.1) at a point without a checkpoint."
    told = (
        "By the name of the metric, the lowest val/loss is best. To decide it yourself: --goal minimize or "
        "--goal maximize"
    )
    assert (taken.guess, found(runs, None, "val/loss", "minimize").guess) == (told, "")
    assert name(runs, None, "val_loss", "maximize") == "epoch=0.ckpt"
    runs.workspace.tag(RUN, {PRIMARY_METRIC: "val/loss", GOAL: "maximize"})
    assert (name(runs, None, "val_loss"), found(runs, None, "val_loss").guess) == ("epoch=0.ckpt", ""), (
        "the goal of its sweep"
    )
    with pytest.raises(NotFound) as caught:
        found(runs, "best", "val/lss", "minimize")
    assert "val/loss" in caught.value.hint
    log(runs, "val_acc", {0: math.inf, 1: 0.4, 2: math.inf})
    taken = found(runs, None, "val_acc")
    assert (taken.epoch, taken.value, taken.why) == (1, 0.4, "")
    log(runs, "val_loss", {0: 0.1, 1: 0.2, 2: 0.3})
    assert [found(runs, None, metric, "minimize").epoch for metric in ("val/loss", "val_loss")] == [1, 0], "both exist"


def test_step_in_name_matches_epoch_logged_with_it(runs: RecordedRuns) -> None:
    """With the names and metrics of Lightning."""
    add(runs, "epoch=0-step=10.ckpt", "epoch=1-step=20.ckpt", "epoch=2-step=25.ckpt", "epoch=2-step=30.ckpt")
    log(runs, "epoch", {9: 0, 19: 1, 24: 2, 29: 2})
    log(runs, "val_loss", {9: 0.5, 19: 0.3, 24: 0.1, 29: 0.2})
    assert name(runs, None, "val_loss") == "epoch=2-step=25.ckpt"
    assert name(runs, None, "val_loss", "maximize") == "epoch=0-step=10.ckpt"


def test_newest_try_of_epoch_and_its_value_are_taken(runs: RecordedRuns) -> None:
    add(runs, "epoch=0.ckpt", "epoch=1.ckpt", f"{RETRY}/epoch=1.ckpt")
    log(runs, "val_loss", {0: 0.3, 1: 0.5})
    runs.log(RUN, [("val_loss", 0.2, 1, 9)])
    assert (name(runs, None, "val_loss"), found(runs, None, "val_loss").value) == (f"{RETRY}/epoch=1.ckpt", 0.2)
    log(runs, "val_acc", {0: 0.5, 1: 0.5})
    with pytest.raises(BadUsage, match="2 checkpoints with the best val_acc") as caught:
        found(runs, None, "val_acc")
    assert caught.value.hint == f"Give one: {RUN}:epoch=0.ckpt, {RUN}:{RETRY}/epoch=1.ckpt"


def test_values_of_one_step_need_epochs(runs: RecordedRuns) -> None:
    add(runs, "epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt")
    runs.log(RUN, [("val_loss", value, 0, time) for time, value in enumerate((0.9, 0.1, 0.5))])
    with pytest.raises(BadUsage, match="'val_loss' was logged 3 times at step 0") as caught:
        found(runs, None, "val_loss")
    assert "step=" in caught.value.hint
    runs.log(RUN, [("epoch", epoch, 0, epoch) for epoch in (0, 1)])
    with pytest.raises(BadUsage, match="'val_loss' was logged 3 times"):
        found(runs, None, "val_loss")
    runs.log(RUN, [("epoch", 2, 0, 2)])
    taken = found(runs, None, "val_loss")
    assert (taken.epoch, taken.value) == (1, 0.1)
    runs.add("steps_1_aa", files={f"{HERE}/epoch=0.ckpt": "0", f"{HERE}/epoch=1.ckpt": "1"})
    runs.log(
        "steps_1_aa",
        [
            *(("val_loss", value, step, step) for step, value in ((10, 0.9), (20, 0.1), (30, 0.2))),
            ("epoch", 0, 0, 0),
            ("epoch", 1, 0, 1),
        ],
    )
    with pytest.raises(BadUsage, match="'epoch' was logged 2 times at step 0"):
        found(runs, None, "val_loss", source="steps_1_aa")


def test_conflicting_metric_is_refused_at_checkpoint_step(runs: RecordedRuns) -> None:
    """At a step without a checkpoint, or with equal values, a conflict has no effect."""
    add(runs, "epoch=0.ckpt", "epoch=1.ckpt")
    log(runs, "val_loss", {0: 0.9, 1: 0.1, 2: 0.3})
    runs.log(RUN, [("val_loss", 0.05, 2, 5)])
    taken = found(runs, None, "val_loss")
    assert (taken.epoch, taken.why) == (1, "val_loss was better (0.05) at a point without a checkpoint.")
    runs.log(RUN, [("val_loss", 0.1, 1, 5)])
    assert found(runs, None, "val_loss").epoch == 1
    runs.log(RUN, [("val_loss", 0.7, 1, 6)])
    with pytest.raises(BadUsage, match="logged 3 times at step 1"):
        found(runs, None, "val_loss")


@pytest.mark.parametrize(("values", "names", "taken", "value", "why"), [
    ({1: 0.0, 2: 0.1, 99: 0.7, 199: 0.5}, [(0, 100), (8, 200), (1, None), (2, None)], 200, 0.5,
        "at a point without a checkpoint"),
    ({10: 0.9, 20: 0.1, 30: 0.8, 100: 0.5, 200: 0.7}, [(1, 20), (9, 100), (20, 200)], 20, 0.1,
        "of the step in the name, not of its epoch"),
    ({0: 0.3, 1: 0.2, 2: 0.4}, [(0, 100), (1, 200), (2, 300)], 200, 0.2, ""),
    ({99: 1.0, 100: 0.2, 199: 0.5, 200: 3}, [(None, 100), (None, 200)], 200, 0.5,
        "the step before the one in the name, as Lightning counts"),
    ({9: 0.5, 19: 0.1, 20: 0.2}, [(19, 10), (29, 20), (39, 30)], 20, 0.1, "the step before"),
])  # fmt: skip
def test_all_checkpoints_are_counted_one_way(
    runs: RecordedRuns,
    values: dict[int, float],
    names: list[tuple[int | None, int | None]],
    taken: int,
    value: float,
    why: str,
) -> None:
    parts = [
        [f"{key}={number}" for key, number in zip(("epoch", "step"), each, strict=True) if number is not None]
        for each in names
    ]
    add(
        runs,
        *(
            "-".join(each) + ".ckpt" if len(each) == 2 or "step" in each[0] else f"recovery_{each[0]}.ckpt"
            for each in parts
        ),
    )
    log(runs, "val_loss", values)
    checkpoint = found(runs, None, "val_loss")
    assert (checkpoint.names[0].endswith(f"step={taken}.ckpt"), checkpoint.value) == (True, value)
    assert why in checkpoint.why
    assert bool(why) == bool(checkpoint.why)


@pytest.mark.parametrize(("names", "steps", "taken", "said", "offset"), [
    (range(1, 6), range(5), 3, "Comparing epoch N in a name with step N-1 of val_loss, which fits more names than N.",
        None),
    ([5], range(5), 5, "To compare equal numbers, add --name_offset 0.", None),
    (range(1, 6), range(5), 2, "", 0),
    ([2, 3, 4], range(6), 2, "If names count from 1 and steps from 0, add --name_offset 1.", None),
    ([2, 3, 4], range(6), 3, "", 1),
    (range(5), range(5), 2, "", None),
    (range(1, 6), range(1, 6), 2, "", None),
    (range(5), range(1, 6), 1, "with step N+1 of val_loss", None),
    ([3, 1], range(1, 6), 3, "If names count from 0 and steps from 1, add --name_offset -1.", None),
    ([2, 4, 6], [1, 3, 5], 4, "with step N-1 of val_loss", None),
])  # fmt: skip
def test_names_and_steps_that_count_differently_are_matched_or_reported(
    runs: RecordedRuns, names: Sequence[int], steps: Sequence[int], taken: int, said: str, offset: int | None
) -> None:
    """The value is best at step 2, or the one nearest to it."""
    add(runs, *(f"epoch={number}.ckpt" for number in names))
    log(runs, "val_loss", {step: abs(step - 2.2) for step in steps})
    one = find_checkpoint(RUN, runs.workspace, runs.folder, choice_of(None, "val_loss", None, offset))
    assert (one.epoch, said in one.why) == (taken, True), one.why
    assert ("name_offset" in one.why) is bool(said)


def test_epochs_of_names_that_count_from_1_are_found_in_the_log(runs: RecordedRuns) -> None:
    add(runs, "epoch=1.ckpt", "epoch=2.ckpt", "epoch=3.ckpt")
    log(runs, "epoch", {9: 0, 19: 1, 29: 2})
    log(runs, "val_loss", {9: 0.5, 19: 0.1, 29: 0.2})
    one = found(runs, None, "val_loss")
    assert (one.epoch, one.value) == (2, 0.1)
    assert "with epoch N-1 of val_loss" in one.why
    runs.add("top_1_aa", files={f"{HERE}/epoch=1.ckpt": "1", f"{HERE}/epoch=2.ckpt": "2"})
    runs.log("top_1_aa", [("epoch", step, step, step) for step in range(4)])
    runs.log("top_1_aa", [("val_loss", 1.0 / (step + 1), step, step) for step in range(4)])
    one = found(runs, None, "val_loss", source="top_1_aa")
    assert (one.epoch, "name_offset" in one.why) == (2, False), "Lightning counts both in one way"


def brought(*names: str) -> dict[str, str]:
    """The tags of a run that began with *names*, whose contents are their names."""
    blobs = [BlobInfo(f"{HERE}/{each}", len(each), "", md5(each.encode()).digest()) for each in names]
    return {
        FROM_RUN: "old",
        BROUGHT: " ".join(filter(None, (content_of(one, lambda _: None) for one in candidates_of(blobs)))),
    }


@pytest.mark.parametrize(("names", "taken", "said"), [
    (["epoch=0.ckpt", "epoch=4.ckpt"], "epoch=4.ckpt",
        "began with last.ckpt, and did not change it. Using the one of the highest epoch."),
    (["best.ckpt"], "best.ckpt", "began with last.ckpt, and did not change it."),
    (["autosave.ckpt"], "autosave.ckpt", "has no last.ckpt of its own. Using its recovery checkpoint."),
    ([f"{RETRY}/last.ckpt"], f"{RETRY}/last.ckpt", "began with last.ckpt"),
    ([], "last.ckpt", "began with last.ckpt, and did not change it. It wrote no checkpoint."),
])  # fmt: skip
def test_what_a_run_began_with_is_its_last_only_if_it_wrote_none(
    runs: RecordedRuns, names: list[str], taken: str, said: str
) -> None:
    add(runs, "last.ckpt", *names, tags=brought("last.ckpt"))
    assert (name(runs), said in found(runs).why) == (taken, True), found(runs).why


def test_changed_or_unknown_last_checkpoint_counts(runs: RecordedRuns) -> None:
    add(runs, "last.ckpt", "epoch=0.ckpt", content={"last.ckpt": "LAST.CKPT"}, tags=brought("last.ckpt"))
    assert (name(runs), found(runs).why) == ("last.ckpt", "")
    files = {f"{HERE}/last.ckpt": "last.ckpt", f"{HERE}/epoch=0.ckpt": "trained"}
    runs.add("sweep_1_aa", tags={MANY: "sweep", **brought("last.ckpt")})
    runs.add("sweep_1_aa_0", parent="sweep_1_aa", files=files)
    assert found(runs, source="sweep_1_aa_0").epoch == 0, "a trial may not have the tags of its sweep"
    runs.add("old_1_aa", tags=STARTED_FROM, files=files)
    assert found(runs, source="old_1_aa").why == "Run 'old_1_aa' may have begun with this last.ckpt."


def test_best_trial_of_sweep_is_that_on_record_or_computed(runs: RecordedRuns) -> None:
    runs.add("sweep_1_aa", tags={MANY: "sweep", BEST_TRIAL: "sweep_1_aa_1"})
    for number in range(2):
        files = {f"{HERE}/best.ckpt": str(number), f"{HERE}/last.ckpt": str(number)}
        runs.add(f"sweep_1_aa_{number}", parent="sweep_1_aa", tags={HYPERPARAMETERS: '{"lr": 0.1}'}, files=files)
    taken = found(runs, "best", source="sweep_1_aa")
    assert taken.run is not None
    assert (taken.run.id, taken.why) == (
        "sweep_1_aa_1",
        "Run 'sweep_1_aa' is a sweep. Using its best trial 'sweep_1_aa_1'.",
    )
    with pytest.raises(NotFound, match="but its child runs may") as caught:
        found(runs, source="sweep_1_aa")
    assert caught.value.hint == "Use its best trial, himl checkpoint fetch sweep_1_aa_1, or add --select best."
    runs.workspace.archive("sweep_1_aa_1")
    runs.log("sweep_1_aa_0", [("val/loss", 0.5, 1, 1)])
    runs.workspace.tag("sweep_1_aa", {PRIMARY_METRIC: "val/loss"})
    taken = found(runs, "best", source="sweep_1_aa")
    assert taken.run is not None
    assert taken.run.id == "sweep_1_aa_0", "the best of those that are not archived, as in runs show"
    runs.add("sweep_2_aa", tags={MANY: "sweep", PRIMARY_METRIC: "val_acc", GOAL: "maximize"})
    for number, value in enumerate((0.5, 0.9)):
        trial = runs.add(
            f"sweep_2_aa_{number}",
            parent="sweep_2_aa",
            tags={HYPERPARAMETERS: '{"lr": 0.1}'},
            files={f"{HERE}/best.ckpt": str(number)},
        )
        if number == 0:
            with pytest.raises(NotFound, match=r"Sweep 'sweep_2_aa' has no best trial\."):
                found(runs, "best", source="sweep_2_aa")
        runs.log(trial, [("val_acc", value, 1, 1)])
    taken = found(runs, "best", source="sweep_2_aa")
    assert taken.run is not None
    assert taken.run.id == "sweep_2_aa_1"


def test_last_of_best_trial_is_used_but_folds_have_no_best_run(runs: RecordedRuns) -> None:
    runs.add("sweep_1_aa", tags={MANY: "sweep", BEST_TRIAL: "sweep_1_aa_0"})
    runs.add(
        "sweep_1_aa_0",
        parent="sweep_1_aa",
        tags={HYPERPARAMETERS: "{}"},
        files={f"{HERE}/last.ckpt": "x", f"{HERE}/recovery_1.ckpt": "y"},
    )
    taken = found(runs, "best", source="sweep_1_aa")
    assert taken.names == [f"{HERE}/last.ckpt"]
    assert taken.why == (
        "Run 'sweep_1_aa' is a sweep. Using its best trial 'sweep_1_aa_0'. No name marks the best "
        "checkpoint. Using the last one."
    )
    runs.add("sweep_2_bb", status=RunStatus.running, tags={MANY: "sweep", BEST_TRIAL: "sweep_1_aa_0"})
    lock = ProcessLock(runs.folder / ".himl" / "runs" / "sweep_2_bb" / "lock")
    assert lock.take()
    assert "Using its best trial so far 'sweep_1_aa_0'." in found(runs, "best", source="sweep_2_bb").why
    lock.release()
    with pytest.raises(NotFound, match="was not logged by run"):
        found(runs, "best", "val_loss", source="sweep_1_aa")
    with pytest.raises(NotFound, match="a name that marks the best"):
        found(runs, "best", source="sweep_1_aa_0")
    runs.add("folds_1_aa", tags={MANY: "crossval"})
    runs.add("folds_1_aa_0", parent="folds_1_aa", files={"outputs/log.txt": "x"})
    hint = "Give one of its runs. To list them: himl runs show folds_1_aa"
    with pytest.raises(NotFound, match="none of its runs is the best") as caught:
        found(runs, "best", source="folds_1_aa")
    assert caught.value.hint == hint
    runs.add("folds_1_aa_1", parent="folds_1_aa", files={f"{HERE}/last.ckpt": "x"})
    for select in ("last", "best"):
        with pytest.raises(NotFound) as caught:
            found(runs, select, source="folds_1_aa")
        assert caught.value.hint == hint
    assert found(runs, source="folds_1_aa_1").names == [f"{HERE}/last.ckpt"]
