"""Read a sweep with the HyperDrive of azureml-train-core: its values, its best trial, its trials in order; print it as JSON."""

from __future__ import annotations

import json
import os
import sys

from azureml.core import Experiment
from azureml.train.hyperdrive import HyperDriveRun
from azureml_core_read import SWEEP, opened  # type: ignore[import-not-found]


def main() -> None:
    sweep = HyperDriveRun(Experiment(opened(), os.environ["LAB_EXPERIMENT"]), SWEEP)
    found = {
        "values": {name: json.loads(text) for name, text in sweep.get_hyperparameters().items()},
        "best": sweep.get_best_run_by_primary_metric().id,
        "ordered": [[one["run_id"], one["best_primary_metric"], one["status"]] for one in sweep.get_children_sorted_by_primary_metric()],
        "metrics": sweep.get_metrics(),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
