"""Workspaces, experiments and runs for scripts, with the names of azureml-core."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from himl_cli.api.exceptions import NoDatastore
from himl_cli.api.open_workspace import resolve_workspace
from himl_cli.api.recording import OfflineRun, Partial, Recording, Tags, reason_of
from himl_cli.api.transfer import download_once, download_one, log_notice, open_datastore, upload_files, upload_folder
from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import BadUsage
from himl_cli.core.logged import Logged, Metric, MetricPoint, TextPoint, Texts, Value
from himl_cli.core.runs import NOTE, RunEnd, RunQuery, RunStatus
from himl_cli.core.runs import Run as Record
from himl_cli.core.text import storable
from himl_cli.services.runs.logs import log_names
from himl_cli.services.transfer.plan import DownloadRequest, Filters, UploadRequest, literal
from himl_cli.workspaces.base import BlobStore, LocalStore, RunRecorder
from himl_cli.workspaces.base import Workspace as Opened

if TYPE_CHECKING:
    from himl_cli.services.runs.writing import RunWriter
    from himl_cli.workspaces.azure.config import WorkspaceAddress

log = logging.getLogger(__name__)


class _Named(Partial):
    """A named part of a workspace. Two are equal if workspace and name are."""

    workspace: Workspace
    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and (self.workspace, self.name) == (other.workspace, other.name)

    def __hash__(self) -> int:
        return hash((self.workspace, self.name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r} in {self.workspace.opened.label})"


class Experiment(_Named):
    """The runs with one experiment name in *workspace*. The constructor does not check whether there are any."""

    _instead: ClassVar[Mapping[str, str]] = {
        "submit": "Use himl_cli.submit, or submit_run.",
        "start_logging": "Use create_aml_run_object.",
        "list": "Use workspace.experiments.",
        **dict.fromkeys(("tag", "set_tags", "remove_tags", "tags"), "Only runs have tags."),
    }

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace = workspace
        self.name = name

    def get_runs(self, *, tags: Mapping[str, str] | None = None) -> Iterator[Run]:
        """The runs with *tags*, newest first, fetched lazily."""
        return self.workspace.runs(RunQuery(self.name, tags=dict(tags or {})))

    def get_portal_url(self) -> str:
        """The URL of the experiment's page in Azure ML Studio. Empty for a local workspace."""
        address = self.workspace.address
        return address.studio_url(f"experiments/{quote(self.name, safe='')}") if address else ""


