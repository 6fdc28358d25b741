"""What a workspace promises. Services know these Protocols and nothing behind them.

Speaks himl's own records and raises himl's own errors, never an SDK's. The contract tests in
`tests/contract/` hold every implementation to the promises in these docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from himl_cli.core.blobs import BlobInfo, DatastoreInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import HimlError
from himl_cli.core.events import Finished, Moved, Notify, ignore
from himl_cli.core.jobs import ClusterSpec, ContainerSpec, DataSpec, DocumentChanges, JobSpec, PipelineSpec, Webhook
from himl_cli.core.logged import Logged, LoggedValues, Metric, RunResults
from himl_cli.core.runs import JobServices, Run, RunEnd, RunFootprint, RunQuery, RunService, SignedLink
from himl_cli.core.workspaces import Check, WorkspaceFacts


class FetchSink(Protocol):
    """Takes the bytes of a bulk fetch. Called from the thread that called `fetch`, one call at a time."""

    def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
        """*data* belongs at *offset* of the blob; pieces of one request come in order."""

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        """All bytes of *request* were written; *md5* is the service's for the whole blob, where it tells one."""

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        """*request* will not be completed. `BlobChanged` when the blob no longer has the ETag asked for."""


class StoreSink(Protocol):
    """Hears of a bulk store. Called from the thread that called `store`, one call at a time."""

    def advance(self, request: StoreRequest, amount: int) -> None:
        """*amount* more bytes were sent."""

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        """The file is stored under its name, whole; `stored.md5` is that of what was sent, and on record with the
        file."""

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        """The file is not stored; what had the name before still has it."""


class StoreOutcome(StoreSink):
    """Keeps what went wrong; *notify* hears how far each file is."""

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
        """What messages call this place."""

    @property
    def origin(self) -> str:
        """What tells this place from every other one, in any workspace; the same whenever it is opened. Holds no
        secret."""

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """Every blob whose name starts with *prefix* (a string prefix), sorted by name, in pages."""

    def stat(self, name: str) -> BlobInfo | None:
        """The blob called *name*, or None."""

    def md5(self, blob: BlobInfo) -> bytes | None:
        """MD5 of the whole content, from the record or by reading it where that is cheap; None where unknown."""

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes of one blob from *offset* to its present end. Raises NotFound."""

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """Bring all *requests*, up to *workers* at once; each ends in exactly one `finish` or `fail`."""

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """Store all *requests*, replacing what has the name (as far as `replaces` allows); each ends in exactly one
        `finish` or `fail`.

        A file that has not the size and MD5 of its request is not stored, nor, where the request has no MD5, one that
        is changed or replaced while it is read.
        """


@runtime_checkable
class LocalStore(Protocol):
    """A store whose files lie on this machine, where other programs can read them."""

    def path_of(self, name: str) -> Path | None:
        """Where the file called *name* lies, or would lie; None for a name that cannot be."""


@dataclass(frozen=True)
class Dataset:
    """Files that belong together under a name; `version` is empty for a folder that nobody registered, `is_file` where
    it is one file."""

    name: str
    version: str
    files: BlobStore
    is_file: bool = False


@runtime_checkable
class Workspace(Protocol):
    """A place that keeps runs and their files. Implementations inherit from it what has a body here."""

    poll_interval: tuple[float, float] = (0.05, 0.05)
    """Seconds between two looks at a run: at first, and at most once nothing new has come for a while."""

    @property
    def label(self) -> str:
        """What messages call this place: `local workspace ./.himl` or `workspace team/lab`."""

    def run(self, run_id: str) -> Run:
        """Raises RunNotFound, naming similar ids of this workspace."""

    def runs(self, query: RunQuery) -> Iterator[Run]:
        """The runs that match, newest first, fetched as they are consumed; archived ones are left out, unless
        `query.archived` asks for them.

        Children come only with `query.parent` or `query.children`; an experiment or a parent that does not exist has no
        runs.
        """

    def experiments(self) -> Mapping[str, datetime]:
        """The names of all experiments, each with the time when it was made, the newest first."""

    def tag(self, run_id: str, tags: Mapping[str, str | None]) -> Run:
        """Set *tags* on the run, remove those that are None (others stay), and return it as it is then. Raises
        RunNotFound."""

    def archive(self, run_id: str, *, restore: bool = False) -> Run:
        """Leave the run out of lists from now on, or with *restore* no longer; what is below it stays as it is, and all
        are found by their ids. Gives the run as it is then. Raises RunNotFound."""

    def cancel(self, run_id: str) -> bool:
        """Ask the run to stop; False when it had ended already. Raises RunNotFound."""

    def metrics(self, run_id: str) -> Sequence[Metric]:
        """Metrics of the run and of the runs that its script nested in it, by name. Raises RunNotFound.

        Children that are jobs of their own (trials of a sweep, steps of a pipeline) are not nested: there may be
        hundreds.
        """

    def values(self, run_id: str) -> LoggedValues:
        """The same metrics, and the texts that were logged beside them. Raises RunNotFound."""

    def parameters(self, run_id: str) -> Mapping[str, str]:
        """Parameters that were logged. Raises RunNotFound."""

    def run_files(self, run_id: str) -> BlobStore:
        """The run's artifacts: `outputs/…`, `logs/…`, `user_logs/…` and what was logged. Raises RunNotFound."""

    def output_files(self, run_id: str, key: str) -> BlobStore:
        """The files of the run's output called *key*, wherever it lies. Raises RunNotFound, NotFound naming the keys
        there are."""

    def datastores(self) -> Sequence[DatastoreInfo]:
        """All datastores, the default one first."""

    def datastore(self, name: str | None = None) -> BlobStore:
        """The datastore called *name*, or the default one. Raises NotFound, naming those that exist."""

    def results(self, runs: Sequence[Run], *, wanted: Callable[[str], bool], whole: bool) -> Mapping[str, RunResults]:
        """What each of *runs* logged under names that are *wanted*, by run id; without *whole*, last values only.

        Costs a few requests for any number of runs. A run that logged nothing has an empty record. What programs nested
        in a run counts as its own only where the run itself has nothing of that name.
        """

    def refresh(self, runs: Sequence[Run]) -> Mapping[str, tuple[Run, RunResults]]:
        """Each of *runs* as it is now, with the last values that it logged, by id; those that were deleted are left
        out. For looking often: as few requests as can be, one for many runs where nothing but numbers changed."""

    def system_metrics(self, runs: Sequence[Run], *, by_node: bool = False) -> Mapping[str, Sequence[Metric]]:
        """What the workspace itself keeps of the machines of *runs*, by run id, beside what was logged: a request a
        run. With *by_node* those of several nodes are told apart. Raises nothing."""
        return {}

    def home_of(self, run_id: str) -> Workspace:
        """The workspace that keeps the run: this one, unless it is made of several. Raises RunNotFound there."""
        return self

    def checks(self) -> Iterator[Check]:
        """Look at what this workspace needs, one thing after another, and go on after a failure where that makes sense.

        Raises nothing that a user could mend: that is a failed check, with its remedy.
        """
        return iter(())

    def describe(self) -> WorkspaceFacts:
        """What is known of the workspace. Raises what a request to it raises."""
        return WorkspaceFacts("", self.label, "")

    def close(self) -> None:
        """Close what is open between calls. Whoever uses the workspace afterwards opens it anew."""
        return None


