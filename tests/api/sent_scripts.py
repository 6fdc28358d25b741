"""Scripts that send themselves to the double of Azure ML, and what was sent."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.api.scripts import run_script
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.state import Run

CONDA = "name: lab\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n      - himl-cli\n"
CLUSTER = 'compute_cluster_name="cpu-cluster"'
HERE = 'print("this ran " + ("on Azure ML" if info.is_running_in_azure_ml else "here"))'


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A workspace with a cluster; the project has its config.json and an environment.yml."""
    azure_environment.add_compute("cpu-cluster")
    azure_environment.write_config(project)
    (project / "environment.yml").write_text(CONDA)
    return azure_environment


def sent(lab: StagedWorkspace) -> Run:
    """The one run that was submitted."""
    (run,) = lab.state.runs.values()
    return run


def job_of(lab: StagedWorkspace) -> Mapping[str, Any]:
    """The one job that was submitted, as the service got it."""
    job = sent(lab).job
    assert job is not None
    return job


def send(script: Path, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script with the flag; it has to end well, and before what comes after the call."""
    done = run_script(script, *arguments, "--azureml", cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    assert "this ran" not in done.stdout
    return done
