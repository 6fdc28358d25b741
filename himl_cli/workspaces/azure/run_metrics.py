"""Logged data of runs. Every point comes from the metric service (`metric/v2.0`), which stores the data of azureml-core
and MLflow alike. Parameters and last values of many runs at once come from Azure ML's MLflow routes.

For the metric service a metric is a table: its columns have names, and a row is a point with a step and a time. A
scalar has one column. Each column of a table is a metric `NAME/COLUMN`, even if there is only one. Texts are stored in
the same way, and identified by the column's type. Images and documents are among the run's files.

The service never deletes a point. Of a mirrored run with several attempts, himl omits those that a later one replaced.
"""

from __future__ import annotations

import json
import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime, timezone
from itertools import chain, islice
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from himl_cli.core.logged import INT64, LoggedValues, Metric, MetricPoint, RunResults, Series, TextPoint, Texts, Value
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import mask_document
from himl_cli.core.runs import MLFLOW_STATUSES, REPEATED_BY, Run, RunStatus, later_starts
from himl_cli.core.sweeps import MANY
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import MANY_AT_ONCE, ask_all
from himl_cli.workspaces.azure.responses import Page, object_of, pages, understood
from himl_cli.workspaces.azure.run_history import RUNS_PAGE, RunHistory
from himl_cli.workspaces.azure.run_records import RawRun, RunFacts, created_of
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused

log = logging.getLogger(__name__)

NUMBERS = {"double", "int", "bool", "float", "long"}
TEXTS = {"string"}
LIST, TABLE = "azureml.v1.list", "azureml.v1.table"
ROWS_WITHOUT_STEPS = {LIST, TABLE}  # kinds with counted rows, which azureml-core logs at once, without steps
# Each nested run takes requests for its own nested runs and for its metrics. himl omits those beyond this number, with
# a warning.
MOST_NESTED = 500
IDS_AT_ONCE = 100
MOST_RESULTS = 999  # of MLflow's searches and lists of points, since the service has refused 1,000 and more
BULK_POINTS = 25_000  # of several runs, in one response without a next page, MLflow's limit
PARENT, ROOT = "mlflow.parentRunId", "mlflow.rootRunId"
HISTORY_FIELDS = {PARENT: "ParentRunId", ROOT: "RootRunId"}
STATUSES = {name: status for status, name in MLFLOW_STATUSES.items()}
REFUSED_ROUTE = (400, 405, 501)

Item = TypeVar("Item")
Wanted = Callable[[str], bool]
Row = Mapping[str, Any]
Starts = Sequence[datetime]
_Rows = list[tuple[int, float, float]]  # points: step, value, and time in seconds


@dataclass(frozen=True)
class Listed:
    """A metric of a run: its name, its columns with their types in lower case, and its kind."""

    run: str
    name: str
    namespace: str | None
    columns: Mapping[str, str]
    kind: str


def read_values(
    connection: Connection, run_ids: Sequence[str], starts: Mapping[str, Starts], *, texts: bool = True
) -> LoggedValues:
    """The metrics of these runs, by run and name, with points by step, then time, and the *texts*. *starts* are the
    starts of later attempts by run. Sends one request per run and one per metric, several at once."""
    kinds = NUMBERS | (TEXTS if texts else set())
    wanted = [one for one in list_metrics(connection, run_ids) if kinds & set(one.columns.values())]
    order = {run_id: index for index, run_id in enumerate(run_ids)}
    wanted.sort(key=lambda one: (order[one.run], str((one.name, one.namespace))))

    def read(one: Listed) -> list[Metric | Texts]:
        found = _metric_pages(connection, one)
        with understood(connection.service("metric"), f"metric '{one.name}'"):
            return list(_columns(found, one.run, one.name, starts.get(one.run, ())))

    found = [column for columns in ask_all(read, wanted) for column in columns]
    return LoggedValues(
        [one for one in found if isinstance(one, Metric)],
        [one for one in found if isinstance(one, Texts) and texts],
    )


