"""Train models and datasets that you select by name, with Lightning's `LightningCLI`, like hi-ml's runner.

himl submit train.py -- fit --model Line --data Points --trainer.max_epochs 5
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The classes that --data and --model select.
import datasets  # type: ignore[import-not-found]  # noqa: F401
import models  # type: ignore[import-not-found]  # noqa: F401
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BasePredictionWriter, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from himl_cli import job
from himl_cli.lightning import AzureMLProgressBar


class PredictionFile(BasePredictionWriter):
    """Writes the results of `predict` to outputs/predictions.csv, one row per point."""

    def __init__(self) -> None:
        super().__init__("epoch")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        rows = [f"{x:.3f},{y:.3f}" for x, y in torch.cat(list(predictions)).tolist()]
        Path("outputs").mkdir(exist_ok=True)
        Path("outputs/predictions.csv").write_text("\n".join(["x,y", *rows, ""]), encoding="utf-8")


class Runner(LightningCLI):
    """`fit`, `validate`, `test` and `predict` start from a checkpoint if there is one: that of an earlier attempt of
    this job, or the one of `himl submit --checkpoint`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--crossval_index", type=int, default=0, help="The fold: himl submit --crossval N.")
        parser.add_argument("--random_seed", type=int, default=0, help="The seed: himl submit --different_seeds N.")
        parser.link_arguments("crossval_index", "data.init_args.fold")

    def before_instantiate_classes(self) -> None:
        options = self.config[self.subcommand]
        seed_everything(options.random_seed)
        checkpoint = job.recovery_checkpoint()
        if options.ckpt_path is None and checkpoint is not None:
            options.ckpt_path = str(checkpoint)


if __name__ == "__main__":
    defaults: dict[str, Any] = {
        "logger": [
            {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "logs", "name": "", "version": ""}},
            {"class_path": "himl_cli.lightning.AzureMLLogger"},
        ],
        "callbacks": [
            AzureMLProgressBar(),
            ModelCheckpoint(dirpath="outputs/checkpoints", monitor="val/loss", filename="best", save_last=True),
            PredictionFile(),
        ],
        "log_every_n_steps": 1,
    }
    Runner(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        trainer_defaults=defaults,
        seed_everything_default=False,
        save_config_kwargs={"overwrite": True},
    )
