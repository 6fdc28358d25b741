"""Many runs in a workspace of the double, a second apart, and the ids that come of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from himl_cli.core.runs import RunQuery
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.seeding import StagedWorkspace


def times() -> Iterator[datetime]:
    start = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    return (start + timedelta(seconds=number) for number in range(1_000_000))


def add_many(azure: StagedWorkspace, count: int, experiment: str = "many") -> None:
    """Runs `0` (the oldest) to `count - 1`."""
    for number, time in zip(range(count), times(), strict=False):
        azure.add_run(str(number), experiment, created=time)


def ids(workspace: AzureWorkspace, query: RunQuery) -> list[str]:
    return [run.id for run in workspace.runs(query)]


def newest(count: int, *, of: int) -> list[str]:
    return [str(of - 1 - number) for number in range(count)]
