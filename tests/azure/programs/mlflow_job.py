"""What a script does with MLflow inside a job: attach to its own run, log to it, with nothing but the run's own token."""

from __future__ import annotations

import json
import sys

import mlflow


def main() -> None:
    with mlflow.start_run() as run:
        mlflow.log_metric("inside", 2.0)
        mlflow.log_param("p", "1")
        mlflow.log_text("hello\n", "note.txt")
    sys.stdout.write(json.dumps({"id": run.info.run_id}) + "\n")


if __name__ == "__main__":
    main()
