"""What the job's server does not offer fails at once, with an error that can be caught."""

import time

import mlflow

with mlflow.start_run() as run:
    start = time.monotonic()
    code = ""
    try:
        mlflow.MlflowClient().search_traces(experiment_ids=[run.info.experiment_id])
    except mlflow.exceptions.MlflowException as error:
        code = error.error_code
    assert code == "ENDPOINT_NOT_FOUND", code
    assert time.monotonic() - start < 60, "the client retried"
    mlflow.log_metric("after", 1)
