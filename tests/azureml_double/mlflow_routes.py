"""The MLflow routes (wire document 6.2), on the same state. MLflow's own library evaluates searches, with its grammar
and its order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.azureml_double.frame import (
    ServiceError,
    bad_request,
    body_of,
    demand,
    not_found,
    page_at,
    there,
    workspace_of,
)
from tests.azureml_double.history import new_run
from tests.azureml_double.run_data import keep_number, number_text
from tests.azureml_double.state import Experiment, Json, Metric, Point, Right, Run, Workspace, new_id

if TYPE_CHECKING:
    from mlflow import entities

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MOST_METRICS, MOST_OTHERS, MOST_RUNS, MOST_IN_BULK = 1000, 100, 100, 25_000
MOST_RESULTS = 1000
MOST_PARAMETERS = 200  # of a run, by three public reports
STATUSES = dict.fromkeys(("NotStarted", "Unapproved", "Starting", "Provisioning", "Preparing", "Queued"), "SCHEDULED")
STATUSES |= {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}
FROM_MLFLOW: Mapping[str, str] = {
    "RUNNING": "Running",
    "SCHEDULED": "Queued",
    "FINISHED": "Completed",
    "FAILED": "Failed",
    "KILLED": "Canceled",
}
RUN_NAME, PARENT, ROOT = "mlflow.runName", "mlflow.parentRunId", "mlflow.rootRunId"
# The service drops these tags at the creation of a run, but keeps them later, according to a public report.
NOT_AT_CREATION = ("mlflow.source.name", "mlflow.source.type")
VIEWS = {"ACTIVE_ONLY": (False,), "DELETED_ONLY": (True,), "ALL": (False, True)}
_BELOW = re.compile(
    r"\s*tags\.(?:mlflow\.(parent|root)RunId|[`\"]mlflow\.(parent|root)RunId[`\"])\s*=\s*'([^'\"]*)'\s*"
)
"""The filters for the children or all descendants of a run. The double evaluates them without MLflow, whose import
costs every test process two seconds.
"""
_NAMED = re.compile(r"attributes\.run_id IN \(('[^'\"]+'(?:, ?'[^'\"]+')*)\)")
"""The filter for runs by their ids, evaluated in the same way."""
_TAG = re.compile(r"^\s*tags?\.(`[^`]*`|\"[^\"]*\"|\S+?)\s*(!=|I?LIKE\b)", re.IGNORECASE)
_AND = re.compile(r"\s+AND\s+", re.IGNORECASE)


def _milliseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _moment(milliseconds: Any) -> datetime:
    return EPOCH + timedelta(milliseconds=int(milliseconds))


def _info(workspace: Workspace, run: Run) -> Json:
    # azureml-mlflow parses this format.
    place = f"{workspace.path}/experiments/{run.experiment.experiment_id}/runs/{run.run_id}/artifacts"
    form: Json = {
        "run_id": run.run_id,
        "run_uuid": run.run_id,
        "run_name": run.display_name,
        "experiment_id": run.experiment.experiment_id,
    }
    form |= {
        "user_id": run.user_name,
        "status": STATUSES.get(run.status, "RUNNING"),
        "start_time": _milliseconds(run.started or run.created),
    }
    form |= {
        "end_time": run.ended and _milliseconds(run.ended),
        "artifact_uri": f"azureml://{workspace.data_plane_host}/mlflow/v2.0{place}",
    }
    return form | {"lifecycle_stage": "deleted" if run.hidden else "active"}


def _run_form(workspace: Workspace, run: Run, *, without: Collection[str] = ()) -> Json:
    metrics = [_point_form(name, point) for name, point in _last_values(run).items() if name not in without]
    return {
        "info": _info(workspace, run),
        "data": {"metrics": metrics, "params": _pairs(run.parameters), "tags": _pairs(_tags(run))},
        "inputs": {},
    }


def _tags(run: Run) -> dict[str, str]:
    made = {ROOT: run.root_id, RUN_NAME: run.display_name, "mlflow.user": run.user_name}
    return run.tags | made | ({PARENT: run.parent_id} if run.parent_id else {})


def _experiment_form(experiment: Experiment) -> Json:
    stage = "deleted" if experiment.archived else "active"
    head = {
        "experiment_id": experiment.experiment_id,
        "name": experiment.name,
        "artifact_location": "",
        "lifecycle_stage": stage,
    }
    return {**head, "creation_time": _milliseconds(experiment.created), "tags": _pairs(experiment.tags)}


def _last_values(run: Run) -> dict[str, Point]:
    """The last row of each metric that MLflow can show (one number per row): the row with the highest step, and the
    latest of those. Cached until a row arrives, since a search reads every run of an experiment.
    """
    found = {}
    for metric in list(run.metrics.values()):
        count = len(metric.points)
        if metric.last is None or metric.last[0] != count:
            points = _numbers(metric)
            if not points:
                continue
            metric.last = count, max(points, key=lambda point: (point.step or 0, point.created))
        found[metric.name] = metric.last[1]
    return found


def _numbers(metric: Metric) -> list[Point]:
    return [
        point
        for point in metric.points
        if set(point.data) == {metric.name} and isinstance(point.data[metric.name], (int, float))
    ]


def _point_form(name: str, point: Point) -> Json:
    return {
        "key": name,
        "value": number_text(float(point.data[name])),
        "timestamp": _milliseconds(point.created),
        "step": point.step or 0,
    }


def _pairs(values: Mapping[str, str]) -> list[Json]:
    return [{"key": key, "value": value} for key, value in values.items()]


def get_experiment(request: Request) -> Response:
    known, name = workspace_of(request).experiments, request.query_params.get("experiment_name")
    if name is None:
        return JSONResponse(
            {"experiment": _experiment_form(_experiment(request, request.query_params.get("experiment_id", "")))}
        )
    return JSONResponse(
        {"experiment": _experiment_form(there(known.get(name), f"Experiment '{name}' does not exist."))}
    )


def create_experiment(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/write")
    workspace, name = workspace_of(request), body_of(request).get("name", "")
    if not name or name in workspace.experiments:
        raise ServiceError(
            409 if name else 400,
            "UserError",
            f"Experiment '{name}' exists already." if name else "An experiment needs a name.",
        )
    return JSONResponse({"experiment_id": workspace.experiment(name).experiment_id})


def get_run(request: Request) -> Response:
    return JSONResponse({"run": _run_form(workspace_of(request), _asked(request))})


def create_run(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/runs/write")
    workspace, body = workspace_of(request), body_of(request)
    experiment = _experiment(request, body.get("experiment_id", ""))
    tags = {tag["key"]: tag.get("value", "") for tag in body.get("tags") or []}
    run = new_run(workspace, experiment, new_id(), parent_id=tags.get(PARENT), user=body.get("user_id", ""))
    run.display_name = body.get("run_name") or tags.get(RUN_NAME) or run.run_id
    run.move("Running")
    if body.get("start_time"):
        run.started = _moment(body["start_time"])
    for key, value in tags.items():
        if key not in NOT_AT_CREATION:
            _set_tag(run, key, value)
    return JSONResponse({"run": _run_form(workspace, run)})


def update_run(request: Request) -> Response:
    run, body = _changed(request), body_of(request)
    if body.get("status"):
        run.move(FROM_MLFLOW[body["status"]])
    if body.get("end_time"):
        run.ended = _moment(body["end_time"])
    run.display_name = body.get("run_name") or run.display_name
    return JSONResponse({"run_info": _info(workspace_of(request), run)})


def delete_tag(request: Request) -> Response:
    run, key = _changed(request), body_of(request).get("key", "")
    if run.tags.pop(key, None) is None:
        raise not_found(f"Run {run.run_id} has no tag '{key}'.")
    return JSONResponse({})


def log_batch(request: Request) -> Response:
    """Log a batch of metrics, parameters and tags, or a single item that is the body."""
    run, body, route = _changed(request), body_of(request), request.url.path.rpartition("/")[2]
    alone = {"log-metric": "metrics", "log-parameter": "params", "set-tag": "tags"}.get(route)
    metrics, params, tags = (
        [body] if kind == alone else body.get(kind) or [] for kind in ("metrics", "params", "tags")
    )
    if len(metrics) > MOST_METRICS or len(params) > MOST_OTHERS or len(tags) > MOST_OTHERS:
        raise bad_request(
            f"At most {MOST_METRICS} metrics, {MOST_OTHERS} params and {MOST_OTHERS} tags go into one batch."
        )
    size = len(run.parameters.keys() | {param["key"] for param in params})
    if params and size > MOST_PARAMETERS:
        rule = "A field of the entity is over the size limit."
        see = "See https://aka.ms/azure-machine-learning-limits for service limits documentation."
        raise ServiceError(
            400, "ValidationError", f"{rule} FieldName=Parameters, Limit={MOST_PARAMETERS}, Size={size}. {see}"
        )
    for param in params:
        if run.parameters.setdefault(param["key"], str(param.get("value", ""))) != str(param.get("value", "")):
            raise bad_request(f"Param '{param['key']}' of run {run.run_id} was logged with another value.")
    for metric in metrics:
        created = _moment(metric.get("timestamp") or 0)
        keep_number(run, metric["key"], float(metric["value"]), step=int(metric.get("step") or 0), created=created)
    for tag in tags:
        _set_tag(run, tag["key"], str(tag.get("value", "")))
    return JSONResponse({})


def log_batch_async(request: Request) -> Response:
    """Like `log-batch`. The returned id serves to check for completion."""
    log_batch(request)
    return JSONResponse({"batch_tracking_id": new_id() if body_of(request).get("metrics") else ""})


def batch_status(request: Request) -> Response:
    _asked(request)
    return JSONResponse({"is_complete": True})


def metric_history(request: Request) -> Response:
    run, asked, workspace = _asked(request), request.query_params, workspace_of(request)
    key, wanted = asked.get("metric_key", ""), asked.get("max_results") or MOST_IN_BULK
    rows = sorted(_numbers(run.metrics.get(key, Metric(key))), key=lambda point: point.created)
    page, more = _page(workspace, rows, {"page_token": asked.get("page_token"), "max_results": wanted})
    return JSONResponse({"metrics": [_point_form(key, point) for point in page], **more})


def bulk_history(request: Request) -> Response:
    """Curves of one metric for several runs, silently truncated like those of MLflow's own server. It is not known
    whether the service has this route. Without `Workspace.bulk_history` the double does not.
    """
    workspace, asked = workspace_of(request), request.query_params
    run_ids, key = asked.getlist("run_id"), asked.get("metric_key", "")
    if not workspace.bulk_history:
        raise not_found(f"No route matches {request.url.path}.")
    if not 1 <= len(run_ids) <= MOST_RUNS:
        raise bad_request(f"GetMetricHistoryBulk takes 1 to {MOST_RUNS} runs, not {len(run_ids)}.")
    rows = []
    for run in [workspace.runs[run_id] for run_id in sorted(set(run_ids)) if run_id in workspace.runs]:
        ordered = sorted(
            _numbers(run.metrics.get(key, Metric(key))), key=lambda point: (point.created, point.step or 0)
        )
        rows += [{**_point_form(key, point), "run_id": run.run_id} for point in ordered]
    return JSONResponse({"metrics": rows[: min(int(asked.get("max_results") or MOST_IN_BULK), MOST_IN_BULK)]})


def _experiment(request: Request, experiment_id: str) -> Experiment:
    return there(
        workspace_of(request).experiment_by_id(experiment_id), f"No Experiment with id={experiment_id} exists."
    )


def _asked(request: Request) -> Run:
    given = {**body_of(request), **request.query_params}
    run_id = given.get("run_id") or given.get("run_uuid") or ""
    return there(workspace_of(request).runs.get(run_id), f"Run '{run_id}' not found.")


def _changed(request: Request) -> Run:
    demand(request, Right.WRITE, "experiments/runs/write")
    return _asked(request)


def _set_tag(run: Run, key: str, value: str) -> None:
    """Set a tag. Names and parents are not tags in run history but fields of the record."""
    if key == RUN_NAME:
        run.display_name = value
    elif key not in (PARENT, ROOT):
        run.tags[key] = value


def _page(workspace: Workspace, items: Sequence[Any], asked: Mapping[str, Any]) -> tuple[Sequence[Any], dict[str, str]]:
    page, token = page_at(
        items, asked.get("page_token"), min(int(asked.get("max_results") or workspace.page_size), workspace.page_size)
    )
    return page, {"next_page_token": token} if token else {}


def search_runs(request: Request) -> Response:
    workspace, body = workspace_of(request), body_of(request)
    _check_length(workspace, body)
    shown = VIEWS.get(str(body.get("run_view_type") or "ACTIVE_ONLY").upper(), (False,))
    experiments = [_experiment(request, one) for one in body.get("experiment_ids") or []]
    runs = [run for experiment in experiments for run in list(experiment.runs.values()) if run.hidden in shown]
    page, more = _page(workspace, _searched(runs, body.get("filter") or "", body.get("order_by") or []), body)
    return JSONResponse({"runs": [_run_form(workspace, run, without=workspace.search_lacks) for run in page], **more})


def _check_length(workspace: Workspace, body: Mapping[str, Any]) -> None:
    if workspace.short_searches and int(body.get("max_results") or 0) >= MOST_RESULTS:
        raise bad_request(f"max_results must be less than {MOST_RESULTS}.")


def _searched(runs: list[Run], text: str, order: list[str]) -> Sequence[Run]:
    newest_first = sorted(runs, key=lambda run: (_milliseconds(run.started or run.created), run.run_id), reverse=True)
    _refuse_what_the_service_does(text, order)
    above = _BELOW.fullmatch(text)
    if not order and above:
        is_parent = "parent" in above.groups()
        return [run for run in newest_first if (run.parent_id if is_parent else run.root_id) == above[3]]
    if not order and not text:
        return newest_first
    if not order and (named := _NAMED.fullmatch(text)):
        ids = {*re.findall("'([^']+)'", named[1])}
        return [run for run in newest_first if run.run_id in ids]
    from mlflow.exceptions import MlflowException
    from mlflow.utils.search_utils import SearchUtils

    try:
        found = SearchUtils.filter(_as_entities(newest_first), text)
        ordered = SearchUtils.sort(found, order) if order else found
    except MlflowException as error:
        raise bad_request(error.message) from error
    by_id = {run.run_id: run for run in runs}
    return [by_id[run.info.run_id] for run in ordered]


def _refuse_what_the_service_does(text: str, order: Sequence[str]) -> None:
    """Reject searches that MLflow's library supports but the service does not. According to its documentation, the
    service compares tags only by `=` and orders only by attributes. A public report of July 2025 has a refused `OR`,
    which MLflow's library also rejects.
    """
    for part in _AND.split(text):
        if found := _TAG.match(part):
            raise bad_request(f"Operator '{found[2].upper()}' not supported for key type 'Tag'.")
    for one in order:
        if re.match(r"\s*(metrics?|params?|parameters?|tags?)\.", one):
            raise bad_request(f"Runs cannot be ordered by '{one}'.")


def _as_entities(runs: Iterable[Run]) -> list[entities.Run]:
    from mlflow.entities import Metric, Param, RunData, RunInfo, RunTag
    from mlflow.entities import Run as MlflowRun

    made = []
    for run in runs:
        begun, ended = _milliseconds(run.started or run.created), _milliseconds(run.ended) if run.ended else None
        status = STATUSES.get(run.status, "RUNNING")
        info = RunInfo(
            run.run_id,
            run.experiment.experiment_id,
            run.user_name,
            status,
            begun,
            ended,
            "active",
            "",
            run.display_name,
        )
        last = [Metric(name, float(point.data[name]), 0, point.step or 0) for name, point in _last_values(run).items()]
        params = [Param(name, value) for name, value in run.parameters.items()]
        made.append(MlflowRun(info, RunData(last, params, [RunTag(name, value) for name, value in _tags(run).items()])))
    return made


def search_experiments(request: Request) -> Response:
    body = body_of(request)
    shown = VIEWS.get(str(body.get("view_type") or "ACTIVE_ONLY").upper(), (False,))
    known = {
        one.experiment_id: one
        for one in list(workspace_of(request).experiments.values())
        if bool(one.archived) in shown
    }
    if not (body.get("filter") or body.get("order_by")):
        return JSONResponse({"experiments": [_experiment_form(known[each]) for each in sorted(known, reverse=True)]})
    from mlflow.entities import Experiment, ExperimentTag
    from mlflow.exceptions import MlflowException
    from mlflow.utils.search_utils import SearchExperimentsUtils

    entities = [
        Experiment(
            one.experiment_id,
            one.name,
            "",
            "active",
            [ExperimentTag(*pair) for pair in one.tags.items()],
            _milliseconds(one.created),
            0,
        )
        for one in known.values()
    ]
    try:
        found = SearchExperimentsUtils.filter(entities, body.get("filter") or "")
        ordered = SearchExperimentsUtils.sort(found, body.get("order_by") or [])
    except MlflowException as error:
        raise bad_request(error.message) from error
    return JSONResponse({"experiments": [_experiment_form(known[one.experiment_id]) for one in ordered]})


def search_models(request: Request) -> Response:
    """Return no models. MLflow 3 requests this when it lists a folder of artifacts, and fails if the route is
    missing. The answer of the service is not known.
    """
    for one in body_of(request).get("experiment_ids") or []:
        _experiment(request, one)
    return JSONResponse({"models": []})


_GETS = {"experiments/get": get_experiment, "experiments/get-by-name": get_experiment, "runs/get": get_run}
_GETS |= {"metrics/get-history": metric_history, "metrics/get-history-bulk": bulk_history}
_POSTS = {
    "experiments/create": create_experiment,
    "runs/create": create_run,
    "runs/update": update_run,
    **dict.fromkeys(("runs/log-metric", "runs/log-parameter", "runs/set-tag"), log_batch),
    "runs/delete-tag": delete_tag,
    "runs/log-batch": log_batch,
    "logged-models/search": search_models,
    "runs/search": search_runs,
    "experiments/search": search_experiments,
}
routes: list[Route] = [
    *[Route(f"/mlflow/api/2.0/mlflow/{path}", handler, methods=["GET"]) for path, handler in _GETS.items()],
    *[Route(f"/mlflow/api/2.0/mlflow/{path}", handler, methods=["POST"]) for path, handler in _POSTS.items()],
    # azureml-mlflow's additions to MLflow have the prefix `preview`.
    Route("/mlflow/api/2.0/preview/mlflow/runs/log-batch-async", log_batch_async, methods=["POST"]),
    Route("/mlflow/api/2.0/preview/mlflow/runs/get-run-data-status", batch_status, methods=["GET"]),
]
