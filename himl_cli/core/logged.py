"""Values that programs log to runs: points by name, rows to send, and the results of one run or of many."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime, timezone
from enum import Enum
from itertools import chain, pairwise
from typing import Any, Generic, TypeVar

from himl_cli.core.errors import BadUsage
from himl_cli.core.installed import RunEnvironment
from himl_cli.core.records import dataclass
from himl_cli.core.runs import Goal, Run, RunStatus, arguments_of, hex_part, own_name
from himl_cli.core.sweeps import (
    BEST_TRIAL,
    GOAL,
    MANY,
    PRIMARY_METRIC,
    REPEATED,
    SWEPT,
    TRIAL,
    Scalar,
    best_of,
    hyperparameters_of,
    value_text,
    values_text,
)

LoggedValue = TypeVar("LoggedValue", float, str)
LoggedPoint = TypeVar("LoggedPoint", bound="Point[float] | Point[str]")


@dataclass(frozen=True)
class Point(Generic[LoggedValue]):
    """One logged value, with its `step`, and its `time` in UTC."""

    value: LoggedValue
    step: int
    time: datetime


@dataclass(frozen=True)
class Points(Generic[LoggedPoint]):
    """The points of one name in the logged order, and the run that logged them (the run itself or a child run).
    `omitted` is the number of points before these that the caller did not request, None if it is unknown."""

    name: str
    points: Sequence[LoggedPoint]
    run: str
    omitted: int | None = 0

    @property
    def count(self) -> int | None:
        return None if self.omitted is None else self.omitted + len(self.points)

    @property
    def last(self) -> LoggedPoint:
        return self.points[-1]


class MetricPoint(Point[float]):
    """A number, which may be NaN or infinite."""


class TextPoint(Point[str]):
    """A text."""


class Metric(Points[MetricPoint]):
    """The numbers of one name."""


class Texts(Points[TextPoint]):
    """The non-numeric values of one name."""


@dataclass(frozen=True)
class LoggedValues:
    """All logged values of a run and of its nested runs: numbers and texts, by name."""

    metrics: Sequence[Metric]
    texts: Sequence[Texts] = ()


@dataclass(frozen=True)
class TrialView:
    """A trial: its run, its hyperparameters, and the last value of the primary metric, or None."""

    run: Run
    hyperparameters: Mapping[str, Scalar]
    value: float | None


@dataclass(frozen=True)
class SweepView:
    """The trials of a sweep in their order, and their primary metric.

    `best` is the run that the workspace recorded as the best, by its best value at any step. Until then, it is the one
    with the best finite last value, or empty. `missing` is a recorded best run that is archived or deleted, so that it
    is not among the trials. `is_repeated` marks folds and seeds, none of which is the best. `logged` are the names of
    other metrics, if no trial logged the primary one.
    """

    metric: str
    goal: str
    trials: Sequence[TrialView]
    best: str = ""
    is_repeated: bool = False
    missing: str = ""
    logged: Sequence[str] = ()

    @property
    def complaint(self) -> str:
        """A sentence if trials logged other metrics, but none of them logged the primary one. Else empty."""
        others = ", ".join(self.logged[:8]) + ", …" * (len(self.logged) > 8)
        return f"No trial logged the primary metric '{self.metric}'. Logged: {others}." if others else ""

    @property
    def ranked(self) -> Sequence[TrialView]:
        """The best trial, then the others by their last values, and those without a numeric value at the end. Folds and
        seeds keep their order."""

        def rank(trial: TrialView) -> tuple[int, float]:
            if trial.value is None or math.isnan(trial.value):
                place, value = 4 if trial.value is None else 3, 0.0
            else:
                place, value = 2 if math.isinf(trial.value) else 1, trial.value
            return 0 if trial.run.id == self.best else place, -value if self.goal == "maximize" else value

        return self.trials if self.is_repeated else sorted(self.trials, key=rank)

    @property
    def best_at_the_end(self) -> str:
        """The run with the best finite last value, or an empty text. Only completed runs count, if any has a value."""
        valued = [
            (each.value, each.run) for each in self.trials if each.value is not None and math.isfinite(each.value)
        ]
        valued = [(value, run) for value, run in valued if run.status is RunStatus.completed] or valued
        best = best_of(self.goal, (value for value, _ in valued))
        return next((run.id for value, run in valued if value == best), "")


@dataclass(frozen=True)
class RunDetails:
    """A run with its logged values and child runs. `metrics` and `texts` include those of nested runs, each with its
    run.

    `sweep` is set for a run whose children are trials. `below` has the child runs of those children, by id.
    `environment` is None if it is not on record, or was not read. `log` is the name and the last lines of the log of a
    failed run, if they were read.
    """

    run: Run
    parameters: Mapping[str, str]
    metrics: Sequence[Metric]
    children: Sequence[Run]
    texts: Sequence[Texts] = ()
    sweep: SweepView | None = None
    below: Mapping[str, Sequence[Run]] = field(default_factory=dict)
    environment: RunEnvironment | None = None
    log: tuple[str, Sequence[str]] = ("", ())


@dataclass()
class WatchedRuns:
    """Watched runs, and their current data by run id.
    `followed` are the ids of those that were in progress at first. `points` are the steps and values of their metrics
    by name, `children` their trials or steps. The other fields belong to the first run: its trials with their values,
    the last lines of its log, and the system metrics that the workspace measures.
    """

    runs: Sequence[Run]
    followed: set[str] = field(default_factory=set)
    points: dict[str, dict[str, list[tuple[int, float]]]] = field(default_factory=dict)
    children: dict[str, Sequence[Run]] = field(default_factory=dict)
    sweep: SweepView | None = None
    log: Sequence[str] = ()
    machine: Sequence[Metric] = ()
    version: int = 0  # changes with the other fields

    def numbers(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """The points of the run without its system metrics."""
        return {name: found for name, found in self.points.get(run_id, {}).items() if not name.startswith(SYSTEM)}


def float_form(value: float) -> float | str:
    """A number as JSON, with texts for NaN and the infinities."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


