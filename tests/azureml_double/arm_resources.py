"""Routes of the control plane for subscriptions, the cloud, the workspace, its compute targets, its datastores and
versioned assets.

Creating a compute target is a long-running operation. The assets are code (found by its hash, uploaded to a separate
container), environments, data and components.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.azureml_double.arm_jobs import check_code, check_environment
from tests.azureml_double.frame import arm_page, bad_request, below_no_workspace, body_of, demand, there, workspace_of
from tests.azureml_double.jobs.command import unknown_references
from tests.azureml_double.jobs.pipelines import bare_id
from tests.azureml_double.state import Azure, Caller, Datastore, Json, Right, Workspace, new_id, now, time_text
from tests.azureml_double.storage import DELEGATED

PROVIDER = "Microsoft.MachineLearningServices"
NODE_STATES = ("preparing", "running", "idle", "unusable", "leaving", "preempted")
# The cores of each VM size that the region offers.
CORES = {"STANDARD_DS2_V2": 2, "STANDARD_DS3_V2": 4, "STANDARD_NC6": 6, "STANDARD_NC6S_V3": 6, "STANDARD_NC24S_V3": 24}
QUOTA = 100  # cores per cluster
MOST_CONTEXT_FILES, LARGEST_CONTEXT = 100, 1 << 20  # of a Docker context, by the specification
POLLS = 1  # polls that answer "not yet"
# The minutes of each interval.
_GRAINS = {"PT1M": 1, "PT5M": 5, "PT15M": 15, "PT30M": 30, "PT1H": 60, "PT6H": 360, "PT12H": 720, "P1D": 1440}
_COMPUTE_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]")
_DATASTORE_NAME = re.compile(r"[a-zA-Z0-9_]{1,255}")
_NAMES = {"codes": "Code", "environments": "Environment", "data": "Data", "components": "Component"}
_WHERE = {"AzureBlob": "containerName", "AzureDataLakeGen2": "filesystem", "AzureFile": "fileShareName"}


def system_data(workspace: Workspace) -> Json:
    moment, who = workspace.created.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z", "Ada Lovelace"
    created = {"createdAt": moment, "createdBy": who, "createdByType": "User"}
    return {**created, "lastModifiedAt": moment, "lastModifiedBy": who, "lastModifiedByType": "User"}


def get_workspace(request: Request) -> Response:
    workspace = workspace_of(request)
    group = f"/subscriptions/{workspace.subscription}/resourceGroups/{workspace.group}/providers"
    tracking = f"azureml://{workspace.tracking_host or workspace.data_plane_host}/mlflow/v1.0{workspace.path}"
    properties: Json = {
        "friendlyName": workspace.name,
        "description": "",
        **dict.fromkeys(("containerRegistry", "imageBuildCompute")),
    }
    properties |= {"storageAccount": f"{group}/Microsoft.Storage/storageAccounts/{workspace.storage.account}"}
    properties |= {"keyVault": f"{group}/Microsoft.Keyvault/vaults/{workspace.name}"}
    properties |= {"applicationInsights": f"{group}/Microsoft.insights/components/{workspace.name}"}
    properties |= dict.fromkeys(
        ("hbiWorkspace", "v1LegacyMode", "softDeleteEnabled", "storageHnsEnabled", "enableDataIsolation"), False
    )
    properties |= {
        "tenantId": workspace.tenant,
        "provisioningState": "Succeeded",
        "workspaceId": workspace.workspace_id,
    }
    properties |= {
        "privateLinkCount": 0,
        "publicNetworkAccess": "Enabled",
        "discoveryUrl": f"https://{workspace.data_plane_host}/discovery",
    }
    properties |= {"sdkTelemetryAppInsightsKey": workspace.workspace_id, "sasGetterUri": ""}
    properties |= {"mlFlowTrackingUri": tracking} if workspace.tells_tracking else {}
    document = {
        "id": workspace.path,
        "name": workspace.name,
        "type": f"{PROVIDER}/workspaces",
        "location": workspace.location,
        "properties": properties,
    }
    identity = {"type": "SystemAssigned", "principalId": workspace.workspace_id, "tenantId": workspace.tenant}
    sku = {"name": "Basic", "tier": "Basic"}
    return JSONResponse(
        {
            **document,
            "tags": {},
            "etag": None,
            "kind": "Default",
            "identity": identity,
            "sku": sku,
            "systemData": system_data(workspace),
        }
    )


@below_no_workspace
def subscriptions(request: Request, azure: Azure, caller: Caller) -> Response:
    """List the subscriptions of the caller's tenant."""
    assert caller.principal is not None
    tenant = caller.principal.tenant
    own = sorted({one.subscription for one in azure.workspaces.values() if one.tenant == tenant})
    documents = [
        {
            "id": f"/subscriptions/{one}",
            "subscriptionId": one,
            "tenantId": tenant,
            "displayName": "Research",
            "state": "Enabled",
        }
        for one in own
    ]
    return JSONResponse({"value": documents, "count": {"type": "Total", "value": len(documents)}})


