"""One of several processes of a job that log at the same time, each with its own metric and to a shared one."""

import os
import sys

import mlflow

rank, count = os.environ["RANK"], int(sys.argv[1])
with mlflow.start_run():
    mlflow.log_param("shared", "same")
    for step in range(count):
        mlflow.log_metric(f"rank{rank}", step, step=step)
        mlflow.log_metric("all", int(rank), step=step)
