"""The file that an encoder writes to."""

from __future__ import annotations

import os
from pathlib import Path

from himl_cli.core.errors import FULL_DISK, DiskFailed
from himl_cli.services.transfer import disk

HINT = "Choose another folder with --output_path, or check its permissions."
FULL_HINT = "Free some space, or choose another folder with --output_path, and run the command again."


class PictureFile:
    """A new file that is written from its beginning. What had its name is replaced."""

    def __init__(self, path: Path) -> None:
        """Raises DiskFailed."""
        self._path = path
        try:
            self._descriptor: int | None = disk.open_new(str(path))
        except OSError as err:
            raise self._failure(err) from err

    def write(self, data: bytes) -> None:
        """Append all of *data*. Raises DiskFailed, ValueError where the file was closed."""
        if self._descriptor is None:
            raise ValueError(f"'{self._path}' was closed.")
        try:
            disk.write_all(self._descriptor, data)
        except OSError as err:
            raise self._failure(err) from err

    def close(self) -> None:
        """No more is written; nothing happens where it was closed. Raises DiskFailed: file systems of networks may tell only here of a full disk."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError as err:
                raise self._failure(err) from err

    def _failure(self, err: OSError) -> DiskFailed:
        what = f"Cannot write '{self._path}'"
        if err.errno in FULL_DISK:
            return disk.DiskFull(f"{what}: no space left on the disk.", hint=FULL_HINT)
        return DiskFailed(f"{what}: {err.strerror or err}.", hint=HINT)
