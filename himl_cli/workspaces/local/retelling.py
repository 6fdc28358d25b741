"""What a run logged, as records that another workspace can take, in the order in which it came."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone

from himl_cli.core.results import Logged, LoggedKind, LoggedRow
from himl_cli.workspaces.local.database import Database

AT_ONCE = 2000
_IDS = uuid.UUID("6f0b6a7e-6a0c-4f0e-9d2c-5a1c3c1b7f10")


def logged_after(database: Database, run_id: str, last: int) -> tuple[Sequence[Logged], int]:
    """At most `AT_ONCE` points of the run itself that came after the row *last* (0: from the first one), and the last
    row of them.

    A run's rows only grow and are never taken away, so that the number of its last one is a place to go on from. The id
    of a point is made of its run and row: whoever is told it twice knows it again.
    """
    # Either the rows after the last one, or those of the run, are the fewer
    only = "+run = ? AND rowid > ?" if last else "run = ? AND rowid > ?"
    statement = (
        f"SELECT rowid AS number, name, value, step, time FROM metrics WHERE {only} ORDER BY rowid LIMIT {AT_ONCE}"
    )
    series: dict[str, list[LoggedRow]] = {}
    for row in database.rows(statement, (run_id, last)):
        last = row["number"]
        value = math.nan if row["value"] is None else row["value"]
        time = datetime.fromtimestamp(row["time"] / 1000, timezone.utc)
        point = LoggedRow({row["name"]: value}, row["step"], time, str(uuid.uuid5(_IDS, f"{run_id}/{last}")))
        series.setdefault(row["name"], []).append(point)
    return [Logged(name, LoggedKind.scalar, rows) for name, rows in series.items()], last
