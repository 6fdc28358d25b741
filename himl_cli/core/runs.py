"""Runs as records: what a workspace knows of one, its id and tags, how a set of runs is selected, and its
checkpoints."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import HYPERPARAMETERS
from himl_cli.core.text import utc_text

# How a local run's reason begins when one of several ranks failed
FAILED_RANK = re.compile(r"rank (\d+): ")

# Tags that come by themselves start so; people are shown the others
AUTOMATIC_TAGS = ("build_", "command_line", "run_recovery_id", "mlflow.", "himl.")
# Of a run here that was begun again: a JSON list with, for each further try, the number of the last row of metrics that
# was there before it
TRIES = "himl.tries"
TRY = "himl.try"  # of such a run: the number of its last try
SLURM_JOB = "himl.slurm_job"  # of a run here that Slurm runs: the job's number there, empty until it is known
RECORDED_IN = "himl.recorded_in"  # of a run here: the workspace that it is mirrored to
STUDIO = "himl.studio"  # of a run here: the page of the run there
# Of a run whose end a webhook is told: one of the four words, and the webhook's host, or why it was not told
NOTIFICATION = "himl.notification"
DUE, SENDING, SENT, NOT_SENT = "due", "sending", "sent", "failed"
ARCHIVED = "himl.archived"  # in the records of this machine, of a run that lists leave out
STOPPED = "himl.recording_stopped"  # of a run here: why not all of it could be mirrored
RECORDED_FROM = "himl.recorded_from"  # of the run there: the machine that it runs on
OF_RECORDING = (RECORDED_IN, STUDIO, STOPPED, RECORDED_FROM, NOTIFICATION)
# The tag of a run that began with a checkpoint of another one, or that keeps changed ones: the other run's id, with `:`
# and the path for one file or `FOLDER/`; of what came from no run, `./NAME` for a path, or the address without its
# query
FROM_RUN = "himl.checkpoint_from"

# The tag of a run that only keeps checkpoints that somebody changed: no training wrote them, one after the other
PUSHED = "himl.pushed"


class RunStatus(str, Enum):
    """The five states of a run; both workspaces map theirs onto these."""

    queued = "Queued"
    running = "Running"
    completed = "Completed"
    failed = "Failed"
    canceled = "Canceled"

    @property
    def is_final(self) -> bool:
        return self in (RunStatus.completed, RunStatus.failed, RunStatus.canceled)


@dataclass(frozen=True)
class Run:
    """One run. Times are UTC; `parent` is the id of the run that it belongs to, `reason` why it ended as it did, `url`
    its page where it has one, `command` what people see of the program; archived ones are left out of lists.

    Of a run that is to begin, `id`, `experiment`, the names, `tags`, `parent` and `command` count.
    """

    id: str
    experiment: str
    status: RunStatus = RunStatus.queued
    created: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    display_name: str = ""
    description: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    exit_code: int | None = None
    reason: str = ""
    command: str = ""
    workspace: str = ""
    folder: str = ""
    url: str = ""
    is_archived: bool = False

    @property
    def duration(self) -> float | None:
        """Seconds from start to end, or until now while it runs; None before the start, and where the end was never
        recorded."""
        if self.started is None or (self.ended is None and self.status.is_final):
            return None
        return max(0.0, ((self.ended or datetime.now(timezone.utc)) - self.started).total_seconds())

    @property
    def recovery_id(self) -> str:
        """`experiment:run_id`, the form hi-ml writes to `most_recent_run.txt`."""
        return f"{self.experiment}:{self.id}"

    @property
    def end_text(self) -> str:
        """How it ended, in words: `failed after 3.2 s: exit code 3`."""
        after, seconds = "", self.duration
        if seconds is not None and seconds < 100:
            after = f" after {seconds:.1f} s"
        elif seconds is not None:
            minutes, rest = divmod(round(seconds), 60)
            hours, left = divmod(minutes, 60)
            after = f" after {hours} h {left} min" if hours else f" after {minutes} min {rest} s"
        why = f": {self.reason}" if self.reason and self.reason != self.status.value.lower() else ""
        return f"{self.status.value.lower()}{after}{why}"


@dataclass(frozen=True)
class JobServices:
    """The interactive services that a job was submitted with: their types by name, those that are on each of its
    `nodes` and not on the first one alone, and the public keys that its SSH server lets in."""

    types: Mapping[str, str] = field(default_factory=dict)
    everywhere: frozenset[str] = frozenset()
    nodes: int = 1
    public_keys: Sequence[str] = ()


@dataclass(frozen=True)
class RunService:
    """An interactive service of a running job on one of its nodes. `type` and `status` are the service's words
    (`JupyterLab`, `Running`), `url` is where a browser finds it, `proxy` what ssh goes through."""

    name: str
    type: str
    node: int
    status: str = ""
    url: str = ""
    port: int | None = None
    error: str = ""
    proxy: str = ""

    @property
    def is_ready(self) -> bool:
        return self.status.lower() == "running"

    @property
    def is_failed(self) -> bool:
        return bool(self.error) or self.status.lower() in ("failed", "error")

    @property
    def is_ssh(self) -> bool:
        return self.type.lower() == "ssh"


def run_form(run: Run) -> dict[str, Any]:
    """A run: `id, experiment, display_name, status, started, duration (seconds), tags` first, then all else that is
    known."""
    duration = run.duration
    return {
        "id": run.id,
        "experiment": run.experiment,
        "display_name": run.display_name,
        "status": run.status.value,
        "started": run.started and utc_text(run.started),
        "duration": None if duration is None else round(duration, 3),
        "tags": dict(run.tags),
        "created": utc_text(run.created),
        "ended": run.ended and utc_text(run.ended),
        "parent": run.parent,
        "exit_code": run.exit_code,
        "reason": run.reason,
        "description": run.description,
        "command": run.command,
        "workspace": run.workspace.removeprefix("workspace "),
        "folder": run.folder,
        "url": run.url,
        "archived": run.is_archived,
        "recovery_id": run.recovery_id,
    }


def own_name(run: Run) -> str:
    """The display name where it says more than the id: Azure ML's default is the id itself."""
    return "" if run.display_name == run.id else run.display_name


