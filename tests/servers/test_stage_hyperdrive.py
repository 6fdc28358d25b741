"""The HyperDrive route of the double: what azureml-train-core's document cannot say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.servers.asking import ask, token_for
from tests.servers.azureml.seeding import StagedWorkspace

SNAPSHOT = "11111111-2222-3333-4444-555555555555"
DEFINITION = {"script": "train.py", "target": "cpu-cluster"}
GIVEN: dict[str, Any] = {
    "platform_config": {"Definition": {"Overrides": DEFINITION, "SnapshotId": SNAPSHOT}},
    "generator_config": {"name": "RANDOM", "parameter_space": {"--lr": ["quniform", [0, 10, 2]]}},
    "policy_config": {"name": "Bandit", "properties": {"evaluation_interval": 1, "delay_evaluation": 0, "slack_factor": 0.1}},
    "primary_metric_config": {"name": "accuracy", "goal": "MAXIMIZE"},
    "max_total_jobs": 200,
    "max_concurrent_jobs": 100,
    "max_duration_minutes": 10080,
}


def posted(azure: StagedWorkspace, **changed: Any) -> int:
    """The status of the answer to a sweep whose document was *changed*."""
    azure.state.snapshots[SNAPSHOT] = {}
    form = f'--x\r\nContent-Disposition: form-data; name="config"\r\n\r\n{json.dumps(GIVEN | changed)}\r\n--x--\r\n'
    url = f"https://{azure.state.data_plane_host}/hyperdrive/v1.0{azure.state.path}/experiments/e/hdruns/sweep_1"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return ask(azure.stage, "POST", url, token=token_for(azure.stage, azure.state.principal), headers=headers, body=form.encode()).status


def test_a_good_document_is_taken_and_keeps_its_week(azure: StagedWorkspace) -> None:
    assert posted(azure) == 201
    assert azure.state.runs["sweep_1"].tags["_aml_system_max_duration_minutes"] == "10080"


@pytest.mark.parametrize(
    "changed",
    [
        {"policy_config": {"name": "Whim", "properties": {}}},
        {"policy_config": {"name": "Bandit", "properties": {"evaluation_interval": 1}}},
        {"generator_config": {"name": "SOBOL", "parameter_space": {"lr": ["choice", [[1]]]}}},
        {"generator_config": {"name": "RANDOM", "parameter_space": {"lr": ["quniform", [0, 1, 0.1]]}}},
        {"generator_config": {"name": "BayesianOptimization", "parameter_space": {"lr": ["choice", [[1, "a"]]]}}, "policy_config": {"name": "Default"}},
        {"max_concurrent_jobs": 101},
        {"max_total_jobs": 1001},
    ],
    ids=str,
)
def test_what_hyperdrive_cannot_run_is_refused(azure: StagedWorkspace, changed: dict[str, Any]) -> None:
    assert posted(azure, **changed) == 400
    assert azure.state.runs == {}
