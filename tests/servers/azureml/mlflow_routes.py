"""The MLflow routes of a workspace that read and write one run or one experiment (wire document 6.2)."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import ServiceError, bad_request, not_found
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.history_runs import move, new_run
from tests.servers.azureml.metric_forms import keep_number
from tests.servers.azureml.mlflow_forms import FROM_MLFLOW, PARENT, RUN_NAME, experiment_form, info_form, moment, numbers, point_form, run_form
from tests.servers.azureml.paging import name_in, token_after
from tests.servers.azureml.principals import Right
from tests.servers.azureml.state import Experiment, Metric, Run, new_id

MOST_METRICS, MOST_OTHERS = 1000, 100
NOT_AT_CREATION = ("mlflow.source.name", "mlflow.source.type")
"""Tags that the service drops when a run is made, and keeps when they are set afterwards, as a public report has it."""
MOST_RUNS, MOST_IN_BULK = 100, 25_000


def get_experiment(request: Request) -> Response:
    return JSONResponse({"experiment": experiment_form(workspace_of(request), experiment_with_id(request, request.query_params.get("experiment_id", "")))})


def get_experiment_by_name(request: Request) -> Response:
    workspace, name = workspace_of(request), request.query_params.get("experiment_name", "")
    if name not in workspace.experiments:
        raise not_found(f"Experiment '{name}' does not exist.")
    return JSONResponse({"experiment": experiment_form(workspace, workspace.experiments[name])})


def create_experiment(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/write")
    workspace, name = workspace_of(request), body_of(request).get("name", "")
    if not name or name in workspace.experiments:
        raise ServiceError(409 if name else 400, "UserError", f"Experiment '{name}' exists already." if name else "An experiment needs a name.")
    return JSONResponse({"experiment_id": workspace.experiment(name).experiment_id})


def get_run(request: Request) -> Response:
    return JSONResponse({"run": run_form(workspace_of(request), _asked(request))})


def create_run(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/runs/write")
    workspace, body = workspace_of(request), body_of(request)
    experiment = experiment_with_id(request, body.get("experiment_id", ""))
    tags = {tag["key"]: tag.get("value", "") for tag in body.get("tags") or []}
    run = new_run(workspace, experiment, new_id(), parent_id=tags.get(PARENT), user=body.get("user_id", ""))
    run.display_name = body.get("run_name") or tags.get(RUN_NAME) or run.run_id
    move(run, "Running")
    if body.get("start_time"):
        run.started = moment(int(body["start_time"]))
    for key, value in tags.items():
        if key not in NOT_AT_CREATION:
            _set_tag(run, key, value)
    return JSONResponse({"run": run_form(workspace, run)})


def update_run(request: Request) -> Response:
    run, body = _changed(request), body_of(request)
    if body.get("status"):
        move(run, FROM_MLFLOW[body["status"]])
    if body.get("end_time"):
        run.ended = moment(int(body["end_time"]))
    run.display_name = body.get("run_name") or run.display_name
    return JSONResponse({"run_info": info_form(workspace_of(request), run)})


def log_metric(request: Request) -> Response:
    _keep(_changed(request), metrics=[body_of(request)])
    return JSONResponse({})


def log_parameter(request: Request) -> Response:
    _keep(_changed(request), params=[body_of(request)])
    return JSONResponse({})


def set_tag(request: Request) -> Response:
    _keep(_changed(request), tags=[body_of(request)])
    return JSONResponse({})


def delete_tag(request: Request) -> Response:
    run, key = _changed(request), body_of(request).get("key", "")
    if run.tags.pop(key, None) is None:
        raise not_found(f"Run {run.run_id} has no tag '{key}'.")
    return JSONResponse({})


def log_batch(request: Request) -> Response:
    run, body = _changed(request), body_of(request)
    metrics, params, tags = (body.get(kind) or [] for kind in ("metrics", "params", "tags"))
    if len(metrics) > MOST_METRICS or len(params) > MOST_OTHERS or len(tags) > MOST_OTHERS:
        raise bad_request(f"At most {MOST_METRICS} metrics, {MOST_OTHERS} params and {MOST_OTHERS} tags go into one batch.")
    _keep(run, metrics, params, tags)
    return JSONResponse({})


def log_batch_async(request: Request) -> Response:
    """As `log-batch`; the number is for asking whether all is kept."""
    log_batch(request)
    return JSONResponse({"batch_tracking_id": new_id() if body_of(request).get("metrics") else ""})


def batch_status(request: Request) -> Response:
    _asked(request)
    return JSONResponse({"is_complete": True})


def metric_history(request: Request) -> Response:
    run, asked = _asked(request), request.query_params
    most = workspace_of(request).most_history
    wanted = int(asked.get("max_results") or 0)
    if most is not None and wanted > most:
        raise bad_request(f"MaxResults = {wanted} is invalid: MaxResults must be less than {most + 1}.")
    metric = run.metrics.get(asked.get("metric_key", ""), Metric(""))
    rows = sorted(numbers(metric), key=lambda point: point.created)
    begin = int(name_in(asked["page_token"])) if asked.get("page_token") else 0
    end = begin + min(wanted or most or 25_000, workspace_of(request).page_size)
    token = {"next_page_token": token_after(str(end))} if end < len(rows) else {}
    return JSONResponse({"metrics": [point_form(metric, point) for point in rows[begin:end]], **token})


def bulk_history(request: Request) -> Response:
    """Curves of one metric of several runs, cut off after so many values as MLflow's own server does, which tells nobody. Whether the service has it is
    not known: without `Workspace.bulk_history` it does not."""
    workspace, asked = workspace_of(request), request.query_params
    run_ids = asked.getlist("run_id")
    if not workspace.bulk_history:
        raise not_found(f"No route matches {request.url.path}.")
    if not 1 <= len(run_ids) <= MOST_RUNS:
        raise bad_request(f"GetMetricHistoryBulk takes 1 to {MOST_RUNS} runs, not {len(run_ids)}.")
    rows = []
    for run_id in sorted(set(run_ids)):
        run = workspace.runs.get(run_id)
        metric = run.metrics.get(asked.get("metric_key", "")) if run else None
        if metric is not None:
            ordered = sorted(numbers(metric), key=lambda point: (point.created, point.step or 0))
            rows += [{**point_form(metric, point), "run_id": run_id} for point in ordered]
    return JSONResponse({"metrics": rows[: min(int(asked.get("max_results") or MOST_IN_BULK), MOST_IN_BULK)]})


def experiment_with_id(request: Request, experiment_id: str) -> Experiment:
    """Raises ServiceError 404."""
    found = workspace_of(request).experiment_by_id(experiment_id)
    if found is None:
        raise not_found(f"No Experiment with id={experiment_id} exists.")
    return found


def _asked(request: Request) -> Run:
    run_id = (
        request.query_params.get("run_id") or request.query_params.get("run_uuid") or body_of(request).get("run_id") or body_of(request).get("run_uuid", "")
    )
    run = workspace_of(request).runs.get(run_id)
    if run is None:
        raise not_found(f"Run '{run_id}' not found.")
    return run


def _changed(request: Request) -> Run:
    demand(request, Right.WRITE, "experiments/runs/write")
    return _asked(request)


def _keep(run: Run, metrics: list[Any] | tuple[()] = (), params: list[Any] | tuple[()] = (), tags: list[Any] | tuple[()] = ()) -> None:
    for param in params:
        if run.parameters.setdefault(param["key"], str(param.get("value", ""))) != str(param.get("value", "")):
            raise bad_request(f"Param '{param['key']}' of run {run.run_id} was logged with another value.")
    for metric in metrics:
        keep_number(run, metric["key"], float(metric["value"]), step=int(metric.get("step") or 0), created=moment(int(metric.get("timestamp") or 0)))
    for tag in tags:
        _set_tag(run, tag["key"], str(tag.get("value", "")))


def _set_tag(run: Run, key: str, value: str) -> None:
    """Names and parents are not tags in run history but fields of the record."""
    if key == RUN_NAME:
        run.display_name = value
    elif key not in (PARENT, "mlflow.rootRunId"):
        run.tags[key] = value


GETS = {
    "experiments/get": get_experiment,
    "experiments/get-by-name": get_experiment_by_name,
    "runs/get": get_run,
    "metrics/get-history": metric_history,
    "metrics/get-history-bulk": bulk_history,
}
POSTS = {
    "experiments/create": create_experiment,
    "runs/create": create_run,
    "runs/update": update_run,
    "runs/log-metric": log_metric,
    "runs/log-parameter": log_parameter,
    "runs/set-tag": set_tag,
    "runs/delete-tag": delete_tag,
    "runs/log-batch": log_batch,
}
routes: list[Route] = [
    *[Route(f"/mlflow/api/2.0/mlflow/{path}", handler, methods=["GET"]) for path, handler in GETS.items()],
    *[Route(f"/mlflow/api/2.0/mlflow/{path}", handler, methods=["POST"]) for path, handler in POSTS.items()],
    # What azureml-mlflow adds to MLflow lies below `preview`.
    Route("/mlflow/api/2.0/preview/mlflow/runs/log-batch-async", log_batch_async, methods=["POST"]),
    Route("/mlflow/api/2.0/preview/mlflow/runs/get-run-data-status", batch_status, methods=["GET"]),
]
