"""Snapshots as azureml-core makes them: a tree with the hash of each file, and links to upload those that are new.

What `azureml._restclient.snapshots_client` sends and reads; the service's own form of an answer is known from there alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.answers import bad_request, time_text
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.principals import Right
from tests.servers.azureml.state import Json, Workspace, new_id, now

NO_SNAPSHOT = "00000000-0000-0000-0000-000000000000"
CONTAINER = "snapshots"


def latest(request: Request) -> Response:
    """The newest snapshot of the workspace, which the next one is compared with; an empty tree where there is none."""
    snapshots = workspace_of(request).snapshots
    if not snapshots:
        return JSONResponse({"id": NO_SNAPSHOT, "root": {}})
    name, tree = next(reversed(snapshots.items()))
    return JSONResponse({"id": name, "root": tree})


def links(request: Request) -> Response:
    """Where to upload the files of these names: blobs with names of our own, since azureml-core does not undo the escapes of a link."""
    demand(request, Right.WRITE, "snapshots/write")
    workspace = workspace_of(request)
    names = body_of(request).get("FileNames") or []
    if not names:
        raise bad_request("No file names were given.")
    workspace.storage.make_container(CONTAINER)
    nodes = [{"fullName": name, "blobUri": workspace.storage.blob_link(CONTAINER, f"uploaded/{new_id()}", permissions="rcw")} for name in names]
    return JSONResponse({"fileNodes": nodes})


def make(request: Request) -> Response:
    """A snapshot of the files that were uploaded for it and those of its parent that its tree still has. Raises ServiceError 400 where one is missing."""
    demand(request, Right.WRITE, "snapshots/write")
    workspace, name, body = workspace_of(request), request.path_params["name"], body_of(request)
    parent = body.get("ParentSnapshotId") or NO_SNAPSHOT
    if parent != NO_SNAPSHOT and parent not in workspace.snapshots:
        raise bad_request(f"Snapshot {parent} was not found.")
    uploaded = {node["FullName"]: _blob_of(node["BlobUri"]) for node in body["FileRevisionList"]["FileNodes"]}
    tree: Json = body["DirTreeNode"]
    for file in files_of(tree):
        source = uploaded.get(file) or f"{parent}/{file}"
        if workspace.storage.properties(CONTAINER, source) is None:
            raise bad_request(f"The file {file} of the snapshot was not uploaded.")
        workspace.storage.put(CONTAINER, f"{name}/{file}", workspace.storage.get(CONTAINER, source))
    workspace.snapshots[name] = tree
    return JSONResponse({"id": name, "root": tree, "tags": None, "properties": body.get("Properties"), "createdTime": time_text(now())})


def files_of(tree: Json, folder: str = "") -> Iterator[str]:
    """The names of the files in a tree, with `/`."""
    for name, node in (tree.get("children") or {}).items():
        if node["type"] == "File":
            yield f"{folder}{name}"
        else:
            yield from files_of(node, f"{folder}{name}/")


def code_uri(workspace: Workspace, name: str) -> str:
    """Where the files of the snapshot lie."""
    return f"https://{workspace.storage.host}/{CONTAINER}/{name}/"


def _blob_of(link: str) -> str:
    return unquote(urlsplit(link).path).partition(f"/{CONTAINER}/")[2]


routes = [
    Route("/content/snapshots/latest/metadata", latest, methods=["GET"]),
    Route("/content/snapshots/getblob", links, methods=["POST"]),
    Route("/content/snapshots/{name}", make, methods=["POST"]),
]
