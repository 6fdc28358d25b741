"""Fixtures of the tests of workspaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.azure import SIGN_IN, Az, connected, opened, token_of
from tests.workspaces.tracking.tracked_job import TrackedJob, tracked_job


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    """The double's workspace `azure`, opened. No request was sent yet."""
    with opened(azure_environment, project) as opened_workspace:
        yield opened_workspace


@pytest.fixture
def connection(azure_environment: StagedWorkspace, project: Path) -> Iterator[Connection]:
    with connected(azure_environment, project) as made:
        yield made


@pytest.fixture
def unsigned(azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> StagedWorkspace:
    """The reachable workspace, without any credentials and without vendors' tools on PATH."""
    for name in SIGN_IN:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "")
    return azure_environment


@pytest.fixture
def az(tmp_path: Path, unsigned: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> Az:
    """The program `az`, as the only way to sign in."""
    program = Az(tmp_path / "programs")
    program.answer(token_of(unsigned.state.principal))
    monkeypatch.setenv("PATH", str(program.folder))
    return program


@pytest.fixture
def job(tmp_path: Path) -> Iterator[TrackedJob]:
    """A job with a tracking server. The name of its folder has characters that an artifact URI must encode."""
    with tracked_job(tmp_path / "runs with space #1") as running:
        yield running
