"""Fixtures of the tests on workspaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import SIGN_IN, opened


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    """The workspace `azure` of the double, opened; nothing was asked of it yet."""
    with opened(azure_environment, project) as opened_workspace:
        yield opened_workspace


@pytest.fixture
def unsigned(azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> StagedWorkspace:
    """The workspace, reachable, with nothing set that signs in, and no vendor's tool on PATH."""
    for name in SIGN_IN:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "")
    return azure_environment