def _that_count(rows: Sequence[Row], starts: Starts, *, is_counted: bool) -> Sequence[Row]:
    """The *rows* of a metric that no later attempt replaced: all that it logged at that step and beyond, or a table or
    list (*is_counted*) as a whole. The time of a row shows its attempt."""
    if not starts:
        return rows
    steps = [0 if is_counted else as_step(row.get("step")) for row in rows]
    numbers = [bisect_right(starts, created_of(row)) for row in rows]
    first = [
        min((step for step, other in zip(steps, numbers, strict=True) if other > number), default=INT64.stop)
        for number in range(len(starts) + 1)
    ]
    return [row for row, step, number in zip(rows, steps, numbers, strict=True) if step < first[number]]


def _columns(found: Sequence[Page], run_id: str, name: str, starts: Starts) -> Iterator[Metric | Texts]:
    types = [found[0].answer["columns"], *(page.answer.get("columns") for page in found[1:])]
    columns = {column: str(kind).lower() for one in types for column, kind in (one or {}).items()}
    kinds = {(page.answer.get("properties") or {}).get("uxMetricType") for page in found}
    is_counted, is_table = bool(kinds & ROWS_WITHOUT_STEPS), len(columns) > 1 or TABLE in kinds
    that_count = _that_count([row for page in found for row in page.items], starts, is_counted=is_counted)
    rows = [(row, index if is_counted else as_step(row.get("step"))) for index, row in enumerate(that_count)]
    for column, kind in columns.items():
        title = f"{name}/{column}" if is_table else name
        filled = [(row, step) for row, step in rows if (row.get("data") or {}).get(column) is not None]
        if kind in NUMBERS:
            if len(columns) == 1:  # null is NaN
                filled = [(row, step) for row, step in rows if column in (row.get("data") or {})]
            points = [MetricPoint(as_number(row["data"][column]), step, created_of(row)) for row, step in filled]
            if points:
                yield Metric(title, sorted(points, key=lambda point: (point.step, point.time)), run_id)
        elif kind in TEXTS and filled:
            texts = [TextPoint(str(row["data"][column]), step, created_of(row)) for row, step in filled]
            yield Texts(title, sorted(texts, key=lambda point: (point.step, point.time)), run_id)


def as_number(value: Any) -> float:
    """A number in JSON, where NaN and the infinities are words or null. NaN for a value that is not a valid float."""
    try:
        return float("nan" if value is None else value)
    except (OverflowError, TypeError, ValueError):
        return float("nan")


def as_step(value: Any) -> int:
    """A step, or 0 if missing. Raises ValueError for a value that is not a 64-bit integer."""
    step = int(value or 0)
    if step.bit_length() > 63:
        raise ValueError("no step")
    return step


def list_metrics(connection: Connection, run_ids: Sequence[str]) -> list[Listed]:
    def listed(run_id: str) -> list[Listed]:
        try:
            found = [one for page in _pages(connection, run_id, "list", metricNamespace=None) for one in page.items]
        except ServiceNotFound:  # the metric service has no entry for a run without metrics
            return []
        with understood(connection.service("metric"), "a metric in it"):
            return [
                Listed(
                    run_id,
                    str(one["metricKey"]["name"]),
                    one["metricKey"].get("namespace"),
                    {str(name): str(type).lower() for name, type in (one.get("columns") or {}).items()},
                    str((one.get("properties") or {}).get("uxMetricType") or ""),
                )
                for one in found
            ]

    return [one for found in ask_all(listed, run_ids, at_once=MANY_AT_ONCE) for one in found]


def _metric_pages(connection: Connection, one: Listed) -> list[Page]:
    query = {"metricName": one.name, "metricNamespace": one.namespace, "startTime": None, "endTime": None}
    return list(_pages(connection, one.run, "full", **query))


