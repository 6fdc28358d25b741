"""What a training script logs, by MLflow's plain functions; the client's own view is checked at the end."""

import math
import os
import tempfile
from pathlib import Path

import mlflow

with mlflow.start_run() as run:
    for step, value in enumerate([0.5, float("nan"), float("inf"), float("-inf"), 0.25]):
        mlflow.log_metric("loss", value, step=step)
    mlflow.log_metrics({"val/accuracy": 0.75, "f1": 1}, step=3)
    mlflow.log_param("rate", 0.1)
    mlflow.log_params({"layers": [3, 2], "note": "größer"})
    mlflow.set_tag("kind", "first")
    mlflow.set_tags({"owner": "ada", "gone": "soon"})
    mlflow.delete_tag("gone")
    mlflow.log_text("some words", "notes/read me.txt")
    mlflow.log_text("more words", "notes/#1.txt")
    mlflow.log_dict({"a": [1, 2]}, "config.json")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "with space.txt"
        file.write_text("x")
        mlflow.log_artifact(str(file))
        mlflow.log_artifacts(name, artifact_path="folder/sub folder")

    seen = mlflow.get_run(run.info.run_id)
    assert seen.info.run_id == os.environ["EXPECTED_RUN"], seen.info
    assert seen.data.metrics == {"loss": 0.25, "val/accuracy": 0.75, "f1": 1.0}, seen.data.metrics
    assert seen.data.params == {"rate": "0.1", "layers": "[3, 2]", "note": "größer"}, seen.data.params
    assert seen.data.tags["kind"] == "first", seen.data.tags
    assert "gone" not in seen.data.tags, seen.data.tags
    history = [point.value for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")]
    assert (history[0], history[2:]) == (0.5, [math.inf, -math.inf, 0.25]), history
    assert math.isnan(history[1]), history
    read = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/read me.txt")
    assert read == "some words", read
    names = {entry.path for entry in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert names == {"notes", "config.json", "with space.txt", "folder"}, names
