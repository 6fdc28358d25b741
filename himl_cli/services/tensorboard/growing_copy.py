"""The copy of an event file that another machine still writes: only new bytes come, and they are added to the file that is there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from himl_cli.core.blobs import BlobInfo, FetchRequest
from himl_cli.services.transfer.disk import explained, write_at

OVERLAP = 16
"""So many bytes that are here already are asked for again: the end of the last record with its checksum tells whether the file is still the same."""
LATER = re.compile(r"\.v\d+$")
OPEN_FLAGS = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class GrowingCopy:
    """The copy at *path*. Never replaced by a rename, which TensorBoard's data server would not notice.

    Where the original turns out to be another file than the one that was copied, it goes on under a new name beside it.
    Writing is by offset, so that two programs which bring the same file do each other no harm.
    """

    def __init__(self, path: Path) -> None:
        self._first = path
        self._version = 1
        while self._named(self._version + 1).exists():
            self._version += 1
        self._size = 0
        self._overlap = b""
        self._descriptor: int | None = None
        self.is_other = False

    @property
    def path(self) -> Path:
        """Where the copy lies now."""
        return self._named(self._version)

    def _named(self, version: int) -> Path:
        return self._first if version == 1 else self._first.with_name(f"{self._first.name}.v{version}")

    def request(self, blob: BlobInfo) -> FetchRequest | None:
        """What of *blob* is missing here, or None. Raises DiskFailed."""
        if self.is_other or blob.size < self._measure():
            self._version += 1
            self._measure()
        self.is_other = False
        if blob.size == self._size:
            return None
        start = self._size - len(self._overlap)
        return FetchRequest(blob, start, blob.size - start)

    def missing(self, request: FetchRequest) -> int:
        """How many of the bytes asked for are not here yet."""
        return request.offset + request.length - self._size

    def _measure(self) -> int:
        """Note the size of the copy and its end."""
        try:
            with self.path.open("rb") as copy:
                self._size = os.fstat(copy.fileno()).st_size
                copy.seek(max(0, self._size - OVERLAP))
                self._overlap = copy.read(min(OVERLAP, self._size))
        except FileNotFoundError:
            self._size, self._overlap = 0, b""
        except OSError as err:
            raise explained(err, f"Cannot read '{self.path}'") from err
        return self._size

    def take(self, offset: int, data: bytes) -> int:
        """Write those of the bytes from *offset* on that are new, and give how many; none where the original is another file by now. Raises DiskFailed."""
        known = max(0, self._size - offset)
        if known:
            start = offset - (self._size - len(self._overlap))
            self.is_other = self.is_other or self._overlap[start : start + len(data)] != data[:known]
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

    def close(self) -> None:
        """No more bytes come for now."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def first_name(name: str) -> str:
    """The name that a copy had before its original became another file."""
    return LATER.sub("", name)
