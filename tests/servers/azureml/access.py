"""Whose token a request carries, and whether it is good here."""

from __future__ import annotations

import base64
import json
from typing import Any

from starlette.requests import Request

from tests.servers.azureml.answers import ServiceError
from tests.servers.azureml.hosts import CLOUDS
from tests.servers.azureml.principals import Caller, Principal, TokenRefused, read_token
from tests.servers.azureml.state import Azure, Workspace

_OLD_AUDIENCES = ("https://management.core.windows.net", "https://management.core.usgovcloudapi.net", "https://management.core.chinacloudapi.cn")
AUDIENCES = {f"https://{host}" for cloud in CLOUDS.values() for host in (cloud.resource_manager, cloud.studio.removeprefix("studio."))} | set(_OLD_AUDIENCES)


def authorized(request: Request, azure: Azure, resource: str, *, run_tokens: bool) -> Caller:
    """Who calls, by the token in the header. Raises ServiceError 401 with `WWW-Authenticate`."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _unauthorized("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.", resource)
    try:
        claims = read_token(token)
    except TokenRefused as e:
        code = "ExpiredAuthenticationToken" if "expired" in str(e) else "InvalidAuthenticationToken"
        raise _unauthorized(code, str(e), resource) from e
    if claims["iss"] == "azureml":
        if not run_tokens:
            raise _unauthorized("InvalidAuthenticationToken", "The access token is from the wrong issuer 'azureml'.", resource)
        return Caller(None, run_token_scope=claims["scope"])
    principal = azure.principals.get(claims["appid"])
    if principal is None or claims["made"] < principal.revoked_before:
        raise _unauthorized("InvalidAuthenticationToken", "The access token is invalid.", resource)
    if claims["aud"].rstrip("/") not in AUDIENCES:
        raise _unauthorized(
            "InvalidAuthenticationTokenAudience", f"The access token has been obtained for wrong audience or resource '{claims['aud']}'.", resource
        )
    if request.method in principal.claims_wanted_by:
        _check_claims(principal, claims["met"])
    return Caller(principal)


def _check_claims(principal: Principal, met: dict[str, Any]) -> None:
    """Challenge a token without the claims that the service wants of *principal*, as conditional access and enforced second factors do.

    The form is that of https://learn.microsoft.com/entra/identity-platform/claims-challenge: the claims in base64.
    """
    wanted = json.loads(principal.claims_wanted or "{}").get("access_token", {})
    if all(met.get(name) == value for name, value in wanted.items()):
        return
    claims = base64.b64encode(principal.claims_wanted.encode()).decode()
    challenge = (
        'Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", '
        f'error="insufficient_claims", error_description="The token does not meet a policy.", claims="{claims}"'
    )
    message = "Continuous access evaluation resulted in claims challenge with result: InteractionRequired and code: TokenIssuedBeforeRevocationTimestamp"
    raise ServiceError(401, "InvalidAuthenticationToken", message, headers={"WWW-Authenticate": challenge}, gateway=True)


def outside_private_link(*, is_arm: bool) -> ServiceError:
    """What the services say to whoever comes from outside of a workspace's private link.

    The data plane's 401 is quoted in Azure/azure-cli-extensions#6294, resource manager's 502 in MicrosoftDocs/azure-docs#90426.
    """
    if is_arm:
        return ServiceError(502, "BadGateway", "Access to workspace was denied based on workspace private link configuration.")
    reason = "none of the workspaces/registries are accessible from outside of the designated private link."
    return ServiceError(401, "UserError", f"User is not authorized to access provided resources due to {reason}")


def check_tenant(workspace: Workspace, caller: Caller) -> None:
    if caller.principal is None:
        if caller.run_token_scope.lower() != workspace.path.lower():
            raise ServiceError(403, "UserError", "The run token is for another workspace.", inner="AuthorizationError")
    elif caller.principal.tenant != workspace.tenant:
        message = (
            f"The access token is from the wrong issuer 'https://sts.windows.net/{caller.principal.tenant}/'. "
            f"It must match the tenant 'https://sts.windows.net/{workspace.tenant}/' associated with this subscription."
        )
        raise _unauthorized("InvalidAuthenticationTokenTenant", message, "https://management.azure.com/")


def _unauthorized(code: str, message: str, resource: str) -> ServiceError:
    challenge = f'Bearer authorization_uri="https://login.microsoftonline.com/", error="invalid_token", error_description="{message}", resource_id="{resource}"'
    return ServiceError(401, code, message, headers={"WWW-Authenticate": challenge}, gateway=True)
