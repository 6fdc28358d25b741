"""Plain HTTP requests to the double, through its proxy, by the standard library: what is asked and answered is exactly what stands here."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.servers.azureml.principals import Principal
from tests.servers.azureml.stage import Stage

ARM = "https://management.azure.com"
VERSION = "?api-version=2024-10-01"  # of resource manager's routes: without one they refuse
SECONDS = 60


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(stage: Stage, method: str, url: str, *, token: str = "", headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Answer:
    """One request on a connection of its own; header names of the answer are lower case. Raises what http.client raises."""
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection("127.0.0.1", stage.port, context=ssl.create_default_context(cafile=str(stage.ca_file)), timeout=SECONDS)
    connection.set_tunnel(parts.hostname or "", 443)
    given = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        connection.request(method, f"{parts.path}{'?' if parts.query else ''}{parts.query}", body=body, headers=given)
        reply = connection.getresponse()
        return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
    finally:
        connection.close()


def sign_in(stage: Stage, principal: Principal, resource: str = ARM, **changed: str) -> Answer:
    """What the token endpoint of the principal's tenant says to its secret; *changed* are other form fields, or another `tenant`."""
    tenant = changed.pop("tenant", principal.tenant)
    form = {"grant_type": "client_credentials", "client_id": principal.client_id, "client_secret": principal.secret, "scope": f"{resource}/.default", **changed}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return ask(stage, "POST", f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token", headers=headers, body=urlencode(form).encode())


def token_for(stage: Stage, principal: Principal, resource: str = ARM) -> str:
    return str(sign_in(stage, principal, resource).json["access_token"])
