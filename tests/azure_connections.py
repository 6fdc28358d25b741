"""Connections to workspaces of the double, and what tests look at around a sign-in."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from himl_cli.workspaces.azure.config import WorkspaceAddress, azure_settings, current_cloud
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.retry import CONTROL_PLANE
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage

HASTY = replace(CONTROL_PLANE, first=0.01)
SIGN_IN = ("HIML_TENANT_ID", "HIML_SERVICE_PRINCIPAL_ID", "HIML_SERVICE_PRINCIPAL_PASSWORD", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")


def address_of(staged: StagedWorkspace, **other: Any) -> WorkspaceAddress:
    """Where *staged* is; fields in *other* say otherwise."""
    state = staged.state
    fields = {"subscription_id": state.subscription, "resource_group": state.group, "name": state.name, "source": "a test"} | other
    return WorkspaceAddress(cloud=current_cloud(), **fields)


@contextmanager
def connected(staged: StagedWorkspace, folder: Path, **other: Any) -> Iterator[Connection]:
    """A connection as a command in *folder* makes it, from the variables and settings that are in force, but with short waits."""
    with Connection.open(address_of(staged, **other), settings=azure_settings(folder), policy=HASTY) as connection:
        yield connection


def sign_ins(stage: Stage) -> int:
    """How many tokens were asked of the identity service."""
    return len(stage.log.find(r"POST login\.[^ ]*/token"))


def write_program(folder: Path, name: str, source: str) -> Path:
    """A program called *name* in *folder*, made of Python *source*, that can be found on PATH."""
    folder.mkdir(exist_ok=True)
    script = folder / f"{name}.py"
    script.write_text(source)
    if sys.platform == "win32":
        (folder / f"{name}.cmd").write_text(f'@"{sys.executable}" "{script}" %*\n')
    else:
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{script}" "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def write_settings(folder: Path, values: Mapping[str, Any], name: str = "himl.private.toml") -> Path:
    """An `[azure]` section in a settings file."""
    path = folder / name
    path.write_text("[azure]\n" + "".join(f'{key} = "{value}"\n' if isinstance(value, str) else f"{key} = {value}\n" for key, value in values.items()))
    return path
