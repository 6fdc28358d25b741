"""How far a run here was mirrored to another workspace, in a small file that is there until the mirror is complete.

`recordings/RUN.json` in the workspace's folder, with a lock beside it that whoever is at work holds, and a log. An
empty folder `recordings` means that nothing is left to send: that is all a command has to look at.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from himl_cli.core.errors import DiskFailed, HimlError
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import write_atomic
from himl_cli.core.processes import ProcessLock, is_held
from himl_cli.core.runs import STOPPED, Run
from himl_cli.core.text import read_json

if TYPE_CHECKING:
    from himl_cli.workspaces.base import FolderWorkspace

FOLDER = "recordings"
POLL_SECONDS = 0.1
BUSY_SECONDS = 2.0  # that somebody else may have a file open, which Windows then neither replaces nor reads
RETRY_SECONDS = 3600.0  # that a mirror which is refused is left alone

Result = TypeVar("Result")


class DamagedState(DiskFailed):
    """What can be read is no state of a mirror: nobody can go on with it."""


@dataclass
class SentRun:
    """What of one run has arrived: its points up to a place, parameters and tags by name, files with their ETags
    here."""

    last_point: int = 0
    parameters: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    is_started: bool = False
    is_ended: bool = False


@dataclass
class MirrorState:
    """One mirror. `place` is what opens the other workspace; `is_starting` until the job here is started or has failed
    to start (`failure`).

    `away` is why nothing arrives at present; `not_before` when it is worth another try (seconds since 1970; 0 where
    nothing is refused). `runs` are the run and those nested in it, by id.
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
        """Whether it is worth a try now; a time too far off was set by a clock that was wrong."""
        return not 0 < self.not_before - time.time() <= RETRY_SECONDS

    def to_json(self) -> str:
        runs = {  # copies: another thread may add to them
            run_id: {name: dict(value) if isinstance(value, dict) else value for name, value in vars(sent).items()}
            for run_id, sent in self.runs.items()
        }
        return json.dumps({**vars(self), "runs": runs})


class MirrorFile:
    """The state of the mirror of *run_id*, in the workspace at *workspace*."""

    def __init__(self, workspace: Path, run_id: str) -> None:
        folder = workspace / FOLDER
        self.path = folder / f"{run_id}.json"
        self.log = folder / f"{run_id}.log"
        self._kept_log = workspace / "runs" / run_id / "recording.log"
        self._lock_path = folder / f"{run_id}.lock"
        self._lock = ProcessLock(self._lock_path)

    def begin(self, state: MirrorState) -> None:
        """Make the file, its lock held by this process. Raises DiskFailed."""
        try:
            self.path.parent.mkdir(exist_ok=True)
            self._lock.take()
        except OSError as err:
            raise DiskFailed(f"Cannot write '{self.path}': {err.strerror}.") from err
        self.write(state)

    def take(self, seconds: float = 3.0) -> MirrorState | None:
        """The state, its lock held by this process from now on; None where there is none, or somebody else stays at
        work on it for so many *seconds*.

        Whoever starts the job holds the lock until that is done, and is waited for; only then do the seconds begin.
        """
        deadline = time.monotonic() + seconds
        while (state := self.read()) is not None:
            if not is_held(self._lock_path) and self._lock.take():
                return self.read()  # it may be done, or have changed, since it was read
            if state.is_starting:
                deadline = time.monotonic() + seconds
            elif time.monotonic() > deadline:
                return None
            time.sleep(POLL_SECONDS)
        return None

    def read(self) -> MirrorState | None:
        """The state as it is now; None where there is none. Raises DiskFailed, DamagedState for what is none."""
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
        """Raises DiskFailed."""
        try:
            _while_busy(lambda: write_atomic(self.path, state.to_json(), is_private=True))
        except OSError as err:
            raise DiskFailed(f"Cannot write '{self.path}': {err.strerror}.") from err

    def has_run_folder(self) -> bool:
        """Whether there are files of the run here, although it may not be on record yet."""
        return self._kept_log.parent.is_dir()

    def is_worked_on(self) -> bool:
        return is_held(self._lock_path)

    def release(self) -> None:
        """Leave it to somebody else; what its log has so far can be read in the run's folder."""
        with suppress(OSError):
            if self.log.stat().st_size and self._kept_log.parent.is_dir():
                shutil.copyfile(self.log, self._kept_log)
        self._lock.release()

    def remove(self) -> None:
        """The mirror is complete: its log moves to the run's folder, where that is."""
        with suppress(OSError):
            _while_busy(lambda: self.path.unlink(missing_ok=True))
        self.release()
        for leftover in (self.log, self._lock_path):  # on Windows the log of this very process, or somebody's look
            with suppress(OSError):
                leftover.unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """A damaged state is kept under another name, by which nobody goes on with it. Where it is now."""
        damaged = self.path.with_suffix(".broken")
        try:
            os.replace(self.path, damaged)
        except OSError:  # then it is not kept: the next process would begin all over
            damaged = self.path
        self.remove()
        return damaged


def _while_busy(action: Callable[[], Result]) -> Result:
    """Do it, also where somebody has the file open for a moment. Raises what *action* raises."""
    deadline = time.monotonic() + BUSY_SECONDS
    while time.monotonic() < deadline:
        with suppress(PermissionError):
            return action()
        time.sleep(POLL_SECONDS / 2)
    return action()


def unfinished(workspace: Path) -> Iterator[str]:
    """Ids of the runs whose mirror is incomplete, that nobody works on, and for which it is time. Raises OSError where
    that cannot be looked at."""
    for path in sorted((workspace / FOLDER).glob("*.json")):
        is_ours = os.access(path, os.R_OK | os.W_OK)  # somebody else's run is sent with their rights, not with ours
        file = MirrorFile(workspace, path.stem)
        try:
            state = file.read() if is_ours and not file.is_worked_on() else None
            if state is not None and state.is_due():
                yield path.stem
        except DamagedState:  # whoever takes it up sets it aside
            yield path.stem
        except DiskFailed:
            pass


def wait_until_mirrored(
    source: FolderWorkspace, run: Run, target: str, notify: Notify, interrupted: Sequence[int]
) -> bool:
    """Whether all of *run*, which has ended here, has arrived in *target*; False once *interrupted* holds a signal, or
    nothing arrives at present.

    *notify* hears of what is still to come, and of a mirror that was refused.
    """
    file, begun = MirrorFile(source.folder, run.id), time.monotonic()
    worked_on, is_reported = begun, False
    while (state := file.read()) is not None:
        now = time.monotonic()
        worked_on = now if file.is_worked_on() else worked_on
        if state.not_before:
            later = "It is kept here, and himl commands in this workspace try again later."
            notify(Notice(f"warning: not all of the run is in {target}: {state.away} {later}"))
            return False
        if interrupted or state.away or now - worked_on > 3.0:  # the mirror takes over from whoever submitted
            why = f" ({state.away.rstrip('.')})" if state.away else ""
            later = f"that goes on in the background. See how it goes: himl runs show {run.id}"
            notify(Notice(f"Not all of the run is in {target} yet{why}; {later}"))
            return False
        if not is_reported and now - begun > 3.0:
            is_reported = True
            rest = f"The rest of it is on its way to {target}; Ctrl-C leaves that to the background."
            notify(Notice(f"The job has ended. {rest}"))
        time.sleep(POLL_SECONDS)
    try:
        why = source.run(run.id).tags.get(STOPPED, "")
    except HimlError:
        why = ""
    if why:
        notify(Notice(f"warning: not all of the run is in {target}: {why}"))
    return not why
