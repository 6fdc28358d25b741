"""What the names of checkpoints say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage
from himl_cli.services.checkpoints.names import goal_of, parse_name, same_metric


@pytest.mark.parametrize(
    ("name", "epoch", "step", "metrics"),
    [
        ("epoch=3-val_loss=0.12.ckpt", 3, None, {"val_loss": 0.12}),
        ("epoch=3-step=40-val_loss=0.12.ckpt", 3, 40, {"val_loss": 0.12}),
        ("epoch=03-val/loss=0.12-v1.ckpt", 3, None, {"val/loss": 0.12}),
        ("epoch=3-val-loss=1e-3.ckpt", 3, None, {"val-loss": 0.001}),
        ("val_loss=-0.50-val_acc=.9-epoch=10.pt", 10, None, {"val_loss": -0.5, "val_acc": 0.9}),
        ("epoch=3-val_loss=0.12", 3, None, {"val_loss": 0.12}),
        ("epoch=3-val_loss=inf.ckpt", 3, None, {"val_loss": float("inf")}),
        ("recovery_epoch=9-v2.ckpt", 9, None, {}),
        ("recovery_9", 9, None, {}),
        ("checkpoint_epoch12_step800.pth", 12, 800, {}),
        ("lightning_logs/version_0/checkpoints/epoch=1-step=20.ckpt", 1, 20, {}),
        ("epoch=2-lr=high.ckpt", 2, None, {}),
        ("epoch=5 (val_loss=0.05).ckpt", 5, None, {"val_loss": 0.05}),
        ("best-val_loss=0.30.ckpt", None, None, {"val_loss": 0.3}),
        ("model-epoch=1-val/acc=0.5.ckpt", 1, None, {"val/acc": 0.5}),
        ("resnet-val_loss=0.30.ckpt", None, None, {"resnet-val_loss": 0.3}),
        ("last.ckpt", None, None, {}),
        ("timesteps_5.ckpt", None, None, {}),
    ],
)
def test_epoch_step_and_metrics(name: str, epoch: int | None, step: int | None, metrics: dict[str, float]) -> None:
    told = parse_name(name)
    assert (told.epoch, told.step, told.metrics) == (epoch, step, metrics)


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("best.ckpt", ""),
        ("best-v3.ckpt", ""),
        ("best_model.pt", ""),
        ("best_val_loss.ckpt", "val_loss"),
        ("best-val/auc.ckpt", None),
        ("best-epoch=3.ckpt", ""),
        ("best_epoch=3-val_loss=0.1.ckpt", None),
        ("bestow.ckpt", None),
        ("last.ckpt", None),
    ],
)
def test_names_that_say_best(name: str, of: str | None) -> None:
    assert parse_name(name).best_of == of


def test_versions_of_one_name_have_one_stem() -> None:
    assert [(told.stem, told.version) for told in map(parse_name, ("epoch=3-a=0.1.ckpt", "epoch=3-a=0.1-v7.ckpt"))] == [
        ("epoch=3-a=0.1", 0),
        ("epoch=3-a=0.1", 7),
    ]


@given(st.integers(0, 10**6), st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from(["val_loss", "val/loss", "auc"]))
def test_what_lightning_writes_is_read_back(epoch: int, value: float, metric: str) -> None:
    told = parse_name(f"epoch={epoch:02d}-{metric}={value}.ckpt")
    assert (told.epoch, told.metrics) == (epoch, {metric: value})


def test_one_metric_spelled_for_a_file_name() -> None:
    assert same_metric("val/loss", "val_loss")
    assert same_metric("Val Loss", "val-loss")
    assert not same_metric("val_loss", "loss")


@pytest.mark.parametrize(
    ("metric", "goal"),
    [
        ("val/loss", "minimize"),
        ("valLoss", "minimize"),
        ("dice_loss", "minimize"),
        ("test_RMSE", "minimize"),
        ("val_acc", "maximize"),
        ("F1", "maximize"),
        ("valAUC", "maximize"),
        ("mean_dice", "maximize"),
        ("val_mAP", "maximize"),
        ("mAP50", "maximize"),
        ("mIoU", "maximize"),
    ],
)
def test_well_known_goals(metric: str, goal: str) -> None:
    assert goal_of(metric, None) == goal
    assert goal_of(metric, "maximize") == "maximize"


@pytest.mark.parametrize(
    "metric", ["score", "closs", "accident", "neg_log_loss", "val_neg_rmse", "inverseLoss", "error_free_rate", "loss_scale", "interruptions"]
)
def test_the_goal_of_other_metrics_is_asked_for(metric: str) -> None:
    with pytest.raises(BadUsage, match=metric) as caught:
        goal_of(metric, None)
    assert "--goal" in caught.value.hint
