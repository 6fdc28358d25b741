"""Workspaces, experiments and runs as scripts hold them, with the names of azureml-core."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from himl_cli.api.exceptions import NotThere, raising
from himl_cli.api.open_workspace import resolve_workspace
from himl_cli.api.recording import OfflineRun, Recording, reason_of
from himl_cli.api.transfer import download_once, download_one, upload_folder
from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.logged import Logged, Metric, MetricPoint, TextPoint, Texts
from himl_cli.core.runs import Run as Record
from himl_cli.core.runs import RunEnd, RunQuery, RunStatus
from himl_cli.services.runs.logs import GROWTH, follow_log, raise_unless_completed
from himl_cli.services.transfer.plan import DownloadRequest, Filters, UploadRequest
from himl_cli.workspaces.base import BlobStore, RunRecorder
from himl_cli.workspaces.base import Workspace as Opened

if TYPE_CHECKING:
    from himl_cli.services.runs.writing import RunWriter
    from himl_cli.workspaces.azure.config import WorkspaceAddress


class _Named:
    """What a workspace has under a name: equal where both are."""

    workspace: Workspace
    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and (self.workspace, self.name) == (other.workspace, other.name)

    def __hash__(self) -> int:
        return hash((self.workspace, self.name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r} in {self.workspace.opened.label})"


class Experiment(_Named):
    """The runs of one name in *workspace*; that there are any is not looked up before they are asked for."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace = workspace
        self.name = name

    def get_runs(self, tags: Mapping[str, str] | None = None) -> Iterator[Run]:
        """The runs that have *tags*, newest first, fetched as they are consumed."""
        return self.workspace.runs(RunQuery(self.name, tags=dict(tags or {})))


