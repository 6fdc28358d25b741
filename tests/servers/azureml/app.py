"""The double as one ASGI application: which routes answer under which host name."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.servers.azureml import (
    arm_assets,
    arm_codes,
    arm_components,
    arm_computes,
    arm_datastores,
    arm_jobs,
    arm_new_computes,
    arm_workspace,
    artifacts,
    assets,
    computes_v1,
    control_port,
    datastores_v1,
    environments_v1,
    execution_v1,
    history,
    history_more,
    hyperdrive_v1,
    identity,
    index,
    metrics,
    mlflow_routes,
    mlflow_search,
    snapshots_v1,
)
from tests.servers.azureml.compression import compressing
from tests.servers.azureml.faults import Faults
from tests.servers.azureml.frame import Plane, unknown
from tests.servers.azureml.hosts import Role, role_of
from tests.servers.azureml.log import RequestLog
from tests.servers.azureml.state import Azure

CONTROL_PLANE: list[ModuleType] = [arm_workspace, arm_datastores, arm_new_computes, arm_computes, arm_codes, arm_components, arm_assets, arm_jobs]
SDK_V1: list[ModuleType] = [snapshots_v1, execution_v1, hyperdrive_v1, environments_v1, computes_v1]
DATA_PLANE: list[ModuleType] = [history, history_more, artifacts, metrics, mlflow_routes, mlflow_search, assets, datastores_v1, index, *SDK_V1]


async def discovery(request: Request) -> Response:
    """Where the services of a region are (wire document 3); needs no token."""
    base = f"https://{request.headers['host']}"
    names = ("api", "catalog", "experimentation", "history", "hyperdrive", "labeling", "modelmanagement", "pipelines")
    return JSONResponse(dict.fromkeys(names, base) | {"studio": "https://ml.azure.com"})


def routes_of(modules: list[ModuleType]) -> list[BaseRoute]:
    return [route for module in modules for route in module.routes]


def application(azure: Azure, log: RequestLog, faults: Faults) -> ASGIApp:
    """The app; the front decides which hosts come here."""
    planes = {Role.ARM: Plane(azure, routes_of(CONTROL_PLANE), is_arm=True), Role.DATA: Plane(azure, routes_of(DATA_PLANE), is_arm=False)}
    open_apps: dict[Role | None, Starlette] = {
        Role.ARM: _app([*arm_workspace.open_routes, *arm_jobs.open_routes, *arm_new_computes.open_routes], compressing(planes[Role.ARM])),
        Role.DATA: _app([Route("/discovery", discovery)], compressing(planes[Role.DATA])),
        Role.LOGIN: _app(identity.routes, None),
        None: _app([*identity.plain_routes, *control_port.routes], None),
    }
    for app in open_apps.values():
        app.state.azure, app.state.log, app.state.faults = azure, log, faults

    async def by_host(scope: Scope, receive: Receive, send: Send) -> None:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode()
        await open_apps[role_of(host.partition(":")[0])](scope, receive, send)

    return by_host


def _app(routes: list[Any], plane: ASGIApp | None) -> Starlette:
    """*routes* first, then the plane's; then nobody."""
    app = Starlette(routes=routes)
    app.router.default = plane or unknown
    app.router.redirect_slashes = False
    return app
