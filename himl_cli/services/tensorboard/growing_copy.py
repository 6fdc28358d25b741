"""The copy of an event file that another machine still writes: only new bytes come, and they are added to the file that
is there."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from himl_cli.core.blobs import MOST_CHECKED, BlobInfo, FetchRequest
from himl_cli.core.errors import DiskFailed
from himl_cli.services.transfer.disk import OPEN_FLAGS, explained, write_at

OVERLAP = 16
"""So many bytes that are here already are asked for again: the end of the last record with its checksum tells whether
the file is still the same."""
LATER = re.compile(r"\.himl\d+$")
"""What himl puts behind the name of a copy whose original became another file; TensorFlow itself ends names with
`.v2`."""


class GrowingCopy:
    """The copy at *path*. Never replaced by a rename, which TensorBoard's data server would not notice.

    Where the original turns out to be another file than the one that was copied, it goes on under a new name beside it.
    Only bytes that have the service's checksum are asked for: whatever breaks, what is here is a beginning of the
    original. Writing is by offset, and a copy that is longer than a listing says is no proof of another file: two
    programs may bring the same one.
    """

    def __init__(self, path: Path) -> None:
        self._first = path
        self._version = 1
        while self._named(self._version + 1).exists():
            self._version += 1
        self._size = 0
        self._start = 0
        self._overlap = b""  # of the copy, from `_start` on
        self._listed = 0
        self._etag = ""  # this and the size of the original when the copy was found to be all of it
        self._descriptor: int | None = None
        self.is_other = False

    @property
    def path(self) -> Path:
        """Where the copy lies now."""
        return self._named(self._version)

    def _named(self, version: int) -> Path:
        return self._first if version == 1 else self._first.with_name(f"{self._first.name}.himl{version}")

    def request(self, blob: BlobInfo) -> FetchRequest | None:
        """What of *blob* is missing here, and the end of what is not, to compare; or None. Raises DiskFailed."""
        if self.is_other or blob.size < self._listed:
            self._version += 1
            self._listed, self._etag = 0, ""
        self.is_other = False
        changed = self._measure(blob.size)
        if blob.size == self._size and (blob.etag == self._etag if self._etag else changed == _stamp(blob)):
            self._etag, self._listed = blob.etag, blob.size
            return None
        return FetchRequest(blob, self._start, blob.size - self._start, checked_each=MOST_CHECKED)

    def missing(self, request: FetchRequest) -> int:
        """How many of the bytes asked for are not here yet."""
        return max(0, request.offset + request.length - self._size)

    def _measure(self, listed: int) -> int | None:
        """Note the size of the copy and its end, or what comes before *listed* where that is less; gives when it was
        changed, in seconds."""
        if self.path.is_symlink():
            raise DiskFailed(
                f"'{self.path}' is a link, and could lead anywhere.",
                hint="Remove it: event files are copied to real files only.",
            )
        try:
            with self.path.open("rb") as copy:
                found = os.fstat(copy.fileno())
                self._size = found.st_size
                end = min(self._size, listed)
                self._start = max(0, end - OVERLAP)
                copy.seek(self._start)
                self._overlap = copy.read(end - self._start)
        except FileNotFoundError:
            self._size, self._start, self._overlap = 0, 0, b""
            return None
        except OSError as err:
            raise explained(err, f"Cannot read '{self.path}'") from err
        return int(found.st_mtime)

    def take(self, offset: int, data: bytes) -> int:
        """Write those of the bytes from *offset* on that are new, and give how many; none where the original is another
        file by now. Raises DiskFailed."""
        known = max(0, self._size - offset)
        if known:
            start = offset - self._start
            compared = self._overlap[start : start + len(data)]
            self.is_other = self.is_other or compared != data[: len(compared)]
        new = data[known:]
        if self.is_other or not new:
            return 0
        try:
            if self._descriptor is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self.path, OPEN_FLAGS, 0o666)
            write_at(self._descriptor, offset + known, new)
        except OSError as err:
            raise explained(err, f"Cannot write '{self.path}'") from err
        return len(new)

    def complete(self, blob: BlobInfo) -> None:
        """All that was asked for of *blob* has come. Its time is noted at the copy, for a himl that is started
        later."""
        self.close()
        if self.is_other:
            return
        self._etag, self._listed = blob.etag, blob.size
        stamp = _stamp(blob)
        with suppress(OSError):  # then its end is compared once more
            if stamp is not None and self.path.stat().st_size == blob.size:
                os.utime(self.path, (stamp, stamp))

    def close(self) -> None:
        """No more bytes come for now."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _stamp(blob: BlobInfo) -> int | None:
    """When *blob* was changed, in whole seconds, which each file system keeps."""
    return int(blob.modified.timestamp()) if blob.modified is not None else None


def first_name(name: str) -> str:
    """The name that a copy had before its original became another file."""
    return LATER.sub("", name)