@runtime_checkable
class RunRecorder(Workspace, Protocol):
    """A workspace whose runs programs write to: runs that they keep themselves, and the run of the job that they are
    part of.

    Files are stored by `run_files(run_id).store`. Every method raises RunNotFound where there is no such run, and may
    be called again after an error with the same arguments, also where it is not known whether it was carried out.
    """

    def start_run(self, new: Run) -> Run:
        """Record that the run began and give it as it is then; one of this id that is there already stays as it is.

        It is alive as long as this process, or until `end_run`. Raises RunNotFound for a parent that is not there.
        """

    def log(self, run_id: str, entries: Sequence[Logged]) -> None:
        """Keep *entries*, in their order. A row whose id was kept before is not kept again."""

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """Keep *parameters*. Raises BadUsage for one that was logged with another value before."""

    def settle(self, run_id: str, seconds: float = 60.0) -> None:
        """Wait until what was logged can be read back, as many seconds at most."""

    def end_run(self, run_id: str, end: RunEnd) -> Run:
        """Record how the run ended, and give it; the first end that is recorded stays. Raises BadUsage where that is
        not a program's to say."""


@runtime_checkable
class JobRunner(Workspace, Protocol):
    """A workspace that runs jobs and pipelines."""

    def submit(self, spec: JobSpec, *, notify: Notify) -> Run:
        """Start the job and return once it is recorded and its files are staged. Raises HimlError; nothing then
        runs."""

    def submit_pipeline(self, spec: PipelineSpec, *, notify: Notify) -> Run:
        """Start the pipeline and return its run once that is recorded; its steps are children of it. Raises HimlError;
        nothing then runs."""


