"""Metrics and parameters in the local database."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone

from himl_cli.core.runs import Metric, MetricPoint
from himl_cli.workspaces.local.database import Database


class MetricStore:
    """What scripts log. A value that is NaN is kept as NULL (SQLite has no NaN) and read back as NaN."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def log(
        self,
        run_id: str,
        points: Iterable[tuple[str, float, int, int]],
        parameters: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Keep *points* (name, value, step, milliseconds since 1970 UTC), *parameters* and *tags* in one transaction."""
        with self.database.writing() as connection:
            connection.executemany(
                "INSERT INTO metrics (run, name, value, step, time) VALUES (?,?,?,?,?)",
                [(run_id, name, None if math.isnan(value) else value, step, time) for name, value, step, time in points],
            )
            for table, pairs in (("parameters", parameters), ("tags", tags)):
                if pairs:
                    connection.executemany(f"INSERT OR REPLACE INTO {table} (run, name, value) VALUES (?,?,?)", [(run_id, n, v) for n, v in pairs.items()])

    def metrics(self, run_ids: Sequence[str], *, name: str | None = None) -> list[Metric]:
        """The metrics of *run_ids* in that order, by name; points by step, then time."""
        marks = ",".join("?" * len(run_ids))
        only = "" if name is None else " AND name = ?"
        values: tuple[object, ...] = (*run_ids, *(() if name is None else (name,)))
        series: dict[tuple[str, str], list[MetricPoint]] = {}
        for row in self.database.rows(f"SELECT run, name, step, time, value FROM metrics WHERE run IN ({marks}){only} ORDER BY step, time, rowid", values):
            value = math.nan if row["value"] is None else row["value"]
            point = MetricPoint(value, row["step"], datetime.fromtimestamp(row["time"] / 1000, timezone.utc))
            series.setdefault((row["run"], row["name"]), []).append(point)
        place = {run_id: number for number, run_id in enumerate(run_ids)}
        return [Metric(key[1], series[key], key[0]) for key in sorted(series, key=lambda key: (place[key[0]], key[1]))]

    def parameters(self, run_id: str) -> dict[str, str]:
        return {row["name"]: row["value"] for row in self.database.rows("SELECT name, value FROM parameters WHERE run = ? ORDER BY name", (run_id,))}
