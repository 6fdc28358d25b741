"""The last value of every metric, in memory: clients ask for it at each artifact, and a run may have millions of
points."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.tracking.records import Json, json_metric, milliseconds

Point = tuple[str, float, int, int]  # name, value, step, milliseconds since 1970 UTC


class LatestMetrics:
    """Safe between threads. What other processes log to the runs it was asked about (`RUN_CONTEXT.log`) is read when
    there is something new."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._runs: dict[str, dict[str, Point]] = {}
        self._seen = (0, 0)  # of the database: its version, and the last row that was read

    def note(self, run_id: str, points: Iterable[Point]) -> None:
        """*points* were logged: the one with the highest step, then time, is the last."""
        with self._lock:
            _take(self._known(run_id), points)

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
        self._catch_up()
        if run_id not in self._runs:
            stored = self._store.metrics([run_id])
            self._runs[run_id] = {
                metric.name: (metric.name, metric.last.value, metric.last.step, milliseconds(metric.last.time))
                for metric in stored
            }
        return self._runs[run_id]

    def _catch_up(self) -> None:
        """Read what came since the last look, where another process wrote to the database at all."""
        version, last = self._store.version(), self._seen[1]
        if version == self._seen[0]:
            return
        newest, points = self._store.since(last, [*self._runs])
        if newest < last:  # runs were deleted, and numbers of rows are used again
            self._runs.clear()
        for run_id, point in points:
            _take(self._runs.get(run_id, {}), [point])
        self._seen = (version, newest)


def _take(known: dict[str, Point], points: Iterable[Point]) -> None:
    for point in points:
        before = known.get(point[0])
        if before is None or point[2:] >= before[2:]:
            known[point[0]] = point
