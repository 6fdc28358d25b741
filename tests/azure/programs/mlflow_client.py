"""The calls of MLflow's client with azureml-mlflow to a workspace of the double. Each function runs in a separate
process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

BEST, SWEEP, RUNNING = "kind_owl_best", "bold_kite_sweep", "quiet_pine_running"


def opened() -> MlflowClient:
    provider = "providers/Microsoft.MachineLearningServices/workspaces"
    place = (
        f"/subscriptions/{os.environ['LAB_SUBSCRIPTION']}/resourceGroups/{os.environ['LAB_GROUP']}/{provider}/"
        f"{os.environ['LAB_WORKSPACE']}"
    )
    mlflow.set_tracking_uri(f"azureml://eastus.api.azureml.ms/mlflow/v1.0{place}")
    return MlflowClient()


def found(client: MlflowClient, text: str = "", **options: Any) -> list[Run]:
    experiment = client.get_experiment_by_name(os.environ["LAB_EXPERIMENT"])
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], text, **options))


def described(run: Run) -> dict[str, Any]:
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    return {
        "id": run.info.run_id,
        "status": run.info.status,
        "name": run.info.run_name,
        "tags": tags,
        "metrics": run.data.metrics,
        "params": run.data.params,
    }


def curve(client: MlflowClient, run_id: str, name: str) -> list[list[float]]:
    return [[point.step, point.value] for point in client.get_metric_history(run_id, name)]


def listed(client: MlflowClient, run_id: str, path: str | None = None) -> list[str]:
    names: list[str] = []
    for item in client.list_artifacts(run_id, path):
        names += listed(client, run_id, item.path) if item.is_dir else [item.path]
    return sorted(names)


def digests_below(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def best_first(runs: list[Run]) -> list[Run]:
    """Sort by a metric, since Azure ML does not."""
    return sorted(runs, key=lambda run: -run.data.metrics["accuracy"])


def ids(runs: list[Run]) -> list[str]:
    return [run.info.run_id for run in runs]


def read() -> dict[str, Any]:
    client, folder = opened(), Path("down")
    folder.mkdir()
    for path in ("outputs", "odd names"):
        client.download_artifacts(BEST, path, str(folder))
    return {
        "experiments": sorted(one.name for one in client.search_experiments()),
        "runs": [described(run) for run in found(client)],
        "tagged": ids(found(client, "tags.kind = 'best'")),
        "by_metric": ids(best_first(found(client, "metrics.accuracy > 0.1"))),
        "by_status": ids(found(client, "attributes.status = 'FAILED'")),
        "children": sorted(ids(found(client, f"tags.mlflow.parentRunId = '{SWEEP}'"))),
        "two": ids(found(client, max_results=2, order_by=["attributes.start_time ASC"])),
        "run": described(client.get_run(BEST)),
        "experiment": client.get_experiment(client.get_run(BEST).info.experiment_id).name,
        "loss": curve(client, BEST, "loss"),
        "files": listed(client, BEST),
        "downloaded": digests_below(folder),
    }


def write() -> dict[str, str]:
    Path("reports/deep").mkdir(parents=True)
    Path("reports/deep/a.txt").write_text("deep\n", encoding="utf-8")
    Path("model #1 ü.bin").write_bytes(b"\x00" * 100_000)
    client = opened()
    client.log_metric(RUNNING, "loss", 1.0, timestamp=1_700_000_000_000, step=0)
    points = [
        Metric("loss", value, 1_700_000_000_000 + step, step)
        for step, value in enumerate((0.5, math.nan, math.inf), start=1)
    ]
    client.log_batch(RUNNING, points, [Param("lr", "0.1")], [RunTag("by", "mlflow")])
    client.log_param(RUNNING, "layers", 3)
    client.set_tag(RUNNING, "note", "größer")
    client.set_tag(RUNNING, "gone", "soon")
    client.delete_tag(RUNNING, "gone")
    client.log_artifact(RUNNING, "model #1 ü.bin", "outputs")
    client.log_artifacts(RUNNING, "reports", "reports")
    client.create_experiment("made-by-mlflow")
    mlflow.set_experiment(os.environ["LAB_EXPERIMENT"])
    with mlflow.start_run(run_name="by mlflow") as parent:
        mlflow.log_params({"a": 1})
        under_way = mlflow.log_metrics({"x": 1.5}, step=7, synchronous=False)
        assert under_way is not None
        under_way.wait()
        with mlflow.start_run(run_name="nested", nested=True) as nested:
            mlflow.log_metric("y", 2.0)
            mlflow.log_dict({"z": 1}, "config.json")
    return {"parent": parent.info.run_id, "nested": nested.info.run_id}


def in_job() -> str:
    """Act as a script inside a job: attach to its run and log to it, with only the run's token."""
    with mlflow.start_run() as run:
        mlflow.log_metric("inside", 2.0)
        mlflow.log_param("p", "1")
        mlflow.log_text("hello\n", "note.txt")
    return str(run.info.run_id)


def swept() -> dict[str, Any]:
    client = opened()
    trials = best_first(found(client, f"tags.mlflow.parentRunId = '{SWEEP}'"))
    return {
        "trials": [
            [run.info.run_id, json.loads(run.data.tags["hyperparameters"]), run.data.metrics, run.info.status]
            for run in trials
        ],
        "curves": {run.info.run_id: curve(client, run.info.run_id, "accuracy") for run in trials},
    }


def written() -> dict[str, Any]:
    client = opened()
    (run,) = [one for one in found(client) if one.info.run_name == "by himl"]
    files = sorted(item.path for item in client.list_artifacts(run.info.run_id, "outputs"))
    loss = curve(client, run.info.run_id, "loss")
    return {"status": run.info.status, "loss": loss, "params": run.data.params, "tags": run.data.tags, "files": files}
