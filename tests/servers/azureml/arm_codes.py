"""The control plane's routes for code: found by its hash, uploaded to a container of its own."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request
from tests.servers.azureml.arm_assets import list_versions, version_of
from tests.servers.azureml.arm_paging import page_of
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.principals import Right
from tests.servers.azureml.state import new_id


def list_codes(request: Request) -> Response:
    """With `hash`: the versions of any name that have it; the name in the path does not matter then (wire document 2.6)."""
    wanted = request.query_params.get("hash")
    if wanted is None:
        return list_versions(request)
    workspace = workspace_of(request)
    found = [
        version_of(workspace, "codes", name, version)
        for name, versions in workspace.assets["codes"].items()
        for version, properties in versions.items()
        if properties["properties"].get("hash_sha256") == wanted
    ]
    return page_of(request, found)


def start_pending_upload(request: Request) -> Response:
    """A new container and a signature that may write to it."""
    demand(request, Right.WRITE, "codes/versions/startPendingUpload/action")
    if body_of(request).get("pendingUploadType") != "TemporaryBlobReference":
        raise bad_request("The pendingUploadType is not supported.")
    workspace = workspace_of(request)
    storage, upload = workspace.storage, new_id()
    container = f"{workspace.workspace_id[:8]}-{upload}"
    storage.make_container(container)
    group = f"/subscriptions/{workspace.subscription}/resourceGroups/{workspace.group}"
    reference = {
        "blobUri": f"https://{storage.host}:443/{container}",
        "storageAccountArmId": f"{group}/providers/Microsoft.Storage/storageAccounts/{storage.account}",
        "credential": {"credentialType": "SAS", "sasUri": f"https://{storage.host}/{container}?{storage.container_sas(container, permissions='rcwl')}"},
    }
    return JSONResponse({"blobReferenceForConsumption": reference, "pendingUploadId": upload, "pendingUploadType": "None"})


routes = [
    Route("/codes/{name}/versions", list_codes),
    Route("/codes/{name}/versions/{version}/startPendingUpload", start_pending_upload, methods=["POST"]),
]
