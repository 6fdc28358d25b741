"""An empty workspace of each kind, for the contract tests that write to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from himl_cli.core.runs import RunEnd, RunStatus
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.azure_workspaces import opened
from tests.recorded_runs import RecordedRuns
from tests.servers.azureml.seeding import StagedWorkspace

Seen = LocalWorkspace | AzureWorkspace
Seed = Callable[[pytest.FixtureRequest, Path], AbstractContextManager[Seen]]
COMPLETED = RunEnd(RunStatus.completed)


@contextmanager
def local(request: pytest.FixtureRequest, folder: Path) -> Iterator[Seen]:
    yield RecordedRuns(folder).workspace


@contextmanager
def azure(request: pytest.FixtureRequest, folder: Path) -> Iterator[Seen]:
    staged: StagedWorkspace = request.getfixturevalue("azure_environment")
    with opened(staged, folder) as workspace:
        yield workspace
