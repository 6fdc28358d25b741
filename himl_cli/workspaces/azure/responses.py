"""Responses of the services: their objects, pages, times, sizes, checksums and error codes, and one error for those of
another form."""

from __future__ import annotations

import binascii
import re
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from himl_cli.core.errors import ServiceFailed
from himl_cli.core.redaction import redact

LONGEST_MESSAGE = 200  # of the service's own words that are shown


@dataclass(frozen=True)
class Response:
    """An answer, `url` without its query; `headers` have lower-case names, `body` is the JSON value, None where there
    was none, or the text where an error was no JSON.

    Bodies of errors: resource manager's `{"error": {code, message, additionalInfo: [{type: InnerError, …}]}}`; the
    Azure ML services' `{"error": {code, message, innerError: {code, innerError}}, "correlation": …}`; MLflow's
    `{error_code, message}`.
    """

    method: str
    url: str
    status: int
    headers: Mapping[str, str]
    body: Any = field(repr=False)  # may be a secret

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or self.url

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.url).path)

    @property
    def _error(self) -> Mapping[str, Any]:
        if not isinstance(self.body, Mapping):
            return {}
        inner = self.body.get("error")
        return inner if isinstance(inner, Mapping) else self.body

    @cached_property
    def codes(self) -> tuple[str, ...]:
        return tuple(reversed(list(_codes(self._error))))

    @cached_property
    def message(self) -> str:
        """What the service says, redacted, 20,000 characters of it at most; HTML pages count as silence."""
        text = self._error.get("message") if isinstance(self.body, Mapping) else self.body
        return redact(text[:20_000]) if isinstance(text, str) and not text.lstrip().startswith("<") else ""

    @property
    def in_brackets(self) -> str:
        """` (CODE: first line of the message)`, as much of it as there is."""
        line = (self.message.strip().splitlines() or [""])[0].rstrip(". ")
        line = line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}…"
        parts = ": ".join(filter(None, [*self.codes[:1], line]))
        return f" ({parts})" if parts else ""

    @property
    def request_id(self) -> str:
        """The id under which the service logged the request; the Azure ML services tell it in the body only."""
        correlation = self.body.get("correlation") if isinstance(self.body, Mapping) else None
        found = correlation.get("request") if isinstance(correlation, Mapping) else None
        in_body = redact(found) if isinstance(found, str) else ""
        return self.headers.get("x-ms-request-id") or self.headers.get("x-ms-correlation-request-id") or in_body


def _codes(error: Any) -> Iterator[str]:
    if not isinstance(error, Mapping):
        return
    code = error.get("code") or error.get("error_code")
    if isinstance(code, str) and code:
        yield code
    extras = error.get("additionalInfo")
    for extra in extras if isinstance(extras, list) else ():
        if isinstance(extra, Mapping) and extra.get("type") == "InnerError" and isinstance(extra.get("info"), Mapping):
            yield from _codes(extra["info"].get("value"))
    yield from _codes(error.get("innerError") or error.get("innererror"))


