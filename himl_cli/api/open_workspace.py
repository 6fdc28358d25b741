"""Which workspace a script means, and which run: opened for the services.

Objects of the vendor's SDKs are recognised without importing these.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from himl_cli.api.exceptions import ConfigNotFound, NoWorkspace, WrongArgument, raising
from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.core.files import WORKSPACE_FOLDER
from himl_cli.core.runs import Run, RunSelection
from himl_cli.workspaces.base import Workspace

ATTRIBUTES = {
    ("azureml.", "Workspace"): ("subscription_id", "resource_group", "name"),  # azureml.core
    ("azure.ai.ml.", "MLClient"): ("subscription_id", "resource_group_name", "workspace_name"),
}
"""Where a class comes from and its name; which of its attributes hold subscription, resource group and name of the
workspace."""


def azure_names(given: object) -> tuple[str, str, str] | None:
    """Subscription, resource group and name of the workspace that *given* stands for; None where it is no such object,
    or where one is not set (an MLClient of a registry has no workspace)."""
    for kind in type(given).__mro__:
        for (package, name), attributes in ATTRIBUTES.items():
            if kind.__name__ == name and kind.__module__.startswith(package):
                found: list[Any] = [getattr(given, attribute, None) for attribute in attributes]
                return (found[0], found[1], found[2]) if all(isinstance(v, str) and v for v in found) else None
    return None


def resolve_workspace(given: object | None, config_path: str | os.PathLike[str] | None = None) -> Workspace:
    """The workspace to use, by the rules of `get_workspace`, which also says what is raised."""
    from himl_cli.workspaces.resolve import address_of, azure_at, open_azure, open_workspace, own_azure

    start = Path.cwd()
    opened: Workspace | None = getattr(given, "opened", None)  # of himl's own Workspace
    own = own_azure(start)
    if own is not None:
        return opened if opened is not None and address_of(opened) == own else open_azure(own, start)
    if opened is not None:
        return opened
    if given is not None:
        names = azure_names(given)
        if names is None:
            raise TypeError(
                f"{type(given).__module__}.{type(given).__qualname__} is no workspace: himl's, azureml-core's "
                "Workspace or azure-ai-ml's MLClient is expected."
            )
        return open_azure(azure_at(*names, "the names given", start), start)
    spec, config = (None, None) if config_path is None else _spec_or_config(Path(config_path))
    absent = NoWorkspace if config_path is None else ConfigNotFound
    with raising(BadUsage, WrongArgument), raising(WorkspaceNotFound, absent):
        return open_workspace(spec, config, start=start)


def _spec_or_config(path: Path) -> tuple[str | None, str | None]:
    """*path* as a local workspace, or as a config file; a folder may hold the config file."""
    from himl_cli.workspaces.azure.config import CONFIG_NAMES

    if path.is_dir() or path.name == WORKSPACE_FOLDER:
        config = next((path / name for name in CONFIG_NAMES if (path / name).is_file()), None)
        return (None, str(config)) if config else (str(path), None)
    return None, str(path)


def resolve_runs(given: object | None = None, config_path: str | os.PathLike[str] | None = None) -> Workspace:
    """The workspace given or named; without one the local workspace and the one in Azure ML, as one. Raises as
    `get_workspace`."""
    from himl_cli.workspaces.resolve import open_runs

    if given is not None or config_path is not None:
        return resolve_workspace(given, config_path)
    with raising(BadUsage, WrongArgument), raising(WorkspaceNotFound, NoWorkspace):
        return open_runs(None, None, start=Path.cwd())


def resolve_run(
    reference: str, given: object | None = None, config_path: str | os.PathLike[str] | None = None
) -> tuple[Workspace, Run]:
    """The run that *reference* means, an id, `experiment:run_id`, a Studio URL, or `latest`, and the workspace it was
    found in.

    It is looked for in the workspace given or named; without one in the local workspace first, then in Azure ML, as the
    commands do. Raises RunNotFound, BadUsage for what is no reference, and as `get_workspace`.
    """
    from himl_cli.services.runs.lookup import find_runs

    opened = resolve_runs(given, config_path)
    (record,) = find_runs(opened, RunSelection(runs=(reference,)), cwd=Path.cwd())
    return opened, record
