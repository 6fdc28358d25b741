"""Write the Iris dataset to two CSV files, with --azureml in a dataset on Azure ML."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_iris

from himl_cli import submit_to_azure_if_needed


def write_iris(folder: Path) -> None:
    """Write the Iris dataset: four measurements of 150 flowers to X.csv, and the species to Y.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    measures, kinds = load_iris(return_X_y=True)
    np.savetxt(folder / "X.csv", measures, delimiter=",", fmt="%.1f")
    np.savetxt(folder / "Y.csv", kinds, fmt="%d")
    print(f"Wrote X.csv and Y.csv to {folder}")


def main() -> None:
    run_info = submit_to_azure_if_needed(
        compute_cluster_name="cpu-cluster",
        wait_for_completion=True,
        default_datastore="himldatasets",
        output_datasets=["himl_sample6_input"],
    )
    write_iris(run_info.output_datasets[0] or Path("dataset"))


if __name__ == "__main__":
    main()
