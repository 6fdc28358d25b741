"""When a request is tried again, and for how long."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, ServiceRequestError

from himl_cli.workspaces.azure.requests.closed_network import says_closed
from himl_cli.workspaces.azure.requests.patience import Patience
from himl_cli.workspaces.azure.requests.times import asked_wait
from himl_cli.workspaces.azure.requests.unreachable import broke_off, is_for_good

log = logging.getLogger(__name__)

WORTH_SAYING = 2.0  # a wait of this many seconds is said
BUSY, FAILING = {429, 503}, {408, 500, 502, 504}  # surely not carried out; perhaps carried out


def patiently(send: Callable[[], Any], url: str, *, repeatable: bool, patience: Patience) -> Any:
    """The answer of *send*, which is called again for what may pass: no connection, a broken one, 408, 429 and 5xx.

    How often and how long says *patience*. `Retry-After` is honoured; one that is longer than that ends the tries at
    once, and so do a wait that would end too late after the first try and a network that is closed to us. What is not
    *repeatable* is tried again only where it was surely not carried out. The last answer is given, or the last of
    azure-core's errors raised.
    """
    deadline = time.monotonic() + patience.total
    for number in range(1, patience.tries + 1):
        response, trouble = None, None
        try:
            response = send()
        except AzureError as err:
            trouble = err
        wait = _wait(response, trouble, number, repeatable, patience)
        if wait is None or number == patience.tries or time.monotonic() + wait > deadline:
            break
        _say(url, response, wait)
        time.sleep(wait)
    if trouble is not None:
        raise trouble
    return response


def _wait(response: Any, trouble: AzureError | None, number: int, repeatable: bool, patience: Patience) -> float | None:
    """Seconds until the next try; None where there should be none."""
    backoff: float = random.uniform(0.5, 1.0) * patience.first * 2 ** (number - 1)
    if trouble is not None:
        never_sent = isinstance(trouble, ServiceRequestError) and not broke_off(trouble)
        if never_sent and number >= patience.connect_tries:
            return None
        return backoff if (never_sent or repeatable) and not is_for_good(trouble) else None
    status, asked = response.status_code, retry_after(response.headers)
    if status not in BUSY | FAILING or (status in FAILING and not repeatable) or says_closed(_text(response)):
        return None
    if status == 503 and asked is None and not repeatable:
        return None
    if asked is None:
        return backoff
    return asked if asked <= patience.longest_asked else None


def _text(response: Any) -> str:
    """The body, of either of azure-core's two kinds of answers."""
    content = response.content if hasattr(response, "content") else response.body()
    return bytes(content).decode("utf-8", "replace")


def retry_after(headers: Any) -> float | None:
    """The seconds that a service asks to wait, from whichever header it uses; None where it asks nothing."""
    return asked_wait(headers.get)


def _say(url: str, response: Any, wait: float) -> None:
    """Name a pause; one that is felt, to the user."""
    status = response.status_code if response is not None else 0
    why = f"is busy ({status})" if status in BUSY else f"failed ({status})" if status else "did not answer"
    level = logging.WARNING if wait >= WORTH_SAYING else logging.DEBUG
    log.log(level, "%s %s; trying again in %.0f s", urlsplit(url).hostname, why, wait)
