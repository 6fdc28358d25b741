"""Metrics, parameters and tags as MLflow's clients log and read them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from himl_cli.core.results import INT64
from himl_cli.core.text import NotJson, read_json
from himl_cli.workspaces.local.run_store import now_ms
from himl_cli.workspaces.local.tracking.fields import Fields, Refused, missing
from himl_cli.workspaces.local.tracking.latest import Point
from himl_cli.workspaces.local.tracking.models import LoggedModels
from himl_cli.workspaces.local.tracking.records import (
    MODEL_HISTORY,
    RUN_NAME,
    Json,
    json_metric,
    milliseconds,
    next_page,
)
from himl_cli.workspaces.local.tracking.runs import JobRuns, run_id_of

MOST_OF = {"metrics": 1000, "params": 100, "tags": 100, "entities": 1000}  # in one batch, as MLflow's own server allows
INTERVAL_POINTS = 2500


class LoggedValues:
    """Writes to the job's runs; each request is kept whole or refused whole."""

    def __init__(self, runs: JobRuns, models: LoggedModels) -> None:
        self.runs = runs
        self.models = models
        self._comparing = threading.Lock()

    def log_metric(self, request: Fields) -> Json:
        self._keep(self.runs.require(run_id_of(request)), [request])
        return {}

    def log_parameter(self, request: Fields) -> Json:
        self._keep(self.runs.require(run_id_of(request)), params=[(request.key("key"), request.text("value", ""))])
        return {}

    def set_tag(self, request: Fields) -> Json:
        self._keep(self.runs.require(run_id_of(request)), tags={request.key("key"): request.text("value", "")})
        return {}

    def log_batch(self, request: Fields) -> Json:
        metrics, params, tags = request.items("metrics"), request.items("params"), request.items("tags")
        everything = metrics + params + tags
        for what, items in (("metrics", metrics), ("params", params), ("tags", tags), ("entities", everything)):
            if len(items) > MOST_OF[what]:
                raise Refused(f"A batch logging request can contain at most {MOST_OF[what]} {what}. Got {len(items)}.")
        pairs = [(item.key("key"), item.text("value", "")) for item in params]
        self._keep(self.runs.require(request.key("run_id")), metrics, pairs, request.pairs("tags"))
        return {}

    def delete_tag(self, request: Fields) -> Json:
        run_id, name = self.runs.require(request.key("run_id")), request.key("key")
        run = self.runs.tracked(run_id).run
        if name not in run.tags:
            raise missing(f"Tag '{name[:250]}' of run '{run_id}'")
        self.runs.store.delete_tag(run_id, name)
        return {}

    def log_model(self, request: Fields) -> Json:
        """MLflow 2 records a model as one more entry of a tag."""
        import json

        run_id = self.runs.require(request.key("run_id"))
        model = _decoded(request.key("model_json"))
        if not isinstance(model, dict):
            raise Refused("Parameter 'model_json' must be a JSON object.")
        with self._comparing:
            history = _decoded(self.runs.tracked(run_id).run.tags.get(MODEL_HISTORY, "[]"))
            entries = [*(history if isinstance(history, list) else []), model]
            self.runs.store.tag(run_id, {MODEL_HISTORY: json.dumps(entries)})
        return {}

    def _keep(
        self,
        run_id: str,
        metrics: Sequence[Fields] = (),
        params: Sequence[tuple[str, str]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        sent = [(metric, _point(metric)) for metric in metrics]
        measured = [(metric, point) for metric, point in sent if metric.text("model_id", "")]
        points = self._unseen(run_id, [point for _, point in sent], {point[0] for _, point in measured})
        stored_tags = dict(tags or {})
        name = stored_tags.pop(RUN_NAME, "")
        if params:
            with self._comparing:  # a parameter is compared with what is kept and then kept: one step
                self._refuse_changes(run_id, params)
                self.runs.metric_store.log(run_id, points, dict(params), stored_tags)
        elif points or stored_tags:
            self.runs.metric_store.log(run_id, points, None, stored_tags)
        if name:
            self.runs.store.rename(run_id, name)
        self.runs.latest.note(run_id, points)
        for metric, point in measured:
            self.models.note_metric(metric, run_id, point)

    def _unseen(self, run_id: str, points: list[Point], measured: set[str]) -> list[Point]:
        """*points* without those kept already: clients repeat a request whose reply was lost, and MLflow 3 sends a
        run's metrics (named in *measured*) again for each of its models."""
        kept = {repr(point) for name in measured for point in self._points(run_id, name)}
        return [point for point in points if repr(point) not in kept and not self.runs.latest.is_last(run_id, point)]

    def _refuse_changes(self, run_id: str, params: Sequence[tuple[str, str]]) -> None:
        known = self.runs.metric_store.parameters(run_id)
        for name, value in params:
            before = known.setdefault(name, value)
            if before != value:
                raise Refused(
                    f"Changing param values is not allowed. Param with key='{name[:250]}' was already logged with "
                    f"value='{before[:250]}'"
                    f" for run ID='{run_id}'. Attempted logging new value '{value[:250]}'."
                )

    def history(self, request: Fields) -> Json:
        """All points of one metric by step, in pages where `max_results` says so."""
        run_id, name = self.runs.require(run_id_of(request), active=False), request.key("metric_key")
        start = request.page_start()
        found = self._points(run_id, name)
        size = request.integer("max_results", max(len(found), 1), allowed=range(1, 2**31))
        page = [json_metric(*point) for point in found[start : start + size]]
        return {"metrics": page, **next_page(start, size, len(found))}

    def interval(self, request: Fields) -> Json:
        """Points of one metric of several runs between two steps, thinned evenly to `max_results` a run; first and last
        stay."""
        name, run_ids = request.key("metric_key"), request.texts("run_ids")
        first, last = request.integer("start_step", INT64.start), request.integer("end_step", INT64.stop - 1)
        most = request.integer("max_results", INTERVAL_POINTS, allowed=range(1, INTERVAL_POINTS + 1))
        found: list[Json] = []
        for run_id in run_ids:
            points = [
                point
                for point in self._points(self.runs.require(run_id, active=False), name)
                if first <= point[2] <= last
            ]
            found += [{**json_metric(*point), "run_id": run_id} for point in _thinned(points, most)]
        return {"metrics": found}

    def _points(self, run_id: str, name: str) -> list[Point]:
        series = self.runs.metric_store.metrics([run_id], name=name)
        return [
            (name, point.value, point.step, milliseconds(point.time)) for metric in series for point in metric.points
        ]


def _point(metric: Fields) -> Point:
    return metric.key("key"), metric.number("value"), metric.integer("step", 0), metric.moment("timestamp", now_ms())


def _thinned(points: list[Point], most: int) -> list[Point]:
    if len(points) <= most:
        return points
    if most == 1:
        return points[-1:]
    return [points[number * (len(points) - 1) // (most - 1)] for number in range(most)]


def _decoded(text: str) -> object:
    try:
        found: object = read_json(text)
    except NotJson as err:
        raise Refused(f"Not valid JSON: {err}.") from err
    return found
