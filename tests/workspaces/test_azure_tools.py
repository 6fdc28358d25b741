"""Signing in by the Azure CLI: a program called `az` that answers as the real one does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from himl_cli.core.errors import NotAllowed
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import SIGN_IN, Az, connected, token_of

NOT_SIGNED_IN = {"error": "ERROR: Please run 'az login' to setup account.\n"}
NO_SUCH_SUBSCRIPTION = {"error": "ERROR: The subscription of '2ab3' doesn't exist in cloud 'AzureCloud'.\n"}
EXPIRED = {"error": "ERROR: AADSTS700082: The refresh token has expired due to inactivity. Trace ID: 1\nTo re-authenticate, please run: az login\n"}


@pytest.fixture
def az(tmp_path: Path, azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> Az:
    """`az` is all that signs in."""
    for name in SIGN_IN:
        monkeypatch.delenv(name)
    program = Az(tmp_path / "programs")
    monkeypatch.setenv("PATH", str(program.folder))
    return program


@pytest.fixture
def log_in(tmp_path: Path) -> Callable[[str], None]:
    """What `az login` leaves in the user's home: the list of accounts."""

    def write(user: str) -> None:
        folder = tmp_path / "home" / ".azure"
        folder.mkdir(exist_ok=True)
        (folder / "azureProfile.json").write_text(json.dumps({"subscriptions": [{"user": {"name": user}}]}))

    return write


def test_azure_cli_token_is_requested_for_workspace_subscription(az: Az, azure: StagedWorkspace, project: Path) -> None:
    az.answer(NOT_SIGNED_IN, subscription=token_of(azure.state.principal))
    with connected(azure, project) as connection:
        signed_in = connection.sign_in()
    assert (signed_in.credential, signed_in.principal) == ("Azure CLI", azure.state.principal.client_id)
    assert len(az.asked) == 1
    assert f"--subscription {azure.state.subscription}" in az.asked[0]
    assert "--resource https://management.azure.com" in az.asked[0]


def test_azure_cli_is_retried_without_unknown_subscription(az: Az, azure: StagedWorkspace, project: Path) -> None:
    az.answer(token_of(azure.state.principal), subscription=NO_SUCH_SUBSCRIPTION)
    with connected(azure, project) as connection:
        connection.record()
    assert ["--subscription" in line for line in az.asked] == [True, False]


def test_a_tenant_that_was_set_is_asked_for(az: Az, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIML_TENANT_ID", azure.state.tenant)
    az.answer(token_of(azure.state.principal))
    with connected(azure, project) as connection:
        connection.record()
    assert [f"--tenant {azure.state.tenant}" in line for line in az.asked] == [True]


@pytest.mark.parametrize(
    ("answer", "reason", "hint"),
    [
        (NOT_SIGNED_IN, "Azure CLI (not signed in)", "az login"),
        (EXPIRED, "Azure CLI (the sign-in has expired)", "Sign in again: az login"),
        ({"error": "ERROR: The disk is on fire.\nsee the log"}, "Azure CLI (The disk is on fire)", "az login"),
    ],
    ids=["not signed in", "expired", "something else"],
)
def test_why_it_gave_no_token_is_told_in_a_few_words(
    az: Az, azure: StagedWorkspace, project: Path, answer: Mapping[str, object], reason: str, hint: str
) -> None:
    az.answer(answer)
    with connected(azure, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    assert reason in str(caught.value)
    assert hint in caught.value.hint


def test_its_token_is_kept_until_another_account_signs_in(az: Az, azure: StagedWorkspace, project: Path, log_in: Callable[[str], None]) -> None:
    log_in("ada@example.org")
    az.answer(token_of(azure.state.principal))
    for _ in range(2):
        with connected(azure, project) as connection:
            connection.record(fresh=True)
    assert len(az.asked) == 1
    log_in("grace@example.org")
    other = azure.add_principal()
    az.answer(token_of(other))
    with connected(azure, project) as connection:
        connection.record(fresh=True)
        assert len(az.asked) == 2
        assert connection.sign_in().principal == other.client_id


@pytest.mark.skipif(sys.platform == "win32", reason="az is a batch file there, whose output is the same")
def test_a_token_in_its_garbled_output_is_not_shown(az: Az, azure: StagedWorkspace, project: Path) -> None:
    token = token_of(azure.state.principal)["token"]
    az.answer({"token": token, "expires": "soon"})
    with connected(azure, project) as connection, pytest.raises(NotAllowed, match="Azure CLI") as caught:
        connection.record()
    assert str(token) not in f"{caught.value} {caught.value.hint}"
