"""Stored files as records, whatever keeps them: a folder here or a container in Azure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

MOST_CHECKED = 4 << 20
"""Bytes of a range for which Azure Storage computes an MD5."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One stored file. `name` has `/` separators and is untrusted; `size` in bytes; `md5` of the whole (16 bytes) where
    known.

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

    `checked_each` is for bytes of which no MD5 of the whole is known: a store in Azure Storage asks for so many at a
    time (`MOST_CHECKED` at most; 0: unchecked) and hands on only what has the checksum that the service told with it;
    it fails with IntegrityFailed where that is so in no try. So many wait in memory. Other stores pass it over.
    """

    blob: BlobInfo
    offset: int
    length: int
    checked_each: int = 0


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """Store the file at `path`, of `size` bytes, as `name`.

    `md5` is that of its content; where it is None (large files, which are to be read once only), whoever stores the
    file computes it. `replaces` is the ETag of what has the name, empty where nothing has: anything else there is left
    as it is (BlobChanged). None replaces whatever is there.
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
