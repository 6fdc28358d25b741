"""What a script does with azureml-core inside a job: find its own run, log to it, with nothing but the run's own token."""

from __future__ import annotations

import json
import sys

from azureml.core.run import Run


def main() -> None:
    run = Run.get_context(allow_offline=False)
    run.log("inside", 1.0)
    run.tag("by", "azureml-core")
    run.flush()
    sys.stdout.write(json.dumps({"id": run.id, "experiment": run.experiment.name, "status": run.get_status()}) + "\n")


if __name__ == "__main__":
    main()
