"""Read with MLflow the run called `by himl`, and print what there is, as JSON."""

from __future__ import annotations

import json
import os
import sys

from mlflow_read import opened  # type: ignore[import-not-found]


def main() -> None:
    client = opened()
    experiment = client.get_experiment_by_name(os.environ["LAB_EXPERIMENT"])
    (run,) = [one for one in client.search_runs([experiment.experiment_id]) if one.info.run_name == "by himl"]
    curve = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]
    files = sorted(item.path for item in client.list_artifacts(run.info.run_id, "outputs"))
    said = {"status": run.info.status, "loss": curve, "params": run.data.params, "tags": run.data.tags, "files": files}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
