"""Train a classifier on the dataset of example 7 and log its accuracy. On Azure ML, search for the best
hyperparameters.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import joblib
import numpy as np
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from himl_cli import (
    GOAL_ARG,
    MAX_CONCURRENT_TRIALS_ARG,
    MAX_TOTAL_TRIALS_ARG,
    PARAM_SAMPLING_ARG,
    PRIMARY_METRIC_ARG,
    SAMPLING_ALGORITHM_ARG,
    submit_to_azure_if_needed,
)

SEARCH = {
    PARAM_SAMPLING_ARG: {"kernel": ["linear", "rbf", "poly", "sigmoid"], "penalty": [0.5, 1, 1.5]},
    SAMPLING_ALGORITHM_ARG: "random",
    PRIMARY_METRIC_ARG: "Accuracy",
    GOAL_ARG: "maximize",
    MAX_TOTAL_TRIALS_ARG: 12,
    MAX_CONCURRENT_TRIALS_ARG: 4,
}


def main() -> None:
    run_info = submit_to_azure_if_needed(
        compute_cluster_name="cpu-cluster",
        wait_for_completion=True,
        wait_for_completion_show_output=True,
        default_datastore="himldatasets",
        input_datasets=["himl_sample7_input"],
        hyperparam_args=SEARCH,
    )
    parser = argparse.ArgumentParser(description="Train a support vector machine on the Iris dataset.")
    parser.add_argument("--kernel", default="linear", choices=["linear", "rbf", "poly", "sigmoid"])
    parser.add_argument("--penalty", type=float, default=1.0, help="penalty for misclassified points")
    args = parser.parse_args()
    input_folder = run_info.input_datasets[0] or Path("..") / "example_7" / "dataset"
    measures = np.loadtxt(input_folder / "X.csv", delimiter=",")
    kinds = np.loadtxt(input_folder / "Y.csv", dtype=int)
    train_x, test_x, train_y, test_y = train_test_split(measures, kinds, random_state=0)
    model = SVC(kernel=args.kernel, C=args.penalty, gamma="scale").fit(train_x, train_y)
    accuracy = float(model.score(test_x, test_y))
    print(f"Accuracy on the test set: {accuracy:.2f}")
    print(confusion_matrix(test_y, model.predict(test_x)))
    if run_info.run is not None:
        run_info.run.log("Kernel type", args.kernel)
        run_info.run.log("Penalty", args.penalty)
        run_info.run.log("Accuracy", accuracy)
    joblib.dump(model, run_info.output_folder / "model.joblib")


if __name__ == "__main__":
    main()