SYSTEM = "system/"  # the prefix of MLflow's system metrics
# Suffixes of rates
RATES = ("utilization_percentage", "power_usage_watts", "power_usage_percentage")

Value = float | int | bool | str | None  # a logged value, including NaN and the infinities
INT64 = range(-(2**63), 2**63)  # the range of steps, and of values that are stored as integers


class LoggedKind(str, Enum):
    """The kind of a metric: single values over time, a list logged at once, rows of a table, an image (with the name of
    a file of the run as its value)."""

    scalar = "scalar"
    list = "list"
    table = "table"
    image = "image"


def _new_id() -> str:
    import uuid  # takes a millisecond, for which a job would wait

    return str(uuid.uuid4())


@dataclass(frozen=True)
class LoggedRow:
    """Values by column, a step if the program set one, the time in UTC. `id` identifies a row that is sent again."""

    values: Mapping[str, Value]
    step: int | None = None
    time: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    id: str = field(default_factory=_new_id)


@dataclass(frozen=True)
class Logged:
    """Rows of one metric. Scalars, lists and images have one column with the name of the metric."""

    name: str
    kind: LoggedKind
    rows: Sequence[LoggedRow]

    @property
    def columns(self) -> Sequence[str]:
        """The names of all columns, in the order of first use."""
        return [*dict.fromkeys(column for row in self.rows for column in row.values)]

    @property
    def numeric_columns(self) -> Sequence[str]:
        """The names of columns that contain only numbers."""
        values = {column: [row.values.get(column) for row in self.rows] for column in self.columns}
        return [
            column
            for column, found in values.items()
            if any(value is not None for value in found)
            and all(value is None or isinstance(value, (int, float)) for value in found)
        ]

    def name_of(self, column: str) -> str:
        """The metric name of a column: `NAME/COLUMN` for a table, even with only one column."""
        return f"{self.name}/{column}" if self.kind is LoggedKind.table else self.name


