"""Read the lab with MLflow's client and azureml-mlflow, and print what they say, as JSON. Argument: a folder for downloads."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

BEST, SWEEP = "kind_owl_best", "bold_kite_sweep"


def opened() -> MlflowClient:
    provider = "providers/Microsoft.MachineLearningServices/workspaces"
    place = f"/subscriptions/{os.environ['LAB_SUBSCRIPTION']}/resourceGroups/{os.environ['LAB_GROUP']}/{provider}/{os.environ['LAB_WORKSPACE']}"
    mlflow.set_tracking_uri(f"azureml://eastus.api.azureml.ms/mlflow/v1.0{place}")
    return MlflowClient()


def described(run: Run) -> dict[str, Any]:
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    return {"id": run.info.run_id, "status": run.info.status, "name": run.info.run_name, "tags": tags, "metrics": run.data.metrics, "params": run.data.params}


def curve(client: MlflowClient, run_id: str, name: str) -> list[list[float]]:
    return [[point.step, point.value] for point in client.get_metric_history(run_id, name)]


def listed(client: MlflowClient, run_id: str, path: str | None = None) -> list[str]:
    """Every file below *path*, folder by folder."""
    found = []
    for item in client.list_artifacts(run_id, path):
        found += listed(client, run_id, item.path) if item.is_dir else [item.path]
    return sorted(found)


def digests_below(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def best_first(runs: Iterable[Any]) -> list[Any]:
    """In the order of a metric, which Azure ML does not give them."""
    return sorted(runs, key=lambda run: -run.data.metrics["accuracy"])


def main() -> None:
    folder = Path(sys.argv[1])
    client = opened()
    experiment = client.get_experiment_by_name(os.environ["LAB_EXPERIMENT"])
    assert experiment is not None
    ids = [experiment.experiment_id]
    folder.mkdir(parents=True)
    for path in ("outputs", "odd names"):
        client.download_artifacts(BEST, path, str(folder))
    found = {
        "experiments": sorted(one.name for one in client.search_experiments()),
        "runs": [described(run) for run in client.search_runs(ids)],
        "tagged": [run.info.run_id for run in client.search_runs(ids, "tags.kind = 'best'")],
        "by_metric": [run.info.run_id for run in best_first(client.search_runs(ids, "metrics.accuracy > 0.1"))],
        "by_status": [run.info.run_id for run in client.search_runs(ids, "attributes.status = 'FAILED'")],
        "children": sorted(run.info.run_id for run in client.search_runs(ids, f"tags.mlflow.parentRunId = '{SWEEP}'")),
        "two": [run.info.run_id for run in client.search_runs(ids, max_results=2, order_by=["attributes.start_time ASC"])],
        "run": described(client.get_run(BEST)),
        "experiment": client.get_experiment(client.get_run(BEST).info.experiment_id).name,
        "loss": curve(client, BEST, "loss"),
        "files": listed(client, BEST),
        "downloaded": digests_below(folder),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
