"""Runs that a program keeps itself, without a job: they live as long as the process that holds their lock."""

from __future__ import annotations

import os
from pathlib import Path

from himl_cli.core.errors import BadUsage, RunNotFound
from himl_cli.core.processes import ProcessLock
from himl_cli.core.results import NewRun, RunEnd
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.local import run_store
from himl_cli.workspaces.local.disk_errors import explain_disk_error
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_store import RunStore, now_ms
from himl_cli.workspaces.local.stored_files import safe_parts

KEEPER, PROGRAM = "kept_by", "program"
LOST = (
    "the program that kept it ended without saying how it went (it was killed, or neither complete() nor "
    "fail() was "
    "called)"
)

_locks: dict[Path, ProcessLock] = {}  # of the runs that this process keeps; they live as long as it does


class KeptRuns:
    """The program-kept runs of the workspace in *folder*."""

    def __init__(self, folder: Path, store: RunStore, label: str) -> None:
        self._folder = folder
        self._store = store
        self._label = label

    def start(self, new: NewRun) -> None:
        """Record the run and keep it alive from here; one that is there and has no living keeper is kept by us from now
        on.

        Raises RunNotFound for a parent that is not there and for what cannot be an id, DiskFailed.
        """
        if len(safe_parts(new.id) or ()) != 1:
            raise RunNotFound(new.id, self._label)
        job = self._store.job_of(new.id)
        if job is not None:
            if job == new.id and self.is_kept(new.id) and self._is_open(new.id):
                self._keep(new.id)
            return
        job = self._job_for(new)
        if job == new.id:
            self._make_folder(new.id)
            self._keep(new.id)
        self._store.add(
            run_store.NewRun(
                id=new.id,
                job=job,
                parent=new.parent,
                experiment=new.experiment,
                display_name=new.display_name,
                description=new.description,
                command=new.command,
                folder=os.getcwd(),
                status=RunStatus.running,
                started=now_ms(),
                tags=new.tags,
                reason_if_lost=LOST,
            )
        )

    def end(self, run_id: str, end: RunEnd) -> None:
        """Record the end of a run that has none, and of those nested in it. Raises BadUsage for a job's: its supervisor
        records that."""
        is_own = self._store.job_of(run_id) == run_id
        if is_own and not self.is_kept(run_id):
            raise BadUsage(
                f"Run '{run_id}' is a job: how it ends is recorded when its script does.",
                hint="To stop it: himl runs cancel",
            )
        if is_own:
            for child in self._store.open_runs_of(run_id):
                if child != run_id:
                    self._store.end(child, end.status, reason="the run that it belongs to ended")
        self._store.end(run_id, end.status, reason=end.reason)
        lock = _locks.pop(self._run_folder(run_id).lock, None)
        if lock is not None:
            lock.release()

    def is_kept(self, run_id: str) -> bool:
        """Whether a program keeps the run, and not a job's supervisor."""
        return self._run_folder(run_id).read_record().get(KEEPER) == PROGRAM

    def _is_open(self, run_id: str) -> bool:
        return run_id in self._store.open_runs_of(run_id)

    def _job_for(self, new: NewRun) -> str:
        """Whose life the run's is: that of the job which it is nested in, while that lives, else its own."""
        if new.parent is None:
            return new.id
        job = self._store.job_of(new.parent)
        if job is None:
            raise RunNotFound(new.parent, self._label)
        return job if self._run_folder(job).is_supervised() else new.id

    def _make_folder(self, run_id: str) -> None:
        folder = self._run_folder(run_id)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.write_record({KEEPER: PROGRAM})
        except OSError as err:
            raise explain_disk_error(err, "Cannot record the run", folder.path) from err

    def _keep(self, run_id: str) -> None:
        """Hold the run's lock, unless somebody does."""
        path = self._run_folder(run_id).lock
        lock = ProcessLock(path)
        try:
            if path not in _locks and lock.take():
                _locks[path] = lock
        except OSError as err:
            raise explain_disk_error(err, "Cannot record the run", path.parent) from err

    def _run_folder(self, run_id: str) -> RunFolder:
        return RunFolder(self._folder.absolute() / "runs" / run_id)
