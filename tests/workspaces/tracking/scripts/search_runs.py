"""Searching among the job's runs as scripts do to find the best of a sweep."""

import mlflow

client = mlflow.MlflowClient()
with mlflow.start_run() as parent:
    for number in range(4):
        with mlflow.start_run(run_name=f"trial {number}", nested=True, tags={"kind": "even" if number % 2 == 0 else "odd"}):
            mlflow.log_param("depth", number)
            mlflow.log_metric("val/loss", 1.0 - number / 10)
experiments = [parent.info.experiment_id]


def names(filter_string: str, order_by: list[str] | None = None, max_results: int = 1000) -> list[str]:
    return [run.info.run_name for run in client.search_runs(experiments, filter_string, order_by=order_by, max_results=max_results)]


assert names("metrics.`val/loss` < 0.85", order_by=["metrics.`val/loss` ASC"]) == ["trial 3", "trial 2"]
assert names("tags.kind = 'odd' and params.depth != '1'") == ["trial 3"]
assert names(f"tags.mlflow.parentRunId = '{parent.info.run_id}'", order_by=["params.depth DESC"], max_results=2) == ["trial 3", "trial 2"]
assert names("attributes.run_name LIKE 'trial%' and attributes.status = 'FINISHED'", order_by=["start_time ASC"]) == [f"trial {n}" for n in range(4)]
page = client.search_runs(experiments, "params.depth ILIKE '%'", order_by=["run_name"], max_results=3)
assert len(page) == 3
assert page.token
rest = client.search_runs(experiments, "params.depth ILIKE '%'", order_by=["run_name"], max_results=3, page_token=page.token)
assert [run.info.run_name for run in rest] == ["trial 3"]
assert not rest.token
code = ""
try:
    names("metrics.loss ~ 3")
except mlflow.exceptions.MlflowException as error:
    code = error.error_code
assert code == "INVALID_PARAMETER_VALUE", code
