"""Runs that a program records itself, without a job: they live as long as the process that holds their lock."""

from __future__ import annotations

import os
from pathlib import Path

from himl_cli.core.errors import BadUsage, RunNotFound
from himl_cli.core.processes import ProcessLock
from himl_cli.core.results import NewRun, RunEnd
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.local.run_folder import RECORD, RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_store import RunStore, now_ms

KEEPER, PROGRAM = "kept_by", "program"
"""What a run's record says of who records it."""
LOST = (
    "the program that kept it ended without saying how it went (it was killed, or neither complete() nor "
    "fail() was called)"
)

_locks: dict[Path, ProcessLock] = {}  # of the runs that this process records; they live as long as it does


class UnmanagedRuns:
    """Those of the workspace in *folder*."""

    def __init__(self, folder: Path, store: RunStore, label: str) -> None:
        self._runs = folder.absolute() / "runs"
        self._store = store
        self._label = label

    def start(self, new: NewRun) -> None:
        """Record the run and hold its lock from here on; of one that is there and that no living process records, too.

        Raises RunNotFound for a parent that is not there and for what cannot be an id, DiskFailed.
        """
        from himl_cli.workspaces.local.file_blobs import safe_parts

        if len(safe_parts(new.id) or ()) != 1:
            raise RunNotFound(new.id, self._label)
        job = self._store.job_of(new.id)
        if job is not None:
            if job == new.id and self.is_unmanaged(new.id) and new.id in self._store.open_runs_of(new.id):
                self._hold(new.id)
            return
        job = new.id
        if new.parent is not None:  # it lives as long as the job which it is nested in, while that lives
            above = self._store.job_of(new.parent)
            if above is None:
                raise RunNotFound(new.parent, self._label)
            job = above if RunFolder(self._runs / above).is_supervised() else new.id
        if job == new.id:
            self._hold(new.id, is_new=True)
        self._store.add(
            new, job=job, folder=os.getcwd(), status=RunStatus.running, started=now_ms(), reason_if_lost=LOST
        )

    def end(self, run_id: str, end: RunEnd) -> None:
        """Record the end of a run that has none, and of those nested in it. Raises BadUsage for a job's: its supervisor
        records that."""
        if self._store.job_of(run_id) == run_id:
            if not self.is_unmanaged(run_id):
                raise BadUsage(
                    f"Run '{run_id}' is a job: how it ends is recorded when its script does.",
                    hint="To stop it: himl runs cancel",
                )
            for child in self._store.open_runs_of(run_id):
                if child != run_id:
                    self._store.end(child, end.status, reason="the run that it belongs to ended")
        self._store.end(run_id, end.status, reason=end.reason)
        lock = _locks.pop(RunFolder(self._runs / run_id).lock, None)
        if lock is not None:
            lock.release()

    def is_unmanaged(self, run_id: str) -> bool:
        """Whether a program records the run, and not a job's supervisor."""
        return RunFolder(self._runs / run_id).read(RECORD).get(KEEPER) == PROGRAM

    def _hold(self, run_id: str, *, is_new: bool = False) -> None:
        """Take the run's lock, unless somebody has it."""
        folder = RunFolder(self._runs / run_id)
        lock = ProcessLock(folder.lock)
        try:
            if is_new:
                folder.path.mkdir(parents=True, exist_ok=True)
                folder.write(RECORD, {KEEPER: PROGRAM})
            if folder.lock not in _locks and lock.take():
                _locks[folder.lock] = lock
        except OSError as err:
            raise explain_disk_error(err, "Cannot record the run", folder.path) from err
