"""A script that fails without an exception: MLflow's exit hook still says that the run has finished."""

import os
import sys

import mlflow

mlflow.start_run()
mlflow.log_metric("loss", 1.0)
if "hard" in sys.argv:
    os._exit(3)
sys.exit(3)
