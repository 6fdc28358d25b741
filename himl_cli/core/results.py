"""What many runs logged, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from himl_cli.core.logged import Value
from himl_cli.core.runs import Run, TextPoint
from himl_cli.core.sweeps import Scalar

STATISTICS = ("mean", "std", "min", "max", "median")
"""Of the last values of many runs: what tables and files of results tell, in their order."""


@dataclass(frozen=True)
class Series:
    """The points of one metric, by step, then time: columns of the same length. Values may be NaN or infinite; `times`
    are seconds since 1970 UTC."""

    steps: Sequence[int]
    values: Sequence[float]
    times: Sequence[float]


@dataclass(frozen=True)
class RunResults:
    """What one run logged, each by name.

    `last` holds of each number the value of the highest step (of the same step, the latest), of each text and image
    (the name of a file of the run) its last one: all that a table shows. Columns of tables are `NAME/COLUMN` there.
    `series` are the points behind numbers (a list of numbers is one, its values counted as steps), `texts` those behind
    texts, `tables` values by column, `lists` what was logged at once and has more than numbers in it, `images` names of
    the run's files; these five are empty where only last values were asked for. `parameters` are those that the run
    logged.
    """

    last: Mapping[str, Value] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    texts: Mapping[str, Sequence[TextPoint]] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Sequence[Value]]] = field(default_factory=dict)
    lists: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    images: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)

    def filled(self, other: RunResults) -> RunResults:
        """This record, and what only *other* has; the parameters stay as they are."""
        return RunResults(
            {**other.last, **self.last},
            {**other.series, **self.series},
            {**other.texts, **self.texts},
            {**other.tables, **self.tables},
            {**other.lists, **self.lists},
            {**other.images, **self.images},
            self.parameters,
        )


@dataclass(frozen=True)
class Child:
    """One column: a run, what it is called in tables and legends, its hyperparameters (empty where it has none), what
    it logged."""

    run: Run
    label: str
    hyperparameters: Mapping[str, Scalar]
    results: RunResults


@dataclass(frozen=True)
class Aggregation:
    """Many runs side by side: all metrics that any of them has, sorted, and the runs in their order."""

    metrics: Sequence[str]
    children: Sequence[Child]
