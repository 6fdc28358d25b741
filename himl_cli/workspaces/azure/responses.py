"""Responses of the services: their objects, pages and times, and one error for those of another form."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from himl_cli.core.errors import ServiceFailed


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
        if not isinstance(answer, Mapping):
            raise unexpected(url, f"it holds no list of {what}")
        token = answer.get("continuationToken") or answer.get("nextSkip") or ""
        link = (answer.get("nextLink") or "") if follow is not None else ""
        if not isinstance(token, str | int) or not isinstance(link, str):
            raise unexpected(url, f"its list of {what} does not tell how it goes on")
        items = [] if answer.get("value", "") is None else answer.get("value")
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


def resources(get: Callable[..., Any], url: str, what: str, query: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    """The resources in resource manager's list of *what* at *url*, its pages asked for by *get* (as `Rest.get`) as they
    are consumed.

    Raises ServiceFailed for a list that is none, or that goes on elsewhere, and what *get* raises.
    """

    def follow(link: str) -> Any:
        with understood(url, f"the link to more {what}"):
            is_strange = urlsplit(link).hostname != urlsplit(url).hostname
        if is_strange:
            raise ServiceFailed(
                f"The list of {what} goes on at a strange place.", hint="Is a proxy in between that changes answers?"
            )
        return get(link)

    for page in pages(lambda _: get(url, params=query), url, what, follow=follow):
        yield from page.items


_YEARS = range(1970, 9999)
_FRACTION = re.compile(r"\.(\d+)")
_MONTHS = {
    name: number
    for number, name in enumerate(
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], start=1
    )
}


def as_time(text: str | None) -> datetime | None:
    """A time of the service in UTC, which it is in where it names no zone; None for none, and for what is no time, or
    none from 1970 to 9998.

    It writes up to seven digits after the point, which Python 3.10 does not read.
    """
    if not text:
        return None
    six_digits = _FRACTION.sub(lambda found: f".{found[1][:6]:0<6}", text.replace("Z", "+00:00"), count=1)
    try:
        return _in_utc(datetime.fromisoformat(six_digits))
    except (OverflowError, ValueError):
        return None


def http_time(text: str | None) -> datetime | None:
    """The moment in an HTTP date (RFC 9110, 5.6.7: `Fri, 20 Nov 2026 10:40:57 GMT` and its two old forms); None for
    what is none, as above."""
    if not text:
        return None
    if text.endswith(" GMT") and len(text) == 29:  # the form of all services; lists of blobs hold one each
        try:
            year, month, day = int(text[12:16]), _MONTHS[text[8:11]], int(text[5:7])
            return (
                datetime(year, month, day, int(text[17:19]), int(text[20:22]), int(text[23:25]), tzinfo=timezone.utc)
                if year in _YEARS
                else None
            )
        except (ValueError, KeyError):
            return None
    try:
        return _in_utc(parsedate_to_datetime(text))
    except (IndexError, OverflowError, TypeError, ValueError):  # the library's, for texts that are far from a date
        return None


def _in_utc(moment: datetime) -> datetime | None:
    """*moment* in UTC, which it is in where it has no zone; None outside of the years that every system can show, such
    as .NET's year 1 for no time."""
    if moment.year not in _YEARS:
        return None
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def asked_wait(header: Callable[[str], str | None]) -> float | None:
    """The seconds that an answer asks to wait before another try, by whichever of its headers; None where it asks
    nothing.

    *header* gives the value of a header by its name in lower case. `Retry-After` is a number of seconds or an HTTP
    date.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = header(name) or ""
        if milliseconds.isdecimal():
            return float(milliseconds) / 1000
    text = header("retry-after") or ""
    if text.isdecimal():
        return float(text)
    moment = http_time(text)
    return max(0.0, moment.timestamp() - time.time()) if moment is not None else None


TOLERABLE_SECONDS = 300
"""Entra ID and storage accept five minutes; beyond that tokens and signatures are refused."""


def clock_skew(headers: Mapping[str, str]) -> float | None:
    """Seconds that this clock is ahead of the sender's (negative: behind), to about a second; None without a `Date`."""
    theirs = http_time(next((value for name, value in headers.items() if name.lower() == "date"), ""))
    return time.time() - theirs.timestamp() if theirs is not None else None


def describe_skew(seconds: float) -> str:
    """`12 minutes ahead of`, `3 hours behind`: to be followed by whose."""
    amount = abs(seconds)
    size, unit = next(
        (size, unit)
        for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
        if amount >= size or size == 1
    )
    count = round(amount / size)
    return f"{count} {unit}{'' if count == 1 else 's'} {'ahead of' if seconds > 0 else 'behind'}"


def clock_complaint(headers: Mapping[str, str]) -> str:
    """A sentence about this clock where it is so far off that the service refuses what we send; else nothing."""
    seconds = clock_skew(headers)
    if seconds is None or abs(seconds) <= TOLERABLE_SECONDS:
        return ""
    return f"This machine's clock is {describe_skew(seconds)} the service's."
