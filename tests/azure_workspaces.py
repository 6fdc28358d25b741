"""Azure ML workspaces of the double, opened as himl opens them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from himl_cli.workspaces.azure.config import PUBLIC, WorkspaceAddress, address_of_job, azure_settings
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.retry import CONTROL_PLANE, RetryPolicy
from tests.servers.azureml.seeding import StagedWorkspace


@contextmanager
def opened(staged: StagedWorkspace, folder: Path, policy: RetryPolicy = CONTROL_PLANE) -> Iterator[AzureWorkspace]:
    """The workspace, as a command in *folder* sees it; the variables of `staged.environment()` have to be set."""
    state = staged.state
    yield from _open(WorkspaceAddress(state.subscription, state.group, state.name, PUBLIC, "a test"), folder, policy)


@contextmanager
def opened_in_job(folder: Path) -> Iterator[AzureWorkspace]:
    """The workspace, as a command in a job sees it; the variables of `staged.job_environment(run)` have to be set."""
    address = address_of_job()
    assert address is not None
    yield from _open(address, folder)


def _open(address: WorkspaceAddress, folder: Path, policy: RetryPolicy = CONTROL_PLANE) -> Iterator[AzureWorkspace]:
    workspace = AzureWorkspace(Connection.open(address, settings=azure_settings(folder), policy=policy))
    try:
        yield workspace
    finally:
        workspace.close()
