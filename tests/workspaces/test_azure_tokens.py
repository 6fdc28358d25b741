"""Tokens: how long one serves and whom, when it is renewed, and that nobody's token serves another."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from himl_cli.core.errors import HimlError, NotAllowed
from himl_cli.workspaces.azure.credentials import Token, managed_identity
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import connected, sign_ins


def test_a_token_is_kept_for_the_next_call_and_for_nobody_else(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        with connected(azure_environment, project) as connection:
            connection.record(fresh=True)
    assert sign_ins(stage) == 1
    other = azure_environment.add_principal()
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_ID", other.client_id)
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_PASSWORD", "wrong")
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed, match="secret is wrong"):
        connection.record(fresh=True)
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_PASSWORD", other.secret)
    with connected(azure_environment, project) as connection:
        connection.record(fresh=True)
        assert connection.sign_in().principal == other.client_id


def test_without_a_cache_each_call_signs_in(azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIML_NO_CACHE", "1")
    for _ in range(2):
        with connected(azure_environment, project) as connection:
            connection.record()
            connection.record(fresh=True)
    assert sign_ins(stage) == 2


def test_threads_share_one_sign_in(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    with connected(azure_environment, project) as connection, ThreadPoolExecutor(8) as pool:
        scope = connection.address.cloud.management_scope
        tokens = set(pool.map(lambda _: connection.tokens.get(scope), range(40)))
    assert (len(tokens), sign_ins(stage)) == (1, 1)


def test_rejected_token_is_renewed_once_for_all_threads(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    with connected(azure_environment, project) as connection:
        connection.record()
    azure_environment.state.principal.revoked_before = time.time()
    with connected(azure_environment, project) as connection, ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda _: connection.rest.get(connection.arm(), params={"api-version": "2024-10-01"}), range(16)))
    assert len(records) == 16
    assert sign_ins(stage) == 2


def test_a_token_that_stays_rejected_is_told_with_the_credential(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    azure_environment.state.principal.revoked_before = time.time() + 3600
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed, match=r"does not accept the sign-in by service principal") as caught:
        connection.record()
    assert (sign_ins(stage), caught.value.exit_code) == (2, 4)


def test_a_token_is_renewed_before_it_ends(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    azure_environment.state.principal.token_seconds = 2
    with connected(azure_environment, project) as connection:
        scope = connection.address.cloud.management_scope
        begun = time.time()
        first, azure_environment.state.principal.token_seconds = connection.tokens.get(scope), 3600
        assert connection.tokens.get(scope) == first or time.time() > begun + 1, "the same for half of its life"
        time.sleep(1.1)
        second = connection.tokens.get(scope)
        assert connection.tokens.get(scope) == second != first
    assert sign_ins(stage) == 2


def test_token_from_another_process_is_reused(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    """Such as that of a person who signed in again, which a process without a terminal cannot ask for."""
    azure_environment.state.principal.token_seconds = 2
    with connected(azure_environment, project) as connection, connected(azure_environment, project) as other:
        scope = connection.address.cloud.management_scope
        first, azure_environment.state.principal.token_seconds = connection.tokens.get(scope), 3600
        time.sleep(1.1)
        assert other.tokens.get(scope) == connection.tokens.get(scope) != first
    assert sign_ins(stage) == 2


def test_short_lived_token_is_reused_between_calls(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    azure_environment.state.principal.token_seconds = 590
    for _ in range(3):
        with connected(azure_environment, project) as connection:
            connection.record()
            connection.record(fresh=True)
    assert sign_ins(stage) == 1


@pytest.mark.parametrize(("life", "left"), [(86_400, 300), (3600, 300), (600, 300), (400, 200), (10, 5)])
def test_token_renews_five_minutes_before_end_or_at_half_life(life: float, left: float) -> None:
    token = Token("x", expires=1000 + life, credential="c", obtained=1000)
    assert token.renew_at == 1000 + life - left


def test_a_token_does_not_show_itself() -> None:
    assert "s3cr3t" not in repr(Token("s3cr3t", 1.0, "c"))


def test_cached_token_is_separate_per_cloud_and_principal(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One home folder, one scope: whoever differs in anything that decides who is signed in gets a token of their own."""
    seen: dict[str, str] = {}
    others = [
        azure_environment.state.principal,
        azure_environment.add_principal(),
        azure_environment.add_principal(tenant="11111111-2222-3333-4444-555555555555"),
    ]
    for cloud in ("AzureCloud", "AzureUSGovernment"):
        for principal in others:
            for name, value in (azure_environment.environment(principal) | {"AZUREML_CURRENT_CLOUD": cloud}).items():
                monkeypatch.setenv(name, value)
            with connected(azure_environment, project) as connection:
                seen[f"{cloud} {principal.client_id}"] = connection.tokens.get("https://storage.azure.com/.default")
            with connected(azure_environment, project) as connection:
                assert connection.tokens.get("https://storage.azure.com/.default") == seen[f"{cloud} {principal.client_id}"]
    assert (len(set(seen.values())), sign_ins(stage)) == (6, 6)


def test_managed_identity_cache_key_includes_machine_name() -> None:
    """Machines with different identities may share a home folder."""
    assert platform.node() in managed_identity("a").identity
    assert managed_identity("a").identity != managed_identity("b").identity


NOBODY = """
import os
from pathlib import Path
import platformdirs
from himl_cli.workspaces.azure.config import PUBLIC
from himl_cli.workspaces.azure.connection import DiskCache
from himl_cli.workspaces.azure.config import azure_settings
from himl_cli.workspaces.azure.credentials import user_sources

settings = azure_settings(Path.cwd())
DiskCache.of_user()  # imports what it needs before the user changes
os.setuid(54321)
kept = DiskCache.of_user()
kept.put("tokens", "k", 1, seconds=60)
print([source.name for source in user_sources(settings, PUBLIC, "s")], kept.get("tokens", "k"), Path("~").exists())
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become a user that nobody knows")
@pytest.mark.usefixtures("unsigned")
def test_user_without_home_folder_runs_without_cache() -> None:
    """A container that runs with a user id that nobody knows."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    outcome = subprocess.run([sys.executable, "-c", NOBODY], env=environment, capture_output=True, text=True, check=False)
    assert outcome.stdout == "['environment variables', 'Azure CLI', 'browser and device code'] None False\n", outcome.stderr


def test_valid_token_is_used_with_warning_if_renewal_fails(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seconds in (4, 40):  # the second for a machine that is too slow for the first
        ends = time.time() + seconds
        azure_environment.state.principal.token_seconds = seconds
        with connected(azure_environment, project) as connection:
            connection.record()
            time.sleep(seconds / 2 + 0.1)
            stage.faults.add(Status(400, code="no"), "login", times=None)
            with suppress(HimlError):
                connection.record(fresh=True)
                break
        stage.faults.clear()
        assert time.time() > ends
        caplog.clear()
    assert any("could not be renewed" in record.message for record in caplog.records)
