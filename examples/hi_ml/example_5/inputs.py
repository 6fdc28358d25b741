"""Write the Iris dataset to two CSV files beside this script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_iris


def write_iris(folder: Path) -> None:
    """Write the Iris dataset: four measurements of 150 flowers to X.csv, and the species to Y.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    measures, kinds = load_iris(return_X_y=True)
    np.savetxt(folder / "X.csv", measures, delimiter=",", fmt="%.1f")
    np.savetxt(folder / "Y.csv", kinds, fmt="%d")
    print(f"Wrote X.csv and Y.csv to {folder}")


def main() -> None:
    write_iris(Path(__file__).parent / "dataset")


if __name__ == "__main__":
    main()
