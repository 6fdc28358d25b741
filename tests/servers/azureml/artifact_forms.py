"""Artifacts of a run as the services show them: blobs below its prefix in the container `azureml` (wire document 5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

from azure.storage.blob import BlobProperties
from starlette.requests import Request

from tests.servers.azureml.answers import bad_request, not_found, time_text
from tests.servers.azureml.frame import workspace_of
from tests.servers.azureml.paging import name_in, next_link, token_after
from tests.servers.azureml.state import Json, Workspace

CONTAINER = "azureml"
ORIGIN = "ExperimentRun"
MOST_AT_ONCE = 50
Form = Callable[[Workspace, str, BlobProperties], Json]


def blob_name(container: str, path: str) -> str:
    return f"{ORIGIN}/{container}/{path}"


def artifact(workspace: Workspace, container: str, blob: BlobProperties) -> Json:
    path = blob.name.removeprefix(blob_name(container, ""))
    return _record(container, path) | {"createdTime": time_text(blob.creation_time)}


def readable(workspace: Workspace, container: str, blob: BlobProperties) -> Json:
    """The artifact with a link to read it."""
    return content_information(workspace, container, blob.name.removeprefix(blob_name(container, "")), "r")


def content_information(workspace: Workspace, container: str, path: str, permissions: str) -> Json:
    link = workspace.storage.blob_link(CONTAINER, blob_name(container, path), permissions=permissions)
    return {"contentUri": link, "origin": ORIGIN, "container": container, "path": path, "tags": {}}


def existing(workspace: Workspace, container: str, path: str) -> BlobProperties:
    """The blob behind an artifact. Raises ServiceError 404."""
    blob = workspace.storage.properties(CONTAINER, blob_name(container, path)) if path else None
    if blob is None:
        raise not_found(f"Artifact {blob_name(container, path)} was not found.")
    return blob


def page(request: Request, container: str, prefix: str, form: Form) -> Json:
    """A page of the artifacts whose paths start with *prefix*, and the link to the next."""
    workspace = workspace_of(request)
    blobs = _behind(workspace, blob_name(container, re.sub("//+", "/", prefix)), request.query_params.get("continuationToken"))
    shown = list(islice(blobs, workspace.page_size + 1))
    token = None
    if len(shown) > workspace.page_size:
        shown.pop()
        token = token_after(shown[-1].name)
    value = [form(workspace, container, blob) for blob in shown]
    return {"value": value, "continuationToken": token, "nextLink": next_link(request, "continuationToken", token)}


def _behind(workspace: Workspace, prefix: str, token: str | None) -> Iterator[BlobProperties]:
    last = name_in(token) if token else ""
    return (blob for blob in workspace.storage.list(CONTAINER, prefix) if blob.name > last)


def to_be_written(workspace: Workspace, container: str, body: Json) -> Json:
    """Links to write the artifacts that *body* names. Raises ServiceError 400 for too many."""
    paths = [item["path"] for item in body.get("paths") or []]
    if not paths or len(paths) > MOST_AT_ONCE:
        raise bad_request(f"Between 1 and {MOST_AT_ONCE} artifacts are made at once, not {len(paths)}.")
    return {
        "artifacts": {path: _record(container, path) for path in paths},
        "artifactContentInformation": {path: content_information(workspace, container, path, "rcw") for path in paths},
        "errors": {},
    }


def _record(container: str, path: str) -> Json:
    return {
        "artifactId": blob_name(container, path),
        "origin": ORIGIN,
        "container": container,
        "path": path,
        "etag": None,
        "createdTime": None,
        "dataPath": None,
        "tags": {},
    }
