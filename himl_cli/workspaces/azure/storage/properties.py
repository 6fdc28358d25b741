"""Blobs as headers and URLs have them: names, sizes, digests, properties."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import ServiceFailed
from himl_cli.workspaces.azure.responses import http_time
from himl_cli.workspaces.azure.storage.curl import CurlResponse

LONGEST_NAME = 1024  # characters, says the service
MOST_PARTS = 254  # between slashes
MOST_DIGITS = 18
"""Of a number of bytes: storage of any kind counts in 64 bits."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.~/-]*")
CHANGING_PROXY = "Is a proxy in between that changes answers?"
_MEDIA_TYPES = {
    **dict.fromkeys(("txt", "log"), "text/plain"),
    **{ending: f"text/{ending}" for ending in ("csv", "html")},
    **{ending: f"application/{ending}" for ending in ("json", "yaml", "xml", "pdf")},
    **{ending: f"image/{ending}" for ending in ("png", "jpeg", "gif", "tiff")},
    "py": "text/x-python",
    "md": "text/markdown",
    "yml": "application/yaml",
    "jpg": "image/jpeg",
    "svg": "image/svg+xml",
    "tif": "image/tiff",
}


def quoted(name: str) -> str:
    """*name* as the path of a URL: UTF-8, everything but `/` and what is never special percent-encoded."""
    return name if _PLAIN_NAME.fullmatch(name) else quote(name, safe="/~")


def reason_not_to_ask(name: str) -> str:
    """Why no URL can mean exactly this name, so that another blob would be read or written; empty where one can."""
    if _PLAIN_NAME.fullmatch(name) and "." not in name and name[:1] not in ("", "/") and len(name) <= MOST_PARTS:
        return ""  # most names
    if not name or name[0] == "/" or "\0" in name:
        return "it is no name"
    if len(name) > LONGEST_NAME:
        return f"it is longer than {LONGEST_NAME:,} characters"
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


def reason_not_to_store(name: str) -> str:
    """Why no new blob may get this name; empty where it may."""
    if not name:
        return "it is empty"
    if "" in name.split("/"):
        return "it begins or ends with a slash, or has two in a row"
    if any(sign < " " or sign == "\x7f" for sign in name):
        return "it has a control character"
    return reason_not_to_ask(name)


def media_type(name: str) -> str:
    """What the blob called *name* is stored as; Studio shows files by it."""
    return _MEDIA_TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")


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


@dataclass(frozen=True, slots=True)
class Properties:
    """What a HEAD tells: the blob, whether it is only ever appended to, and since when it is there."""

    blob: BlobInfo
    is_append_blob: bool
    is_directory: bool
    created: datetime | None


def properties_of(response: CurlResponse, name: str) -> Properties:
    """Out of the response to a HEAD for *name*. Raises ServiceFailed for one that does not tell the size."""
    size = size_from(response.header(b"content-length"))
    if size is None:
        raise ServiceFailed(f"Storage does not tell how large '{name}' is.", hint=CHANGING_PROXY)
    modified = http_time(response.header(b"last-modified"))
    is_folder = response.header(b"x-ms-meta-hdi_isfolder").lower() == "true"
    return Properties(
        BlobInfo(name, size, etag_of(response), md5_from(response.header(b"content-md5")), modified),
        response.header(b"x-ms-blob-type") == "AppendBlob",
        is_folder or response.header(b"x-ms-resource-type") == "directory",
        http_time(response.header(b"x-ms-creation-time")),
    )


def etag_of(response: CurlResponse) -> str:
    """The ETag without quotes, as lists have it."""
    return response.header(b"etag").strip('"')


def whole_md5(response: CurlResponse) -> bytes | None:
    """MD5 of the whole blob, as the response to a GET tells it: of a range, Content-MD5 would be that of the range."""
    text = response.header(b"x-ms-blob-content-md5")
    return md5_from(text or (response.header(b"content-md5") if response.status == 200 else ""))


def stored_blob(response: CurlResponse, request: StoreRequest, md5: bytes) -> BlobInfo:
    """The blob that the response to storing *request* speaks of."""
    return BlobInfo(request.name, request.size, etag_of(response), md5, http_time(response.header(b"last-modified")))
