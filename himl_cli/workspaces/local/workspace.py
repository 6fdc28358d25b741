"""The local workspace: one `.himl` folder behind the `Workspace` Protocol."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, NotFound, RunNotFound, WorkspaceNotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DataSpec, JobSpec, PipelineSpec
from himl_cli.core.results import Logged, NewRun, RunEnd, RunResults
from himl_cli.core.runs import LoggedValues, Metric, Run, RunQuery, RunStatus, new_run_id
from himl_cli.core.text import near_matches
from himl_cli.core.workspaces import Check, WorkspaceFacts
from himl_cli.workspaces.base import BlobStore, FolderWorkspace
from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.logged_files import LoggedWriter, read_texts
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_folder import CHECK_PERMISSIONS, RECORD, RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_store import RunStore
from himl_cli.workspaces.local.unmanaged_runs import UnmanagedRuns

if TYPE_CHECKING:
    from himl_cli.workspaces.local.file_blobs import RunFiles
    from himl_cli.workspaces.local.sweep_plan import Plan

DEFAULT_DATASTORE = "local"
CHECK_NAME = "local workspace"
JOURNALS = {"wal": "WAL journal (a local disk)", "delete": "rollback journal (a network file system)"}


class LocalWorkspace(FolderWorkspace):
    """Runs, their files and datastores in one folder; nothing outside it is touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def label(self) -> str:
        return f"local workspace '{_shown(self.folder)}'"

    @cached_property
    def _runs(self) -> RunStore:
        if not self.folder.is_dir():
            raise WorkspaceNotFound(
                f"There is no folder '{self.folder}'.", hint="'himl submit' makes a local workspace where it runs."
            )
        return RunStore(Database(self.folder / "workspace.db", create=True), label=self.label)

    @cached_property
    def _metrics(self) -> MetricStore:
        return MetricStore(self._runs.database)

    @cached_property
    def _writer(self) -> LoggedWriter:
        return LoggedWriter(self._metrics)

    @property
    def _unmanaged(self) -> UnmanagedRuns:
        return UnmanagedRuns(self.folder, self._runs, self.label)

    def _folder_of(self, run_id: str) -> RunFolder:
        return RunFolder(self.folder / "runs" / run_id)

    def run(self, run_id: str) -> Run:
        job = self._runs.job_of(run_id)
        lost = [] if job is None or self._folder_of(job).is_supervised() else [job]
        found = self._runs.get(run_id, lost)
        if found is None:
            raise RunNotFound(run_id, self.label, similar=near_matches(run_id, self._runs.ids()))
        return found

    def runs(self, query: RunQuery) -> Iterator[Run]:
        lost = [job for job in self._runs.open_jobs() if not self._folder_of(job).is_supervised()]
        return self._runs.query(query, lost)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> Run:
        self.run(run_id)
        self._runs.tag(run_id, tags)
        return self.run(run_id)

    def cancel(self, run_id: str) -> bool:
        """Ask the run's job to stop: a nested run has no process of its own. A run that a program records is canceled
        on record; of a run that ended before its children, these are stopped."""
        if self.run(run_id).status.is_final:
            from himl_cli.workspaces.local.children import children_at_work

            orphans = children_at_work(self.folder / "runs", self._runs, run_id)
            for orphan in orphans:
                self._folder_of(orphan).ask_to_cancel("its parent was canceled")
            return bool(orphans)
        job = self._runs.job_of(run_id) or run_id
        if self._unmanaged.is_unmanaged(job):
            self._unmanaged.end(run_id, RunEnd(RunStatus.canceled, "canceled"))
        else:
            self._folder_of(job).ask_to_cancel()
        return True

    def metrics(self, run_id: str) -> Sequence[Metric]:
        self.run(run_id)
        return self._metrics.metrics(self._runs.nested(run_id))

    def values(self, run_id: str) -> LoggedValues:
        metrics, nested = self.metrics(run_id), self._runs.nested(run_id)
        return LoggedValues(
            metrics, [texts for each in nested for texts in read_texts(self._folder_of(each).artifacts, each)]
        )

    def parameters(self, run_id: str) -> Mapping[str, str]:
        self.run(run_id)
        return self._metrics.parameters(run_id)

    def results(self, runs: Sequence[Run], *, wanted: Callable[[str], bool], whole: bool) -> Mapping[str, RunResults]:
        from himl_cli.workspaces.local.run_results import read_results

        ids = [run.id for run in runs]
        return read_results(self._runs.database, self.folder / "runs", ids, wanted=wanted, whole=whole)

    def run_files(self, run_id: str) -> BlobStore:
        self.run(run_id)
        return self._files(run_id)

    def _files(self, run_id: str) -> RunFiles:
        from himl_cli.workspaces.local.file_blobs import RunFiles

        folder = self._folder_of(run_id)
        return RunFiles(folder.path, folder.code, label=f"run '{run_id}'")

    def output_files(self, run_id: str, key: str) -> BlobStore:
        from himl_cli.workspaces.local.file_blobs import DatastoreFolder

        self.run(run_id)
        outputs: Mapping[str, str] = self._folder_of(run_id).read(RECORD).get("outputs", {})
        if key not in outputs:
            names = ", ".join(outputs) or "none"
            raise NotFound(f"Run '{run_id}' has no output '{key}'; it has: {names}.")
        return DatastoreFolder(Path(outputs[key]), f"output '{key}' of run '{run_id}'", self._runs.database)

    def datastores(self) -> Sequence[DatastoreInfo]:
        """The folders in `datastores/`; the default one is there even before anything lies in it."""
        root = self.folder / "datastores"
        found = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
        names = [DEFAULT_DATASTORE, *sorted(found - {DEFAULT_DATASTORE})]
        return [DatastoreInfo(name, "folder", str(root / name), name == DEFAULT_DATASTORE) for name in names]

    def datastore(self, name: str | None = None) -> BlobStore:
        from himl_cli.workspaces.local.file_blobs import DatastoreFolder

        known = {store.name: store for store in self.datastores()}
        wanted = name or DEFAULT_DATASTORE
        if wanted not in known:
            hint = f"A folder in '{_shown(self.folder / 'datastores')}' is a datastore here."
            raise NotFound(f"No datastore '{wanted}' in {self.label}; there are: {', '.join(known)}.", hint=hint)
        return DatastoreFolder(Path(known[wanted].location), wanted, self._runs.database)

    def input_folder(self, item: DataSpec, default_datastore: str | None) -> Path | None:
        from himl_cli.workspaces.local.job_data import datastore_folder

        folder = datastore_folder(item, self.folder / "datastores" / (default_datastore or DEFAULT_DATASTORE))
        return folder if folder.exists() else None

    def checks(self) -> Iterator[Check]:
        try:
            facts = self.describe().facts
        except HimlError as err:
            yield Check.failed(CHECK_NAME, str(err), err.hint)
            return
        text = "no run yet"
        if "runs" in facts:
            text = f"{int(facts['runs']):,} run{'s' * (facts['runs'] != '1')}, {facts['journal']}"
        yield Check.passed(CHECK_NAME, f"{self.label}: {text}.")
        if not os.access(self.folder, os.W_OK):
            text = f"'{self.folder}' may only be read: jobs cannot be recorded there."
            yield Check.note(CHECK_NAME, text, CHECK_PERMISSIONS)

    def describe(self) -> WorkspaceFacts:
        """The folder, its default datastore, how many runs there are and how they are written. Raises DiskFailed for a
        damaged record."""
        facts = {"folder": str(self.folder), "default_datastore": DEFAULT_DATASTORE}
        if os.path.lexists(self.folder / "workspace.db"):
            with closing(Database(self.folder / "workspace.db")) as database:
                mode = str(database.rows("PRAGMA journal_mode")[0][0])
                facts["runs"] = str(database.rows("SELECT count(*) FROM runs")[0][0])
            facts["journal"] = JOURNALS.get(mode.lower(), f"{mode} journal")
        return WorkspaceFacts("local", self.label, f"'{self.folder}'", facts)

    def submit(self, spec: JobSpec, *, notify: Notify) -> Run:
        from himl_cli.workspaces.local.job_data import resolve_folders
        from himl_cli.workspaces.local.launch import launch

        datastore = self._default_folder(spec.default_datastore)
        if spec.sweep is not None:
            from himl_cli.workspaces.local.sweep_plan import plan_sweep

            return self._launch_plan(plan_sweep(self.folder, spec, datastore, notify), notify)
        run_id = spec.run_id or new_run_id(spec.experiment)
        inputs, outputs = resolve_folders(spec, datastore, run_id, notify)
        self.prepare(notify)
        launch(self.folder, spec, inputs, outputs, run_id)
        return self.run(run_id)

    def submit_pipeline(self, spec: PipelineSpec, *, notify: Notify) -> Run:
        from himl_cli.workspaces.local.sweep_plan import plan_pipeline

        return self._launch_plan(plan_pipeline(self.folder, spec, self._default_folder, notify), notify)

    def _launch_plan(self, plan: Plan, notify: Notify) -> Run:
        from himl_cli.workspaces.local.launch import CONTROLLER, begin

        self.prepare(notify)
        begin(CONTROLLER, plan.to_json(), RunFolder(Path(plan.run_folder)))
        return self.run(plan.run_id)

    def resume(self, run_id: str, *, env: Mapping[str, str], max_concurrent: int | None, notify: Notify) -> Run:
        from himl_cli.workspaces.local.restart import resume

        resume(self.folder, self.run(run_id), env=env, max_concurrent=max_concurrent)
        return self.run(run_id)

    def python_of(self, run_id: str) -> str:
        return str(self._folder_of(run_id).read(RECORD).get("python") or "")

    def unkept_files(self, run_id: str) -> Sequence[Path]:
        from himl_cli.workspaces.local.staging import files_elsewhere

        return [path for each in self._runs.descendants(run_id) for path in files_elsewhere(self._folder_of(each))]

    def _default_folder(self, datastore: str | None) -> Path:
        """The folder of the datastore that counts where none is named. Raises NotFound."""
        if datastore:
            self.datastore(datastore)
        return self.folder / "datastores" / (datastore or DEFAULT_DATASTORE)

    def prepare(self, notify: Notify) -> None:
        if self.folder.is_dir():
            from himl_cli.workspaces.local.launch import remove_leftovers

            remove_leftovers(self.folder, lambda run_id: self._runs.job_of(run_id) is not None)
        else:
            self.make()
            notify(Notice(f"Made a local workspace: '{_shown(self.folder)}'."))

    def make(self) -> None:
        """Make the folder, which tells git to ignore it. Raises DiskFailed where it cannot be made, as where a link of
        its name leads nowhere."""
        try:
            (self.folder / "datastores" / DEFAULT_DATASTORE).mkdir(parents=True)
            (self.folder / "runs").mkdir()
            (self.folder / ".gitignore").write_text("*\n", encoding="utf-8")
        except OSError as err:
            if isinstance(err, FileExistsError) and self.folder.is_dir():
                return  # another submit made it at the same moment
            if self.folder.is_symlink():
                hint = "Remove it, or make the folder that it leads to."
                raise DiskFailed(f"'{self.folder}' is a link that leads to no folder.", hint=hint) from err
            raise explain_disk_error(err, "Cannot make a local workspace", self.folder) from err

    def start_run(self, new: NewRun) -> Run:
        self._unmanaged.start(new)
        return self.run(new.id)

    def log(self, run_id: str, entries: Sequence[Logged]) -> None:
        self._require(run_id)
        self._writer.write(run_id, entries, self._folder_of(run_id).artifacts)

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """As `RunRecorder.log_parameters`. Raises BadUsage for one that was logged with another value before,
        RunNotFound."""
        known = self.parameters(run_id)
        for name, value in parameters.items():
            if known.get(name, value) != value:
                raise BadUsage(
                    f"Parameter '{name}' of run '{run_id}' was logged as '{known[name]}' before, not as '{value}'.",
                    hint="A parameter keeps its value.",
                )
        self._metrics.log(run_id, [], parameters)

    def settle(self, run_id: str, seconds: float = 60.0) -> None:
        """Nothing to wait for: what is stored can be read."""
        self._require(run_id)

    def end_run(self, run_id: str, end: RunEnd) -> Run:
        if not self.run(run_id).status.is_final:
            self._unmanaged.end(run_id, end)
        return self.run(run_id)

    def logged(self, run_id: str, after: int) -> tuple[Sequence[Logged], int]:
        return self._metrics.logged_after(run_id, after)

    def file_path(self, run_id: str, name: str) -> Path | None:
        return self._files(run_id).path_of(name)

    def _require(self, run_id: str) -> None:
        if self._runs.job_of(run_id) is None:
            self.run(run_id)  # raises, naming ids like it

    def delete(self, run_id: str) -> None:
        """As `DeletesRuns.delete`. Raises RunNotFound; BadUsage while the run, its job or a run below it is at work."""
        found = self.run(run_id)
        job = self._runs.job_of(run_id) or run_id
        if not found.status.is_final or not self.run(job).status.is_final:
            raise BadUsage(f"Run '{job}' is still at work.", hint=f"Stop it first: himl runs cancel {job}")
        doomed = self._runs.descendants(run_id)
        for busy in (each for each in doomed if each != run_id and not self.run(each).status.is_final):
            hint = f"Stop it first: himl runs cancel {run_id}"
            raise BadUsage(f"Run '{busy}', a child of '{run_id}', is still at work.", hint=hint)
        for name in doomed:
            self._folder_of(name).remove()
        self._runs.delete(doomed)


def _shown(folder: Path) -> str:
    """The folder as a person would write it from here."""
    try:
        relative = os.path.relpath(folder)
    except ValueError:  # another drive, on Windows
        return str(folder)
    return str(folder) if relative.startswith(os.path.join("..", "..")) else relative
