"""Nested runs, a run after the job's own has ended, a deleted one, and a resumed one."""

import mlflow

client = mlflow.MlflowClient()
with mlflow.start_run(run_name="renamed") as parent:
    mlflow.set_tag("mlflow.runName", "renamed")  # MLflow 2 does not send the name of a run that exists
    for number in range(3):
        with mlflow.start_run(run_name=f"fold {number}", nested=True):
            mlflow.log_param("fold", number)
            mlflow.log_metric("score", number / 10)
            if number == 2:
                with mlflow.start_run(run_name="inner", nested=True):
                    mlflow.log_metric("deep", 1)
    with mlflow.start_run(run_name="mistake", nested=True) as mistake:
        mlflow.log_metric("score", 99)
    mlflow.delete_run(mistake.info.run_id)
    try:
        with mlflow.start_run(run_name="crashed", nested=True):
            raise KeyError("x")
    except KeyError:
        pass
    active = mlflow.active_run()
    assert active is not None
    assert active.info.run_id == parent.info.run_id

with mlflow.start_run(run_name="second") as second:
    mlflow.log_metric("after", 1)
    assert second.info.run_id != parent.info.run_id
assert client.get_run(second.info.run_id).info.status == "FINISHED"
with mlflow.start_run(run_id=second.info.run_id):
    mlflow.log_metric("after", 2)
    mlflow.log_text("x", "second.txt")
client.set_terminated(client.create_run(parent.info.experiment_id, run_name="killed").info.run_id, "KILLED")
mlflow.log_metric("implicit", 3)
mlflow.end_run()