def own_tags(run: Run) -> dict[str, str]:
    """The tags that somebody gave the run."""
    return {
        name: value
        for name, value in run.tags.items()
        if not name.startswith(AUTOMATIC_TAGS) and name != HYPERPARAMETERS
    }


def new_run_id(experiment: str) -> str:
    """`EXPERIMENT_<unix seconds>_<8 hex>`, short enough for a folder's name (255 bytes) and for a job's on Azure ML;
    hi-ml's form of recovery ids."""
    return f"{experiment[:200]}_{int(time.time())}_{os.urandom(4).hex()}"


def implied_experiment(run_id: str) -> str | None:
    """The experiment in ids such as `EXPERIMENT_<digits>_<hex>` and `EXPERIMENT_<digits>`, by hi-ml's rule, which knows
    no `-`; None in others."""
    found = re.fullmatch(r"(?P<two>[\w-]+)_\d+_[0-9a-f]+|(?P<one>[\w-]+)_\d+", run_id, re.ASCII)
    return None if found is None else found["two"] or found["one"]


LONGEST_EXPERIMENT = 256


def friendly_experiment(name: str) -> str:
    """*name* as Azure ML takes it: letters, digits, `_` and `-`, first a letter or digit. One that it takes stays as it
    is.

    Each run of other characters becomes one `_`. A name of which nothing else is left, as of a script with a Chinese
    name, becomes `experiment`. Raises BadUsage for an empty one.
    """
    if not name.strip():
        raise BadUsage("The experiment's name is empty.", hint="Name it with --experiment NAME")
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", name).lstrip("_-")[:LONGEST_EXPERIMENT] or "experiment"


def hi_ml_experiment(name: str) -> str:
    """*name* as hi-ml-azure 0.5.4 sends it: as Azure ML takes it, and each run of `_` is one."""
    return re.sub("_+", "_", friendly_experiment(name))


def underscored(name: str) -> str:
    """*name* as hi-ml and older versions of himl made it: they had `_` for `-` as well."""
    return re.sub(r"[^a-zA-Z0-9_]+", "_", name)


