"""A sweep's YAML of `--dry_run`: azure-ai-ml loads it, and the sweep that it then sends is the one that himl sends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.resolve import job_yaml
from tests.azure.test_job_yaml import check_same
from tests.azure.test_job_yaml import workspace as workspace
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure_jobs import SWEEPS, cluster_spec


@pytest.mark.parametrize("fields", SWEEPS.values(), ids=list(SWEEPS))
def test_the_yaml_makes_the_same_sweep(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, fields: dict[str, Any]) -> None:
    assert check_same(workspace, azure, project, cluster_spec(project / "code", **fields))["jobType"] == "Sweep"


def test_the_resources_of_trials_go_with_them(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    fields = {"instance_type": "gpu-large", "resource_properties": {"priority": "high"}, "python": "uv run", **next(iter(SWEEPS.values()))}
    resources = check_same(workspace, azure, project, cluster_spec(project / "code", **fields))["trial"]["resources"]
    assert (resources["instanceType"], resources["properties"]) == ("gpu-large", {"priority": "high"})


def test_a_seed_for_the_trials_goes_with_the_sweep(project: Path) -> None:
    document = yaml.safe_load(job_yaml(cluster_spec(project, **SWEEPS["every draw, with a seed"])))
    assert document["sampling_algorithm"] == {"type": "random", "seed": 7}
    assert document["limits"] == {"max_total_trials": 20, "max_concurrent_trials": 4, "timeout": 86400, "trial_timeout": 5400}
