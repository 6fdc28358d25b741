"""The event files of one run as they come: served where they lie, or copied here."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.file_tree import walk_files
from himl_cli.core.runs import Run
from himl_cli.services.tensorboard.bringing import bring
from himl_cli.services.tensorboard.event_files import event_files, is_event_file, readable_name
from himl_cli.services.tensorboard.growing_copy import GrowingCopy, first_name
from himl_cli.services.transfer.names import UnsafeName, safe_relative
from himl_cli.workspaces.abilities import ServesFiles
from himl_cli.workspaces.base import Workspace

LOOKS = 3
"""At a file that changes while it is read, before the next round is waited for."""


@dataclass(frozen=True)
class EventFile:
    """`name` below the run's folder in TensorBoard (with `/`), and where the file lies here."""

    name: str
    path: Path


class RunFeed(ABC):
    """Looks for new event files and new bytes of one run until it has ended. One thread at a time."""

    def __init__(self, workspace: Workspace, run: Run, log_dir: str) -> None:
        self._workspace = workspace
        self._log_dir = log_dir
        self._is_fresh = True  # `run` was asked for just now
        self.run = run
        self.name = readable_name(run)
        self.files: list[EventFile] = []
        self.new_bytes = 0
        self.is_over = False

    @property
    @abstractmethod
    def folder(self) -> Path | None:
        """Where the run's event files lie; None where there are none."""

    @abstractmethod
    def _look(self) -> bool:
        """Bring `files` up to date; False where something changed meanwhile, so that another look is needed."""

    def look(self) -> None:
        """See what is new. The state is asked before the files, so that no last bytes are missed. Raises HimlError; a later look goes on."""
        if not self._is_fresh:
            self.run = self._workspace.run(self.run.id)
        is_complete = self._look()
        self._is_fresh = False
        self.is_over = is_complete and self.run.status.is_final


class ServedInPlace(RunFeed):
    """Event files that lie on this machine."""

    def __init__(self, workspace: Workspace, places: ServesFiles, run: Run, log_dir: str) -> None:
        super().__init__(workspace, run, log_dir)
        self._places = places

    @property
    def folder(self) -> Path | None:
        roots = {file.path.parents[file.name.count("/")] for file in self.files}
        return Path(os.path.commonpath(roots)) if roots else None

    def _look(self) -> bool:
        found = event_files(self._workspace.run_files(self.run.id), self._log_dir)
        placed = {name: self._places.file_path(self.run.id, blob.name) for name, blob in found.items()}
        self.files = [EventFile(name, path.absolute()) for name, path in placed.items() if path is not None]
        return True


class CopiedHere(RunFeed):
    """Event files of a service, copied to *folder*; what an earlier himl left there is shown from the start."""

    def __init__(self, workspace: Workspace, run: Run, log_dir: str, folder: Path) -> None:
        super().__init__(workspace, run, log_dir)
        self._folder = folder
        self._copies: dict[str, GrowingCopy] = {}
        self._store = workspace.run_files(run.id)  # here, in one thread: it opens what all runs share
        self.files = _left_in(folder)

    @property
    def folder(self) -> Path | None:
        return self._folder if self.files else None

    def _look(self) -> bool:
        self.new_bytes = 0
        return any(self._bring() for _ in range(LOOKS))

    def _bring(self) -> bool:
        shown = {name: blob for name, blob in event_files(self._store, self._log_dir).items() if blob.size and _can_be_kept(name)}
        copies = self._copies_of({name: blob.name for name, blob in shown.items()})
        brought = bring(self._store, {blob.name: blob for blob in shown.values()}, copies)
        self.new_bytes += brought.bytes
        paths = [copies[blob.name].path for blob in shown.values()]
        self.files = [_copied(self._folder, path) for path in paths if path.exists()]
        if brought.error is not None:
            raise brought.error
        return not brought.is_behind

    def _copies_of(self, names: Mapping[str, str]) -> dict[str, GrowingCopy]:
        """The copies by the names in the store, given those by the names shown."""
        for shown, name in names.items():
            if name not in self._copies:
                self._copies[name] = GrowingCopy(self._folder.joinpath(*safe_relative(shown)))
        return {name: self._copies[name] for name in names.values()}


def _left_in(folder: Path) -> list[EventFile]:
    """The copies in *folder*, of each file the last version; none where it cannot be read, which the first look tells."""
    try:
        left = {found.name for found in walk_files(str(folder)) if is_event_file(found.name)}
    except OSError:
        return []
    first = sorted(name for name in left if first_name(name) not in left or first_name(name) == name)
    return [_copied(folder, GrowingCopy(folder.joinpath(*name.split("/"))).path) for name in first]


def _copied(folder: Path, path: Path) -> EventFile:
    """The copy at *path*, by its own name: one that goes on under another name is another file to TensorBoard too."""
    return EventFile(path.relative_to(folder).as_posix(), path)


def _can_be_kept(name: str) -> bool:
    try:
        safe_relative(name)
    except UnsafeName:
        return False
    return True
