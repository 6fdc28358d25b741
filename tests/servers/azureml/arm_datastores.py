"""The control plane's routes for datastores and their secrets."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request, not_found
from tests.servers.azureml.arm_paging import page_of
from tests.servers.azureml.arm_workspace import system_data
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.principals import Right
from tests.servers.azureml.state import Datastore, Workspace

_NAME = re.compile(r"[a-zA-Z0-9_]{1,255}")
_WHERE = {"AzureBlob": "containerName", "AzureDataLakeGen2": "filesystem", "AzureFile": "fileShareName"}


def list_datastores(request: Request) -> Response:
    query = request.query_params
    found = list(workspace_of(request).datastores.values())
    if query.get("isDefault", "").lower() == "true":
        found = [one for one in found if one.is_default]
    if query.get("names"):
        found = [one for one in found if one.name in query["names"].split(",")]
    if query.get("searchText"):
        found = [one for one in found if query["searchText"] in one.name]
    return page_of(request, [document_of(workspace_of(request), one) for one in found], size=int(query.get("count", "30")))


def get_datastore(request: Request) -> Response:
    return JSONResponse(document_of(workspace_of(request), _asked(request)))


def list_secrets(request: Request) -> Response:
    """The secret of a datastore (wire document 2.3): an account key, a SAS good for as long as the datastore says, or an application's secret."""
    demand(request, Right.SECRETS, "datastores/listsecrets/action")
    datastore = _asked(request)
    if datastore.credentials == "AccountKey":
        return JSONResponse({"secretsType": "AccountKey", "key": datastore.storage.key})
    if datastore.credentials == "Sas":
        sas = datastore.storage.container_sas(datastore.container, permissions=datastore.sas_permissions, seconds=datastore.sas_seconds)
        return JSONResponse({"secretsType": "Sas", "sasToken": sas})
    if datastore.credentials == "ServicePrincipal" and datastore.service_principal:
        return JSONResponse({"secretsType": "ServicePrincipal", "clientSecret": datastore.service_principal.secret})
    raise bad_request("The datastore has no credentials.")


def put_datastore(request: Request) -> Response:
    """Register a datastore on one of the workspace's two accounts; a key that comes with it has to be the account's, unless the caller wants no check."""
    demand(request, Right.WRITE, "datastores/write")
    workspace, properties = workspace_of(request), body_of(request)["properties"]
    name, kind = request.path_params["name"], properties["datastoreType"]
    if not _NAME.fullmatch(name):
        raise bad_request(f"The name '{name}' of a datastore may have letters, digits and underscores only, 255 at most.")
    accounts = {one.account: one for one in (workspace.storage, workspace.second_storage)}
    storage = accounts.get(properties.get("accountName", ""))
    if storage is None or kind not in _WHERE:
        raise bad_request("The account does not exist.")
    key = ((properties.get("credentials") or {}).get("secrets") or {}).get("key")
    is_checked = request.query_params.get("skipValidation", "").lower() != "true"
    if key is not None and key != storage.key and is_checked:
        raise bad_request("Unable to access data using the credentials of the request.")
    existed = name in workspace.datastores
    datastore = Datastore(name, properties[_WHERE[kind]], storage, kind, properties.get("credentials", {}).get("credentialsType", "None"))
    datastore.identity, datastore.tags = properties.get("serviceDataAccessAuthIdentity") or "None", properties.get("tags") or {}
    workspace.datastores[name] = datastore
    return JSONResponse(document_of(workspace, datastore), 200 if existed else 201)


def document_of(workspace: Workspace, datastore: Datastore) -> dict[str, Any]:
    """The resource as GET gives it: what kind of secret there is, never the secret."""
    credentials: dict[str, Any] = {"credentialsType": datastore.credentials}
    if datastore.service_principal:
        principal = datastore.service_principal
        authority = {"authorityUrl": "https://login.microsoftonline.com", "resourceUrl": "https://storage.azure.com/"}
        credentials |= authority | {"clientId": principal.client_id, "tenantId": principal.tenant}
    properties = {
        "description": datastore.description,
        "tags": datastore.tags,
        "properties": None,
        "isDefault": datastore.is_default,
        "credentials": credentials,
        "datastoreType": datastore.kind,
        "accountName": datastore.storage.account,
        "endpoint": datastore.storage.suffix.partition(".")[2],
        "protocol": datastore.storage.protocol,
        "serviceDataAccessAuthIdentity": "None" if datastore.credentials == "None" else datastore.identity,
    }
    properties[_WHERE.get(datastore.kind, "containerName")] = datastore.container
    path = f"{workspace.path}/datastores/{datastore.name}"
    kind = "Microsoft.MachineLearningServices/workspaces/datastores"
    return {"id": path, "name": datastore.name, "type": kind, "properties": properties, "systemData": system_data(workspace)}


def _asked(request: Request) -> Datastore:
    """Datastores are found whatever the case of their name."""
    name = request.path_params["name"]
    for datastore in workspace_of(request).datastores.values():
        if datastore.name.lower() == name.lower():
            return datastore
    raise not_found(f"Could not find datastore: {name}")


routes = [
    Route("/datastores", list_datastores),
    Route("/datastores/{name}", get_datastore),
    Route("/datastores/{name}", put_datastore, methods=["PUT"]),
    Route("/datastores/{name}/listSecrets", list_secrets, methods=["POST"]),
]
