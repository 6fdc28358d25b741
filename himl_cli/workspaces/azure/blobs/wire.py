"""What storage says in headers and error bodies, in Python's terms."""

from __future__ import annotations

import binascii
import re
import time
from base64 import b64decode, b64encode
from datetime import datetime, timezone

VERSION = "2023-11-03"
"""The `x-ms-version` of every request: tells names that XML cannot hold, and takes bearer tokens."""

VERSION_HEADER = f"x-ms-version: {VERSION}"

_MONTHS = {name: number for number, name in enumerate(["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], start=1)}
_CODE = re.compile(rb"<Code>([^<]*)</Code>")
_DETAIL = re.compile(rb"<AuthenticationErrorDetail>([^<]*)</AuthenticationErrorDetail>")


def md5_from(text: str) -> bytes | None:
    """The digest in a Content-MD5; None for what is none."""
    try:
        digest = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == 16 else None


def md5_text(digest: bytes) -> str:
    return b64encode(digest).decode()


def time_from(text: str) -> datetime | None:
    """The moment in an HTTP date (`Fri, 20 Nov 2026 10:40:57 GMT`); None for what is none."""
    try:
        return datetime(int(text[12:16]), _MONTHS[text[8:11]], int(text[5:7]), int(text[17:19]), int(text[20:22]), int(text[23:25]), tzinfo=timezone.utc)
    except (ValueError, KeyError):
        return None


def seconds_from(text: str) -> float | None:
    """A Retry-After as seconds from now: a number, or an HTTP date."""
    if text.isdecimal():
        return float(text)
    moment = time_from(text)
    return max(0.0, moment.timestamp() - time.time()) if moment is not None else None


def error_code(body: bytes) -> str:
    """The service's word for what is wrong, out of an error's XML."""
    found = _CODE.search(body)
    return found[1].decode("ascii", "replace") if found else ""


def error_detail(body: bytes) -> str:
    found = _DETAIL.search(body)
    return found[1].decode("utf-8", "replace") if found else ""