@runtime_checkable
class FolderWorkspace(RunRecorder, JobRunner, Protocol):
    """A workspace in a folder of this machine, where its jobs run."""

    folder: Path

    def prepare(self, notify: Notify) -> None:
        """Make it where it is not there yet. Raises DiskFailed."""

    def logged(self, run_id: str, after: int) -> tuple[Sequence[Logged], int]:
        """Some of what was logged to the run itself after the place *after* (0: from the first on), in order, and the
        place to go on from.

        Nothing where there is no more. The ids of rows are the same whenever they are asked for.
        """

    def file_path(self, run_id: str, name: str) -> Path | None:
        """Where the file of `run_files(run_id)` called *name* lies; None for a name that cannot be."""

    def input_folder(self, item: DataSpec, default_datastore: str | None) -> Path | None:
        """The folder of the dataset in the datastore that it names (where that is one here), else in
        *default_datastore* (None: the default one).

        None where there is no such folder. Raises BadUsage for a name that leaves the datastore.
        """

    def batch_script(self, spec: JobSpec, notify: Notify) -> str:
        """The script that Slurm would get for the job, secrets masked; nothing is made. Raises as `submit` does."""

    def delete(self, run_id: str) -> None:
        """Remove the run, its children and all their files. Raises RunNotFound; BadUsage while it runs."""

    def resume(
        self, run_id: str, *, env: Mapping[str, str], max_concurrent: int | None, webhook: Webhook | None = None
    ) -> Run:
        """Go on with the run, under its own id: of a sweep with the trials that are missing, of a pipeline with the
        steps that are, of a job with another attempt.

        What each of them wrote stays where it is. *env* are the job's own variables, which no file keeps, nor the
        *webhook* that is told of the end. Raises RunNotFound; BadUsage for a run that still is at work, that has
        nothing left to do, or of which variables are missing.
        """

    def python_of(self, run_id: str) -> str:
        """The interpreter that runs the job, as a path; empty where none is on record. Raises DiskFailed."""

    def unkept_files(self, run_id: str) -> Mapping[str, Path]:
        """What the run's job wrote where it is no result, by the names in the folder that it runs in; while it is at
        work, also what it will keep at its end. Raises DiskFailed."""


@runtime_checkable
class CloudWorkspace(RunRecorder, JobRunner, Protocol):
    """A workspace of a service: its jobs run on clusters, its files lie in storage that others can reach too."""

    def submit_document(self, path: Path, changes: DocumentChanges, *, notify: Notify) -> Run:
        """Start the job of a file in the service's own format, with what is otherwise by *changes*. Raises BadUsage,
        with the key, for what is wrong with it; nothing then runs."""

    def has_cluster(self, name: str) -> bool:
        """Whether there is a compute called *name*."""

    def create_cluster(self, spec: ClusterSpec, *, notify: Notify) -> None:
        """Make the cluster, and return once it can take jobs. Raises BadUsage for a size or a number that cannot be
        had."""

    def ensure_datastore(self, spec: ContainerSpec, *, notify: Notify) -> str:
        """The name of the datastore that is this container; it is registered where there is none. Raises BadUsage where
        that needs a key."""

    def dataset(self, item: DataSpec, default_datastore: str | None) -> Dataset:
        """The dataset that an input means: a registered one, else a folder of its datastore, or of *default_datastore*,
        or of the default one.

        Registers nothing. Raises NotFound, naming the versions or the datastores that exist.
        """

    def job_services(self, run_id: str) -> JobServices | None:
        """What the job was submitted with; None where that is not known."""

    def services(self, run_id: str, node: int) -> Sequence[RunService]:
        """The services of the running job on one of its nodes, counted from 0, as far as they are known."""

    def tunnel(self, service: RunService, read: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
        """Pass what *read* gives (nothing: its end) to the SSH server of *service*, and what comes from there to
        *write*, until either side ends. Raises NotAllowed."""

    def artifact_location(self, run_id: str) -> tuple[str, str]:
        """The datastore, and the folder in it (without a slash at its end), that the run's files lie in. Raises
        RunNotFound."""

    def footprint(self, run: Run, *, outputs: bool) -> RunFootprint:
        """What the run, and those below it, keep in storage, counted there; with *outputs* also the data that they
        registered as outputs. Raises NotAllowed where storage may not be listed."""

    def erase(self, footprint: RunFootprint, *, notify: Notify) -> bool:
        """Delete the files, then the runs, children before parents; whether the service deletes the run itself, which
        is archived where it does not.

        What broke off is taken up by another call. Raises NotAllowed, ServiceFailed, saying how much is gone.
        """

    def link(self, run_id: str, name: str, *, days: float) -> SignedLink:
        """A read-only link to the file of `run_files(run_id)` called *name* for so many days, or fewer where the
        service allows no more.

        Raises RunNotFound, NotFound for a file that is not there, NotAllowed where no link can be signed with what the
        user may do.
        """


@dataclass(frozen=True)
class FoundWorkspace:
    """A workspace that is meant: what is known of it without a request, and whether the user named it on the command
    line.

    `open` gives the workspace; it raises NotAllowed where what is set for signing in to it cannot be used.
    """

    facts: WorkspaceFacts
    is_named: bool
    open: Callable[[], Workspace]
