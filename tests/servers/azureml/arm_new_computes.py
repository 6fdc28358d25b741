"""Making clusters: a long-running operation of the control plane (wire document 2.1)."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.access import authorized
from tests.servers.azureml.answers import ServiceError, arm_error, bad_request, not_found
from tests.servers.azureml.arm_computes import document_of
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.principals import Right
from tests.servers.azureml.state import Azure, Json, new_id, now

CORES = {"STANDARD_DS2_V2": 2, "STANDARD_DS3_V2": 4, "STANDARD_NC6": 6, "STANDARD_NC6S_V3": 6, "STANDARD_NC24S_V3": 24}
"""The sizes of the region."""
QUOTA = 100  # cores of one cluster
POLLS = 1  # that say "not yet"
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]")


def put_compute(request: Request) -> Response:
    """Make a cluster, or change the numbers of its nodes: 201, and the address that tells when it is done."""
    demand(request, Right.WRITE, "computes/write")
    workspace, name, body = workspace_of(request), request.path_params["name"], body_of(request)
    properties = body.get("properties") or {}
    own = properties.get("properties") or {}
    _check(name, body, properties, own)
    scale = own["scaleSettings"]
    size, most = str(own["vmSize"]), int(scale["maxNodeCount"])
    asked = CORES[size.upper()] * most
    operation: Json = {"id": new_id(), "polls": POLLS, "error": _over_quota(asked) if asked > QUOTA else None}
    workspace.computes[name] = {
        "size": size,
        "max_nodes": most,
        "min_nodes": int(scale.get("minNodeCount") or 0),
        "priority": own.get("vmPriority") or "Dedicated",
        "idle": scale.get("nodeIdleTimeBeforeScaleDown") or "PT2M",
        "kind": "AmlCompute",
        "state": "Creating",
        "created": now(),
        "operation": operation,
    }
    place = f"subscriptions/{workspace.subscription}/providers/Microsoft.MachineLearningServices/locations/{workspace.location}/computeOperationsStatus"
    where = f"https://{request.headers['host']}/{place}/{operation['id']}?api-version={request.query_params['api-version']}&service=new"
    return JSONResponse(document_of(workspace, name) | {"tags": None}, 201, headers={"Azure-AsyncOperation": where})


async def operation_status(request: Request) -> Response:
    """How the making of a cluster goes."""
    azure: Azure = request.app.state.azure
    try:
        authorized(request, azure, "https://management.azure.com/", run_tokens=False)
    except ServiceError as e:
        return arm_error(e)
    compute = _of_operation(azure, request.path_params["operation"])
    if compute is None:
        return arm_error(not_found("Operation not found."))
    operation = compute["operation"]
    if operation["polls"] > 0:
        operation["polls"] -= 1
        return JSONResponse({"status": "InProgress"})
    compute["state"] = "Failed" if operation["error"] else "Succeeded"
    if operation["error"]:
        return JSONResponse({"status": "Failed", "error": operation["error"]})
    return JSONResponse({"status": "Succeeded", "percentComplete": 100.0})


def _check(name: str, body: Json, properties: Json, own: Json) -> None:
    if not _NAME.fullmatch(name):
        raise bad_request(f"The compute name '{name}' is not valid.")
    if properties.get("computeType") != "AmlCompute":
        raise bad_request(f"Computes of type '{properties.get('computeType')}' are not played.")
    if not body.get("location"):
        raise bad_request("The compute has no location.")
    if str(own.get("vmSize") or "").upper() not in CORES:
        raise bad_request(f"Requested VM size '{own.get('vmSize')}' is not supported in this region.")
    scale = own.get("scaleSettings") or {}
    if not 0 <= int(scale.get("minNodeCount") or 0) <= int(scale.get("maxNodeCount") or 0):
        raise bad_request("The scale settings are not valid.")


def _over_quota(asked: int) -> Json:
    message = f"Operation results in exceeding quota limits of Core. Maximum allowed: {QUOTA}, Current in use: 0, Additional requested: {asked}."
    return {"code": "BadRequest", "message": message}  # the code is a guess


def _of_operation(azure: Azure, operation: str) -> dict[str, Any] | None:
    for workspace in azure.workspaces.values():
        for compute in workspace.computes.values():
            if (compute.get("operation") or {}).get("id") == operation:
                return compute
    return None


routes = [Route("/computes/{name}", put_compute, methods=["PUT"])]
open_routes = [
    Route(
        "/subscriptions/{subscription}/providers/Microsoft.MachineLearningServices/locations/{location}/computeOperationsStatus/{operation}", operation_status
    )
]
