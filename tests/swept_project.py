"""A project with a script that sweeps run, here or on a cluster of the double of Azure ML."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import write_files
from tests.servers.azureml.seeding import StagedWorkspace

TRAIN = "import sys\nprint(*sys.argv[1:])\n"
ENVIRONMENT = "dependencies:\n- python=3.11\n- pip:\n  - himl-cli\n"


@pytest.fixture(autouse=True)
def script(project: Path) -> None:
    write_files(project, {"train.py": TRAIN})


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """The project with an environment and the config.json of a workspace."""
    azure_environment.write_config(project)
    write_files(project, {"environment.yml": ENVIRONMENT})
    return azure_environment
