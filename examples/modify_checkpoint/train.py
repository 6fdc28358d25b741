"""Train a line through a few points and keep a checkpoint of each epoch; go on from a checkpoint where the job was given one.

Standard library only. A checkpoint is a dictionary as PyTorch's users know it, here as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from himl_cli.job import recovery_checkpoint

POINTS = [(x / 10, 2 * (x / 10) + 1) for x in range(10)]
CHECKPOINTS = Path("outputs/checkpoints")


class Line:
    """y = weight * x + bias, as a model whose only layer has a name."""

    def __init__(self, layer: str) -> None:
        self.weight, self.bias = f"{layer}.weight", f"{layer}.bias"
        self.state = {self.weight: 0.0, self.bias: 0.0}

    def load(self, state: dict[str, float]) -> None:
        """Take over the weights of a checkpoint. Raises KeyError for those of a model whose layer has another name."""
        self.state = {name: state[name] for name in self.state}

    def train_one_epoch(self) -> float:
        """The mean squared error, before a step of gradient descent for each point."""
        loss = 0.0
        for x, y in POINTS:
            error = self.state[self.weight] * x + self.state[self.bias] - y
            self.state[self.weight] -= 0.1 * error * x
            self.state[self.bias] -= 0.1 * error
            loss += error * error / len(POINTS)
        return loss


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a line.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--layer", default="linear", help="what the model's layer is called")
    args = parser.parse_args()

    model = Line(args.layer)
    found = recovery_checkpoint()
    if found is not None:
        model.load(json.loads(found.read_text())["state_dict"])
        print(f"starting from {found.name}: {', '.join(model.state)}")
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    for epoch in range(args.epochs):
        loss = model.train_one_epoch()
        print(f"epoch {epoch}  loss {loss:.4f}")
        text = json.dumps({"epoch": epoch, "state_dict": model.state})
        for name in (f"epoch={epoch}-val_loss={loss:.4f}.ckpt", "last.ckpt"):
            (CHECKPOINTS / name).write_text(text)


if __name__ == "__main__":
    main()
