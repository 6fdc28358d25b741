"""Which of a run's checkpoints is the best, by what the run logged."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, NotFound
from tests.support.runs import HERE, RETRY, RUN, RecordedRuns, add, found, log, name


@pytest.fixture
def runs(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


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


def test_lightning_step_is_matched_to_epoch_logged_with_it(runs: RecordedRuns) -> None:
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


def test_values_of_one_step_are_no_ones(runs: RecordedRuns) -> None:
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


def test_epochs_logged_without_steps_tell_nothing_of_other_steps(runs: RecordedRuns) -> None:
    add(runs, "epoch=0.ckpt", "epoch=1.ckpt")
    log(runs, "val_loss", {10: 0.9, 20: 0.1, 30: 0.2})
    runs.log(RUN, [("epoch", epoch, 0, epoch) for epoch in (0, 1)])
    with pytest.raises(BadUsage, match="'epoch' was logged 2 times at step 0"):
        found(runs, None, "val_loss")


def test_conflicting_metric_is_refused_at_checkpoint_step(runs: RecordedRuns) -> None:
    """At a step without a checkpoint, or with equal values, it does no harm."""
    add(runs, "epoch=0.ckpt", "epoch=1.ckpt")
    log(runs, "val_loss", {0: 0.9, 1: 0.1, 2: 0.3})
    runs.log(RUN, [("val_loss", 0.05, 2, 5)])
    taken = found(runs, None, "val_loss")
    assert (taken.epoch, taken.why) == (1, "val_loss was better, 0.05, where no checkpoint was kept.")
    runs.log(RUN, [("val_loss", 0.1, 1, 5)])
    assert found(runs, None, "val_loss").epoch == 1  # the same again
    runs.log(RUN, [("val_loss", 0.7, 1, 6)])
    with pytest.raises(BadUsage, match="logged 3 times at step 1"):
        found(runs, None, "val_loss")


def test_each_try_may_log_a_step_anew(runs: RecordedRuns) -> None:
    add(runs, "epoch=0.ckpt", f"{RETRY}/epoch=1.ckpt")
    log(runs, "val_loss", {0: 0.3, 1: 0.5})
    runs.log(RUN, [("val_loss", 0.2, 1, 9)])
    assert (name(runs, None, "val_loss"), found(runs, None, "val_loss").value) == (f"{RETRY}/epoch=1.ckpt", 0.2)


def test_epochs_alone_do_not_make_steps_epochs(runs: RecordedRuns) -> None:
    add(runs, "epoch=0-step=100.ckpt", "epoch=8-step=200.ckpt", "recovery_epoch=1.ckpt", "recovery_epoch=2.ckpt")
    log(runs, "val_loss", {1: 0.0, 2: 0.1, 99: 0.7, 199: 0.5})
    assert name(runs, None, "val_loss") == "epoch=8-step=200.ckpt"


@pytest.mark.parametrize(
    ("values", "names", "taken", "value", "told"),
    [
        ({10: 0.9, 20: 0.1, 30: 0.8, 100: 0.5, 200: 0.7}, [(1, 20), (9, 100), (20, 200)], 20, 0.1, "that of the step in a name, not of its epoch"),
        ({99: 0.3, 199: 0.2, 299: 0.4}, [(0, 100), (1, 200), (2, 300)], 200, 0.2, ""),
        ({0: 0.3, 1: 0.2, 2: 0.4}, [(0, 100), (1, 200), (2, 300)], 200, 0.2, ""),
        ({99: 1.0, 100: 0.2, 199: 0.5, 200: 3}, [(None, 100), (None, 200)], 200, 0.5, "the step before the one in a name, as Lightning counts"),
        ({99: 0.1, 100: 0.2, 200: 0.1}, [(None, 100), (None, 200)], 200, 0.1, "that of the step in a name"),
        ({9: 0.5, 19: 0.1, 20: 0.2}, [(19, 10), (29, 20), (39, 30)], 20, 0.1, "the step before"),
    ],
)
def test_one_way_of_counting_for_all_checkpoints(
    runs: RecordedRuns, values: dict[int, float], names: list[tuple[int | None, int]], taken: int, value: float, told: str
) -> None:
    add(runs, *(f"{'' if epoch is None else f'epoch={epoch}-'}step={step}.ckpt" for epoch, step in names))
    log(runs, "val_loss", values)
    checkpoint = found(runs, None, "val_loss")
    assert checkpoint.names[0].endswith(f"step={taken}.ckpt")
    assert checkpoint.value == value
    assert told in checkpoint.why
    assert bool(told) == bool(checkpoint.why)


def test_infinite_values_are_not_the_best(runs: RecordedRuns) -> None:
    add(runs, "epoch=0.ckpt", "epoch=1.ckpt")
    log(runs, "val_acc", {0: math.inf, 1: 0.4, 2: math.inf})
    taken = found(runs, None, "val_acc")
    assert (taken.epoch, taken.value, taken.why) == (1, 0.4, "")
