"""A workspace as scripts hold it, with the names of azureml-core's `Workspace` that hi-ml's users call."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.api.datastore import Datastore
from himl_cli.api.experiment import Experiment
from himl_cli.api.run import Run
from himl_cli.core.runs import RunQuery

if TYPE_CHECKING:
    from himl_cli.workspaces.azure.address import WorkspaceAddress
    from himl_cli.workspaces.base import Workspace as Opened


class Workspace:
    """A place that keeps runs and their files: one in Azure ML, or a local one.

    `get_workspace` gives the one that is meant; made directly, it is the one in Azure ML of these names. Looking at it
    costs no request; what it is asked for does. All methods raise `himl_cli`'s errors (NotAllowed, ServiceFailed,
    NotFound and their kin), never an SDK's. *auth* is accepted and not used: himl signs in itself, with the Azure CLI's
    sign-in as one of its ways.
    """

    def __init__(self, subscription_id: str, resource_group: str, workspace_name: str, auth: object = None) -> None:
        from himl_cli.workspaces.resolve import azure_at, open_azure

        start = Path.cwd()
        self.opened: Opened = open_azure(
            azure_at(subscription_id, resource_group, workspace_name, "the names given", start), start
        )
        """The workspace as himl's services know it."""

    @classmethod
    def of(cls, opened: Opened) -> Workspace:
        """The workspace that is *opened* already."""
        workspace = cls.__new__(cls)
        workspace.opened = opened
        return workspace

    @classmethod
    def get(cls, name: str, subscription_id: str, resource_group: str, auth: object = None) -> Workspace:
        """The workspace in Azure ML of these names."""
        return cls(subscription_id, resource_group, name, auth)

    @staticmethod
    def from_config(path: str | os.PathLike[str] | None = None, auth: object = None) -> Workspace:
        """The workspace of the config file *path* (or of the one in that folder), else the configured one; see
        `get_workspace`."""
        from himl_cli.api.configured import get_workspace

        return get_workspace(workspace_config_path=path)

    @property
    def name(self) -> str:
        """Its name in Azure; of a local one, that of the folder it lies in."""
        return self.address.name if self.address else Path(self._place[0]).parent.name

    @property
    def subscription_id(self) -> str:
        """Empty for a local workspace."""
        return self.address.subscription_id if self.address else ""

    @property
    def resource_group(self) -> str:
        """Empty for a local workspace."""
        return self.address.resource_group if self.address else ""

    @property
    def datastores(self) -> Mapping[str, Datastore]:
        """The datastores by their names, the default one first."""
        return {info.name: Datastore(self, info) for info in self.opened.datastores()}

    def get_default_datastore(self) -> Datastore:
        """The datastore that is used where none is named."""
        return Datastore(self, self.opened.datastores()[0])

    def get_run(self, run_id: str) -> Run:
        """The run of that id. Raises RunNotFound, naming similar ids."""
        return Run(self, self.opened.run(run_id))

    def runs(self, query: RunQuery) -> Iterator[Run]:
        """The runs that match, newest first, fetched as they are consumed."""
        return (Run(self, record) for record in self.opened.runs(query))

    def home_of(self, run_id: str) -> Workspace:
        """The workspace that keeps the run: this one, unless it is several. Raises RunNotFound."""
        home = self.opened.home_of(run_id)
        return self if home is self.opened else Workspace.of(home)

    def experiment(self, name: str) -> Experiment:
        """The experiment called *name*, whether it has runs or not."""
        return Experiment(self, name)

    @property
    def address(self) -> WorkspaceAddress | None:
        """Where it lies in Azure; None for a local workspace."""
        from himl_cli.workspaces.resolve import address_of

        return address_of(self.opened)

    @property
    def is_in_azure(self) -> bool:
        """Whether it is a workspace of Azure ML; False for a local one."""
        return self.address is not None

    def __eq__(self, other: object) -> bool:
        """Whether both are the same place, however they were opened."""
        return isinstance(other, Workspace) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    def __repr__(self) -> str:
        return f"Workspace({self.opened.label})"

    @property
    def _place(self) -> tuple[str, ...]:
        address = self.address
        if address is not None:
            return address.cloud.name, address.path.lower()
        folder = getattr(self.opened, "folder", None)
        return (str(folder.resolve()) if isinstance(folder, Path) else self.opened.label,)
