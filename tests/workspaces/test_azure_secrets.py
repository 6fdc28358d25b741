"""Secrets appear nowhere: not in errors, not in any log at any level, not in a file that others may read."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from himl_cli.core.errors import HimlError
from himl_cli.workspaces.azure.connection import Connection
from tests.servers.azureml.faults import Reset, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import connected
from tests.support.folders import files_with
from tests.support.running import Himl

API = {"api-version": "2024-10-01"}


class Overheard(logging.Handler):
    """All that any library logs, with arguments and tracebacks, unredacted."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def of(self, *names: str) -> list[str]:
        return [line for line in self.lines if line.startswith(names)]


@pytest.fixture
def overheard() -> Iterator[Overheard]:
    """An application that logs everything at DEBUG."""
    handler, root = Overheard(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def tokens_of(connection: Connection) -> list[str]:
    cloud = connection.address.cloud
    found = []
    for scope in (cloud.management_scope, cloud.storage_scope):
        with suppress(HimlError):
            found.append(connection.tokens.get(scope))
    return found


@contextmanager
def failing(told: list[str]) -> Iterator[None]:
    """Note what an error says, with all that caused it."""
    try:
        yield
    except HimlError as err:
        told.append(f"{err} {err.hint}")
    else:
        raise AssertionError("nothing failed")


def break_token(stage: Stage, staged: StagedWorkspace) -> None:
    staged.state.principal.revoked_before = time.time() + 3600


def break_network(stage: Stage, staged: StagedWorkspace) -> None:
    stage.faults.add(Reset(), "management", times=None)


def break_service(stage: Stage, staged: StagedWorkspace) -> None:
    secret = staged.state.principal.secret
    stage.faults.add(Status(500, retry_after=0, code="Boom", message=f"client_secret={secret} was seen"), "management", times=None)


def break_nothing(stage: Stage, staged: StagedWorkspace) -> None:
    stage.faults.add(Status(404, code="Nothing"), "management", times=None)


@pytest.mark.parametrize("breaking", [break_token, break_network, break_service, break_nothing])
def test_neither_logs_nor_errors_tell_a_secret(
    azure_environment: StagedWorkspace,
    stage: Stage,
    project: Path,
    overheard: Overheard,
    breaking: Callable[[Stage, StagedWorkspace], None],
) -> None:
    told: list[str] = []
    with connected(azure_environment, project) as connection:
        connection.record()
        secrets = [azure_environment.state.principal.secret, *tokens_of(connection)]
        breaking(stage, azure_environment)
        with failing(told):
            connection.rest.get(connection.arm(), params=API)
        secrets += tokens_of(connection)
    everything = "\n".join([*told, *overheard.lines])
    assert len(told) == 1
    assert overheard.of("himl_cli")
    assert not [secret for secret in secrets if secret in everything]


def test_a_refused_secret_is_not_told(azure_environment: StagedWorkspace, project: Path, overheard: Overheard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_PASSWORD", "s3cr3t-and-wrong")
    told: list[str] = []
    with connected(azure_environment, project) as connection, failing(told):
        connection.record()
    assert "s3cr3t-and-wrong" not in "\n".join([*told, *overheard.lines])


def test_the_vendors_libraries_say_nothing(azure_environment: StagedWorkspace, project: Path, overheard: Overheard, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(azure_environment, project) as connection:
        connection.record()
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_PASSWORD", "wrong")
    with connected(azure_environment, project) as connection, suppress(HimlError):
        connection.record(fresh=True)
    assert not overheard.of("azure.", "msal", "urllib3")


def test_cache_has_no_password_and_token_file_is_private(azure_environment: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    with connected(azure_environment, project) as connection:
        connection.record()
        [token, _] = tokens_of(connection)
    secret = azure_environment.state.principal.secret
    assert files_with(tmp_path / "home", secret) == []
    holders = files_with(tmp_path / "home", token)
    assert len(holders) == 1
    if os.name != "nt":
        assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}


@pytest.mark.parametrize("arguments", [("runs", "list"), ("runs", "show", "run_1"), ("runs", "show", "nothing"), ("doctor",), ("workspace", "show")])
def test_the_program_tells_no_secret_even_when_it_is_verbose(
    azure: StagedWorkspace, himl: Himl, project: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    azure.write_config(project)
    azure.add_run("run_1", "exp")
    env = azure.environment() | {"HTTPS_PROXY": azure.environment()["HTTPS_PROXY"].replace("://", "://ada:pr0xy-w0rd@")}
    outcome = himl(*arguments, "--verbose", env=env)
    everything = f"{outcome.stdout}\n{outcome.stderr}"
    kept = [path.read_text() for path in (tmp_path / "home").rglob("*.json")]
    tokens = [text.split('"token": "')[1].split('"')[0] for text in kept if '"token": "' in text]
    assert tokens
    assert "DEBUG himl_cli" in outcome.stderr
    secrets = [azure.state.principal.secret, azure.state.storage.key, "pr0xy-w0rd", *tokens]
    assert not [secret for secret in secrets if secret in everything]
