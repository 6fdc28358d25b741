"""The local workspace: one `.himl` folder behind the `Workspace` Protocol. Besides jobs, it stores runs that a program
records itself. Such a run is in progress as long as the process that holds its lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, NotFound, RunNotFound, WorkspaceNotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import may_write, walk_files, walk_folders
from himl_cli.core.installed import RunEnvironment
from himl_cli.core.jobs import STEP, DataSpec, JobSpec, PipelineSpec, Resumption, Snapshot, StoredJob
from himl_cli.core.locks import ProcessLock
from himl_cli.core.logged import Logged, LoggedValues, Metric, RunResults
from himl_cli.core.mounts import shares_locks
from himl_cli.core.runs import (
    ARCHIVED,
    DOUBT,
    NEW_CODE,
    Run,
    RunEnd,
    RunQuery,
    RunStatus,
    check_known,
    new_run_id,
    run_not_found,
)
from himl_cli.core.workspaces import Check, Garbage, WorkspaceFacts
from himl_cli.workspaces.base import BlobStore, FolderWorkspace, StoredPipeline
from himl_cli.workspaces.local.engines import here
from himl_cli.workspaces.local.engines.base import QUEUED, RUNNING, UNKNOWN
from himl_cli.workspaces.local.file_blobs import CodeFiles, DatastoreFolder, RunFiles, safe_parts
from himl_cli.workspaces.local.logged_values import LoggedWriter, last_metrics, last_numbers, read_results, read_texts
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_folder import (
    CHECK_PERMISSIONS,
    ENVIRONMENT,
    PLAN,
    RECORD,
    RunFolder,
    explain_disk_error,
)
from himl_cli.workspaces.local.run_store import Database, Outcome, RunStore, is_run_id

if TYPE_CHECKING:
    from himl_cli.workspaces.local.engines.queue import QueuedJobs
    from himl_cli.workspaces.local.launch_request import LaunchRequest, Plan

DEFAULT_DATASTORE = "local"
CHECK_NAME = "local workspace"
WAL, ROLLBACK = "WAL journal (a local disk)", "rollback journal (machines may share it)"
KEEPER, PROGRAM = "kept_by", "program"  # the entry of a run's record for who records it
PARENT_CANCELED = "its parent was canceled"
LOST = (
    "the program that recorded it ended without an outcome (it was killed, or neither complete() nor fail() was called)"
)

# Locks of the runs that this process records, held until it ends
_locks: dict[Path, ProcessLock] = {}


class LocalWorkspace(FolderWorkspace):
    """Runs, their files and datastores in one folder. Touches nothing outside of it."""

    def __init__(self, folder: Path, label: str = "") -> None:
        self.folder = folder
        self._label = label  # for a client on another machine

    @property
    def label(self) -> str:
        return self._label or f"local workspace '{_shown(self.folder)}'"

    @cached_property
    def _runs(self) -> RunStore:
        if not self.folder.is_dir():
            raise WorkspaceNotFound(
                f"There is no folder '{self.folder}'.",
                hint="'himl submit' creates a local workspace in the current folder.",
            )
        database = Database(self.folder / "workspace.db", create=True)
        return RunStore(database, label=self.label)

    @cached_property
    def _queued(self) -> QueuedJobs:
        from himl_cli.workspaces.local.controller import end_if_last
        from himl_cli.workspaces.local.engines.queue import QueuedJobs

        return QueuedJobs(self.folder, end_if_last)

    @cached_property
    def _metrics(self) -> MetricStore:
        return MetricStore(self._runs.database)

    @cached_property
    def _writer(self) -> LoggedWriter:
        return LoggedWriter(self._metrics)

    def close(self) -> None:
        if "_runs" in vars(self):
            self._runs.database.close()

    def _folder_of(self, run_id: str) -> RunFolder:
        return RunFolder(self.folder / "runs" / run_id)

    def run(self, run_id: str) -> Run:
        job = self._runs.job_of(run_id)
        found = self._runs.get(run_id, *self._unsupervised([] if job is None else [job]))
        if found is None:
            raise self._not_found(run_id)
        return found

    def _not_found(self, run_id: str) -> RunNotFound:
        return run_not_found(run_id, self.label, self._runs.ids_like(run_id))

    def known_ids(self) -> Sequence[str]:
        return self._runs.ids()

    def runs(self, query: RunQuery) -> Iterator[Run]:
        return self._runs.query(query, *self._unsupervised(self._runs.open_jobs()))

    def many(self, run_ids: Sequence[str]) -> Sequence[Run]:
        return self._runs.many(run_ids, *self._unsupervised(self._runs.open_jobs()))

    def last_numbers(self, query: RunQuery, name: str, *, is_metric: bool) -> Mapping[str, float | None] | None:
        lost, _ = self._unsupervised(self._runs.open_jobs())
        return last_numbers(self._runs, query, lost, name, is_metric=is_metric)

    def experiments(self) -> Mapping[str, datetime]:
        return self._runs.experiments()

    def _unsupervised(self, jobs: Sequence[str], *, now: bool = False) -> tuple[list[str], Mapping[str, str]]:
        """The lost *jobs*, which no process supervises, and the reasons for which others wait in queues or are unknown.
        Records the ends that folders have."""
        if not jobs:
            return [], {}
        states = here.states({job: str(self._folder_of(job).lock) for job in jobs})
        free = [job for job, state in states.items() if state.kind not in (RUNNING, QUEUED)]
        queued = self._runs.queued_jobs(free)
        reasons = dict(self._queued.refresh(self._runs, queued, now=now)) if queued else {}
        reasons |= {job: state.reason for job, state in states.items() if state.kind == QUEUED}
        lost = []
        for job in free:
            if job in reasons or self._runs.end_as_noted(self._folder_of(job)):
                continue
            if (status := states[job].status) is not None:
                with suppress(DiskFailed):  # this user may only read
                    self._runs.end(job, status, states[job].reason)
            elif job not in queued and states[job].kind == UNKNOWN:
                reasons[job] = f"{DOUBT}{states[job].reason}"
            else:
                lost.append(job)
        return lost, reasons

    def tag(self, run_id: str, tags: Mapping[str, str | None]) -> Run:
        self.run(run_id)
        self._runs.tag(run_id, tags)
        return self.run(run_id)

    def rename(self, run_id: str, display_name: str) -> Run:
        self.run(run_id)
        self._runs.rename(run_id, display_name, by_script=False)
        return self.run(run_id)

    def archive(self, run_id: str, *, restore: bool = False) -> Run:
        return self.tag(run_id, {ARCHIVED: None if restore else ""})

    def cancel(self, run_id: str, *, force: bool = False) -> bool:
        """Request the run's job to stop, since a nested run has no separate process. Of a run that a program records,
        only the record changes. For a run that ended before its children, stop the children."""
        run = self.run(run_id)
        if not run.status.is_final:
            self._stop(run, force=force)
            return True
        orphans = self._open_children(run_id)
        for orphan in orphans:
            self._stop(orphan, PARENT_CANCELED, force=force)
        return bool(orphans)

    def _open_children(self, run_id: str) -> list[Run]:
        """The children in progress that are separate jobs."""
        runs = (self.run(child) for child, _ in self._runs.open_children([run_id]))
        return [run for run in runs if not run.status.is_final]

    def _stop(self, run: Run, why: str = "", *, force: bool) -> None:
        """Request the job of an open run to stop. If it is unknown whether that will be read, *force* also records the
        end, so that the run is lost no more, and stops the children."""
        job = self._runs.job_of(run.id) or run.id
        folder = self._folder_of(job)
        if not force:
            check_known(run, "himl runs cancel")
        if self._is_unmanaged(job):
            self.end_run(run.id, RunEnd(RunStatus.canceled, why or "canceled"))
            return
        folder.ask_to_cancel(why)
        if queued := self._runs.queued_jobs([job]).get(job):
            from himl_cli.workspaces.local.engines import engine_named

            for child, _ in self._runs.open_children([job]):
                self._folder_of(child).ask_to_cancel(PARENT_CANCELED)
            with suppress(*[HimlError] * run.is_unknown):
                engine_named(queued[0]).cancel({job: queued[1]}, only_waiting=True)
            self._unsupervised([job], now=True)
        if run.is_unknown:
            folder.forget_holder()
            self._runs.end_job(job, Outcome(RunStatus.canceled, f"canceled with --force; {run.reason}"))
            for orphan in self._open_children(job):
                self._stop(orphan, PARENT_CANCELED, force=True)

    def metrics(self, run_id: str) -> Sequence[Metric]:
        self.run(run_id)
        return self._metrics.metrics(self._runs.nested(run_id))

    def values(self, run_id: str, *, whole: bool = True) -> LoggedValues:
        self.run(run_id)
        nested = self._runs.nested(run_id)
        metrics = self._metrics.metrics(nested) if whole else last_metrics(self._metrics, nested)
        texts = [each for nested_id in nested for each in read_texts(self._folder_of(nested_id).artifacts, nested_id)]
        return LoggedValues(metrics, texts)

    def parameters(self, run_id: str) -> Mapping[str, str]:
        self.run(run_id)
        return self._metrics.parameters(run_id)

    def results(self, runs: Sequence[Run], *, wanted: Callable[[str], bool], whole: bool) -> Mapping[str, RunResults]:
        ids = [run.id for run in runs]
        return read_results(self._runs.database, self.folder / "runs", ids, wanted=wanted, whole=whole)

    def refresh(self, runs: Sequence[Run]) -> Mapping[str, tuple[Run, RunResults]]:
        known = self._unsupervised(self._runs.open_jobs())
        with self._runs.database.reading():
            now = self._runs.many([run.id for run in runs], *known)
            results = self.results(now, wanted=lambda name: True, whole=False)
        return {run.id: (run, results[run.id]) for run in now}

    def run_files(self, run_id: str) -> BlobStore:
        self.run(run_id)
        folder = self._folder_of(run_id)
        return RunFiles(folder.path, folder.code, label=f"run '{run_id}'")

    def log_position(self, run_id: str, name: str, since: datetime) -> int | None:
        from himl_cli.workspaces.local.log_times import log_position

        self.run(run_id)
        return log_position(self._folder_of(run_id), name, since)

    def code_files(self, run_id: str) -> tuple[BlobStore, Container[str] | None] | None:
        from himl_cli.workspaces.local.staging import code_paths

        run = self.run(run_id)
        above = [self._folder_of(run.id)]
        while run.parent:
            run = self.run(run.parent)
            above.append(self._folder_of(run.id))
        step = self.run(run_id).tags.get(STEP, "")
        if code_paths(above, step) is None:
            return None
        return CodeFiles(above[0].path, lambda: code_paths(above, step) or {}, f"code of run '{run_id}'"), None

    def environment(self, run_id: str) -> RunEnvironment | None:
        from himl_cli.core.documents import from_document

        self.run(run_id)
        for each in self._runs.descendants(run_id):  # a sweep has that of its trials
            if found := self._folder_of(each).read(ENVIRONMENT):
                return from_document(RunEnvironment, found)
        return None

    def _up_to_plan(self, run_id: str) -> list[Run]:
        """The run, and those above it up to the one that has the stored plan."""
        above = [self.run(run_id)]
        while above[-1].parent and not self._folder_of(above[-1].id).read(PLAN):
            above.append(self.run(above[-1].parent))
        return above

    def stored_job(self, run_id: str) -> StoredJob | None:
        from himl_cli.workspaces.local.sweep_plan import stored_job

        above = self._up_to_plan(run_id)
        return stored_job(self._folder_of(above[-1].id), above)

    def stored_pipeline(self, run_id: str) -> StoredPipeline | None:
        from himl_cli.workspaces.local.sweep_plan import stored_pipeline

        above = self._up_to_plan(run_id)
        return stored_pipeline(self._folder_of(above[-1].id), above)

    def pipeline_code(self, run_id: str, root: str) -> BlobStore:
        """The code of `stored_pipeline` with the snapshot *root*, for another machine. Raises NotFound."""
        found = self.stored_pipeline(run_id)
        if found is None or Path(root) not in found.code:
            raise NotFound(f"Run '{run_id}' has no code from '{root}'.")
        return found.code[Path(root)]

    def output_files(self, run_id: str, key: str) -> BlobStore:
        self.run(run_id)
        outputs: Mapping[str, str] = self._folder_of(run_id).read(RECORD).get("outputs", {})
        if key not in outputs:
            raise NotFound(f"Run '{run_id}' has no output '{key}'; it has: {', '.join(outputs) or 'none'}.")
        place = f"output '{key}' of run '{run_id}'"
        return DatastoreFolder(Path(outputs[key]), place, self._runs.database, label=place)

    def datastores(self) -> Sequence[DatastoreInfo]:
        """The folders in `datastores/`. The default one is listed even if it does not exist yet."""
        root = self.folder / "datastores"
        found = [path.name for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []
        names = dict.fromkeys([DEFAULT_DATASTORE, *found])
        return [DatastoreInfo(name, "folder", str(root / name), name == DEFAULT_DATASTORE) for name in names]

    def datastore(self, name: str | None = None) -> BlobStore:
        known = {store.name: store for store in self.datastores()}
        wanted = name or DEFAULT_DATASTORE
        if wanted not in known:
            raise NotFound(
                f"No datastore '{wanted}' in {self.label}; there are: {', '.join(known)}.",
                hint=f"To add a datastore, create a folder in '{_shown(self.folder / 'datastores')}'.",
            )
        return DatastoreFolder(Path(known[wanted].location), wanted, self._runs.database)

    def input_folder(self, item: DataSpec, default_datastore: str | None) -> Path | None:
        from himl_cli.workspaces.local.launch_request import datastore_folder

        folder = datastore_folder(item, self.folder / "datastores" / (default_datastore or DEFAULT_DATASTORE))
        return folder if folder.exists() else None

    def checks(self) -> Iterator[Check]:
        try:
            facts = self.describe().facts
        except HimlError as err:
            yield Check.failed(CHECK_NAME, str(err), err.hint)
            return
        text = "no runs yet"
        if "runs" in facts:
            text = f"{int(facts['runs']):,} run{'s' * (facts['runs'] != '1')}, {facts['journal']}"
        yield Check.passed(CHECK_NAME, f"{self.label}: {text}.")
        if shares_locks(self.folder) is False:
            yield Check.note(
                CHECK_NAME,
                f"'{self.folder}' is mounted so that other machines do not see its locks, so himl sends them no jobs.",
                "Mount it with shared locks, or use it on this machine only.",
            )
        if not may_write(self.folder):
            text = f"'{self.folder}' is read-only, so himl cannot record jobs in it."
            yield Check.note(CHECK_NAME, text, CHECK_PERMISSIONS)
        with suppress(HimlError):
            found = self.garbage()
            if count := sum(each.files for each in found):
                text = f"No run needs {count:,} files ({sum(each.size for each in found) / 1e6:,.1f} MB)."
                yield Check.note(CHECK_NAME, text, "Delete them: himl gc --yes")
        yield from here.checks()

    def describe(self) -> WorkspaceFacts:
        """The folder, its default datastore, the number of runs and the kind of journal. Raises DiskFailed for a
        damaged database."""
        facts = {"folder": str(self.folder), "default_datastore": DEFAULT_DATASTORE}
        if os.path.lexists(self.folder / "workspace.db"):
            with closing(Database(self.folder / "workspace.db")) as database:
                mode = str(database.rows("PRAGMA journal_mode")[0][0])
                facts["runs"] = str(database.rows("SELECT count(*) FROM runs")[0][0])
            facts["journal"] = WAL if mode.lower() == "wal" else ROLLBACK
        return WorkspaceFacts("local", self.label, f"'{self.folder}'", facts)

    def submit(self, spec: JobSpec, *, notify: Notify) -> Run:
        return self._launch(self._request(spec, notify), notify)

    def _request(self, spec: JobSpec, notify: Notify) -> LaunchRequest | Plan:
        from himl_cli.workspaces.local.launch_request import LaunchRequest, resolve_folders, shown_command

        datastore, (spec,) = self._default_folder(spec.default_datastore), _with_editables([spec], notify)
        if spec.sweep is not None:
            from himl_cli.workspaces.local.sweep_plan import plan_sweep

            return plan_sweep(self.folder, spec, datastore, notify)
        run_id = spec.run_id or new_run_id(spec.experiment)
        folders = resolve_folders(spec, datastore, run_id, notify)
        return LaunchRequest(str(self._folder_of(run_id).path), spec, shown_command(spec), *folders)

    def adopt(self, run: Run, job: StoredJob | None, code: Path | None, environment: RunEnvironment | None) -> Run:
        from himl_cli.core.documents import to_document
        from himl_cli.workspaces.local.launch_request import stored_form
        from himl_cli.workspaces.local.staging import stage_files

        if not _can_be_id(run.id):
            raise BadUsage(f"'{run.id}' cannot be the id of a run in {self.label}.")
        if self._runs.job_of(run.id) is not None:
            hint = f"See it: himl runs show {run.id}"
            raise BadUsage(f"Run '{run.id}' exists already in {self.label}.", hint=hint)
        folder = self._folder_of(run.id)
        try:
            folder.path.mkdir(parents=True)
            if environment is not None:
                folder.write(ENVIRONMENT, to_document(environment))
            if job is not None and code is not None:
                files = [found.name for found in walk_files(str(code))]
                spec = replace(job.spec, snapshot=Snapshot(code, files, 0), brought={}, python="", in_place=False)
                folder.code.mkdir()
                stage_files(spec, folder.code, is_stopped=lambda: False)
                folder.write(PLAN, {"job": {**stored_form(spec, files), "env_names": [*job.missing]}})
            self._runs.adopt(run)
        except OSError as err:
            raise explain_disk_error(err, f"Cannot import run '{run.id}'", folder.path) from err
        return self.run(run.id)

    def batch_script(self, spec: JobSpec, notify: Notify) -> str:
        from himl_cli.workspaces.local.engines import engine_of, queue
        from himl_cli.workspaces.local.launch_request import LaunchRequest

        engine = engine_of(spec)
        request = self._request(spec, notify)
        request = request.with_specs([queue.masked(each) for each in request.specs])
        if isinstance(request, LaunchRequest):
            return engine.preview(queue.job_of(replace(request, again=True)))
        if queue.has_controller(request, engine):
            return engine.preview(queue.controller_of(request))
        return engine.preview(queue.array_of(request, 0, request.sweep.max_trials))

    def submit_pipeline(self, spec: PipelineSpec, *, notify: Notify) -> Run:
        from himl_cli.workspaces.local.sweep_plan import plan_pipeline

        jobs = _with_editables([step.job for step in spec.steps], notify)
        steps = [replace(step, job=job) for step, job in zip(spec.steps, jobs, strict=True)]
        spec = replace(spec, steps=steps)
        return self._launch(plan_pipeline(self.folder, spec, self._default_folder, notify), notify)

    def _launch(self, request: LaunchRequest | Plan, notify: Notify) -> Run:
        """Start the jobs. Returns the run as it was just recorded, without a query to an engine for a job that it has
        just accepted. Raises BadUsage or NotFound if this machine has too few GPUs for them."""
        from himl_cli.workspaces.local.launch import launch

        if any(spec.gpus for spec in request.specs):
            from himl_cli.workspaces.local.gpus import check_gpus

            check_gpus(request.specs)
        self.prepare(notify)
        if request.spec.engine is not None:
            self._queued.pauses.longest = request.spec.engine.poll
        launch(request, notify)
        return self._runs.get(request.run.id) or self.run(request.run.id)

    def resume(self, run_id: str, resumption: Resumption, *, notify: Notify) -> Run:
        from himl_cli.workspaces.local.launch import resume

        code = resumption.code
        ids = self._runs.descendants(run_id) if code is not None else ()
        children = [self.run(each) for each in ids if each != run_id]
        run = self.run(run_id)
        resume(self.folder, run, resumption, children=children, notify=notify)
        for each in (run, *children):
            if code is not None and each.status.is_final and each.status is not RunStatus.completed:
                notes = filter(None, [each.tags.get(NEW_CODE), code.note])
                self._runs.tag(each.id, {NEW_CODE: "; ".join(notes)})
        return self.run(run_id)

    def code_of(self, run_id: str) -> Sequence[tuple[Snapshot, Sequence[str]]]:
        from himl_cli.workspaces.local.staging import changed_files, copied_code

        folder = self._folder_of(run_id)
        return [(snapshot, changed_files(folder, snapshot, copy)) for copy, snapshot in copied_code(folder).items()]

    def garbage(self, before: datetime | None = None, *, delete: bool = False) -> Sequence[Garbage]:
        from himl_cli.workspaces.local.garbage import GarbageCollector

        known = self.many(self._runs.ids())
        return [*GarbageCollector(self.folder, self._runs, known).collect(before, delete=delete)]

    def python_of(self, run_id: str) -> str:
        return str(self._folder_of(run_id).read(RECORD).get("python") or "")

    def disk_size(self, run_id: str) -> int:
        size = 0
        for parent, _, names in walk_folders(str(self._folder_of(run_id).path)):  # follows no links, such as to inputs
            for name in names:
                with suppress(OSError):  # a job may delete it meanwhile
                    size += os.lstat(os.path.join(parent, name)).st_size
        return size

    def unkept_files(self, run_id: str) -> Mapping[str, Path]:
        return dict(self._folder_of(run_id).files_elsewhere())

    def _default_folder(self, datastore: str | None) -> Path:
        if datastore:
            self.datastore(datastore)
        return self.folder / "datastores" / (datastore or DEFAULT_DATASTORE)

    def folder_changed(self, run_id: str) -> int:
        try:
            return os.stat(self.folder / "runs" / run_id).st_mtime_ns
        except OSError:
            return 0

    def prepare(self, notify: Notify) -> None:
        if self.folder.is_dir():
            from himl_cli.workspaces.local.launch import remove_leftovers

            remove_leftovers(self.folder, lambda run_id: self._runs.job_of(run_id) is not None)
        else:
            self.make()
            what = self._label or f"a local workspace: '{_shown(self.folder)}'"
            notify(Notice(f"Created {what}."))

    def make(self) -> None:
        """Create the folder, with a `.gitignore` for all of it. Raises DiskFailed if that fails, for example because of
        a dangling link with its name."""
        try:
            self.folder.mkdir(0o775, parents=True, exist_ok=True)  # himl uses none that all users can write to
            (self.folder / "datastores" / DEFAULT_DATASTORE).mkdir(parents=True)
            (self.folder / "runs").mkdir()
            (self.folder / ".gitignore").write_text("*\n", encoding="utf-8")
        except OSError as err:
            if isinstance(err, FileExistsError) and self.folder.is_dir():
                return  # another submit created it at the same moment
            if self.folder.is_symlink():
                raise DiskFailed(
                    f"'{self.folder}' is a link to a folder that does not exist.",
                    hint="Remove the link, or create the folder that it points to.",
                ) from err
            raise explain_disk_error(err, "Cannot create a local workspace", self.folder) from err

    def start_run(self, new: Run) -> Run:
        """Record the run and hold its lock from now on. Take over an existing run that no live process records.

        Raises RunNotFound for an unknown parent and for an invalid id, DiskFailed.
        """
        if not _can_be_id(new.id):
            raise RunNotFound(new.id, self.label)
        known, job = self._runs.job_of(new.id), new.id
        # A nested run lasts as long as the job that it is nested in, if that job is in progress
        if known is None and new.parent is not None:
            above = self._runs.job_of(new.parent)
            if above is None:
                raise RunNotFound(new.parent, self.label)
            job = new.id if self.run(above).status.is_final else above
        is_open = known == new.id and self._is_unmanaged(new.id) and new.id in self._runs.open_runs_of(new.id)
        if is_open or (known is None and job == new.id):
            folder = self._folder_of(new.id)
            path, lock = folder.lock.absolute(), ProcessLock(folder.lock)
            try:
                if known is None:
                    folder.path.mkdir(parents=True, exist_ok=True)
                    folder.write(RECORD, {KEEPER: PROGRAM})
                if path not in _locks and lock.take():
                    _locks[path] = lock
                    lock.sign()
                    self._runs.database.check_alone(new.id)
            except (DiskFailed, OSError) as err:
                _locks.pop(path, lock).release()
                if isinstance(err, OSError):
                    raise explain_disk_error(err, "Cannot record the run", folder.path) from err
                raise
        if known is None:
            begun = replace(new, status=RunStatus.running, started=datetime.now(timezone.utc))
            self._runs.add(replace(begun, folder=os.getcwd(), reason=LOST), job=job)
        return self.run(new.id)

    def _is_unmanaged(self, run_id: str) -> bool:
        return self._folder_of(run_id).read(RECORD).get(KEEPER) == PROGRAM

    def end_run(self, run_id: str, end: RunEnd) -> Run:
        """As `RunRecorder.end_run`, including the runs nested in it. Raises BadUsage for the run of a job, whose
        supervisor records the end."""
        if self.run(run_id).status.is_final:
            return self.run(run_id)
        if self._runs.job_of(run_id) == run_id:
            if not self._is_unmanaged(run_id):
                raise BadUsage(
                    f"Run '{run_id}' is a job. himl records its end when its script ends.",
                    hint="To stop it: himl runs cancel",
                )
            self._runs.end_nested(run_id, end.status, "the run that it belongs to ended")
        self._runs.end(run_id, end.status, reason=end.reason)
        ended = self.run(run_id)
        if (lock := _locks.pop(self._folder_of(run_id).lock.absolute(), None)) is not None:
            self._runs.database.is_guarded = True  # from now on, another machine may record
            lock.release()
        return ended

    def log(self, run_id: str, entries: Sequence[Logged]) -> None:
        if self._runs.job_of(run_id) is None:
            raise self._not_found(run_id)
        self._writer.write(run_id, entries, self._folder_of(run_id).artifacts)

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """As `RunRecorder.log_parameters`. Raises BadUsage for a parameter to which this attempt gave another value,
        RunNotFound."""
        if self._runs.job_of(run_id) is None:
            raise self._not_found(run_id)
        self._metrics.log(run_id, [], parameters.items())

    def settle(self, run_id: str, seconds: float = 60.0) -> None:
        """Return at once, since all stored values can be read."""
        self.run(run_id)

    def logged(self, run_id: str, after: int) -> tuple[Sequence[Logged], int]:
        return self._metrics.logged_after(run_id, after)

    def delete(self, run_id: str, *, force: bool = False) -> None:
        """As `FolderWorkspace.delete`. Also raises BadUsage while its job or a child run is in progress."""
        doomed = self._runs.descendants(self.run(run_id).id)
        for each in map(self.run, [self._runs.job_of(run_id) or run_id, *doomed]):
            if each.status.is_final or (force and each.is_unknown):
                continue
            check_known(each, "himl runs delete")
            raise BadUsage(f"Run '{each.id}' is still in progress.", hint=f"Stop it first: himl runs cancel {each.id}")
        for run_id in doomed if force else ():
            self._folder_of(run_id).forget_holder()
        self._runs.delete(doomed, lambda name: self._folder_of(name).remove())

    def delete_rest(self, run_id: str) -> bool:
        if has_rest := self._runs.has_rest(run_id):
            self._runs.delete([run_id], lambda name: self._folder_of(name).remove())
        return has_rest


def _with_editables(jobs: Sequence[JobSpec], notify: Notify) -> Sequence[JobSpec]:
    from himl_cli.core.editables import with_editables

    found = [with_editables(job, os.environ) for job in jobs]
    for text in dict.fromkeys(remark for _, remarks in found for remark in remarks):
        notify(Notice(text))
    return [job for job, _ in found]


def _can_be_id(name: str) -> bool:
    """Whether a run can get the id *name*, which other systems and users choose."""
    return is_run_id(name) and safe_parts(name) is not None


def _shown(folder: Path) -> str:
    """The folder relative to the current one, unless that path is longer."""
    try:
        relative = os.path.relpath(folder)
    except ValueError:  # another drive, on Windows
        return str(folder)
    return str(folder) if relative.startswith(os.path.join("..", "..")) else relative
