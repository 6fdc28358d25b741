"""Read a sweep with azureml-core: its trials, their metrics, and the table of the best ones; print it as JSON."""

from __future__ import annotations

import json
import sys

from azureml.core.run import Run
from azureml_core_read import SWEEP, opened  # type: ignore[import-not-found]


def main() -> None:
    sweep = Run.get(opened(), SWEEP)
    found = {
        "status": sweep.get_status(),
        "type": sweep.type,
        "children": {run.id: [json.loads(run.get_tags()["hyperparameters"]), run.get_metrics(), run.get_status()] for run in sweep.get_children()},
        "best": sweep.get_properties()["best_child_run_id"],
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
