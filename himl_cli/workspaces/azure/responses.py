"""Responses of the services: their objects, pages, times, sizes, checksums and error codes, and one error for those in
an unexpected form."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from datetime import datetime
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from himl_cli.core.errors import ServiceFailed
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import redact
from himl_cli.core.text import iso_time
from himl_cli.workspaces.transfer_engine.headers import http_time, in_utc

LONGEST_MESSAGE = 200  # characters of the service's message that are shown
MOST_MESSAGES = 4  # that are shown of one error: its own, and those of its details


@dataclass(frozen=True)
class Response:
    """A response. `url` has no query, and `headers` have lower-case names. `body` is the JSON value, None if there was
    none, or the text of an error that is not JSON.

    Bodies of errors: resource manager's `{"error": {code, message, details: [{code, message}], additionalInfo: [{type:
    InnerError, …}]}}`, the Azure ML services' `{"error": {code, message, innerError: {code, innerError}},
    "correlation": …}`, the same with capital letters from Azure ML's MLflow routes (`{"Error": {"Code": …}}`), and
    MLflow's `{error_code, message}`.
    """

    method: str
    url: str
    status: int
    headers: Mapping[str, str]
    body: Any = field(repr=False)  # may be a secret

    def object(self, what: str) -> Mapping[str, Any]:
        """The body, which must be a JSON object with *what*. Raises ServiceFailed if it is not."""
        return object_of(self.body, self.url, what)

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or self.url

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.url).path)

    @property
    def _error(self) -> Any:
        inner = _member(self.body, "error")
        return inner if isinstance(inner, Mapping) else self.body

    @cached_property
    def codes(self) -> tuple[str, ...]:
        return tuple(reversed(list(_codes(self._error))))

    @cached_property
    def message(self) -> str:
        """The service's message, and those of its details in lines of their own, redacted, at most 20,000 characters,
        or "" for HTML pages."""
        is_text = isinstance(self.body, str) and not self.body.lstrip().startswith("<")
        return redact("\n".join([self.body] if is_text else dict.fromkeys(_messages(self._error)))[:20_000])

    @property
    def in_brackets(self) -> str:
        """` (CODE: first lines of the message and its details)`, with the parts that exist."""
        texts = _messages(self._error) if isinstance(self.body, Mapping) else [self.message]
        lines = (redact((text[:20_000].strip().splitlines() or [""])[0]).rstrip(". ") for text in texts)
        short = (line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}…" for line in lines)
        parts = ": ".join(filter(None, [*self.codes[:1], *islice(dict.fromkeys(short), MOST_MESSAGES)]))
        return f" ({parts})" if parts else ""

    @property
    def request_id(self) -> str:
        """The id under which the service logged the request. The Azure ML services return it only in the body."""
        found = _member(_member(self.body, "correlation"), "request")
        in_body = redact(found) if isinstance(found, str) else ""
        return self.headers.get("x-ms-request-id") or self.headers.get("x-ms-correlation-request-id") or in_body


def _member(value: Any, *names: str) -> Any:
    """The first member of the JSON object *value* that has a value, by its *names* in lower case, or None."""
    found = {str(name).lower(): one for name, one in value.items()} if isinstance(value, Mapping) else {}
    return next((found[name] for name in names if found.get(name)), None)


def _members(value: Any, name: str) -> Sequence[Any]:
    found = _member(value, name)
    return found if isinstance(found, list) else ()


def _codes(error: Any) -> Iterator[str]:
    code = _member(error, "code", "error_code")
    if isinstance(code, str):
        yield code
    for extra in _members(error, "additionalinfo"):
        if _member(extra, "type") == "InnerError":
            yield from _codes(_member(_member(extra, "info"), "value"))
    if inner := _member(error, "innererror"):
        yield from _codes(inner)


def _messages(error: Any) -> Iterator[str]:
    """The message of *error*, then those of its details, which may have details themselves."""
    message = _member(error, "message")
    if isinstance(message, str):
        yield message
    for detail in _members(error, "details"):
        yield from _messages(detail)


def one_line(text: str, most: int = 300) -> str:
    """*text* of a service in one line, without secrets, and at most *most* characters long."""
    line = redact(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def unexpected(url: str, what: str) -> ServiceFailed:
    """The error for a response of *url* in an unexpected form, where *what* is the reason (`it has no run`)."""
    return ServiceFailed(
        f"The response of {urlsplit(url).hostname} is invalid: {what}.",
        hint="Check for a proxy of this network, try again later, or update himl.",
    )


@contextmanager
def understood(url: str, what: str) -> Iterator[None]:
    """A context for reading *what*, a response of *url*. Raises ServiceFailed for another form. Sends no requests."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as err:
        raise unexpected(url, f"himl cannot read {what}") from err


def object_of(answer: Any, url: str, what: str) -> Mapping[str, Any]:
    """*answer*, which must be a JSON object with *what*. Raises ServiceFailed if it is not."""
    if not isinstance(answer, Mapping):
        raise unexpected(url, f"it has no {what}")
    return answer


class Page(NamedTuple):
    """One page of a list. `answer` is the whole response, and `items` are JSON objects."""

    items: Sequence[Mapping[str, Any]]
    answer: Mapping[str, Any]
    has_more: bool


def pages(
    ask: Callable[[Any], Any], url: str, what: str, *, follow: Callable[[str], Any] | None = None
) -> Iterator[Page]:
    """The pages of the list of *what* at *url*, each requested when it is needed.

    *ask* fetches the first page (None), and each later one by the `continuationToken` of the page before, a text, or by
    its `nextSkip`, a number. *follow* fetches pages by a `nextLink`.

    Raises ServiceFailed for an invalid page, and for a page that repeats, because that list would never end.
    """
    answer = ask(None)
    passed: set[str | int] = set()
    while True:
        items = object_of(answer, url, f"list of {what}").get("value", "")
        token = answer.get("continuationToken") or answer.get("nextSkip") or ""
        link = (answer.get("nextLink") or "") if follow is not None else ""
        if not isinstance(token, str | int) or not isinstance(link, str):
            raise unexpected(url, f"its list of {what} has no valid next page")
        items = [] if items is None else items
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            raise unexpected(url, f"it has no list of {what}")
        following = token or link
        if isinstance(token, int) and not items:  # a number may even follow the last page
            following = ""
        yield Page(items, answer, bool(following))
        if not following:
            return
        if following in passed:
            raise unexpected(url, f"its list of {what} does not end")
        passed.add(following)
        answer = ask(token) if token or follow is None else follow(link)


def as_time(text: str | None) -> datetime | None:
    """A time of the service in UTC, which is its default time zone. None for a missing or invalid time, and for one
    outside of 1970 to 9998."""
    if not text:
        return None
    try:
        return in_utc(iso_time(text))
    except (OverflowError, ValueError):
        return None


# Entra ID and storage accept five minutes. Beyond that they reject tokens and signatures.
TOLERABLE_SECONDS = 300


def clock_skew(headers: Mapping[str, str]) -> float | None:
    """Seconds by which this clock is ahead of the sender's (negative if behind), or None without a `Date`."""
    theirs = http_time(next((value for name, value in headers.items() if name.lower() == "date"), ""))
    return time.time() - theirs.timestamp() if theirs is not None else None


def describe_skew(seconds: float) -> str:
    """`12 minutes ahead of` or `3 hours behind`, to be followed by the other clock."""
    units = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
    size, unit = next((one for one in units if abs(seconds) >= one[0]), units[-1])
    count = round(abs(seconds) / size)
    return f"{count} {unit}{'' if count == 1 else 's'} {'ahead of' if seconds > 0 else 'behind'}"


def clock_complaint(headers: Mapping[str, str]) -> str:
    """A sentence about this clock if its error makes the service reject requests, or ""."""
    seconds = clock_skew(headers)
    if seconds is None or abs(seconds) <= TOLERABLE_SECONDS:
        return ""
    return f"This machine's clock is {describe_skew(seconds)} the service's."
