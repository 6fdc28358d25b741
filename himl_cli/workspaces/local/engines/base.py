"""The interface of an engine, which runs jobs of a local workspace: a module with these names.

himl records the runs, stages their files, and starts a supervisor through the engine. The engine only has to start a
process on a machine that shares the folder of the workspace, to tell its state, and to stop it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from himl_cli.core.errors import BadUsage, HimlError, ServiceFailed
from himl_cli.core.records import dataclass
from himl_cli.core.runs import RunStatus

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.core.jobs import EngineSpec, JobSpec
    from himl_cli.core.workspaces import Check
    from himl_cli.workspaces.local.launch_request import LaunchRequest
    from himl_cli.workspaces.local.ranks import Ends, Rank

LOG = "supervisor.log"  # the output of a job, in the folder of its run
PROBE = "probe.json"  # what the job of `Engine.checks` wrote: its node, the time, whether it sees a lock
NOT_STARTED = "canceled before it started"  # a part of an array that the engine does not have, although it has others
STEP_BEFORE_FAILED = "a job before it did not complete"
QUEUED: Final = "queued"
RUNNING: Final = "running"
ENDED: Final = "ended"
UNKNOWN: Final = "unknown"


class JobState(NamedTuple):
    """The state of a job, as its engine knows it.

    `queued` and `running` are known. `ended` has evidence: the job's status at its end, and the time in milliseconds
    since 1970, or without a status, that the engine no longer has the job. `unknown` has the reason for which the
    engine cannot tell, and nothing is recorded then. `handle` is the job's handle as the engine knows it. Unless the
    reason `is_explained`, himl adds the last line of the job's log.
    """

    kind: Literal["queued", "running", "ended", "unknown"]
    reason: str = ""
    status: RunStatus | None = None
    ended: int | None = None
    handle: str = ""
    is_explained: bool = True


@dataclass(frozen=True)
class EngineJob:
    """A process for an engine to start: `python -m himl_cli.workspaces.local.supervisor` in *folder*, the absolute
    path of the run's folder, with *document* on its stdin and its output appended to *log*. The document may contain
    secrets.

    *name* is unique in the workspace. *spec* has the number of nodes and the engine's options. An array has *tasks*,
    each a process that gets its number from 0 as its argument (and in place of `TASK` in its log), of which at most
    `at_once` run at the same time (0: no limit). The job starts when the jobs *after*, given by their handles, have
    completed, or after an earlier part of its array when that has ended. A controller is one process that only starts
    others and waits for them.
    """

    name: str
    folder: Path
    spec: JobSpec
    document: str
    log: Path
    tasks: int = 0
    at_once: int = 0
    after: Sequence[str] = ()
    is_controller: bool = False


class QueueFull(BadUsage):
    """The engine takes the job only after others of the user have ended."""


class NoAnswer(ServiceFailed):
    """It is unknown whether the engine has the job."""


class OwnJob(Protocol):
    """The job of this process."""

    def reason_to_stop(self, grace: float, wait: float = 0.0) -> str | None:
        """The reason for which the engine sent SIGTERM to this process, *grace* seconds before the end of a job, None
        if the engine gives it once the job has ended, '' if there is none within *wait* seconds."""

    def requeue(self) -> str:
        """Make the engine restart the job, which soon ends its processes. Returns the reason if it does not, else
        ''."""


class Engine(Protocol):
    """A module that runs jobs. Its functions must not depend on earlier calls, since other processes made them."""

    NAME: str
    """The part of `--cluster NAME:PLACE` before the colon, and the section of its settings, such as `slurm`."""

    LABEL: str
    """The engine in a sentence, such as `Slurm`."""

    DOCTOR: str
    """The command that runs `checks` with a job, or ''."""

    OPTIONS: Mapping[str, str] | None
    """The keys of a table `[NAME.PLACE]` of its settings besides `setup` and `run_with`, each with its meaning. None if
    the engine itself judges them when it gets a job."""

    def unavailable(self) -> HimlError | None:
        """The error if this machine cannot submit jobs to the engine."""

    def largest_array(self) -> int:
        """The largest number of tasks of an array, 0 if the engine has no arrays and its jobs cannot wait for others.
        Without them, himl submits a controller for many runs."""

    def site(self, handle: str = "", spec: JobSpec | None = None) -> str:
        """The cluster of the job with this handle, or of a new one with *spec*, by default that of this machine. '' if
        it is unknown. An engine without a job is evidence of its end only on the job's cluster."""

    def preview(self, job: EngineJob) -> str:
        """The text that `submit` would send, for --dry_run."""

    def submit(self, job: EngineJob, notify: Notify) -> str:
        """Submit the job, and return its handle, which identifies it as long as the workspace exists. For parts of an
        array, himl appends `_3` for a task, or text in brackets for several, in front of a `;` in the handle. *notify*
        gets messages about an accepted job. Raises NoAnswer, and QueueFull, BadUsage or ServiceFailed if there is no
        job."""

    def states(self, jobs: Mapping[str, str]) -> Mapping[str, JobState]:
        """The state of each of *jobs*: handles by name, for a job whose handle himl could not record empty, or
        `;CLUSTER` if that is another one than this machine's. A failed query, or a job that it does not list, makes it
        unknown, not ended. Raises nothing."""

    def cancel(self, jobs: Mapping[str, str], *, only_waiting: bool = False) -> None:
        """Cancel *jobs*: handles by name, several for an array, with commas between them. With *only_waiting*, not
        those that have started, which himl stops itself. Jobs that have ended are no error. Raises ServiceFailed."""

    def shell(self, handle: str) -> str:
        """The command that opens a shell beside the running job with this handle, '' if there is none."""

    def places(self) -> Sequence[tuple[str, str, str]]:
        """What PLACE can be, the default first: name, time limit, resources. Raises NotFound, ServiceFailed."""

    def checks(self, folder: Path, spec: EngineSpec | None) -> Iterator[Check]:
        """The checks of `himl doctor`. With *spec*, submit a short job that checks the workspace in *folder*."""

    def ranks_of_nodes(self, request: LaunchRequest, log: Path, ends: Ends) -> Rank:
        """The processes of a job on several nodes, with the log of the first one. *ends* gets their ends."""

    def own_job(self) -> OwnJob | None:
        """The job of this process, None if himl itself restarts failed jobs."""
