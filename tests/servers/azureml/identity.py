"""The identity service: sign-in of applications by secret or by another platform's token, and the endpoints that give tokens to a job's managed identity."""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.servers.azureml import device_code
from tests.servers.azureml.principals import Principal, make_token
from tests.servers.azureml.state import Azure

BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_NO_TENANT = "Tenant '{}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud."


async def instance_discovery(request: Request) -> JSONResponse:
    """Which hosts are one and the same authority; MSAL asks it for hosts that it does not know."""
    host = request.headers["host"]
    return JSONResponse(
        {
            "tenant_discovery_endpoint": f"https://{host}/common/v2.0/.well-known/openid-configuration",
            "api-version": "1.1",
            "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
        }
    )


async def openid_configuration(request: Request) -> JSONResponse:
    tenant = request.path_params["tenant"]
    if not _has_tenant(request, tenant):
        return _refused(400, "invalid_tenant", 90002, _NO_TENANT.format(tenant))
    base = f"https://{request.headers['host']}/{tenant}"
    return JSONResponse(
        {
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            "end_session_endpoint": f"{base}/oauth2/v2.0/logout",
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "issuer": f"{base}/v2.0",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "tenant_region_scope": "EU",
        }
    )


async def token(request: Request) -> JSONResponse:
    """Client credentials, in the form of version 2 (`scope`) and of version 1 (`resource`, which older clients ask)."""
    form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
    tenant, client = request.path_params["tenant"], form.get("client_id", "")
    if not _has_tenant(request, tenant):
        return _refused(400, "invalid_tenant", 90002, _NO_TENANT.format(tenant))
    if form.get("grant_type") == device_code.GRANT:
        return device_code.grant(request, form)
    principal = _azure(request).principals.get(client)
    if principal is None or principal.tenant != tenant:
        return _refused(400, "unauthorized_client", 700016, f"Application with identifier '{client}' was not found in the directory '{tenant}'.")
    if form.get("grant_type") != "client_credentials":
        return _refused(400, "unsupported_grant_type", 70003, f"The app requested an unsupported grant type '{form.get('grant_type')}'.")
    refusal = _of_assertion(principal, form) if "client_assertion" in form else _of_secret(principal, form)
    if refusal is not None:
        return refusal
    if form.get("claims") and not principal.meets_claims:
        return _refused(400, "invalid_grant", 53003, "Access has been blocked by Conditional Access policies.")
    return JSONResponse(_granted(principal, form.get("scope", "").removesuffix("/.default") or form.get("resource", ""), form.get("claims", "")))


def _of_secret(principal: Principal, form: dict[str, str]) -> JSONResponse | None:
    """What is wrong with the secret that was given, if anything."""
    client = principal.client_id
    if form.get("client_secret") != principal.secret:
        return _refused(
            401, "invalid_client", 7000215, f"Invalid client secret provided. Ensure that the secret is the value, not the id, of one of app '{client}'."
        )
    if principal.secret_expired:
        return _refused(401, "invalid_client", 7000222, f"The provided client secret keys for app '{client}' are expired.")
    return None


def _of_assertion(principal: Principal, form: dict[str, str]) -> JSONResponse | None:
    """What is wrong with the token of another platform (workload identity federation), if anything."""
    if form.get("client_assertion_type") != BEARER:
        return _refused(400, "invalid_request", 90014, "The required field 'client_assertion_type' is missing from the credential.")
    ends = principal.assertions.get(form["client_assertion"])
    if ends is None:
        return _refused(401, "invalid_client", 70021, "No matching federated identity record found for presented assertion.")
    if ends <= time.time():
        return _refused(401, "invalid_client", 700024, "Client assertion is not within its valid time range.")
    return None


async def managed_identity(request: Request) -> JSONResponse:
    """What `MSI_ENDPOINT` (with `MSI_SECRET`) and `IDENTITY_ENDPOINT` (with `IDENTITY_HEADER`) of a job answer: the identity is named by its secret."""
    given = request.headers.get("secret") or request.headers.get("x-identity-header")
    principal = next((one for one in _azure(request).principals.values() if one.secret == given), None)
    wanted = request.query_params.get("clientid") or request.query_params.get("client_id")
    if principal is None or (wanted and wanted != principal.client_id):
        return JSONResponse({"statusCode": 400, "message": "No managed identity found for the specified ClientId/ResourceId/PrincipalId."}, 400)
    granted = _granted(principal, request.query_params.get("resource", ""))
    ends = datetime.fromtimestamp(time.time() + principal.token_seconds, timezone.utc)
    return JSONResponse(
        granted | {"expires_on": str(int(ends.timestamp())), "resource": request.query_params.get("resource"), "client_id": principal.client_id}
    )


async def on_behalf_of(request: Request) -> JSONResponse:
    """What `OBO_ENDPOINT` of a job answers: a token in the name of whoever submitted it, as the endpoint's address says."""
    principal = _azure(request).principals.get(request.path_params["client_id"])
    if principal is None:
        return JSONResponse({"statusCode": 400, "message": "The job has no such identity."}, 400)
    granted = _granted(principal, request.query_params.get("resource", ""))
    return JSONResponse(granted | {"expires_on": str(int(time.time() + principal.token_seconds)), "resource": request.query_params.get("resource")})


def _granted(principal: Principal, audience: str, claims: str = "") -> dict[str, Any]:
    text, seconds = make_token(principal, audience, claims)
    return {"token_type": "Bearer", "expires_in": int(seconds), "ext_expires_in": int(seconds), "access_token": text}


def _refused(status: int, error: str, number: int, text: str) -> JSONResponse:
    """The identity service's form of an error."""
    moment = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    trace, correlation = uuid.uuid4(), uuid.uuid4()
    description = f"AADSTS{number}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {moment}"
    body = {
        "error": error,
        "error_description": description,
        "error_codes": [number],
        "timestamp": moment,
        "trace_id": str(trace),
        "correlation_id": str(correlation),
    }
    return JSONResponse(body, status)


def _has_tenant(request: Request, tenant: str) -> bool:
    return any(one.tenant == tenant for one in _azure(request).principals.values())


def _azure(request: Request) -> Azure:
    azure: Azure = request.app.state.azure
    return azure


routes = [
    *device_code.routes,
    Route("/common/discovery/instance", instance_discovery),
    Route("/{tenant}/v2.0/.well-known/openid-configuration", openid_configuration),
    Route("/{tenant}/oauth2/v2.0/token", token, methods=["POST"]),
    Route("/{tenant}/oauth2/token", token, methods=["POST"]),
]
plain_routes = [
    Route("/identity/token", managed_identity, methods=["GET", "POST"]),
    Route("/identity/obo/{client_id}", on_behalf_of),
]
