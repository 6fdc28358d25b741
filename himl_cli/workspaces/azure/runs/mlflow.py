"""Runs as Azure ML's MLflow routes tell them: many in one answer, each with its parameters and the last value of every
metric; and their histories."""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from himl_cli.core.results import RunResults, Series
from himl_cli.core.runs import Run
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import MANY_AT_ONCE, ask_all
from himl_cli.workspaces.azure.responses import object_of, understood, unexpected
from himl_cli.workspaces.azure.runs.history import PAGE, RunHistory
from himl_cli.workspaces.azure.runs.metrics import Listed, as_number, as_step, list_metrics, read_results
from himl_cli.workspaces.azure.runs.records import RawRun
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused

log = logging.getLogger(__name__)

RUNS_A_PAGE = 1000  # what MLflow's own client asks for
IDS_AT_ONCE = 100
POINTS_AT_ONCE = 999  # the service has refused 1,000 and more
BULK_POINTS = 25_000  # of several runs at once, an answer that has no next page: what MLflow gives at most
PROBED = 4  # runs that are asked for what MLflow does not tell
FEW = 3  # up to so many runs are asked for one by one
PARENT, ROOT = "mlflow.parentRunId", "mlflow.rootRunId"
HISTORY_FIELDS = {PARENT: "ParentRunId", ROOT: "RootRunId"}
REFUSED_ROUTE = (400, 405, 501)

Wanted = Callable[[str], bool]
_Rows = dict[tuple[str, str], list[tuple[int, float, float]]]