class Run(Recording):
    """One run, found in *workspace*.

    Its attributes are as they were when it was fetched, those of methods are asked for. All methods raise `himl_cli`'s
    errors: RunNotFound when it was deleted meanwhile, NotAllowed, ServiceFailed.
    """

    def __init__(self, workspace: Workspace, record: Record) -> None:
        self._found_in = workspace
        self.record = record
        """What is known of the run, in himl's own words: times in UTC, exit code, reason, command."""

    @property
    def id(self) -> str:
        """The run's id, which its workspace knows it by."""
        return self.record.id

    @cached_property
    def workspace(self) -> Workspace:
        """The workspace that keeps the run; where it was found by looking in several, this may ask which one that
        is."""
        return self._found_in.home_of(self.id)

    @property
    def experiment(self) -> Experiment:
        """The experiment that the run belongs to, in the workspace that keeps it."""
        return Experiment(self.workspace, self.record.experiment)

    @property
    def display_name(self) -> str:
        """What the run is called, when it was fetched; any text, which several runs may share."""
        return self.record.display_name

    @property
    def description(self) -> str:
        """What was written about the run, when it was fetched; empty where nothing was."""
        return self.record.description

    @property
    def status(self) -> str:
        """Queued, Running, Completed, Failed or Canceled, when it was fetched."""
        return self.record.status.value

    @property
    def tags(self) -> dict[str, str]:
        """The tags when it was fetched; a copy."""
        return dict(self.record.tags)

    @property
    def parent(self) -> Run | None:
        """The run that started this one."""
        return Run(self._found_in, self._found_in.opened.run(self.record.parent)) if self.record.parent else None

    def get_status(self) -> str:
        """The status now."""
        return self._now().status.value

    def get_tags(self) -> dict[str, str]:
        """The tags now."""
        return dict(self._now().tags)

    def get_details(self) -> dict[str, Any]:
        """What is known of the run now, under azureml-core's names as far as himl knows them; times are ISO 8601 in
        UTC."""
        run = self._now()
        times = {"createdTimeUtc": run.created, "startTimeUtc": run.started, "endTimeUtc": run.ended}
        return {
            "runId": run.id,
            "experiment": run.experiment,
            "displayName": run.display_name,
            "description": run.description,
            "status": run.status.value,
            **{name: time.isoformat() if time else None for name, time in times.items()},
            "parentRunId": run.parent,
            "tags": dict(run.tags),
            "parameters": dict(self._found_in.opened.parameters(run.id)),
            "command": run.command,
            "exitCode": run.exit_code,
            "error": {"message": run.reason} if run.reason and run.status is RunStatus.failed else None,
        }

    def get_portal_url(self) -> str:
        """The run's page in Azure ML Studio; empty for a run of a local workspace."""
        return self.record.url

    def get_metrics(self, name: str | None = None, recursive: bool = False) -> dict[str, Any]:
        """What the run logged, by name: a number or a text, or a list in the order of steps where there are several.

        With *recursive*, what it and all runs below it logged: `{run id: {name: ...}}`, for those that logged anything.
        Of a table, each column is a metric `NAME/COLUMN`; truth values are 1.0 and 0.0; images are files of the run.
        """
        if "_writer" in vars(self):
            self.flush()
        found: dict[str, dict[str, list[MetricPoint | TextPoint]]] = {}
        for run in (self, *(self.get_children(recursive=True) if recursive else ())):
            if run.id in found:  # runs nested in one that was asked for come along with it
                continue
            values = self._found_in.opened.values(run.id)
            logged: list[Metric | Texts] = [*values.metrics, *values.texts]
            for metric in logged:
                if name in (None, metric.name):
                    found.setdefault(metric.run, {}).setdefault(metric.name, []).extend(metric.points)
        metrics = {run: {metric: _value(points) for metric, points in names.items()} for run, names in found.items()}
        return metrics if recursive else metrics.get(self.id, {})

    def get_file_names(self) -> list[str]:
        """The names of all files of the run, sorted."""
        return [blob.name for page in self.files().list() for blob in page]

    def get_children(
        self, recursive: bool = False, tags: Mapping[str, str] | None = None, status: str | None = None
    ) -> Iterator[Run]:
        """The runs that this one started, newest first, fetched as they are consumed; with *recursive* also those they
        started.

        *tags* and *status* select among them. Raises BadUsage for a status that there is not.
        """
        statuses = {each.value.lower(): each for each in RunStatus}
        if status and status.lower() not in statuses:
            names = ", ".join(each.value for each in RunStatus)
            raise BadUsage(f"'{status}' is no status of a run.", hint=f"There are {names}.")
        for record in self._found_in.opened.runs(RunQuery(parent=self.id)):
            child = Run(self._found_in, record)
            is_wanted = not status or record.status is statuses[status.lower()]
            if is_wanted and all(record.tags.get(key) == value for key, value in (tags or {}).items()):
                yield child
            if recursive:
                yield from child.get_children(recursive=True, tags=tags, status=status)

    def download_file(
        self, name: str, output_file_path: str | os.PathLike[str] | None = None, _validate_checksum: bool = True
    ) -> None:
        """Bring one file, checked by MD5, replacing what is there.

        It goes to *output_file_path*, into it where that is a folder or ends with a slash, and without it to its own
        last name in the current folder. Raises NotThere, and IntegrityFailed and its kin when it did not arrive.
        """
        download_one(self.files, self.id, name, output_file_path)

    def download_files(
        self,
        prefix: str | None = None,
        output_directory: str | os.PathLike[str] | None = None,
        append_prefix: bool = True,
    ) -> None:
        """Bring the files whose names start with *prefix*, checked by MD5, replacing what is there, to
        *output_directory*.

        They keep their whole names below it; without *append_prefix*, the folders of *prefix* are dropped. Raises
        NotThere where there are none, and what went wrong with single files once all were tried.
        """
        request = DownloadRequest(
            Path(output_directory or "."), Filters(prefix or ""), strip_prefix=not append_prefix, overwrite=True
        )
        download_once(self.files, request, ("download files", self.id, request))

    def wait_for_completion(
        self, show_output: bool = False, wait_post_processing: bool = False, raise_on_error: bool = True
    ) -> dict[str, Any]:
        """Wait until the run has ended; gives its details then.

        With *show_output* its log is written to stdout as it grows. *wait_post_processing* is accepted and has no
        effect. Ctrl-C ends the waiting, not the run. Raises JobFailed, unless *raise_on_error* is False, where the run
        did not complete.
        """
        opened = self._found_in.opened
        if show_output:
            with suppress(NotFound):  # it may end without a log
                for piece in follow_log(opened, self.id):
                    _print(piece)
        pause, at_most = opened.home_of(self.id).poll_interval
        while not self._now().status.is_final:
            time.sleep(pause)
            pause = min(at_most, pause * GROWTH)
        if raise_on_error:
            raise_unless_completed(self.record)
        return self.get_details()

    def cancel(self) -> bool:
        """Ask the run to stop; False when it had ended already."""
        return self._found_in.opened.cancel(self.id)

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Keep *parameters* as texts, at once. One that was logged before with another value stays as it was, as after
        an interruption, and the others are kept."""
        given = {name: str(value) for name, value in parameters.items()}
        try:
            self._recorder.log_parameters(self.id, given)
        except BadUsage:
            known = self._found_in.opened.parameters(self.id)
            self._recorder.log_parameters(self.id, {name: given[name] for name in given.keys() - known.keys()})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set *tags*; others stay as they are."""
        self.record = self._found_in.opened.tag(self.id, {key: str(value) for key, value in tags.items()})

    def remove_tags(self, tags: Sequence[str]) -> None:
        """Remove the tags of these names; others stay as they are."""
        self.record = self._found_in.opened.tag(self.id, dict.fromkeys(tags))

    @staticmethod
    def get_context(allow_offline: bool = True) -> Run | OfflineRun:
        """The run that this process is part of: a job's, on Azure ML or here; else one that only tells the log what it
        is told.

        Makes no request. Without *allow_offline*, BadUsage is raised outside of a job.
        """
        return current_run(allow_offline)

    def flush(self, timeout_seconds: int = 300) -> None:
        """Send what was logged, then wait, *timeout_seconds* at most, until it can be read back.

        Raises ServiceFailed, DiskFailed or NotAllowed where it cannot be sent now (it is sent later then), RunNotFound
        for a run that was deleted, and BadUsage for values that the workspace does not take, once the others are sent.
        """
        self._writer.settle(timeout_seconds)

    def complete(self) -> None:
        """Send what is left, and record that the run completed; of a job's run, its own service or supervisor records
        that."""
        self._end(RunEnd(RunStatus.completed))

    def fail(self, error_details: str | BaseException | None = None, error_code: str | None = None) -> None:
        """Send what is left, and record that the run failed; of a job's run, its own service or supervisor records
        that."""
        self._end(RunEnd(RunStatus.failed, reason_of(error_details, error_code)))

    def _end(self, end: RunEnd) -> None:
        try:
            self._writer.flush()
        finally:
            self.record = self._recorder.end_run(self.id, end)

    def _add(self, entry: Logged) -> None:
        self._writer.add(entry)

    def _store_files(self, files: Mapping[str, Path]) -> None:
        from himl_cli.services.runs.writing import store_files

        store_files(self.workspace.opened.run_files(self.id), files)

    @cached_property
    def _writer(self) -> RunWriter:
        from himl_cli.services.runs.writing import RunWriter

        return RunWriter(self._recorder, self.id)

    @property
    def _recorder(self) -> RunRecorder:
        opened = self.workspace.opened
        if not isinstance(opened, RunRecorder):
            raise BadUsage(f"Nothing can be written to the runs of {opened.label}.")
        return opened

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and (self.workspace, self.id) == (other.workspace, other.id)

    def __hash__(self) -> int:
        return hash((self.workspace, self.id))

    def __repr__(self) -> str:
        return (
            f"Run({self.id!r}, experiment {self.record.experiment!r}, {self.status}, "
            f"{self.record.workspace or self._found_in.opened.label})"
        )

    def _now(self) -> Record:
        self.record = self._found_in.opened.run(self.id)
        return self.record

    def files(self) -> BlobStore:
        """The run's files as himl's services know them."""
        return self._found_in.opened.run_files(self.id)


