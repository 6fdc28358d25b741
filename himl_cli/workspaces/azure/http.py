"""Requests to Azure's control plane and to the workspace's own services: JSON in, JSON out, himl's errors.

The access tokens that they carry come from memory, else from what himl keeps, else from the credentials.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

from himl_cli.core.errors import HimlError, ServiceFailed, WorkspaceNotFound
from himl_cli.core.processes import register_after_fork
from himl_cli.core.redaction import parts_of, redact
from himl_cli.core.text import NotJson, read_json, read_valid_json
from himl_cli.workspaces.azure.address import WorkspaceAddress
from himl_cli.workspaces.azure.cache import DiskCache
from himl_cli.workspaces.azure.credentials import Chain, Token
from himl_cli.workspaces.azure.responses import Response, object_of
from himl_cli.workspaces.azure.service_errors import (
    ServiceNotFound,
    claims_of,
    is_unknown_host,
    network_error,
    refusal,
    says_closed,
)
from himl_cli.workspaces.retry import RetryPolicy

log = logging.getLogger(__name__)

TOKENS = "tokens"  # in the cache


class Tokens:
    """One per connection. Threads share it: a token is fetched once, and the others wait for it."""

    def __init__(self, issuer: Chain, kept: DiskCache) -> None:
        self._issuer, self._kept = issuer, kept
        self._held: dict[str, Token] = {}
        self._lock = threading.RLock()
        register_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.RLock()

    def get(self, scope: str) -> str:
        """A token for *scope*, good for five minutes at least where the service gives such.

        Raises NotAllowed naming the credentials that were tried, ServiceFailed where the place of sign-in is out of
        reach.
        """
        return self._token(scope).text

    def renew(self, scope: str, rejected: str, claims: str = "") -> str:
        """After a 401: get another token than the *rejected* one (unless another thread just did), with the *claims*
        that the service asked for.

        The rejected one is forgotten; but where claims are wanted that nobody can give, it stays: it may be good for
        reading.
        """
        with self._lock:
            held = self._held.get(scope)
            if held is not None and held.text != rejected:
                return held.text
            log.debug("a token for %s was rejected; getting another", scope)
            if not claims:
                self._held.pop(scope, None)
                self._kept.forget(TOKENS, self._key(scope))
            return self._fetched(scope, anew=True, claims=claims).text

    def credential_for(self, scope: str) -> str:
        """What messages call the credential whose token is in use."""
        held = self._held.get(scope)
        return held.credential if held is not None else "this sign-in"

    def sign_in(self, scope: str) -> Token:
        """A token for *scope* got anew, past what is kept (unless that asked a person). Raises as `get` does."""
        with self._lock:
            held = self._held.get(scope) or self._held_before(scope)
            if held is not None and self._issuer.is_for_once(held.credential):
                return self._token(scope)
            return self._fetched(scope, anew=scope in self._held)

    def _token(self, scope: str) -> Token:
        with self._lock:
            held = self._held.get(scope)
            if held is None or time.time() >= held.renew_at:
                held = self._held_before(scope) or held  # another process may have signed in meanwhile
            if held is not None and time.time() < held.renew_at:
                self._held[scope] = held
                return held
            try:
                return self._fetched(scope, anew=held is not None)
            except HimlError as err:
                if held is None or not held.lasts():
                    raise
                left = held.expires - time.time()
                log.warning("the sign-in could not be renewed (%s); it is good for %d s more", err, left)
                return held

    def _fetched(self, scope: str, *, anew: bool, claims: str = "") -> Token:
        token = self._issuer.fetch(scope, anew=anew, claims=claims)
        log.debug("signed in by %s for %s", token.credential, scope)
        self._held[scope] = token
        value = {"token": token.text, "expires": token.expires, "credential": token.credential}
        self._kept.put(TOKENS, self._key(scope), value, seconds=token.renew_at - time.time())
        return token

    def _held_before(self, scope: str) -> Token | None:
        value = self._kept.get(TOKENS, self._key(scope)) or {}
        try:
            return Token(str(value["token"]), float(value["expires"]), str(value["credential"]))
        except (KeyError, OverflowError, TypeError, ValueError):
            return None

    def _key(self, scope: str) -> str:
        return f"{self._issuer.identity} {scope}"


class HttpClient:
    """Sends requests with the right token, from any number of threads.

    Requests are tried again by `Transport`. A 401 gets one more try with a new token, with the claims that the answer
    asked for. Redirects are not followed, so that a token never goes to a host that it was not made for.

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
        self._tokens, self._address, self._policy = tokens, address, policy
        self._scope_of, self._lost = scope_of, lost
        self._pipeline: Any = None
        self._lock = threading.Lock()
        register_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        if self._pipeline is not None:
            self._closer.detach()
            self._pipeline = None

    def get(self, url: str, *, params: Mapping[str, str] | None = None, token: str | None = None) -> Any:
        return self.send("GET", url, params=params, token=token).body

    def get_object(
        self, url: str, what: str, *, params: Mapping[str, str] | None = None, token: str | None = None
    ) -> Mapping[str, Any]:
        """As `get`, for an answer that has to be a JSON object. Raises ServiceFailed, too, where it is none: it holds
        no *what*."""
        return object_of(self.get(url, params=params, token=token), url, what)

    def find_object(self, url: str, what: str, *, params: Mapping[str, str] | None = None) -> Mapping[str, Any] | None:
        """As `get_object`; None where there is nothing."""
        try:
            return self.get_object(url, what, params=params)
        except ServiceNotFound:
            return None

    def post(
        self, url: str, *, params: Mapping[str, str] | None = None, json: Any = None, repeatable: bool = True
    ) -> Any:
        """Post *json* and give the answer. What makes something new at each call must say that it is not
        *repeatable*."""
        return self.send("POST", url, params=params, json=json, repeatable=repeatable).body

    def post_object(
        self, url: str, what: str, *, params: Mapping[str, str] | None = None, json: Any = None
    ) -> Mapping[str, Any]:
        return object_of(self.post(url, params=params, json=json), url, what)

    def patch(self, url: str, *, json: Any) -> Any:
        """Change what is at *url*; must be one that may be repeated."""
        return self.send("PATCH", url, json=json).body

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
        answer = self._run(method, full, json, used, repeatable, headers)
        if answer.status_code == 401 and scope and used and not token:
            text = answer.text()
            # by another tenant, a new token would be refused too
            if "InvalidAuthenticationTokenTenant" not in text and not says_closed(text):
                used = self._tokens.renew(scope, used, claims_of(answer.headers))
                answer = self._run(method, full, json, used, repeatable, headers)
        found = _response(method, full, answer)
        if found.status >= 400:
            error = refusal(found, self._address, self._tokens.credential_for(scope) if scope else "no sign-in")
            if isinstance(error, WorkspaceNotFound):
                self._lost()
            raise error
        return found

    def close(self) -> None:
        with self._lock:
            if self._pipeline is not None:
                self._closer()
                self._pipeline = None

    def _run(
        self, method: str, url: str, body: Any, token: str | None, repeatable: bool, headers: Mapping[str, str] | None
    ) -> Any:
        from azure.core.exceptions import AzureError
        from azure.core.pipeline import Pipeline

        from himl_cli.workspaces.azure.transport import Transport, build_request, silence_libraries

        began = time.perf_counter()
        with self._lock:
            if self._pipeline is None:
                silence_libraries()
                self._pipeline = Pipeline(Transport(self._policy))
                self._closer = weakref.finalize(self, self._pipeline.__exit__)
            pipeline = self._pipeline
        try:
            answer = pipeline.run(build_request(method, url, body, token, headers), repeatable=repeatable).http_response
        except AzureError as err:
            resource_manager = urlsplit(self._address.cloud.resource_manager).hostname
            if is_unknown_host(err) and urlsplit(url).hostname != resource_manager:
                self._lost()
            raise network_error(err, url) from err
        log.debug("%s %s -> %d in %.3f s", method, redact(url), answer.status_code, time.perf_counter() - began)
        return answer


