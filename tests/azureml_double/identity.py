"""The identity service: sign-in of applications by a secret or by another platform's token, of a person by a device
code, and the endpoints that return tokens to a job's managed identity.
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import datetime, timezone
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.azureml_double.state import Azure, Json, Principal, base64_text, make_token

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
USER_CODE = "HIML4TEST"
SECONDS_TO_TYPE = 0.5  # delay until the person has typed the code
_NO_TENANT = (
    "Tenant '{}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud."
)


async def instance_discovery(request: Request) -> JSONResponse:
    """List the equivalent hosts of an authority. MSAL requests this for hosts that it does not know."""
    host = request.headers["host"]
    endpoint = f"https://{host}/common/v2.0/.well-known/openid-configuration"
    metadata = [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}]
    return JSONResponse({"tenant_discovery_endpoint": endpoint, "api-version": "1.1", "metadata": metadata})


async def openid_configuration(request: Request) -> JSONResponse:
    tenant = request.path_params["tenant"]
    if not any(one.tenant == tenant for one in _azure(request).principals.values()):
        return _refused(400, "invalid_tenant", 90002, _NO_TENANT.format(tenant))
    base = f"https://{request.headers['host']}/{tenant}"
    paths = {
        "token": "token",
        "authorization": "authorize",
        "device_authorization": "devicecode",
        "end_session": "logout",
    }
    lists = {"token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"]}
    lists |= {
        "response_types_supported": ["code", "id_token", "code id_token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
    }
    endpoints = {f"{name}_endpoint": f"{base}/oauth2/v2.0/{path}" for name, path in paths.items()}
    return JSONResponse(
        {
            **endpoints,
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "issuer": f"{base}/v2.0",
            **lists,
            "tenant_region_scope": "EU",
        }
    )


async def token(request: Request) -> JSONResponse:
    """Client credentials, in the format of version 2 (`scope`) and of version 1 (`resource`, for older clients)."""
    form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
    tenant, client = request.path_params["tenant"], form.get("client_id", "")
    if not any(one.tenant == tenant for one in _azure(request).principals.values()):
        return _refused(400, "invalid_tenant", 90002, _NO_TENANT.format(tenant))
    if form.get("grant_type") == DEVICE_GRANT:
        return _of_person(request, form)
    principal = _azure(request).principals.get(client)
    if principal is None or principal.tenant != tenant:
        return _refused(
            400,
            "unauthorized_client",
            700016,
            f"Application with identifier '{client}' was not found in the directory '{tenant}'.",
        )
    if form.get("grant_type") != "client_credentials":
        return _refused(
            400,
            "unsupported_grant_type",
            70003,
            f"The app requested an unsupported grant type '{form.get('grant_type')}'.",
        )
    refusal = _refusal(principal, form)
    if refusal is not None:
        return refusal
    if form.get("claims") and not principal.meets_claims:
        return _refused(400, "invalid_grant", 53003, "Access has been blocked by Conditional Access policies.")
    return JSONResponse(
        _granted(
            principal,
            form.get("scope", "").removesuffix("/.default") or form.get("resource", ""),
            form.get("claims", ""),
        )
    )


def _refusal(principal: Principal, form: dict[str, str]) -> JSONResponse | None:
    """Describe the error in the secret, or in the token of another platform (workload identity federation), if any."""
    client, ends = principal.client_id, principal.assertions.get(form.get("client_assertion", ""))
    if "client_assertion" in form:
        if ends is None:
            return _refused(
                401, "invalid_client", 70021, "No matching federated identity record found for presented assertion."
            )
        return (
            None
            if ends > time.time()
            else _refused(401, "invalid_client", 700024, "Client assertion is not within its valid time range.")
        )
    if form.get("client_secret") != principal.secret:
        text = (
            "Invalid client secret provided. Ensure that the secret is the value, not the id, of one of app "
            f"'{client}'."
        )
        return _refused(401, "invalid_client", 7000215, text)
    if principal.secret_expired:
        return _refused(
            401, "invalid_client", 7000222, f"The provided client secret keys for app '{client}' are expired."
        )
    return None


async def begin_device_code(request: Request) -> JSONResponse:
    scope = parse_qs((await request.body()).decode())["scope"][0]
    code = json.dumps([request.path_params["tenant"], scope, time.time()])
    shown = {
        "user_code": USER_CODE,
        "verification_uri": "https://microsoft.com/devicelogin",
        "message": f"To sign in, enter {USER_CODE}.",
    }
    return JSONResponse({**shown, "device_code": code, "expires_in": 900, "interval": 1})


def _of_person(request: Request, form: dict[str, str]) -> JSONResponse:
    """The token after the code was typed: that of the tenant's first principal, which acts as a person."""
    tenant, scope, begun = json.loads(form["device_code"])
    if time.time() < begun + SECONDS_TO_TYPE:
        return JSONResponse(
            {
                "error": "authorization_pending",
                "error_description": "AADSTS70016: OAuth 2.0 device flow error. Authorization is pending.",
            },
            400,
        )
    person = next(one for one in _azure(request).principals.values() if one.tenant == tenant)
    audience = next(one for one in scope.split() if one.startswith("https://")).removesuffix("/.default")
    granted = _granted(person, audience, form.get("claims", ""))
    claims: Json = {
        "iss": f"https://{request.headers['host']}/{tenant}/v2.0",
        "aud": form["client_id"],
        "sub": person.object_id,
    }
    claims |= {"oid": person.object_id, "tid": tenant, "preferred_username": "ada@example.org"}
    claims |= {"exp": int(time.time() + granted["expires_in"]), "iat": int(time.time())}
    id_token = f"{_part({'alg': 'none'})}.{_part(claims)}."
    more = {"scope": scope, "refresh_token": f"refresh~{person.object_id}", "id_token": id_token}
    return JSONResponse(granted | more | {"client_info": _part({"uid": person.object_id, "utid": tenant})})


