"""The path of a request through the double: its plane, token and workspace, and then the plane's routes. Also the
code that the routes share: formats of errors and times, pages, and API versions of Resource Manager.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.azureml_double.state import Azure, Caller, Json, Right, TokenRefused, Workspace, now, read_token, time_text

# Marks the answer to an unsupported request. The front removes it and fails the test.
UNKNOWN = "x-stage-unknown"
SMALLEST = 200  # minimum size in bytes of a compressed answer
PUBLISHED = re.findall(
    r"\S+",
    """2021-03-01-preview 2022-02-01-preview 2022-05-01 2022-06-01-preview 2022-10-01 2022-10-01-preview
    2022-12-01-preview 2023-02-01-preview
    2023-04-01
    2023-04-01-preview 2023-06-01-preview 2023-08-01-preview 2023-10-01 2024-01-01-preview 2024-04-01 2024-04-01-preview
    2024-07-01-preview 2024-10-01
    2024-10-01-preview 2025-01-01-preview 2025-04-01 2025-04-01-preview 2025-06-01
    2025-07-01-preview 2025-09-01 2025-10-01-preview 2025-12-01""",
)
"""API versions of all resources below a workspace, from the provider's specification and the pages generated from it.
"""
# API versions of Microsoft.Insights/metrics.
MONITOR = ["2018-01-01", "2019-07-01", "2021-05-01", "2023-10-01", "2024-02-01"]
OLDER = re.findall(
    r"\S+",
    """2018-03-01-preview 2018-11-19 2019-05-01 2019-06-01 2019-11-01 2020-01-01 2020-02-18-preview
    2020-03-01 2020-04-01 2020-05-01-preview
    2020-05-15-preview 2020-06-01 2020-08-01 2020-09-01-preview 2021-01-01 2021-04-01 2021-07-01 2022-01-01-preview""",
)
"""API versions of workspaces and computes only."""
DATA_PLANE_VERSIONS = {"history": "v1.0", "artifact": "v2.0", "metric": "v2.0"}
MLFLOW_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
}
MLFLOW_CODES |= {409: "RESOURCE_ALREADY_EXISTS"}
AUDIENCES = (
    "https://management.azure.com",
    "https://ml.azure.com",
    "https://management.core.windows.net",
    "https://management.usgovcloudapi.net",
)
Kind = TypeVar("Kind")
# Resource Manager's token buckets for each principal: the size, as recorded in March 2026 (249 and 199 were left), and
# the refill per second, which is documented
# (https://learn.microsoft.com/azure/azure-resource-manager/management/request-limits-and-throttling).
BUCKETS = {"reads": (250, 25.0), "writes": (200, 10.0), "deletes": (200, 10.0)}
_PROVIDER = "/providers/Microsoft.MachineLearningServices/workspaces/"
_WORKSPACE = re.compile(rf"/subscriptions/([^/]+)/resourceGroups/([^/]+){re.escape(_PROVIDER)}([^/]+)", re.IGNORECASE)
_DATA_PLANE = re.compile(r"/(\w+)/(?:v\d+\.\d+|workspaces)(/subscriptions/.*)")


@dataclass
class ServiceError(Exception):
    """An error that a route raises. `code` is the outer code (`UserError`, `AuthorizationFailed`, ...), `inner` the
    machine-readable cause (`NotFoundError`, `BadArgument/ArgumentInvalid`).
    """

    status: int
    code: str
    message: str
    inner: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    gateway: bool = False  # answered by ARM itself, not by the service behind it
    details: tuple[str, ...] = ()  # messages that only `details` has


def not_found(message: str) -> ServiceError:
    return ServiceError(404, "UserError", message, inner="NotFoundError")


def there(found: Kind | None, message: str) -> Kind:
    """Return *found*, or raise ServiceError 404 if it is None."""
    if found is None:
        raise not_found(message)
    return found


def bad_request(message: str) -> ServiceError:
    return ServiceError(400, "UserError", message, inner="BadArgument")


def arm_error(error: ServiceError) -> JSONResponse:
    body: Json = {"code": error.code, "message": error.message}
    if error.gateway:
        return JSONResponse({"error": body}, error.status, headers={**error.headers, "x-ms-failure-cause": "gateway"})
    info: Json = {
        "ComponentName": "managementfrontend",
        "Correlation": _correlation(),
        "Environment": "master",
        "Location": "eastus",
    }
    info |= {"Time": time_text(now())} | ({"InnerError": _nested(error.inner)} if error.inner else {})
    details = [
        {"code": error.code, "message": message, "details": [], "additionalInfo": []} for message in error.details
    ]
    body |= {
        "details": details,
        "additionalInfo": [{"type": kind, "info": {"value": value}} for kind, value in info.items()],
    }
    return JSONResponse({"error": body}, error.status, headers={**error.headers, "x-ms-response-type": "error"})


def data_plane_error(error: ServiceError, path: str) -> JSONResponse:
    document = error_document(error)
    if path.startswith("/mlflow/"):  # with capital letters, as in public reports of 2021 to 2025
        document = _capitalized(document | {"componentName": "mlflow"}) | {
            "Correlation": document["correlation"],
            "statusCode": error.status,
        }
        document["error_code"] = MLFLOW_CODES.get(error.status, "INTERNAL_ERROR")
    return JSONResponse(document, error.status, headers=error.headers)


def _capitalized(value: Any) -> Any:
    return (
        {f"{name[:1].upper()}{name[1:]}": _capitalized(one) for name, one in value.items()}
        if isinstance(value, dict)
        else value
    )


def error_document(error: ServiceError, component: str = "") -> Json:
    """The error format of run history, artifacts and metrics (wire document 4.6), and of the `error` of a failed
    run.
    """
    nulls: Json = dict.fromkeys(
        (
            "severity",
            "messageFormat",
            "messageParameters",
            "referenceCode",
            "detailsUri",
            "target",
            "debugInfo",
            "additionalInfo",
        )
    )
    body: Json = {
        "code": error.code,
        "message": error.message,
        "details": [],
        "innerError": _nested(error.inner) if error.inner else None,
        **nulls,
    }
    where = {"environment": "master", "location": "eastus", "time": time_text(now()), "componentName": component}
    return {"error": body, "correlation": _correlation(), **where}


def _correlation() -> Json:
    return {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]}


def _nested(codes: str) -> Json:
    code, _, rest = codes.partition("/")
    return {"code": code, "innerError": _nested(rest) if rest else None}


def authorized(request: Request, azure: Azure, resource: str, *, run_tokens: bool) -> Caller:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _unauthorized(
            "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.", resource
        )
    try:
        claims = read_token(token)
    except TokenRefused as e:
        code = "ExpiredAuthenticationToken" if "expired" in str(e) else "InvalidAuthenticationToken"
        raise _unauthorized(code, str(e), resource) from e
    if claims["iss"] == "azureml":
        if not run_tokens:
            raise _unauthorized(
                "InvalidAuthenticationToken", "The access token is from the wrong issuer 'azureml'.", resource
            )
        return Caller(None, run_token_scope=claims["scope"])
    principal = azure.principals.get(claims["appid"])
    if principal is None or claims["made"] < principal.revoked_before:
        raise _unauthorized("InvalidAuthenticationToken", "The access token is invalid.", resource)
    if claims["aud"].rstrip("/") not in AUDIENCES:
        text = f"The access token has been obtained for wrong audience or resource '{claims['aud']}'."
        raise _unauthorized("InvalidAuthenticationTokenAudience", text, resource)
    wanted = json.loads(principal.claims_wanted or "{}").get("access_token", {})
    if request.method in principal.claims_wanted_by and any(
        claims["met"].get(name) != value for name, value in wanted.items()
    ):
        # Conditional access and enforced second factors respond like this:
        # https://learn.microsoft.com/entra/identity-platform/claims-challenge
        asked = base64.b64encode(principal.claims_wanted.encode()).decode()
        challenge = (
            'Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", '
            'error="insufficient_claims", '
        )
        challenge += f'error_description="The token does not meet a policy.", claims="{asked}"'
        text = (
            "Continuous access evaluation resulted in claims challenge with result: InteractionRequired and "
            "code: TokenIssuedBeforeRevocationTimestamp"
        )
        raise ServiceError(
            401, "InvalidAuthenticationToken", text, headers={"WWW-Authenticate": challenge}, gateway=True
        )
    return Caller(principal)


def below_no_workspace(handler: Callable[[Request, Azure, Caller], Response]) -> Callable[[Request], Response]:
    """A Resource Manager route outside a workspace. The caller needs a token, and errors have ARM's format."""

    def answer(request: Request) -> Response:
        azure: Azure = request.app.state.azure
        try:
            return handler(
                request, azure, authorized(request, azure, "https://management.azure.com/", run_tokens=False)
            )
        except ServiceError as e:
            return arm_error(e)

    return answer


