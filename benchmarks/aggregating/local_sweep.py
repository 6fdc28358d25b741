"""A sweep with very many points in a local workspace, put there without running it."""

from __future__ import annotations

import json
import math
from pathlib import Path

from himl_cli.core.jobs import HYPERPARAMETERS
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import Database, RunStore, now_ms

AT_ONCE = 10
PARENT = "sweep_1750000000_0a1b2c3d"


def record_sweep(folder: Path, *, children: int, metrics: int, steps: int) -> None:
    """A completed sweep in `.himl` in *folder*; ten trials at a time wrote their points, so that those of one run do not lie together."""
    (folder / ".himl" / "runs").mkdir(parents=True)
    database = Database(folder / ".himl" / "workspace.db", create=True)
    store, metric_store = RunStore(database), MetricStore(database)
    store.add(Run(PARENT, "sweep", display_name="sweep"), started=now_ms())
    for start in range(0, children, AT_ONCE):
        some = range(start, min(children, start + AT_ONCE))
        for number in some:
            tags = {HYPERPARAMETERS: json.dumps({"lr": number / 1000, "depth": number % 4})}
            store.add(Run(f"{PARENT}_{number}", "sweep", parent=PARENT, tags=tags), started=now_ms())
        for first in range(0, steps, AT_ONCE):
            for number in some:
                logged = [(metric, step) for step in range(first, min(steps, first + AT_ONCE)) for metric in range(metrics)]
                values = [(f"val/metric {metric}", math.sin(step * metric) + number, step, 1_750_000_000_000 + step) for metric, step in logged]
                metric_store.log(f"{PARENT}_{number}", values)
        for number in some:
            store.end(f"{PARENT}_{number}", RunStatus.completed, exit_code=0)
    store.end(PARENT, RunStatus.completed, exit_code=0)
