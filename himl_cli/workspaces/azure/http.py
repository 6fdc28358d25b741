"""Requests to Azure's control plane and to the workspace's own services: JSON in, JSON out, himl's errors."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

from himl_cli.core.errors import ServiceFailed, WorkspaceNotFound
from himl_cli.core.processes import register_after_fork
from himl_cli.core.redaction import parts_of, redact
from himl_cli.core.text import NotJson, read_json, read_valid_json
from himl_cli.workspaces.azure.address import WorkspaceAddress
from himl_cli.workspaces.azure.responses import object_of
from himl_cli.workspaces.azure.service_errors import ErrorResponse, claims_of, refusal, says_closed
from himl_cli.workspaces.azure.tokens import Tokens
from himl_cli.workspaces.retry import RetryPolicy

log = logging.getLogger(__name__)

OTHER_TENANT = "InvalidAuthenticationTokenTenant"  # a new token of the same tenant would be refused too


@dataclass(frozen=True)
class Response:
    """An answer below 400; `headers` have lower-case names, `body` is the JSON value or None where there was none."""

    status: int
    headers: Mapping[str, str]
    body: Any = field(repr=False)  # may be a secret


class HttpClient:
    """Sends requests with the right token, from any number of threads.

    Requests are tried again by `Transport`. A 401 gets one more try with a new token, with the claims that the
    answer asked for (`challenge.py`). Redirects are not followed, so
    that a token never goes to a host that it was not made for.

    Every call raises ServiceNotFound for 404 (WorkspaceNotFound where subscription, group or workspace are missing),
    NotAllowed for 401 and 403, and ServiceFailed for all else that is no success.
    """

    def __init__(
        self,
        tokens: Tokens,
        address: WorkspaceAddress,
        scope_of: Callable[[str], str | None],
        lost: Callable[[], None],
        policy: RetryPolicy,
    ) -> None:
        """*scope_of* says for which scope a URL's token is, None for no token; it raises for a host that gets none of
        ours.

        *lost* is called where the workspace, or a host of its services, is not there any more (a network that is down
        is no sign of that). *policy* says when requests are tried again.
        """
        self._tokens = tokens
        self._address = address
        self._scope_of = scope_of
        self._lost = lost
        self._policy = policy
        self._pipeline: Any = None
        self._lock = threading.Lock()
        register_after_fork(self)

    def after_fork(self) -> None:
        """In a forked process: the parent's connections are left to the parent."""
        self._lock = threading.Lock()
        if self._pipeline is not None:
            self._closer.detach()
            self._pipeline = None

    def get(self, url: str, *, params: Mapping[str, str] | None = None, token: str | None = None) -> Any:
        """The JSON at *url*; with *token* in place of the one that is held."""
        return self.send("GET", url, params=params, token=token).body

    def get_object(
        self, url: str, what: str, *, params: Mapping[str, str] | None = None, token: str | None = None
    ) -> Mapping[str, Any]:
        """As `get`, for an answer that has to be a JSON object. Raises ServiceFailed, too, where it is none: it holds
        no *what*."""
        return object_of(self.get(url, params=params, token=token), url, what)

    def post_object(
        self, url: str, what: str, *, params: Mapping[str, str] | None = None, json: Any = None
    ) -> Mapping[str, Any]:
        """As `post`, for an answer that has to be a JSON object, as `get_object` has it."""
        return object_of(self.post(url, params=params, json=json), url, what)

    def post(
        self, url: str, *, params: Mapping[str, str] | None = None, json: Any = None, repeatable: bool = True
    ) -> Any:
        """Post *json* and give the answer. What makes something new at each call must say that it is not
        *repeatable*."""
        return self.send("POST", url, params=params, json=json, repeatable=repeatable).body

    def patch(self, url: str, *, params: Mapping[str, str] | None = None, json: Any = None) -> Any:
        """Change what is at *url*; must be one that may be repeated."""
        return self.send("PATCH", url, params=params, json=json).body

    def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        repeatable: bool = True,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Any request, for callers that need the status or the headers (202 with a `Location`), or send *headers* of
        their own."""
        full = f"{url}{'&' if '?' in url else '?'}{urlencode(params, quote_via=quote)}" if params else url
        scope = self._scope_of(full)
        used = token or (self._tokens.get(scope) if scope else None)
        response = self._run(method, full, json, used, repeatable, headers)
        if response.status_code == 401 and scope and used and not token:
            text = response.text()
            if OTHER_TENANT not in text and not says_closed(text):
                used = self._tokens.renew(scope, used, claims_of(response.headers))
                response = self._run(method, full, json, used, repeatable, headers)
        return self._checked(method, full, scope, response)

    def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        with self._lock:
            if self._pipeline is not None:
                self._closer()
                self._pipeline = None

    def _run(
        self, method: str, url: str, body: Any, token: str | None, repeatable: bool, headers: Mapping[str, str] | None
    ) -> Any:
        from azure.core.exceptions import AzureError

        from himl_cli.workspaces.azure.service_errors import is_unknown_host, network_error
        from himl_cli.workspaces.azure.transport import build_request

        began = perf_counter()
        try:
            response = (
                self._opened()
                .run(build_request(method, url, body, token, headers), repeatable=repeatable)
                .http_response
            )
        except AzureError as err:
            if (
                is_unknown_host(err)
                and urlsplit(url).hostname != urlsplit(self._address.cloud.resource_manager).hostname
            ):
                self._lost()
            raise network_error(err, url) from err
        log.debug("%s %s -> %d in %.3f s", method, redact(url), response.status_code, perf_counter() - began)
        return response

    def _opened(self) -> Any:
        with self._lock:
            if self._pipeline is None:
                from azure.core.pipeline import Pipeline

                from himl_cli.workspaces.azure.transport import Transport

                silence_libraries()
                self._pipeline = Pipeline(Transport(self._policy))
                self._closer = weakref.finalize(self, self._pipeline.__exit__)
            return self._pipeline

    def _checked(self, method: str, url: str, scope: str | None, response: Any) -> Response:
        status, headers = response.status_code, {name.lower(): value for name, value in response.headers.items()}
        content, plain = response.content, url.partition("?")[0]
        if status >= 400:
            try:
                body = read_json(content)
            except NotJson:
                body = content.decode("utf-8", "replace")
            failure = ErrorResponse(method, plain, status, headers, body)
            error = refusal(failure, self._address, self._tokens.credential_for(scope) if scope else "no sign-in")
            if isinstance(error, WorkspaceNotFound):
                self._lost()
            raise error
        host, hint = urlsplit(url).hostname, "A proxy or a sign-in page of this network may be in between."
        if status >= 300:
            target = parts_of(headers.get("location", "")).hostname or "nowhere"
            raise ServiceFailed(f"{host} sends us to {target}, which himl does not follow with its sign-in.", hint=hint)
        try:
            return Response(status, headers, read_valid_json(content) if content.strip() else None)
        except NotJson as err:
            kind = headers.get("content-type", "something").partition(";")[0]
            why = "" if err.line else f": {err}"
            raise ServiceFailed(f"{host} answered with {kind} that is no JSON{why}.", hint=hint) from err


def silence_libraries() -> None:
    """Let the vendor's loggers pass nothing below CRITICAL, unless somebody set a level for them on purpose.

    azure-identity warns of every credential that does not apply, azure-core logs a line a request, msal its cache: what
    they would log is told by our own errors.
    """
    for name in ("azure.core", "azure.identity", "msal", "urllib3.connectionpool"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)


AT_ONCE = 8
"""Requests under way at once: enough to hide the way to the service, few enough not to be throttled."""
MANY_AT_ONCE = 32
"""Where thousands of small answers are read; as many connections are kept open (`pipeline.CONNECTIONS`)."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def ask_all(ask: Callable[[Item], Answer], items: Sequence[Item], *, at_once: int = AT_ONCE) -> list[Answer]:
    """What *ask* says to each of the *items*, in their order, by *at_once* threads; the first error is raised, and what
    was not begun is dropped.

    What is under way then is waited for, except by somebody who interrupts: a service that stalls would hold him up for
    minutes.
    """
    if len(items) < 2:
        return [ask(item) for item in items]
    waiting: SimpleQueue[int] = SimpleQueue()
    outcomes: list[SimpleQueue[tuple[Answer | None, BaseException | None]]] = [SimpleQueue() for _ in items]
    for number in range(len(items)):
        waiting.put(number)

    def work() -> None:
        with suppress(Empty):
            while True:
                number = waiting.get_nowait()
                try:
                    outcomes[number].put((ask(items[number]), None))
                except BaseException as err:  # noqa: BLE001  # raised by whoever waits for it
                    outcomes[number].put((None, err))

    # daemons, for the interpreter waits for the threads of an executor, however it ends
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
    except BaseException as err:
        with suppress(Empty):
            while True:
                waiting.get_nowait()
        if isinstance(err, KeyboardInterrupt):
            raise
        for thread in threads:
            thread.join()
        raise
    for thread in threads:
        thread.join()
    return answers
