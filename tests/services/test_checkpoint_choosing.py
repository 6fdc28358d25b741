"""Which of a run's checkpoints is taken: the last, or that of an epoch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.runs import FROM_RUN, PUSHED
from himl_cli.services.checkpoints.select import choice_of
from tests.support.runs import CREATED, HERE, RETRY, RUN, RecordedRuns, add, found, name


@pytest.fixture
def runs(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


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
        (
            ["last.ckpt", f"{RETRY}/recovery_epoch=3.ckpt", "outputs/retry_010/checkpoints/recovery_epoch=2.ckpt"],
            "outputs/retry_010/checkpoints/recovery_epoch=2.ckpt",
        ),
        (["recovery_epoch=9.ckpt", f"{RETRY}/recovery_epoch=2.ckpt"], f"{RETRY}/recovery_epoch=2.ckpt"),
        (["last.ckpt.tmp", "recovery_1.ckpt", ".last.ckpt"], "recovery_1.ckpt"),
    ],
)
def test_the_last(runs: RecordedRuns, names: list[str], last: str) -> None:
    add(runs, *names)
    assert name(runs) == last


def test_ambiguous_last_is_refused_unless_files_are_equal(runs: RecordedRuns) -> None:
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
        (["epoch=3.pt", "epoch=3.h5"], "epoch=3.pt"),
        (["epoch=3.h5", "last.h5"], "epoch=3.h5"),
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
    ("words", "said"),
    [
        (("first", None, None), "select by 'first'"),
        (("epoch", None, None), "select by 'epoch'"),
        (("epoch=-1", None, None), "select by 'epoch=-1'"),
        (("epoch=1", "loss", None), "--metric and --goal choose the best"),
        (("last", None, "minimize"), "--select last another one"),
        (("best", "loss", "least"), "no goal 'least'"),
        ((None, " ", None), "--metric got an empty value"),
    ],
)
def test_words_that_mean_no_choice(words: tuple[str | None, str | None, str | None], said: str) -> None:
    with pytest.raises(BadUsage, match=said):
        choice_of(*words)