def _check_tenant(workspace: Workspace, caller: Caller) -> None:
    if caller.principal is None:
        if caller.run_token_scope.lower() != workspace.path.lower():
            raise ServiceError(403, "UserError", "The run token is for another workspace.", inner="AuthorizationError")
    elif caller.principal.tenant != workspace.tenant:
        message = f"The access token is from the wrong issuer 'https://sts.windows.net/{caller.principal.tenant}/'. "
        message += (
            f"It must match the tenant 'https://sts.windows.net/{workspace.tenant}/' associated with this subscription."
        )
        raise _unauthorized("InvalidAuthenticationTokenTenant", message, "https://management.azure.com/")


def _unauthorized(code: str, message: str, resource: str) -> ServiceError:
    challenge = (
        'Bearer authorization_uri="https://login.microsoftonline.com/", error="invalid_token", '
        f'error_description="{message}", resource_id="{resource}"'
    )
    return ServiceError(401, code, message, headers={"WWW-Authenticate": challenge}, gateway=True)


def _check_version(request: Request, workspace: Workspace, rest: str) -> None:
    version = request.query_params.get("api-version")
    if not version:
        raise ServiceError(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
            gateway=True,
        )
    kind = rest.strip("/").partition("/")[0]
    known = [*OLDER, *PUBLISHED] if kind in ("", "computes") else MONITOR if kind == "providers" else PUBLISHED
    if version not in known:
        message = (
            f"No registered resource provider found for location '{workspace.location}' and API version "
            f"'{version}' for type "
        )
        message += (
            f"'{'/'.join(filter(None, ('workspaces', kind)))}'. The supported api-versions are '{', '.join(known)}'. "
        )
        message += f"The supported locations are '{workspace.location}'."
        raise ServiceError(400, "NoRegisteredProviderFound", message, gateway=True)