def resource_metrics(request: Request) -> Response:
    """Azure Monitor's metrics of a run's nodes, in the format of version 2024-02-01.

    `filter` must name the run, and may split by device and node. A metric stored under `NODE/DEVICE` has one series
    for each pair. Without the split by node there is one series per device, aggregated over the nodes.
    """
    demand(request, Right.READ, "providers/Microsoft.Insights/metrics/read")
    workspace, asked = workspace_of(request), request.query_params
    found = re.fullmatch(
        r"RunId eq '([^']+)'(?: and DeviceId eq '\*')?( and InstanceId eq '\*')?", asked.get("$filter", "")
    )
    names, begun, ended = (
        asked["metricnames"].split(","),
        *map(datetime.fromisoformat, asked["timespan"].replace("Z", "+00:00").split("/")),
    )
    bare = [name for name in names if "DeviceId" in asked["$filter"] and not name.startswith("Gpu")]
    for is_wrong, message in (
        (
            not found or len(names) > 20 or begun >= ended or asked["interval"] not in _GRAINS,
            "The request cannot be understood.",
        ),
        (
            bare and asked.get("ValidateDimensions", "true") == "true",
            f"Metric: {''.join(bare[:1])} does not support requested dimension combination: DeviceId",
        ),
    ):
        if is_wrong:
            return JSONResponse({"code": "BadRequest", "message": message}, 400)
    assert found is not None
    kept, value = workspace.resource_metrics.get(found[1], {}), []
    for name in names:
        series = []
        split: dict[tuple[str, str], list[list[float | None]]] = {}
        for key, numbers in kept.get(name, {}).items():
            node, _, device = key.rpartition("/")
            split.setdefault((node if found[2] else "", device), []).append(numbers)
        for (node, device), rows in split.items():
            pairs = (("runid", found[1]), ("instanceid", node), ("deviceid", device))
            told = [{"name": {"value": key, "localizedValue": key}, "value": text} for key, text in pairs if text]
            data = []
            for place, column in enumerate(zip(*rows, strict=True)):
                point: Json = {
                    "timeStamp": (begun + timedelta(minutes=_GRAINS[asked["interval"]] * place)).strftime(
                        "%Y-%m-%dT%H:%M:%SZ"
                    )
                }
                there = [number for number in column if number is not None]
                data.append(point | ({"average": sum(there) / len(there), "maximum": max(there) + 1} if there else {}))
            series.append({"metadatavalues": told, "data": data})
        facts = {
            "id": f"{workspace.path}/providers/Microsoft.Insights/metrics/{name}",
            "type": "Microsoft.Insights/metrics",
            "unit": "Count",
        }
        value.append(
            {
                **facts,
                "name": {"value": name, "localizedValue": name},
                "timeseries": series[: int(asked.get("top", "10"))],
                "errorCode": "Success",
            }
        )
    document = {"cost": 0, "timespan": asked["timespan"], "interval": asked["interval"], "value": value}
    return JSONResponse({**document, "namespace": f"{PROVIDER}/workspaces", "resourceregion": workspace.location})


