"""The folder that TensorBoard is given: a link for each event file, so that it shows the chosen runs only, wherever
their files lie."""

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
        self._places: dict[tuple[str, str], Path] = {}
        self._copied: dict[tuple[str, str], Path] = {}  # where no link can be made: the files, whose copies are kept up

    def show(self, run: str, files: Sequence[EventFile]) -> None:
        """Let *run* consist of *files*."""
        before = self._shown.get(run, {})
        now = {file.name: file.path for file in files}
        try:
            for name in before.keys() - now.keys():
                self._drop(run, name)
            for name, path in now.items():
                if before.get(name) != path:
                    self._link(run, name, path)
                elif (run, name) in self._copied:
                    _add_new_bytes(path, self._places[run, name])
        except OSError as err:
            raise explained(err, f"Cannot show '{err.filename}'") from err
        self._shown[run] = now

    def _drop(self, run: str, name: str) -> None:
        self._copied.pop((run, name), None)
        place = self._places.pop((run, name), None)
        if place is not None:
            with suppress(PermissionError):  # Windows keeps a file that TensorBoard reads
                place.unlink(missing_ok=True)

    def _link(self, run: str, name: str, path: Path) -> None:
        """Link to the file at *path*; on Windows, where not everybody may, by another name of it, and on another disk
        by a copy that is kept up."""
        self._drop(run, name)
        place = _free(self.root.joinpath(run, *name.split("/")))
        place.parent.mkdir(parents=True, exist_ok=True)
        self._places[run, name] = place
        for make in (os.symlink, os.link):
            with suppress(OSError, NotImplementedError):
                make(path, place)
                return
        log.debug("'%s' is copied: no link to it can be made from '%s'", path, place)
        with (
            path.open("rb") as source,
            place.open("xb") as target,
        ):  # never what lies there already: it may be another name of somebody's file
            shutil.copyfileobj(source, target)
        self._copied[run, name] = path


def _free(place: Path) -> Path:
    """*place*, or a name beside it where that is still taken."""
    names = (place, *(place.with_name(f"{place.name}.himl{number}") for number in range(2, 1000)))
    return next((name for name in names if not os.path.lexists(name)), place)


def _add_new_bytes(path: Path, copy: Path) -> None:
    with path.open("rb") as source, copy.open("ab") as target:
        source.seek(target.tell())
        shutil.copyfileobj(source, target)
