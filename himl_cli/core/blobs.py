"""Stored files as records, whatever keeps them: a folder here or a container in Azure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One stored file. `name` has `/` separators and is untrusted; `size` in bytes; `md5` of the whole (16 bytes) where known.

    `etag` changes whenever the content changes.
    """

    name: str
    size: int
    etag: str = ""
    md5: bytes | None = None
    modified: datetime | None = None


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Bytes `offset` to `offset + length` of a blob; valid only while its ETag is `blob.etag`.

    `is_checked` is for bytes that nobody compares with the MD5 of the whole: a store in Azure Storage hands on only what has the checksum that
    the service told with it, and fails with IntegrityFailed where that is so in no try. Other stores pass it over.
    """

    blob: BlobInfo
    offset: int
    length: int
    is_checked: bool = False


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """Store the file at `path`, of `size` bytes, as `name`.

    `md5` is that of its content; where it is None (large files, which are to be read once only), whoever stores the file computes it.
    `replaces` is the ETag of what has the name, empty where nothing has: anything else there is left as it is (BlobChanged).
    None replaces whatever is there.
    """

    path: Path
    name: str
    size: int
    md5: bytes | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class DatastoreInfo:
    """A place for data in a workspace; `location` is a folder or a URL without secrets."""

    name: str
    kind: str
    location: str
    is_default: bool = False
