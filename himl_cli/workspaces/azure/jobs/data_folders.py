"""Folders of datastores that jobs read and write: which datastore is meant, and whether something lies there."""

from __future__ import annotations

from dataclasses import dataclass

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DataSpec
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.azure.storage.datastores import Datastores


@dataclass(frozen=True)
class DataFolder:
    """The folder `path` (without slashes around it) of a datastore."""

    datastore: DatastoreRecord
    path: str

    @property
    def uri(self) -> str:
        return f"azureml://datastores/{self.datastore.name}/paths/{self.path}/"


class DataFolders:
    """Folders of the datastores of one workspace; each datastore is asked for once. Not for several threads at once."""

    def __init__(self, datastores: Datastores, default: str | None) -> None:
        """*default* is the datastore of what names none; None: the workspace's own default."""
        self._datastores = datastores
        self._default = default
        self._known: dict[str | None, DatastoreRecord] = {}

    def of(self, item: DataSpec) -> DataFolder:
        """The folder that *item* names, whether it is there or not. Raises NotFound naming the datastores that exist,
        BadUsage for no folder in it."""
        path = folder_path(item)
        name = item.datastore or self._default
        if name not in self._known:
            self._known[name] = self._datastores.find(name)
        return DataFolder(self._known[name], path)

    def has_files(self, folder: DataFolder) -> bool:
        """Whether anything lies there. Raises BadUsage for a kind of datastore that himl cannot look into."""
        return self._datastores.of_record(folder.datastore).has_any(folder.path + "/")


def folder_path(item: DataSpec) -> str:
    """The path in the datastore. Raises BadUsage for one that leaves it, or none."""
    parts = [part for part in item.name.split("/") if part not in ("", ".")]
    if not parts:
        raise BadUsage(
            f"'{item.key}' names no dataset, only what is for jobs that run here (local=).",
            hint=f"Write {item.key}=NAME",
        )
    if ".." in parts:
        raise BadUsage(f"'{item.name}' leaves the datastore.", hint="Name a folder inside it.")
    return "/".join(parts)
