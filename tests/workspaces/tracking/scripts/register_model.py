"""What the job's server does not offer fails at once, with an error that can be caught; traces are only warned about."""

import time

import mlflow

with mlflow.start_run():
    start = time.monotonic()
    code = ""
    try:
        mlflow.MlflowClient().create_registered_model("mine")
    except mlflow.exceptions.MlflowException as error:
        code = error.error_code
    assert code == "ENDPOINT_NOT_FOUND", code
    assert time.monotonic() - start < 60, "the client retried"
    mlflow.log_metric("after", 1)
