"""Runs as records: what a workspace knows of one, its id and tags, and how a set of runs is selected."""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum

from himl_cli.core.sweeps import HYPERPARAMETERS, Scalar

FAILED_RANK = re.compile(r"rank (\d+): ")
"""How a local run's reason begins when one of several ranks failed."""


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
    """One run. Times are UTC; `parent` is the run that started it, `reason` why it ended as it did, `url` its page
    where it has one."""

    id: str
    experiment: str
    status: RunStatus
    created: datetime
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


def own_name(run: Run) -> str:
    """The display name where it says more than the id: Azure ML's default is the id itself."""
    return "" if run.display_name == run.id else run.display_name


@dataclass(frozen=True)
class RunQuery:
    """Which runs of a workspace: all conditions hold together; `limit` None means every run, newest first."""

    experiment: str | None = None
    statuses: Sequence[RunStatus] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    limit: int | None = None


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


@dataclass(frozen=True)
class MetricPoint:
    """One logged value: `step` as logged, `time` in UTC; the value may be NaN or infinite."""

    value: float
    step: int
    time: datetime


@dataclass(frozen=True)
class Metric:
    """A metric's name, its points in the order logged, and the run (the run itself or a child) that logged it."""

    name: str
    points: Sequence[MetricPoint]
    run: str

    @property
    def last(self) -> MetricPoint:
        return self.points[-1]


@dataclass(frozen=True)
class TextPoint:
    """One logged text: `step` as for numbers, `time` in UTC."""

    value: str
    step: int
    time: datetime


@dataclass(frozen=True)
class Texts:
    """What was logged under one name and is no number, in the order logged, and the run that logged it."""

    name: str
    points: Sequence[TextPoint]
    run: str

    @property
    def last(self) -> TextPoint:
        return self.points[-1]


@dataclass(frozen=True)
class LoggedValues:
    """All that was logged to a run, those of nested runs too: numbers and texts, each by name."""

    metrics: Sequence[Metric]
    texts: Sequence[Texts] = ()


LONGEST_EXPERIMENT = 200  # in a run id: names of files end at 255 bytes, those of jobs on Azure ML too

_LEGACY = re.compile(r"(?P<two>[\w-]+)_\d+_[0-9a-f]+|(?P<one>[\w-]+)_\d+", re.ASCII)


def new_run_id(experiment: str) -> str:
    """`EXPERIMENT_<unix seconds>_<8 hex>`, short enough for a folder's name; hi-ml's form of recovery ids."""
    return f"{experiment[:LONGEST_EXPERIMENT]}_{int(time.time())}_{secrets.token_hex(4)}"


def implied_experiment(run_id: str) -> str | None:
    """The experiment in ids such as `EXPERIMENT_<digits>_<hex>` and `EXPERIMENT_<digits>`, by hi-ml's rule, which knows
    no `-`; None in others."""
    found = _LEGACY.fullmatch(run_id)
    return None if found is None else found["two"] or found["one"]


@dataclass(frozen=True)
class TrialView:
    """A trial: its run, its values, and the last value of the primary metric (None: it has none)."""

    run: Run
    hyperparameters: Mapping[str, Scalar]
    value: float | None


@dataclass(frozen=True)
class SweepView:
    """The trials of a sweep in their order, and what they are compared by.

    `best` is the run that the workspace has recorded as the best one, by its best value at any step; as long as none
    is, the one with the best last value that is a number (empty: there is none). `is_repeated` for folds and seeds:
    none of them is the best.
    """

    metric: str
    goal: str
    trials: Sequence[TrialView]
    best: str = ""
    is_repeated: bool = False

    @property
    def ranked(self) -> Sequence[TrialView]:
        """The best trial, the others by their last values, and those last whose value is no number, or that have none;
        folds and seeds in their order."""
        return self.trials if self.is_repeated else sorted(self.trials, key=self._rank)

    @property
    def best_at_the_end(self) -> str:
        """The run with the best last value that is a number; empty where none has one."""
        numbers = [trial for trial in self.trials if trial.value is not None and math.isfinite(trial.value)]
        return min(numbers, key=lambda trial: self._sign * (trial.value or 0.0)).run.id if numbers else ""

    @property
    def _sign(self) -> float:
        return -1.0 if self.goal == "maximize" else 1.0

    def _rank(self, trial: TrialView) -> tuple[int, float]:
        is_best = trial.run.id == self.best
        if trial.value is None:
            return 0 if is_best else 4, 0.0
        if math.isnan(trial.value):
            return 0 if is_best else 3, 0.0
        return 0 if is_best else 2 if math.isinf(trial.value) else 1, self._sign * trial.value


@dataclass(frozen=True)
class RunDetails:
    """A run with what it logged and the runs below it; `metrics` and `texts` hold those of nested runs too, each with
    its run.

    `sweep` is there for a run whose children are trials; `below` are the children of those children that have some, by
    id.
    """

    run: Run
    parameters: Mapping[str, str]
    metrics: Sequence[Metric]
    children: Sequence[Run]
    texts: Sequence[Texts] = ()
    sweep: SweepView | None = None
    below: Mapping[str, Sequence[Run]] = field(default_factory=dict)


AUTOMATIC_TAGS = ("build_", "command_line", "run_recovery_id", "mlflow.", "himl.")
"""Tags that come by themselves start so; people are shown the others."""
TRIES = "himl.tries"
"""The tag of a run here that was begun again: a JSON list with, for each further try, the number of the last row of
metrics that was there before it."""


def own_tags(run: Run) -> dict[str, str]:
    """The tags that somebody gave the run."""
    return {
        name: value
        for name, value in run.tags.items()
        if not name.startswith(AUTOMATIC_TAGS) and name != HYPERPARAMETERS
    }


RECORDED_IN = "himl.recorded_in"
"""Of the run here: the workspace that it is told to."""
STUDIO = "himl.studio"
"""Of the run here: the page of the other one."""
STOPPED = "himl.recording_stopped"
"""Of the run here: why not all of it could be told."""
RECORDED_FROM = "himl.recorded_from"
"""Of the run there: the machine that it runs on."""
OF_RECORDING = (RECORDED_IN, STUDIO, STOPPED, RECORDED_FROM)
