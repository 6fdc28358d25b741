"""Where assets lie: what turns the named output of a run into a folder of a datastore (wire document 4.1)."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.servers.azureml.frame import body_of, workspace_of
from tests.servers.azureml.run_definitions import MODELS, outputs_of
from tests.servers.azureml.state import Workspace

OUTPUT_MARK = "_output_data_"


def resolve_data(request: Request) -> Response:
    return JSONResponse({"values": {asset: {"uri": uri, "type": kind, "legacyDatasetType": None} for asset, (uri, kind) in _found(request, models=False)}})


def resolve_models(request: Request) -> Response:
    return JSONResponse({"values": {asset: {"path": uri, "type": kind} for asset, (uri, kind) in _found(request, models=True)}})


def _found(request: Request, *, models: bool) -> Iterator[tuple[str, tuple[str, str]]]:
    """Where the assets that the body asks for lie: only those that are known come back, and each service knows its own."""
    workspace = workspace_of(request)
    for asset_id in body_of(request).get("values") or []:
        place = _place(workspace, asset_id)
        if place is not None and (place[1] in MODELS) is models:
            yield asset_id, place


def _place(workspace: Workspace, asset_id: str) -> tuple[str, str] | None:
    for run in list(workspace.runs.values()):
        if not run.outputs and f"azureml_{run.run_id}{OUTPUT_MARK}" not in asset_id:
            continue
        for output in outputs_of(workspace, run).values():
            if output.asset_id == asset_id:
                return output.uri, output.kind
    return None


routes: list[Route] = [
    Route("/data/dataversion/batchGetResolvedUris", resolve_data, methods=["POST"]),
    Route("/modelregistry/models/batchGetResolvedUris", resolve_models, methods=["POST"]),
]