async def cloud_endpoints(request: Request) -> Response:
    """`/metadata/endpoints`, the hosts of the cloud, without a token. Version 2019-05-01 is a list, the first version
    a single object.
    """
    suffixes = {"storage": "core.windows.net", "keyVaultDns": "vault.azure.net", "acrLoginServer": "azurecr.io"}
    audiences = ["https://management.core.windows.net/", "https://management.azure.com/"]
    cloud: Json = {
        "name": "AzureCloud",
        "portal": "https://portal.azure.com",
        "resourceManager": "https://management.azure.com/",
    }
    cloud |= {
        "authentication": {
            "loginEndpoint": "https://login.microsoftonline.com",
            "audiences": audiences,
            "tenant": "common",
        }
    }
    cloud |= {"suffixes": {**suffixes, "azureDataLakeStoreFileSystem": "azuredatalakestore.net"}}
    return JSONResponse([cloud] if request.query_params.get("api-version", "") >= "2019" else cloud)


def list_computes(request: Request) -> Response:
    workspace = workspace_of(request)
    return arm_page(request, [compute_document(workspace, name) for name in workspace.computes])


def get_compute(request: Request) -> Response:
    workspace, name = workspace_of(request), request.path_params["name"]
    if name not in workspace.computes:
        return Response(status_code=404)  # without a body, as recorded
    return JSONResponse(compute_document(workspace, name))


def compute_document(workspace: Workspace, name: str) -> Json:
    compute = workspace.computes[name]
    created, idle = time_text(compute["created"]), compute.get("idle", "PT2M")
    scale = {
        "maxNodeCount": compute["max_nodes"],
        "minNodeCount": compute.get("min_nodes", 0),
        "nodeIdleTimeBeforeScaleDown": idle,
    }
    cluster: Json = {
        "vmSize": compute["size"],
        "vmPriority": compute.get("priority", "Dedicated"),
        "scaleSettings": scale,
    }
    cluster |= {
        **dict.fromkeys(("subnet", "errors", "virtualMachineImage")),
        **dict.fromkeys(("currentNodeCount", "targetNodeCount"), 0),
    }
    cluster |= {"nodeStateCounts": {f"{state}NodeCount": 0 for state in NODE_STATES}, "allocationState": "Steady"}
    cluster |= {"allocationStateTransitionTime": created, "remoteLoginPortPublicAccess": "Enabled", "osType": "Linux"}
    cluster |= {"isolatedNetwork": False, "enableNodePublicIp": True, "propertyBag": {}}
    properties: Json = {
        "createdOn": created,
        "modifiedOn": created,
        **dict.fromkeys(("disableLocalAuth", "isAttachedCompute"), False),
    }
    properties |= {
        **dict.fromkeys(("description", "resourceId")),
        "computeType": compute["kind"],
        "computeLocation": workspace.location,
    }
    properties |= {"provisioningState": compute.get("state", "Succeeded")}
    properties |= {
        "provisioningErrors": [{"error": error} for error in compute["errors"]] if compute.get("errors") else None
    }
    properties |= {"properties": cluster}
    path = f"{workspace.path}/computes/{name}"
    return {
        "id": path,
        "name": name,
        "type": f"{PROVIDER}/workspaces/computes",
        "location": workspace.location,
        "tags": {},
        "properties": properties,
    }