def one_line(text: str, most: int = 300) -> str:
    """*text* of a service in one line, without secrets, and no longer than *most* characters."""
    line = redact(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def unexpected(url: str, what: str) -> ServiceFailed:
    """The error for an answer of *url* in which *what* (`it holds no run`) is not as it should be."""
    return ServiceFailed(
        f"{urlsplit(url).hostname} answered with something unexpected: {what}.",
        hint="A proxy of this network may be in between; else try again later, or with a newer himl.",
    )


@contextmanager
def understood(url: str, what: str) -> Iterator[None]:
    """Where *what*, an answer of *url*, is taken apart: one of another form raises ServiceFailed. Holds no requests."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as err:
        raise unexpected(url, f"{what} has another form than himl knows") from err


def object_of(answer: Any, url: str, what: str) -> Mapping[str, Any]:
    """*answer*, which has to be a JSON object. Raises ServiceFailed where it is none: it holds no *what*."""
    if not isinstance(answer, Mapping):
        raise unexpected(url, f"it holds no {what}")
    return answer


class Page(NamedTuple):
    """One page of a list, `answer` is all of it; `items` are JSON objects."""

    items: Sequence[Mapping[str, Any]]
    answer: Mapping[str, Any]
    has_more: bool


def pages(
    ask: Callable[[Any], Any], url: str, what: str, *, follow: Callable[[str], Any] | None = None
) -> Iterator[Page]:
    """The pages of the list of *what* at *url*, each asked for when it is wanted.

    *ask* gets the first page (None), and each that follows by the `continuationToken` of the one before, a text, else
    by its `nextSkip`, a number; *follow* gets those that a page names by a `nextLink`.

    Raises ServiceFailed for a page that is none, and where a page is named a second time: that list would never end.
    """
    answer = ask(None)
    passed: set[str | int] = set()
    while True:
        items = object_of(answer, url, f"list of {what}").get("value", "")
        token = answer.get("continuationToken") or answer.get("nextSkip") or ""
        link = (answer.get("nextLink") or "") if follow is not None else ""
        if not isinstance(token, str | int) or not isinstance(link, str):
            raise unexpected(url, f"its list of {what} does not tell how it goes on")
        items = [] if items is None else items
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            raise unexpected(url, f"it holds no list of {what}")
        following = token or link
        if isinstance(token, int) and not items:  # a number may be told behind the last page, too
            following = ""
        yield Page(items, answer, bool(following))
        if not following:
            return
        if following in passed:
            raise unexpected(url, f"its list of {what} does not end")
        passed.add(following)
        answer = ask(token) if token or follow is None else follow(link)


_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def as_time(text: str | None) -> datetime | None:
    """A time of the service in UTC, which it is in where it names no zone; None for none, and for what is no time, or
    none from 1970 to 9998.

    It writes up to seven digits after the point, which Python 3.10 does not read.
    """
    if not text:
        return None
    six_digits = re.sub(r"\.(\d+)", lambda found: f".{found[1][:6]:0<6}", text.replace("Z", "+00:00"), count=1)
    try:
        return _in_utc(datetime.fromisoformat(six_digits))
    except (OverflowError, ValueError):
        return None


def size_from(text: str) -> int | None:
    """Bytes of a Content-Length or the like; None for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None  # 64 bits


def md5_from(text: str) -> bytes | None:
    try:
        digest = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == 16 else None


def http_time(text: str | None) -> datetime | None:
    """The moment in an HTTP date (RFC 9110, 5.6.7: `Fri, 20 Nov 2026 10:40:57 GMT` and its two old forms); None for
    what is none, as above."""
    if not text:
        return None
    try:
        if text.endswith(" GMT") and len(text) == 29:  # the form of all services; lists of blobs hold one each
            clock = int(text[17:19]), int(text[20:22]), int(text[23:25])
            day = int(text[12:16]), _MONTHS.index(text[8:11]), int(text[5:7])
            return _in_utc(datetime(*day, *clock, tzinfo=timezone.utc))
        return _in_utc(parsedate_to_datetime(text))
    except (LookupError, OverflowError, TypeError, ValueError):  # the library's, for texts that are far from a date
        return None


def _in_utc(moment: datetime) -> datetime | None:
    """*moment* in UTC, which it is in where it has no zone; None outside of the years that every system can show, such
    as .NET's year 1 for no time."""
    if not 1970 <= moment.year < 9999:
        return None
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def retry_after(header: Callable[[str], str | None]) -> float | None:
    """The seconds that an answer asks to wait before another try, by whichever of its headers; None where it asks
    nothing.

    *header* gives the value of a header by its name in lower case. `Retry-After` is a number of seconds or an HTTP
    date.
    """
    for name, size in (("retry-after-ms", 1000), ("x-ms-retry-after-ms", 1000), ("retry-after", 1)):
        text = header(name) or ""
        if text.isdecimal():
            return float(text) / size
    moment = http_time(header("retry-after"))
    return max(0.0, moment.timestamp() - time.time()) if moment is not None else None


# Entra ID and storage accept five minutes; beyond that tokens and signatures are refused.
TOLERABLE_SECONDS = 300


def clock_skew(headers: Mapping[str, str]) -> float | None:
    """Seconds that this clock is ahead of the sender's (negative: behind), to about a second; None without a `Date`."""
    theirs = http_time(next((value for name, value in headers.items() if name.lower() == "date"), ""))
    return time.time() - theirs.timestamp() if theirs is not None else None


def describe_skew(seconds: float) -> str:
    """`12 minutes ahead of`, `3 hours behind`: to be followed by whose."""
    units = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
    size, unit = next((one for one in units if abs(seconds) >= one[0]), units[-1])
    count = round(abs(seconds) / size)
    return f"{count} {unit}{'' if count == 1 else 's'} {'ahead of' if seconds > 0 else 'behind'}"


def clock_complaint(headers: Mapping[str, str]) -> str:
    """A sentence about this clock where it is so far off that the service refuses what we send; else nothing."""
    seconds = clock_skew(headers)
    if seconds is None or abs(seconds) <= TOLERABLE_SECONDS:
        return ""
    return f"This machine's clock is {describe_skew(seconds)} the service's."
