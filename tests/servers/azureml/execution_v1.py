"""The execution service, which azureml-core sends its jobs to: a run definition and a snapshot become a run, and a job that the double can execute."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request, not_found
from tests.servers.azureml.arm_assets import register_version
from tests.servers.azureml.frame import body_of, caller_of, demand, workspace_of
from tests.servers.azureml.principals import Right
from tests.servers.azureml.run_definitions_v1 import as_job
from tests.servers.azureml.snapshots_v1 import code_uri
from tests.servers.azureml.state import Json, Run, Workspace, now

CODE_VERSION = "1"


def start(request: Request) -> Response:
    """Make a run of the experiment in the path with the id in the query. One that is there already is not started again."""
    demand(request, Right.WRITE, "experiments/runs/submit/action")
    workspace, body, run_id = workspace_of(request), body_of(request), request.query_params.get("runId", "")
    definition, snapshot = body.get("Configuration") or {}, body.get("SnapshotId")
    if not run_id:
        raise bad_request("The request has no runId.")
    if run_id in workspace.runs:
        raise bad_request(f"Run {run_id} exists already.")
    if definition.get("target") not in workspace.computes:
        raise bad_request(f"Compute target {definition.get('target')} was not found.")
    if snapshot not in workspace.snapshots:
        raise not_found(f"Snapshot {snapshot} was not found.")
    run = workspace.keep_run(_run(workspace, request.path_params["experiment"], run_id, definition, snapshot))
    if workspace.jobs is not None:
        workspace.jobs.submit(run, caller_of(request).principal)
    return JSONResponse({"runId": run_id})


def _run(workspace: Workspace, experiment: str, run_id: str, definition: Json, snapshot: str) -> Run:
    register_version(workspace, "codes", snapshot, CODE_VERSION, {"codeUri": code_uri(workspace, snapshot)})
    return Run(
        run_id=run_id,
        experiment=workspace.experiment(experiment),
        status="Starting",
        created=now(),
        started=None,
        ended=None,
        display_name=run_id,
        user_name="Ada Lovelace",
        data_container_id=f"dcid.{run_id}",
        number=next(workspace.numbers),
        properties={"_azureml.ComputeTargetType": "amlctrain", "ContentSnapshotId": snapshot},
        target=definition["target"],
        script=definition.get("script"),
        definition=definition,
        job=as_job(definition, f"{workspace.path}/codes/{snapshot}/versions/{CODE_VERSION}"),
    )


routes = [Route("/execution/experiments/{experiment}/snapshotrun", start, methods=["POST"])]
