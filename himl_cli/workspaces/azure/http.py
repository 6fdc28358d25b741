"""Requests to Azure's control plane and the workspace's services, through azure-core with himl's limits, certificates
and retries. They send and return JSON and raise himl's errors, and several may run at once.

Importing azure-core and requests takes 0.13 s of CPU, so it happens at the first request.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from http.cookiejar import DefaultCookiePolicy
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

from himl_cli import __version__
from himl_cli.core.errors import ServiceFailed, WorkspaceNotFound
from himl_cli.core.installation import ca_bundle, ca_source
from himl_cli.core.processes import register_after_fork
from himl_cli.core.redaction import parts_of, redact
from himl_cli.core.text import NotJson, read_json, read_valid_json
from himl_cli.workspaces.azure.config import WorkspaceAddress
from himl_cli.workspaces.azure.responses import Response, object_of, pages
from himl_cli.workspaces.azure.service_errors import (
    ServiceNotFound,
    claims_of,
    is_disconnect,
    is_permanent,
    is_unknown_host,
    network_error,
    refusal,
    says_closed,
)
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState, attempts_after
from himl_cli.workspaces.transfer_engine.responses import retry_after

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
# Concurrent requests: enough to hide the latency, few enough not to be throttled.
AT_ONCE = 8
# Concurrent requests for thousands of small responses, and the number of connections that stay open.
MANY_AT_ONCE = 32
IMPORT_LOCK = threading.Lock()

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def open_transport(policy: RetryPolicy) -> Any:
    """azure-core's transport through requests, with himl's limits and retries. Its `failing_status` is that of the last
    response that still reported overload or failure.

    An attempt ends after 10 s without a connection, and after the policy's `read_timeout` without a byte.
    """
    import requests
    import requests.adapters
    from azure.core.exceptions import AzureError, ServiceRequestError
    from azure.core.pipeline.transport import RequestsTransport

    slow: set[str] = set()

    class Transport(RequestsTransport):  # type: ignore[misc]  # untyped, created on demand
        failing_status = 0

        def send(self, request: Any, **options: Any) -> Any:
            """The response of azure-core's transport, with retries after a missing or broken connection, 408, 429 and
            5xx, but not for a closed network.

            A host that took longer than one attempt may, and failed, has the time of one attempt from then on, until it
            answers: otherwise a command for many runs would take minutes for each.

            Returns the last response, or raises azure-core's last error. Raises ServiceFailed if the file of
            certificate authorities is missing, because it may be about to be replaced.
            """
            parts = urlsplit(request.url)
            host, service = parts.hostname or "", parts.path[1:].partition("/")[0]
            state = RetryState(replace(policy, total=policy.read_timeout) if host in slow else policy)
            for failures in count(1):
                error: AzureError | None = None
                try:
                    response = super().send(request, **options)
                    failure = _failure_of_answer(response, host, service)
                except AzureError as err:
                    error = err
                    failure = Failure(
                        ServiceFailed(str(err)),
                        may_pass=not is_permanent(err),
                        is_unconnected=isinstance(err, ServiceRequestError) and not is_disconnect(err),
                        message=f"{host} did not answer",
                    )
                except OSError as err:  # from requests itself before it sent anything; azure-core does not wrap it
                    if Path(authorities).exists():
                        raise
                    raise ServiceFailed(
                        f"The file of certificate authorities '{authorities}' ({ca_source()}) no longer exists.",
                        hint="Restore the file, or correct the variable.",
                    ) from err
                pause = None if failure is None else state.pause(failures, failure)
                if pause is None:
                    break
                self.sleep(pause)
            if failure is None:
                slow.discard(host)
            elif time.monotonic() > state.started + policy.read_timeout:
                slow.add(host)
            if error is not None:
                raise error
            if attempts_after(service, response.status_code):
                self.failing_status = response.status_code
            return response

    session, authorities = requests.Session(), ca_bundle()
    session.auth = lambda prepared: prepared  # otherwise requests replaces himl's token by credentials of ~/.netrc
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.mount("https://", requests.adapters.HTTPAdapter(pool_connections=8, pool_maxsize=MANY_AT_ONCE))
    return Transport(
        session=session,
        connection_timeout=CONNECT_SECONDS,
        read_timeout=policy.read_timeout,
        connection_verify=authorities,
    )


def _failure_of_answer(response: Any, host: str, service: str) -> Failure | None:
    status = response.status_code
    most = attempts_after(service, status)
    if not most:
        return None
    # The body of either of azure-core's two kinds of responses.
    content = response.content if hasattr(response, "content") else response.body()
    return Failure(
        ServiceFailed(f"{host} answered {status}."),
        may_pass=not says_closed(bytes(content).decode("utf-8", "replace")),
        retry_after=retry_after(response.headers.get),
        max_attempts=most,
        message=f"{host} {'is busy' if status in (429, 503) else 'failed'} ({status})",
    )


def load_azure_core() -> None:
    """Import azure-core's parts for requests, and silence the vendor's loggers below CRITICAL, unless the user set a
    level for them.

    One thread at a time, because azure-core's modules import each other, and two threads that start at different ends
    could see an incomplete one. azure-identity warns of every credential that does not apply, azure-core logs a line
    per request, and msal its cache. himl's own errors cover what they log.
    """
    with IMPORT_LOCK:
        from azure.core.pipeline.transport import RequestsTransport  # noqa: F401
    for name in ("azure.core", "azure.identity", "msal", "urllib3.connectionpool"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)


class TokenSource(Protocol):
    def get(self, scope: str) -> str:
        """A token for *scope*."""

    def renew(self, scope: str, rejected: str, claims: str = "") -> str:
        """After a 401, a token other than *rejected*, with the *claims* that the service requested."""

    def credential_for(self, scope: str) -> str:
        """The name in messages of the credential whose token is in use."""


class HttpClient:
    """Sends requests with the right token, from any number of threads. Each response also goes to the `observers`.

    The transport retries requests. A 401 leads to one retry with a new token and the claims that the response requests.
    Redirects are not followed, so that no token reaches a host for which it was not issued.

    Every call raises ServiceNotFound for 404 (WorkspaceNotFound for a missing subscription, group or workspace),
    NotAllowed for 401 and 403, and ServiceFailed for any other failure.
    """

    def __init__(
        self,
        tokens: TokenSource,
        address: WorkspaceAddress,
        scope_of: Callable[[str], str | None],
        lost: Callable[[], None],
        policy: RetryPolicy,
    ) -> None:
        """*scope_of* returns the scope of a URL's token, or None for no token, and raises for a host that must not get
        himl's token.

        *lost* is called if the workspace, or a host of its services, no longer exists, but not for a network failure.
        *policy* decides on retries.
        """
        self._tokens, self._address, self._policy = tokens, address, policy
        self._scope_of, self._lost = scope_of, lost
        self._transport: Any = None
        self.observers: list[Callable[[Response], object]] = []
        self._lock = threading.Lock()
        register_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        if self._transport is not None:
            self._closer.detach()
            self._transport = None

    def get(self, url: str, *, params: Mapping[str, str] | None = None) -> Any:
        return self.send("GET", url, params=params).body

    def get_object(self, url: str, what: str, *, params: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        """As `get`, for a response that must be a JSON object. Also raises ServiceFailed if it is none, and so contains
        no *what*."""
        return object_of(self.get(url, params=params), url, what)

    def find_object(self, url: str, what: str, *, params: Mapping[str, str] | None = None) -> Mapping[str, Any] | None:
        """As `get_object`, or None for a missing resource."""
        try:
            return self.get_object(url, what, params=params)
        except ServiceNotFound:
            return None

    def resources(self, url: str, what: str, params: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        """The resources in resource manager's list of *what* at *url*. Requests each page when it is needed. A page on
        another host gets no token."""
        for page in pages(lambda _: self.get(url, params=params), url, what, follow=self.get):
            yield from page.items

    def post(self, url: str, *, json: Any = None) -> Any:
        return self.send("POST", url, json=json).body

    def post_object(
        self, url: str, what: str, *, params: Mapping[str, str] | None = None, json: Any = None
    ) -> Mapping[str, Any]:
        return object_of(self.send("POST", url, params=params, json=json).body, url, what)

    def patch(self, url: str, *, json: Any) -> Any:
        return self.send("PATCH", url, json=json).body

    def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Any request, for callers that need the status or headers (202 with a `Location`), or send their own *headers*
        or a fixed *token*. It may be sent more than once."""
        full = f"{url}{'&' if '?' in url else '?'}{urlencode(params, quote_via=quote)}" if params else url
        scope = self._scope_of(full)
        used = token or (self._tokens.get(scope) if scope else None)
        answer = self._run(method, full, json, used, headers)
        if answer.status_code == 401 and scope and used and not token:
            text = answer.text()
            # The service would reject a new token, too, because it is of the same wrong tenant.
            if "InvalidAuthenticationTokenTenant" not in text and not says_closed(text):
                used = self._tokens.renew(scope, used, claims_of(answer.headers))
                answer = self._run(method, full, json, used, headers)
        found = _response(method, full, answer)
        for observe in self.observers:
            observe(found)
        if found.status >= 400:
            error = refusal(found, self._address, self._tokens.credential_for(scope) if scope else "no sign-in")
            if isinstance(error, WorkspaceNotFound):
                self._lost()
            raise error
        return found

    def close(self) -> None:
        with self._lock:
            if self._transport is not None:
                self._closer()
                self._transport = None

    def _run(self, method: str, url: str, body: Any, token: str | None, more: Mapping[str, str] | None) -> Any:
        load_azure_core()
        from azure.core.exceptions import AzureError
        from azure.core.rest import HttpRequest

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
        request = HttpRequest(method, url, headers=headers, **({} if body is None else {"json": body}))
        began = time.perf_counter()
        with self._lock:
            if self._transport is None:
                self._transport = open_transport(self._policy)
                self._closer = weakref.finalize(self, self._transport.close)
            transport = self._transport
        try:
            answer = transport.send(request)
        except AzureError as err:
            resource_manager = urlsplit(self._address.cloud.resource_manager).hostname
            if is_unknown_host(err) and urlsplit(url).hostname != resource_manager:
                self._lost()
            raise network_error(err, url) from err
        log.debug("%s %s -> %d in %.3f s", method, redact(url), answer.status_code, time.perf_counter() - began)
        return answer