class Run(Recording):
    """A run in *workspace*.

    Attributes have the values of when it was fetched. Methods request current values. All methods raise `himl_cli`'s
    errors: RunNotFound if the run was deleted, NotAllowed, ServiceFailed.
    """

    _instead: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("properties", "get_properties", "add_properties"), "Use tags: get_tags(), set_tags({...})."),
        **dict.fromkeys(("child_run", "create_children", "submit_child"), "Use MLflow's start_run(nested=True)."),
        **dict.fromkeys(("log_confusion_matrix", "log_accuracy_table"), "Use log_table or log_image."),
        **dict.fromkeys(("log_predictions", "log_residuals"), "Use log_table or log_image."),
        **dict.fromkeys(("get_secret", "get_secrets"), "Use environment variables of the job."),
        **dict.fromkeys(("input_datasets", "output_datasets"), "Use himl_cli.job.inputs() and outputs()."),
        "register_model": "Use MLflow's register_model.",
        "get_details_with_logs": "Use get_all_logs(folder).",
        "get_detailed_status": "Use get_details().",
        "name": "Use display_name.",
    }
    record: Record

    def __init__(self, workspace: Workspace, record: Record) -> None:
        if not isinstance(record, Record):
            raise TypeError("Use workspace.get_run(run_id), or himl_cli.fetch_run(workspace, run_id).")
        self._found_in = workspace
        self.record = record
        """The run's record in himl's own terms: times in UTC, exit code, reason, command."""

    @property
    def id(self) -> str:
        """The run's id in its workspace."""
        return self.record.id

    @cached_property
    def workspace(self) -> Workspace:
        """The workspace that stores the run. If himl found it in one of several, this may send a request."""
        return self._found_in.home_of(self.id)

    @property
    def experiment(self) -> Experiment:
        """The run's experiment, in the workspace that stores the run."""
        return Experiment(self.workspace, self.record.experiment)

    @property
    def display_name(self) -> str:
        """The display name when the run was fetched. Setting it renames the run. Several runs may share it."""
        return self.record.display_name

    @display_name.setter
    def display_name(self, display_name: str | None) -> None:
        self.record = self._found_in.opened.rename(self.id, str(display_name or ""))

    @property
    def description(self) -> str:
        """The description when the run was fetched, or an empty string. Setting it changes the run."""
        return self.record.description

    @description.setter
    def description(self, description: str | None) -> None:
        self.set_tags({NOTE: description or ""})

    @property
    def status(self) -> str:
        """The status when the run was fetched: Queued, Running, Completed, Failed or Canceled."""
        return self.record.status.value

    @property
    def tags(self) -> dict[str, str]:
        """The tags when the run was fetched, to read."""
        return Tags(self.record.tags)

    @property
    def parent(self) -> Run | None:
        """The parent run."""
        return Run(self._found_in, self._found_in.opened.run(self.record.parent)) if self.record.parent else None

    def get_status(self) -> str:
        """The current status."""
        return self._now().status.value

    def get_tags(self) -> dict[str, str]:
        """The current tags."""
        return dict(self._now().tags)

    def get_details(self) -> dict[str, Any]:
        """Current details of the run under azureml-core's names, and the values that himl has. Times are ISO 8601 in
        UTC. `logFiles` has an address for each log: a path on this machine, or an `azureml:` address. `properties` and
        the datasets are always empty."""
        run, files = self._now(), self.files()
        times = {"createdTimeUtc": run.created, "startTimeUtc": run.started, "endTimeUtc": run.ended}
        on_disk = files.path_of if isinstance(files, LocalStore) else lambda _: None
        artifacts = f"azureml://jobs/{run.id}/outputs/artifacts/paths"
        return {
            "runId": run.id,
            "target": run.target,
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
            "logFiles": {name: str(on_disk(name) or f"{artifacts}/{name}") for name in log_names(files)},
            "submittedBy": run.tags.get("build_user", ""),
            "properties": {},
            "inputDatasets": [],
            "outputDatasets": [],
        }

    def get_all_logs(self, destination: str | os.PathLike[str] | None = None) -> list[str]:
        """Download all logs to the folder *destination* (default: the run's id, in the current folder), with their
        whole names, and return their paths. Replaces existing files. Raises errors of single files after trying all."""
        folder, names = Path(destination or self.id), log_names(self.files())
        if names:
            request = DownloadRequest(folder, Filters(include=tuple(map(literal, names))), overwrite=True)
            download_once(self.files, request, ("download logs", self.id, tuple(names)))
        return [str(folder / name) for name in names]

    def get_portal_url(self) -> str:
        """The URL of the run's page in Azure ML Studio. Empty for a local run."""
        return self.record.url

    def get_metrics(self, name: str | None = None, recursive: bool = False) -> dict[str, Any]:
        """The logged metrics by name: a number or text, or a list in the order of steps if there are several.

        With *recursive*, the metrics of the run and all its descendants: `{run id: {name: ...}}`, for runs with
        metrics. Each column of a table is a metric `NAME/COLUMN`. If *name* is that of a table, its value is a
        dictionary of the columns, as in azureml-core. Truth values are 1.0 and 0.0. Images are files of the run.
        """
        if "_writer" in vars(self):
            self.flush()
        found: dict[str, dict[str, list[MetricPoint | TextPoint]]] = {}
        runs = [self, *(self.get_children(recursive=True) if recursive else ())]
        for run in runs:
            if run.id in found:  # the values of a run include those of nested runs
                continue
            values = self._found_in.opened.values(run.id)
            logged: list[Metric | Texts] = [*values.metrics, *values.texts]
            for metric in logged:
                if name in (None, metric.name):
                    found.setdefault(metric.run, {}).setdefault(metric.name, []).extend(metric.points)
        metrics: dict[str, dict[str, Any]]
        metrics = {run: {metric: _value(points) for metric, points in names.items()} for run, names in found.items()}
        if name is not None:  # the name of a table is not that of its metrics
            others = [run.record for run in runs if run.id not in metrics]
            results = self._found_in.opened.results(others, wanted=lambda each: each == name, whole=True)
            tables = {run: each.tables[name] for run, each in results.items() if name in each.tables}
            metrics |= {run: {name: _columns(table)} for run, table in tables.items()}
        return metrics if recursive else metrics.get(self.id, {})

    def get_file_names(self) -> list[str]:
        """The sorted names of all files of the run."""
        return [blob.name for page in self.files().list() for blob in page]

    def get_children(
        self, recursive: bool = False, tags: Mapping[str, str] | None = None, *, status: str | None = None
    ) -> Iterator[Run]:
        """The child runs, newest first, fetched lazily. With *recursive*, all descendants.

        *tags* and *status* filter them. Raises BadUsage for an unknown status.
        """
        statuses = {each.value.lower(): each for each in RunStatus}
        if status and status.lower() not in statuses:
            names = ", ".join(each.value for each in RunStatus)
            raise BadUsage(f"Unknown status '{status}'.", hint=f"Statuses: {names}.")
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
        """Download one file, verify its MD5, and replace an existing file.

        *output_file_path* is the target file, or a folder if it exists as one or ends with a slash. The default is the
        file's last name component in the current folder. Raises NotThere, and IntegrityFailed or a related error for a
        failed transfer.
        """
        download_one(self.files, self.id, name, output_file_path)

    def download_files(
        self,
        prefix: str | None = None,
        output_directory: str | os.PathLike[str] | None = None,
        *,
        append_prefix: bool = True,
    ) -> None:
        """Download the files whose names start with *prefix* to *output_directory*, verify MD5s, and replace existing
        files.

        Files keep their whole names below it. Without *append_prefix*, himl removes the folders of *prefix*. Raises
        NotThere if there are none, and errors of single files after trying all.
        """
        request = DownloadRequest(
            Path(output_directory or "."), Filters(prefix or ""), strip_prefix=not append_prefix, overwrite=True
        )
        download_once(self.files, request, ("download files", self.id, request))

    def wait_for_completion(
        self, show_output: bool = False, wait_post_processing: bool = False, raise_on_error: bool = True
    ) -> dict[str, Any]:
        """Wait until the run ends, and return its details.

        With *show_output*, print its log to stdout as it grows. *wait_post_processing* has no effect. Ctrl-C, and an
        outage of the service of more than ten minutes, stop the waiting, not the run. Raises JobFailed if the run did
        not complete, unless *raise_on_error* is False.
        """
        from himl_cli.services.runs.follow import follow_to_end, wait_for_end
        from himl_cli.services.runs.outcome import raise_unless_completed

        opened = self._found_in.opened
        if show_output:
            self.record = follow_to_end(opened, self.id, _print, log_notice)
        else:
            self.record = wait_for_end(opened, self.id, log_notice)
        if raise_on_error:
            raise_unless_completed(opened, self.record)
        return self.get_details()

    def cancel(self, *, force: bool = False) -> bool:
        """Cancel the run. Returns False if it has already ended. Raises BadUsage if it is unknown whether the run is in
        progress. *force* then requests it, and records the run as canceled."""
        return self._found_in.opened.cancel(self.id, force=force)

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Save *parameters* as text immediately. An existing parameter with another value does not change, and himl
        saves the others. Locally, an attempt replaces the parameters of earlier ones."""
        from himl_cli.services.runs.writing import send_apart

        given = [(storable(str(name)), storable(str(value))) for name, value in parameters.items()]
        rejected = [*send_apart(lambda some: self._recorder.log_parameters(self.id, dict(some)), given)]
        known = self._found_in.opened.parameters(self.id) if rejected else {}
        for (name, _), why in rejected:
            if name not in known:
                log.warning("himl did not store parameter '%s' of run '%s': %s", name, self.id, why)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set *tags*. Other tags do not change."""
        self.record = self._found_in.opened.tag(self.id, {key: str(value) for key, value in tags.items()})

    def remove_tags(self, tags: Sequence[str]) -> None:
        """Remove tags by name. Other tags do not change."""
        self.record = self._found_in.opened.tag(self.id, dict.fromkeys(tags))

    @staticmethod
    def get_context(allow_offline: bool = True) -> Run | OfflineRun:
        """The run of this process, in a job on Azure ML or a local one. Otherwise, a run that only writes to the log.

        Sends no request. Raises BadUsage outside of a job if *allow_offline* is False.
        """
        return current_run(allow_offline)

    def flush(self, timeout_seconds: int = 300) -> None:
        """Send logged values, then wait up to *timeout_seconds* until the workspace returns them.

        Raises ServiceFailed, DiskFailed or NotAllowed if the values cannot be sent now (himl sends them later), and
        RunNotFound for a deleted run. A warning names each value that the workspace rejects.
        """
        self._writer.settle(timeout_seconds)

    def complete(self) -> None:
        """Send pending values, and record that the run completed. For a job's run, its service or supervisor records
        that."""
        self._end(RunEnd(RunStatus.completed))

    def fail(self, error_details: str | BaseException | None = None, error_code: str | None = None) -> None:
        """Send pending values, and record that the run failed. For a job's run, its service or supervisor records
        that."""
        self._end(RunEnd(RunStatus.failed, reason_of(error_details, error_code)))

    def _end(self, end: RunEnd) -> None:
        try:
            self._writer.send()
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
            raise BadUsage(f"himl cannot write to the runs of {opened.label}.")
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
        """The store of the run's files, for himl's services."""
        return self._found_in.opened.run_files(self.id)


