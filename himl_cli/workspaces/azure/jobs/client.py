"""azure-ai-ml's client, with himl's sign-in. Import it after `sdk.load_sdk`: that keeps azure-ai-ml quiet while it is
imported."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from azure.ai.ml import MLClient
from azure.ai.ml.exceptions import MlException
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import HttpTransport

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.sdk import silenced
from himl_cli.workspaces.azure.places.address import WorkspaceAddress
from himl_cli.workspaces.azure.places.clouds import CLOUD_VARIABLE
from himl_cli.workspaces.azure.requests.trust import ca_bundle

TOKEN_SECONDS = 600
"""For how long azure-ai-ml may hold a token of ours before it asks again; himl itself knows when it ends."""


def client_for(connection: Connection, **options: Any) -> MLClient:
    """A client that acts as who is signed in to *connection*, for scripts that go on with azure-ai-ml itself.

    It leaves the variable of the cloud set, which azure-ai-ml reads again for its later requests.
    """
    return _client(_OurTokens(connection), connection.address, connection_verify=ca_bundle(), **options)


class Composed(Exception):
    """A request of azure-ai-ml that was composed, and not sent."""

    def __init__(self, request: Any) -> None:
        super().__init__(f"{request.method} {request.url}")
        self.request = request


def composed(address: WorkspaceAddress, act: Callable[[MLClient], object]) -> Composed:
    """The request that *act* makes azure-ai-ml send; it stays here, and nobody is signed in for it.

    Raises BadUsage where azure-ai-ml finds something wrong with what it is given, RuntimeError where *act* makes no
    request.
    """
    with explained(), silenced(), same_cloud():
        try:
            act(_client(_NoTokens(), address, transport=_Desk()))
        except Composed as request:
            return request
    raise RuntimeError("azure-ai-ml made no request")


@contextmanager
def same_cloud() -> Iterator[None]:
    """azure-ai-ml sets the variable of the cloud for the whole process; here it is set back, for another workspace may
    be in another cloud."""
    before = os.environ.get(CLOUD_VARIABLE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(CLOUD_VARIABLE, None)
        else:
            os.environ[CLOUD_VARIABLE] = before


@contextmanager
def explained() -> Iterator[None]:
    """Within it, what azure-ai-ml finds wrong with a job is raised as BadUsage, in one line."""
    try:
        yield
    except MlException as err:
        raise BadUsage(f"azure-ai-ml does not take the job: {_first_words(str(err))}") from err


def _first_words(text: str) -> str:
    """What is wrong, in one line: azure-ai-ml frames it with headings and advice."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = [line.removeprefix("(x)").strip() for line in lines if line.startswith("(x)")]
    return redact((wrong or lines or ["it does not say why"])[0])


def _client(credential: Any, address: WorkspaceAddress, **options: Any) -> MLClient:
    return MLClient(
        credential,
        address.subscription_id,
        address.resource_group,
        address.name,
        cloud=address.cloud.name,
        enable_telemetry=False,
        show_progress=False,
        **options,
    )


class _OurTokens:
    """himl's tokens in azure-core's form."""

    def __init__(self, connection: Connection) -> None:
        self._tokens = connection.tokens

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """A token for the first of *scopes*, with the claims that a service asked for."""
        text = self._tokens.get(scopes[0])
        if options.get("claims"):
            text = self._tokens.renew(scopes[0], text, options["claims"])
        return AccessToken(text, int(time.time()) + TOKEN_SECONDS)


class _NoTokens:
    """Tokens for requests that are never sent: signed by nobody, good for nothing."""

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """One whose audience is the scope's, which azure-ai-ml looks at."""
        parts = [{"alg": "none"}, {"aud": scopes[0].removesuffix("/.default")}, {}]
        text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
        return AccessToken(text, int(time.time()) + TOKEN_SECONDS)


class _Desk(HttpTransport[Any, Any]):
    """Where requests end that are not to be sent. Who only asks (for the workspace's id, to keep notes under) hears
    that nobody is signed in."""

    def send(self, request: Any, **options: Any) -> Any:
        if request.method == "GET":
            raise ClientAuthenticationError("nobody is asked")
        raise Composed(request)

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass
