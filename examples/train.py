"""Train a small neural network on scikit-learn's handwritten digits.

Writes, below the current folder:
    outputs/results.json            accuracy and loss on the held-out test images
    outputs/confusion_matrix.csv    true digit (row) against predicted digit (column)
    outputs/checkpoints/            epoch=N.ckpt after each epoch, and last.ckpt, the newest
    logs/                           TensorBoard event files
If MLFLOW_TRACKING_URI is set, the script logs parameters and metrics to that MLflow server.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import mlflow
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from tensorboard.summary import Writer

DIGITS = np.arange(10)


@dataclass(frozen=True)
class Images:
    """Images as rows of 64 grey values from 0 to 1, and the digit on each."""

    pixels: Any
    digits: Any


@dataclass(frozen=True)
class Splits:
    train: Images
    val: Images
    test: Images


class Metrics:
    """Logs the values of each epoch to TensorBoard, and to MLflow if it is configured."""

    def __init__(self, log_dir: Path, use_mlflow: bool) -> None:
        self.writer = Writer(str(log_dir))
        self.use_mlflow = use_mlflow

    def log(self, values: dict[str, float], epoch: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step=epoch)
        self.writer.flush()
        if self.use_mlflow:
            mlflow.log_metrics(values, step=epoch)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small neural network on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images")
    parser.add_argument("--learning_rate", type=float, default=0.002)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 32], help="units of each hidden layer")
    parser.add_argument("--random_seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs"))
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error("--epochs must be at least 1")
    return args


def load_splits(seed: int) -> Splits:
    """Split the 1,797 images: 60 % for training, 20 % for validation, 20 % for the final test."""
    pixels, digits = load_digits(return_X_y=True)
    train_x, rest_x, train_y, rest_y = train_test_split(
        pixels / 16, digits, test_size=0.4, stratify=digits, random_state=seed
    )
    val_x, test_x, val_y, test_y = train_test_split(rest_x, rest_y, test_size=0.5, stratify=rest_y, random_state=seed)
    return Splits(Images(train_x, train_y), Images(val_x, val_y), Images(test_x, test_y))


def loss_and_accuracy(model: Any, images: Images) -> tuple[float, float]:
    probabilities = model.predict_proba(images.pixels)
    loss = log_loss(images.digits, probabilities, labels=DIGITS)
    return float(loss), float(accuracy_score(images.digits, probabilities.argmax(axis=1)))


def save_checkpoint(model: Any, epoch: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch={epoch}.ckpt"
    joblib.dump({"epoch": epoch, "model": model}, path)
    shutil.copyfile(path, folder / "last.ckpt")


def train(args: argparse.Namespace, splits: Splits, metrics: Metrics) -> Any:
    model = MLPClassifier(
        tuple(args.hidden), learning_rate_init=args.learning_rate, batch_size=32, random_state=args.random_seed
    )
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        model.partial_fit(splits.train.pixels, splits.train.digits, classes=DIGITS)
        train_loss, _ = loss_and_accuracy(model, splits.train)
        val_loss, val_accuracy = loss_and_accuracy(model, splits.val)
        metrics.log({"train/loss": train_loss, "val/loss": val_loss, "val/accuracy": val_accuracy}, epoch)
        save_checkpoint(model, epoch, args.output_dir / "checkpoints")
        print(
            f"epoch {epoch}/{args.epochs}  train loss {train_loss:.3f}  val loss {val_loss:.3f}"
            f"  val accuracy {val_accuracy:.3f}  {time.perf_counter() - start:.2f} s",
            flush=True,
        )
    return model


def write_results(model: Any, images: Images, output_dir: Path) -> dict[str, float]:
    loss, accuracy = loss_and_accuracy(model, images)
    results = {"test_accuracy": round(accuracy, 4), "test_loss": round(loss, 4), "test_images": len(images.digits)}
    (output_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    table = confusion_matrix(images.digits, model.predict(images.pixels), labels=DIGITS)
    with (output_dir / "confusion_matrix.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["digit", *DIGITS])
        rows.writerows([digit, *counts] for digit, counts in zip(DIGITS, table, strict=True))
    return results


def main() -> None:
    args = parse_args()
    splits = load_splits(args.random_seed)
    use_mlflow = mlflow.is_tracking_uri_set()
    with mlflow.start_run() if use_mlflow else nullcontext():
        if use_mlflow:
            mlflow.log_params({key: str(value) for key, value in vars(args).items()})
        model = train(args, splits, Metrics(Path("logs"), use_mlflow))
    results = write_results(model, splits.test, args.output_dir)
    print(
        f"test accuracy {results['test_accuracy']:.3f} on {results['test_images']} images, written to "
        f"{args.output_dir / 'results.json'}"
    )


if __name__ == "__main__":
    main()
