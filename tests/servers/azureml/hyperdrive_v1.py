"""The HyperDrive service, which azureml-train-core sends its sweeps to: a document of theirs becomes the sweep job that resource manager would have."""

from __future__ import annotations

import json
from email import message_from_bytes
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request, not_found
from tests.servers.azureml.arm_assets import register_version
from tests.servers.azureml.execution_v1 import CODE_VERSION
from tests.servers.azureml.frame import caller_of, demand, workspace_of
from tests.servers.azureml.job_records import new_job
from tests.servers.azureml.job_records import start as begin
from tests.servers.azureml.jobs.sweeps.checks import check_sweep
from tests.servers.azureml.principals import Right
from tests.servers.azureml.run_definitions_v1 import as_job
from tests.servers.azureml.snapshots_v1 import code_uri
from tests.servers.azureml.state import Json, Run, Workspace, new_id, now

SAMPLINGS = {"RANDOM": "Random", "GRID": "Grid", "BayesianOptimization": "Bayesian"}
NO_POLICY = "Default"
POLICIES = {"Bandit": "Bandit", "MedianStopping": "MedianStopping", "TruncationSelection": "TruncationSelection"}
IN_DEFINITION = "(in the definition)"
_OF_POLICY = {
    "evaluation_interval": "evaluationInterval",
    "delay_evaluation": "delayEvaluation",
    "slack_factor": "slackFactor",
    "slack_amount": "slackAmount",
    "truncation_percentage": "truncationPercentage",
}


async def start(request: Request) -> Response:
    """Make a sweep with the id in the path, or one of the service's own."""
    demand(request, Right.WRITE, "experiments/runs/submit/action")
    workspace, given = workspace_of(request), await _config(request)
    run_id = request.path_params.get("run") or f"HD_{new_id()}"
    if run_id in workspace.runs:
        raise bad_request(f"Run {run_id} exists already.")
    platform = given["platform_config"]["Definition"]
    definition, snapshot = platform["Overrides"], platform.get("SnapshotId")
    if definition.get("target") not in workspace.computes:
        raise bad_request(f"Compute target {definition.get('target')} was not found.")
    if snapshot not in workspace.snapshots:
        raise not_found(f"Snapshot {snapshot} was not found.")
    register_version(workspace, "codes", snapshot, CODE_VERSION, {"codeUri": code_uri(workspace, snapshot)})
    job = sweep_of(given, definition, f"{workspace.path}/codes/{snapshot}/versions/{CODE_VERSION}", workspace)
    check_sweep({**job, "trial": {**job["trial"], "environmentId": IN_DEFINITION}})
    run = new_job(workspace, run_id, {**job, "experimentName": request.path_params["experiment"]}, definition=definition)
    run.properties["ContentSnapshotId"] = snapshot
    begin(workspace, run, caller_of(request).principal)
    return JSONResponse({"code": 201, "result": _answer(given, run)}, 201)


def cancel(request: Request) -> Response:
    demand(request, Right.WRITE, "experiments/runs/cancel/action")
    workspace, run_id = workspace_of(request), request.path_params["run"]
    run = workspace.runs.get(run_id)
    if run is None:
        raise not_found(f"Run {run_id} was not found.")
    if not run.is_ended and not workspace.cancels(run):
        run.cancel()
    return JSONResponse({"code": 200, "result": True})


async def _config(request: Request) -> Json:
    """The field `config` of a form, which is a JSON document."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    for part in message_from_bytes(head + await request.body()).walk():
        if part.get_param("name", header="content-disposition") == "config":
            found: Json = json.loads(part.get_payload(decode=True))  # type: ignore[arg-type]
            return found
    raise bad_request("The form has no field 'config'.")


def sweep_of(given: Json, definition: Json, code_id: str, workspace: Workspace) -> Json:
    """The `properties` of the sweep job that *given*, whose trials run *definition*, stands for."""
    trial, generator, policy = as_job(definition, code_id), given["generator_config"], given["policy_config"]
    seconds = (trial.get("limits") or {}).get("timeout")
    return {
        "jobType": "Sweep",
        "computeId": f"{workspace.path}/computes/{definition['target']}",
        "searchSpace": generator["parameter_space"],
        "samplingAlgorithm": {"samplingAlgorithmType": SAMPLINGS.get(generator["name"], generator["name"]), **(generator.get("properties") or {})},
        "objective": {"goal": given["primary_metric_config"]["goal"], "primaryMetric": given["primary_metric_config"]["name"]},
        "earlyTermination": _policy(policy),
        "limits": {
            "jobLimitsType": "Sweep",
            "maxTotalTrials": given["max_total_jobs"],
            "maxConcurrentTrials": given["max_concurrent_jobs"],
            "timeout": f"PT{given['max_duration_minutes']}M",
            "trialTimeout": seconds,
        },
        "inputs": trial["inputs"],
        "outputs": trial["outputs"],
        "trial": {
            "command": trial["command"],
            "codeId": code_id,
            "environmentVariables": trial["environmentVariables"],
            "distribution": trial["distribution"],
            "resources": trial["resources"],
        },
    }


def _policy(policy: Json) -> Json | None:
    if policy["name"] == NO_POLICY:
        return None
    said = {_OF_POLICY[name]: value for name, value in (policy.get("properties") or {}).items() if value is not None}
    return {"policyType": POLICIES.get(policy["name"], policy["name"]), **said}


def _answer(given: Json, run: Run) -> dict[str, Any]:
    """What the service keeps of a sweep, as its own client demands it."""
    return {
        **given,
        "platform_config": {**given["platform_config"], "ParentRunId": run.run_id},
        "all_jobs_generated": False,
        "cancellation_requested": False,
        "created": now().isoformat(),
        "modified": now().isoformat(),
        "created_by_user_id": 0,
        "experiment_id": {"id": run.run_id},
        "hyperdrive_run_id": run.run_id,
        "status": "RUNNING",
        "study_id": 0,
    }


routes = [
    Route("/hyperdrive/experiments/{experiment}/runs", start, methods=["POST"]),
    Route("/hyperdrive/experiments/{experiment}/hdruns/{run}", start, methods=["POST"]),
    Route("/hyperdrive/experiments/{experiment}/runs/{run}/cancel", cancel, methods=["POST"]),
]
