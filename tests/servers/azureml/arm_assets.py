"""The control plane's routes for versioned assets: environments, data, components, and (with `arm_codes`) code."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request, not_found, time_text
from tests.servers.azureml.arm_paging import page_of
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.principals import Right
from tests.servers.azureml.state import Json, Workspace, now

KINDS = ("codes", "environments", "data", "components")
_ADDED: dict[str, Json] = {
    "codes": {"provisioningState": "Succeeded"},
    "environments": {"environmentType": "UserCreated", "condaFile": None, "osType": "Linux", "image": None},
    "data": {"dataType": "uri_folder"},
    "components": {"provisioningState": "Succeeded"},
}
_CONTAINER_NAMES = {"codes": "Code", "environments": "Environment", "data": "Data", "components": "Component"}


def list_containers(request: Request) -> Response:
    workspace, kind = workspace_of(request), _kind(request)
    return page_of(request, [container_of(workspace, kind, name) for name in workspace.assets[kind] if _is_listed(workspace.assets[kind][name], request)])


def get_container(request: Request) -> Response:
    workspace, kind, name = workspace_of(request), _kind(request), request.path_params["name"]
    if name not in workspace.assets[kind]:
        raise not_found(f"{_CONTAINER_NAMES[kind]} container {name} not found.")
    return JSONResponse(container_of(workspace, kind, name))


def list_versions(request: Request) -> Response:
    workspace, kind, name = workspace_of(request), _kind(request), request.path_params["name"]
    versions = list(workspace.assets[kind].get(name, {}))
    if "desc" in request.query_params.get("$orderBy", "").lower():
        versions.reverse()
    if "$top" in request.query_params:
        versions = versions[: int(request.query_params["$top"])]
    return page_of(request, [version_of(workspace, kind, name, version) for version in versions])


def get_version(request: Request) -> Response:
    workspace, kind = workspace_of(request), _kind(request)
    name, version = request.path_params["name"], request.path_params["version"]
    if version not in workspace.assets[kind].get(name, {}):
        raise not_found(f"{_CONTAINER_NAMES[kind]} version {name}:{version} ({kind}ContainerName:version) not found.")
    return JSONResponse(version_of(workspace, kind, name, version))


def put_version(request: Request) -> Response:
    """Register a version: 201, or 200 where it is there already, but for anonymous environments, which get 201 each time (recorded).

    What was registered stays; only tags and description may change.
    """
    workspace, kind = workspace_of(request), _kind(request)
    demand(request, Right.WRITE, f"{kind}/versions/write")
    name, version, properties = request.path_params["name"], request.path_params["version"], body_of(request).get("properties")
    if not isinstance(properties, dict):
        raise bad_request("The request has no 'properties'.")
    versions = workspace.assets[kind].setdefault(name, {})
    existed = version in versions
    if kind == "data" and not may_be_registered(workspace, name, properties.get("dataType") or "uri_folder"):
        raise bad_request(f"The data container {name} is of another type than {properties.get('dataType')}: all versions of a container are of one type.")
    if existed:
        versions[version] |= {key: properties[key] for key in ("description", "tags", "isArchived") if key in properties}
    else:
        register_version(workspace, kind, name, version, properties)
    document = version_of(workspace, kind, name, version)
    is_told = existed and not (kind == "environments" and versions[version]["isAnonymous"])
    return JSONResponse(document, 200 if is_told else 201, headers={"Location": f"https://{request.headers['host']}{document['id']}?{request.url.query}"})


def version_of(workspace: Workspace, kind: str, name: str, version: str) -> Json:
    """The resource of one version; its `name` is the version."""
    properties = dict(workspace.assets[kind][name][version])
    created = properties.pop("_created")
    path = f"{workspace.path}/{kind}/{name}/versions/{version}"
    data = {"createdAt": created, "createdBy": "Ada Lovelace", "createdByType": "User", "lastModifiedAt": created}
    return {"id": path, "name": version, "type": f"Microsoft.MachineLearningServices/workspaces/{kind}/versions", "properties": properties, "systemData": data}


def container_of(workspace: Workspace, kind: str, name: str) -> Json:
    versions = workspace.assets[kind][name]
    latest = list(versions)[-1]
    following = str(int(latest) + 1) if latest.isdigit() else None
    properties: Json = {"description": None, "tags": {}, "properties": {}, "isArchived": False, "latestVersion": latest, "nextVersion": following}
    if kind == "data":
        properties["dataType"] = versions[latest]["dataType"]
    created = versions[latest]["_created"]
    data = {"createdAt": created, "createdBy": "Ada Lovelace", "createdByType": "User", "lastModifiedAt": created}
    path = f"{workspace.path}/{kind}/{name}"
    return {"id": path, "name": name, "type": f"Microsoft.MachineLearningServices/workspaces/{kind}", "properties": properties, "systemData": data}


def register_version(workspace: Workspace, kind: str, name: str, version: str, properties: Json) -> None:
    """Keep a new version of an asset; *properties* as a client sends them."""
    workspace.assets[kind].setdefault(name, {})[version] = _registered(workspace, kind, properties)


def may_be_registered(workspace: Workspace, name: str, kind: str) -> bool:
    """Whether data of type *kind* can be a version of the asset *name*: all of its versions are of one type."""
    return all(version["dataType"] == kind for version in workspace.assets["data"].get(name, {}).values())


def _registered(workspace: Workspace, kind: str, given: Json) -> Json:
    """What the service keeps of what was sent, with its own additions."""
    kept: Json = {"description": None, "tags": {}, "properties": {}, "isArchived": False, "isAnonymous": False, **_ADDED[kind]}
    kept |= {key: value for key, value in given.items() if value is not None}
    kept["properties"] = {key: str(value) for key, value in (given.get("properties") or {}).items()}
    if kind == "codes":
        kept["isAnonymous"] = False  # whatever was sent: so the recordings have it
    if kind == "data":
        kept["dataUri"] = _long_uri(workspace, kept.get("dataUri", ""))
    return kept | {"_created": time_text(now())}


def _long_uri(workspace: Workspace, uri: str) -> str:
    """`azureml://datastores/D/paths/P` with the workspace in it, as answers have it."""
    if not uri.startswith("azureml://datastores/"):
        return uri
    where = f"subscriptions/{workspace.subscription}/resourcegroups/{workspace.group}/workspaces/{workspace.name}"
    return f"azureml://{where}/{uri.removeprefix('azureml://')}"


def _kind(request: Request) -> str:
    return str(request.url.path.split("/")[1])


def _is_listed(versions: dict[str, Any], request: Request) -> bool:
    if request.query_params.get("listViewType", "ActiveOnly") == "All":
        return True
    archived = request.query_params.get("listViewType") == "ArchivedOnly"
    return bool(list(versions.values())[-1]["isArchived"]) is archived


def _routes(kind: str) -> list[Route]:
    return [
        Route(f"/{kind}", list_containers),
        Route(f"/{kind}/{{name}}", get_container),
        Route(f"/{kind}/{{name}}/versions", list_versions),
        Route(f"/{kind}/{{name}}/versions/{{version}}", get_version),
        Route(f"/{kind}/{{name}}/versions/{{version}}", put_version, methods=["PUT"]),
    ]


routes = [route for kind in KINDS for route in _routes(kind)]
