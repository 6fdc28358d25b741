"""Setting up a folder: for an Azure ML workspace, or with a local one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import expand_home
from himl_cli.core.text import non_blank
from himl_cli.core.workspaces import PreparedFile, SetUp, TakenSettings
from himl_cli.services.settings_import.new_files import NewFile, settings_file, write_all
from himl_cli.services.settings_import.source import read_settings

CONFIG = "config.json"


class Workspaces(Protocol):
    """What is asked of those who know how workspaces are written down."""

    def azure_ids_in(self, path: Path) -> Mapping[str, str]:
        """The keys of the Azure ML workspace that a config file names. Raises HimlError."""

    def azure_ids_set(self) -> Mapping[str, str]:
        """Those keys that environment variables set."""

    def azure_config_text(self, ids: Mapping[str, str], where: str) -> str:
        """A config.json. Raises BadUsage, beginning with *where*, for keys that are missing or wrong."""

    def azure_config_at(self, folder: Path) -> Path | None:
        """The config file that names an Azure ML workspace for those who are in *folder*. Raises HimlError."""

    def make_local(self, folder: Path) -> tuple[Path, bool]:
        """A local workspace in *folder*: its folder, and whether it is new. Raises HimlError."""


@dataclass(frozen=True)
class SetUpRequest:
    """What was asked for, as typed: `source` is a file of settings, `ids` keys of the workspace; nothing: what the
    environment says, else a local one."""

    folder: Path
    source: str | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    local: bool = False


def set_up(request: SetUpRequest, workspaces: Workspaces) -> SetUp:
    """Write what is missing; a file that says something else is left alone. Raises BadUsage then, with nothing written,
    or DiskFailed."""
    source = non_blank("--from", request.source)
    for key, value in request.ids.items():
        non_blank(f"--{key}", value)
    if request.local and (source or request.ids):
        raise BadUsage("--local and the keys of an Azure ML workspace were both given.", hint="Give one of them.")
    if source:
        taken = read_settings(request.folder / expand_home(source), request.folder, workspaces.azure_ids_in)
        return _write(request.folder, taken, {**taken.workspace, **request.ids}, f"'{source}'", workspaces)
    ids = {} if request.local else {**workspaces.azure_ids_set(), **request.ids}
    if ids:
        return _write(request.folder, TakenSettings(), ids, "The workspace", workspaces)
    config = None if request.local else workspaces.azure_config_at(request.folder)
    if config is not None:
        return SetUp([PreparedFile(config, is_new=False)])
    path, is_new = workspaces.make_local(request.folder)
    return SetUp([PreparedFile(path, is_new)])


def _write(folder: Path, taken: TakenSettings, ids: Mapping[str, str], where: str, workspaces: Workspaces) -> SetUp:
    files: list[NewFile] = []
    if ids:
        text = workspaces.azure_config_text(ids, where)
        files.append(NewFile(folder / CONFIG, text, json.loads(text), said_by=workspaces.azure_ids_in))
    if taken.public:
        files.append(settings_file(folder, taken.public, is_private=False))
    if taken.private:
        files.append(settings_file(folder, taken.private, is_private=True))
    if not files:
        raise BadUsage(
            f"{where} says nothing that himl could take over.",
            hint="A workspace is named by subscription_id, resource_group and workspace_name.",
        )
    return SetUp(write_all(files), taken.read, taken.left_out)
