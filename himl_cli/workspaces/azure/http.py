"""Sessions for requests to Azure's control plane and the workspace's services: those of `requests` with himl's limits,
certificates and retries. `connection` sends the requests, and several may run at once, by `ask_all`. Both
limit the same connections (MANY_AT_ONCE).

The first request imports `requests`. azure-core, which takes nearly as long, is imported only where himl signs in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from http.cookiejar import DefaultCookiePolicy
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from himl_cli.core.errors import ServiceFailed
from himl_cli.core.installation import ca_bundle, ca_source
from himl_cli.core.json_text import NotJson, read_json, read_valid_json
from himl_cli.core.redaction import parts_of
from himl_cli.workspaces.azure.network_errors import is_disconnect, is_permanent
from himl_cli.workspaces.azure.responses import Response
from himl_cli.workspaces.azure.service_errors import says_closed
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState, attempts_after
from himl_cli.workspaces.transfer_engine.headers import retry_after

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
# Concurrent requests: enough to hide the latency, few enough not to be throttled.
AT_ONCE = 8
# Concurrent requests for thousands of small responses, of all threads together, and the number of connections that stay
# open.
MANY_AT_ONCE = 32
_thread = threading.local()  # `share`: the number of its concurrent requests
IMPORT_LOCK = threading.Lock()

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def open_http_session(policy: RetryPolicy) -> Any:
    """A `requests.Session` with himl's limits, certificates and retries, which follows no redirects. Its
    `failing_status` is that of the last response that still reported overload or failure.

    An attempt ends after 10 s without a connection, and after the policy's `read_timeout` without a byte.
    """
    # One thread at a time imports requests, as for azure-core, which shares modules with it.
    with IMPORT_LOCK:
        import requests
        from requests.adapters import HTTPAdapter
    silence("urllib3.connectionpool")

    slow: set[str] = set()
    busy: dict[str, float] = {}  # until when a host wants no requests
    authorities = ca_bundle()

    class Session(requests.Session):
        failing_status = 0

        def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            """The response, with retries after a missing or broken connection, 408, 429 and 5xx, but not for a closed
            network.

            A host that took longer than one attempt may, and failed, has the time of one attempt from then on, until it
            answers: otherwise a command for many runs would take minutes for each. A Retry-After applies to the
            requests of all threads to that host.

            Returns the last response, or raises the last error of requests. Raises ServiceFailed if the file of
            certificate authorities is missing, because it may be about to be replaced.
            """
            options |= {"verify": authorities, "allow_redirects": False}
            if options.get("timeout") is None:
                options["timeout"] = CONNECT_SECONDS, policy.read_timeout
            parts = urlsplit(request.url or "")
            host, service = parts.hostname or "", parts.path[1:].partition("/")[0]
            state = RetryState(replace(policy, total=policy.read_timeout) if host in slow else policy)
            for failures in count(1):
                error: Exception | None = None
                while (left := busy.get(host, 0.0) - time.monotonic()) > 0:
                    time.sleep(left)
                try:
                    response = super().send(request, **options)
                    failure = _failure_of_answer(response, host, service)
                except requests.RequestException as err:
                    error = err
                    failure = Failure(
                        ServiceFailed(str(err)),
                        may_pass=not is_permanent(err),
                        is_unconnected=isinstance(err, requests.ConnectionError) and not is_disconnect(err),
                        message=f"{host} did not answer",
                    )
                except OSError as err:  # from requests before it sent anything
                    if Path(authorities).exists():
                        raise
                    raise ServiceFailed(
                        f"The file of certificate authorities '{authorities}' ({ca_source()}) no longer exists.",
                        hint="Restore the file, or correct the variable.",
                    ) from err
                pause = None if failure is None else state.pause(failures, failure)
                if pause is None:
                    break
                if failure is not None and failure.retry_after:
                    busy[host] = max(busy.get(host, 0.0), time.monotonic() + failure.retry_after)
                time.sleep(pause)
            if failure is None:
                slow.discard(host)
            elif time.monotonic() > state.started + policy.read_timeout:
                slow.add(host)
            if error is not None:
                raise error
            if attempts_after(service, response.status_code):
                self.failing_status = response.status_code
            return response

    session = Session()
    session.auth = lambda prepared: prepared  # otherwise requests replaces himl's token by credentials of ~/.netrc
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.mount("https://", HTTPAdapter(pool_connections=8, pool_maxsize=MANY_AT_ONCE))
    return session


def _failure_of_answer(response: requests.Response, host: str, service: str) -> Failure | None:
    status = response.status_code
    most = attempts_after(service, status)
    if not most:
        return None
    return Failure(
        ServiceFailed(f"{host} answered {status}."),
        may_pass=not says_closed(response.content.decode("utf-8", "replace")),
        retry_after=retry_after(response.headers.get),
        max_attempts=most,
        message=f"{host} {'is busy' if status in (429, 503) else 'failed'} ({status})",
    )


def load_azure_core() -> None:
    """Import azure-core's parts for requests, and silence the vendor's loggers.

    One thread at a time, because azure-core's modules import each other, and two threads that start at different ends
    could see an incomplete one. azure-identity warns of every credential that does not apply, azure-core logs a line
    per request, and msal its cache. himl's own errors cover what they log.
    """
    with IMPORT_LOCK:
        from azure.core.pipeline.transport import RequestsTransport  # noqa: F401
    silence("azure.core", "azure.identity", "msal", "urllib3.connectionpool")


def silence(*names: str) -> None:
    """Silence the loggers of *names* below CRITICAL, unless the user set a level for them."""
    for name in names:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)


def read_response(method: str, url: str, answer: requests.Response) -> Response:
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
    drops the items that have not started. Where *ask* calls this function, its threads share MANY_AT_ONCE requests.

    It waits for those in progress, except after an interruption, where a stalled service would delay the user for
    minutes.
    """
    share: int = getattr(_thread, "share", MANY_AT_ONCE)
    count = min(at_once, share, len(items))
    if count < 2:
        return [ask(item) for item in items]
    waiting = deque(range(len(items)))
    outcomes: list[SimpleQueue[tuple[Answer | None, BaseException | None]]] = [SimpleQueue() for _ in items]

    def work() -> None:
        _thread.share = share // count
        with suppress(IndexError):  # no items remain
            while True:
                number = waiting.popleft()
                try:
                    outcomes[number].put((ask(items[number]), None))
                except BaseException as err:  # noqa: BLE001  # raised in the waiting thread
                    outcomes[number].put((None, err))

    # Daemons, because the interpreter waits for an executor's threads, however it ends.
    threads = [threading.Thread(target=work, name="himl-ask", daemon=True) for _ in range(count)]
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
