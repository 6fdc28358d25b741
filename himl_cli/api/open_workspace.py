"""The workspace and the run for a script's arguments, opened for the services.

It recognizes objects of the vendor's SDKs without importing these.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from himl_cli.api.exceptions import ConfigNotFound, NoWorkspace, WrongArgument, raising
from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.core.files import WORKSPACE_FOLDER
from himl_cli.core.processes import JOB_FOLDER
from himl_cli.core.runs import Run, RunSelection
from himl_cli.workspaces.base import Workspace

ATTRIBUTES = {
    ("azureml.", "Workspace"): ("subscription_id", "resource_group", "name"),  # azureml.core
    ("azure.ai.ml.", "MLClient"): ("subscription_id", "resource_group_name", "workspace_name"),
}
"""By package and name of a class: its attributes for subscription, resource group and name of the workspace."""


def job_folder() -> Path:
    """The folder in which the script of the current job started, even if the script changed its folder since. Outside
    of a job, the current folder.

    On Azure ML, no variable has it. Python's absolute path of the script ends with the one on the command line.
    """
    from himl_cli.workspaces.resolve import own_local_run

    if not os.environ.get("AZUREML_RUN_ID"):
        return Path.cwd()
    if os.environ.get(JOB_FOLDER) and own_local_run() is not None:
        return Path(os.environ[JOB_FOLDER])
    script = str(getattr(sys.modules["__main__"], "__file__", None) or "")
    is_relative = os.path.isabs(script) and script.endswith(f"{os.sep}{sys.argv[0]}")
    return Path(script.removesuffix(sys.argv[0])) if is_relative else Path.cwd()


def azure_names(given: object) -> tuple[str, str, str] | None:
    """Subscription, resource group and name of the workspace of *given*. None for other objects, or if one is not set
    (an MLClient of a registry has no workspace)."""
    for kind in type(given).__mro__:
        for (package, name), attributes in ATTRIBUTES.items():
            if kind.__name__ == name and kind.__module__.startswith(package):
                found: list[Any] = [getattr(given, attribute, None) for attribute in attributes]
                return (found[0], found[1], found[2]) if all(isinstance(v, str) and v for v in found) else None
    return None


def resolve_workspace(given: object | None, config_path: str | os.PathLike[str] | None = None) -> Workspace:
    """The workspace to use, with the rules and errors of `get_workspace`."""
    from himl_cli.workspaces.resolve import address_of, azure_at, open_azure, open_workspace, own_azure

    start = job_folder() if config_path is None else Path.cwd()
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
                f"{type(given).__module__}.{type(given).__qualname__} is not a workspace: use a Workspace of himl or "
                "azureml-core, or an MLClient of azure-ai-ml."
            )
        return open_azure(azure_at(*names, "the names given", start), start)
    spec, config = (None, None) if config_path is None else _spec_or_config(Path(config_path))
    absent = NoWorkspace if config_path is None else ConfigNotFound
    with raising(BadUsage, WrongArgument), raising(WorkspaceNotFound, absent):
        return open_workspace(spec, config, start=start)


def _spec_or_config(path: Path) -> tuple[str | None, str | None]:
    """*path* as a local workspace, or as a config file, which may be in a folder."""
    from himl_cli.workspaces.azure.config import CONFIG_NAMES

    if path.is_dir() or path.name == WORKSPACE_FOLDER:
        config = next((path / name for name in CONFIG_NAMES if (path / name).is_file()), None)
        return (None, str(config)) if config else (str(path), None)
    return None, str(path)


def resolve_runs(given: object | None = None, config_path: str | os.PathLike[str] | None = None) -> Workspace:
    """The given or named workspace. Without one, the local and the Azure ML workspace combined. Raises like
    `get_workspace`."""
    from himl_cli.workspaces.resolve import open_runs

    if given is not None or config_path is not None:
        return resolve_workspace(given, config_path)
    with raising(BadUsage, WrongArgument), raising(WorkspaceNotFound, NoWorkspace):
        return open_runs(None, None, start=job_folder())


def resolve_run(
    reference: str, given: object | None = None, config_path: str | os.PathLike[str] | None = None
) -> tuple[Workspace, Run]:
    """The run for *reference*, which is an id, `experiment:run_id`, a Studio URL, or `latest`, and its workspace.

    himl searches the given or named workspace. Without one, it searches the local one first, then Azure ML, like the
    commands. Raises RunNotFound, BadUsage for an invalid reference, and errors of `get_workspace`.
    """
    from himl_cli.services.runs.lookup import find_runs

    opened = resolve_runs(given, config_path)
    (record,) = find_runs(opened, RunSelection(runs=(reference,)), cwd=Path.cwd())
    return opened, record
