"""Run history: one run, its details, its children, and the runs of an experiment (wire document 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request, not_found
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.history_forms import data_form, details_form, run_form
from tests.servers.azureml.history_query import Page, RunQuery, page_of
from tests.servers.azureml.history_runs import FAMILIES, apply, changeable_run, experiment_of, list_body_of, new_run, run_of
from tests.servers.azureml.paging import next_link
from tests.servers.azureml.principals import Right
from tests.servers.azureml.state import Json, Run, Workspace

LOG_FOLDERS = ("user_logs/", "logs/", "azureml-logs/", "system_logs/")


def get_run(request: Request) -> Response:
    return JSONResponse(run_form(workspace_of(request), run_of(request)))


def patch_run(request: Request) -> Response:
    """Change a run, or make it: only where the path names its experiment."""
    demand(request, Right.WRITE, "experiments/runs/write")
    workspace, run_id, change = workspace_of(request), request.path_params["run_id"], body_of(request)
    experiment = experiment_of(request)
    if run_id not in workspace.runs and experiment is not None:
        new_run(workspace, experiment, run_id, parent_id=change.get("parentRunId"))
    run = run_of(request)
    apply(run, change)
    return JSONResponse(run_form(workspace, run))


def get_details(request: Request) -> Response:
    workspace, run = workspace_of(request), run_of(request)
    return JSONResponse(details_form(workspace, run, _log_links(workspace, run)))


def _log_links(workspace: Workspace, run: Run) -> dict[str, str]:
    links = {}
    for folder in LOG_FOLDERS:
        for blob in workspace.storage.list("azureml", run.artifact_prefix + folder):
            links[blob.name.removeprefix(run.artifact_prefix)] = workspace.storage.blob_link("azureml", blob.name)
    return links


def get_children(request: Request) -> Response:
    workspace, run = workspace_of(request), run_of(request)
    asked = _query_of(request)
    children = [workspace.runs[child] for child in run.children if child in workspace.runs]
    page = page_of(children, asked, limit=workspace.page_size, refused=workspace.refused_orders)
    return JSONResponse(_page_form(workspace, page, link=next_link(request, "$continuationToken", page.token)))


def query_runs(request: Request) -> Response:
    workspace, experiment, body = workspace_of(request), experiment_of(request), body_of(request)
    runs: Iterable[Run] = experiment.runs.values() if experiment else workspace.runs.values()
    asked = RunQuery(body.get("filter"), body.get("orderby") or body.get("orderBy"), body.get("top"), body.get("continuationToken"))
    page = page_of(list(runs), asked, limit=workspace.page_size, refused=workspace.refused_orders)
    return JSONResponse(_page_form(workspace, page))


def runs_by_id(request: Request) -> Response:
    workspace, experiment = workspace_of(request), experiment_of(request)
    found: dict[str, Json] = {}
    errors: dict[str, Json] = {}
    for run_id in body_of(request).get("runIds") or []:
        run = workspace.runs.get(run_id)
        if run is not None and run.experiment is experiment:
            found[run_id] = run_form(workspace, run)
        else:
            errors[run_id] = _missing(run_id)
    return JSONResponse({"runs": found, "errors": errors})


def run_data(request: Request) -> Response:
    body = body_of(request)
    run = workspace_of(request).runs.get(body.get("runId", ""))
    if run is None:
        raise not_found(f"Run {body.get('runId')} was not found.")
    return JSONResponse(data_form(workspace_of(request), run, body))


def batch_run_data(request: Request) -> Response:
    """Answers of `rundata` by the keys that the caller chose for its requests."""
    workspace = workspace_of(request)
    done: dict[str, Json] = {}
    failed: dict[str, Json] = {}
    for key, wish in (body_of(request).get("requests") or {}).items():
        run = workspace.runs.get(wish.get("runId", ""))
        if run is None:
            failed[key] = _missing(wish.get("runId", ""))
        else:
            done[key] = data_form(workspace, run, wish)
    return JSONResponse({"successfulResults": done, "failedResults": failed})


def cancel_run(request: Request) -> Response:
    run = changeable_run(request)
    if run.status == "Finalizing":
        raise bad_request(f"Run {run.run_id} is in the state Finalizing and cannot be canceled.")
    if not workspace_of(request).cancels(run):
        run.cancel()
    return JSONResponse(run_form(workspace_of(request), run))


def delete_tags(request: Request) -> Response:
    run = changeable_run(request)
    for name in list_body_of(request):
        run.tags.pop(name, None)
    run.revision += 1
    return JSONResponse(run_form(workspace_of(request), run))


def patch_tags(request: Request) -> Response:
    run, body = changeable_run(request), body_of(request)
    for name in body.get("tagsToDelete") or []:
        run.tags.pop(name, None)
    apply(run, {"tags": body.get("tagsToModify") or {}})
    return JSONResponse(run_form(workspace_of(request), run))


def _query_of(request: Request) -> RunQuery:
    given = {name.lower(): value for name, value in request.query_params.items()}
    order = given.get("$orderby")
    if order and " " not in order and given.get("$sortorder"):
        order = f"{order} {given['$sortorder']}"
    top = given.get("$top")
    return RunQuery(given.get("$filter"), order, int(top) if top and top.isdigit() else None, given.get("$continuationtoken"))


def _page_form(workspace: Workspace, page: Page, *, link: str | None = None) -> Json:
    return {"value": [run_form(workspace, run) for run in page.runs], "continuationToken": page.token, "nextLink": link}


def _missing(run_id: str) -> Json:
    return {"error": {"code": "UserError", "message": f"Run {run_id} was not found.", "innerError": {"code": "NotFoundError", "innerError": None}}}


def _in_families(rest: str, handler: Callable[[Request], Response], method: str, families: tuple[str, ...] = FAMILIES) -> list[Route]:
    return [Route(f"{family}{rest}", handler, methods=[method]) for family in families]


routes: list[Route] = [
    *_in_families("/runs/{run_id}", get_run, "GET"),
    *_in_families("/runs/{run_id}", patch_run, "PATCH"),
    *_in_families("/runs/{run_id}/details", get_details, "GET"),
    *_in_families("/runs/{run_id}/children", get_children, "GET"),
    *_in_families("/runs/{run_id}/cancel", cancel_run, "POST", FAMILIES[1:]),
    *_in_families("/runs/{run_id}/tags", delete_tags, "DELETE"),
    *_in_families("/runs/{run_id}/tags", patch_tags, "PATCH"),
    *_in_families("/runs:query", query_runs, "POST", FAMILIES[1:]),
    *_in_families("/runs/runIds", runs_by_id, "POST", FAMILIES[1:]),
    Route("/history/rundata", run_data, methods=["POST"]),
    Route("/history/batchrundata", batch_run_data, methods=["POST"]),
]
