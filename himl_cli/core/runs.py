"""Runs as records: what a workspace knows of one, and how a set of them is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum

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
    """What the user said about the runs meant; `services.run_lookup` turns it into runs."""

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