def workspace_of(request: Request) -> Workspace:
    return cast(Workspace, request.state.workspace)


def caller_of(request: Request) -> Caller:
    return cast(Caller, request.state.caller)


def body_of(request: Request) -> Json:
    return cast(Json, request.state.body)


def demand(request: Request, right: Right, action: str) -> None:
    caller = caller_of(request)
    if caller.may(right):
        return
    principal = caller.principal
    client, object_id = (principal.client_id, principal.object_id) if principal else ("the job", "the job")
    message = f"The client '{client}' with object id '{object_id}' does not have authorization to perform action "
    message += (
        f"'Microsoft.MachineLearningServices/workspaces/{action}' over scope '{workspace_of(request).path}' or "
        "the scope is invalid. "
    )
    message += "If access was recently granted, please refresh your credentials."
    raise ServiceError(403, "AuthorizationFailed", message, gateway=True)


async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
    body = {"error": {"code": "UnknownToTheDouble", "message": f"{scope['method']} {scope['path']}"}}
    await JSONResponse(body, 404, headers={UNKNOWN: "1"})(scope, receive, send)


class Plane:
    """Routes below a workspace. `ARM` answers `{W}{rest}` by the route `{rest}`, the data plane
    `/{service}/{version}{W}{rest}` by `/{service}{rest}`.
    """

    def __init__(self, azure: Azure, routes: Sequence[BaseRoute], *, is_arm: bool) -> None:
        self._azure, self._is_arm = azure, is_arm
        self._router = Router(routes=routes, redirect_slashes=False, default=unknown)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._routed(Request(scope, receive), receive, send)
        except ServiceError as e:
            await (arm_error(e) if self._is_arm else data_plane_error(e, scope["path"]))(scope, receive, send)

    def _counted(self, request: Request, client_id: str, send: Send) -> Send:
        """Take the request from the bucket of this principal, and return *send* with a header that has the rest. Raises
        ServiceError 429 if the bucket is empty.
        """
        kind = "reads" if request.method in ("GET", "HEAD") else "deletes" if request.method == "DELETE" else "writes"
        size, per_second = BUCKETS[kind]
        level, before = self._azure.buckets.get((client_id, kind), (size, 0.0))
        moment = time.monotonic()
        level = min(float(size), level + (moment - before) * per_second) - 1
        if level < 0:
            message = f"Number of '{kind}' for subscription and principal exceeded the limit of {size}."
            raise ServiceError(
                429, "SubscriptionRequestsThrottled", message, headers={"Retry-After": "1"}, gateway=True
            )
        self._azure.buckets[client_id, kind] = level, moment

        async def with_rest(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message["headers"])[f"x-ms-ratelimit-remaining-subscription-{kind}"] = str(
                    int(level)
                )
            await send(message)

        return with_rest

    async def _routed(self, request: Request, receive: Receive, send: Send) -> None:
        service, below = "", request.scope["path"]
        in_data_plane = None if self._is_arm else _DATA_PLANE.fullmatch(below)
        if in_data_plane:
            service, below = f"/{in_data_plane[1]}", in_data_plane[2]
        named = _WORKSPACE.match(below)
        if named is None or not (service or self._is_arm):
            raise ServiceError(
                404, "InvalidResourceType", f"The double plays nothing at {below}.", headers={UNKNOWN: "1"}
            )
        rest = below[named.end() :]
        resource = "https://management.azure.com/" if self._is_arm else "https://ml.azure.com/"
        caller = authorized(request, self._azure, resource, run_tokens=not self._is_arm)
        if self._is_arm and caller.principal is not None:
            send = self._counted(request, caller.principal.client_id, send)
        workspace = self._workspace(*named.groups())
        _check_tenant(workspace, caller)
        if self._is_arm:
            _check_version(request, workspace, rest)
        if workspace.is_private and (rest or not self._is_arm):
            # Access from outside a private link: quoted in Azure/azure-cli-extensions#6294, and for Resource Manager
            # in MicrosoftDocs/azure-docs#90426.
            if self._is_arm:
                raise ServiceError(
                    502, "BadGateway", "Access to workspace was denied based on workspace private link configuration."
                )
            reason = "none of the workspaces/registries are accessible from outside of the designated private link."
            raise ServiceError(401, "UserError", f"User is not authorized to access provided resources due to {reason}")
        content = [await request.body()]
        state = {
            "azure": self._azure,
            "workspace": workspace,
            "caller": caller,
            "body": json.loads(content[0]) if content[0] and "json" in request.headers.get("content-type", "") else {},
        }
        scope = dict(request.scope, path=f"{service}{rest}" or "/", state=state)
        demand(Request(scope), Right.READ, "read")

        async def receive_again() -> Message:
            return {"type": "http.request", "body": content.pop(), "more_body": False} if content else await receive()

        await self._router(scope, receive_again, send)

    def _workspace(self, subscription: str, group: str, name: str) -> Workspace:
        known = [one for one in self._azure.workspaces.values() if one.subscription.lower() == subscription.lower()]
        workspace = next(
            (one for one in known if (one.group.lower(), one.name.lower()) == (group.lower(), name.lower())), None
        )
        if not known:
            raise ServiceError(
                404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.", gateway=True
            )
        if not any(one.group.lower() == group.lower() for one in known):
            raise ServiceError(
                404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.", gateway=True
            )
        if workspace is None:
            message = (
                f"The Resource 'Microsoft.MachineLearningServices/workspaces/{name}' under resource group "
                f"'{group}' was not found. "
            )
            message += "For more details please go to https://aka.ms/ARMResourceNotFoundFix"
            raise ServiceError(404, "ResourceNotFound", message, gateway=True)
        return workspace


