"""The best trial of a sweep, and where its record says so: properties, and a metric of the sweep itself."""

from __future__ import annotations

import math

from tests.servers.azureml.answers import time_text
from tests.servers.azureml.state import Metric, Point, Run, now

TABLE = "best_child_by_primary_metric"
COLUMNS = {"metric_name": "String", "timestamp": "String", "run_id": "String", "metric_value": "Double", "final": "Bool"}


def logged(trial: Run, metric: str) -> list[float]:
    """All that *trial* logged of *metric*, in the order logged; what is no number is left out."""
    known = trial.metrics.get(metric)
    points = sorted(known.points, key=lambda point: point.created) if known else []
    values = [point.data.get(metric) for point in points]
    return [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]


class Best:
    """What is known of it so far."""

    def __init__(self, sweep: Run, metric: str, *, maximize: bool) -> None:
        self._sweep, self._metric, self._sign = sweep, metric, 1.0 if maximize else -1.0
        self._trial, self._value = "", math.nan

    def see(self, trial: Run) -> None:
        """Take what *trial* has logged into account."""
        values = [value for value in logged(trial, self._metric) if math.isfinite(value)]
        best = max(values, key=lambda value: self._sign * value, default=math.nan)
        if math.isnan(best) or not (math.isnan(self._value) or self._sign * best > self._sign * self._value):
            return
        self._trial, self._value = trial.run_id, best
        self._note(final=False)
        self._sweep.properties |= {
            "score": repr(best),
            "best_child_run_id": trial.run_id,
            "best_metric_status": "Succeeded",
            "best_data_container_id": trial.data_container_id,
        }

    def close(self) -> None:
        """The sweep has ended: nothing better comes."""
        if self._trial:
            self._note(final=True)

    def _note(self, *, final: bool) -> None:
        table = self._sweep.metrics.setdefault(TABLE, Metric(TABLE, "azureml.v1.table", dict(COLUMNS)))
        row = {"metric_name": self._metric, "timestamp": time_text(now()), "run_id": self._trial, "metric_value": self._value, "final": final}
        table.points.append(Point(row))
        self._sweep.revision += 1
