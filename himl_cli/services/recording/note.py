"""What is known of a recording, in a small file that is there as long as the recording is not done.

`recordings/RUN.json` in the workspace's folder, with a lock beside it that whoever is at work holds, and a log. A
workspace whose folder `recordings` is empty has nothing left to tell: that is all a command has to look at.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from himl_cli.core.errors import DiskFailed
from himl_cli.core.files import write_atomic
from himl_cli.core.processes import ProcessLock, is_held
from himl_cli.core.text import read_json

FOLDER = "recordings"
SECONDS_BETWEEN_TRIES = 0.1
SECONDS_FOR_ANOTHER = 3.0
"""So long a recorder waits for another one to end, should that be about to."""
SECONDS_OF_OTHERS = 2.0
"""So long somebody else may have a file open that is to be replaced, or replace one that is to be read, which Windows
refuses."""
SECONDS_PUT_OFF = (600.0, 86400.0)
"""So long a recording that is refused is left alone, at first and at most: as long as it has been refused already."""
LONGEST_REFUSED = 30 * 86400.0
"""In seconds; then it is given up."""

Result = TypeVar("Result")


class DamagedNote(DiskFailed):
    """What can be read is no note: nobody can go on with it."""


@dataclass
class Told:
    """What of one run has arrived: its points up to a place, parameters and tags by name, files with their ETags
    here."""

    last_point: int = 0
    parameters: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    is_started: bool = False
    is_ended: bool = False

    def as_json(self) -> dict[str, Any]:
        fields = vars(self)
        return {
            name: dict(value) if isinstance(value, dict) else value for name, value in fields.items()
        }  # another thread may add to them


@dataclass
class Note:
    """One recording. `place` is what opens the other workspace; `is_starting` until the job here is started or has
    failed to start (`failure`).

    `away` is why nothing arrives at present; `refused_since` when that was refused first, `not_before` when it is worth
    another try (both: seconds since 1970, 0 where nothing is refused). `runs` are the run and those nested in it, by
    id.
    """

    run_id: str
    place: Mapping[str, str]
    is_starting: bool = False
    failure: str = ""
    away: str = ""
    refused_since: float = 0.0
    not_before: float = 0.0
    runs: dict[str, Told] = field(default_factory=dict)

    def told(self, run_id: str) -> Told:
        return self.runs.setdefault(run_id, Told())

    def put_off(self) -> bool:
        """Nobody is to try again for a while, the longer the longer it is refused; False where it has been for too
        long, and is given up."""
        now = time.time()
        self.refused_since = min(self.refused_since or now, now)
        refused, (shortest, longest) = now - self.refused_since, SECONDS_PUT_OFF
        self.not_before = now + min(longest, max(shortest, refused))
        return refused <= LONGEST_REFUSED

    def is_due(self) -> bool:
        """Whether it is worth a try now."""
        left = self.not_before - time.time()
        return not 0 < left <= SECONDS_PUT_OFF[1]  # more than that was set by a clock that was wrong

    def to_json(self) -> str:
        return json.dumps({**vars(self), "runs": {run_id: told.as_json() for run_id, told in self.runs.items()}})


class NoteFile:
    """The note of the recording of *run_id*, in the workspace at *workspace*."""

    def __init__(self, workspace: Path, run_id: str) -> None:
        folder = workspace / FOLDER
        self.path = folder / f"{run_id}.json"
        self.log = folder / f"{run_id}.log"
        self._kept_log = workspace / "runs" / run_id / "recording.log"
        self._lock_path = folder / f"{run_id}.lock"
        self._lock = ProcessLock(self._lock_path)

    def begin(self, note: Note) -> None:
        """Make the note, its lock held by this process. Raises DiskFailed."""
        try:
            self.path.parent.mkdir(exist_ok=True)
            self._lock.take()
        except OSError as err:
            raise DiskFailed(f"Cannot write '{self.path}': {err.strerror}.") from err
        self.write(note)

    def take(self, patience: float = SECONDS_FOR_ANOTHER) -> Note | None:
        """The note, its lock held by this process from now on; None where there is none, or somebody else stays at work
        on it for *patience* seconds.

        Whoever starts the job holds the lock until that is done, and is waited for; only then does the patience begin.
        """
        deadline = time.monotonic() + patience
        while (note := self.read()) is not None:
            if not is_held(self._lock_path) and self._lock.take():
                return self.read()  # it may be done, or have changed, since it was read
            if note.is_starting:
                deadline = time.monotonic() + patience
            elif time.monotonic() > deadline:
                return None
            time.sleep(SECONDS_BETWEEN_TRIES)
        return None

    def read(self) -> Note | None:
        """The note as it is now; None where there is none. Raises DiskFailed, DamagedNote for what is none."""
        try:
            text = _patiently(lambda: self.path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as err:
            raise DiskFailed(f"Cannot read '{self.path}': {err.strerror}.") from err
        try:
            fields = read_json(text)
            runs = {run_id: Told(**told) for run_id, told in fields.pop("runs").items()}
            note = Note(**fields, runs=runs)
            if not all(isinstance(value, str) for value in note.place.values()):
                raise TypeError("its place is none")
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise DamagedNote(f"'{self.path}' is damaged: {err}.") from err
        return note

    def write(self, note: Note) -> None:
        """Raises DiskFailed."""
        try:
            _patiently(lambda: write_atomic(self.path, note.to_json(), is_private=True))
        except OSError as err:
            raise DiskFailed(f"Cannot write '{self.path}': {err.strerror}.") from err

    def has_run_folder(self) -> bool:
        """Whether there are files of the run here, although it may not be on record yet."""
        return self._kept_log.parent.is_dir()

    def is_worked_on(self) -> bool:
        return is_held(self._lock_path)

    def release(self) -> None:
        """Leave it to somebody else; what its log says so far can be read in the run's folder."""
        self._keep_log()
        self._lock.release()

    def remove(self) -> None:
        """The recording is done: its log moves to the run's folder, where that is."""
        self._remove(self.path)

    def set_aside(self) -> Path:
        """A damaged note is kept under another name, by which nobody goes on with it. Where it is now."""
        aside = self.path.with_suffix(".broken")
        try:
            os.replace(self.path, aside)
        except OSError:  # then it is not kept: whoever meets it would begin all over
            aside = self.path
        self._remove(self.path)
        return aside

    def _remove(self, note: Path) -> None:
        self._keep_log()
        with suppress(OSError):
            _patiently(lambda: note.unlink(missing_ok=True))
        with suppress(OSError):  # on Windows the log of this very process
            self.log.unlink(missing_ok=True)
        self._lock.release()
        with suppress(OSError):  # on Windows somebody may be looking at it
            self._lock_path.unlink(missing_ok=True)

    def _keep_log(self) -> None:
        with suppress(OSError):
            if self.log.stat().st_size and self._kept_log.parent.is_dir():
                shutil.copyfile(self.log, self._kept_log)


def _patiently(action: Callable[[], Result]) -> Result:
    """Do it, also where somebody has the file open for a moment. Raises what *action* raises."""
    deadline = time.monotonic() + SECONDS_OF_OTHERS
    while time.monotonic() < deadline:
        with suppress(PermissionError):
            return action()
        time.sleep(SECONDS_BETWEEN_TRIES / 2)
    return action()


def unfinished(workspace: Path) -> Iterator[str]:
    """Ids of the runs whose recording is not done, that nobody works on, and for which it is time."""
    with suppress(OSError):
        for path in sorted((workspace / FOLDER).glob("*.json")):
            is_ours = os.access(path, os.R_OK | os.W_OK)  # somebody else's run is told with their rights, not with ours
            file = NoteFile(workspace, path.stem)
            if is_ours and not file.is_worked_on() and _is_due(file):
                yield path.stem


def _is_due(file: NoteFile) -> bool:
    """Also for a damaged note, which whoever takes it up sets aside."""
    try:
        note = file.read()
    except DamagedNote:
        return True
    except DiskFailed:
        return False
    return note is not None and note.is_due()