# Statistics over the last values of runs, in the order of tables and files
STATISTICS = ("mean", "std", "min", "max", "median")


@dataclass(frozen=True)
class Series:
    """The points of one metric, by step, then in the order logged, as columns of the same length. Values may be NaN or
    infinite. `times` are seconds since 1970 UTC."""

    steps: Sequence[int]
    values: Sequence[float]
    times: Sequence[float]

    @classmethod
    def of(cls, points: Iterable[tuple[int, float, float]]) -> Series:
        """The series of *points*: step, value and time. There is at least one."""
        from array import array  # imported late, since few commands read points

        steps, values, times = zip(*sorted(points, key=lambda point: (point[0], point[2])), strict=True)
        return cls(array("q", steps), array("d", values), array("d", times))


def system_summary(name: str, steps: Sequence[int], values: Sequence[float]) -> float:
    """A summary of all points of a system metric. For a rate it is the mean, weighted by the steps since the previous
    point. For an amount it is the maximum. NaN if no value is finite."""
    if not name.endswith(RATES):
        return max(filter(math.isfinite, values), default=math.nan)
    return _mean(steps, values)


def _mean(steps: Sequence[int], values: Sequence[float]) -> float:
    weights = [max(1, step - before) for before, step in pairwise([0, *steps])]
    pairs = [(weight, value) for weight, value in zip(weights, values, strict=True) if math.isfinite(value)]
    return sum(weight * value for weight, value in pairs) / (sum(weight for weight, _ in pairs) or math.nan)


@dataclass(frozen=True)
class MachineUse:
    """One system metric over a run's time. `node` is empty if the metrics do not name nodes. `run` logged it."""

    metric: str
    node: str
    mean: float
    peak: float
    last: float
    count: int
    run: str


def machine_use(metrics: Iterable[Metric]) -> list[MachineUse]:
    """The system metrics among *metrics*, by node. MLflow writes the node into the name: `system/NODE/METRIC`. The mean
    weights a point by the steps since the previous one."""
    found = []
    for each in metrics:
        values = [point.value for point in each.points]
        if each.omitted == 0 and each.name.startswith(SYSTEM) and any(map(math.isfinite, values)):
            node, _, name = each.name.removeprefix(SYSTEM).rpartition("/")
            mean = _mean([point.step for point in each.points], values)
            peak = max(filter(math.isfinite, values))
            found.append(MachineUse(name, node, mean, peak, each.last.value, len(values), each.run))
    return sorted(found, key=lambda use: (use.run, len(use.node), use.node))


@dataclass(frozen=True)
class RunResults:
    """The logged values of one run, by name.

    `last` has, for each number, the value of the highest step (of the same step, the one logged last), and for each
    text and image (the name of a file of the run) the last one. Tables show only these. Columns of logged tables are
    `NAME/COLUMN` in it. `series` are the points of numbers (a list of numbers is one, with its indices as steps),
    `texts` those of texts, `tables` values by column, `lists` lists that contain other values than numbers, `images`
    names of the run's files. These five are empty if the caller requested last values only. `parameters` are the logged
    parameters, `steps` the steps of the numbers in `last`, if they are known without reading all points.
    """

    last: Mapping[str, Value] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    texts: Mapping[str, Sequence[TextPoint]] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Sequence[Value]]] = field(default_factory=dict)
    lists: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    images: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)

    def filled(self, other: RunResults) -> RunResults:
        """This record, completed by names that only *other* has. The parameters are unchanged."""
        return RunResults(
            {**other.last, **self.last},
            {**other.series, **self.series},
            {**other.texts, **self.texts},
            {**other.tables, **self.tables},
            {**other.lists, **self.lists},
            {**other.images, **self.images},
            self.parameters,
            {**other.steps, **self.steps},
        )


