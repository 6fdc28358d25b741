"""Train a small neural network on train.npz in --input_data, and write model.joblib and the test images to --output.

An MpiStep may start several ranks of this script. Only the first one trains.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import joblib
import numpy as np
from sklearn.neural_network import MLPClassifier

RANK_NAMES = ("RANK", "OMPI_COMM_WORLD_RANK")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--input_data", type=Path, required=True, help="added by the pipeline")
    parser.add_argument("--output", type=Path, required=True, help="added by the pipeline")
    args = parser.parse_args()

    rank = next((os.environ[name] for name in RANK_NAMES if name in os.environ), "0")
    if rank != "0":
        print(f"rank {rank} has nothing to do")
        return
    images = np.load(args.input_data / "train.npz")
    model = MLPClassifier((32,), learning_rate_init=0.01, batch_size=32, random_state=0)
    for epoch in range(1, args.epochs + 1):
        model.partial_fit(images["pixels"], images["digits"], classes=np.arange(10))
        print(f"epoch {epoch}/{args.epochs}  loss {model.loss_:.3f}", flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, args.output / "model.joblib")
    shutil.copyfile(args.input_data / "test.npz", args.output / "test.npz")


if __name__ == "__main__":
    main()
