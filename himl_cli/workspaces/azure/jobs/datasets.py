"""A dataset by the name that an input gives, for reading it elsewhere than in a job on Azure ML."""

from __future__ import annotations

from himl_cli.core.errors import NotFound
from himl_cli.core.jobs import DataSpec
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.data import existing_folder
from himl_cli.workspaces.azure.jobs.data_folders import DataFolders
from himl_cli.workspaces.azure.jobs.registered_data import FILE, RegisteredData
from himl_cli.workspaces.azure.storage.datastores import Datastores
from himl_cli.workspaces.base import Dataset


def find_dataset(
    connection: Connection, datastores: Datastores, item: DataSpec, default_datastore: str | None
) -> Dataset:
    """As `KeepsDatasets.dataset`: looked for as for a job (`data.resolve_inputs`), and nothing is registered.

    Raises NotFound, which names the input, for a dataset, version or folder that is not there.
    """
    assets, label = RegisteredData(connection), f"dataset '{item.name}'"
    try:
        asset = None if item.is_folder else assets.find(item.name, item.version, with_uri=True)
    except NotFound as err:
        raise NotFound(f"Input '{item.key}': {err}", hint=err.hint) from err
    if asset is not None:
        is_file = asset.kind == FILE
        return Dataset(item.name, asset.version, datastores.at_uri(asset.uri, label, is_file=is_file), is_file)
    folder = existing_folder(connection, assets, DataFolders(datastores, default_datastore), item)
    return Dataset(item.name, "", datastores.at_uri(folder.uri, label))