def _response(method: str, url: str, answer: Any) -> Response:
    status, headers = answer.status_code, {name.lower(): value for name, value in answer.headers.items()}
    host, hint = urlsplit(url).hostname, "Check for a proxy or a sign-in page of this network."
    body: Any = None
    if 300 <= status < 400:
        target = parts_of(headers.get("location", "")).hostname or "nowhere"
        raise ServiceFailed(f"{host} redirects to {target}. himl does not send its token there.", hint=hint)
    try:
        if status >= 400:
            body = read_json(answer.content)
        elif answer.content.strip():
            body = read_valid_json(answer.content)
    except NotJson as err:
        if status < 300:
            kind = headers.get("content-type", "something").partition(";")[0]
            why = "" if err.line else f": {err}"
            raise ServiceFailed(f"{host} answered with {kind} that is not JSON{why}.", hint=hint) from err
        body = answer.content.decode("utf-8", "replace")
    return Response(method, url.partition("?")[0], status, headers, body)


def ask_all(ask: Callable[[Item], Answer], items: Sequence[Item], *, at_once: int = AT_ONCE) -> list[Answer]:
    """The results of *ask* for each of the *items*, in their order, from *at_once* threads. Raises the first error, and
    drops the items that have not started.

    It waits for those in progress, except after an interruption, where a stalled service would delay the user for
    minutes.
    """
    if len(items) < 2:
        return [ask(item) for item in items]
    waiting = deque(range(len(items)))
    outcomes: list[SimpleQueue[tuple[Answer | None, BaseException | None]]] = [SimpleQueue() for _ in items]

    def work() -> None:
        with suppress(IndexError):  # no items remain
            while True:
                number = waiting.popleft()
                try:
                    outcomes[number].put((ask(items[number]), None))
                except BaseException as err:  # noqa: BLE001  # raised in the waiting thread
                    outcomes[number].put((None, err))

    # Daemons, because the interpreter waits for an executor's threads, however it ends.
    threads = [threading.Thread(target=work, name="himl-ask", daemon=True) for _ in range(min(at_once, len(items)))]
    for thread in threads:
        thread.start()
    answers: list[Answer] = []
    try:
        for outcome in outcomes:
            answer, error = outcome.get()
            if error is not None:
                raise error
            answers.append(cast("Answer", answer))
    except KeyboardInterrupt:
        threads.clear()
        raise
    finally:
        waiting.clear()
        for thread in threads:
            thread.join()
    return answers
