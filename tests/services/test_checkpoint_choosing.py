"""Which of a run's checkpoints is taken."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from himl_cli.core.checkpoints import FROM_RUN, PUSHED
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.sweeps import BEST_TRIAL, GOAL, HYPERPARAMETERS, MANY, PRIMARY_METRIC
from himl_cli.services.checkpoints.choosing import choice_of
from himl_cli.services.checkpoints.sources import Checkpoint, find_checkpoint, kind_of
from tests.recorded_runs import RecordedRuns

RUN = "train_1_aa"
HERE, RETRY = "outputs/checkpoints", "outputs/retry_001/checkpoints"
CREATED = 1_772_366_401  # when the first of RecordedRuns is made


@pytest.fixture
def runs(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


def add(runs: RecordedRuns, *names: str, content: Mapping[str, str] | None = None, tags: Mapping[str, str] | None = None) -> None:
    """A run that kept *names*, below `outputs/checkpoints` unless they say otherwise, each a second later than the one before."""
    full = [name if name.startswith("outputs/") else f"{HERE}/{name}" for name in names]
    runs.add(RUN, files={place: (content or {}).get(name, name) for place, name in zip(full, names, strict=True)}, tags=tags)
    for number, place in enumerate(full):
        os.utime(runs.folder / ".himl" / "runs" / RUN / "code" / place, (CREATED + number, CREATED + number))


def found(runs: RecordedRuns, select: str | None = None, metric: str | None = None, goal: str | None = None, source: str = RUN) -> Checkpoint:
    return find_checkpoint(source, runs.workspace, runs.folder, choice_of(select, metric, goal))


def name(runs: RecordedRuns, select: str | None = None, metric: str | None = None, goal: str | None = None) -> str:
    return found(runs, select, metric, goal).inside.removeprefix(f"{HERE}/")


@pytest.mark.parametrize(
    ("names", "last"),
    [
        (["last.ckpt", "epoch=9.ckpt", "recovery_epoch=9.ckpt"], "last.ckpt"),
        (["last.ckpt", "last-v1.ckpt", "last-v10.ckpt", "last-v9.ckpt"], "last-v10.ckpt"),
        (["last.ckpt", f"{RETRY}/last.ckpt", "outputs/retry_000/checkpoints/last.ckpt"], f"{RETRY}/last.ckpt"),
        (["recovery_epoch=9.ckpt", "recovery_epoch=10.ckpt", "best.ckpt"], "recovery_epoch=10.ckpt"),
        (["last.ckpt", f"{RETRY}/recovery_epoch=4.ckpt"], f"{RETRY}/recovery_epoch=4.ckpt"),
        ([f"{RETRY}/last.ckpt", "recovery_epoch=4.ckpt"], f"{RETRY}/last.ckpt"),
        (["last.ckpt/a", "last.ckpt/b/c", "recovery_epoch=2.ckpt"], "last.ckpt"),
        (["recovery_epoch=9-step=90.ckpt", "recovery_epoch=9-step=180.ckpt"], "recovery_epoch=9-step=180.ckpt"),
        (["last.ckpt", "last.pt", "last"], "last.ckpt"),
        (["last.ckpt.tmp", "recovery_1.ckpt", ".last.ckpt"], "recovery_1.ckpt"),
    ],
)
def test_the_last(runs: RecordedRuns, names: list[str], last: str) -> None:
    add(runs, *names)
    assert name(runs) == last


def test_two_that_may_be_the_last_are_told_and_equal_ones_are_one(runs: RecordedRuns) -> None:
    add(
        runs,
        "last.ckpt",
        "last.pt",
        f"{RETRY}/recovery_2",
        f"{RETRY}/recovery_epoch=2.ckpt",
        content={f"{RETRY}/recovery_2": "x", f"{RETRY}/recovery_epoch=2.ckpt": "x"},
    )
    assert name(runs).startswith(f"{RETRY}/recovery")
    runs.add("other_1_aa", files={f"{HERE}/last.pth": "a", f"{HERE}/last.pt": "b"})
    with pytest.raises(BadUsage, match="2 checkpoints that may be the last") as caught:
        found(runs, source="other_1_aa")
    assert caught.value.hint == "Name one: other_1_aa:last.pt, other_1_aa:last.pth"


def test_where_it_goes_in_a_new_job(runs: RecordedRuns) -> None:
    add(runs, "last.ckpt/a", "last.ckpt/b/c", "epoch=1.pt", "sub/x")
    assert found(runs).by_place == {f"{HERE}/last.ckpt/a": f"{HERE}/last.ckpt/a", f"{HERE}/last.ckpt/b/c": f"{HERE}/last.ckpt/b/c"}
    assert found(runs, "epoch=1").by_place == {f"{HERE}/last.pt": f"{HERE}/epoch=1.pt"}
    assert found(runs, source=f"{RUN}:sub/").by_place == {f"{HERE}/x": f"{HERE}/sub/x"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("https://ml.azure.com/runs/train_1_aa?wsid=/subscriptions/s/resourcegroups/g/workspaces/w", "run"),
        ("https://studio.ml.azure.cn/runs/train_1_aa", "run"),
        ("https://example.org/runs/3/best.ckpt?sig=x", "address"),
        ("http://localhost/a.ckpt", "address"),
        ("train_1_aa", "run"),
        ("train_1_aa:sub/a.ckpt", "run"),
        ("train:train_1_aa", "run"),
        ("here.ckpt", "path"),
    ],
)
def test_what_sort_of_source_it_is(project: Path, text: str, kind: str) -> None:
    (project / "here.ckpt").touch()
    assert kind_of(text, project) == kind


@pytest.mark.parametrize("text", ["lost.ckpt", "lost/a", r"lost\a", "C:/lost.ckpt", r"c:\lost.ckpt", "~/lost"])
def test_what_can_only_be_a_path_is_missed_at_once(project: Path, text: str) -> None:
    with pytest.raises(NotFound, match="There is no file"):
        kind_of(text, project)


@pytest.mark.parametrize(
    ("tags", "names", "last"),
    [
        ({FROM_RUN: "old"}, ["last.ckpt", "recovery_epoch=1.ckpt", "recovery_epoch=2.ckpt"], "recovery_epoch=2.ckpt"),
        ({FROM_RUN: "old"}, ["recovery_epoch=1.ckpt", "last.ckpt"], "last.ckpt"),
        ({FROM_RUN: "old"}, ["last.ckpt", "best.ckpt"], "last.ckpt"),
        ({FROM_RUN: "old", PUSHED: "1"}, ["last.ckpt", "recovery_epoch=1.ckpt"], "last.ckpt"),
        ({}, ["last.ckpt", "recovery_epoch=1.ckpt"], "last.ckpt"),
    ],
)
def test_what_a_run_began_with_is_not_what_it_reached(runs: RecordedRuns, tags: dict[str, str], names: list[str], last: str) -> None:
    add(runs, *names, tags=tags)
    assert name(runs) == last


def test_a_last_one_older_than_the_run_was_brought_to_it(runs: RecordedRuns) -> None:
    add(runs, "last.ckpt", "recovery_epoch=1.ckpt")
    path = runs.folder / ".himl" / "runs" / RUN / "code" / HERE / "last.ckpt"
    os.utime(path, (CREATED - 100, CREATED - 100))
    assert name(runs) == "recovery_epoch=1.ckpt"


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["epoch=3.ckpt", "epoch=13.ckpt", "last.ckpt"], "epoch=3.ckpt"),
        (["epoch=03-val_loss=0.1.ckpt"], "epoch=03-val_loss=0.1.ckpt"),
        (["epoch=3.ckpt", f"{RETRY}/recovery_epoch=3.ckpt"], f"{RETRY}/recovery_epoch=3.ckpt"),
        (["epoch=3.ckpt", "epoch=3-v1.ckpt"], "epoch=3-v1.ckpt"),
        (["epoch=3.ckpt/shard_0.pt", "epoch=3.ckpt/shard_1.pt"], "epoch=3.ckpt"),
        (["epoch=3.ckpt", "epoch=3.json"], "epoch=3.ckpt"),
    ],
)
def test_of_an_epoch(runs: RecordedRuns, names: list[str], taken: str) -> None:
    add(runs, *names)
    assert name(runs, "epoch=3") == taken


def test_two_of_one_epoch_are_told_and_equal_ones_are_one(runs: RecordedRuns) -> None:
    add(
        runs,
        "epoch=3-step=40.ckpt",
        "epoch=3-step=80.ckpt",
        "epoch=4.ckpt",
        "recovery_epoch=4.ckpt",
        content={"epoch=4.ckpt": "same", "recovery_epoch=4.ckpt": "same"},
    )
    with pytest.raises(BadUsage, match="2 checkpoints of epoch 3") as caught:
        found(runs, "epoch=3")
    assert caught.value.hint == f"Name one: {RUN}:epoch=3-step=40.ckpt, {RUN}:epoch=3-step=80.ckpt"
    assert name(runs, "epoch=4") == "epoch=4.ckpt"
    with pytest.raises(NotFound, match="epoch 5") as missing:
        found(runs, "epoch=5")
    assert "Epochs in names: 3, 4." in missing.value.hint


@pytest.mark.parametrize(
    ("names", "metric", "goal", "best"),
    [
        (["epoch=1-val_loss=0.30.ckpt", "epoch=2-val_loss=0.12.ckpt", "epoch=3-val_loss=1e-3.ckpt", "last.ckpt"], None, None, "epoch=3-val_loss=1e-3.ckpt"),
        (["epoch=1-val_acc=0.30.ckpt", "epoch=2-val_acc=0.9.ckpt"], None, None, "epoch=2-val_acc=0.9.ckpt"),
        (["epoch=1-val_acc=0.30.ckpt", "epoch=2-val_acc=0.9.ckpt"], None, "minimize", "epoch=1-val_acc=0.30.ckpt"),
        (["epoch=1-val_loss=nan.ckpt", "epoch=2-val_loss=7.ckpt"], None, None, "epoch=2-val_loss=7.ckpt"),
        (["epoch=1-val/loss=0.3.ckpt", "epoch=2-val/loss=0.1.ckpt"], "val/loss", None, "epoch=2-val/loss=0.1.ckpt"),
        (["epoch=1-val_loss=0.3-val_acc=0.9.ckpt", "epoch=2-val_loss=0.1-val_acc=0.8.ckpt"], "val/acc", None, "epoch=1-val_loss=0.3-val_acc=0.9.ckpt"),
        (["best.ckpt", "last.ckpt"], None, None, "best.ckpt"),
        (["best_val_loss.ckpt", "best_val_auc.ckpt"], "val/auc", "maximize", "best_val_auc.ckpt"),
        (["best.ckpt", f"{RETRY}/best.ckpt"], None, None, f"{RETRY}/best.ckpt"),
        (["epoch=1-val_loss=0.1.ckpt", f"{RETRY}/epoch=2-val_loss=0.2.ckpt"], None, None, "epoch=1-val_loss=0.1.ckpt"),
        (["epoch=1-val_loss=0.1.ckpt", f"{RETRY}/epoch=1-val_loss=0.1.ckpt"], None, None, f"{RETRY}/epoch=1-val_loss=0.1.ckpt"),
    ],
)
def test_the_best_by_names(runs: RecordedRuns, names: list[str], metric: str | None, goal: str | None, best: str) -> None:
    add(runs, *names)
    assert name(runs, "best", metric, goal) == best


@pytest.mark.parametrize(
    ("names", "metric", "said", "hinted"),
    [
        (["epoch=1-val_loss=0.3-val_acc=0.9.ckpt"], None, "2 metrics in their names: val_loss, val_acc", "--metric val_loss"),
        (["epoch=1-val_loss=0.1.ckpt", "epoch=2-val_loss=0.1.ckpt"], None, "2 checkpoints with the best val_loss, 0.1", f"{RUN}:epoch=2-val_loss=0.1.ckpt"),
        (["best_a.ckpt", "best_b.ckpt"], None, "2 checkpoints that are the best by their names", f"{RUN}:best_a.ckpt, {RUN}:best_b.ckpt"),
        (["best.ckpt", "epoch=2-val_loss=0.1.ckpt"], None, "2 checkpoints that are the best by their names", f"{RUN}:best.ckpt"),
        (["epoch=1-score=0.1.ckpt"], None, "whether 'score' is to be small or great", "--goal maximize"),
        (["epoch=1-val_loss=0.1.ckpt"], "score", "whether 'score'", "--goal"),
    ],
)
def test_what_cannot_be_told_apart_is_listed(runs: RecordedRuns, names: list[str], metric: str | None, said: str, hinted: str) -> None:
    add(runs, *names)
    with pytest.raises(BadUsage) as caught:
        found(runs, "best", metric)
    assert said in str(caught.value)
    assert hinted in caught.value.hint


def test_the_best_one_twice_is_one(runs: RecordedRuns) -> None:
    add(runs, "best.ckpt", "epoch=2-val_loss=0.1.ckpt", content={"best.ckpt": "same", "epoch=2-val_loss=0.1.ckpt": "same"})
    assert name(runs, "best") == "epoch=2-val_loss=0.1.ckpt"


def test_no_best_one(runs: RecordedRuns) -> None:
    add(runs, "last.ckpt", "epoch=1.ckpt")
    with pytest.raises(NotFound, match="no checkpoint whose name says that it is the best") as caught:
        found(runs, "best")
    assert "--metric NAME" in caught.value.hint
    with pytest.raises(NotFound, match="'val/loss' in its name, and the run did not log it") as unlogged:
        found(runs, "best", "val/loss")
    assert unlogged.value.hint == "It logged no metric at all."


def log(runs: RecordedRuns, metric: str, values: Mapping[int, float]) -> None:
    runs.log(RUN, [(metric, value, step, step) for step, value in values.items()])


def test_the_best_by_what_was_logged_for_its_epoch(runs: RecordedRuns) -> None:
    add(runs, "epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt", "recovery_epoch=3.ckpt", "last.ckpt")
    log(runs, "val/loss", {0: 0.5, 1: 0.2, 2: math.nan, 3: 0.3, 4: 0.1})
    taken = found(runs, None, "val/loss")
    assert (taken.names, taken.epoch, taken.metric, taken.value) == ([f"{HERE}/epoch=1.ckpt"], 1, "val/loss", 0.2)
    assert taken.why == "val/loss was better, 0.1, where no checkpoint was kept."
    assert name(runs, None, "val_loss", "maximize") == "epoch=0.ckpt"
    with pytest.raises(NotFound) as caught:
        found(runs, "best", "val/lss", "minimize")
    assert "val/loss" in caught.value.hint


def test_lightnings_steps_are_told_by_the_epochs_logged_beside_them(runs: RecordedRuns) -> None:
    add(runs, "epoch=0-step=10.ckpt", "epoch=1-step=20.ckpt", "epoch=2-step=25.ckpt", "epoch=2-step=30.ckpt")
    log(runs, "epoch", {9: 0, 19: 1, 24: 2, 29: 2})
    log(runs, "val_loss", {9: 0.5, 19: 0.3, 24: 0.1, 29: 0.2})
    assert name(runs, None, "val_loss") == "epoch=2-step=25.ckpt"
    assert name(runs, None, "val_loss", "maximize") == "epoch=0-step=10.ckpt"


def test_checkpoints_of_steps_alone_are_told_by_these(runs: RecordedRuns) -> None:
    add(runs, "step=100.ckpt", "step=200.ckpt", "last.ckpt")
    log(runs, "val_loss", {100: 0.5, 200: 0.3})
    assert name(runs, None, "val_loss") == "step=200.ckpt"


def test_equal_values_of_two_epochs_are_listed(runs: RecordedRuns) -> None:
    add(runs, "epoch=0.ckpt", "epoch=1.ckpt", f"{RETRY}/epoch=1.ckpt")
    log(runs, "val_loss", {0: 0.5, 1: 0.5})
    with pytest.raises(BadUsage, match="2 checkpoints with the best val_loss") as caught:
        found(runs, None, "val_loss")
    assert caught.value.hint == f"Name one: {RUN}:epoch=0.ckpt, {RUN}:{RETRY}/epoch=1.ckpt"


def test_of_one_epoch_the_newest_try_is_taken(runs: RecordedRuns) -> None:
    add(runs, "epoch=0.ckpt", "epoch=1.ckpt", f"{RETRY}/recovery_epoch=1.ckpt")
    log(runs, "val_loss", {0: 0.5, 1: 0.4})
    assert name(runs, None, "val_loss") == f"{RETRY}/recovery_epoch=1.ckpt"


def test_a_sweep_stands_for_its_best_trial_only_where_the_best_is_asked_for(runs: RecordedRuns) -> None:
    runs.add("sweep_1_aa", tags={MANY: "sweep", BEST_TRIAL: "sweep_1_aa_1"})
    for number in range(2):
        files = {f"{HERE}/best.ckpt": str(number), f"{HERE}/last.ckpt": str(number)}
        runs.add(f"sweep_1_aa_{number}", parent="sweep_1_aa", tags={HYPERPARAMETERS: '{"lr": 0.1}'}, files=files)
    taken = found(runs, "best", source="sweep_1_aa")
    assert taken.run is not None
    assert (taken.run.id, taken.why) == ("sweep_1_aa_1", "Run 'sweep_1_aa' is a sweep; its best trial is 'sweep_1_aa_1'.")
    with pytest.raises(NotFound, match="those below it may") as caught:
        found(runs, source="sweep_1_aa")
    assert caught.value.hint == "Its best trial is 'sweep_1_aa_1': name that, or add --select best."


def test_of_a_sweep_nobody_wrote_the_best_of_the_best_by_the_last_values_is_taken(runs: RecordedRuns) -> None:
    runs.add("sweep_1_aa", tags={MANY: "sweep", PRIMARY_METRIC: "val_acc", GOAL: "maximize"})
    for number, value in enumerate((0.5, 0.9)):
        trial = runs.add(f"sweep_1_aa_{number}", parent="sweep_1_aa", tags={HYPERPARAMETERS: '{"lr": 0.1}'}, files={f"{HERE}/best.ckpt": str(number)})
        if number == 0:
            with pytest.raises(NotFound, match=r"Sweep 'sweep_1_aa' has no best trial\."):
                found(runs, "best", source="sweep_1_aa")
        runs.log(trial, [("val_acc", value, 1, 1)])
    taken = found(runs, "best", source="sweep_1_aa")
    assert taken.run is not None
    assert taken.run.id == "sweep_1_aa_1"


def test_folds_have_no_best_one(runs: RecordedRuns) -> None:
    runs.add("folds_1_aa", tags={MANY: "crossval"})
    with pytest.raises(NotFound, match="none of its runs is the best"):
        found(runs, "best", source="folds_1_aa")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("best.ckpt", [f"{HERE}/best.ckpt"]),
        (f"{HERE}/best.ckpt", [f"{HERE}/best.ckpt"]),
        ("outputs/model.bin", ["outputs/model.bin"]),
        ("sub/", [f"{HERE}/sub/a", f"{HERE}/sub/b"]),
        ("sub", [f"{HERE}/sub/a", f"{HERE}/sub/b"]),
        ("sub/a", [f"{HERE}/sub/a"]),
        ("outputs/", [f"{HERE}/best.ckpt", f"{HERE}/best.ckpt2", f"{HERE}/sub/a", f"{HERE}/sub/b", "outputs/model.bin"]),
    ],
)
def test_a_file_or_folder_of_a_run(runs: RecordedRuns, path: str, names: list[str]) -> None:
    add(runs, "best.ckpt", "best.ckpt2", "sub/a", "sub/b", "outputs/model.bin")
    assert found(runs, source=f"{RUN}:{path}").names == names
    with pytest.raises(BadUsage, match="names a file or folder of the run"):
        found(runs, "best", source=f"{RUN}:{path}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("first", None, None), "select by 'first'"),
        (("epoch", None, None), "select by 'epoch'"),
        (("epoch=-1", None, None), "select by 'epoch=-1'"),
        (("epoch=1", "loss", None), "--metric and --goal choose the best"),
        (("last", None, "minimize"), "the last is asked for"),
        (("best", "loss", "least"), "no goal 'least'"),
        ((None, " ", None), "--metric got an empty value"),
    ],
)
def test_words_that_mean_no_choice(words: tuple[str | None, str | None, str | None], said: str) -> None:
    with pytest.raises(BadUsage, match=said):
        choice_of(*words)
