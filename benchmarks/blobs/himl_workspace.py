"""A workspace in the double of Azure ML whose datastores are the services that are measured, for the whole `himl` command.

The command asks the double who it is and for a datastore's key, when it does not remember; its bytes go straight to nginx or Azurite.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.blobs.sample import ACCOUNT, CONTAINER, KEY
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import running_stage
from tests.servers.azureml.state import Datastore
from tests.servers.azureml.storage import Storage


@dataclass(frozen=True)
class HimlWorkspace:
    """`home` holds what the command remembers between calls."""

    staged: StagedWorkspace
    home: Path

    def environment(self) -> dict[str, str]:
        """Variables that point `himl` at the workspace."""
        state = self.staged.state
        place = {"HIML_SUBSCRIPTION_ID": state.subscription, "HIML_RESOURCE_GROUP": state.group, "HIML_WORKSPACE_NAME": state.name}
        own = {name: value for name, value in self.staged.environment().items() if not name.startswith("AZURE_")}
        return {**own, **place, "XDG_CACHE_HOME": str(self.home)}

    def datastore(self, port: int) -> str:
        """The name of the datastore whose container is served at *port*."""
        name = f"port_{port}"
        storage = Storage(ACCOUNT, KEY, f"http://127.0.0.1:{port}", suffix=f"blob.localhost:{port}", protocol="http")
        self.staged.state.datastores.setdefault(name, Datastore(name, CONTAINER, storage))
        return name


@contextmanager
def himl_workspace(folder: Path) -> Iterator[HimlWorkspace]:
    """The double, as long as the context lasts, with its files in *folder*."""
    (folder / "double").mkdir(parents=True)
    with running_stage(folder / "double") as stage:
        yield HimlWorkspace(stage.workspace("benchmark"), folder / "cache")
