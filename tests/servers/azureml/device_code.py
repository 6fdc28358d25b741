"""Sign-in of a person by a code that is typed in on another device. The person types it in half a second after it was shown."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.servers.azureml.principals import make_token
from tests.servers.azureml.state import Azure

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
USER_CODE = "HIML4TEST"
SECONDS_TO_TYPE = 0.5


async def begin(request: Request) -> JSONResponse:
    """A code for the person, and one by which the client asks whether it was typed in."""
    scope = parse_qs((await request.body()).decode())["scope"][0]
    return JSONResponse(
        {
            "user_code": USER_CODE,
            "device_code": json.dumps([request.path_params["tenant"], scope, time.time()]),
            "verification_uri": "https://microsoft.com/devicelogin",
            "expires_in": 900,
            "interval": 1,
            "message": f"To sign in, enter {USER_CODE}.",
        }
    )


def grant(request: Request, form: Mapping[str, str]) -> JSONResponse:
    """The token, once the code was typed in: of the first principal of the tenant, played as a person."""
    tenant, scope, begun = json.loads(form["device_code"])
    if time.time() < begun + SECONDS_TO_TYPE:
        return JSONResponse({"error": "authorization_pending", "error_description": "AADSTS70016: OAuth 2.0 device flow error. Authorization is pending."}, 400)
    azure: Azure = request.app.state.azure
    person = next(one for one in azure.principals.values() if one.tenant == tenant)
    audience = next(one for one in scope.split() if one.startswith("https://")).removesuffix("/.default")
    text, seconds = make_token(person, audience, form.get("claims", ""))
    claims = {
        "iss": f"https://{request.headers['host']}/{tenant}/v2.0",
        "aud": form["client_id"],
        "sub": person.object_id,
        "oid": person.object_id,
        "tid": tenant,
        "preferred_username": "ada@example.org",
        "exp": int(time.time() + seconds),
        "iat": int(time.time()),
    }
    return JSONResponse(
        {
            "token_type": "Bearer",
            "scope": scope,
            "expires_in": int(seconds),
            "access_token": text,
            "refresh_token": f"refresh~{person.object_id}",
            "id_token": f"{_part({'alg': 'none'})}.{_part(claims)}.",
            "client_info": _part({"uid": person.object_id, "utid": tenant}),
        }
    )


def _part(content: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


routes = [Route("/{tenant}/oauth2/v2.0/devicecode", begin, methods=["POST"])]
