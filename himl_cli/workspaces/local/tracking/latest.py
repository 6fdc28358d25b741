"""The last value of every metric, in memory: clients ask for it at each artifact, and a run may have millions of points."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.tracking.records import Json, json_metric, milliseconds

Point = tuple[str, float, int, int]  # name, value, step, milliseconds since 1970 UTC


class LatestMetrics:
    """Safe between threads. Right as long as nobody else logs to the runs it was asked about."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._runs: dict[str, dict[str, Point]] = {}

    def note(self, run_id: str, points: Iterable[Point]) -> None:
        """*points* were logged: the one with the highest step, then time, is the last."""
        with self._lock:
            known = self._known(run_id)
            for point in points:
                before = known.get(point[0])
                if before is None or point[2:] >= before[2:]:
                    known[point[0]] = point

    def is_last(self, run_id: str, point: Point) -> bool:
        """Whether the very same point is the last one of its metric; NaN is the same as NaN."""
        with self._lock:
            return repr(self._known(run_id).get(point[0])) == repr(point)

    def of(self, run_id: str) -> list[Point]:
        with self._lock:
            return list(self._known(run_id).values())

    def as_json(self, run_id: str) -> list[Json]:
        return [json_metric(*point) for point in self.of(run_id)]

    def _known(self, run_id: str) -> dict[str, Point]:
        if run_id not in self._runs:
            stored = self._store.metrics([run_id])
            self._runs[run_id] = {metric.name: (metric.name, metric.last.value, metric.last.step, milliseconds(metric.last.time)) for metric in stored}
        return self._runs[run_id]
