"""What a program logs to its run, as records on their way to a workspace."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum

from himl_cli.core.runs import RunStatus

Value = float | int | bool | str | None
"""One logged value; a float may be NaN or infinite."""
INT64 = range(-(2**63), 2**63)
"""Steps are such numbers, and so are values that are kept whole."""


class LoggedKind(str, Enum):
    """How a metric is meant: single values over time, a list logged at once, rows of a table, an image (its value is
    the name of a file of the run)."""

    scalar = "scalar"
    list = "list"
    table = "table"
    image = "image"


@dataclass(frozen=True)
class LoggedRow:
    """Values by column, a step where the program gave one, the time in UTC. `id` is what tells a row that is sent
    twice."""

    values: Mapping[str, Value]
    step: int | None = None
    time: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True)
class Logged:
    """Rows of one metric. Scalars, lists and images have one column, which is called as the metric is."""

    name: str
    kind: LoggedKind
    rows: Sequence[LoggedRow]

    @property
    def columns(self) -> Sequence[str]:
        """The names of all columns, in the order in which they first occur."""
        return [*dict.fromkeys(column for row in self.rows for column in row.values)]

    def name_of(self, column: str) -> str:
        """What a column is called among a run's metrics: of a table `NAME/COLUMN`, also where it has only one."""
        return f"{self.name}/{column}" if self.kind is LoggedKind.table else self.name


@dataclass(frozen=True)
class NewRun:
    """A run that a program keeps itself, without a job; `command` is what people see of the program. `parent` is the id
    of the run it belongs to."""

    id: str
    experiment: str
    display_name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    command: str = ""


@dataclass(frozen=True)
class RunEnd:
    """How a run ended; `reason` is one line, for runs that did not complete."""

    status: RunStatus
    reason: str = ""
