"""Values in the headers of responses of any HTTP server: sizes, digests, times and waits."""

from __future__ import annotations

import binascii
import time
from base64 import b64decode
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from himl_cli.workspaces.transfer_engine.curl import CurlResponse

_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def size_from(text: str) -> int | None:
    """The bytes in a Content-Length or similar header, or None if invalid."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None  # 64 bits


def md5_from(text: str) -> bytes | None:
    try:
        digest = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == 16 else None


def http_time(text: str | None) -> datetime | None:
    """The time of an HTTP date (RFC 9110, 5.6.7: `Fri, 20 Nov 2026 10:40:57 GMT` and its two old forms), or None as in
    `as_time`."""
    if not text:
        return None
    try:
        if text.endswith(" GMT") and len(text) == 29:  # the form of all services; a list of blobs has one per blob
            clock = int(text[17:19]), int(text[20:22]), int(text[23:25])
            day = int(text[12:16]), _MONTHS.index(text[8:11]), int(text[5:7])
            return in_utc(datetime(*day, *clock, tzinfo=timezone.utc))
        return in_utc(parsedate_to_datetime(text))
    except (LookupError, OverflowError, TypeError, ValueError):  # the library's, for texts unlike any date
        return None


def in_utc(moment: datetime) -> datetime | None:
    """*moment* in UTC, which is the default. None outside of the years that every system can show, such as .NET's year
    1 for a missing time."""
    if not 1970 <= moment.year < 9999:
        return None
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def retry_after(header: Callable[[str], str | None]) -> float | None:
    """The seconds to wait before a retry, from a response's headers, or None.

    *header* returns the value of a header by its lower-case name. `Retry-After` is a number of seconds or an HTTP date,
    which counts from the response's `Date`, since this clock may differ.
    """
    for name, size in (("retry-after-ms", 1000), ("x-ms-retry-after-ms", 1000), ("retry-after", 1)):
        text = header(name) or ""
        if text.isdecimal():
            return float(text) / size
    moment, sent = http_time(header("retry-after")), http_time(header("date"))
    now = time.time() if sent is None else sent.timestamp()
    return max(0.0, moment.timestamp() - now) if moment is not None else None


def etag_of(response: CurlResponse) -> str:
    """The ETag without quotes, as in lists."""
    return response.header(b"etag").strip('"')


def whole_md5(response: CurlResponse) -> bytes | None:
    """MD5 of the whole blob, from the response to a GET. For a range, Content-MD5 is that of the range."""
    text = response.header(b"x-ms-blob-content-md5")
    return md5_from(text or (response.header(b"content-md5") if response.status == 200 else ""))
