"""What a workspace may be able to do beside its promises in `base`: running jobs, and what belongs to that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from himl_cli.core.events import Notify
from himl_cli.core.jobs import ClusterSpec, ContainerSpec, DocumentChanges, JobSpec, PipelineSpec
from himl_cli.core.runs import Run


@runtime_checkable
class SubmitsJobs(Protocol):
    """A workspace that runs jobs."""

    def submit(self, spec: JobSpec, *, notify: Notify) -> Run:
        """Start the job and return once it is recorded and its files are laid. Raises HimlError; nothing then runs."""


@runtime_checkable
class RunsPipelines(Protocol):
    """A workspace that runs pipelines."""

    def submit_pipeline(self, spec: PipelineSpec, *, notify: Notify) -> Run:
        """Start the pipeline and return its run once that is recorded; its steps are children of it. Raises HimlError;
        nothing then runs."""


@runtime_checkable
class SubmitsDocuments(Protocol):
    """A workspace that runs jobs which are written down in files of its own format."""

    def submit_document(self, path: Path, changes: DocumentChanges, *, notify: Notify) -> Run:
        """Start the job of the file, with what is otherwise by *changes*. Raises BadUsage, with the key, for what is
        wrong with it; nothing then runs."""


@runtime_checkable
class CreatesClusters(Protocol):
    """A workspace whose jobs run on clusters that can be made."""

    def has_cluster(self, name: str) -> bool:
        """Whether there is a compute called *name*."""

    def create_cluster(self, spec: ClusterSpec, *, notify: Notify) -> None:
        """Make the cluster, and return once it can take jobs. Raises BadUsage for a size or a number that cannot be
        had."""


@runtime_checkable
class RegistersDatastores(Protocol):
    """A workspace that can be told of containers."""

    def ensure_datastore(self, spec: ContainerSpec, *, notify: Notify) -> str:
        """The name of the datastore that is this container; it is registered where there is none. Raises BadUsage where
        that needs a key."""


@runtime_checkable
class KnowsPythons(Protocol):
    """A workspace whose jobs are run by a Python of this machine."""

    def python_of(self, run_id: str) -> str:
        """The interpreter that runs the job, as a path; empty where none is on record. Raises DiskFailed."""


@runtime_checkable
class LeavesFiles(Protocol):
    """A workspace whose jobs run in folders that stay when they end."""

    def unkept_files(self, run_id: str) -> Sequence[Path]:
        """What the run's jobs wrote where it is no result of theirs. Raises DiskFailed."""


@runtime_checkable
class ResumesRuns(Protocol):
    """A workspace that goes on with what stopped before its end."""

    def resume(self, run_id: str, *, env: Mapping[str, str], max_concurrent: int | None, notify: Notify) -> Run:
        """Go on with the run, under its own id: of a sweep with the trials that are missing, of a pipeline with the
        steps that are, of a job with another try.

        What each of them wrote stays where it is. *env* are the job's own variables, which no file keeps. Raises
        RunNotFound; BadUsage for a run that still is at work, that has nothing left to do, or of which variables are
        missing.
        """
