"""What many runs logged, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from himl_cli.core.logged import Value
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import Scalar


@dataclass(frozen=True)
class Series:
    """The points of one metric, by step, then time: columns of the same length. Values may be NaN or infinite; `times` are seconds since 1970 UTC."""

    steps: Sequence[int]
    values: Sequence[float]
    times: Sequence[float]


@dataclass(frozen=True)
class RunResults:
    """What one run logged, each by name.

    `last` holds of each number the value of the highest step (of the same step, the latest), and of each text its last one: all that a table shows.
    `series` are the points behind numbers, `tables` rows by column, `lists` values logged at once, `images` names of the run's files; these four are
    empty where only last values were asked for.
    """

    last: Mapping[str, Value] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Sequence[Value]]] = field(default_factory=dict)
    lists: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    images: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Child:
    """One column: a run, what it is called in tables and legends, its hyperparameters (empty where it has none), what it logged."""

    run: Run
    label: str
    hyperparameters: Mapping[str, Scalar]
    results: RunResults


@dataclass(frozen=True)
class Aggregation:
    """Many runs side by side: all metrics that any of them has, sorted, and the runs in their order."""

    metrics: Sequence[str]
    children: Sequence[Child]
