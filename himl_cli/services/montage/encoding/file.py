"""The file that an encoder writes to."""

from __future__ import annotations

import os
from pathlib import Path

from himl_cli.services.montage.disk_errors import unwritten
from himl_cli.services.transfer import local_files


class PictureFile:
    """A new file that is written from its beginning. What had its name is replaced."""

    def __init__(self, path: Path) -> None:
        """Raises DiskFailed."""
        self._path = path
        try:
            self._descriptor: int | None = local_files.open_new(str(path))
        except OSError as err:
            raise unwritten(err, self._path) from err

    def write(self, data: bytes) -> None:
        """Append all of *data*. Raises DiskFailed, ValueError where the file was closed."""
        if self._descriptor is None:
            raise ValueError(f"'{self._path}' was closed.")
        try:
            local_files.write_all(self._descriptor, data)
        except OSError as err:
            raise unwritten(err, self._path) from err

    def close(self) -> None:
        """No more is written; nothing happens where it was closed. Raises DiskFailed: file systems of networks may tell
        only here of a full disk."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError as err:
                raise unwritten(err, self._path) from err
