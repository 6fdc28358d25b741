"""The folder that TensorBoard is given: a link for each event file, so that it shows the chosen runs only, wherever their files lie."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from himl_cli.services.tensorboard.feeds import EventFile
from himl_cli.services.transfer.disk import explained

log = logging.getLogger(__name__)


class ShownFolder:
    """Links below *root*. Raises DiskFailed where none can be made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shown: dict[str, dict[str, Path]] = {}
        self._copied: dict[Path, Path] = {}

    def show(self, run: str, files: Sequence[EventFile]) -> None:
        """Let *run* consist of *files*."""
        before = self._shown.get(run, {})
        now = {file.name: file.path for file in files}
        try:
            for name in before.keys() - now.keys():
                self._drop(self._place(run, name))
            for name, path in now.items():
                if before.get(name) != path:
                    self._link(self._place(run, name), path)
            for place, path in self._copied.items():
                _add_new_bytes(path, place)
        except OSError as err:
            raise explained(err, f"Cannot show '{err.filename}'") from err
        self._shown[run] = now

    def _place(self, run: str, name: str) -> Path:
        return self.root.joinpath(run, *name.split("/"))

    def _drop(self, place: Path) -> None:
        self._copied.pop(place, None)
        with suppress(PermissionError):  # Windows keeps a file that TensorBoard reads
            place.unlink(missing_ok=True)

    def _link(self, place: Path, path: Path) -> None:
        """Link *place* to the file at *path*; on Windows, where not everybody may, by another name of it, and on another disk by a copy that is kept up."""
        place.parent.mkdir(parents=True, exist_ok=True)
        self._drop(place)
        for make in (os.symlink, os.link):
            with suppress(OSError, NotImplementedError):
                make(path, place)
                return
        log.debug("'%s' is copied: no link to it can be made from '%s'", path, place)
        self._copied[place] = path
        _add_new_bytes(path, place)


def _add_new_bytes(path: Path, copy: Path) -> None:
    with path.open("rb") as source, copy.open("ab") as target:
        source.seek(target.tell())
        shutil.copyfileobj(source, target)