def is_pipeline_trial(run: Run) -> bool:
    return TRIAL in run.tags and run.tags.get(MANY) == "pipeline"


def results_with_steps(
    runs: Sequence[Run],
    steps_of: Callable[[Run], Sequence[Run]],
    results: Callable[..., Mapping[str, RunResults]],
    **asked: Any,
) -> dict[str, RunResults]:
    """The logged values of *runs* from *results* (`Workspace.results`). A trial that is a pipeline also gets the values
    of its steps from *steps_of*, under each name those of the last step that logged it."""
    steps = {run.id: sorted(steps_of(run), key=_begin_of) for run in filter(is_pipeline_trial, runs)}
    found = results([*runs, *chain.from_iterable(steps.values())], **asked)
    merged = {run.id: found.get(run.id, RunResults()) for run in runs}
    for run_id, below in steps.items():
        for step in reversed(below):
            merged[run_id] = merged[run_id].filled(found.get(step.id, RunResults()))
    return merged


def _begin_of(run: Run) -> datetime:
    return run.started or run.created


def sweep_of(run: Run, children: Sequence[Run], results: Callable[..., Mapping[str, RunResults]]) -> SweepView | None:
    """The trials of *run* with the last values of its primary metric from *results* (as of `results_with_steps`). None
    if its *children* are not trials."""
    values = {child.id: hyperparameters_of(child.tags) for child in children}
    trials = [child for child in children if values[child.id]]
    if not trials:
        return None
    metric, goal = run.tags.get(PRIMARY_METRIC, ""), run.tags.get(GOAL, "minimize")
    found = results(trials, wanted=lambda name: name == metric) if metric else {}
    views = []
    for child in trials:
        last = found[child.id].last.get(metric) if child.id in found else None
        if isinstance(last, bool) or not isinstance(last, (int, float)):
            last = None
        views.append(TrialView(child, values[child.id], None if last is None else float(last)))
    logged: set[str] = set()
    if metric and all(view.value is None for view in views) and any(child.started for child in trials):
        found = results(trials, wanted=lambda name: not name.startswith(SYSTEM), whole=False)
        logged = {
            name for each in found.values() for name, value in each.last.items() if isinstance(value, (int, float))
        }
    names = sorted(name for name in logged if name != metric and not name.startswith(SYSTEM))
    if run.tags.get(MANY) in REPEATED:
        return SweepView(metric, goal, views, is_repeated=True, logged=names)
    view = SweepView(metric, goal, views, logged=names)
    recorded = run.tags.get(BEST_TRIAL, "")
    if recorded in values:
        return replace(view, best=recorded)
    return replace(view, best=view.best_at_the_end, missing=recorded)


# Words of the names of metrics that are better when they are smaller, or greater
SMALLER = r"loss|errors?|err|mse|rmse|mae|mape|nlll?|perplexity|ppl|[cw]er|fid|ece|brier"
GREATER = (
    r"acc|accuracy|auc|auroc|rocauc|auprc|aucpr|f1|f1score|dice|m?iou|jaccard|map|precision|recall"
    r"|sensitivity|specificity|r2|bleu|rouge|psnr|ssim|kappa|mcc|reward"
)
# Words next to which the words above may have the opposite meaning, or none: `neg_log_loss`, `error_free_rate`,
# `accuracy_drop`, `loss_scale`.
TURNING = (
    r"neg|negative|negated|minus|inv|inverse|inverted|reciprocal|complement"
    r"|free|reduction|decrease|drop|improvement|gap|scale"
)