def put_compute(request: Request) -> Response:
    """Create a cluster, or change its numbers of nodes. The answer is 201, with the address of the operation."""
    demand(request, Right.WRITE, "computes/write")
    workspace, name, body = workspace_of(request), request.path_params["name"], body_of(request)
    properties = body.get("properties") or {}
    own = properties.get("properties") or {}
    scale, size = own.get("scaleSettings") or {}, str(own.get("vmSize") or "")
    least, most = int(scale.get("minNodeCount") or 0), int(scale.get("maxNodeCount") or 0)
    for is_wrong, message in (
        (not _COMPUTE_NAME.fullmatch(name), f"The compute name '{name}' is not valid."),
        (
            properties.get("computeType") != "AmlCompute",
            f"Computes of type '{properties.get('computeType')}' are not played.",
        ),
        (not body.get("location"), "The compute has no location."),
        (size.upper() not in CORES, f"Requested VM size '{size}' is not supported in this region."),
        (not 0 <= least <= most, "The scale settings are not valid."),
    ):
        if is_wrong:
            raise bad_request(message)
    asked = CORES[size.upper()] * most
    message = (
        f"Operation results in exceeding quota limits of Core. Maximum allowed: {QUOTA}, Current in use: 0, "
        f"Additional requested: {asked}."
    )
    # The code is a guess.
    error = {"code": "BadRequest", "message": message} if asked > QUOTA else None
    operation: Json = {"id": new_id(), "polls": POLLS, "error": error}
    workspace.computes[name] = {
        "size": size,
        "max_nodes": most,
        "min_nodes": least,
        "priority": own.get("vmPriority") or "Dedicated",
        "idle": scale.get("nodeIdleTimeBeforeScaleDown") or "PT2M",
        "kind": "AmlCompute",
        "state": "Creating",
        "created": now(),
        "operation": operation,
    }
    place = (
        f"subscriptions/{workspace.subscription}/providers/{PROVIDER}/locations/{workspace.location}/"
        "computeOperationsStatus"
    )
    where = (
        f"https://{request.headers['host']}/{place}/"
        f"{operation['id']}?api-version={request.query_params['api-version']}&service=new"
    )
    return JSONResponse(
        compute_document(workspace, name) | {"tags": None}, 201, headers={"Azure-AsyncOperation": where}
    )


@below_no_workspace
def operation_status(request: Request, azure: Azure, caller: Caller) -> Response:
    """The progress of the creation of a cluster."""
    computes: list[dict[str, Any]] = [
        compute for workspace in azure.workspaces.values() for compute in workspace.computes.values()
    ]
    found = next(
        (one for one in computes if one.get("operation", {}).get("id") == request.path_params["operation"]), None
    )
    compute = there(found, "Operation not found.")
    operation = compute["operation"]
    if operation["polls"] > 0:
        operation["polls"] -= 1
        return JSONResponse({"status": "InProgress"})
    compute["state"] = "Failed" if operation["error"] else "Succeeded"
    return JSONResponse(
        {"status": "Failed", "error": operation["error"]}
        if operation["error"]
        else {"status": "Succeeded", "percentComplete": 100.0}
    )


def list_datastores(request: Request) -> Response:
    query, workspace = request.query_params, workspace_of(request)
    found = list(workspace.datastores.values())
    if query.get("isDefault", "").lower() == "true":
        found = [one for one in found if one.is_default]
    return arm_page(request, [datastore_document(workspace, one) for one in found], size=int(query.get("count", "30")))


def get_datastore(request: Request) -> Response:
    return JSONResponse(datastore_document(workspace_of(request), _datastore(request)))


def list_secrets(request: Request) -> Response:
    """The secret of a datastore (wire document 2.3): an account key, a SAS that is valid as long as the datastore
    says, or an application's secret. A secret that must expire is a SAS for the account, as recorded in 2026, although
    the datastore has its key.
    """
    demand(request, Right.SECRETS, "datastores/listsecrets/action")
    datastore = _datastore(request)
    what = workspace_of(request).secrets or ("sas" if body_of(request).get("expirableSecret") else "key")
    if datastore.credentials == "AccountKey" and what == "sas":
        return JSONResponse({"secretsType": "Sas", "sasToken": f"?{datastore.storage.account_sas()}"})
    if datastore.credentials == "AccountKey":
        return JSONResponse({"secretsType": "AccountKey", "key": datastore.storage.key})
    if datastore.credentials == "Sas":
        return JSONResponse({"secretsType": "Sas", "sasToken": datastore.new_sas()})
    if datastore.credentials == "ServicePrincipal" and datastore.service_principal:
        return JSONResponse({"secretsType": "ServicePrincipal", "clientSecret": datastore.service_principal.secret})
    raise bad_request("The datastore has no credentials.")


