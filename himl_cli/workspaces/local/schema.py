"""The tables of `workspace.db`, and the move of an earlier database to them.

A point takes about 32 bytes: it names its series by number, and its place counts all points of the database in the
order logged. The view `metrics` has the columns of the earlier table, also for processes of an earlier himl that still
use the database when it is moved.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress

SCHEMA_VERSION = 3
OF_RUNS = ("tags", "parameters", "earlier_parameters", "series", "model_metrics", "client_records")
"""The tables with rows of runs. The points go with their series."""

SERIES = """
CREATE {} TABLE IF NOT EXISTS series (
    id INTEGER PRIMARY KEY, run TEXT NOT NULL, name TEXT NOT NULL, late INTEGER NOT NULL DEFAULT 0, UNIQUE (run, name)
);
"""
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, parent TEXT, experiment TEXT NOT NULL, display_name TEXT NOT NULL,
    description TEXT NOT NULL, command TEXT NOT NULL, folder TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
    exit_code INTEGER, created INTEGER NOT NULL, started INTEGER, ended INTEGER
);
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (created, id);
CREATE INDEX IF NOT EXISTS runs_by_experiment ON runs (experiment, created);
CREATE INDEX IF NOT EXISTS runs_by_parent ON runs (parent);
CREATE INDEX IF NOT EXISTS runs_open ON runs (job) WHERE ended IS NULL;
CREATE TABLE IF NOT EXISTS tags (
    run TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parameters (
    run TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run, name)
) WITHOUT ROWID;
-- The metrics of runs. `late` is the place of the last point that was logged after one with a higher step or time
{SERIES.format("")}
CREATE TABLE IF NOT EXISTS points (
    series INTEGER NOT NULL, step INTEGER NOT NULL, time INTEGER NOT NULL, place INTEGER NOT NULL, value REAL,
    PRIMARY KEY (series, step, time, place)
) WITHOUT ROWID;
-- The place of the last point of all runs
CREATE TABLE IF NOT EXISTS places (last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS digests (
    datastore TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, md5 BLOB NOT NULL,
    PRIMARY KEY (datastore, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folders_to_delete (run TEXT PRIMARY KEY) WITHOUT ROWID;
-- Parameters whose values are those of an earlier attempt, which the current one may replace
CREATE TABLE IF NOT EXISTS earlier_parameters (
    run TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (run, name)
) WITHOUT ROWID;
-- Metrics of MLflow's logged models. A value is a text, since a NaN would be NULL
CREATE TABLE IF NOT EXISTS model_metrics (
    model TEXT NOT NULL, run TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, time INTEGER NOT NULL,
    value TEXT NOT NULL, dataset_name TEXT NOT NULL, dataset_digest TEXT NOT NULL,
    PRIMARY KEY (model, step, time, name, run, dataset_name, dataset_digest, value)
) WITHOUT ROWID;
-- Data sets and models that MLflow's clients recorded, as JSON, each with its key among those of its run and kind
CREATE TABLE IF NOT EXISTS client_records (
    run TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, document TEXT NOT NULL, UNIQUE (run, kind, key)
);
CREATE TABLE IF NOT EXISTS registered_models (name TEXT PRIMARY KEY, document TEXT NOT NULL);
"""
# The place of a point is the number of its row of the earlier table. Any of these points may have been a late one
SERIES_OF_EARLIER = (
    "INSERT INTO series (run, name, late) SELECT DISTINCT run, name, (SELECT MAX(rowid) FROM {0}) FROM {0} "
    "ORDER BY run, name;"
)
POINTS_OF_EARLIER = (
    "SELECT series.id AS series, {0}.step, {0}.time, {0}.rowid AS place, {0}.value "
    "FROM series JOIN {0} ON {0}.run = series.run AND {0}.name = series.name"
)
MOVE = f"""
{SERIES_OF_EARLIER.format("moved")}
INSERT INTO points {POINTS_OF_EARLIER.format("moved")} ORDER BY 1, 2, 3, 4;
INSERT INTO places SELECT COALESCE(MAX(rowid), 0) FROM moved;
DROP TABLE moved;
"""
VIEWS = """
INSERT INTO places SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM places);
CREATE TRIGGER IF NOT EXISTS points_late AFTER INSERT ON points WHEN EXISTS (
    SELECT 1 FROM points WHERE series = NEW.series AND (step, time) > (NEW.step, NEW.time)
) BEGIN UPDATE series SET late = NEW.place WHERE id = NEW.series;
END;
CREATE TRIGGER IF NOT EXISTS series_deleted AFTER DELETE ON series
BEGIN DELETE FROM points WHERE series = OLD.id;
END;
CREATE VIEW IF NOT EXISTS metrics AS SELECT
    series.run AS run, series.name AS name, points.step AS step, points.time AS time, points.value AS value,
    points.place AS rowid
FROM series JOIN points ON points.series = series.id;
CREATE TRIGGER IF NOT EXISTS metrics_added INSTEAD OF INSERT ON metrics
BEGIN
    INSERT OR IGNORE INTO series (run, name) VALUES (NEW.run, NEW.name);
    UPDATE places SET last = last + 1;
    INSERT INTO points SELECT id, NEW.step, NEW.time, (SELECT last FROM places), NEW.value FROM series
    WHERE run = NEW.run AND name = NEW.name;
END;
CREATE TRIGGER IF NOT EXISTS metrics_deleted INSTEAD OF DELETE ON metrics
BEGIN DELETE FROM series WHERE run = OLD.run AND name = OLD.name;
END;
"""
AS_SERIES = f"""
{SERIES.format("TEMP")}
{SERIES_OF_EARLIER.format("metrics")}
CREATE TEMP VIEW points AS {POINTS_OF_EARLIER.format("metrics")};
"""


def read_as_series(connection: sqlite3.Connection) -> None:
    """Let a connection that cannot write read the metrics of an earlier database as series and points."""
    connection.executescript(AS_SERIES)


def prepare(connection: sqlite3.Connection) -> None:
    """Create the tables that a database lacks, and move the metrics of an earlier one to series, all or nothing.
    Afterwards such a database returns unused pages to the file system, if no other process prevents that."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have done so while this one waited
        is_due = connection.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION
        is_earlier = (
            is_due
            and connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'metrics'").fetchone()
        )
        parts = ("ALTER TABLE metrics RENAME TO moved;", SCHEMA, MOVE, VIEWS) if is_earlier else (SCHEMA, VIEWS)
        for part in parts if is_due else ():
            for statement in statements(part):
                connection.execute(statement)
        if is_due:
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    if is_earlier:
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("VACUUM")


def statements(script: str) -> list[str]:
    """The statements of *script*, each of which ends at the end of a line."""
    found, current = list[str](), ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            found.append(current)
            current = ""
    return found
