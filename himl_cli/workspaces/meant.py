"""Which workspaces are meant: by what was named, else by where the command is given.

Nothing is opened here, and no request made.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import expand_home

if TYPE_CHECKING:
    from himl_cli.workspaces.azure.places.address import WorkspaceAddress

log = logging.getLogger(__name__)

LOCAL_FOLDER = ".himl"  # as in core/file_tree.py, which is not imported here: completion comes by here at each Tab


@dataclass(frozen=True)
class Meant:
    """The workspaces that are meant: an Azure ML one, a local one (its folder), or both; and from where they were
    looked for."""

    azure: WorkspaceAddress | None
    local: Path | None
    start: Path
    is_named: bool = False


def find_workspaces(spec: str | None, config_file: str | None, *, start: Path) -> Meant:
    """The workspaces that *spec* or *config_file* names; else the configured Azure ML one and the nearest local one
    upward from *start*.

    Raises BadUsage for both arguments at once and for a configuration that cannot be used, NotFound for a config file
    that is not there. Either workspace may be missing; a local folder that was named need not exist yet.
    """
    if spec and config_file:
        raise BadUsage("--workspace and --config_file were both given.", hint="Give one of them.")
    if config_file or (spec and spec.endswith(".json")):
        return Meant(_named_azure(expand_home(config_file or spec or ""), start), None, start, is_named=True)
    if spec:
        return Meant(None, nearest_local(start) if spec == "local" else named_folder(spec), start, is_named=True)
    meant = Meant(configured_azure(start), nearest_local(start), start)
    log.debug(
        "workspaces: Azure ML %s; local %s", meant.azure and f"{meant.azure.label} ({meant.azure.source})", meant.local
    )
    return meant


def configured_azure(start: Path) -> WorkspaceAddress | None:
    """The job's own workspace inside an Azure ML job; else that of the nearest config.json; else that of the HIML_*
    variables."""
    from himl_cli.workspaces.azure.places.config import address_from_config, address_from_environment

    cloud = cloud_setting(start)
    config = None if (own := own_azure(start)) else nearest_azure_config(start)
    return own or (address_from_config(config, cloud=cloud) if config else address_from_environment(cloud=cloud))


def nearest_azure_config(start: Path) -> Path | None:
    """The nearest `config.json` upward that names an Azure ML workspace, by the rules of `azure.config`."""
    from himl_cli.workspaces.azure.places.config import find_config

    return find_config(start)


def search_remarks(spec: str | None, config_file: str | None, *, start: Path) -> Sequence[str]:
    """What a person should know of the search for a `config.json`, where that is what was asked for: files passed over,
    where it stopped."""
    from himl_cli.workspaces.azure.places import config_remarks

    return () if spec or config_file or own_azure(start) else tuple(config_remarks.search_remarks(start))


def _named_azure(path: Path, start: Path) -> WorkspaceAddress:
    """The workspace of a config file; inside an Azure ML job always the job's own, the only one that its identity is
    for."""
    from himl_cli.workspaces.azure.places.config import address_from_config

    own = own_azure(start)
    if own is not None:
        log.warning("'%s' is not used: inside an Azure ML job, the job's own workspace is.", path)
    return own or address_from_config(path, cloud=cloud_setting(start))


def is_in_azure_job() -> bool:
    """Whether this process is part of an Azure ML job."""
    from himl_cli.workspaces.azure.places.config import address_of_job

    return address_of_job() is not None


def own_azure(start: Path) -> WorkspaceAddress | None:
    """The workspace of the Azure ML job that this process is part of; None elsewhere. The settings for *start* may name
    its cloud."""
    from himl_cli.workspaces.azure.places.config import address_of_job

    return address_of_job(cloud=cloud_setting(start))


def cloud_setting(start: Path) -> str | None:
    """The cloud that the settings for *start* name."""
    from himl_cli.workspaces.azure.places.settings import azure_settings

    return azure_settings(start).cloud or None


def named_folder(spec: str) -> Path:
    """The local workspace that a path means: itself when it is called `.himl` or holds a record, else the `.himl` in
    it."""
    path = expand_home(spec, "folder").absolute()
    if path.name == LOCAL_FOLDER or (path / "workspace.db").is_file() or path.is_file():
        return path
    return path / LOCAL_FOLDER


def nearest_local(start: Path) -> Path | None:
    """The nearest `.himl` folder in *start* or a parent."""
    return next((folder / LOCAL_FOLDER for folder in (start, *start.parents) if (folder / LOCAL_FOLDER).is_dir()), None)


def project_of(config: Path) -> Path:
    """The project's folder that a `config.json` belongs to."""
    return config.parent.parent if config.parent.name == ".azureml" else config.parent
