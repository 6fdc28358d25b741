"""Split scikit-learn's handwritten digits into train.npz and test.npz in --output, for the next steps."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--test_share", type=float, default=0.4)
    parser.add_argument("--random_seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="added by the pipeline")
    args = parser.parse_args()

    pixels, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels / 16, digits, test_size=args.test_share, stratify=digits, random_state=args.random_seed
    )
    args.output.mkdir(parents=True, exist_ok=True)
    np.savez(args.output / "train.npz", pixels=train_x, digits=train_y)
    np.savez(args.output / "test.npz", pixels=test_x, digits=test_y)
    print(f"{len(train_y)} images to train on, {len(test_y)} to test with, in {args.output}")


if __name__ == "__main__":
    main()