def _pages(connection: Connection, run_id: str, what: str, **body: Any) -> Iterator[Page]:
    url = connection.service("metric", f"/runs/{quote(run_id, safe='')}/{what}")
    return pages(lambda token: connection.post(url, json={**body, "continuationToken": token}).body, url, "metrics")


def read_results(
    connection: Connection, listed: Iterable[Listed], starts: Mapping[str, Starts], wanted: Wanted
) -> dict[str, RunResults]:
    """Those of *listed* whose name (or a column's name) is wanted, by run, with one request each."""
    chosen = [
        one for one in listed if wanted(one.name) or any(wanted(f"{one.name}/{column}") for column in one.columns)
    ]
    found: dict[str, RunResults] = {}
    read = ask_all(lambda one: _metric_pages(connection, one), chosen, at_once=MANY_AT_ONCE)
    for one, full in zip(chosen, read, strict=True):
        with understood(connection.service("metric"), f"metric '{one.name}'"):
            logged = [row for page in full for row in page.items]
            rows = _that_count(logged, starts.get(one.run, ()), is_counted=one.kind in ROWS_WITHOUT_STEPS)
            found[one.run] = _results(one, rows).filled(found.get(one.run, RunResults()))
    return found


def _results(one: Listed, rows: Sequence[Mapping[str, Any]]) -> RunResults:
    values = {column: [_value(row, column, kind) for row in rows] for column, kind in one.columns.items()}
    if len(values) > 1 or one.kind == TABLE:
        last = {f"{one.name}/{name}": value for name, some in values.items() for value in some if value is not None}
        return RunResults(last, tables={one.name: values})
    kind, column = next(iter(one.columns.values()), ""), next(iter(values.values()), [])
    filled = [(row, value) for row, value in zip(rows, column, strict=False) if value is not None]
    if not filled:
        return RunResults()
    if kind == "artifact":
        images = [_file_name(str(value)) for _, value in filled]
        return RunResults({one.name: images[-1]}, images={one.name: images})
    if kind in NUMBERS:
        series = Series.of(
            [
                (
                    index if one.kind in ROWS_WITHOUT_STEPS else as_step(row.get("step")),
                    as_number(value),
                    created_of(row).timestamp(),
                )
                for index, (row, value) in enumerate(filled)
            ]
        )
        return RunResults({one.name: series.values[-1]}, {one.name: series})
    if kind in TEXTS and one.kind == LIST:
        return RunResults({one.name: filled[-1][1]}, lists={one.name: column})
    if kind in TEXTS:
        texts = [TextPoint(str(value), as_step(row.get("step")), created_of(row)) for row, value in filled]
        texts.sort(key=lambda point: (point.step, point.time))
        return RunResults({one.name: texts[-1].value}, texts={one.name: texts})
    return RunResults()


def _value(row: Mapping[str, Any], column: str, kind: str) -> Value:
    value = (row.get("data") or {}).get(column)
    if value is None or isinstance(value, bool):
        return value
    if kind in NUMBERS:
        return value if isinstance(value, int) and kind in ("int", "long") else as_number(value)
    return str(value)


def _file_name(uri: str) -> str:
    """The name among the run's files of `aml://artifactId/ORIGIN/CONTAINER/NAME`, or a URI of another form itself."""
    name = uri.removeprefix("aml://artifactId/")
    parts = name.split("/", 2)
    return parts[2] if name != uri and len(parts) == 3 and parts[1].startswith("dcid.") else name


def with_nested(history: RunHistory, run: RunFacts) -> list[str]:
    """The ids of the run and of its nested runs, oldest first on each level.

    Sends one request per run, for at most `MOST_NESTED` runs, the newest of each parent, with a warning if there are
    more.
    """
    found = dict.fromkeys([run.id])
    parents = [] if run.starts_jobs else [run.id]
    while parents:
        left = MOST_NESTED + 1 - len(found)

        def children(parent: str, most: int = left + 1) -> list[str]:
            found = islice(chain.from_iterable(history.children(parent)), most)
            return [child["runId"] for child in found if REPEATED_BY not in (child.get("tags") or {})]

        parents = [child for some in ask_all(children, parents) for child in reversed(some) if child not in found]
        if len(parents) > left:
            log.warning("himl omits the metrics of nested runs of '%s' beyond the newest %d", run.id, MOST_NESTED)
            return [*found, *parents[-left:]] if left else [*found]
        found |= dict.fromkeys(parents)
    return list(found)


