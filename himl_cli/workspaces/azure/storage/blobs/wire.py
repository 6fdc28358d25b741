"""What storage says in headers and error bodies, in Python's terms."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode

from himl_cli.workspaces.azure.places import api_versions

VERSION_HEADER = f"x-ms-version: {api_versions.STORAGE}"

MOST_DIGITS = 18
"""Of a number of bytes: storage of any kind counts in 64 bits."""

_CODE = re.compile(rb"<Code>([^<]*)</Code>")
_DETAIL = re.compile(rb"<AuthenticationErrorDetail>([^<]*)</AuthenticationErrorDetail>")


def size_from(text: str) -> int | None:
    """Bytes of a Content-Length or the like; None for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None


def md5_from(text: str) -> bytes | None:
    """The digest in a Content-MD5; None for what is none."""
    try:
        digest = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == 16 else None


def md5_text(digest: bytes) -> str:
    return b64encode(digest).decode()


def error_code(body: bytes) -> str:
    """The service's word for what is wrong, out of an error's XML."""
    found = _CODE.search(body)
    return found[1].decode("ascii", "replace") if found else ""


def error_detail(body: bytes) -> str:
    found = _DETAIL.search(body)
    return found[1].decode("utf-8", "replace") if found else ""
