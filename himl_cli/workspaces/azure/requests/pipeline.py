"""How himl's requests go out: limits, certificates, proxies and patience, on azure-core and requests.

Importing those two takes 0.13 s of CPU: `rest.py` imports this module when the first request is made.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import requests.adapters
from azure.core.pipeline import Pipeline
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest, HttpResponse

from himl_cli import __version__
from himl_cli.workspaces.azure.requests.patience import Patience
from himl_cli.workspaces.azure.requests.retries import BUSY, FAILING, patiently
from himl_cli.workspaces.azure.requests.trust import ca_bundle, lost_authorities

CONNECT_SECONDS = 10.0
CONNECTIONS = 32  # kept open at most, for threads that share the pipeline


class Transport(RequestsTransport):  # type: ignore[misc]  # azure-core makes the class when it is asked for, untyped
    """requests with himl's patience (`retries.py`); `failing_status` remembers the last answer that stayed busy or
    failing.

    A try ends after 10 s without a connection, and as soon as *patience* says. An answer that comes drop by drop may
    take longer.
    """

    def __init__(self, patience: Patience) -> None:
        """Raises BadUsage where a variable names certificates that do not exist."""
        session = requests.Session()
        session.auth = _as_it_is  # else requests would put what ~/.netrc has for the host in place of our token
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.mount("https://", requests.adapters.HTTPAdapter(pool_connections=8, pool_maxsize=CONNECTIONS))
        self._authorities = ca_bundle()
        super().__init__(
            session=session,
            connection_timeout=CONNECT_SECONDS,
            read_timeout=patience.read,
            connection_verify=self._authorities,
        )
        self.failing_status = 0
        self._patience = patience

    def send(self, request: Any, *, repeatable: bool = True, **options: Any) -> Any:
        """As azure-core has it; a request that is not *repeatable* is not sent twice where it may have been carried
        out.

        Raises ServiceFailed where the file of certificate authorities went away meanwhile: it may be about to be
        replaced.
        """
        try:
            response = patiently(
                partial(super().send, request, **options), request.url, repeatable=repeatable, patience=self._patience
            )
        except OSError as err:  # of requests itself, before anything was sent: azure-core passes it on
            lost = lost_authorities(self._authorities)
            if lost is None:
                raise
            raise lost from err
        if response.status_code in BUSY | FAILING:
            self.failing_status = response.status_code
        return response


def build(patience: Patience) -> Pipeline[HttpRequest, HttpResponse]:
    """A pipeline for any number of threads. Raises BadUsage where a variable names certificates that do not exist."""
    return Pipeline(Transport(patience))


def request_for(
    method: str, url: str, body: Any, token: str | None, more: Mapping[str, str] | None = None
) -> HttpRequest:
    """A request of ours; *body* goes as JSON, *more* are headers beside the usual ones."""
    headers = {
        "User-Agent": f"himl/{__version__}",
        "Accept": "application/json",
        "x-ms-client-request-id": str(uuid.uuid4()),
        **(more or {}),
    }
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if body is None and method != "GET":
        headers["Content-Length"] = "0"
    return (
        HttpRequest(method, url, headers=headers, json=body)
        if body is not None
        else HttpRequest(method, url, headers=headers)
    )


def _as_it_is(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared
