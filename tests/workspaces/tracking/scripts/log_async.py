"""Asynchronous logging, flushed when the script ends."""

import mlflow

mlflow.config.enable_async_logging()
with mlflow.start_run():
    for step in range(250):
        mlflow.log_metric("loss", step / 250, step=step)
    mlflow.log_param("rate", 0.1)
    mlflow.set_tag("kind", "async")
mlflow.flush_async_logging()
