"""The control plane's routes for subscriptions, the cloud and the workspace itself."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.access import authorized
from tests.servers.azureml.answers import ServiceError, arm_error
from tests.servers.azureml.frame import workspace_of
from tests.servers.azureml.state import Azure, Workspace


def system_data(workspace: Workspace) -> dict[str, Any]:
    moment = workspace.created.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"
    return {
        "createdAt": moment,
        "createdBy": "Ada Lovelace",
        "createdByType": "User",
        "lastModifiedAt": moment,
        "lastModifiedBy": "Ada Lovelace",
        "lastModifiedByType": "User",
    }


def get_workspace(request: Request) -> Response:
    return JSONResponse(workspace_document(workspace_of(request)))


def workspace_document(workspace: Workspace) -> dict[str, Any]:
    """The workspace's resource (wire document 2.2)."""
    group = f"/subscriptions/{workspace.subscription}/resourceGroups/{workspace.group}/providers"
    tracking = f"azureml://{workspace.tracking_host or workspace.data_plane_host}/mlflow/v1.0{workspace.path}"
    properties = {
        "friendlyName": workspace.name,
        "description": "",
        "storageAccount": f"{group}/Microsoft.Storage/storageAccounts/{workspace.storage.account}",
        "keyVault": f"{group}/Microsoft.Keyvault/vaults/{workspace.name}",
        "applicationInsights": f"{group}/Microsoft.insights/components/{workspace.name}",
        "containerRegistry": None,
        "hbiWorkspace": False,
        "tenantId": workspace.tenant,
        "imageBuildCompute": None,
        "provisioningState": "Succeeded",
        "v1LegacyMode": False,
        "softDeleteEnabled": False,
        "storageHnsEnabled": False,
        "workspaceId": workspace.workspace_id,
        "privateLinkCount": 0,
        "publicNetworkAccess": "Enabled",
        "discoveryUrl": f"https://{workspace.data_plane_host}/discovery",
        **({"mlFlowTrackingUri": tracking} if workspace.tells_tracking else {}),
        "sdkTelemetryAppInsightsKey": workspace.workspace_id,
        "sasGetterUri": "",
        "enableDataIsolation": False,
    }
    return {
        "id": workspace.path,
        "name": workspace.name,
        "type": "Microsoft.MachineLearningServices/workspaces",
        "location": workspace.location,
        "tags": {},
        "etag": None,
        "kind": "Default",
        "properties": properties,
        "identity": {"type": "SystemAssigned", "principalId": workspace.workspace_id, "tenantId": workspace.tenant},
        "sku": {"name": "Basic", "tier": "Basic"},
        "systemData": system_data(workspace),
    }


async def subscriptions(request: Request) -> Response:
    """The subscriptions of the caller's tenant, or the one in the path."""
    azure: Azure = request.app.state.azure
    try:
        caller = authorized(request, azure, "https://management.azure.com/", run_tokens=False)
        assert caller.principal is not None
        own = {one.subscription for one in azure.workspaces.values() if one.tenant == caller.principal.tenant}
        documents = [
            {"id": f"/subscriptions/{one}", "subscriptionId": one, "tenantId": caller.principal.tenant, "displayName": "Research", "state": "Enabled"}
            for one in sorted(own)
        ]
        asked = request.path_params.get("subscription")
        if asked is None:
            return JSONResponse({"value": documents, "count": {"type": "Total", "value": len(documents)}})
        found = next((one for one in documents if one["subscriptionId"] == asked), None)
        if found is None:
            raise ServiceError(404, "SubscriptionNotFound", f"The subscription '{asked}' could not be found.", gateway=True)
        return JSONResponse(found)
    except ServiceError as e:
        return arm_error(e)


async def cloud_endpoints(request: Request) -> Response:
    """`/metadata/endpoints`, which names the cloud's hosts; needs no token. Version 2019-05-01 is a list, the first one a single object."""
    suffixes = {
        "storage": "core.windows.net",
        "keyVaultDns": "vault.azure.net",
        "acrLoginServer": "azurecr.io",
        "azureDataLakeStoreFileSystem": "azuredatalakestore.net",
    }
    authentication = {
        "loginEndpoint": "https://login.microsoftonline.com",
        "audiences": ["https://management.core.windows.net/", "https://management.azure.com/"],
        "tenant": "common",
    }
    cloud = {
        "name": "AzureCloud",
        "portal": "https://portal.azure.com",
        "resourceManager": "https://management.azure.com/",
        "authentication": authentication,
        "suffixes": suffixes,
    }
    return JSONResponse([cloud] if request.query_params.get("api-version", "") >= "2019" else cloud)


routes = [Route("/", get_workspace)]
open_routes = [
    Route("/metadata/endpoints", cloud_endpoints),
    Route("/subscriptions", subscriptions),
    Route("/subscriptions/{subscription}", subscriptions),
]
