"""Workspaces that a script holds as objects of the vendor's SDKs, recognised without importing these."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.api.errors import ConfigNotFound, NoWorkspace, WrongArgument, raising
from himl_cli.api.workspace import Run, Workspace
from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.core.files import WORKSPACE_FOLDER

if TYPE_CHECKING:
    from typing import TypeGuard

    from himl_cli.workspaces.azure.address import WorkspaceAddress


ATTRIBUTES = {
    ("azureml.", "Workspace"): ("subscription_id", "resource_group", "name"),  # azureml.core
    ("azure.ai.ml.", "MLClient"): ("subscription_id", "resource_group_name", "workspace_name"),
}
"""Where a class comes from and its name; which of its attributes hold subscription, resource group and name of the
workspace."""


def azure_names(given: object) -> tuple[str, str, str] | None:
    """Subscription, resource group and name of the workspace that *given* stands for; None where it is no such
    object."""
    for kind in type(given).__mro__:
        for (home, name), attributes in ATTRIBUTES.items():
            if kind.__name__ == name and kind.__module__.startswith(home):
                return _texts(given, attributes)
    return None


def _texts(given: object, attributes: tuple[str, str, str]) -> tuple[str, str, str] | None:
    """The values of *attributes*; None where one is not set (an MLClient of a registry has no workspace)."""
    subscription, group, name = (getattr(given, attribute, None) for attribute in attributes)
    if (
        isinstance(subscription, str)
        and isinstance(group, str)
        and isinstance(name, str)
        and subscription
        and group
        and name
    ):
        return subscription, group, name
    return None


def get_workspace(
    aml_workspace: object | None = None, workspace_config_path: str | os.PathLike[str] | None = None
) -> Workspace:
    """The workspace to use, the first of these that applies:

    1. inside an Azure ML job, the job's own;
    2. *aml_workspace*: himl's own `Workspace`, or one of azureml-core, or azure-ai-ml's `MLClient` (its address is
       used, and himl's own sign-in);
    3. the config file *workspace_config_path*, or a `.himl` folder;
    4. the nearest `config.json` in the current folder or above;
    5. HIML_SUBSCRIPTION_ID, HIML_RESOURCE_GROUP and HIML_WORKSPACE_NAME;
    6. the nearest `.himl` folder in the current folder or above (a local workspace).

    Makes no request. Raises NoWorkspace (also a ValueError) where none of them applies, ConfigNotFound (also a
    FileNotFoundError) for a config file that is not there, BadUsage (also a ValueError) for a config file that cannot
    be used and for HIML_* variables of which some are missing, TypeError for an object that is no workspace.
    """
    from himl_cli.workspaces.resolve import open_azure, open_workspace, own_azure

    own = own_azure(Path.cwd())
    if own is not None:
        return aml_workspace if _is_at(aml_workspace, own) else Workspace.of(open_azure(own, Path.cwd()))
    if aml_workspace is not None:
        return as_workspace(aml_workspace)
    if workspace_config_path is not None:
        spec, config = _named(Path(workspace_config_path))
        with raising(BadUsage, WrongArgument), raising(WorkspaceNotFound, ConfigNotFound):
            return Workspace.of(open_workspace(spec, config, start=Path.cwd()))
    with raising(BadUsage, WrongArgument), raising(WorkspaceNotFound, NoWorkspace):
        return Workspace.of(open_workspace(None, None, start=Path.cwd()))


def _is_at(given: object, address: WorkspaceAddress) -> TypeGuard[Workspace]:
    return isinstance(given, Workspace) and given.address == address


def as_workspace(given: object) -> Workspace:
    """himl's workspace for the same place. Raises TypeError for what is none."""
    if isinstance(given, Workspace):
        return given
    names = azure_names(given)
    if names is None:
        kind = type(given)
        raise TypeError(
            f"{kind.__module__}.{kind.__qualname__} is no workspace: himl's, azureml-core's Workspace or azure-ai-ml's "
            "MLClient is expected."
        )
    return Workspace(*names)


def find_run(
    reference: str, workspace: object | None = None, workspace_config_path: str | os.PathLike[str] | None = None
) -> Run:
    """The run that *reference* means: an id, `experiment:run_id`, a Studio URL, or `latest`.

    It is looked for in the workspace given or named; without one in the local workspace first, then in Azure ML, as the
    commands do. Raises RunNotFound, BadUsage for what is no reference, and as `get_workspace`.
    """
    from himl_cli.core.runs import RunSelection
    from himl_cli.services.runs.lookup import find_runs

    place = where_runs_are(workspace, workspace_config_path)
    (record,) = find_runs(place.opened, RunSelection(runs=(reference,)), cwd=Path.cwd())
    return Run(place, record)


def where_runs_are(
    workspace: object | None = None, workspace_config_path: str | os.PathLike[str] | None = None
) -> Workspace:
    """The workspace given or named; without one the local workspace and the one in Azure ML, as one. Raises as
    `get_workspace`."""
    given = workspace is not None or workspace_config_path is not None
    return get_workspace(workspace, workspace_config_path) if given else _all_runs()


def _all_runs() -> Workspace:
    from himl_cli.workspaces.resolve import open_runs

    with raising(BadUsage, WrongArgument), raising(WorkspaceNotFound, NoWorkspace):
        return Workspace.of(open_runs(None, None, start=Path.cwd()))


def _named(path: Path) -> tuple[str | None, str | None]:
    """*path* as a local workspace, or as a config file; a folder may hold the config file."""
    from himl_cli.workspaces.azure.config import CONFIG_NAMES

    if path.is_dir() or path.name == WORKSPACE_FOLDER:
        config = next((path / name for name in CONFIG_NAMES if (path / name).is_file()), None)
        return (None, str(config)) if config else (str(path), None)
    return None, str(path)