@dataclass(frozen=True)
class MlflowRun:
    """A run in MLflow: the last value of each metric and its step, parameters and tags, all by name. `status` is None
    for an unknown status of MLflow."""

    id: str
    last: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)
    status: RunStatus | None = None


class ManyRuns:
    """Reads the logged data of *runs* of one workspace."""

    def __init__(self, connection: Connection, history: RunHistory, runs: Sequence[Run]) -> None:
        self._connection = connection
        self._history = history
        self._runs = runs
        self._ids = {run.id for run in runs}
        ids = {run.experiment: run.id for run in runs}
        self._experiments = {name: history.facts(run_id).experiment_id for name, run_id in ids.items()}
        self._starts = {run.id: starts for run in runs if (starts := later_starts(run.tags))}

    def results(self, wanted: Wanted, *, whole: bool) -> dict[str, RunResults]:
        known = self._known()
        nested = self._nested(known)
        everyone = [*dict.fromkeys([*(run.id for run in self._runs), *nested])]
        known |= {run.id: run for run, _ in nested.values()}
        # MLflow's last value may be one that a later attempt replaced
        known |= {run_id: replace(known[run_id], last={}, steps={}) for run_id in self._starts if run_id in known}
        last = {
            run_id: {name: value for name, value in known[run_id].last.items() if wanted(name)}
            for run_id in everyone
            if run_id in known
        }
        waiting = {run.id for run in self._runs if run.started is None}
        silent = [run_id for run_id in everyone if run_id not in known or not (known[run_id].last or run_id in waiting)]
        others = self._others(everyone, known, silent, wanted, whole=whole)
        series = self._all_points(last, others) if whole else {}
        found: dict[str, RunResults] = {}
        for run_id in everyone:
            other, run = others.get(run_id, RunResults()), known.get(run_id) or MlflowRun(run_id)
            values = {**last.get(run_id, {}), **other.last}
            base = replace(other, series={**series.get(run_id, {}), **other.series}) if whole else RunResults()
            found[run_id] = replace(base, last=values, parameters=run.parameters, steps=run.steps)
        for run_id, (_, root) in nested.items():
            found[root] = found[root].filled(found[run_id])
        return {run.id: found[run.id] for run in self._runs}

    def parents(self) -> set[str]:
        """The ids of the runs that have child runs, and of those whose children would take a request each."""
        known, roots, parents = self._known(), dict[tuple[str, str], None](), set[str]()
        for run in self._runs:
            root = known[run.id].tags.get(ROOT, "") if run.id in known and run.parent and MANY not in run.tags else ""
            if root and _can_be_quoted(root):
                roots[run.experiment, root] = None
            else:
                parents.add(run.id)
        below = chain.from_iterable(ask_all(lambda one: self._below(one[0], ROOT, one[1]), list(roots)))
        return parents | {each.tags.get(PARENT, "") for each in below} & self._ids

    def current(self) -> dict[str, MlflowRun]:
        """The current runs in MLflow, by id, without unknown ones. Sends one request per hundred runs."""
        experiments = sorted({*self._experiments.values()})
        return {run.id: run for run in self._with_ids(experiments, [run.id for run in self._runs])}

    def _known(self) -> dict[str, MlflowRun]:
        groups: dict[tuple[str, str], list[str]] = {}
        for run in self._runs:
            groups.setdefault((self._experiments[run.experiment], run.parent or ""), []).append(run.id)
        found: dict[str, MlflowRun] = {}
        for (experiment_id, parent), run_ids in groups.items():
            if parent and len(run_ids) > 3 and _can_be_quoted(parent):
                children = self._search([experiment_id], f"tags.{PARENT} = '{parent}'") or ()
                found |= {run.id: run for run in children if run.id in self._ids}
            rest = self._with_ids([experiment_id], [run_id for run_id in run_ids if run_id not in found])
            found |= {run.id: run for run in rest}
        return found

    def _nested(self, known: Mapping[str, MlflowRun]) -> dict[str, tuple[MlflowRun, str]]:
        """Runs that scripts nested in the runs, each with its parent. Searches all runs of one root, or all children of
        one that logged nothing.

        A search cannot exclude siblings, because the service supports only `=` for tags.
        """
        searches: dict[tuple[str, str, str], None] = {}
        for run in self._runs:
            found = known.get(run.id)
            root = found.tags.get(ROOT, run.id) if found else run.id
            if run.parent and root not in self._ids and _can_be_quoted(root):
                searches[run.experiment, ROOT, root] = None
            elif not (found and found.last) and _can_be_quoted(run.id) and not self._history.facts(run.id).starts_jobs:
                searches[run.experiment, PARENT, run.id] = None
        below = chain.from_iterable(ask_all(lambda search: self._below(*search), list(searches)))
        candidates = {run.id: run for run in below if run.id not in self._ids and REPEATED_BY not in run.tags}
        nested: dict[str, tuple[MlflowRun, str]] = {}
        for child in candidates.values():
            passed, above = {child.id}, child.tags.get(PARENT, "")
            while above in candidates and above not in passed:
                passed.add(above)
                above = candidates[above].tags.get(PARENT, "")
            if above in self._ids:
                nested[child.id] = child, above
        return nested

    def _below(self, experiment: str, tag: str, above: str) -> list[MlflowRun]:
        """The runs below *above*, from the run history if MLflow rejects the search."""
        experiment_id = self._experiments[experiment]
        found = self._search([experiment_id], f"tags.{tag} = '{above}'")
        if found is not None:
            return found
        try:
            pages = self._history.of_experiment(experiment, filter=f"({HISTORY_FIELDS[tag]} eq {above})", top=RUNS_PAGE)
            below = [raw["runId"] for page in pages for raw in page]
        except ServiceRefused as err:
            if err.status != 400:
                raise
            log.warning("Azure ML cannot list the runs nested in '%s', so their metrics are missing (%s)", above, err)
            return []
        return self._with_ids([experiment_id], [one for one in below if one != above and one not in self._ids])

    def _search(self, experiment_ids: Sequence[str], condition: str) -> list[MlflowRun] | None:
        """The runs of the experiments that match *condition*, including archived ones, or None if MLflow rejects it."""
        url = self._connection.service("mlflow", "/runs/search")
        body = {
            "experiment_ids": [*experiment_ids],
            "filter": condition,
            "run_view_type": "ALL",
            "max_results": MOST_RESULTS,
        }

        def ask(token: Mapping[str, str]) -> Any:
            return self._connection.post(url, json={**body, **token}).body

        try:
            return _mlflow_items(ask, url, "runs", _as_run)
        except ServiceNotFound:  # an experiment that is unknown to MLflow
            return []
        except ServiceRefused as err:
            if err.status not in REFUSED_ROUTE:
                raise
            log.debug("MLflow's search rejects '%s': %s", condition, err)
            return None

    def _with_ids(self, experiment_ids: Sequence[str], run_ids: Sequence[str]) -> list[MlflowRun]:
        """The runs of these ids, without those unknown to MLflow. Sends one request per hundred, and one for each
        missing run."""
        found: dict[str, MlflowRun] = {}
        for start in range(0, len(run_ids) if len(run_ids) > 1 else 0, IDS_AT_ONCE):
            ids = ",".join(f"'{run_id}'" for run_id in run_ids[start : start + IDS_AT_ONCE] if _can_be_quoted(run_id))
            some = self._search(experiment_ids, f"attributes.run_id IN ({ids})")
            if some is None:
                break
            found |= {run.id: run for run in some}
        rest = [run_id for run_id in run_ids if run_id not in found]
        single = ask_all(lambda run_id: _get_run(self._connection, run_id), rest, at_once=MANY_AT_ONCE)
        return [*found.values(), *filter(None, single)]

    def _others(
        self,
        run_ids: Sequence[str],
        known: Mapping[str, MlflowRun],
        silent: Sequence[str],
        wanted: Wanted,
        *,
        whole: bool,
    ) -> dict[str, RunResults]:
        """The data that MLflow lacks, by run. Runs that MLflow lacks are requested in any case."""
        step = max(1, -(-len(run_ids) // 4))
        first = run_ids if whole else [*dict.fromkeys([*run_ids[::step], *silent])]
        listed = list_metrics(self._connection, first)

        def is_known(one: Listed) -> bool:
            is_scalar = [*one.columns] == [one.name] and one.columns[one.name] in NUMBERS
            is_told = one.run in known and one.name in known[one.run].last
            return is_scalar and one.kind not in ROWS_WITHOUT_STEPS and is_told

        if not all(is_known(one) or one.run in silent for one in listed):
            listed += list_metrics(self._connection, [run_id for run_id in run_ids if run_id not in set(first)])
        return read_results(self._connection, [one for one in listed if not is_known(one)], self._starts, wanted)

    def _all_points(
        self, last: Mapping[str, Mapping[str, float]], others: Mapping[str, RunResults]
    ) -> dict[str, dict[str, Series]]:
        """All points that MLflow lists, by run and metric. Sends one request per hundred runs and metric if the service
        supports it, otherwise one per run and metric."""
        by_name: dict[str, list[str]] = {}
        for run_id, values in last.items():
            for name in values:
                if name not in others.get(run_id, RunResults()).last:
                    by_name.setdefault(name, []).append(run_id)
        waiting = [
            (name, ids[start : start + IDS_AT_ONCE])
            for name, ids in by_name.items()
            for start in range(0, len(ids), IDS_AT_ONCE)
        ]
        found: dict[tuple[str, str], _Rows] = {}
        chunks, waiting = waiting[:1], waiting[1:]  # the first one shows whether the service supports it
        while chunks:
            answers = ask_all(self._bulk, chunks)
            found.update(entry for rows in answers for entry in (rows or {}).items())
            if {} in answers:
                break
            too_much = [one for one, rows in zip(chunks, answers, strict=True) if rows is None and len(one[1]) > 1]
            halves = [(name, half) for name, ids in too_much for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :])]
            chunks, waiting = [*halves, *waiting], []
        single = [(run_id, name) for name, ids in by_name.items() for run_id in ids if (run_id, name) not in found]
        found |= dict(zip(single, ask_all(self._points, single, at_once=MANY_AT_ONCE), strict=True))
        series: dict[str, dict[str, Series]] = {}
        for (run_id, name), rows in found.items():
            if rows:
                series.setdefault(run_id, {})[name] = Series.of(rows)
        return series

    def _bulk(self, chunk: tuple[str, Sequence[str]]) -> dict[tuple[str, str], _Rows] | None:
        """The points of one metric of several runs. Nothing if the service has no such route, and None if the points
        exceed one response."""
        name, run_ids = chunk
        query = [("metric_key", name), ("max_results", str(BULK_POINTS)), *(("run_id", run_id) for run_id in run_ids)]
        url = self._connection.service("mlflow", "/metrics/get-history-bulk")
        try:
            answer = self._connection.get(f"{url}?{urlencode(query)}").object("list of points")
        except (ServiceNotFound, ServiceRefused) as err:
            if err.status not in (404, *REFUSED_ROUTE):
                raise
            return {}
        found: dict[tuple[str, str], _Rows] = {(run_id, name): [] for run_id in run_ids}
        with understood(url, "its list of points"):
            points = answer.get("metrics") or []
            for point in points:
                found[str(point["run_id"]), name].append(_row(point))
        return None if len(points) >= BULK_POINTS else found

    def _points(self, one: tuple[str, str]) -> _Rows:
        run_id, name = one
        url = self._connection.service("mlflow", "/metrics/get-history")
        query = {"run_id": run_id, "run_uuid": run_id, "metric_key": name, "max_results": str(MOST_RESULTS)}
        return _mlflow_items(
            lambda token: self._connection.get(url, params={**query, **token}).body, url, "metrics", _row
        )