class JobRun(Run):
    """The run of the job that this process is part of. What is known of it is asked for when it is wanted; logging
    needs none of it."""

    def __init__(self, workspace: Workspace, run_id: str, experiment: str) -> None:
        self._found_in = workspace
        self._id = run_id
        self._experiment = experiment

    @property
    def id(self) -> str:
        return self._id

    @property
    def experiment(self) -> Experiment:
        return Experiment(self.workspace, self._experiment or self.record.experiment)

    @cached_property
    def record(self) -> Record:  # type: ignore[override]
        return self._found_in.opened.run(self._id)

    def _end(self, end: RunEnd) -> None:
        """Only send what is left: how a job ends is recorded when its script does."""
        self._writer.flush()


def current_run(allow_offline: bool = True) -> Run | OfflineRun:
    """The run that this process is part of, always the same object; outside of a job one that keeps nothing. Makes no
    request.

    A job that himl runs here comes first: it may have been started within one on Azure ML. Raises BadUsage outside of a
    job where *allow_offline* is False.
    """
    with _lock:
        run = _own_run()
    if not allow_offline and isinstance(run, OfflineRun):
        raise BadUsage(
            "This process is part of no job, so there is no run to write to.",
            hint="Start it with himl submit, or make a run: create_aml_run_object",
        )
    return run


