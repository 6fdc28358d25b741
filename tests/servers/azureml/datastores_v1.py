"""Datastores as the older SDK reads them, from the data plane and with their secrets in the record (azureml-core 1.61)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import not_found
from tests.servers.azureml.frame import caller_of, workspace_of
from tests.servers.azureml.paging import name_in, token_after
from tests.servers.azureml.principals import Right
from tests.servers.azureml.state import Datastore, Json, Workspace

KINDS = {"AzureDataLakeGen1": "AzureDataLake"}
CREDENTIALS = {"AccountKey": "AccountKey", "Sas": "Sas", "ServicePrincipal": "ClientCredentials"}


def list_datastores(request: Request) -> Response:
    workspace = workspace_of(request)
    after = request.query_params.get("continuationToken")
    names = sorted(workspace.datastores)
    names = [name for name in names if after is None or name > name_in(after)]
    size = min(int(request.query_params.get("count", "30")), workspace.page_size)
    value = [_form(workspace, workspace.datastores[name], _may_see(request)) for name in names[:size]]
    return JSONResponse({"value": value, "continuationToken": token_after(names[size - 1]) if len(names) > size else None, "nextLink": None})


def get_datastore(request: Request) -> Response:
    workspace, name = workspace_of(request), request.path_params["name"]
    datastore = workspace.datastores.get(name)
    if datastore is None:
        raise not_found(f"Could not find datastore: {name}")
    return JSONResponse(_form(workspace, datastore, _may_see(request)))


def get_default(request: Request) -> Response:
    workspace = workspace_of(request)
    return JSONResponse(_form(workspace, workspace.default_datastore, _may_see(request)))


def _may_see(request: Request) -> bool:
    return caller_of(request).may(Right.SECRETS)


def _form(workspace: Workspace, datastore: Datastore, with_secrets: bool) -> Json:
    storage, kind = datastore.storage, CREDENTIALS.get(datastore.credentials, "None")
    key = storage.key if with_secrets and kind == "AccountKey" else None
    sas = None
    if with_secrets and kind == "Sas":
        sas = storage.container_sas(datastore.container, permissions=datastore.sas_permissions, seconds=datastore.sas_seconds)
    section = {
        "accountName": storage.account,
        "containerName": datastore.container,
        "endpoint": storage.suffix.partition(".")[2],
        "protocol": storage.protocol,
        "credentialType": kind,
        "credential": key or sas,
        "clientCredentials": _client_credentials(datastore, with_secrets),
        "blobCacheTimeout": None,
        "isSas": kind == "Sas",
        "accountKey": key,
        "sasToken": sas,
        "areWorkspaceManagedIdentitiesAllowed": False,
        "subscriptionId": workspace.subscription,
        "resourceGroup": workspace.group,
        "serviceDataAccessAuthIdentity": "None",
    }
    kind = KINDS.get(datastore.kind, datastore.kind)
    return {"name": datastore.name, "dataStoreType": kind, "hasBeenValidated": True, "tags": {}, "azureStorageSection": section}


def _client_credentials(datastore: Datastore, with_secrets: bool) -> Json | None:
    """Of the application that the datastore is opened by; its secret for whom may see it."""
    principal = datastore.service_principal
    if datastore.credentials != "ServicePrincipal" or principal is None:
        return None
    return {
        "clientId": principal.client_id,
        "tenantId": principal.tenant,
        "isCertAuth": False,
        "certificate": None,
        "thumbprint": None,
        "clientSecret": principal.secret if with_secrets else None,
        "authorityUrl": "https://login.microsoftonline.com",
        "resourceUri": "https://storage.azure.com/",
        "subscriptionId": None,
        "resourceGroup": None,
    }


routes: list[Route] = [
    Route("/datastore/datastores", list_datastores, methods=["GET"]),
    Route("/datastore/datastores/{name}", get_datastore, methods=["GET"]),
    Route("/datastore/default", get_default, methods=["GET"]),
]
