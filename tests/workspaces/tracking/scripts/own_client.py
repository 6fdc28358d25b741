"""A logger with a client of its own, as Lightning's: it looks its experiment up by name, creates a run, and ends it."""

import time

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

client = MlflowClient()
experiment = client.get_experiment_by_name("lightning_logs")
experiment_id = experiment.experiment_id if experiment is not None else client.create_experiment("lightning_logs")
run = client.create_run(experiment_id=experiment_id, tags={"mlflow.runName": "lightning"})
now = int(time.time() * 1000)
client.log_batch(run_id=run.info.run_id, metrics=[Metric("loss", 0.1 * step, now, step) for step in range(1500)])
client.log_batch(run_id=run.info.run_id, params=[Param(f"p{number}", str(number)) for number in range(150)])
client.log_metric(run.info.run_id, "loss", float("nan"), step=1500)
client.set_terminated(run.info.run_id, status="FAILED")
assert len(client.get_metric_history(run.info.run_id, "loss")) == 1501
