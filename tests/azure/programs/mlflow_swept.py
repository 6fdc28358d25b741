"""Find the trials of a sweep by their parent with MLflow's client, and read their curves; print it as JSON."""

from __future__ import annotations

import json
import os
import sys

from mlflow_read import SWEEP, best_first, curve, opened  # type: ignore[import-not-found]


def main() -> None:
    client = opened()
    experiment = client.get_experiment_by_name(os.environ["LAB_EXPERIMENT"])
    trials = best_first(client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{SWEEP}'"))
    found = {
        "trials": [[run.info.run_id, json.loads(run.data.tags["hyperparameters"]), run.data.metrics, run.info.status] for run in trials],
        "curves": {run.info.run_id: curve(client, run.info.run_id, "accuracy") for run in trials},
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
