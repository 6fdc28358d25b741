"""How a workspace is written down for those who come later: a `config.json`, a `.himl` folder. Makes no request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.workspaces.meant import LOCAL_FOLDER, nearest_azure_config


def azure_ids_in(path: Path) -> Mapping[str, str]:
    """The keys of the Azure ML workspace that a config file names. Raises WorkspaceNotFound or BadUsage."""
    from himl_cli.workspaces.azure.places.config import CONFIG_KEYS, address_from_config

    address = address_from_config(path)
    return dict(zip(CONFIG_KEYS, (address.subscription_id, address.resource_group, address.name), strict=True))


def azure_ids_set() -> Mapping[str, str]:
    """The keys of an Azure ML workspace that HIML_* variables set, some or all."""
    from himl_cli.workspaces.azure.places.config import ids_in_environment

    return ids_in_environment()


def azure_config_text(ids: Mapping[str, str], where: str) -> str:
    """A `config.json` for the workspace with these keys. Raises BadUsage, beginning with *where*, for what is missing
    or wrong."""
    from himl_cli.workspaces.azure.places.config import config_text

    return config_text(ids, where)


def azure_config_at(folder: Path) -> Path | None:
    """The `config.json` that those who are in *folder* use: the nearest one that names a workspace."""
    return nearest_azure_config(folder)


def make_local(folder: Path) -> tuple[Path, bool]:
    """A local workspace in *folder*: its own folder, and whether that is new. Raises BadUsage or DiskFailed."""
    from himl_cli.workspaces.local.workspace import LocalWorkspace

    made = LocalWorkspace(folder / LOCAL_FOLDER)
    if made.folder.is_file():
        raise BadUsage(f"'{made.folder}' is a file, so no workspace can be made there.", hint="Move it away.")
    is_new = not made.folder.is_dir()
    if is_new:
        made.make()
    return made.folder, is_new
