"""What a job is to read and write, as the workspace resolves it, and data assets that are registered there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.events import Event, Notice
from himl_cli.core.jobs import DataSpec
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.data_assets import JobData, resolve_inputs, resolve_outputs
from himl_cli.workspaces.azure.storage.datastores import Datastores
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import DEFAULT, connected


class Resolver:
    """The two functions on one workspace, keeping what is said."""

    def __init__(self, connection: Connection, default: str | None = None) -> None:
        self.connection = connection
        self.default = default
        self.events: list[Event] = []

    def inputs(self, *items: DataSpec) -> dict[str, JobData]:
        return resolve_inputs(self.connection, Datastores(self.connection), items, self.default, self.events.append)

    def outputs(self, *items: DataSpec) -> dict[str, JobData]:
        return resolve_outputs(self.connection, Datastores(self.connection), items, self.default, self.events.append)

    @property
    def said(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


@pytest.fixture
def resolve(azure_environment: StagedWorkspace, project: Path) -> Iterator[Resolver]:
    with connected(azure_environment, project) as opened:
        yield Resolver(opened)


def register(azure: StagedWorkspace, name: str, versions: Sequence[str] = ("1",), *, kind: str = "uri_folder", uri: str = "") -> None:
    """Data assets as somebody registered them, the last one being the latest."""
    state = azure.state
    place = uri or f"azureml://subscriptions/{state.subscription}/resourcegroups/{state.group}/workspaces/{state.name}/datastores/{DEFAULT}/paths/{name}/"
    for version in versions:
        given: dict[str, Any] = {"description": None, "tags": {}, "properties": {}, "isArchived": False, "dataType": kind, "dataUri": place}
        state.assets["data"].setdefault(name, {})[version] = {**given, "_created": "2026-01-01T00:00:00.0000000+00:00"}


def data_id(azure: StagedWorkspace, name: str, version: str) -> str:
    return f"{azure.state.path}/data/{name}/versions/{version}"