def put_datastore(request: Request) -> Response:
    """Register a datastore on one of the workspace's two accounts. If the request contains a key, it must be the
    account's key, unless the caller skips the check.
    """
    demand(request, Right.WRITE, "datastores/write")
    workspace, properties = workspace_of(request), body_of(request)["properties"]
    name, kind = request.path_params["name"], properties["datastoreType"]
    if not _DATASTORE_NAME.fullmatch(name):
        raise bad_request(
            f"The name '{name}' of a datastore may have letters, digits and underscores only, 255 at most."
        )
    accounts = {one.account: one for one in (workspace.storage, workspace.second_storage)}
    storage = accounts.get(properties.get("accountName", ""))
    if storage is None or kind not in _WHERE:
        raise bad_request("The account does not exist.")
    key = ((properties.get("credentials") or {}).get("secrets") or {}).get("key")
    if key not in (None, storage.key) and request.query_params.get("skipValidation", "").lower() != "true":
        raise bad_request("Unable to access data using the credentials of the request.")
    existed = name in workspace.datastores
    datastore = Datastore(
        name, properties[_WHERE[kind]], storage, kind, properties.get("credentials", {}).get("credentialsType", "None")
    )
    datastore.identity, datastore.tags = (
        properties.get("serviceDataAccessAuthIdentity") or "None",
        properties.get("tags") or {},
    )
    workspace.datastores[name] = datastore
    return JSONResponse(datastore_document(workspace, datastore), 200 if existed else 201)


def datastore_document(workspace: Workspace, datastore: Datastore) -> Json:
    """The resource as GET returns it: with the kind of the secret, never with the secret."""
    credentials: Json = {"credentialsType": datastore.credentials}
    if datastore.service_principal:
        principal = datastore.service_principal
        authority = {"authorityUrl": "https://login.microsoftonline.com", "resourceUrl": "https://storage.azure.com/"}
        credentials |= authority | {"clientId": principal.client_id, "tenantId": principal.tenant}
    properties: Json = {
        "description": datastore.description,
        "tags": datastore.tags,
        "properties": None,
        "isDefault": datastore.is_default,
    }
    properties |= {
        "credentials": credentials,
        "datastoreType": datastore.kind,
        "accountName": datastore.storage.account,
    }
    properties |= {"endpoint": datastore.storage.suffix.partition(".")[2], "protocol": datastore.storage.protocol}
    properties |= {"serviceDataAccessAuthIdentity": "None" if datastore.credentials == "None" else datastore.identity}
    properties |= {_WHERE.get(datastore.kind, "containerName"): datastore.container}
    path, kind = f"{workspace.path}/datastores/{datastore.name}", f"{PROVIDER}/workspaces/datastores"
    return {
        "id": path,
        "name": datastore.name,
        "type": kind,
        "properties": properties,
        "systemData": system_data(workspace),
    }


def _datastore(request: Request) -> Datastore:
    name = request.path_params["name"]
    return there(workspace_of(request).datastore(name), f"Could not find datastore: {name}")


def _kind(request: Request) -> str:
    return str(request.url.path.split("/")[1])


def list_containers(request: Request) -> Response:
    workspace, kind, view = (
        workspace_of(request),
        _kind(request),
        request.query_params.get("listViewType", "ActiveOnly"),
    )
    known = [(name, list(versions.values())[-1]) for name, versions in workspace.assets[kind].items()]
    shown = [name for name, last in known if view == "All" or bool(last["isArchived"]) is (view == "ArchivedOnly")]
    return arm_page(request, [_container(workspace, kind, name) for name in shown])


def get_container(request: Request) -> Response:
    workspace, kind, name = workspace_of(request), _kind(request), request.path_params["name"]
    there(workspace.assets[kind].get(name), f"{_NAMES[kind]} container {name} not found.")
    return JSONResponse(_container(workspace, kind, name))