_lock = threading.Lock()


@cache
def _own_run() -> Run | OfflineRun:
    from himl_cli.workspaces.resolve import open_azure, own_azure, own_local_run

    experiment = os.environ.get("AZUREML_ARM_PROJECT_NAME", "")
    if here := own_local_run():
        return JobRun(Workspace.of(here[0]), here[1], experiment)
    if address := own_azure(Path.cwd()):
        return JobRun(Workspace.of(open_azure(address, Path.cwd())), os.environ["AZUREML_RUN_ID"], experiment)
    return OfflineRun()


class Workspace:
    """A place that keeps runs and their files: one in Azure ML, or a local one.

    `get_workspace` gives the one that is meant; made directly, it is the one in Azure ML of these names. Looking at it
    costs no request; what it is asked for does. All methods raise `himl_cli`'s errors (NotAllowed, ServiceFailed,
    NotFound and their kin), never an SDK's. *auth* is accepted and not used: himl signs in itself, with the Azure CLI's
    sign-in as one of its ways.
    """

    def __init__(self, subscription_id: str, resource_group: str, workspace_name: str, auth: object = None) -> None:
        from himl_cli.workspaces.resolve import azure_at, open_azure

        start = Path.cwd()
        self.opened: Opened = open_azure(
            azure_at(subscription_id, resource_group, workspace_name, "the names given", start), start
        )
        """The workspace as himl's services know it."""

    @classmethod
    def of(cls, opened: Opened) -> Workspace:
        """The workspace that is *opened* already."""
        workspace = cls.__new__(cls)
        workspace.opened = opened
        return workspace

    @classmethod
    def get(cls, name: str, subscription_id: str, resource_group: str, auth: object = None) -> Workspace:
        """The workspace in Azure ML of these names."""
        return cls(subscription_id, resource_group, name, auth)

    @staticmethod
    def from_config(path: str | os.PathLike[str] | None = None, auth: object = None) -> Workspace:
        """The workspace of the config file *path* (or of the one in that folder), else the configured one; see
        `get_workspace`."""
        return get_workspace(workspace_config_path=path)

    @property
    def name(self) -> str:
        """Its name in Azure; of a local one, that of the folder it lies in."""
        return self.address.name if self.address else Path(self._place[0]).parent.name

    @property
    def subscription_id(self) -> str:
        """Empty for a local workspace."""
        return self.address.subscription_id if self.address else ""

    @property
    def resource_group(self) -> str:
        """Empty for a local workspace."""
        return self.address.resource_group if self.address else ""

    @property
    def datastores(self) -> Mapping[str, Datastore]:
        """The datastores by their names, the default one first."""
        return {info.name: Datastore(self, info) for info in self.opened.datastores()}

    def get_default_datastore(self) -> Datastore:
        """The datastore that is used where none is named."""
        return Datastore(self, self.opened.datastores()[0])

    def get_run(self, run_id: str) -> Run:
        """The run of that id. Raises RunNotFound, naming similar ids."""
        return Run(self, self.opened.run(run_id))

    def runs(self, query: RunQuery) -> Iterator[Run]:
        """The runs that match, newest first, fetched as they are consumed."""
        return (Run(self, record) for record in self.opened.runs(query))

    def home_of(self, run_id: str) -> Workspace:
        """The workspace that keeps the run: this one, unless it is several. Raises RunNotFound."""
        home = self.opened.home_of(run_id)
        return self if home is self.opened else Workspace.of(home)

    def experiment(self, name: str) -> Experiment:
        """The experiment called *name*, whether it has runs or not."""
        return Experiment(self, name)

    @property
    def address(self) -> WorkspaceAddress | None:
        """Where it lies in Azure; None for a local workspace."""
        from himl_cli.workspaces.resolve import address_of

        return address_of(self.opened)

    @property
    def is_in_azure(self) -> bool:
        """Whether it is a workspace of Azure ML; False for a local one."""
        return self.address is not None

    def __eq__(self, other: object) -> bool:
        """Whether both are the same place, however they were opened."""
        return isinstance(other, Workspace) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    def __repr__(self) -> str:
        return f"Workspace({self.opened.label})"

    @property
    def _place(self) -> tuple[str, ...]:
        address = self.address
        if address is not None:
            return address.cloud.name, address.path.lower()
        folder = getattr(self.opened, "folder", None)
        return (str(folder.resolve()) if isinstance(folder, Path) else self.opened.label,)