def _part(content: Json) -> str:
    return base64_text(json.dumps(content).encode())


async def managed_identity(request: Request) -> JSONResponse:
    """The answer of a job's `MSI_ENDPOINT` (with `MSI_SECRET`) and `IDENTITY_ENDPOINT` (with `IDENTITY_HEADER`). The
    secret identifies the identity. `OBO_ENDPOINT` returns tokens on behalf of the job's submitter, whom the
    endpoint's address names.
    """
    submitter, principals = request.path_params.get("client_id"), _azure(request).principals
    given = request.headers.get("secret") or request.headers.get("x-identity-header")
    wanted = request.query_params.get("clientid") or request.query_params.get("client_id")
    found = (
        principals.get(submitter)
        if submitter
        else next((one for one in principals.values() if one.secret == given), None)
    )
    if found is None or (wanted and wanted != found.client_id):
        return JSONResponse(
            {
                "statusCode": 400,
                "message": "No managed identity found for the specified ClientId/ResourceId/PrincipalId.",
            },
            400,
        )
    resource = request.query_params.get("resource", "")
    ends = str(int(time.time() + found.token_seconds))
    return JSONResponse(
        {**_granted(found, resource), "expires_on": ends, "resource": resource, "client_id": found.client_id}
    )


def _granted(principal: Principal, audience: str, claims: str = "") -> Json:
    text, seconds = make_token(principal, audience, claims)
    return {"token_type": "Bearer", "expires_in": int(seconds), "ext_expires_in": int(seconds), "access_token": text}


def _refused(status: int, error: str, number: int, text: str) -> JSONResponse:
    moment = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
    description = f"AADSTS{number}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {moment}"
    ids = {"timestamp": moment, "trace_id": trace, "correlation_id": correlation}
    return JSONResponse({"error": error, "error_description": description, "error_codes": [number], **ids}, status)


def _azure(request: Request) -> Azure:
    azure: Azure = request.app.state.azure
    return azure


routes: list[Route] = [
    Route("/{tenant}/oauth2/v2.0/devicecode", begin_device_code, methods=["POST"]),
    Route("/common/discovery/instance", instance_discovery),
    Route("/{tenant}/v2.0/.well-known/openid-configuration", openid_configuration),
    Route("/{tenant}/oauth2/v2.0/token", token, methods=["POST"]),
    Route("/{tenant}/oauth2/token", token, methods=["POST"]),
]
plain_routes = [
    Route("/identity/token", managed_identity, methods=["GET", "POST"]),
    Route("/identity/obo/{client_id}", managed_identity),
]
