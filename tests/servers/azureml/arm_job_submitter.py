"""In whose name a job runs that is to have its submitter's identity."""

from __future__ import annotations

from starlette.requests import Request

from tests.servers.azureml.answers import bad_request
from tests.servers.azureml.frame import azure_of, caller_of
from tests.servers.azureml.principals import Principal, TokenRefused, read_token
from tests.servers.azureml.state import Json

AUDIENCE = "https://ml.azure.com"
HEADER = "x-azureml-token"


def submitter_of(request: Request, identity: Json | None) -> Principal | None:
    """Who sends the job. For the submitter's identity a token of its own has to come with it (wire document 1). Raises ServiceError 400 where it does not."""
    if (identity or {}).get("identityType") != "UserIdentity":
        return caller_of(request).principal
    try:
        claims = read_token(request.headers.get(HEADER, ""))
    except TokenRefused as e:
        raise bad_request(f"The job is to run with its submitter's identity, and its header {HEADER} has no good token: {e}") from e
    if claims["aud"].rstrip("/") != AUDIENCE:
        raise bad_request(f"The token in {HEADER} is for '{claims['aud']}', not for '{AUDIENCE}'.")
    return azure_of(request).principals.get(claims["appid"])