def token_after(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def name_in(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise bad_request("The continuation token is not valid.") from error


def page_at(items: Sequence[Kind], token: str | None, size: int) -> tuple[Sequence[Kind], str | None]:
    """Return the items that start at *token*, and the token of the next page."""
    begin = int(name_in(token)) if token else 0
    end = begin + size
    return items[begin:end], token_after(str(end)) if end < len(items) else None


def next_link(request: Request, parameter: str, token: str | None) -> str | None:
    if token is None:
        return None
    workspace = workspace_of(request)
    service, _, rest = str(request.scope["path"]).lstrip("/").partition("/")
    kept = {name: value for name, value in request.query_params.items() if name.lower() != parameter.lower()}
    query = urlencode({**kept, parameter: token})
    return (
        f"https://{workspace.data_plane_host}/{service}/{DATA_PLANE_VERSIONS[service]}{workspace.path}/"
        f"{quote(rest)}?{query}"
    )


def arm_page(request: Request, documents: Sequence[Json], *, size: int | None = None) -> Response:
    query = dict(request.query_params)
    start = int(query.get("$skipToken", "0") or 0)
    size = min(size or 1000, workspace_of(request).page_size)
    answer: Json = {"value": documents[start : start + size]}
    if start + size < len(documents):
        query["$skipToken"] = str(start + size)
        answer["nextLink"] = (
            f"https://{request.headers['host']}{workspace_of(request).path}{request.url.path}"
            f"?{urlencode(query, safe='$')}"
        )
    return JSONResponse(answer)


def compressing(app: ASGIApp) -> ASGIApp:
    """Wrap *app* to compress long answers for clients that accept gzip, as the services do: in chunks without a
    length.
    """
    zipped = GZipMiddleware(app, minimum_size=SMALLEST)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def without_length(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                if headers.get("content-encoding") == "gzip":
                    del headers["content-length"]
            await send(message)

        await zipped(scope, receive, without_length)

    return answer
