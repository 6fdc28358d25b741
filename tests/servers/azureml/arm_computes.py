"""The control plane's routes for compute targets."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import time_text
from tests.servers.azureml.arm_paging import page_of
from tests.servers.azureml.frame import workspace_of
from tests.servers.azureml.state import Workspace

NODE_STATES = ("preparing", "running", "idle", "unusable", "leaving", "preempted")


def list_computes(request: Request) -> Response:
    workspace = workspace_of(request)
    return page_of(request, [document_of(workspace, name) for name in workspace.computes])


def get_compute(request: Request) -> Response:
    workspace, name = workspace_of(request), request.path_params["name"]
    if name not in workspace.computes:
        return Response(status_code=404)  # without a body, as recorded
    return JSONResponse(document_of(workspace, name))


def document_of(workspace: Workspace, name: str) -> dict[str, Any]:
    """The resource (wire document 2.4)."""
    compute = workspace.computes[name]
    cluster = {
        "vmSize": compute["size"],
        "vmPriority": compute.get("priority", "Dedicated"),
        "scaleSettings": {
            "maxNodeCount": compute["max_nodes"],
            "minNodeCount": compute.get("min_nodes", 0),
            "nodeIdleTimeBeforeScaleDown": compute.get("idle", "PT2M"),
        },
        "subnet": None,
        "currentNodeCount": 0,
        "targetNodeCount": 0,
        "nodeStateCounts": {f"{state}NodeCount": 0 for state in NODE_STATES},
        "allocationState": "Steady",
        "allocationStateTransitionTime": time_text(compute["created"]),
        "errors": None,
        "remoteLoginPortPublicAccess": "Enabled",
        "osType": "Linux",
        "virtualMachineImage": None,
        "isolatedNetwork": False,
        "enableNodePublicIp": True,
        "propertyBag": {},
    }
    properties = {
        "createdOn": time_text(compute["created"]),
        "modifiedOn": time_text(compute["created"]),
        "disableLocalAuth": False,
        "description": None,
        "resourceId": None,
        "computeType": compute["kind"],
        "computeLocation": workspace.location,
        "provisioningState": compute.get("state", "Succeeded"),
        "provisioningErrors": [{"error": error} for error in compute["errors"]] if compute.get("errors") else None,
        "isAttachedCompute": False,
        "properties": cluster,
    }
    path, kind = f"{workspace.path}/computes/{name}", "Microsoft.MachineLearningServices/workspaces/computes"
    return {"id": path, "name": name, "type": kind, "location": workspace.location, "tags": {}, "properties": properties}


routes = [Route("/computes", list_computes), Route("/computes/{name}", get_compute)]
