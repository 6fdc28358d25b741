"""Submit a sweep with azure-ai-ml that really runs, stream it, list its trials, download the best; print what it says, as JSON. Argument: a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from azure.ai.ml import command
from azure.ai.ml.sweep import Choice
from azure_ai_ml_jobs import below, streamed  # type: ignore[import-not-found]
from azure_ai_ml_read import opened  # type: ignore[import-not-found]

TRAIN = """
import os, pathlib, sys
import mlflow
mlflow.log_metric("accuracy", 1 - float(sys.argv[1]))
pathlib.Path("outputs").mkdir()
pathlib.Path("outputs/rate.txt").write_text(os.environ["AZUREML_SWEEP_lr"])
"""


def main() -> None:
    folder, client = Path(sys.argv[1]), opened()
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "train.py").write_text(TRAIN, encoding="utf-8")
    job = command(command="python train.py ${{inputs.lr}}", code=str(folder / "code"), environment="torch@latest", compute="cpu-cluster", inputs={"lr": 0.1})
    search = job(lr=Choice(values=[0.5, 0.125, 0.25])).sweep(compute="cpu-cluster", sampling_algorithm="grid", primary_metric="accuracy", goal="maximize")
    search.set_limits(max_total_trials=5, max_concurrent_trials=2)
    search.experiment_name = "swept"
    sent = client.jobs.create_or_update(search)
    log = streamed(client, sent.name)
    done = client.jobs.get(sent.name)
    client.jobs.download(sent.name, download_path=folder / "best")
    found = {
        "id": sent.name,
        "status": [sent.status, done.status],
        "space": {name: one.values for name, one in done.search_space.items()},
        "best": done.properties["best_child_run_id"],
        "children": {child.name: [child.status, child.tags["hyperparameters"]] for child in client.jobs.list(parent_job_name=sent.name)},
        "log": log,
        "files": below(folder / "best"),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
