"""Fit a line to a few points, save a checkpoint after each epoch, and start from a checkpoint if the job has one.

The script needs only the standard library. A checkpoint is a dictionary like those of PyTorch, stored as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from himl_cli.job import recovery_checkpoint

POINTS = [(x / 10, 2 * (x / 10) + 1) for x in range(10)]
CHECKPOINTS = Path("outputs/checkpoints")


class Line:
    """The model y = weight * x + bias, whose only layer has a name."""

    def __init__(self, layer: str) -> None:
        self.weight, self.bias = f"{layer}.weight", f"{layer}.bias"
        self.state = {self.weight: 0.0, self.bias: 0.0}

    def load(self, state: dict[str, float]) -> None:
        """Load the weights of a checkpoint. Raises KeyError if its layer has another name."""
        self.state = {name: state[name] for name in self.state}

    def train_one_epoch(self) -> float:
        """Take a step of gradient descent per point, and return the mean of the squared errors before each step."""
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
    parser.add_argument("--layer", default="linear", help="name of the model's layer")
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
