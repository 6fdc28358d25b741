"""Models that you select by name: `--model Line`, `--model Network --model.width 32`."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule

from himl_cli.lightning import log_on_epoch


class Line(LightningModule):
    """Fits y = a x + b."""

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = self.make_layers()

    def make_layers(self) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, y = batch
        return torch.nn.functional.mse_loss(self(x), y)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        loss = self.loss(batch)
        log_on_epoch(self, "train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        log_on_epoch(self, "val/loss", self.loss(batch))

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        log_on_epoch(self, "test/loss", self.loss(batch))

    def predict_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        return torch.cat([batch[0], self(batch[0])], dim=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.hparams.rate)


class Network(Line):
    """A network with a hidden layer of *width* units."""

    def __init__(self, rate: float = 0.1, width: int = 16) -> None:
        self.width = width
        super().__init__(rate)

    def make_layers(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(1, self.width), torch.nn.ReLU(), torch.nn.Linear(self.width, 1))
