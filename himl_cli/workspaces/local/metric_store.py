"""Metrics and parameters in the local database."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from himl_cli.core.runs import Metric, MetricPoint
from himl_cli.workspaces.local.database import Database, taken_apart
from himl_cli.workspaces.local.tries import counts, cuts_of

PAIRS_AT_ONCE = 400  # SQLite before 3.32 takes 999 variables


@dataclass(frozen=True)
class MetricRow:
    """Values by the names of metrics, logged together at *time* (milliseconds since 1970 UTC).

    *step* None: the row is counted as the next one of *series*, the metrics that have its rows.
    """

    values: Mapping[str, float]
    step: int | None
    time: int
    series: tuple[str, ...] = ()


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
        """Keep *points* (name, value, step, milliseconds since 1970 UTC), *parameters* and *tags* in one
        transaction."""
        with self.database.writing() as connection:
            connection.executemany(
                "INSERT INTO metrics (run, name, value, step, time) VALUES (?,?,?,?,?)",
                [
                    (run_id, name, None if math.isnan(value) else value, step, time)
                    for name, value, step, time in points
                ],
            )
            for table, pairs in (("parameters", parameters), ("tags", tags)):
                if pairs:
                    connection.executemany(
                        f"INSERT OR REPLACE INTO {table} (run, name, value) VALUES (?,?,?)",
                        [(run_id, n, v) for n, v in pairs.items()],
                    )

    def log_missing_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """Keep those of *parameters* of which the run has none."""
        with self.database.writing() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO parameters (run, name, value) VALUES (?,?,?)",
                [(run_id, n, v) for n, v in parameters.items()],
            )

    def log_rows(self, run_id: str, rows: Sequence[MetricRow], beside: Callable[[], None]) -> None:
        """Keep *rows* in one transaction, and within it do what *beside* does: where that raises, nothing is kept."""
        with self.database.writing() as connection:
            following: dict[tuple[str, ...], int] = {}
            points: list[tuple[str, str, float | None, int, int]] = []
            for row in rows:
                step = row.step
                if step is None:
                    if row.series not in following:
                        marks = ",".join("?" * len(row.series))
                        found = connection.execute(
                            f"SELECT MAX(step) FROM metrics WHERE run = ? AND name IN ({marks})", (run_id, *row.series)
                        ).fetchone()
                        following[row.series] = 0 if found[0] is None else found[0] + 1
                    step = following[row.series]
                    following[row.series] += 1
                points += [
                    (run_id, name, None if math.isnan(value) else value, step, row.time)
                    for name, value in row.values.items()
                ]
            connection.executemany("INSERT INTO metrics (run, name, value, step, time) VALUES (?,?,?,?,?)", points)
            beside()

    def metrics(self, run_ids: Sequence[str], *, name: str | None = None) -> list[Metric]:
        """The metrics of *run_ids* in that order, by name; points by step, then time. Of several tries, those that
        count."""
        marks = ",".join("?" * len(run_ids))
        only = "" if name is None else " AND name = ?"
        values: tuple[object, ...] = (*run_ids, *(() if name is None else (name,)))
        series: dict[tuple[str, str], list[MetricPoint]] = {}
        statement = (
            f"SELECT run, name, step, time, value, rowid AS number FROM metrics WHERE run IN ({marks}){only} "
            "ORDER BY step, time, rowid"
        )
        cuts = cuts_of(self.database, run_ids)
        rows = self.database.rows(statement, values)
        with taken_apart(self.database.path):
            for row in rows:
                if cuts and not counts(row["number"], row["step"], cuts.get((row["run"], row["name"]), ())):
                    continue
                value = math.nan if row["value"] is None else float(row["value"])
                point = MetricPoint(value, int(row["step"]), datetime.fromtimestamp(row["time"] / 1000, timezone.utc))
                series.setdefault((row["run"], row["name"]), []).append(point)
        place = {run_id: number for number, run_id in enumerate(run_ids)}
        return [Metric(key[1], series[key], key[0]) for key in sorted(series, key=lambda key: (place[key[0]], key[1]))]

    def version(self) -> int:
        """A number that is another one once another process wrote to the database."""
        found: int = self.database.rows("PRAGMA data_version")[0][0]
        return found

    def since(self, row: int, run_ids: Sequence[str]) -> tuple[int, list[tuple[str, tuple[str, float, int, int]]]]:
        """The number of the last row of all metrics, and what came after *row* for *run_ids*: run, and (name, value,
        step, milliseconds)."""
        newest = self.database.rows("SELECT COALESCE(MAX(rowid), 0) FROM metrics")[0][0]
        found = (
            self.database.rows(
                "SELECT run, name, value, step, time FROM metrics WHERE rowid > ? AND rowid <= ?", (row, newest)
            )
            if run_ids
            else []
        )
        wanted = set(run_ids)
        points = [
            (one["run"], (one["name"], math.nan if one["value"] is None else one["value"], one["step"], one["time"]))
            for one in found
            if one["run"] in wanted
        ]
        return newest, points

    def values_after(self, name: str, places: Mapping[str, int]) -> list[tuple[str, int, float]]:
        """What was logged as *name*, in the order logged, to each run of *places* after the place given there (0: all):
        run, place, value.

        Of several tries, what counts now: of those runs the whole has to be read again, since what counted before may
        not do so any more.
        """
        pairs = list(places.items())
        found: list[tuple[str, int, float]] = []
        cuts = cuts_of(self.database, list(places))
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            some = pairs[start : start + PAIRS_AT_ONCE]
            statement = (
                f"WITH asked(run, place) AS (VALUES {','.join(['(?,?)'] * len(some))})"
                " SELECT metrics.run, metrics.rowid AS number, metrics.step, metrics.value FROM asked"
                " JOIN metrics ON metrics.run = asked.run AND metrics.name = ? AND metrics.rowid > asked.place"
            )
            rows = self.database.rows(statement, (*(part for pair in some for part in pair), name))
            counting = (
                [row for row in rows if counts(row["number"], row["step"], cuts.get((row["run"], name), ()))]
                if cuts
                else rows
            )
            found += [
                (row["run"], row["number"], math.nan if row["value"] is None else row["value"]) for row in counting
            ]
        return sorted(found, key=lambda one: one[1])

    def parameters(self, run_id: str) -> dict[str, str]:
        return {
            row["name"]: row["value"]
            for row in self.database.rows("SELECT name, value FROM parameters WHERE run = ? ORDER BY name", (run_id,))
        }
