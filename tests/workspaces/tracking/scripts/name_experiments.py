"""Experiments by names that are not the job's: everything still lands in the job."""

import os
import sys

import mlflow

if "set" in sys.argv:
    experiment = mlflow.set_experiment("another name")
    assert experiment.experiment_id == os.environ["MLFLOW_EXPERIMENT_ID"], experiment
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 1.0)
    assert run.info.run_id == os.environ["EXPECTED_RUN"], run.info
    assert [found.experiment_id for found in mlflow.search_experiments()] == [run.info.experiment_id]
    created = mlflow.create_experiment("third name", tags={"a": "b"})
    assert created == run.info.experiment_id, created
