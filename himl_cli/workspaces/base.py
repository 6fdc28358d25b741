"""The Protocols of a workspace. Services use these Protocols only, not the implementations.

Implementations use himl's own records and raise himl's own errors, never an SDK's. The contract tests in
`tests/contract/` check every implementation against these docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from himl_cli.core.blobs import BlobInfo, Bytes, DatastoreInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import HimlError
from himl_cli.core.events import Finished, Moved, Notify, ignore
from himl_cli.core.installed import RunEnvironment
from himl_cli.core.jobs import (
    ClusterSpec,
    ContainerSpec,
    DataSpec,
    DocumentSpec,
    JobSpec,
    PipelineSpec,
    Resumption,
    Snapshot,
    StoredJob,
)
from himl_cli.core.logged import Logged, LoggedValues, Metric, RunResults
from himl_cli.core.records import dataclass
from himl_cli.core.runs import JobServices, Run, RunEnd, RunFootprint, RunQuery, RunService, SignedLink
from himl_cli.core.workspaces import Check, Garbage, WorkspaceFacts

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class FetchSink(Protocol):
    """Receives the bytes of a bulk fetch. Called from the thread that called `fetch`, one call at a time."""

    def write(self, request: FetchRequest, offset: int, data: Bytes) -> None:
        """Write *data*, which is valid during the call, at *offset* of the blob. Pieces of one request come in
        order."""

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        """All bytes of *request* were written. *md5* is the service's for the whole blob, if it has one."""

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        """*request* failed. The error is `BlobChanged` if the blob no longer has the requested ETag."""


class StoreSink(Protocol):
    """Receives the progress of a bulk store. Called from the thread that called `store`, one call at a time."""

    def advance(self, request: StoreRequest, amount: int) -> None:
        """*amount* more bytes were sent."""

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        """The whole file is stored under its name. Its record includes the MD5 of the sent bytes, `stored.md5`."""

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        """The file is not stored. An earlier file of the same name is unchanged."""


class StoreOutcome(StoreSink):
    """Collects errors, and reports the progress of each file to *notify*."""

    def __init__(self, notify: Notify = ignore) -> None:
        self._notify = notify
        self.errors: list[HimlError] = []

    def advance(self, request: StoreRequest, amount: int) -> None:
        self._notify(Moved(request.name, amount))

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        self._notify(Finished(request.name))

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        self.errors.append(error)


