"""Registered environments in azureml-core's form, and the private wheels that it uploads for them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import ServiceError, error_document, not_found
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.principals import Right
from tests.servers.azureml.state import Json, Workspace

ORIGIN, CONTAINER = "Environment", "azureml"


def get_environment(request: Request) -> Response:
    """One version, or the newest."""
    name, versions = request.path_params["name"], workspace_of(request).assets["environments"].get(request.path_params["name"], {})
    version = request.path_params.get("version") or next(reversed(versions), "")
    if version not in versions:
        raise not_found(f"Environment {name} {version} was not found.")
    image, conda = versions[version].get("image"), versions[version].get("condaFile")
    python = {"interpreterPath": "python", "userManagedDependencies": not conda, "condaDependencies": {"dependencies": ["python=3.11"]} if conda else None}
    docker = {"baseImage": image, "platform": {"os": "Linux", "architecture": "amd64"}}
    return JSONResponse({"name": name, "version": version, "environmentVariables": {}, "python": python, "docker": docker, "spark": None})


def make_wheels(request: Request) -> Response:
    """Links to upload the files that the body names; for one that is there already an error in its place."""
    demand(request, Right.WRITE, "environments/write")
    workspace, folder = workspace_of(request), request.path_params["folder"]
    paths = [item["path"] for item in body_of(request).get("paths") or []]
    there = [path for path in paths if workspace.storage.properties(CONTAINER, f"{ORIGIN}/{folder}/{path}")]
    new = [path for path in paths if path not in there]
    conflicts = {path: ServiceError(409, "UserError", f"Resource Conflict: ArtifactId {ORIGIN}/{folder}/{path} already exists.") for path in there}
    return JSONResponse(
        {
            "artifacts": {path: {"artifactId": f"{ORIGIN}/{folder}/{path}", "origin": ORIGIN, "container": folder, "path": path} for path in new},
            "artifactContentInformation": {path: _link(workspace, folder, path, "rcw") for path in new},
            "errors": {path: error_document(error) for path, error in conflicts.items()},
        }
    )


def get_wheel(request: Request) -> Response:
    return JSONResponse(_link(workspace_of(request), request.path_params["folder"], request.path_params["path"], "r"))


def _link(workspace: Workspace, folder: str, path: str, permissions: str) -> Json:
    link = workspace.storage.blob_link(CONTAINER, f"{ORIGIN}/{folder}/{path}", permissions=permissions)
    return {"contentUri": link, "origin": ORIGIN, "container": folder, "path": path, "tags": {}}


routes = [
    Route("/environment/environments/{name}", get_environment, methods=["GET"]),
    Route("/environment/environments/{name}/versions/{version}", get_environment, methods=["GET"]),
    Route(f"/artifact/artifacts/batch/metadata/{ORIGIN}/{{folder}}", make_wheels, methods=["POST"]),
    Route(f"/artifact/artifacts/contentinfo/{ORIGIN}/{{folder}}/{{path:path}}", get_wheel, methods=["GET"]),
]