class Datastore(_Named):
    """A place for data in *workspace*."""

    def __init__(self, workspace: Workspace, info: DatastoreInfo) -> None:
        self.workspace = workspace
        self.name = info.name
        self.datastore_type = info.kind
        self.location = info.location
        self.is_default = info.is_default

    @staticmethod
    def get(workspace: object, datastore_name: str) -> Datastore:
        """The datastore of that name; *workspace* may be a vendor's object too. Raises NotThere naming those that
        exist."""
        place = get_workspace(workspace)
        found = place.datastores.get(datastore_name)
        if found is None:
            with raising(NotFound, NotThere):
                place.opened.datastore(datastore_name)  # raises the error that names those there are
            raise NotThere(f"No datastore '{datastore_name}' in {place.opened.label}.")
        return found

    def download(
        self,
        target_path: str | os.PathLike[str],
        prefix: str = "",
        overwrite: bool = False,
        show_progress: bool = False,
    ) -> int:
        """Bring the files whose names start with *prefix* to *target_path*, the whole name below it; returns how many
        came.

        Files that are here already are left unless *overwrite*; every file is checked by MD5. Raises NotThere, and
        what went wrong with single files once all were tried.
        """
        request = DownloadRequest(Path(target_path), Filters(prefix), overwrite=overwrite)
        key = ("download from datastore", self.workspace.opened.label, self.name, prefix, overwrite)
        return download_once(self._open, request, key, show_progress=show_progress).files

    def upload(
        self,
        src_dir: str | os.PathLike[str],
        target_path: str | os.PathLike[str] = "",
        overwrite: bool = False,
        show_progress: bool = False,
    ) -> int:
        """Store the contents of the folder *src_dir* below *target_path*; returns how many files were sent.

        Files that are there already are left unless *overwrite*. Raises BadUsage where *src_dir* is a file, NotThere
        where it is not there or empty, and what went wrong with single files once all were tried.
        """
        request = UploadRequest(Path(src_dir), PurePath(target_path).as_posix(), overwrite=overwrite)
        return upload_folder(self._open, request, show_progress=show_progress).files

    def _open(self) -> BlobStore:
        return self.workspace.opened.datastore(self.name)


def get_workspace(
    aml_workspace: object | None = None, workspace_config_path: str | os.PathLike[str] | None = None
) -> Workspace:
    """The workspace to use, the first of these that applies:

    1. inside an Azure ML job, the job's own;
    2. *aml_workspace*: himl's own `Workspace`, or one of azureml-core, or azure-ai-ml's `MLClient` (its address is
       used, and himl's own sign-in);
    3. the config file *workspace_config_path*, or a `.himl` folder;
    4. the nearest `config.json` in the current folder or above;
    5. HIML_SUBSCRIPTION_ID, HIML_RESOURCE_GROUP and HIML_WORKSPACE_NAME;
    6. the nearest `.himl` folder in the current folder or above (a local workspace).

    Makes no request. Raises NoWorkspace (also a ValueError) where none of them applies, ConfigNotFound (also a
    FileNotFoundError) for a config file that is not there, BadUsage (also a ValueError) for a config file that cannot
    be used and for HIML_* variables of which some are missing, TypeError for an object that is no workspace.
    """
    opened = resolve_workspace(aml_workspace, workspace_config_path)
    if isinstance(aml_workspace, Workspace) and aml_workspace.opened is opened:
        return aml_workspace
    return Workspace.of(opened)


def _value(points: list[MetricPoint | TextPoint]) -> float | str | list[float | str]:
    values = [
        point.value for point in sorted(points, key=lambda point: (point.step, point.time))
    ]  # one name may have numbers and texts
    return values[0] if len(values) == 1 else values


def _print(piece: bytes) -> None:
    """To stdout, which in a notebook takes text only."""
    raw = getattr(sys.stdout, "buffer", None)
    if raw is None:
        sys.stdout.write(piece.decode("utf-8", "replace"))
    else:
        sys.stdout.flush()
        raw.write(piece)
    sys.stdout.flush()
