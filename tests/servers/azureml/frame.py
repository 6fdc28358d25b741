"""The way of a request through the double: which plane, whose token, which workspace; then the plane's own routes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Router
from starlette.types import Message, Receive, Scope, Send

from tests.servers.azureml.access import authorized, check_tenant, outside_private_link
from tests.servers.azureml.answers import UNKNOWN, ServiceError, arm_error, data_plane_error, mlflow_error
from tests.servers.azureml.api_versions import check_version
from tests.servers.azureml.principals import Caller, Right
from tests.servers.azureml.state import Azure, Workspace

_PROVIDER = "/providers/Microsoft.MachineLearningServices/workspaces/"
_WORKSPACE = re.compile(rf"/subscriptions/([^/]+)/resourceGroups/([^/]+){re.escape(_PROVIDER)}([^/]+)", re.IGNORECASE)
_DATA_PLANE = re.compile(r"/(\w+)/(?:v\d+\.\d+|workspaces)(/subscriptions/.*)")
ErrorForm = Callable[[ServiceError], JSONResponse]


def workspace_of(request: Request) -> Workspace:
    """The workspace that this request is about; the frame has found it and checked the caller's rights to read."""
    return cast(Workspace, request.state.workspace)


def azure_of(request: Request) -> Azure:
    return cast(Azure, request.state.azure)


def caller_of(request: Request) -> Caller:
    return cast(Caller, request.state.caller)


def body_of(request: Request) -> dict[str, Any]:
    """The JSON body; `{}` where there is none."""
    return cast(dict[str, Any], request.state.body)


def demand(request: Request, right: Right, action: str) -> None:
    """Answer 403 as ARM does where the caller lacks *right*."""
    caller = caller_of(request)
    if caller.may(right):
        return
    principal = caller.principal
    client, object_id = (principal.client_id, principal.object_id) if principal else ("the job", "the job")
    message = (
        f"The client '{client}' with object id '{object_id}' does not have authorization to perform action "
        f"'Microsoft.MachineLearningServices/workspaces/{action}' over scope '{workspace_of(request).path}' or the scope is invalid. "
        "If access was recently granted, please refresh your credentials."
    )
    raise ServiceError(403, "AuthorizationFailed", message, gateway=True)


async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
    """Nobody plays this request: the front sees the mark and the test fails."""
    body = {"error": {"code": "UnknownToTheDouble", "message": f"{scope['method']} {scope['path']}"}}
    await JSONResponse(body, 404, headers={UNKNOWN: "1"})(scope, receive, send)


class Plane:
    """Routes below a workspace. `ARM` answers `{W}{rest}` by the route `{rest}`, the data plane `/{service}/{version}{W}{rest}` by `/{service}{rest}`."""

    def __init__(self, azure: Azure, routes: Sequence[BaseRoute], *, is_arm: bool) -> None:
        self._azure = azure
        self._is_arm = is_arm
        self._router = Router(routes=routes, redirect_slashes=False, default=unknown)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        form: ErrorForm = arm_error if self._is_arm else mlflow_error if scope["path"].startswith("/mlflow/") else data_plane_error
        try:
            await self._routed(request, receive, send)
        except ServiceError as e:
            await form(e)(scope, receive, send)

    async def _routed(self, request: Request, receive: Receive, send: Send) -> None:
        service, below, rest = self._taken_apart(request.scope["path"])
        resource = "https://management.azure.com/" if self._is_arm else "https://ml.azure.com/"
        caller = authorized(request, self._azure, resource, run_tokens=not self._is_arm)
        workspace = self._workspace(below)
        check_tenant(workspace, caller)
        if self._is_arm:
            check_version(request, workspace, rest)
        if workspace.is_private and (rest or not self._is_arm):
            raise outside_private_link(is_arm=self._is_arm)
        content = await request.body()
        state = {"azure": self._azure, "workspace": workspace, "caller": caller, "body": _parsed(request, content)}
        scope = dict(request.scope, path=f"{service}{rest}" or "/", state=state)
        demand(Request(scope), Right.READ, "read")
        await self._router(scope, _once_more(content, receive), send)

    def _taken_apart(self, path: str) -> tuple[str, re.Match[str], str]:
        """The service (`/history`; empty for ARM), the workspace, and what stands behind it."""
        service, below = "", path
        in_data_plane = None if self._is_arm else _DATA_PLANE.fullmatch(path)
        if in_data_plane:
            service, below = f"/{in_data_plane[1]}", in_data_plane[2]
        workspace = _WORKSPACE.match(below)
        if workspace is None or not (service or self._is_arm):
            raise ServiceError(404, "InvalidResourceType", f"The double plays nothing at {path}.", headers={UNKNOWN: "1"})
        return service, workspace, below[workspace.end() :]

    def _workspace(self, asked: re.Match[str]) -> Workspace:
        subscription, group, name = asked.groups()
        known = self._azure.in_subscription(subscription)
        if not known:
            raise ServiceError(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.", gateway=True)
        if not any(one.group.lower() == group.lower() for one in known):
            raise ServiceError(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.", gateway=True)
        workspace = self._azure.workspace(subscription, group, name)
        if workspace is None:
            message = (
                f"The Resource 'Microsoft.MachineLearningServices/workspaces/{name}' under resource group '{group}' was not found. "
                "For more details please go to https://aka.ms/ARMResourceNotFoundFix"
            )
            raise ServiceError(404, "ResourceNotFound", message, gateway=True)
        return workspace


def _parsed(request: Request, content: bytes) -> Any:
    if not content or "json" not in request.headers.get("content-type", ""):
        return {}
    try:
        return json.loads(content)
    except ValueError as e:
        raise ServiceError(400, "UserError", f"The body is no JSON: {e}", inner="BadArgument") from e


def _once_more(content: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that has been read already."""
    left = [content]

    async def again() -> Message:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return again
