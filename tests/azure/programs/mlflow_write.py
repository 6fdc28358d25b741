"""Log to the lab with MLflow's client and azureml-mlflow, and print the ids, as JSON. Argument: a folder for files."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow_read import opened  # type: ignore[import-not-found]

RUNNING = "quiet_pine_running"


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "reports" / "deep").mkdir(parents=True)
    (folder / "reports" / "deep" / "a.txt").write_text("deep\n", encoding="utf-8")
    (folder / "model #1 ü.bin").write_bytes(b"\x00" * 100_000)
    client = opened()
    client.log_metric(RUNNING, "loss", 1.0, timestamp=1_700_000_000_000, step=0)
    points = [Metric("loss", value, 1_700_000_000_000 + step, step) for step, value in enumerate((0.5, math.nan, math.inf), start=1)]
    client.log_batch(RUNNING, points, [Param("lr", "0.1")], [RunTag("by", "mlflow")])
    client.log_param(RUNNING, "layers", 3)
    client.set_tag(RUNNING, "note", "größer")
    client.set_tag(RUNNING, "gone", "soon")
    client.delete_tag(RUNNING, "gone")
    client.log_artifact(RUNNING, str(folder / "model #1 ü.bin"), "outputs")
    client.log_artifacts(RUNNING, str(folder / "reports"), "reports")
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
    sys.stdout.write(json.dumps({"parent": parent.info.run_id, "nested": nested.info.run_id}) + "\n")


if __name__ == "__main__":
    main()
