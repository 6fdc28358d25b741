"""What a workspace may be able to do beside its promises in `base`; services ask by `isinstance`, and go another way
where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.checkpoints import SignedLink
from himl_cli.core.events import Notify
from himl_cli.core.jobs import DataSpec
from himl_cli.core.results import Logged, NewRun, RunEnd, RunResults
from himl_cli.core.runs import Run
from himl_cli.core.workspaces import Check, WorkspaceFacts
from himl_cli.workspaces.base import BlobStore, Workspace


@runtime_checkable
class ReadsManyRuns(Protocol):
    """A workspace that gives what many runs logged for the price of a few."""

    def results(self, runs: Sequence[Run], *, wanted: Callable[[str], bool], whole: bool) -> Mapping[str, RunResults]:
        """What each of *runs* logged under names that are *wanted*, by run id; without *whole*, last values only.

        A run that logged nothing has an empty record. What programs nested in a run counts as its own only where the
        run itself has nothing of that name.
        """


@runtime_checkable
class RecordsRuns(Protocol):
    """A workspace whose runs programs write to: runs that they keep themselves, and the run of the job that they are
    part of.

    Files are stored by `run_files(run_id).store`. Every method raises RunNotFound where there is no such run, and may
    be called again after an error with the same arguments, also where it is not known whether it was carried out.
    """

    def start_run(self, new: NewRun) -> Run:
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
class RetellsRuns(Protocol):
    """A workspace of this machine whose runs can be told to another one while they go on: it says what came since it
    was asked last."""

    @property
    def folder(self) -> Path:
        """Where it lies. Beside what is its own, those who retell runs keep their notes there."""

    def prepare(self, notify: Notify) -> None:
        """Make it where it is not there yet. Raises DiskFailed."""

    def logged(self, run_id: str, after: int) -> tuple[Sequence[Logged], int]:
        """Some of what was logged to the run itself after the place *after* (0: from the first on), in order, and the
        place to go on from.

        Nothing where there is no more. The ids of rows are the same whenever they are asked for.
        """

    def file_path(self, run_id: str, name: str) -> Path | None:
        """Where the file of `run_files(run_id)` called *name* lies; None for a name that cannot be."""


@runtime_checkable
class NamesPlaces(Protocol):
    """A workspace whose runs' files lie in a datastore, where jobs can read them."""

    def place_of(self, run_id: str) -> tuple[str, str]:
        """The datastore, and the folder in it (without a slash at its end), that the run's files lie in. Raises
        RunNotFound."""


@runtime_checkable
class LinksFiles(Protocol):
    """A workspace whose runs' files others can be let read without signing in."""

    def link(self, run_id: str, name: str, *, days: float) -> SignedLink:
        """A read-only link to the file of `run_files(run_id)` called *name* for so many days, or fewer where the
        service allows no more.

        Raises RunNotFound, NotFound for a file that is not there, NotAllowed where no link can be signed with what the
        user may do.
        """


@runtime_checkable
class ServesFiles(Protocol):
    """A workspace whose runs' files lie on this machine, where other programs can read them while they grow."""

    def file_path(self, run_id: str, name: str) -> Path | None:
        """Where the file of `run_files(run_id)` called *name* lies; None for a name that cannot be."""


@runtime_checkable
class LiesHere(Protocol):
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
class KeepsDatasets(Protocol):
    """A workspace that knows datasets by name, wherever their files lie."""

    @property
    def label(self) -> str:
        """As `Workspace.label`."""

    def dataset(self, item: DataSpec, default_datastore: str | None) -> Dataset:
        """The dataset that an input means: a registered one, else a folder of its datastore, or of *default_datastore*,
        or of the default one.

        Registers nothing. Raises NotFound, naming the versions or the datastores that exist.
        """


@runtime_checkable
class FindsDatasets(Protocol):
    """A workspace whose datasets are folders of this machine."""

    def datastores(self) -> Sequence[DatastoreInfo]:
        """As `Workspace.datastores`."""

    def input_folder(self, item: DataSpec, default_datastore: str | None) -> Path | None:
        """The folder of the dataset in the datastore that it names (where that is one here), else in
        *default_datastore* (None: the default one).

        None where there is no such folder. Raises BadUsage for a name that leaves the datastore.
        """


@runtime_checkable
class DeletesRuns(Protocol):
    """A workspace whose runs can be deleted."""

    def delete(self, run_id: str) -> None:
        """Remove the run, its children and all their files. Raises RunNotFound; BadUsage while it runs."""


@runtime_checkable
class JoinsWorkspaces(Protocol):
    """A workspace made of several, each run being kept by one of them."""

    def home_of(self, run_id: str) -> Workspace:
        """The workspace that keeps the run. Raises RunNotFound."""


@runtime_checkable
class AnswersSlowly(Protocol):
    """A workspace behind a network: each look costs requests, so whoever waits for something looks seldom."""

    @property
    def seconds_between_looks(self) -> tuple[float, float]:
        """How long to wait at first, and at most once nothing new has come for a while."""


@runtime_checkable
class HoldsConnections(Protocol):
    """A workspace that keeps connections open between calls."""

    def close(self) -> None:
        """Close them. Whoever uses the workspace afterwards opens new ones."""


@runtime_checkable
class ChecksItself(Protocol):
    """A workspace that can say what is wrong with it."""

    def checks(self) -> Iterator[Check]:
        """Look at what this workspace needs, one thing after another, and go on after a failure where that makes sense.

        Raises nothing that a user could mend: that is a failed check, with its remedy.
        """


@runtime_checkable
class DescribesItself(Protocol):
    """A workspace that can say what it is and where it was found."""

    def describe(self) -> WorkspaceFacts:
        """What is known of the workspace. Raises what a request to it raises."""
