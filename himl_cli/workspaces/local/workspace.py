"""The local workspace: one `.himl` folder behind the `Workspace` Protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.checks import Check
from himl_cli.core.errors import BadUsage, NotFound, RunNotFound, WorkspaceNotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import JobSpec
from himl_cli.core.near import similar_ids
from himl_cli.core.runs import Metric, Run, RunQuery
from himl_cli.core.workspace_facts import WorkspaceFacts
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.disk_errors import explain_disk_error
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_store import RunStore

DEFAULT_DATASTORE = "local"


class LocalWorkspace:
    """Runs, their files and datastores in one folder; nothing outside it is touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def label(self) -> str:
        return f"local workspace '{_shown(self.folder)}'"

    @cached_property
    def _runs(self) -> RunStore:
        if not self.folder.is_dir():
            raise WorkspaceNotFound(f"There is no folder '{self.folder}'.", hint="'himl submit' makes a local workspace where it runs.")
        return RunStore(Database(self.folder / "workspace.db", create=True), label=self.label)

    @cached_property
    def _metrics(self) -> MetricStore:
        return MetricStore(self._runs.database)

    def _lost(self) -> list[str]:
        """Jobs without an end whose supervisor is gone."""
        return [job for job in self._runs.open_jobs() if not RunFolder(self.folder / "runs" / job).is_supervised()]

    def run(self, run_id: str) -> Run:
        found = self._runs.get(run_id, self._lost_among(run_id))
        if found is None:
            raise RunNotFound(run_id, self.label, similar=similar_ids(run_id, self._runs.ids()))
        return found

    def _lost_among(self, run_id: str) -> list[str]:
        job = self._runs.job_of(run_id)
        if job is None or RunFolder(self.folder / "runs" / job).is_supervised():
            return []
        return [job]

    def runs(self, query: RunQuery) -> Iterator[Run]:
        return self._runs.query(query, self._lost())

    def tag(self, run_id: str, tags: Mapping[str, str]) -> Run:
        self.run(run_id)
        self._runs.tag(run_id, tags)
        return self.run(run_id)

    def cancel(self, run_id: str) -> bool:
        """Ask the run's job to stop: a nested run has no process of its own."""
        if self.run(run_id).status.is_final:
            return False
        RunFolder(self.folder / "runs" / (self._runs.job_of(run_id) or run_id)).ask_to_cancel()
        return True

    def metrics(self, run_id: str) -> Sequence[Metric]:
        self.run(run_id)
        return self._metrics.metrics(self._runs.descendants(run_id))

    def parameters(self, run_id: str) -> Mapping[str, str]:
        self.run(run_id)
        return self._metrics.parameters(run_id)

    def run_files(self, run_id: str) -> BlobStore:
        from himl_cli.workspaces.local.blobs import RunFiles

        self.run(run_id)
        folder = RunFolder(self.folder / "runs" / run_id)
        return RunFiles(folder.path, folder.code, label=f"run '{run_id}'")

    def output_files(self, run_id: str, key: str) -> BlobStore:
        from himl_cli.workspaces.local.blobs import DatastoreFolder

        self.run(run_id)
        outputs: Mapping[str, str] = RunFolder(self.folder / "runs" / run_id).read_record().get("outputs", {})
        if key not in outputs:
            names = ", ".join(outputs) or "none"
            raise NotFound(f"Run '{run_id}' has no output '{key}'; it has: {names}.")
        return DatastoreFolder(Path(outputs[key]), f"output '{key}' of run '{run_id}'", self._runs.database)

    def datastores(self) -> Sequence[DatastoreInfo]:
        """The folders in `datastores/`; the default one is there even before anything lies in it."""
        root = self.folder / "datastores"
        names = {DEFAULT_DATASTORE, *(path.name for path in root.iterdir() if path.is_dir())} if root.is_dir() else {DEFAULT_DATASTORE}
        ordered = sorted(names, key=lambda name: (name != DEFAULT_DATASTORE, name))
        return [DatastoreInfo(name, "folder", str(root / name), name == DEFAULT_DATASTORE) for name in ordered]

    def datastore(self, name: str | None = None) -> BlobStore:
        from himl_cli.workspaces.local.blobs import DatastoreFolder

        known = {store.name: store for store in self.datastores()}
        wanted = name or DEFAULT_DATASTORE
        if wanted not in known:
            hint = f"A folder in '{_shown(self.folder / 'datastores')}' is a datastore here."
            raise NotFound(f"No datastore '{wanted}' in {self.label}; there are: {', '.join(known)}.", hint=hint)
        return DatastoreFolder(Path(known[wanted].location), wanted, self._runs.database)

    def checks(self) -> Iterator[Check]:
        from himl_cli.workspaces.local.health import checks

        return checks(self.folder, self.label)

    def describe(self) -> WorkspaceFacts:
        from himl_cli.workspaces.local.health import describe

        return describe(self.folder, self.label, DEFAULT_DATASTORE)

    def submit(self, spec: JobSpec, *, notify: Notify) -> Run:
        from himl_cli.workspaces.local.jobs import launch, resolve_folders

        if spec.default_datastore:
            self.datastore(spec.default_datastore)
        folders = resolve_folders(spec, self.folder / "datastores" / (spec.default_datastore or DEFAULT_DATASTORE), notify)
        if not self.folder.is_dir():
            self._make()
            notify(Notice(f"Made a local workspace: '{_shown(self.folder)}'."))
        return self.run(launch(self.folder, spec, folders))

    def _make(self) -> None:
        """Make the folder, which tells git to ignore it. Raises DiskFailed where it cannot be made."""
        try:
            (self.folder / "datastores" / DEFAULT_DATASTORE).mkdir(parents=True)
            (self.folder / "runs").mkdir()
            (self.folder / ".gitignore").write_text("*\n", encoding="utf-8")
        except FileExistsError:
            return  # another submit made it at the same moment
        except OSError as err:
            raise explain_disk_error(err, "Cannot make a local workspace", self.folder) from err

    def delete(self, run_id: str) -> None:
        found = self.run(run_id)
        job = self._runs.job_of(run_id) or run_id
        if not found.status.is_final or not self.run(job).status.is_final:
            raise BadUsage(f"Run '{job}' is still at work.", hint=f"Stop it first: himl runs cancel {job}")
        doomed = self._runs.descendants(run_id)
        for name in doomed:
            RunFolder(self.folder / "runs" / name).remove()
        self._runs.delete(doomed)


def _shown(folder: Path) -> str:
    """The folder as a person would write it from here."""
    try:
        relative = os.path.relpath(folder)
    except ValueError:  # another drive, on Windows
        return str(folder)
    return str(folder) if relative.startswith(os.path.join("..", "..")) else relative
