"""What a workspace promises. Services know these Protocols and nothing behind them.

Speaks himl's own records and raises himl's own errors, never an SDK's. The contract tests in
`tests/contract/` hold every implementation to the promises in these docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from himl_cli.core.blobs import BlobInfo, DatastoreInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import HimlError
from himl_cli.core.runs import LoggedValues, Metric, Run, RunQuery


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


class Workspace(Protocol):
    """A place that keeps runs and their files."""

    @property
    def label(self) -> str:
        """What messages call this place: `local workspace ./.himl` or `workspace team/lab`."""

    def run(self, run_id: str) -> Run:
        """Raises RunNotFound, naming similar ids of this workspace."""

    def runs(self, query: RunQuery) -> Iterator[Run]:
        """The runs that match, newest first, fetched as they are consumed; archived ones are left out.

        Children come only when `query.parent` is set; an experiment or a parent that does not exist has no runs.
        """

    def tag(self, run_id: str, tags: Mapping[str, str]) -> Run:
        """Set *tags* on the run (others stay) and return it as it is then. Raises RunNotFound."""

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


@dataclass(frozen=True)
class FoundWorkspace:
    """A workspace that is meant: its `kind` (`azure`, `local`), where that was read, and whether the user named it on
    the command line.

    `facts` are what is known of it without a request, by the words of WorkspaceFacts. `open` gives the workspace; it
    raises NotAllowed where what is set for signing in to it cannot be used.
    """

    label: str
    kind: str
    source: str
    is_named: bool
    open: Callable[[], Workspace]
    facts: Mapping[str, str] = field(default_factory=dict)
