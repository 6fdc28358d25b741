"""Submit a sweep to the lab with azureml-train-core and wait for it, submit another and cancel it; print what it says, as JSON. Argument: a folder."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

os.environ.pop("AZUREML_RUN_POLLING_INTERVAL_MIN", None)  # azureml-core would compare the text with a number
os.environ["HBI_WORKSPACE_JOB"] = "true"  # no telemetry

from azureml.core import Environment, Experiment, ScriptRunConfig
from azureml.train.hyperdrive import GridParameterSampling, HyperDriveConfig, MedianStoppingPolicy, PrimaryMetricGoal, choice
from azureml_core_read import opened  # type: ignore[import-not-found]

TRAIN = """
import os, sys
from pathlib import Path
print("trained", *sys.argv[1:], os.environ["AZUREML_RUN_ID"])
"""


def main() -> None:
    code = Path(sys.argv[1]) / "code"
    code.mkdir(parents=True)
    (code / "train.py").write_text(TRAIN)
    workspace = opened()
    environment = Environment.get(workspace, "torch", version="1")
    trial = ScriptRunConfig(str(code), script="train.py", arguments=["--fixed", "a b"], compute_target="cpu-cluster", environment=environment)

    def config(**fields: object) -> HyperDriveConfig:
        space = GridParameterSampling({"--kernel": choice("linear", "a 'b'"), "C": choice(1, 0.5)})
        return HyperDriveConfig(space, "score", PrimaryMetricGoal.MAXIMIZE, 4, run_config=trial, policy=MedianStoppingPolicy(), **fields)

    experiment = Experiment(workspace, "sent_by_hyperdrive")
    run = experiment.submit(config(max_concurrent_runs=2), tags={"from": "hyperdrive"})
    run.wait_for_completion(show_output=False)
    another = experiment.submit(config(custom_run_id="chosen"))
    another.cancel()
    another.wait_for_completion(show_output=False, raise_on_error=False)
    found = {
        "ids": [run.id, another.id],
        "statuses": [run.get_status(), another.get_status()],
        "values": {name: json.loads(text) for name, text in run.get_hyperparameters().items()},
        "tags": run.get_tags().get("from"),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