def list_versions(request: Request) -> Response:
    """List versions. With `hash`, list the versions of code with that hash under any name: the name in the path has
    no effect (wire document 2.6).
    """
    workspace, kind, name, query = (
        workspace_of(request),
        _kind(request),
        request.path_params["name"],
        request.query_params,
    )
    if kind == "codes" and "hash" in query:
        every = [
            (name, version, one)
            for name, versions in workspace.assets[kind].items()
            for version, one in versions.items()
        ]
        found = [
            (name, version) for name, version, one in every if one["properties"].get("hash_sha256") == query["hash"]
        ]
        return arm_page(request, [_version(workspace, kind, *one) for one in found])
    versions = list(workspace.assets[kind].get(name, {}))
    if "desc" in query.get("$orderBy", "").lower():
        versions.reverse()
    return arm_page(
        request,
        [_version(workspace, kind, name, version) for version in versions[: int(query.get("$top", len(versions)))]],
    )


def get_version(request: Request) -> Response:
    workspace, kind, name, version = (
        workspace_of(request),
        _kind(request),
        request.path_params["name"],
        request.path_params["version"],
    )
    there(
        workspace.assets[kind].get(name, {}).get(version),
        f"{_NAMES[kind]} version {name}:{version} ({kind}ContainerName:version) not found.",
    )
    return JSONResponse(_version(workspace, kind, name, version))


def put_version(request: Request) -> Response:
    """Register a version: 201, or 200 if it exists. Anonymous environments always get 201 (recorded).

    Registered content stays. Only tags and description may change, and nothing of components.
    """
    workspace, kind = workspace_of(request), _kind(request)
    demand(request, Right.WRITE, f"{kind}/versions/write")
    name, version, properties = (
        request.path_params["name"],
        request.path_params["version"],
        body_of(request)["properties"],
    )
    known = workspace.assets[kind].get(name, {}).get(version)
    if kind == "data" and not workspace.takes_data(name, properties.get("dataType") or "uri_folder"):
        raise bad_request(
            f"The data container {name} is of another type than {properties.get('dataType')}: all versions "
            "of a container are of one type."
        )
    if kind == "environments" and known is None:
        _check_context(workspace, str((properties.get("build") or {}).get("contextUri") or ""))
    if kind == "components":
        _check_component(workspace, properties["componentSpec"], is_new=known is None)
    elif known is not None:
        known |= {key: properties[key] for key in ("description", "tags", "isArchived") if key in properties}
    if known is None:
        workspace.register(kind, name, version, properties)
    document = _version(workspace, kind, name, version)
    is_told = known is not None and not (kind == "environments" and known["isAnonymous"])
    return JSONResponse(
        document,
        200 if is_told else 201,
        headers={"Location": f"https://{request.headers['host']}{document['id']}?{request.url.query}"},
    )


def _check_context(workspace: Workspace, uri: str) -> None:
    """Check the limits of a Docker context that is in the workspace's storage. The words are our own."""
    host, _, place = uri.partition("//")[2].partition("/")
    container, _, folder = place.partition("/")
    if host.partition(":")[0] == workspace.storage.host:
        sizes = [blob.size for blob in workspace.storage.list(container, unquote(folder))]
        if len(sizes) > MOST_CONTEXT_FILES or sum(sizes) > LARGEST_CONTEXT:
            raise bad_request(
                f"The Docker context has {len(sizes)} files, {sum(sizes)} bytes. At most "
                f"{MOST_CONTEXT_FILES} and 1 MB are allowed."
            )


def _check_component(workspace: Workspace, spec: Json, *, is_new: bool) -> None:
    if not is_new or spec.get("type") != "command":
        return
    unknown = unknown_references(spec)
    if unknown:
        raise bad_request(f"The command refers to {', '.join(unknown)}, which the component does not have.")
    check_code(workspace, bare_id(spec.get("code")))
    check_environment(workspace, bare_id(spec.get("environment")))


