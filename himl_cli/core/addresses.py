"""Addresses of files on the web, and what of one may be shown: the query may hold a signature. Pure text."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

NAMELESS = "checkpoint"
LONGEST_NAME = 150  # characters; a file system's 255 bytes leave room for what is put around it
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
SAFE_IN_PATHS = "/%:@!$&'()*+,;=~"
"""What stays as it is in the path of a link that somebody gave, beside letters and digits; all else no URL can hold."""

_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9¹²³])(\.|$)", re.IGNORECASE)
_BOTCHED = re.compile(r"[^/]{2,}://|https?(?![\w.-])(?!:[^/\\?]*$)", re.IGNORECASE)
# Names in a query that belong to a signature, by the one that holds it: Azure's, Amazon's, Google's and their CDNs'.
_SIGNED_BY = {
    "sig": re.compile(r"s[vsprte]|srt|spr|sig|sip|skoid|sktid|skt|ske|sks|skv|skdutid|sdd|saoid|suoid|sduoid|scid|ses"),
    "signature": re.compile(r"signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid"),
}
_SIGNING = re.compile(r"x-(?:amz|goog)-.*|token|access_token")


def is_address(text: str) -> bool:
    """Whether *text* is an http or https address, and no path or run."""
    return _ADDRESS.match(text.strip()) is not None


def may_be_signed(text: str) -> bool:
    """Whether *text* is an address with a query, which may hold a signature."""
    return is_address(text) and "?" in text


def is_botched_address(text: str) -> bool:
    """Whether *text* must be meant as an address, and is none that is read: `https:/host`, `s3://bucket`. It may hold a
    secret all the same."""
    return not is_address(text) and _BOTCHED.match(text.strip()) is not None


def parts_of(address: str) -> SplitResult:
    """The address taken apart; empty parts for text that is none."""
    try:
        parts = urlsplit(address.strip())
        parts.port  # noqa: B018  (raises for what is no number)
    except ValueError:
        return urlsplit("")
    return parts


def shown(address: str) -> str:
    """*address* as people and files may see it: without user, password, query and fragment."""
    parts = parts_of(address)
    return urlunsplit((parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower(), parts.path, "", ""))


def identity(address: str) -> str:
    """What tells the file at *address* from others, however the address is signed; holds no secret.

    Of the query, all but the known parts of signatures counts, as a digest: `?id=3` and `?id=4` are two files. A
    signature that is not known here costs one more download; a name that is taken for one would put a file in another's
    place.
    """
    from hashlib import sha256  # only here: all commands import this module

    asked = parse_qsl(parts_of(address).query, keep_blank_values=True)
    names = {name.lower() for name, _ in asked}
    signing = [_SIGNING, *(theirs for held_by, theirs in _SIGNED_BY.items() if held_by in names)]
    told = sorted(
        (name, value) for name, value in asked if not any(theirs.fullmatch(name.lower()) for theirs in signing)
    )
    digest = sha256(repr(told).encode()).hexdigest()[:16]
    return f"{shown(address)}?{digest}" if told else shown(address)


def last_name(address: str) -> str:
    """The last part of the path, percent signs undone; empty for none."""
    return unquote(parts_of(address).path.rstrip("/").rpartition("/")[2])


def safe_name(name: str) -> str:
    """*name* as a file can be called on every system; `checkpoint` where nothing is left of it."""
    plain = _FORBIDDEN.sub("_", name).strip().rstrip(". ").lstrip(".")
    stem, dot, ending = plain.rpartition(".")
    if len(plain) > LONGEST_NAME:
        plain = (
            f"{stem[: LONGEST_NAME - len(ending) - 1]}.{ending}" if dot and len(ending) < 20 else plain[:LONGEST_NAME]
        )
    plain = plain.encode("utf-8", "replace").decode()
    return f"_{plain}" if _DEVICES.match(plain) else plain or NAMELESS
