"""The artifact service, and the same by run in run history (wire document 5).

Older clients put an artifact's path into the URL, newer ones into `?path=`; both are played.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.artifact_forms import (
    CONTAINER,
    ORIGIN,
    artifact,
    blob_name,
    content_information,
    existing,
    page,
    readable,
    to_be_written,
)
from tests.servers.azureml.frame import body_of, demand, workspace_of
from tests.servers.azureml.history_runs import FAMILIES, changeable_run, run_of
from tests.servers.azureml.principals import Right

Handler = Callable[[Request, str, str], Response]


def list_artifacts(request: Request, container: str, path: str) -> Response:
    return JSONResponse(page(request, container, path, artifact))


def content_info(request: Request, container: str, path: str) -> Response:
    workspace = workspace_of(request)
    return JSONResponse(readable(workspace, container, existing(workspace, container, path)))


def content_infos(request: Request, container: str, path: str) -> Response:
    return JSONResponse(page(request, container, path, readable))


def write_link(request: Request, container: str, path: str) -> Response:
    demand(request, Right.WRITE, "experiments/artifacts/write")
    return JSONResponse(content_information(workspace_of(request), container, path, "rcw"))


def content(request: Request, container: str, path: str) -> Response:
    """The bytes themselves, through the service."""
    workspace = workspace_of(request)
    existing(workspace, container, path)
    return Response(workspace.storage.get(CONTAINER, blob_name(container, path)), media_type="application/octet-stream")


def make_artifacts(request: Request, container: str, path: str) -> Response:
    demand(request, Right.WRITE, "experiments/artifacts/write")
    return JSONResponse(to_be_written(workspace_of(request), container, body_of(request)))


def _by_container(handler: Handler) -> Callable[[Request], Response]:
    def handle(request: Request) -> Response:
        parts: dict[str, Any] = request.path_params
        return handler(request, parts["container"], parts.get("path") or request.query_params.get("path", ""))

    return handle


def _by_run(handler: Handler, *, changes: bool = False) -> Callable[[Request], Response]:
    def handle(request: Request) -> Response:
        run = changeable_run(request) if changes else run_of(request)
        path = request.path_params.get("path") or request.query_params.get("path", "")
        return handler(request, run.data_container_id, path)

    return handle


SERVICE = "/artifact/artifacts"
IN_CONTAINER = f"{ORIGIN}/{{container}}"

routes: list[Route] = [
    Route(f"{SERVICE}/contentinfo/{IN_CONTAINER}/{{path:path}}", _by_container(content_info), methods=["GET"]),
    Route(f"{SERVICE}/prefix/contentinfo/{IN_CONTAINER}", _by_container(content_infos), methods=["GET"]),
    Route(f"{SERVICE}/prefix/contentinfo/{IN_CONTAINER}/{{path:path}}", _by_container(content_infos), methods=["GET"]),
    Route(f"{SERVICE}/write/{IN_CONTAINER}/{{path:path}}", _by_container(write_link), methods=["GET"]),
    Route(f"{SERVICE}/content/{IN_CONTAINER}/{{path:path}}", _by_container(content), methods=["GET"]),
    Route(f"{SERVICE}/batch/metadata/{IN_CONTAINER}", _by_container(make_artifacts), methods=["POST"]),
    Route(f"{SERVICE}/{IN_CONTAINER}", _by_container(list_artifacts), methods=["GET"]),
    Route(f"{SERVICE}/{IN_CONTAINER}/{{path:path}}", _by_container(list_artifacts), methods=["GET"]),
]
for _family in FAMILIES[1:]:
    _below = f"{_family}/runs/{{run_id}}/artifacts"
    routes += [
        Route(_below, _by_run(list_artifacts), methods=["GET"]),
        Route(f"{_below}/path", _by_run(list_artifacts), methods=["GET"]),
        Route(f"{_below}/contentinfo", _by_run(content_info), methods=["GET"]),
        Route(f"{_below}/prefix/contentinfo", _by_run(content_infos), methods=["GET"]),
        Route(f"{_below}/batch/metadata", _by_run(make_artifacts, changes=True), methods=["POST"]),
    ]