class BlobStore(Protocol):
    """Files by name: a run's artifacts or a datastore."""

    @property
    def label(self) -> str:
        """The name of the store in messages."""

    @property
    def origin(self) -> str:
        """A text that identifies the store among those of all workspaces, the same each time it is opened. Contains no
        secret."""

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """Every blob whose name starts with *prefix* (a string prefix), sorted by name, in pages. Services may sort
        characters outside of the Basic Multilingual Plane, such as emoji, in another order than Python."""

    def stat(self, name: str) -> BlobInfo | None:
        """The blob called *name*, or None."""

    def md5(self, blob: BlobInfo) -> bytes | None:
        """MD5 of the whole content, from the record or by reading the blob if that is cheap, else None."""

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes of one blob from *offset* to its current end. Raises NotFound."""

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """Fetch all *requests*, up to *workers* at once. Each ends in exactly one `finish` or `fail`."""

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """Store all *requests*, replacing files of the same names (as far as `replaces` allows). Each ends in exactly
        one `finish` or `fail`.

        A file without the size and MD5 of its request is not stored. If the request has no MD5, nor is a file that
        changes or is replaced while it is read.
        """


@runtime_checkable
class LocalStore(Protocol):
    """A store with files on this machine, where other programs can read them. Links that lead out of a run do not
    belong to its files unless the store `follows_links`."""

    follows_links: bool

    def path_of(self, name: str) -> Path | None:
        """The path of the file called *name*, which need not exist. None for a name that does not belong to the
        store."""


def with_links(store: BlobStore) -> BlobStore:
    """*store*, which also follows links that lead out of a run. Stores of services have no links."""
    if isinstance(store, LocalStore):
        store.follows_links = True
    return store


@dataclass(frozen=True)
class Dataset:
    """A named group of files. `version` is empty for a folder that is not registered. `is_file` marks a single file."""

    name: str
    version: str
    files: BlobStore
    is_file: bool = False


@dataclass(frozen=True)
class StoredPipeline:
    """A pipeline as its workspace stores it, to be submitted again (see `StoredJob`). `code` has a store with the files
    of each snapshot, by its root."""

    spec: PipelineSpec
    missing: Sequence[str]
    code: Mapping[Path, BlobStore]


@runtime_checkable
class Workspace(Protocol):
    """A place that stores runs and their files. Implementations inherit the methods that have a body in this class."""

    poll_interval: tuple[float, float] = (0.02, 0.05)
    """Seconds between two polls of a run: the first interval, and the longest one while nothing changes."""

    @property
    def label(self) -> str:
        """The name of the workspace in messages: `local workspace ./.himl` or `workspace team/lab`."""

    def run(self, run_id: str) -> Run:
        """Raises RunNotFound, naming similar and abbreviated ids of this workspace."""

    def known_ids(self) -> Sequence[str]:
        """The ids of all runs, newest first, if the workspace knows them without a request, else none."""
        return ()

    def runs(self, query: RunQuery) -> Iterator[Run]:
        """The runs that match, newest first, fetched as they are consumed. Archived runs are omitted, unless
        `query.archived` includes them.

        Child runs come only with `query.parent` or `query.children`. An unknown experiment or parent has no runs.
        """

    def experiments(self) -> Mapping[str, datetime]:
        """The names of all experiments, each with the time of its creation, the newest first."""

    def tag(self, run_id: str, tags: Mapping[str, str | None]) -> Run:
        """Set *tags* on the run, remove those that are None (others stay), and return the changed run. Raises
        RunNotFound."""

    def rename(self, run_id: str, display_name: str) -> Run:
        """Change the run's display name, and return the changed run. Raises RunNotFound."""

    def archive(self, run_id: str, *, restore: bool = False) -> Run:
        """Remove the run from lists, or return it to them with *restore*. Its child runs are unchanged, and ids find
        all of them. Returns the changed run. Raises RunNotFound."""

    def cancel(self, run_id: str, *, force: bool = False) -> bool:
        """Request the run to stop. Return False if it had already ended. Raises RunNotFound, and BadUsage if it is
        unknown whether the run is in progress. *force* then requests it, and records the run as canceled."""

    def metrics(self, run_id: str) -> Sequence[Metric]:
        """Metrics of the run and of the runs that its script nested in it, by name. Raises RunNotFound.

        Children that are separate jobs (trials of a sweep, steps of a pipeline) are not nested, since there may be
        hundreds.
        """

    def values(self, run_id: str, *, whole: bool = True) -> LoggedValues:
        """The same metrics, and the logged texts. Without *whole*, metrics other than those of the machine may omit all
        points but the last. Raises RunNotFound."""

    def parameters(self, run_id: str) -> Mapping[str, str]:
        """The logged parameters. Raises RunNotFound."""

    def run_files(self, run_id: str) -> BlobStore:
        """The run's artifacts: `outputs/…`, `logs/…`, `user_logs/…` and logged files. Raises RunNotFound."""

    def log_position(self, run_id: str, name: str, since: datetime) -> int | None:
        """The position in bytes in the log *name* of `run_files` before which everything was written before *since*.
        What follows may begin with up to ten seconds of earlier output. None if the workspace does not record when logs
        are written. Raises RunNotFound."""
        return None

    def code_files(self, run_id: str) -> tuple[BlobStore, Container[str] | None] | None:
        """A store with the code that the run's job was submitted with, and the names of its files (None: all files of
        the store). None for a run without a copy of its code. Raises RunNotFound."""

    def environment(self, run_id: str) -> RunEnvironment | None:
        """What the run ran on, for a sweep what one of its trials ran on. None if that is not on record. Raises
        RunNotFound."""

    def stored_job(self, run_id: str) -> StoredJob | None:
        """The job of the run, of a trial or of a step, for another submission. None for a run without one of its own: a
        pipeline, and a run that a program recorded. Raises RunNotFound."""

    def stored_pipeline(self, run_id: str) -> StoredPipeline | None:
        """The pipeline of the run, or of a trial, for another submission. None for other runs. Raises RunNotFound,
        DiskFailed, and BadUsage for a step that himl cannot submit."""
        return None

    def output_files(self, run_id: str, key: str) -> BlobStore:
        """The files of the run's output called *key*, in any storage. Raises RunNotFound, and NotFound naming the
        existing keys."""

    def datastores(self) -> Sequence[DatastoreInfo]:
        """All datastores, the default one first."""

    def datastore(self, name: str | None = None) -> BlobStore:
        """The datastore called *name*, or the default one. Raises NotFound, naming the existing ones."""

    def results(self, runs: Sequence[Run], *, wanted: Callable[[str], bool], whole: bool) -> Mapping[str, RunResults]:
        """The logged values of each of *runs* under names that are *wanted*, by run id. Without *whole*, last values
        only.

        Takes a few requests for any number of runs. A run without logged values has an empty record. Values of nested
        runs count as the run's own only if the run itself has none of that name.
        """

    def refresh(self, runs: Sequence[Run]) -> Mapping[str, tuple[Run, RunResults]]:
        """The current state of each of *runs*, with its last logged values, by id. Deleted runs are omitted. For
        frequent polls: sends few requests, and only one for many runs if nothing but metrics changed. Parameters are
        included."""

    def system_metrics(self, runs: Sequence[Run], *, by_node: bool = False) -> Mapping[str, Sequence[Metric]]:
        """The metrics that the workspace itself measures on the machines of *runs*, by run id, with one request per
        run. They are separate from logged metrics. With *by_node* the metrics name their nodes. Raises nothing."""
        return {}

    def ask_all(self, ask: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        """The results of *ask*, which calls this workspace, for each of *items*, in their order. A service gets several
        requests at once, from threads. Raises the first error."""
        return [ask(item) for item in items]

    def home_of(self, run_id: str) -> Workspace:
        """The workspace that contains the run: this one, unless it joins several, which may raise RunNotFound."""
        return self

    def delete_rest(self, run_id: str) -> bool:
        """Delete the files of a deleted run that its deletion could not delete. Return whether there were any. Raises
        DiskFailed."""
        return False

    def forget(self, run_id: str) -> bool:
        """Remove the pointer to a run on another machine, where the run stays. Return whether there was one."""
        return False

    def close(self) -> None:
        """Close all open connections and files. Later calls open them again."""
        return None


@runtime_checkable
class RunRecorder(Workspace, Protocol):
    """A workspace to which programs write: their own runs, and the run of the job that they are part of.

    `run_files(run_id).store` stores files. Every method raises RunNotFound for an unknown run. After an error, it can
    be called again with the same arguments, even if the outcome of the first call is unknown.
    """

    def start_run(self, new: Run) -> Run:
        """Record the start of the run, and return the run. An existing run of this id stays as it is.

        The run is alive as long as this process, or until `end_run`. Raises RunNotFound for an unknown parent.
        """

    def log(self, run_id: str, entries: Sequence[Logged]) -> None:
        """Store *entries* in their order. A row with an id that is already stored is ignored."""

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """Store *parameters*. Raises BadUsage for one that has another value already."""

    def settle(self, run_id: str, seconds: float = 60.0) -> None:
        """Wait until the logged values can be read back, for at most *seconds*."""

    def end_run(self, run_id: str, end: RunEnd) -> Run:
        """Record the end of the run, and return the run. The first recorded end stays. Raises BadUsage if a program may
        not set it."""


@runtime_checkable
class JobTaker(Workspace, Protocol):
    """A workspace that runs jobs and pipelines."""

    def submit(self, spec: JobSpec, *, notify: Notify) -> Run:
        """Start the job, and return once it is recorded and its files are staged. Raises HimlError, and then nothing
        runs."""

    def submit_pipeline(self, spec: PipelineSpec, *, notify: Notify) -> Run:
        """Start the pipeline, and return its run once that is recorded. Its steps are child runs. Raises HimlError, and
        then nothing runs."""


@runtime_checkable
class JobRunner(JobTaker, Protocol):
    """A workspace that runs jobs and pipelines, and tells of its state."""

    def checks(self) -> Iterator[Check]:
        """Check the requirements of this workspace one after another, and continue after a failure if that is useful.

        Errors that a user can fix become failed checks with remedies, and are not raised.
        """

    def describe(self) -> WorkspaceFacts:
        """The facts about the workspace. Raises the errors of a request to it."""


@runtime_checkable
class ManagedWorkspace(RunRecorder, Protocol):
    """A workspace in a folder of this or of another machine, where himl itself manages the runs."""

    def prepare(self, notify: Notify) -> None:
        """Create the workspace if it does not exist. Raises DiskFailed."""

    def delete(self, run_id: str, *, force: bool = False) -> None:
        """Delete the run, its children and all their files. Raises RunNotFound, and BadUsage while one of them runs or
        (without *force*) if that is unknown."""

    def resume(self, run_id: str, resumption: Resumption, *, notify: Notify) -> Run:
        """Continue the run under its own id: a sweep with its missing trials, a pipeline with its missing steps, a job
        with another attempt.

        Existing files of the run stay. Raises RunNotFound, and BadUsage for a run that is in progress or complete, or
        with missing variables or secrets.
        """


@runtime_checkable
class FolderWorkspace(ManagedWorkspace, JobRunner, Protocol):
    """A workspace in a folder of this machine, which also runs its jobs."""

    folder: Path

    def many(self, run_ids: Sequence[str]) -> Sequence[Run]:
        """The runs of these ids in their order, without deleted ones."""

    def last_numbers(self, query: RunQuery, name: str, *, is_metric: bool) -> Mapping[str, float | None] | None:
        """The last value of the metric *name* of each run that matches, by its id, newest first. None if no run has
        that metric, or, unless *is_metric*, if one has a parameter, an argument or a tag of that name."""

    def folder_changed(self, run_id: str) -> int:
        """The time of the last change in the folder of the run, such as its start and its end, 0 without a folder.
        Takes one call of the file system."""

    def logged(self, run_id: str, after: int) -> tuple[Sequence[Logged], int]:
        """Some of the run's own logged entries after the position *after* (0: from the first), in order, and the
        position of the next call.

        The entries are empty at the end. The ids of rows are the same in every call.
        """

    def input_folder(self, item: DataSpec, default_datastore: str | None) -> Path | None:
        """The folder of the dataset in the datastore that it names (if this workspace has that), else in
        *default_datastore* (None: the default one).

        None if there is no such folder. Raises BadUsage for a name that leaves the datastore.
        """

    def adopt(self, run: Run, job: StoredJob | None, code: Path | None, environment: RunEnvironment | None) -> Run:
        """Record a run that has ended in another workspace, with its *job*, the folder with its *code*, and its
        *environment*, and return it. Raises BadUsage if there is a run of this id, and for an invalid id."""

    def batch_script(self, spec: JobSpec, notify: Notify) -> str:
        """The script for the engine of the job, with secrets masked. Creates nothing. Raises the errors of `submit`."""

    def code_of(self, run_id: str) -> Sequence[tuple[Snapshot, Sequence[str]]]:
        """The snapshots of the run's jobs, each with those of its files that have changed in the project since. Empty
        for a job without a copy of its code. Raises DiskFailed."""

    def garbage(self, before: datetime | None = None, *, delete: bool = False) -> Sequence[Garbage]:
        """Count files that no run needs, and artifacts of runs that ended *before* a time, or *delete* them. Files of
        runs in progress stay. Raises BadUsage if another process is deleting or storing files, DiskFailed."""

    def python_of(self, run_id: str) -> str:
        """The path of the interpreter that runs the job, or an empty text if unknown. Raises DiskFailed."""

    def disk_size(self, run_id: str) -> int:
        """The size in bytes of the files in the folder of the run. Raises DiskFailed."""

    def unkept_files(self, run_id: str) -> Mapping[str, Path]:
        """Files that the run's job wrote outside its results, by name in its working folder. During the run, they
        include files that become results at its end. Raises DiskFailed."""


@runtime_checkable
class CloudWorkspace(RunRecorder, JobRunner, Protocol):
    """A workspace of a service. Its jobs run on clusters, and its files are in storage that others can also read."""

    def submit_document(self, document: DocumentSpec, *, notify: Notify) -> Run:
        """Start the job of a file in the service's own format. Raises BadUsage, with the key, for an invalid file, and
        then nothing runs."""

    def has_cluster(self, name: str) -> bool:
        """Whether there is a compute target called *name*."""

    def create_cluster(self, spec: ClusterSpec, *, notify: Notify) -> None:
        """Create the cluster, and return once it accepts jobs. Raises BadUsage for an unavailable size or number."""

    def ensure_datastore(self, spec: ContainerSpec, *, notify: Notify) -> str:
        """The name of the datastore for this container, which is registered if there is none. Raises BadUsage if that
        requires a key."""

    def dataset(self, item: DataSpec, default_datastore: str | None) -> Dataset:
        """The dataset of an input: a registered one, else a folder of its datastore, of *default_datastore*, or of the
        default one.

        Registers nothing. Raises NotFound, naming the existing versions or datastores.
        """

    def with_children(self, runs: Sequence[Run]) -> Set[str]:
        """The ids of those of *runs* that have child runs, or are no child runs. Takes a few requests for any number of
        runs of one sweep."""

    def job_services(self, run_id: str) -> JobServices | None:
        """The services with which the job was submitted, or None if unknown."""

    def services(self, run_id: str, node: int) -> Sequence[RunService]:
        """The known services of the running job on one of its nodes, counted from 0."""

    def tunnel(self, service: RunService, read: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
        """Copy the bytes of *read* (empty: the end) to the SSH server of *service*, and its bytes to *write*, until
        either side ends. Raises NotAllowed."""

    def artifact_location(self, run_id: str) -> tuple[str, str]:
        """The datastore with the run's files, and their folder in it (without a final slash). Raises RunNotFound."""

    def footprint(self, run: Run, *, outputs: bool) -> RunFootprint:
        """The storage that the run and its descendants use, as counted in storage. With *outputs* this includes data
        that they registered as outputs. Raises NotAllowed if storage may not be listed."""

    def erase(self, footprint: RunFootprint, *, notify: Notify) -> bool:
        """Delete the files, then the runs, children before parents. Return whether the service deletes the run itself.
        If it does not, the run is archived.

        Another call continues an interrupted deletion. Raises NotAllowed, ServiceFailed, naming the deleted amount.
        """

    def link(self, run_id: str, name: str, *, days: float) -> SignedLink:
        """A read-only link to the file of `run_files(run_id)` called *name*, valid for *days*, or fewer if the service
        limits that.

        Raises RunNotFound, NotFound for a missing file, NotAllowed if the user may not sign a link.
        """


@dataclass(frozen=True)
class Exchange:
    """A request to a service of the workspace, and the response. `path` is below the workspace in `service`, which is
    `arm` for resource manager. `refusal` are himl's words for a refusal, else empty."""

    method: str
    service: str
    path: str
    status: int
    headers: Mapping[str, str]
    body: Any = field(repr=False)  # may contain secrets
    refusal: str = ""


@runtime_checkable
class ObservedWorkspace(CloudWorkspace, Protocol):
    """A workspace of a service that shows its requests, so that himl can check its assumptions about the service."""

    def observed(self) -> AbstractContextManager[list[Exchange]]:
        """A list that receives the requests of this context, except for those to storage. Meanwhile, no response comes
        from the cache on disk."""

    def request(self, method: str, service: str, path: str = "", *, json: Any = None) -> Exchange:
        """Send a request, and return the response, even most refusals. Raises NotAllowed, and ServiceFailed without a
        response."""

    def identifying_names(self) -> Mapping[str, str]:
        """The names and ids that identify the workspace or the user, each with its kind (`storage account`)."""


@dataclass(frozen=True)
class FoundWorkspace:
    """A named or configured workspace: its facts, without a request, and whether the user named it on the command line.

    `open` returns the workspace. It raises NotAllowed for invalid settings of its credentials.
    """

    facts: WorkspaceFacts
    is_named: bool
    open: Callable[[], JobRunner]
