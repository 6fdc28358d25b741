"""Runs as Azure ML's MLflow routes tell them: many in one answer, each with its parameters and the last value of every
metric; and their histories."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from himl_cli.core.results import Series
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.answers import object_of, understood, unexpected
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.requests.threads import MANY_AT_ONCE, ask_all
from himl_cli.workspaces.azure.runs.metrics import as_number, as_step

log = logging.getLogger(__name__)

PAGE = 1000
"""Runs asked for at once: what MLflow's own client asks for."""
IDS_AT_ONCE = 100
POINTS_AT_ONCE = 999
"""Points asked for at once: the service has refused 1,000 and more."""
BULK_POINTS = 25_000
"""Of several runs at once, an answer that has no next page: what MLflow gives at most."""
PARENT, ROOT = "mlflow.parentRunId", "mlflow.rootRunId"
REFUSED_ROUTE = (400, 405, 501)

Points = dict[tuple[str, str], Series]
"""Series by run and metric."""
_Rows = dict[tuple[str, str], list[tuple[int, float, float]]]


@dataclass(frozen=True)
class MlflowRun:
    """A run: the last value of each metric, parameters and tags by name."""

    id: str
    last: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class MlflowRuns:
    """What the MLflow routes of one workspace say of many runs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._has_bulk = True

    def search(self, experiment_id: str, condition: str) -> Iterator[MlflowRun]:
        """The runs of the experiment that fulfil *condition*, archived ones too. Raises ServiceRefused where it is not
        understood."""
        url = self._connection.mlflow("/runs/search")
        body = {"experiment_ids": [experiment_id], "filter": condition, "run_view_type": "ALL", "max_results": PAGE}
        token, passed = "", set[str]()
        while True:
            try:
                answer = object_of(
                    self._connection.rest.post(url, json=body | ({"page_token": token} if token else {})),
                    url,
                    "list of runs",
                )
            except ServiceNotFound:  # an experiment that MLflow does not know
                return
            with understood(url, "its list of runs"):
                found = [_as_run(raw) for raw in answer.get("runs") or []]
                token = str(answer.get("next_page_token") or "")
            yield from found
            if not token:
                return
            if token in passed:
                raise unexpected(url, "its list of runs does not end")
            passed.add(token)

    def with_ids(self, experiment_id: str, run_ids: Sequence[str]) -> list[MlflowRun]:
        """The runs of these ids, as far as MLflow knows them. A request a hundred, and one for each that did not
        come."""
        found: dict[str, MlflowRun] = {}
        if len(run_ids) > 2:
            for start in range(0, len(run_ids), IDS_AT_ONCE):
                ids = ",".join(
                    quoted(run_id) for run_id in run_ids[start : start + IDS_AT_ONCE] if can_be_quoted(run_id)
                )
                try:
                    found |= {run.id: run for run in self.search(experiment_id, f"attributes.run_id IN ({ids})")}
                except ServiceRefused as err:
                    if err.status not in REFUSED_ROUTE:
                        raise
                    log.debug("MLflow's search does not take lists of ids: %s", err)
                    break
        rest = [run_id for run_id in run_ids if run_id not in found]
        return [*found.values(), *(run for run in ask_all(self._get, rest, at_once=MANY_AT_ONCE) if run is not None)]

    def _get(self, run_id: str) -> MlflowRun | None:
        """One run; None for a kind of run or an id that MLflow does not know."""
        url = self._connection.mlflow("/runs/get")
        try:
            answer = self._connection.rest.get_object(url, "run", params={"run_id": run_id, "run_uuid": run_id})
        except ServiceNotFound:
            return None
        except ServiceRefused as err:
            if err.status not in REFUSED_ROUTE:
                raise
            return None
        with understood(url, "the run in it"):
            return _as_run(answer["run"])

    def histories(self, wanted: Mapping[str, Sequence[str]]) -> Points:
        """All points of the metrics *wanted*, run ids by name: a request a hundred runs and metric where the service
        can, else one a run and metric."""
        chunks = [
            (name, ids[start : start + IDS_AT_ONCE])
            for name, ids in wanted.items()
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
        single = [(run_id, name) for name, ids in wanted.items() for run_id in ids if (run_id, name) not in found]
        found |= dict(zip(single, ask_all(self._history, single, at_once=MANY_AT_ONCE), strict=True))
        return {key: _series(rows) for key, rows in found.items() if rows}

    def _bulk(self, asked: tuple[str, Sequence[str]]) -> _Rows | None:
        """The points of one metric of several runs; None where the service has no such route, or where they are more
        than fit into an answer."""
        name, run_ids = asked
        query = [("metric_key", name), ("max_results", str(BULK_POINTS)), *(("run_id", run_id) for run_id in run_ids)]
        url = self._connection.mlflow("/metrics/get-history-bulk")
        try:
            answer = object_of(self._connection.rest.get(f"{url}?{urlencode(query)}"), url, "list of points")
        except ServiceNotFound:
            self._has_bulk = False
            return None
        except ServiceRefused as err:
            if err.status not in REFUSED_ROUTE:
                raise
            self._has_bulk = False
            return None
        with understood(url, "its list of points"):
            points = answer.get("metrics") or []
            found: _Rows = {(run_id, name): [] for run_id in run_ids}
            for point in points:
                found[str(point["run_id"]), name].append(_row(point))
        return None if len(points) >= BULK_POINTS else found

    def _history(self, asked: tuple[str, str]) -> list[tuple[int, float, float]]:
        run_id, name = asked
        url = self._connection.mlflow("/metrics/get-history")
        said = {"run_id": run_id, "run_uuid": run_id, "metric_key": name, "max_results": str(POINTS_AT_ONCE)}
        rows: list[tuple[int, float, float]] = []
        token, passed = "", set[str]()
        while True:
            answer = self._connection.rest.get_object(
                url, "list of points", params=said | ({"page_token": token} if token else {})
            )
            with understood(url, f"metric '{name}'"):
                rows += [_row(point) for point in answer.get("metrics") or []]
                token = str(answer.get("next_page_token") or "")
            if not token:
                return rows
            if token in passed:
                raise unexpected(url, "its list of points does not end")
            passed.add(token)


def can_be_quoted(run_id: str) -> bool:
    return "'" not in run_id and '"' not in run_id


def quoted(run_id: str) -> str:
    return f"'{run_id}'"


def _as_run(raw: Mapping[str, Any]) -> MlflowRun:
    data = raw.get("data") or {}
    last = {str(one["key"]): as_number(one.get("value")) for one in data.get("metrics") or []}
    return MlflowRun(
        str(raw["info"].get("run_id") or raw["info"]["run_uuid"]),
        last,
        _pairs(data.get("params")),
        _pairs(data.get("tags")),
    )


def _pairs(told: Iterable[Mapping[str, Any]] | None) -> dict[str, str]:
    return {str(one["key"]): str(one.get("value") or "") for one in told or ()}


def _row(point: Mapping[str, Any]) -> tuple[int, float, float]:
    """Step, value, and time in seconds."""
    return as_step(point.get("step")), as_number(point.get("value")), int(point.get("timestamp") or 0) / 1000


def _series(rows: list[tuple[int, float, float]]) -> Series:
    rows.sort(key=lambda row: (row[0], row[2]))
    steps, values, times = zip(*rows, strict=True)
    return Series(array("q", steps), array("d", values), array("d", times))
