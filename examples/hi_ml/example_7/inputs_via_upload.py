"""Write the Iris dataset to two CSV files and upload them to a datastore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_iris

from himl_cli import upload_to_datastore


def write_iris(folder: Path) -> None:
    """Write the Iris dataset: four measurements of 150 flowers to X.csv, and the species to Y.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    measures, kinds = load_iris(return_X_y=True)
    np.savetxt(folder / "X.csv", measures, delimiter=",", fmt="%.1f")
    np.savetxt(folder / "Y.csv", kinds, fmt="%d")
    print(f"Wrote X.csv and Y.csv to {folder}")


def main() -> None:
    folder = Path("dataset")
    write_iris(folder)
    upload_to_datastore("himldatasets", folder, Path("himl_sample7_input"), overwrite=True)


if __name__ == "__main__":
    main()
