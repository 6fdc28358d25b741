"""A project whose jobs go to a cluster of the double of Azure ML, for tests of `himl submit --cluster`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import write_files
from tests.servers.azureml.seeding import StagedWorkspace

TRAIN = """
import os, pathlib, sys
print("epochs", sys.argv[2], os.environ["COLOUR"], flush=True)
pathlib.Path("outputs").mkdir(exist_ok=True)
pathlib.Path("outputs/best.txt").write_text("0.9")
"""
CONDA = "name: lab\ndependencies:\n- python=3.11\n- pip\n- pip:\n  - mlflow-skinny\n"
SUBMIT = ("submit", "train.py", "--cluster", "cpu-cluster", "--env_var", "COLOUR=blue")


@pytest.fixture
def azure_project(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A project with a script and an environment, and the config.json of a workspace."""
    azure_environment.write_config(project)
    write_files(project, {"train.py": TRAIN, "environment.yml": CONDA})
    return azure_environment


@pytest.fixture
def running(azure_project: StagedWorkspace) -> Iterator[StagedWorkspace]:
    """As `azure_project`, and the jobs are run."""
    with azure_project.run_jobs():
        yield azure_project
