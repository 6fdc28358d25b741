"""The event files of one run as they come: served where they lie, or copied here."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.files import walk_files
from himl_cli.core.runs import Run, RunStatus
from himl_cli.services.tensorboard.bringing import Tally, bring
from himl_cli.services.tensorboard.event_files import EventFinder, is_event_file
from himl_cli.services.tensorboard.growing_copy import GrowingCopy, first_name
from himl_cli.services.tensorboard.names import CopyNames
from himl_cli.services.transfer.names import UnsafeName, safe_relative
from himl_cli.workspaces.base import BlobStore, FolderWorkspace, Workspace

LOOKS = 3
"""At files that change while they are read, before the next time is waited for; looks that brought something do not
count."""


@dataclass(frozen=True)
class EventFile:
    """`name` below the run's folder in TensorBoard (with `/`), and where the file lies here."""

    name: str
    path: Path


class RunFeed(ABC):
    """Looks for new event files and new bytes of one run until it has ended. One thread at a time.

    `run` is the record as it was last asked for, by whoever asks for looks; `left_out` are names of event files that
    cannot be kept here; `is_behind` says that files changed each time the last look read them.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.files: list[EventFile] = []
        self.tally = Tally()
        self.is_over = False
        self.has_looked = False
        self.is_behind = False
        self.left_out: set[str] = set()
        self._has_begun = False
        self._went_on = False

    @property
    @abstractmethod
    def folder(self) -> Path | None:
        """Where the run's event files lie; None where there are none."""

    def so_far(self) -> list[EventFile]:
        """`files`, also while a look goes on: those too of which a part has come by now."""
        return self.files

    @abstractmethod
    def _look(self, *, is_last: bool) -> bool:
        """Bring `files` up to date; False where something changed meanwhile, so that another look is needed."""

    def look(self) -> None:
        """See what is new. A state that was asked for before is what counts: no last bytes are missed. Raises
        HimlError; a later look goes on."""
        status = self.run.status
        if self._has_begun:
            self.tally = Tally()
        self._has_begun = True
        if self.has_looked and status is RunStatus.queued:
            return
        is_complete = self._look(is_last=status.is_final)
        self.is_behind = not is_complete
        self.has_looked = True
        if not status.is_final:
            self._went_on = True
        elif is_complete:  # of a run that ended just now the last bytes may take a moment: it is looked at once more
            self.is_over, self._went_on = not self._went_on, False


class ServedInPlace(RunFeed):
    """Event files that lie on this machine."""

    def __init__(self, store: BlobStore, places: FolderWorkspace, run: Run, name: str, log_dir: str) -> None:
        super().__init__(run, name)
        self._places = places
        self._finder = EventFinder(store, log_dir)

    @property
    def folder(self) -> Path | None:
        roots = {file.path.parents[file.name.count("/")] for file in self.files}
        return Path(os.path.commonpath(roots)) if roots else None

    def _look(self, *, is_last: bool) -> bool:
        placed = {
            name: self._places.file_path(self.run.id, blob.name)
            for name, blob in self._finder.find(is_last=is_last).items()
        }
        self.files = [EventFile(name, path.absolute()) for name, path in placed.items() if path is not None]
        return True


class CopiedHere(RunFeed):
    """Event files of a service, copied to *folder*; what an earlier himl left there is shown from the start."""

    def __init__(self, workspace: Workspace, run: Run, name: str, log_dir: str, folder: Path) -> None:
        super().__init__(run, name)
        self._folder = folder
        self._copies: dict[str, GrowingCopy] = {}
        self._coming: list[GrowingCopy] = []
        self._store = workspace.run_files(run.id)
        self._finder = EventFinder(self._store, log_dir)
        self._names = CopyNames()
        self._said_left_out: set[str] = set()
        self.files = _left_in(folder)

    @property
    def folder(self) -> Path | None:
        return self._folder if self.files else None

    def so_far(self) -> list[EventFile]:
        coming = self._coming
        return (
            [_copied(self._folder, path) for copy in coming if (path := copy.path).exists()] if coming else self.files
        )

    def _look(self, *, is_last: bool) -> bool:
        in_vain = 0
        while in_vain < LOOKS:
            before = self.tally.here
            if self._bring(is_last):
                return True
            in_vain += self.tally.here == before
        return False

    def _bring(self, is_last: bool) -> bool:
        found = {name: blob for name, blob in self._finder.find(is_last=is_last).items() if blob.size}
        shown = {name: blob for name, blob in found.items() if self._can_be_kept(name)}
        self._leave_out(found.keys() - shown.keys())
        copies = self._copies_of({name: blob.name for name, blob in shown.items()})
        self._coming = [*copies.values()]
        brought = bring(self._store, {blob.name: blob for blob in shown.values()}, copies, self.tally)
        self.files = self.so_far()
        if brought.error is not None:
            raise brought.error
        return not brought.is_behind

    def _can_be_kept(self, name: str) -> bool:
        """Whether a file below the folder can have the name, and no link leads out of it on the way there."""
        try:
            parts = safe_relative(name)
        except UnsafeName:
            return False
        path = self._folder.joinpath(*parts)
        return not any(os.path.islink(one) for one in (path, *path.parents[: len(parts)]))

    def _leave_out(self, names: AbstractSet[str]) -> None:
        self.left_out |= names - self._said_left_out
        self._said_left_out |= names

    def _copies_of(self, names: Mapping[str, str]) -> dict[str, GrowingCopy]:
        """The copies by the names in the store, given those by the names shown."""
        for shown, name in sorted(names.items()):
            if name not in self._copies:
                self._copies[name] = GrowingCopy(self._folder.joinpath(*safe_relative(self._names.of(shown))))
        return {name: self._copies[name] for name in names.values()}


def _left_in(folder: Path) -> list[EventFile]:
    """The copies in *folder*, of each file the last version; none where it cannot be read, which the first look
    tells."""
    try:
        left = {found.name for found in walk_files(str(folder)) if is_event_file(found.name)}
    except OSError:
        return []
    first = sorted(name for name in left if first_name(name) not in left or first_name(name) == name)
    return [_copied(folder, GrowingCopy(folder.joinpath(*name.split("/"))).path) for name in first]


def _copied(folder: Path, path: Path) -> EventFile:
    """The copy at *path*, by its own name: one that goes on under another name is another file to TensorBoard too."""
    return EventFile(path.relative_to(folder).as_posix(), path)