class JobRun(Run):
    """The run of the current job. It requests its record on demand, and logs without it."""

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
        """Send pending values only. The end of the script determines the job's status."""
        self._writer.send()


def current_run(allow_offline: bool = True) -> Run | OfflineRun:
    """The run of this process, always the same object. Outside of a job, one that saves nothing. Sends no request.

    A local job of himl takes precedence, as an Azure ML job may have started it. Raises BadUsage outside of a job if
    *allow_offline* is False.
    """
    with _lock:
        run = _own_run()
    if not allow_offline and isinstance(run, OfflineRun):
        raise BadUsage(
            "This process is not in a job, so there is no run to write to.",
            hint="Start it with himl submit, or create a run with create_aml_run_object.",
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


class Workspace(Partial):
    """A workspace with runs and their files, in Azure ML or local.

    `get_workspace` returns the configured one. The constructor opens the Azure ML workspace of these names. Opening
    sends no requests. All methods raise `himl_cli`'s errors (NotAllowed, ServiceFailed, NotFound and related ones),
    never an SDK's. himl ignores *auth*, and signs in itself, for example with the Azure CLI's credentials.
    """

    _instead: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("compute_targets", "environments", "datasets", "models", "get_default_keyvault", "get_details"),
            "Use azure-ai-ml's MLClient, or azureml-core's own Workspace.",
        ),
        "get_mlflow_tracking_uri": "In a job, MLflow needs none. See docs/submit-reference.md.",
        "write_config": "Use himl init.",
    }

    def __init__(self, subscription_id: str, resource_group: str, workspace_name: str, auth: object = None) -> None:
        from himl_cli.workspaces.resolve import azure_at, open_azure

        start = Path.cwd()
        self.opened: Opened = open_azure(
            azure_at(subscription_id, resource_group, workspace_name, "the names given", start), start
        )
        """The workspace for himl's services."""

    @classmethod
    def of(cls, opened: Opened) -> Workspace:
        """Wrap the open workspace *opened*."""
        workspace = cls.__new__(cls)
        workspace.opened = opened
        return workspace

    @classmethod
    def get(cls, name: str, auth: object = None, subscription_id: str = "", resource_group: str = "") -> Workspace:
        """The Azure ML workspace of these names. Raises BadUsage without all of them."""
        if not (subscription_id and resource_group):
            raise BadUsage(f"Workspace.get('{name}') needs subscription_id= and resource_group=.")
        return cls(subscription_id, resource_group, name, auth)

    @staticmethod
    def from_config(path: str | os.PathLike[str] | None = None, auth: object = None) -> Workspace:
        """The workspace of the config file *path* (or of the one in that folder), or else the configured one, see
        `get_workspace`."""
        return get_workspace(workspace_config_path=path)

    @property
    def name(self) -> str:
        """The name in Azure, or the name of the folder that contains a local workspace."""
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
        """The datastores by name, the default one first."""
        return {info.name: Datastore(self, info) for info in self.opened.datastores()}

    def get_default_datastore(self) -> Datastore:
        """The default datastore."""
        return Datastore(self, self.opened.datastores()[0])

    def get_run(self, run_id: str) -> Run:
        """The run with that id. Raises RunNotFound with similar ids."""
        return Run(self, self.opened.run(run_id))

    def runs(self, query: RunQuery) -> Iterator[Run]:
        """The matching runs, newest first, fetched lazily."""
        return (Run(self, record) for record in self.opened.runs(query))

    def home_of(self, run_id: str) -> Workspace:
        """The workspace that stores the run: this one, unless it combines several. Raises RunNotFound."""
        home = self.opened.home_of(run_id)
        return self if home is self.opened else Workspace.of(home)

    @property
    def experiments(self) -> Mapping[str, Experiment]:
        """All experiments by name, the newest first."""
        return {name: Experiment(self, name) for name in self.opened.experiments()}

    def experiment(self, name: str) -> Experiment:
        """The experiment *name*, even if it has no runs."""
        return Experiment(self, name)

    @property
    def address(self) -> WorkspaceAddress | None:
        """The address in Azure. None for a local workspace."""
        from himl_cli.workspaces.resolve import address_of

        return address_of(self.opened)

    @property
    def is_in_azure(self) -> bool:
        """Whether it is an Azure ML workspace."""
        return self.address is not None

    def __eq__(self, other: object) -> bool:
        """Whether both are the same workspace, however they were opened."""
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
    """A datastore of *workspace*."""

    _instead: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("path", "as_mount", "as_download", "as_upload"), "Use DatasetConfig, or himl submit --input NAME."
        ),
        **dict.fromkeys(("account_name", "container_name"), "Use location."),
    }

    def __init__(self, workspace: Workspace, info: DatastoreInfo) -> None:
        if not isinstance(info, DatastoreInfo):
            raise TypeError("Use Datastore.get(workspace, name).")
        self.workspace = workspace
        self.name = info.name
        self.datastore_type = info.kind
        self.location = info.location
        self.is_default = info.is_default

    @staticmethod
    def get(workspace: object, datastore_name: str) -> Datastore:
        """The datastore of that name. *workspace* may be a vendor's object. Raises NotThere (also a KeyError) with the
        existing names."""
        place = get_workspace(workspace)
        found = place.datastores.get(datastore_name)
        if found is None:
            open_datastore(place.opened, datastore_name)  # raises an error that lists the datastores
            raise NoDatastore(f"No datastore '{datastore_name}' in {place.opened.label}.")
        return found

    def download(
        self,
        target_path: str | os.PathLike[str],
        prefix: str = "",
        overwrite: bool = False,
        show_progress: bool = False,
    ) -> int:
        """Download the files whose names start with *prefix* to *target_path*, with their whole names, and return their
        number.

        himl keeps existing local files unless *overwrite* is set, and verifies the MD5 of every file. Raises NotThere,
        and errors of single files after trying all.
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
        """Upload the contents of the folder *src_dir* to *target_path*, and return the number of uploaded files.

        himl keeps existing stored files unless *overwrite* is set. Raises BadUsage if *src_dir* is a file, NotThere if
        it is missing or empty, and errors of single files after trying all.
        """
        request = UploadRequest(Path(src_dir), PurePath(target_path).as_posix(), overwrite=overwrite)
        return upload_folder(self._open, request, show_progress=show_progress).files

    def upload_files(
        self,
        files: Sequence[str | os.PathLike[str]],
        relative_root: str | os.PathLike[str] | None = None,
        target_path: str | os.PathLike[str] = "",
        overwrite: bool = False,
        show_progress: bool = False,
    ) -> int:
        """Upload *files* to *target_path* with their names relative to *relative_root* (default: the folder that
        contains all of them), and return the number of uploaded files.

        himl keeps existing stored files unless *overwrite* is set. Raises NotThere for a missing file, BadUsage without
        files or for one outside of *relative_root*, and errors of single files after trying all.
        """
        return upload_files(
            self._open, files, relative_root, PurePath(target_path).as_posix(), overwrite, show_progress=show_progress
        ).files

    def _open(self) -> BlobStore:
        return self.workspace.opened.datastore(self.name)


def get_workspace(
    aml_workspace: object | None = None, workspace_config_path: str | os.PathLike[str] | None = None
) -> Workspace:
    """The workspace to use, the first of these that applies:

    1. inside an Azure ML job, the job's own;
    2. *aml_workspace*: a `Workspace` of himl or azureml-core, or an `MLClient` of azure-ai-ml (himl uses its address
       and signs in itself);
    3. the config file *workspace_config_path*, or a `.himl` folder;
    4. the nearest `config.json` in the current folder or above;
    5. HIML_SUBSCRIPTION_ID, HIML_RESOURCE_GROUP and HIML_WORKSPACE_NAME;
    6. the nearest `.himl` folder in the current folder or above (a local workspace).

    In a job, the search starts in the folder where the script started. Sends no request. Raises NoWorkspace (also a
    ValueError) if none applies, ConfigNotFound (also a FileNotFoundError) for a missing config file, BadUsage (also a
    ValueError) for an invalid config file or an incomplete set of HIML_* variables, TypeError for an unsupported
    object.
    """
    opened = resolve_workspace(aml_workspace, workspace_config_path)
    if isinstance(aml_workspace, Workspace) and aml_workspace.opened is opened:
        return aml_workspace
    return Workspace.of(opened)


def get_datastore(workspace: object, datastore_name: str) -> Datastore:
    """The datastore of that name, as `Datastore.get`, or the default one for an empty name."""
    place = get_workspace(workspace)
    return Datastore.get(place, datastore_name) if datastore_name else place.get_default_datastore()


def _columns(table: Mapping[str, Sequence[Value]]) -> dict[str, Any]:
    return {column: values[0] if len(values) == 1 else list(values) for column, values in table.items()}


def _value(points: list[MetricPoint | TextPoint]) -> float | str | list[float | str]:
    # One name may have numbers and texts.
    values = [point.value for point in sorted(points, key=lambda point: point.step)]
    return values[0] if len(values) == 1 else values


def _print(piece: bytes) -> None:
    """Print to stdout, which takes only text in a notebook."""
    raw = getattr(sys.stdout, "buffer", None)
    if raw is None:
        sys.stdout.write(piece.decode("utf-8", "replace"))
    else:
        sys.stdout.flush()
        raw.write(piece)
    sys.stdout.flush()
