"""One of many that write to a local workspace at once: `python -m stress.load.writing DATABASE NUMBER COUNT GO`.

It begins once the file GO is there, and prints `{"longest": seconds, "errors": [...]}`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import Database, RunStore


def main(path: Path, number: int, count: int, go: Path) -> None:
    print("ready", flush=True)
    while not go.exists():
        time.sleep(0.01)
    database = Database(path)
    store, metrics = RunStore(database), MetricStore(database)
    longest, errors = 0.0, []
    for turn in range(count):
        run_id = f"w{number:03d}_{turn:04d}"
        steps: list[Callable[[], None]] = [
            lambda run_id=run_id: store.add(Run(run_id, "writers"), status=RunStatus.running),  # type: ignore[misc]
            lambda run_id=run_id, turn=turn: metrics.log(run_id, [("loss", float(turn), 0, 1)]),  # type: ignore[misc]
            lambda run_id=run_id: store.tag(run_id, {"writer": str(number)}),  # type: ignore[misc]
            lambda run_id=run_id: store.end(run_id, RunStatus.completed, exit_code=0),  # type: ignore[misc]
        ]
        for step in steps:
            begun = time.monotonic()
            try:
                step()
            except HimlError as e:
                errors.append(str(e))
            longest = max(longest, time.monotonic() - begun)
    database.close()
    print(json.dumps({"longest": longest, "errors": errors}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