def goal_of(metric: str, given: Goal | None) -> Goal:
    """The *given* goal, or the goal from the name of *metric*. A word for a loss has priority: `dice_loss`. Raises
    BadUsage, which asks for --goal."""
    if given is not None:
        return given
    # Words of the name, split at capitals (`valLoss`) and unsplit (`mAP`), with the number behind them (`f1`) and
    # without (`mAP50`).
    apart = re.sub(r"([a-z\d])([A-Z])", r"\1 \2", metric)
    found = re.finditer(r"([a-z]+)\d*", f"{metric} {apart}".lower())
    words = {word for one in found for word in (one[0], one[1])}
    if not any(re.fullmatch(TURNING, word) for word in words):
        if any(re.fullmatch(SMALLER, word) for word in words):
            return "minimize"
        if any(re.fullmatch(GREATER, word) for word in words):
            return "maximize"
    raise BadUsage(
        f"The name of metric '{metric}' does not show whether to minimize or maximize it.",
        hint="Add --goal minimize or --goal maximize.",
    )


@dataclass(frozen=True)
class ListedRuns:
    """Runs of a list in their order, with logged values by run id. `metrics` are those with a column each, and `best`
    has the best value of each, if its goal is known. With `has_parameters`, each parameter and argument in
    which the runs differ has a column. `short_ids` are abbreviations for terminals, and `sizes` those of the files of
    runs in bytes, if they were requested."""

    runs: Sequence[Run]
    results: Mapping[str, RunResults] = field(default_factory=dict)
    metrics: Sequence[str] = ()
    has_parameters: bool = False
    best: Mapping[str, float] = field(default_factory=dict)
    short_ids: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


def given_of(run: Run, results: RunResults | None = None) -> dict[str, str]:
    """The arguments, hyperparameters and logged parameters of a run."""
    given = {name: value_text(value) for name, value in (arguments_of(run) | hyperparameters_of(run.tags)).items()}
    return {**given, **(results.parameters if results else {})}


def readable_name(run: Run) -> str:
    """The display name, or else what distinguishes the run from others of its experiment: its arguments, its sweep, or
    a part of its id that commands accept in place of the id."""
    return own_name(run) or values_text(given_of(run)) or run.tags.get(SWEPT, "") or hex_part(run.id)


@dataclass(frozen=True)
class FileChange:
    """A file in which the code of two runs differs. `change` is `added`, `removed` or `changed`, and `diff` the unified
    diff of a text, if it was requested."""

    name: str
    change: str
    diff: str = ""


Differences = Mapping[str, Sequence[Value]]


@dataclass(frozen=True)
class RunDiff:
    """The differences from run `first` to run `second` (`.`: the working tree), by name: the value of the first and
    that of the second, None for a run without one. `facts` are those of the record, `environment` those of the
    interpreter, the environment and the machine. `packages` is empty if those of a run are unknown. `code` is None if a
    run has no copy of its code."""

    first: str
    second: str
    facts: Differences = field(default_factory=dict)
    arguments: Differences = field(default_factory=dict)
    parameters: Differences = field(default_factory=dict)
    metrics: Differences = field(default_factory=dict)
    tags: Differences = field(default_factory=dict)
    environment: Differences = field(default_factory=dict)
    packages: Differences = field(default_factory=dict)
    code: Sequence[FileChange] | None = None


@dataclass(frozen=True)
class Child:
    """One column: a run, its name in tables and legends, its hyperparameters, if any, and its logged values."""

    run: Run
    label: str
    hyperparameters: Mapping[str, Scalar]
    results: RunResults


@dataclass(frozen=True)
class Aggregation:
    """A comparison of many runs: all metrics that any of them has, sorted, and the runs in their order. `sweep` is set
    if they are the children of a sweep."""

    metrics: Sequence[str]
    children: Sequence[Child]
    sweep: SweepView | None = None

    @property
    def search(self) -> SweepView | None:
        """The trials, if they are those of one search, which has a best trial."""
        return None if self.sweep is None or self.sweep.is_repeated else self.sweep

    @property
    def ranked(self) -> Aggregation:
        """This comparison with the trials of a search in the order of their values, the best one first."""
        places = {trial.run.id: place for place, trial in enumerate(self.search.ranked if self.search else ())}
        children = sorted(self.children, key=lambda child: places.get(child.run.id, len(places)))
        return replace(self, children=children)
