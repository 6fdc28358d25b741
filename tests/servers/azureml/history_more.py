"""Run history beside the runs: experiments, events of a run, its token, and what clients wait for."""

from __future__ import annotations

from datetime import datetime, timezone

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request, time_text
from tests.servers.azureml.arm_job_checks import check_experiment
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.history_forms import experiment_form
from tests.servers.azureml.history_query import experiments_matching
from tests.servers.azureml.history_runs import FAMILIES, changeable_run, experiment_of, move, run_of
from tests.servers.azureml.principals import Right, make_run_token
from tests.servers.azureml.state import Experiment, Run, now

EVENTS = {
    "Microsoft.MachineLearning.Run.Start": "Running",
    "Microsoft.MachineLearning.Run.Queued": "Queued",
    "Microsoft.MachineLearning.Run.Completed": "Completed",
    "Microsoft.MachineLearning.Run.Failed": "Failed",
    "Microsoft.MachineLearning.Run.Canceled": "Canceled",
    "Microsoft.MachineLearning.Run.CancelRequested": "CancelRequested",
}
QUIET_EVENTS = {"Microsoft.MachineLearning.Run.Heartbeat", "Microsoft.MachineLearning.Run.Warning", "Microsoft.MachineLearning.Run.Error"}


def get_experiment(request: Request) -> Response:
    return JSONResponse(experiment_form(workspace_of(request), _named(request)))


def create_experiment(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/write")
    workspace = workspace_of(request)
    check_experiment(request.path_params["experiment"])
    return JSONResponse(experiment_form(workspace, workspace.experiment(request.path_params["experiment"])))


def patch_experiment(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/write")
    experiment, body = _named(request), body_of(request)
    if body.get("archive") is not None:
        experiment.archived = now() if body["archive"] else None
    if body.get("description") is not None:
        experiment.description = body["description"]
    experiment.tags |= body.get("tags") or {}
    return JSONResponse(experiment_form(workspace_of(request), experiment))


def delete_experiment(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/delete")
    experiment = _named(request)
    if experiment.runs:
        raise bad_request(f"Experiment {experiment.name} has runs and cannot be deleted.")
    del workspace_of(request).experiments[experiment.name]
    return Response(status_code=200)


def query_experiments(request: Request) -> Response:
    workspace = workspace_of(request)
    view = (request.query_params.get("viewType") or body_of(request).get("viewType") or "ActiveOnly").lower()
    found = experiments_matching(list(workspace.experiments.values()), body_of(request).get("filter"))
    wanted = [one for one in found if view in ("all", "archivedonly" if one.archived else "activeonly")]
    return JSONResponse({"value": [experiment_form(workspace, one) for one in wanted], "continuationToken": None, "nextLink": None})


def post_event(request: Request) -> Response:
    """How a run without the service's own runtime tells its status."""
    run, event = changeable_run(request), body_of(request)
    name = event.get("name", "")
    if name in EVENTS:
        move(run, EVENTS[name])
        _note_end(run, event)
    elif name not in QUIET_EVENTS:
        raise bad_request(f"Unknown event '{name}'.")
    else:
        _note_error(run, event)
    return Response(status_code=200)


def _note_end(run: Run, event: dict[str, object]) -> None:
    data = event.get("data")
    if run.status == "Failed" and isinstance(data, dict) and data.get("ErrorDetails"):
        run.error = {"error": {"code": "UserError", "message": str(data["ErrorDetails"])}}


def _note_error(run: Run, event: dict[str, object]) -> None:
    """A client tells what went wrong before it tells that the run failed."""
    data = event.get("data")
    if isinstance(data, dict) and isinstance(data.get("ErrorResponse"), dict):
        run.error = data["ErrorResponse"]


def get_token(request: Request) -> Response:
    token, ends = make_run_token(workspace_of(request).path, changeable_run(request).run_id)
    return JSONResponse({"token": token, "expiryTimeUtc": time_text(datetime.fromtimestamp(ends, timezone.utc))})


def wait_for_metrics(request: Request) -> Response:
    """Metrics are kept at once, so there is never anything to wait for."""
    run_of(request)
    return Response(status_code=200)


def _named(request: Request) -> Experiment:
    experiment = experiment_of(request)
    assert experiment is not None, "a route without an experiment"
    return experiment


routes: list[Route] = [
    Route("/history/experiments/{experiment}", get_experiment, methods=["GET"]),
    Route("/history/experiments/{experiment}", create_experiment, methods=["POST"]),
    Route("/history/experimentids/{experiment_id}", get_experiment, methods=["GET"]),
    Route("/history/experimentids/{experiment_id}", patch_experiment, methods=["PATCH"]),
    Route("/history/experimentids/{experiment_id}", delete_experiment, methods=["DELETE"]),
    Route("/history/experiments:query", query_experiments, methods=["POST"]),
    *[Route(f"{family}/runs/{{run_id}}/events", post_event, methods=["POST"]) for family in FAMILIES],
    *[Route(f"{family}/runs/{{run_id}}/token", get_token, methods=["GET"]) for family in FAMILIES],
    *[Route(f"{family}/runs/{{run_id}}/metricsingest/wait", wait_for_metrics, methods=["GET"]) for family in FAMILIES],
]