def _response(method: str, url: str, answer: Any) -> Response:
    status, headers = answer.status_code, {name.lower(): value for name, value in answer.headers.items()}
    host, hint = urlsplit(url).hostname, "A proxy or a sign-in page of this network may be in between."
    body: Any = None
    if 300 <= status < 400:
        target = parts_of(headers.get("location", "")).hostname or "nowhere"
        raise ServiceFailed(f"{host} sends us to {target}, which himl does not follow with its sign-in.", hint=hint)
    try:
        if status >= 400:
            body = read_json(answer.content)
        elif answer.content.strip():
            body = read_valid_json(answer.content)
    except NotJson as err:
        if status < 300:
            kind = headers.get("content-type", "something").partition(";")[0]
            why = "" if err.line else f": {err}"
            raise ServiceFailed(f"{host} answered with {kind} that is no JSON{why}.", hint=hint) from err
        body = answer.content.decode("utf-8", "replace")
    return Response(method, url.partition("?")[0], status, headers, body)


# Requests under way at once: enough to hide the way to the service, few enough not to be throttled.
AT_ONCE = 8
# Where thousands of small answers are read; as many connections are kept open (`transport.CONNECTIONS`).
MANY_AT_ONCE = 32

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
    waiting = deque(range(len(items)))
    outcomes: list[SimpleQueue[tuple[Answer | None, BaseException | None]]] = [SimpleQueue() for _ in items]

    def work() -> None:
        with suppress(IndexError):  # none is left
            while True:
                number = waiting.popleft()
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
    except KeyboardInterrupt:
        threads.clear()
        raise
    finally:
        waiting.clear()
        for thread in threads:
            thread.join()
    return answers
