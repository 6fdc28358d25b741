"""An empty workspace of each kind for the contract tests, and what can be wrong with a workspace."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from himl_cli.core.runs import RunEnd, RunStatus
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.local.run_store import SCHEMA_VERSION
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.azureml_double.faults import Refuse, WrongDate
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Right
from tests.support.azure import opened
from tests.support.runs import RecordedRuns

Seen = LocalWorkspace | AzureWorkspace
Seed = Callable[[pytest.FixtureRequest, Path], AbstractContextManager[Seen]]
COMPLETED = RunEnd(RunStatus.completed)


@contextmanager
def local(request: pytest.FixtureRequest, folder: Path) -> Iterator[Seen]:
    yield RecordedRuns(folder).workspace


@contextmanager
def azure(request: pytest.FixtureRequest, folder: Path) -> Iterator[Seen]:
    staged: StagedWorkspace = request.getfixturevalue("azure_environment")
    with opened(staged, folder) as workspace:
        yield workspace


SIGN_IN = ("HIML_TENANT_ID", "HIML_SERVICE_PRINCIPAL_ID", "HIML_SERVICE_PRINCIPAL_PASSWORD", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
Variables = Mapping[str, str]
Break = Callable[[StagedWorkspace, Path], Variables]


def damaged(project: Path) -> None:
    (project / ".himl").mkdir()
    (project / ".himl" / "workspace.db").write_bytes(b"no database" * 100)


def by_a_newer_himl(project: Path) -> None:
    RecordedRuns(project).add("train_1_aa")
    with closing(sqlite3.connect(project / ".himl" / "workspace.db")) as connection, connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")


def a_folder(project: Path) -> None:
    (project / ".himl" / "workspace.db").mkdir(parents=True)


def a_pipe(project: Path) -> None:
    (project / ".himl").mkdir()
    os.mkfifo(project / ".himl" / "workspace.db")


def nobody_signed_in(azure: StagedWorkspace, folder: Path) -> Variables:
    return dict.fromkeys(SIGN_IN, "")


def half_a_principal(azure: StagedWorkspace, folder: Path) -> Variables:
    return {"HIML_SERVICE_PRINCIPAL_PASSWORD": ""}


def an_expired_secret(azure: StagedWorkspace, folder: Path) -> Variables:
    azure.state.principal.secret_expired = True
    return {}


def an_unknown_host(azure: StagedWorkspace, folder: Path) -> Variables:
    return {"AZURE_AUTHORITY_HOST": "login.himl.invalid", "NO_PROXY": "himl.invalid", "no_proxy": "himl.invalid"}


def a_clock_behind(azure: StagedWorkspace, folder: Path) -> Variables:
    azure.stage.faults.add(WrongDate(7200), times=None)
    return {}


def wrong(key: str, value: str) -> Break:
    def write(azure: StagedWorkspace, folder: Path) -> Variables:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | {key: value}))
        return {}

    return write


def no_access(azure: StagedWorkspace, folder: Path) -> Variables:
    return azure.environment(azure.add_principal({Right.READ}))


def storage_out_of_reach(azure: StagedWorkspace, folder: Path) -> Variables:
    azure.stage.faults.add(Refuse(), re.escape(azure.state.storage.host), times=None)
    return {}


def a_closed_firewall(azure: StagedWorkspace, folder: Path) -> Variables:
    azure.state.storage.is_open = False
    return {}
