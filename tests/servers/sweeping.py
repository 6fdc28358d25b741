"""Sweeps sent to the double by plain requests, and trials that log by the standard library alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.servers.asking import Answer
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.state import Run
from tests.servers.submitting import call

LOG = """
import json, os, sys, urllib.request
host, _, rest = os.environ["MLFLOW_TRACKING_URI"].partition("://")[2].partition("/mlflow/v1.0")
url = f"https://{host}/mlflow/v2.0{rest}/api/2.0/mlflow/runs/log-metric"
headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"], "Content-Type": "application/json"}
for step, value in enumerate(sys.argv[2:]):
    body = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": sys.argv[1], "value": value, "timestamp": 1_700_000_000_000 + step, "step": step}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
"""
LOGS = 'python -c "$LOG" accuracy '
"""How a trial's command begins that logs what stands behind it, the first value at step 0."""
GRID = {"lr": ["choice", [[0.1, 0.01]]], "depth": ["choice", [[3, 5]]]}
RATES = {"lr": ["choice", [[0.1, 0.2, 0.3, 0.4]]]}


def put_sweep(azure: StagedWorkspace, command: str, space: Mapping[str, Any] = GRID, **properties: Any) -> Answer:
    """What is said to the sweep `sweep_1` of *command*: a grid of *space*, one trial at a time, unless *properties* say otherwise."""
    trial = {"command": command, "environmentId": azure.add_environment("training"), "environmentVariables": {"LOG": LOG}}
    body = {
        "jobType": "Sweep",
        "experimentName": "e",
        "computeId": f"{azure.state.path}/computes/cpu-cluster",
        "trial": {**trial, **properties.pop("trial", {})},
        "searchSpace": dict(space),
        "samplingAlgorithm": {"samplingAlgorithmType": "Grid"},
        "objective": {"goal": "maximize", "primaryMetric": "accuracy"},
        "limits": {"jobLimitsType": "Sweep", "maxTotalTrials": 20, "maxConcurrentTrials": 1, "timeout": "PT1H"},
        **properties,
    }
    return call(azure, "PUT", "/jobs/sweep_1?api-version=2024-01-01-preview", {"properties": body})


def submit_sweep(azure: StagedWorkspace, command: str, space: Mapping[str, Any] = GRID, **properties: Any) -> None:
    """Send `sweep_1`, which is taken."""
    answer = put_sweep(azure, command, space, **properties)
    assert answer.status == 201, answer.body


def swept(azure: StagedWorkspace, command: str, space: Mapping[str, Any] = GRID, status: str = "Completed", **properties: Any) -> Run:
    """A sweep that has come to its end."""
    submit_sweep(azure, command, space, **properties)
    return azure.wait_for("sweep_1", status)


def limits(total: int, concurrent: int, **more: str) -> dict[str, Any]:
    return {"jobLimitsType": "Sweep", "maxTotalTrials": total, "maxConcurrentTrials": concurrent, **more}


def trials(azure: StagedWorkspace) -> list[Run]:
    """The trials of `sweep_1`, in the order of their numbers."""
    return [azure.state.runs[name] for name in azure.state.runs["sweep_1"].children]


def statuses(azure: StagedWorkspace) -> list[str]:
    return [trial.status for trial in trials(azure)]


def values(azure: StagedWorkspace) -> list[dict[str, Any]]:
    """What the trials were given."""
    return [json.loads(trial.tags["hyperparameters"]) for trial in trials(azure)]