@dataclass(frozen=True)
class MlflowRun:
    """A run: the last value of each metric, parameters and tags by name."""

    id: str
    last: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class ManyRuns:
    """Reads what many runs of one workspace logged."""

    def __init__(self, connection: Connection, history: RunHistory) -> None:
        self._connection = connection
        self._history = history
        self._has_bulk = True

    def results(self, runs: Sequence[Run], wanted: Wanted, *, whole: bool) -> dict[str, RunResults]:
        """As `Workspace.results`."""
        known = self._known(runs)
        nested = self._nested(runs, known)
        everyone = [*dict.fromkeys([*(run.id for run in runs), *nested])]
        known |= {run.id: run for run, _ in nested.values()}
        last = {
            run_id: {name: value for name, value in known[run_id].last.items() if wanted(name)}
            for run_id in everyone
            if run_id in known
        }
        waiting = {run.id for run in runs if run.started is None}
        silent = [run_id for run_id in everyone if run_id not in known or not (known[run_id].last or run_id in waiting)]
        others = self._others(everyone, known, silent, wanted, whole=whole)
        series = self._all_points(last, others) if whole else {}
        found: dict[str, RunResults] = {}
        for run_id in everyone:
            other, run = others.get(run_id, RunResults()), known.get(run_id)
            values = {**last.get(run_id, {}), **other.last}
            base = replace(other, series={**series.get(run_id, {}), **other.series}) if whole else RunResults()
            found[run_id] = replace(base, last=values, parameters=run.parameters if run else {})
        for run_id, (_, root) in nested.items():
            found[root] = found[root].filled(found[run_id])
        return {run.id: found[run.id] for run in runs}

    def _known(self, runs: Sequence[Run]) -> dict[str, MlflowRun]:
        """The runs as MLflow has them: those of one parent by one search, others by their ids."""
        asked = {run.id for run in runs}
        experiments = self._experiment_ids(runs)
        groups: dict[tuple[str, str], list[str]] = {}
        for run in runs:
            groups.setdefault((experiments[run.experiment], run.parent or ""), []).append(run.id)
        found: dict[str, MlflowRun] = {}
        for (experiment_id, parent), run_ids in groups.items():
            if parent and len(run_ids) > FEW and can_be_quoted(parent):
                children = self._searched(experiment_id, f"tags.{PARENT} = '{parent}'") or ()
                found |= {run.id: run for run in children if run.id in asked}
            rest = [run_id for run_id in run_ids if run_id not in found]
            found |= {run.id: run for run in self._with_ids(experiment_id, rest)}
        return found

    def _nested(self, runs: Sequence[Run], known: Mapping[str, MlflowRun]) -> dict[str, tuple[MlflowRun, str]]:
        """Runs that scripts nested in *runs*, each with the one that it belongs to: a search for all of one root, or
        for one that logged nothing.

        A search cannot leave out the siblings: of tags the service takes `=` alone.
        """
        asked = {run.id for run in runs}
        experiments = self._experiment_ids(runs)
        searches: dict[tuple[str, str, str], None] = {}
        for run in runs:
            found = known.get(run.id)
            root = found.tags.get(ROOT, run.id) if found else run.id
            if run.parent and root not in asked and can_be_quoted(root):
                searches[run.experiment, ROOT, root] = None
            elif not (found and found.last) and can_be_quoted(run.id) and not self._history.facts(run.id).starts_jobs:
                searches[run.experiment, PARENT, run.id] = None
        candidates = {
            run.id: run
            for some in ask_all(lambda one: self._below(*one, experiments[one[0]], asked), list(searches))
            for run in some
        }
        belongs = {run_id: _ancestor(run_id, candidates, asked) for run_id in candidates}
        return {run_id: (candidates[run_id], root) for run_id, root in belongs.items() if root}

    def _below(self, experiment: str, tag: str, above: str, experiment_id: str, asked: set[str]) -> list[MlflowRun]:
        """The runs below *above* but those *asked* for; the run history names them where MLflow does not understand the
        question."""
        found = self._searched(experiment_id, f"tags.{tag} = '{above}'")
        if found is not None:
            return [run for run in found if run.id not in asked]
        try:
            pages = self._history.of_experiment(experiment, filter=f"({HISTORY_FIELDS[tag]} eq {above})", top=PAGE)
            below = [raw["runId"] for page in pages for raw in page]
        except ServiceRefused as err:
            if err.status != 400:
                raise
            log.warning(
                "Azure ML does not tell which runs are nested in '%s'; what they logged is missing (%s)", above, err
            )
            return []
        return self._with_ids(experiment_id, [one for one in below if one != above and one not in asked])

    def _experiment_ids(self, runs: Sequence[Run]) -> dict[str, str]:
        """The id of each experiment that *runs* belong to, by its name."""
        ids = {run.experiment: run.id for run in runs}
        return {name: self._history.facts(run_id).experiment_id for name, run_id in ids.items()}

    def _searched(self, experiment_id: str, condition: str) -> list[MlflowRun] | None:
        """The runs of the experiment that fulfil *condition*, archived ones too; None where MLflow does not understand
        it."""
        url = self._connection.service("mlflow", "/runs/search")
        body = {
            "experiment_ids": [experiment_id],
            "filter": condition,
            "run_view_type": "ALL",
            "max_results": RUNS_A_PAGE,
        }

        def ask(token: Mapping[str, str]) -> Mapping[str, Any]:
            return self._connection.rest.post_object(url, "list of runs", json={**body, **token})

        found: list[MlflowRun] = []
        try:
            for answer in _pages(ask, url, "its list of runs"):
                with understood(url, "its list of runs"):
                    found += [_as_run(raw) for raw in answer.get("runs") or []]
        except ServiceNotFound:  # an experiment that MLflow does not know
            return found
        except ServiceRefused as err:
            if err.status not in REFUSED_ROUTE:
                raise
            log.debug("MLflow's search does not take '%s': %s", condition, err)
            return None
        return found

    def _with_ids(self, experiment_id: str, run_ids: Sequence[str]) -> list[MlflowRun]:
        """The runs of these ids, as far as MLflow knows them. A request a hundred, and one for each that did not
        come."""
        found: dict[str, MlflowRun] = {}
        for start in range(0, len(run_ids) if len(run_ids) > 2 else 0, IDS_AT_ONCE):
            ids = ",".join(f"'{run_id}'" for run_id in run_ids[start : start + IDS_AT_ONCE] if can_be_quoted(run_id))
            some = self._searched(experiment_id, f"attributes.run_id IN ({ids})")
            if some is None:
                break
            found |= {run.id: run for run in some}
        rest = [run_id for run_id in run_ids if run_id not in found]
        single = ask_all(lambda run_id: get_run(self._connection, run_id), rest, at_once=MANY_AT_ONCE)
        return [*found.values(), *(run for run in single if run is not None)]

    def _others(
        self,
        run_ids: Sequence[str],
        known: Mapping[str, MlflowRun],
        silent: Sequence[str],
        wanted: Wanted,
        *,
        whole: bool,
    ) -> dict[str, RunResults]:
        """What MLflow does not tell, by run; runs of which it told nothing are asked for in any case."""
        few = run_ids[:: max(1, -(-len(run_ids) // PROBED))]
        first = run_ids if whole else [*dict.fromkeys([*few, *silent])]
        listed = list_metrics(self._connection, first)

        def is_known(one: Listed) -> bool:
            return one.is_scalar and one.run in known and one.name in known[one.run].last

        if not all(is_known(one) or one.run in silent for one in listed):
            listed += list_metrics(self._connection, [run_id for run_id in run_ids if run_id not in set(first)])
        return read_results(self._connection, [one for one in listed if not is_known(one)], wanted)

    def _all_points(
        self, last: Mapping[str, Mapping[str, float]], others: Mapping[str, RunResults]
    ) -> dict[str, dict[str, Series]]:
        """All points of what MLflow tells, by run and metric: a request a hundred runs and metric where the service
        can, else one a run and metric."""
        by_name: dict[str, list[str]] = {}
        for run_id, values in last.items():
            for name in values:
                if name not in others.get(run_id, RunResults()).last:
                    by_name.setdefault(name, []).append(run_id)
        chunks = [
            (name, ids[start : start + IDS_AT_ONCE])
            for name, ids in by_name.items()
            for start in range(0, len(ids), IDS_AT_ONCE)
        ]
        found: _Rows = {}
        asked = chunks[:1]  # whether the service can is seen by the first
        while asked and self._has_bulk:
            answers = ask_all(self._bulk, asked)
            found.update(entry for rows in answers for entry in (rows or {}).items())
            too_much = [chunk for chunk, rows in zip(asked, answers, strict=True) if rows is None and len(chunk[1]) > 1]
            halves = [(name, half) for name, ids in too_much for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :])]
            asked = [*halves, *(chunks[1:] if asked == chunks[:1] else ())]
        single = [(run_id, name) for name, ids in by_name.items() for run_id in ids if (run_id, name) not in found]
        found |= dict(zip(single, ask_all(self._points, single, at_once=MANY_AT_ONCE), strict=True))
        series: dict[str, dict[str, Series]] = {}
        for (run_id, name), rows in found.items():
            if rows:
                series.setdefault(run_id, {})[name] = _series(rows)
        return series

    def _bulk(self, asked: tuple[str, Sequence[str]]) -> _Rows | None:
        """The points of one metric of several runs; None where the service has no such route, or where they are more
        than fit into an answer."""
        name, run_ids = asked
        query = [("metric_key", name), ("max_results", str(BULK_POINTS)), *(("run_id", run_id) for run_id in run_ids)]
        url = self._connection.service("mlflow", "/metrics/get-history-bulk")
        try:
            answer = object_of(self._connection.rest.get(f"{url}?{urlencode(query)}"), url, "list of points")
        except (ServiceNotFound, ServiceRefused) as err:
            if err.status not in (404, *REFUSED_ROUTE):
                raise
            self._has_bulk = False
            return None
        with understood(url, "its list of points"):
            points = answer.get("metrics") or []
            found: _Rows = {(run_id, name): [] for run_id in run_ids}
            for point in points:
                found[str(point["run_id"]), name].append(_row(point))
        return None if len(points) >= BULK_POINTS else found

    def _points(self, asked: tuple[str, str]) -> list[tuple[int, float, float]]:
        run_id, name = asked
        url = self._connection.service("mlflow", "/metrics/get-history")
        query = {"run_id": run_id, "run_uuid": run_id, "metric_key": name, "max_results": str(POINTS_AT_ONCE)}
        rows: list[tuple[int, float, float]] = []

        def ask(token: Mapping[str, str]) -> Mapping[str, Any]:
            return self._connection.rest.get_object(url, "list of points", params={**query, **token})

        for answer in _pages(ask, url, "its list of points"):
            with understood(url, f"metric '{name}'"):
                rows += [_row(point) for point in answer.get("metrics") or []]
        return rows


def get_run(connection: Connection, run_id: str) -> MlflowRun | None:
    """One run; None for a kind of run or an id that MLflow does not know."""
    url = connection.service("mlflow", "/runs/get")
    try:
        answer = connection.rest.get_object(url, "run", params={"run_id": run_id, "run_uuid": run_id})
    except (ServiceNotFound, ServiceRefused) as err:
        if err.status not in (404, *REFUSED_ROUTE):
            raise
        return None
    with understood(url, "the run in it"):
        return _as_run(answer["run"])


def read_parameters(connection: Connection, raw: RawRun) -> dict[str, str]:
    """By name, as MLflow and as the run history have them; values that are not text are told as JSON. One request."""
    with understood(connection.service("history"), "the run's list of parameters"):
        found = {
            name: value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
            for name, value in (raw.get("parameters") or {}).items()
        }
    logged = get_run(connection, raw["runId"])
    return dict(sorted((found | dict(logged.parameters if logged else {})).items()))


def _pages(ask: Callable[[dict[str, str]], Mapping[str, Any]], url: str, what: str) -> Iterator[Mapping[str, Any]]:
    """The answers of *ask*, each by the token of the one before. Raises ServiceFailed where a token comes again."""
    passed: set[str] = set()
    more: dict[str, str] = {}
    while True:
        answer = ask(more)
        yield answer
        token = str(answer.get("next_page_token") or "")
        if not token:
            return
        if token in passed:
            raise unexpected(url, f"{what} does not end")
        passed.add(token)
        more = {"page_token": token}


def can_be_quoted(run_id: str) -> bool:
    return "'" not in run_id and '"' not in run_id


def _ancestor(run_id: str, candidates: Mapping[str, MlflowRun], asked: set[str]) -> str:
    """The one of *asked* that the run is nested in; empty where it is not nested in any."""
    passed = {run_id}
    while run_id in candidates:
        run_id = candidates[run_id].tags.get(PARENT, "")
        if run_id in asked:
            return run_id
        if run_id in passed:
            return ""
        passed.add(run_id)
    return ""


def _as_run(raw: Mapping[str, Any]) -> MlflowRun:
    def pairs(listed: Iterable[Mapping[str, Any]] | None) -> dict[str, str]:
        return {str(one["key"]): str(one.get("value") or "") for one in listed or ()}

    data, run_id = raw.get("data") or {}, str(raw["info"].get("run_id") or raw["info"]["run_uuid"])
    last = {str(one["key"]): as_number(one.get("value")) for one in data.get("metrics") or []}
    return MlflowRun(run_id, last, pairs(data.get("params")), pairs(data.get("tags")))


def _row(point: Mapping[str, Any]) -> tuple[int, float, float]:
    """Step, value, and time in seconds."""
    return as_step(point.get("step")), as_number(point.get("value")), int(point.get("timestamp") or 0) / 1000


def _series(rows: list[tuple[int, float, float]]) -> Series:
    rows.sort(key=lambda row: (row[0], row[2]))
    steps, values, times = zip(*rows, strict=True)
    return Series(array("q", steps), array("d", values), array("d", times))
