"""Times as the services write them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

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
