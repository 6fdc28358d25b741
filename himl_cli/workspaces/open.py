"""The only door to a workspace: decides which one is meant and imports its backend when it is opened."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.errors import BadUsage, WorkspaceNotFound

if TYPE_CHECKING:
    from himl_cli.workspaces.local.workspace import LocalWorkspace

log = logging.getLogger(__name__)

LOCAL_FOLDER = ".himl"
CONFIG_KEYS = ("subscription_id", "resource_group", "workspace_name")


def open_workspace(spec: str | None, config_file: str | None, *, start: Path, create: bool = False) -> LocalWorkspace:
    """Open the workspace that *spec* or *config_file* names, else the nearest local one upward from *start*.

    With *create* one that does not exist yet will do: at the place named, else beside an Azure `config.json`, else in
    *start*; the first job makes it. Raises WorkspaceNotFound, or BadUsage for what is no workspace.
    """
    if spec and config_file:
        raise BadUsage("--workspace and --config_file were both given.", hint="Give one of them.")
    if config_file or (spec and spec.endswith(".json")):
        path = config_file or spec or ""
        raise BadUsage(
            f"'{path}' names an Azure ML workspace, and this version of himl opens local ones only.",
            hint="Leave it out, or give a .himl folder with --workspace.",
        )
    folder = named_folder(spec) if spec and spec != "local" else nearest_local(start)
    log.debug("workspace asked for: %s; found: %s", spec or "the nearest", folder)
    if folder is None and create:
        config = nearest_azure_config(start)
        folder = (_project_of(config) if config else start) / LOCAL_FOLDER
    if folder is None:
        raise WorkspaceNotFound(
            f"No workspace: no {LOCAL_FOLDER} folder in '{start}' or above.",
            hint="'himl submit SCRIPT' makes one here, and so does 'mkdir .himl'; --workspace FOLDER names another.",
        )
    return _open_local(folder, create)


def _open_local(folder: Path, create: bool) -> LocalWorkspace:
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


def nearest_azure_config(start: Path) -> Path | None:
    """The nearest `config.json` (also in `.azureml/`) upward that names an Azure ML workspace; others are passed over."""
    return next((path for path in _config_candidates(start) if _is_azure_config(path)), None)


def _config_candidates(start: Path) -> Iterator[Path]:
    for folder in (start, *start.parents):
        yield from (path for path in (folder / "config.json", folder / ".azureml" / "config.json") if path.is_file())


def _is_azure_config(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and all(isinstance(content.get(key), str) for key in CONFIG_KEYS)


def _project_of(config: Path) -> Path:
    return config.parent.parent if config.parent.name == ".azureml" else config.parent
