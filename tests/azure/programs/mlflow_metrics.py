"""What MLflow's client says that the children of LAB_SWEEP logged: last values by one search, and every curve, as JSON."""

from __future__ import annotations

import json
import os
import sys

import mlflow
from mlflow.tracking import MlflowClient


def main() -> None:
    provider = "providers/Microsoft.MachineLearningServices/workspaces"
    place = f"/subscriptions/{os.environ['LAB_SUBSCRIPTION']}/resourceGroups/{os.environ['LAB_GROUP']}/{provider}/{os.environ['LAB_WORKSPACE']}"
    mlflow.set_tracking_uri(f"azureml://eastus.api.azureml.ms/mlflow/v1.0{place}")
    client = MlflowClient()
    experiment = client.get_experiment_by_name(os.environ["LAB_EXPERIMENT"])
    assert experiment is not None
    children = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{os.environ['LAB_SWEEP']}'")
    curves = {
        run.info.run_id: {name: [(one.step, one.value, one.timestamp) for one in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}
        for run in children
    }
    found = {run.info.run_id: {"last": run.data.metrics, "params": run.data.params, "curves": curves[run.info.run_id]} for run in children}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
