"""One blob's properties, as an answer's headers tell them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import ServiceFailed
from himl_cli.workspaces.azure.requests.times import http_time
from himl_cli.workspaces.azure.storage.blobs.lines import Line
from himl_cli.workspaces.azure.storage.blobs.wire import md5_from, size_from


@dataclass(frozen=True, slots=True)
class Properties:
    """What a HEAD tells: the blob, whether it is only ever appended to, and since when it is there."""

    blob: BlobInfo
    is_append_blob: bool
    is_directory: bool
    created: datetime | None


def properties_of(line: Line, name: str) -> Properties:
    """Out of the answer to a HEAD for *name*. Raises ServiceFailed for one that does not tell the size."""
    md5, size = line.header(b"content-md5"), size_from(line.header(b"content-length"))
    if size is None:
        raise ServiceFailed(
            f"Storage does not tell how large '{name}' is.", hint="Is a proxy in between that changes answers?"
        )
    blob = BlobInfo(
        name,
        size,
        etag_of(line),
        md5_from(md5) if md5 else None,
        http_time(line.header(b"last-modified")),
    )
    is_directory = (
        line.header(b"x-ms-meta-hdi_isfolder").lower() == "true" or line.header(b"x-ms-resource-type") == "directory"
    )
    return Properties(
        blob,
        line.header(b"x-ms-blob-type") == "AppendBlob",
        is_directory,
        http_time(line.header(b"x-ms-creation-time")),
    )


def etag_of(line: Line) -> str:
    """The answer's ETag without quotes, as lists have it."""
    return line.header(b"etag").strip('"')


def whole_md5(line: Line) -> bytes | None:
    """MD5 of the whole blob, as the answer to a GET tells it: of a range, Content-MD5 would be that of the range."""
    md5 = line.header(b"x-ms-blob-content-md5") or (line.header(b"content-md5") if line.status == 200 else "")
    return md5_from(md5) if md5 else None


def stored_blob(line: Line, request: StoreRequest, md5: bytes) -> BlobInfo:
    """The blob that the answer to storing *request* speaks of."""
    return BlobInfo(request.name, request.size, etag_of(line), md5, http_time(line.header(b"last-modified")))
