"""Datasets that you select by name: `--data Points`, `--data Points --data.batch_size 16`."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Subset, TensorDataset

from himl_cli import job


class Points(LightningDataModule):
    """The points of points.csv in *folder*, by default the first input of the job, else the folder of this file.

    Fold *fold* of *folds* is for validation, and the other folds are for training. Tests and predictions use all
    points."""

    def __init__(self, folder: str | None = None, batch_size: int = 8, folds: int = 5, fold: int = 0) -> None:
        super().__init__()
        inputs = job.inputs()
        self.folder = Path(folder) if folder else next(iter(inputs.values()), Path(__file__).parent)
        self.batch_size, self.folds, self.fold = batch_size, folds, fold

    def setup(self, stage: str) -> None:
        lines = (self.folder / "points.csv").read_text(encoding="utf-8").splitlines()[1:]
        x, y = torch.tensor([[float(value) for value in line.split(",")] for line in lines]).split(1, dim=1)
        self.points = TensorDataset(x, y)
        self.validation = range(self.fold, len(x), self.folds)
        self.training = sorted(set(range(len(x))) - set(self.validation))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Subset(self.points, self.training), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Subset(self.points, self.validation), batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.points, batch_size=self.batch_size)

    predict_dataloader = test_dataloader
