"""The control plane's routes for jobs. A job is the run of the same name, seen from here."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.access import authorized
from tests.servers.azureml.answers import ServiceError, arm_error, bad_request, not_found
from tests.servers.azureml.api_versions import has_paths
from tests.servers.azureml.arm_job_checks import check_change, check_new_job
from tests.servers.azureml.arm_job_forms import job_document, job_type_of
from tests.servers.azureml.arm_job_submitter import submitter_of
from tests.servers.azureml.arm_paging import page_of
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.job_records import FIRST_STATUS, new_job, start
from tests.servers.azureml.principals import Right
from tests.servers.azureml.run_definitions import PIPELINE, STEP
from tests.servers.azureml.state import Azure, Json, Run, Workspace

CANCELATION, DELETION = "jc", "jd"
_CHANGEABLE = ("displayName", "description", "tags", "isArchived")


def list_jobs(request: Request) -> Response:
    """Root jobs, the newest first; no order, no filter by status (wire document 2.9)."""
    workspace, query = workspace_of(request), request.query_params
    view = query.get("listViewType", "ActiveOnly")
    found = [run for run in reversed(workspace.runs.values()) if run.parent_id is None and (view == "All" or run.hidden is (view == "ArchivedOnly"))]
    if query.get("jobType"):
        found = [run for run in found if job_type_of(run) == query["jobType"]]
    if query.get("tag"):
        name, _, value = query["tag"].partition("=")
        found = [run for run in found if name in run.tags and value in ("", run.tags[name])]
    return page_of(request, [job_document(workspace, run) for run in found], size=100)


def get_job(request: Request) -> Response:
    return JSONResponse(job_document(workspace_of(request), _asked(request)))


def put_job(request: Request) -> Response:
    """Submit a job (201), or change what may change of one that is there (200)."""
    demand(request, Right.WRITE, "jobs/write")
    workspace, name, properties = workspace_of(request), request.path_params["name"], body_of(request).get("properties", {})
    known = workspace.runs.get(name)
    if known is not None:
        check_change(job_document(workspace, known).get("properties", {"jobType": ""}), properties)
        _change(known, properties)
        return JSONResponse(job_document(workspace, known))
    kind = properties.get("jobType")
    if kind not in FIRST_STATUS:
        raise bad_request(f"The job type '{kind}' is not supported.")
    check_new_job(workspace, name, kind, properties)
    if not has_paths(request):
        _drop_paths(properties)
    submitter = submitter_of(request, properties.get("identity"))
    run = new_job(workspace, name, properties)
    document = job_document(workspace, run)
    start(workspace, run, submitter)
    return JSONResponse(document, 201, headers={"Location": f"https://{request.headers['host']}{document['id']}?{request.url.query}"})


def cancel_job(request: Request) -> Response:
    """Ask for the end: 202 with the address that tells when, or 200 where the job had ended. Refused for a step, and where the script has ended."""
    demand(request, Right.WRITE, "jobs/cancel/action")
    run = _asked(request)
    if run.run_type == STEP:
        raise bad_request(f"The job {run.run_id} is a step of a pipeline, and is not canceled by itself.")
    if run.status == "Finalizing":
        raise bad_request(f"The job {run.run_id} is in the state Finalizing and cannot be canceled.")
    if run.is_ended:
        if run.run_type == PIPELINE and run.status != "Canceled":
            message = "Cannot cancel a pipeline run that has ended."
            raise ServiceError(400, "UserError", message, inner="BadArgument/ArgumentInvalid/CancelPipelineRunInTerminalStatus")
        return Response(status_code=200)
    run.cancel_polls = 1
    if not workspace_of(request).cancels(run):
        run.status = "CancelRequested"
    return _accepted(request, CANCELATION, run.run_id)


def delete_job(request: Request) -> Response:
    demand(request, Right.WRITE, "jobs/delete")
    workspace, name = workspace_of(request), request.path_params["name"]
    if name not in workspace.runs:
        return Response(status_code=204)
    if not workspace.runs[name].is_ended:
        raise ServiceError(409, "UserError", f"The job {name} has not ended.", inner="Conflict")
    workspace.forget_run(name)
    return _accepted(request, DELETION, name)


async def operation(request: Request) -> Response:
    """How a cancelation or a deletion goes: 202 until it is through, then 200. Below the subscription, not below the workspace."""
    azure: Azure = request.app.state.azure
    try:
        authorized(request, azure, "https://management.azure.com/", run_tokens=False)
    except ServiceError as e:
        return arm_error(e)
    what, _, rest = request.path_params["operation"].partition(":")
    workspace_id, _, name = rest.partition(":")
    workspace = azure.workspace_by_id(workspace_id)
    if workspace is None:
        return arm_error(not_found(f"Operation {what} not found."))
    run = workspace.runs.get(name)
    if what == CANCELATION and run is not None:
        if run.cancel_polls > 0 or (workspace.cancels(run) and not run.is_ended):
            run.cancel_polls = max(0, run.cancel_polls - 1)
            return JSONResponse({}, 202, headers=_where(request, workspace, what, name))
        run.cancel()
    return Response(status_code=200)


def _accepted(request: Request, what: str, name: str) -> Response:
    headers = _where(request, workspace_of(request), what, name)
    return JSONResponse(None, 202, headers={**headers, "x-ms-async-operation-timeout": "PT1H"})


def _where(request: Request, workspace: Workspace, what: str, name: str) -> dict[str, str]:
    """The address that tells when it is done; no `Retry-After`, as recorded, whereupon azure-ai-ml waits 30 s."""
    place = f"subscriptions/{workspace.subscription}/providers/Microsoft.MachineLearningServices/locations/{workspace.location}/mfeOperationResults"
    version = request.query_params.get("api-version", "")
    return {"Location": f"https://{request.headers['host']}/{place}/{what}:{workspace.workspace_id}:{name}?api-version={version}"}


def _asked(request: Request) -> Run:
    name = request.path_params["name"]
    run = workspace_of(request).runs.get(name)
    if run is None:
        raise not_found(f"Job {name} not found.")
    return run


def _change(run: Run, properties: Json) -> None:
    """Everything else of a job is fixed."""
    given = {key: properties[key] for key in _CHANGEABLE if properties.get(key) is not None}
    run.display_name = given.get("displayName", run.display_name)
    run.description = given.get("description", run.description)
    run.tags = given.get("tags", run.tags)
    run.hidden = given.get("isArchived", run.hidden)
    run.revision += 1


def _drop_paths(properties: Json) -> None:
    """Keys that a version does not know are passed over, as azure-ai-ml counts on for another one."""
    for given in [*(properties.get("inputs") or {}).values(), *(properties.get("outputs") or {}).values()]:
        given.pop("pathOnCompute", None)


routes = [
    Route("/jobs", list_jobs),
    Route("/jobs/{name}", get_job),
    Route("/jobs/{name}", put_job, methods=["PUT"]),
    Route("/jobs/{name}", delete_job, methods=["DELETE"]),
    Route("/jobs/{name}/cancel", cancel_job, methods=["POST"]),
]
open_routes = [
    Route("/subscriptions/{subscription}/providers/Microsoft.MachineLearningServices/locations/{location}/mfeOperationResults/{operation}", operation)
]
