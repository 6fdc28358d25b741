"""Continuation tokens, and links to the next page, as the data plane gives them."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import quote, urlencode

from starlette.requests import Request

from tests.servers.azureml.answers import bad_request
from tests.servers.azureml.frame import workspace_of

VERSIONS = {"history": "v1.0", "artifact": "v2.0", "metric": "v2.0"}


def token_after(name: str) -> str:
    """The token of the page that begins behind *name*."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def name_in(token: str) -> str:
    """What `token_after` was given. Raises ServiceError 400 for a token that is none."""
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise bad_request("The continuation token is not valid.") from error


def next_link(request: Request, parameter: str, token: str | None) -> str | None:
    """The address that this request came to, with *token* as *parameter*; None without a token."""
    if token is None:
        return None
    workspace = workspace_of(request)
    service, _, rest = str(request.scope["path"]).lstrip("/").partition("/")
    kept = {name: value for name, value in request.query_params.items() if name.lower() != parameter.lower()}
    query = urlencode({**kept, parameter: token})
    return f"https://{workspace.data_plane_host}/{service}/{VERSIONS[service]}{workspace.path}/{quote(rest)}?{query}"
