"""Names of blobs in URLs, and which names can stand there."""

from __future__ import annotations

import re
from urllib.parse import quote

LONGEST = 1024  # characters, says the service
MOST_PARTS = 254  # between slashes
_PLAIN = re.compile(r"[A-Za-z0-9_.~/-]*")


def quoted(name: str) -> str:
    """*name* as the path of a URL: UTF-8, everything but `/` and what is never special percent-encoded."""
    return name if _PLAIN.fullmatch(name) else quote(name, safe="/~")


def can_be_asked_for(name: str) -> bool:
    """Whether a URL can mean exactly this name: another one would be read or written for one that cannot."""
    return not reason_not_to_ask(name)


def reason_not_to_ask(name: str) -> str:
    """Why no URL can mean exactly this name; empty where one can."""
    return _confusion(name) if _is_special(name) else ""


def reason_not_to_store(name: str) -> str:
    """Why no new blob may get this name; empty where it may."""
    if not name:
        return "it is empty"
    if "" in name.split("/"):
        return "it begins or ends with a slash, or has two in a row"
    if any(sign < " " or sign == "\x7f" for sign in name):
        return "it has a control character"
    return _confusion(name) if _is_special(name) else ""


def _is_special(name: str) -> bool:
    """Whether *name* has to be looked at closely; most need not."""
    return not _PLAIN.fullmatch(name) or "." in name or name[:1] in ("", "/") or len(name) > MOST_PARTS


def _confusion(name: str) -> str:
    """Why the service would take *name* for another one, or not at all; empty where it would not."""
    if not name or name[0] == "/" or "\0" in name:
        return "it is no name"
    if len(name) > LONGEST:
        return f"it is longer than {LONGEST:,} characters"
    if "\\" in name:
        return "Azure Storage takes a backslash for a slash"
    parts = name.split("/")
    if len(parts) > MOST_PARTS:
        return f"it has more than {MOST_PARTS} folders"
    if any(part.endswith(".") for part in parts):
        return "Azure Storage drops the dot at the end of a name or folder"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "it is no Unicode text"
    return ""
