"""The only door to a workspace: decides which one is meant and imports its backend when it is opened.

Runs are looked for in two places, since a job that runs here is recorded here, also where an Azure ML workspace is configured:
`open_runs` opens both. Everything else belongs to one place: `open_workspace` for data, `open_for_jobs` for what runs here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.errors import BadUsage, WorkspaceNotFound

if TYPE_CHECKING:
    from himl_cli.workspaces.azure.places.address import WorkspaceAddress
    from himl_cli.workspaces.base import FoundWorkspace, Workspace
    from himl_cli.workspaces.local.workspace import LocalWorkspace

log = logging.getLogger(__name__)

LOCAL_FOLDER = ".himl"


@dataclass(frozen=True)
class Meant:
    """The workspaces that are meant: an Azure ML one, a local one (its folder), or both; and from where they were looked for."""

    azure: WorkspaceAddress | None
    local: Path | None
    start: Path
    is_named: bool = False


def find_workspaces(spec: str | None, config_file: str | None, *, start: Path) -> Meant:
    """The workspaces that *spec* or *config_file* names; else the configured Azure ML one and the nearest local one upward from *start*.

    Raises BadUsage for both arguments at once and for a configuration that cannot be used, NotFound for a config file that
    is not there. Either workspace may be missing; a local folder that was named need not exist yet.
    """
    if spec and config_file:
        raise BadUsage("--workspace and --config_file were both given.", hint="Give one of them.")
    if config_file or (spec and spec.endswith(".json")):
        return Meant(_named_azure(Path(config_file or spec or "").expanduser(), start), None, start, is_named=True)
    if spec:
        return Meant(None, nearest_local(start) if spec == "local" else named_folder(spec), start, is_named=True)
    meant = Meant(configured_azure(start), nearest_local(start), start)
    log.debug("workspaces: Azure ML %s; local %s", meant.azure and f"{meant.azure.label} ({meant.azure.source})", meant.local)
    return meant


def configured_azure(start: Path) -> WorkspaceAddress | None:
    """The job's own workspace inside an Azure ML job; else that of the nearest config.json; else that of the HIML_* variables."""
    from himl_cli.workspaces.azure.places.config import address_from_config, address_from_environment

    cloud = _cloud_setting(start)
    config = None if (own := own_azure(start)) else nearest_azure_config(start)
    return own or (address_from_config(config, cloud=cloud) if config else address_from_environment(cloud=cloud))


def nearest_azure_config(start: Path) -> Path | None:
    """The nearest `config.json` upward that names an Azure ML workspace, by the rules of `azure.config`."""
    from himl_cli.workspaces.azure.places.config import find_config

    return find_config(start)


def search_remarks(spec: str | None, config_file: str | None, *, start: Path) -> Sequence[str]:
    """What a person should know of the search for a `config.json`, where that is what was asked for: files passed over, where it stopped."""
    from himl_cli.workspaces.azure.places import config_remarks

    return () if spec or config_file or own_azure(start) else tuple(config_remarks.search_remarks(start))


def _named_azure(path: Path, start: Path) -> WorkspaceAddress:
    """The workspace of a config file; inside an Azure ML job always the job's own, the only one that its identity is for."""
    from himl_cli.workspaces.azure.places.config import address_from_config

    own = own_azure(start)
    if own is not None:
        log.warning("'%s' is not used: inside an Azure ML job, the job's own workspace is.", path)
    return own or address_from_config(path, cloud=_cloud_setting(start))


def open_workspace(spec: str | None, config_file: str | None, *, start: Path) -> Workspace:
    """The one workspace that is meant where only one can be: the Azure ML one if there is one, else the local one.

    Raises WorkspaceNotFound where there is none, and what `find_workspaces` raises.
    """
    meant = find_workspaces(spec, config_file, start=start)
    return open_azure(meant.azure, start) if meant.azure else _open_local(_existing(meant))


def open_runs(spec: str | None, config_file: str | None, *, start: Path) -> Workspace:
    """All runs that are meant: of the local workspace and of the Azure ML one, where there are both.

    Raises WorkspaceNotFound where there is neither, and what `find_workspaces` raises.
    """
    meant = find_workspaces(spec, config_file, start=start)
    if meant.azure is None:
        return _open_local(_existing(meant))
    if meant.local is None:
        return open_azure(meant.azure, start)
    from himl_cli.workspaces.joined import JoinedWorkspace

    address = meant.azure
    return JoinedWorkspace(_open_local(meant.local), lambda: open_azure(address, start), address.label)


def open_each(spec: str | None, config_file: str | None, *, start: Path) -> Sequence[FoundWorkspace]:
    """Each workspace that is meant by itself, the one that data goes to first. Raises what `find_workspaces` raises."""
    from himl_cli.workspaces.base import FoundWorkspace

    meant = find_workspaces(spec, config_file, start=start)
    found: list[FoundWorkspace] = []
    if meant.azure is not None:
        azure = meant.azure
        found.append(FoundWorkspace(azure.label, "azure", _why(azure.source, meant), meant.is_named, lambda: open_azure(azure, start)))
    if meant.local is not None:
        local = _open_local(meant.local)
        found.append(FoundWorkspace(local.label, "local", _why(str(meant.local), meant), meant.is_named, lambda: local))
    return found