def read_parameters(connection: Connection, raw: RawRun) -> dict[str, str]:
    """By name, as in MLflow and the run history, with other values than text as JSON. One request."""
    with understood(connection.service("history"), "the run's list of parameters"):
        found = {
            name: value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
            for name, value in (raw.get("parameters") or {}).items()
        }
    logged = _get_run(connection, raw["runId"])
    return dict(sorted((mask_document(found) | dict(logged.parameters if logged else {})).items()))


def _get_run(connection: Connection, run_id: str) -> MlflowRun | None:
    url = connection.service("mlflow", "/runs/get")
    try:
        answer = connection.get(url, params={"run_id": run_id, "run_uuid": run_id}).object("run")
    except (ServiceNotFound, ServiceRefused) as err:
        if err.status not in (404, *REFUSED_ROUTE):
            raise
        return None
    with understood(url, "the run in it"):
        return _as_run(answer["run"])


def read_experiments(connection: Connection) -> dict[str, datetime]:
    """As `Workspace.experiments`, from MLflow's search, because the workspace's services list none without names."""
    url = connection.service("mlflow", "/experiments/search")

    def ask(token: Mapping[str, str]) -> Any:
        return connection.post(url, json={"max_results": MOST_RESULTS, "view_type": "ACTIVE_ONLY", **token}).body

    def parse(raw: Mapping[str, Any]) -> tuple[str, datetime]:
        created = int(raw.get("creation_time") or 0)  # in milliseconds since 1970 UTC
        return str(raw["name"]), datetime.fromtimestamp(created / 1000, timezone.utc)

    found = _mlflow_items(ask, url, "experiments", parse)
    return dict(sorted(found, key=lambda each: each[1], reverse=True))


