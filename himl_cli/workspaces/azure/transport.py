"""Sends requests to Azure's control plane with himl's limits, certificates, proxies and retries, by azure-core.

Importing azure-core and requests takes 0.13 s of CPU: other modules import this one when the first request is made.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
from azure.core.exceptions import AzureError, ServiceRequestError
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest

from himl_cli import __version__
from himl_cli.core.errors import ServiceFailed
from himl_cli.workspaces.azure.responses import retry_after
from himl_cli.workspaces.azure.service_errors import is_disconnect, is_permanent, says_closed
from himl_cli.workspaces.azure.tls import ca_bundle, check_authorities
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState

CONNECT_SECONDS = 10.0
CONNECTIONS = 32  # kept open at most, for threads that share the pipeline
BUSY, FAILING = {429, 503}, {408, 500, 502, 504}  # surely not carried out; perhaps carried out


class Transport(RequestsTransport):  # type: ignore[misc]  # azure-core makes the class when it is asked for, untyped
    """requests with himl's retries; `failing_status` is that of the last answer that stayed busy or failing.

    An attempt ends after 10 s without a connection, and after the policy's `read_timeout` without a byte.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        session = requests.Session()
        session.auth = lambda prepared: prepared  # else requests would replace our token by what ~/.netrc has
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.mount("https://", requests.adapters.HTTPAdapter(pool_connections=8, pool_maxsize=CONNECTIONS))
        self._authorities = ca_bundle()
        super().__init__(
            session=session,
            connection_timeout=CONNECT_SECONDS,
            read_timeout=policy.read_timeout,
            connection_verify=self._authorities,
        )
        self.failing_status = 0
        self._policy = policy

    def send(self, request: Any, *, repeatable: bool = True, **options: Any) -> Any:
        """The answer of azure-core's transport, sent again for what may pass: no or a broken connection, 408, 429, 5xx.

        What is not *repeatable* is sent again only where it was surely not carried out; nothing is where the network is
        closed to us. Gives the last answer, or raises the last of azure-core's errors; ServiceFailed where the file of
        certificate authorities is gone: it may be about to be replaced.
        """
        state, host = RetryState(self._policy), urlsplit(request.url).hostname or ""
        for failures in count(1):
            error: AzureError | None = None
            try:
                response = super().send(request, **options)
                failure = _failure_of_answer(response, host, repeatable)
            except AzureError as err:
                error = err
                never_sent = isinstance(err, ServiceRequestError) and not is_disconnect(err)
                may_pass = (never_sent or repeatable) and not is_permanent(err)
                text = f"{host} did not answer"
                failure = Failure(ServiceFailed(str(err)), "", may_pass, is_unconnected=never_sent, message=text)
            except OSError as err:  # of requests itself, before anything was sent: azure-core passes it on
                check_authorities(self._authorities, err)
                raise
            pause = None if failure is None else state.pause(failures, failure)
            if pause is None:
                break
            self.sleep(pause)
        if error is not None:
            raise error
        if response.status_code in BUSY | FAILING:
            self.failing_status = response.status_code
        return response


def _failure_of_answer(response: Any, host: str, repeatable: bool) -> Failure | None:
    status, wait = response.status_code, retry_after(response.headers.get)
    if status not in BUSY | FAILING:
        return None
    # The body, of either of azure-core's two kinds of answers
    content = response.content if hasattr(response, "content") else response.body()
    was_not_carried_out = status == 429 or (status == 503 and wait is not None)
    return Failure(
        ServiceFailed(f"{host} answered {status}."),
        may_pass=(repeatable or was_not_carried_out) and not says_closed(bytes(content).decode("utf-8", "replace")),
        retry_after=wait,
        message=f"{host} {'is busy' if status in BUSY else 'failed'} ({status})",
    )


def build_request(
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
    return HttpRequest(method, url, headers=headers, **({} if body is None else {"json": body}))


def silence_libraries() -> None:
    """Let the vendor's loggers pass nothing below CRITICAL, unless somebody set a level for them on purpose.

    azure-identity warns of every credential that does not apply, azure-core logs a line a request, msal its cache: what
    they would log is told by our own errors.
    """
    for name in ("azure.core", "azure.identity", "msal", "urllib3.connectionpool"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
