"""Progress of the mirror of a local run, in a small file that exists until the mirror is complete.

The file is `recordings/RUN.json` in the workspace's folder. Beside it are a log, and a lock that the mirror's process
holds. If `recordings` is empty, nothing is left to send. Commands check only that.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from himl_cli.core.errors import DiskFailed, HimlError
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import write_atomic
from himl_cli.core.json_text import read_json
from himl_cli.core.locks import ProcessLock, is_held
from himl_cli.core.records import dataclass
from himl_cli.core.runs import STOPPED, Run

if TYPE_CHECKING:
    from himl_cli.workspaces.base import FolderWorkspace

MIRRORS_FOLDER = "recordings"
POLL_SECONDS = 0.1
# How long another process may hold a file open. Windows then neither replaces nor reads it.
BUSY_SECONDS = 2.0
# How long himl leaves a refused mirror alone.
RETRY_SECONDS = 3600.0

Result = TypeVar("Result")


class DamagedState(DiskFailed):
    """The file does not contain the state of a mirror, so that no process can continue it."""


@dataclass()
class SentRun:
    """Data of one run that has arrived: number of points, parameters and tags by name, files with their local ETags."""

    last_point: int = 0
    parameters: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    is_started: bool = False
    is_ended: bool = False


@dataclass()
class MirrorState:
    """State of one mirror.

    `place` opens the other workspace. `is_starting` is true until the local job has started or failed to start
    (`failure`). `away` is the reason why nothing arrives at present. `not_before` is the time of the next retry
    (seconds since 1970, 0 if nothing is refused). `runs` contains the run and its nested runs, by id.
    """

    run_id: str
    place: Mapping[str, str]
    is_starting: bool = False
    failure: str = ""
    away: str = ""
    not_before: float = 0.0
    runs: dict[str, SentRun] = field(default_factory=dict)

    def sent(self, run_id: str) -> SentRun:
        return self.runs.setdefault(run_id, SentRun())

    def is_due(self) -> bool:
        """Whether a retry is due. A time too far ahead came from a wrong clock."""
        return not 0 < self.not_before - time.time() <= RETRY_SECONDS

    def to_json(self) -> str:
        runs = {  # copies, because another thread may add to them
            run_id: {name: dict(value) if isinstance(value, dict) else value for name, value in vars(sent).items()}
            for run_id, sent in self.runs.items()
        }
        return json.dumps({**vars(self), "runs": runs})


class MirrorFile:
    """State file of the mirror of *run_id*, in the workspace at *workspace*."""

    def __init__(self, workspace: Path, run_id: str) -> None:
        folder = workspace / MIRRORS_FOLDER
        self.path = folder / f"{run_id}.json"
        self.log = folder / f"{run_id}.log"
        self._kept_log = workspace / "runs" / run_id / "recording.log"
        self._lock_path = folder / f"{run_id}.lock"
        self._lock = ProcessLock(self._lock_path)

    def begin(self, state: MirrorState) -> None:
        """Create the file and hold its lock. Raises DiskFailed."""
        try:
            self.path.parent.mkdir(exist_ok=True)
            self._lock.take()
        except OSError as err:
            raise DiskFailed(f"Cannot write '{self.path}': {err.strerror}.") from err
        self.write(state)

    def take(self, seconds: float = 3.0) -> MirrorState | None:
        """Take the lock and return the state. None if there is no state, or if another process holds the lock for
        *seconds*.

        The process that starts the job holds the lock until the job has started. Only then do the seconds begin.
        """
        deadline = time.monotonic() + seconds
        while (state := self.read()) is not None:
            if not is_held(self._lock_path) and self._lock.take():
                return self.read()  # it may have changed or been removed
            if state.is_starting:
                deadline = time.monotonic() + seconds
            elif time.monotonic() > deadline:
                return None
            time.sleep(POLL_SECONDS)
        return None

    def read(self) -> MirrorState | None:
        """Read the current state. None if there is none. Raises DiskFailed, or DamagedState for other content."""
        try:
            text = _while_busy(self.path.read_bytes)
        except FileNotFoundError:
            return None
        except OSError as err:
            raise DiskFailed(f"Cannot read '{self.path}': {err.strerror}.") from err
        try:
            fields = read_json(text)
            runs = {run_id: SentRun(**sent) for run_id, sent in fields.pop("runs").items()}
            state = MirrorState(**fields, runs=runs)
            if not all(isinstance(value, str) for value in state.place.values()):
                raise TypeError("its place is of another type")
            for record, default in ((state, MirrorState("", {})), *((sent, SentRun()) for sent in runs.values())):
                for name, value in vars(default).items():
                    if not isinstance(getattr(record, name), (int, float) if name == "not_before" else type(value)):
                        raise TypeError(f"its {name} is of another type")
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise DamagedState(f"'{self.path}' is damaged: {err}.") from err
        return state

    def write(self, state: MirrorState) -> None:
        """Store *state*. Raises DiskFailed."""
        try:
            _while_busy(lambda: write_atomic(self.path, state.to_json(), is_private=True))
        except OSError as err:
            raise DiskFailed(f"Cannot write '{self.path}': {err.strerror}.") from err

    def has_run_folder(self) -> bool:
        """Whether the run has a local folder, even if it has no record yet."""
        return self._kept_log.parent.is_dir()

    def is_worked_on(self) -> bool:
        return is_held(self._lock_path)

    def release(self) -> None:
        """Release the lock, and copy the log so far to the run's folder."""
        with suppress(OSError):
            if self.log.stat().st_size and self._kept_log.parent.is_dir():
                shutil.copyfile(self.log, self._kept_log)
        self._lock.release()

    def remove(self) -> None:
        """Remove the file of a complete mirror, and move its log to the run's folder, if there is one."""
        with suppress(OSError):
            _while_busy(lambda: self.path.unlink(missing_ok=True))
        self.release()
        for leftover in (self.log, self._lock_path):  # on Windows, a process may have them open
            with suppress(OSError):
                leftover.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Rename a damaged state, so that no process continues it. Return its path."""
        damaged = self.path.with_suffix(".broken")
        try:
            os.replace(self.path, damaged)
        except OSError:  # delete it, or the next process would start over
            damaged = self.path
        self.remove()
        return damaged


def _while_busy(action: Callable[[], Result]) -> Result:
    """Perform *action*, and retry for a moment while another process has the file open. Raises what *action* raises."""
    deadline = time.monotonic() + BUSY_SECONDS
    while time.monotonic() < deadline:
        with suppress(PermissionError):
            return action()
        time.sleep(POLL_SECONDS / 2)
    return action()


def unfinished(workspace: Path) -> Iterator[str]:
    """Yield ids of runs whose mirror is incomplete, due, and without a process. Raises OSError if the folder cannot be
    read."""
    for path in sorted((workspace / MIRRORS_FOLDER).glob("*.json")):
        is_ours = os.access(path, os.R_OK | os.W_OK)  # other users' runs need their permissions
        file = MirrorFile(workspace, path.stem)
        try:
            state = file.read() if is_ours and not file.is_worked_on() else None
            if state is not None and state.is_due():
                yield path.stem
        except DamagedState:  # the process that takes the mirror sets this file aside
            yield path.stem
        except DiskFailed:
            pass


def wait_until_mirrored(
    source: FolderWorkspace, run: Run, target: str, notify: Notify, interrupted: Sequence[int]
) -> bool:
    """Wait until *run*, which has ended locally, is complete in *target*. Return False for a signal in *interrupted*,
    or if nothing arrives at present.

    *notify* receives notices of missing data and of a refused mirror.
    """
    file, begun = MirrorFile(source.folder, run.id), time.monotonic()
    worked_on, is_reported = begun, False
    while (state := file.read()) is not None:
        now = time.monotonic()
        worked_on = now if file.is_worked_on() else worked_on
        if state.not_before:
            later = "The run is stored on this machine, and later himl commands in this workspace will retry."
            notify(Notice(f"warning: not all of the run is in {target}: {state.away} {later}"))
            return False
        if interrupted or state.away or now - worked_on > 3.0:  # the mirror takes over from the submitting process
            why = f" ({state.away.rstrip('.')})" if state.away else ""
            later = f"himl sends the rest in the background. To check: himl runs show {run.id}"
            notify(Notice(f"Not all of the run is in {target} yet{why}. {later}"))
            return False
        if not is_reported and now - begun > 3.0:
            is_reported = True
            rest = f"himl sends the rest of it to {target}. To leave that to the background, press Ctrl-C."
            notify(Notice(f"The job has ended. {rest}"))
        time.sleep(POLL_SECONDS)
    try:
        why = source.run(run.id).tags.get(STOPPED, "")
    except HimlError:
        why = ""
    if why:
        notify(Notice(f"warning: not all of the run is in {target}: {why}"))
    return not why