def _mlflow_items(
    ask: Callable[[dict[str, str]], Any], url: str, what: str, parse: Callable[[Mapping[str, Any]], Item]
) -> list[Item]:
    def page(token: str | None) -> Any:
        answer = object_of(ask({"page_token": token} if token else {}), url, f"list of {what}")
        return {"value": answer.get(what), "continuationToken": answer.get("next_page_token")}

    found: list[Item] = []
    for one in pages(page, url, what):
        with understood(url, f"its list of {what}"):
            found += map(parse, one.items)
    return found


def _can_be_quoted(run_id: str) -> bool:
    return "'" not in run_id and '"' not in run_id


def _as_run(raw: Mapping[str, Any]) -> MlflowRun:
    def pairs(listed: Iterable[Mapping[str, Any]] | None) -> dict[str, str]:
        return {str(one["key"]): "" if one.get("value") is None else str(one["value"]) for one in listed or ()}

    data, run_id = raw.get("data") or {}, str(raw["info"].get("run_id") or raw["info"]["run_uuid"])
    last = {str(one["key"]): as_number(one.get("value")) for one in data.get("metrics") or []}
    steps = {str(one["key"]): as_step(one.get("step")) for one in data.get("metrics") or []}
    status = STATUSES.get(str(raw["info"].get("status")))
    return MlflowRun(run_id, last, mask_document(pairs(data.get("params"))), pairs(data.get("tags")), steps, status)


def _row(point: Mapping[str, Any]) -> tuple[int, float, float]:
    return as_step(point.get("step")), as_number(point.get("value")), int(point.get("timestamp") or 0) / 1000