def _version(workspace: Workspace, kind: str, name: str, version: str) -> Json:
    properties = dict(workspace.assets[kind][name][version])
    created = properties.pop("_created")
    return _resource(
        f"{workspace.path}/{kind}/{name}/versions/{version}", version, f"{kind}/versions", properties, created
    )


def _container(workspace: Workspace, kind: str, name: str) -> Json:
    versions = workspace.assets[kind][name]
    latest = list(versions)[-1]
    following = str(int(latest) + 1) if latest.isdigit() else None
    properties: Json = {
        "description": None,
        "tags": {},
        "properties": {},
        "isArchived": False,
        "latestVersion": latest,
        "nextVersion": following,
    }
    if kind == "data":
        properties["dataType"] = versions[latest]["dataType"]
    return _resource(f"{workspace.path}/{kind}/{name}", name, kind, properties, versions[latest]["_created"])


def _resource(path: str, name: str, kind: str, properties: Json, created: str | None) -> Json:
    data = {"createdAt": created, "createdBy": "Ada Lovelace", "createdByType": "User", "lastModifiedAt": created}
    return {
        "id": path,
        "name": name,
        "type": f"Microsoft.MachineLearningServices/workspaces/{kind}",
        "properties": properties,
        "systemData": data,
    }


def start_pending_upload(request: Request) -> Response:
    demand(request, Right.WRITE, "codes/versions/startPendingUpload/action")
    workspace = workspace_of(request)
    storage, upload = workspace.storage, new_id()
    container = f"{workspace.workspace_id[:8]}-{upload}"
    storage.make_container(container)
    group = f"/subscriptions/{workspace.subscription}/resourceGroups/{workspace.group}"
    account = f"{group}/providers/Microsoft.Storage/storageAccounts/{storage.account}"
    credential = {
        "credentialType": "SAS",
        "sasUri": f"https://{storage.host}/{container}?{storage.container_sas(container, permissions='rcwl')}&"
        f"{DELEGATED}",
    }
    reference = {
        "blobUri": f"https://{storage.host}:443/{container}",
        "storageAccountArmId": account,
        "credential": credential,
    }
    return JSONResponse(
        {"blobReferenceForConsumption": reference, "pendingUploadId": upload, "pendingUploadType": "None"}
    )


routes: list[Route] = [
    Route("/", get_workspace),
    Route("/providers/Microsoft.Insights/metrics", resource_metrics),
    Route("/datastores", list_datastores),
    Route("/datastores/{name}", get_datastore),
    Route("/datastores/{name}", put_datastore, methods=["PUT"]),
    Route("/datastores/{name}/listSecrets", list_secrets, methods=["POST"]),
    Route("/computes/{name}", put_compute, methods=["PUT"]),
    Route("/computes", list_computes),
    Route("/computes/{name}", get_compute),
    Route("/codes/{name}/versions", list_versions),
    Route("/codes/{name}/versions/{version}", get_version),
    Route("/codes/{name}/versions/{version}", put_version, methods=["PUT"]),
    Route("/codes/{name}/versions/{version}/startPendingUpload", start_pending_upload, methods=["POST"]),
    Route("/components/{name}/versions/{version}", get_version),
    Route("/components/{name}/versions/{version}", put_version, methods=["PUT"]),
]
for _one in ("environments", "data"):
    routes += [
        Route(f"/{_one}", list_containers),
        Route(f"/{_one}/{{name}}", get_container),
        Route(f"/{_one}/{{name}}/versions", list_versions),
        Route(f"/{_one}/{{name}}/versions/{{version}}", get_version),
        Route(f"/{_one}/{{name}}/versions/{{version}}", put_version, methods=["PUT"]),
    ]
open_routes = [
    Route("/metadata/endpoints", cloud_endpoints),
    Route("/subscriptions", subscriptions),
    Route(
        f"/subscriptions/{{subscription}}/providers/{PROVIDER}/locations/{{location}}/"
        "computeOperationsStatus/{operation}",
        operation_status,
    ),
]