def experiment_remarks(asked: str, chosen: str) -> list[str]:
    """That the experiment is called otherwise than was asked for, where it is."""
    if asked == chosen:
        return []
    taken = f"letters, digits, _ and - only, {LONGEST_EXPERIMENT} at most, the first a letter or digit"
    return [f"The experiment is called '{chosen}', since Azure ML does not take the name '{asked}': {taken}."]


@dataclass(frozen=True)
class RunQuery:
    """Which runs of a workspace: all conditions hold together; `limit` None means every run, newest first. With
    `children` those below others come too, of an experiment; with `archived` those alone that were archived, with None
    in its place those as well."""

    experiment: str | None = None
    statuses: Sequence[RunStatus] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    limit: int | None = None
    children: bool = False
    archived: bool | None = False


@dataclass(frozen=True)
class RunSelection:
    """What the user said about the runs meant; `services.runs.lookup` turns it into runs."""

    runs: Sequence[str] = ()
    experiment: str | None = None
    num_runs: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    statuses: Sequence[RunStatus] = ()
    latest_run_file: str | None = None
    children: bool = False
    archived: bool = False


Goal = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Choice:
    """Which of a run's checkpoints is meant: the last, the one of `epoch`, or the best by `metric` (None: the one in
    the files' names) and `goal`."""

    kind: Literal["last", "best", "epoch"] = "last"
    epoch: int | None = None
    metric: str | None = None
    goal: Goal | None = None


@dataclass(frozen=True)
class SignedLink:
    """An address that anybody can read one file at until `expires`. It holds a secret: the signature."""

    url: str = field(repr=False)
    expires: datetime


@dataclass(frozen=True)
class LinkedCheckpoint:
    """The file `name` of `run`, and the link to it."""

    run: Run
    name: str
    link: SignedLink


@dataclass(frozen=True)
class PushedCheckpoints:
    """A run that was made of changed checkpoints, and the one that they came from.

    `names` are its files, `unchanged` those that are as they were there; `start` is what `--checkpoint` takes for a job
    that starts from them.
    """

    run: Run
    source: Run
    names: Sequence[str]
    unchanged: Sequence[str]
    start: str


@dataclass(frozen=True)
class FetchedCheckpoint:
    """A checkpoint that is here, whole: `shown` is its path (a file or a folder), relative where the request's was.

    `status` is `fetched`, `complete` (it was here already) or `local` (a path that was named). `names` are its files in
    the run or at the address, `size` their bytes in all; `unverified` counts files that the service knows no MD5 of.
    `address` has no query.
    """

    shown: str
    status: str
    names: Sequence[str] = ()
    size: int = 0
    run: Run | None = None
    address: str = ""
    epoch: int | None = None
    metric: str = ""
    value: float | None = None
    unverified: int = 0
    seconds: float = 0.0

    @property
    def path(self) -> Path:
        return Path(self.shown)


@dataclass(frozen=True)
class OutputFootprint:
    """A named output of the run called `run`: the data asset `NAME:VERSION`, its address, and the files there. `place`
    is what messages call their container, `kept` why they stay where the run goes, empty where they go too."""

    run: str
    key: str
    asset: str
    uri: str
    is_file: bool
    place: str
    files: int = 0
    size: int = 0
    kept: str = ""


@dataclass(frozen=True)
class RunFootprint:
    """What goes with a run: the runs `below` it, parents first, and of a run that a service keeps (`is_counted`) how
    many files they have in all, their bytes, the containers that these lie in, and the outputs that were asked for."""

    run: Run
    below: Sequence[Run]
    files: int = 0
    size: int = 0
    places: Sequence[str] = ()
    outputs: Sequence[OutputFootprint] = ()
    is_counted: bool = False


@dataclass(frozen=True)
class RunEnd:
    """How a run ended; `reason` is one line, for runs that did not complete."""

    status: RunStatus
    reason: str = ""


def end_of_trials(statuses: Sequence[RunStatus], total: int) -> RunEnd:
    """How a sweep of so many trials ended, by those of them that nobody stopped early."""
    counts = ((RunStatus.failed, "failed"), (RunStatus.canceled, "were canceled"))
    parts = [f"{statuses.count(status)} of {total} trials {word}" for status, word in counts if status in statuses]
    return RunEnd(RunStatus.failed, ", ".join(parts)) if parts else RunEnd(RunStatus.completed)