def _why(source: str, meant: Meant) -> str:
    """Where a workspace was read, and by which rule."""
    if not Path(source).is_absolute():
        return source
    return f"'{source}' ({'as named' if meant.is_named else 'the nearest here or above'})"


def open_for_jobs(spec: str | None, config_file: str | None, *, start: Path) -> LocalWorkspace:
    """The local workspace that records a job which runs here; one that does not exist yet will do, the job makes it.

    That is the one *spec* names, else the nearest upward from *start*, else one beside the Azure `config.json`, else one in
    *start*. Raises BadUsage where an Azure ML workspace is named.
    """
    if config_file or (spec and spec.endswith(".json")):
        raise BadUsage(
            f"'{config_file or spec}' names an Azure ML workspace, and this version of himl runs and records jobs here only.",
            hint="Leave it out, or give a .himl folder with --workspace.",
        )
    folder = named_folder(spec) if spec and spec != "local" else nearest_local(start)
    if folder is None:
        config = nearest_azure_config(start)
        folder = (_project_of(config) if config else start) / LOCAL_FOLDER
    log.debug("the job is recorded in %s", folder)
    return _open_local(folder, create=True)


def _existing(meant: Meant) -> Path:
    remarks = () if meant.local or meant.is_named else search_remarks(None, None, start=meant.start)
    if remarks:
        raise WorkspaceNotFound(
            f"No workspace: no {LOCAL_FOLDER} folder in '{meant.start}' or above, and no Azure ML config.json that can be used.",
            hint=f"{remarks[0]} See 'himl doctor'.",
        )
    if meant.local is None:
        raise WorkspaceNotFound(
            f"No workspace: no {LOCAL_FOLDER} folder and no Azure ML config.json in '{meant.start}' or above.",
            hint="'himl submit SCRIPT' makes a local one here, and so does 'mkdir .himl'; --workspace names another. For Azure ML, see 'himl doctor'.",
        )
    return meant.local


def open_azure(address: WorkspaceAddress, start: Path) -> Workspace:
    """The Azure ML workspace at *address*, with the credentials that the settings for *start* name. No request is made yet."""
    from himl_cli.workspaces.azure.connection import Connection
    from himl_cli.workspaces.azure.places.settings import azure_settings
    from himl_cli.workspaces.azure.workspace import AzureWorkspace

    return AzureWorkspace(Connection.open(address, settings=azure_settings(start)))


def is_in_azure_job() -> bool:
    """Whether this process is part of an Azure ML job."""
    from himl_cli.workspaces.azure.places.config import address_of_job

    return address_of_job() is not None


def own_azure(start: Path) -> WorkspaceAddress | None:
    """The workspace of the Azure ML job that this process is part of; None elsewhere. The settings for *start* may name its cloud."""
    from himl_cli.workspaces.azure.places.config import address_of_job

    return address_of_job(cloud=_cloud_setting(start))


def azure_at(subscription_id: str, resource_group: str, name: str, source: str, start: Path) -> WorkspaceAddress:
    """The address of a workspace whose ids are known, in the cloud that the settings for *start* name; *source* says from where."""
    from himl_cli.workspaces.azure.places.address import WorkspaceAddress
    from himl_cli.workspaces.azure.places.clouds import current_cloud

    return WorkspaceAddress(subscription_id, resource_group, name, current_cloud(_cloud_setting(start)), source)


def _cloud_setting(start: Path) -> str | None:
    from himl_cli.workspaces.azure.places.settings import azure_settings

    return azure_settings(start).cloud or None


def address_of(workspace: Workspace) -> WorkspaceAddress | None:
    """Where an opened workspace lies in Azure; None for a local one."""
    from himl_cli.workspaces.azure.workspace import AzureWorkspace

    return workspace.connection.address if isinstance(workspace, AzureWorkspace) else None


def _open_local(folder: Path, *, create: bool = False) -> LocalWorkspace:
    from himl_cli.workspaces.local.workspace import LocalWorkspace

    if folder.is_file():
        raise BadUsage(f"'{folder}' is a file, not a workspace.", hint="Give a .himl folder.")
    if not folder.is_dir() and not create:
        raise WorkspaceNotFound(f"There is no workspace at '{folder}'.", hint=f"'himl submit SCRIPT --workspace {folder}' makes one there.")
    return LocalWorkspace(folder)


def named_folder(spec: str) -> Path:
    """The local workspace that a path means: itself when it is called `.himl` or holds a record, else the `.himl` in it."""
    path = Path(spec).expanduser().absolute()
    if path.name == LOCAL_FOLDER or (path / "workspace.db").is_file() or path.is_file():
        return path
    return path / LOCAL_FOLDER


def nearest_local(start: Path) -> Path | None:
    """The nearest `.himl` folder in *start* or a parent."""
    return next((folder / LOCAL_FOLDER for folder in (start, *start.parents) if (folder / LOCAL_FOLDER).is_dir()), None)


def _project_of(config: Path) -> Path:
    return config.parent.parent if config.parent.name == ".azureml" else config.parent
