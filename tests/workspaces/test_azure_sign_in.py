"""Tests of signing in: the account that each kind of credentials gives, and the messages of failures."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, NotAllowed, ServiceFailed
from himl_cli.workspaces.azure.config import azure_settings
from himl_cli.workspaces.azure.credentials import SIGN_IN as SIGN_IN_POLICY
from himl_cli.workspaces.azure.credentials import Chain, Credential, CredentialSource
from himl_cli.workspaces.azure.http import CONNECT_SECONDS
from himl_cli.workspaces.retry import RetryPolicy
from tests.azureml_double.faults import Stall, Status
from tests.azureml_double.identity import USER_CODE
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Principal
from tests.support.azure import SIGN_IN, Az, connected, set_all, sign_ins, token_of, write_settings
from tests.support.running import Himl
from tests.support.terminals import Terminal

NOBODY = "00000000-0000-0000-0000-000000000000"


def test_service_principal_variables_override_settings_file(
    unsigned: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    principal = unsigned.state.principal
    values = {
        "tenant_id": principal.tenant,
        "service_principal_id": principal.client_id,
        "service_principal_password": principal.secret,
    }
    path = write_settings(project, values)
    assert principal.secret not in repr(azure_settings(project))
    with connected(unsigned, project) as connection:
        assert connection.sign_in().credential == f"service principal {principal.client_id[:8]}… ({path}:3)"
    other = unsigned.add_principal()
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_ID", other.client_id)
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_PASSWORD", other.secret)
    with connected(unsigned, project) as connection:
        signed_in = connection.sign_in()
    assert signed_in.credential == f"service principal {other.client_id[:8]}… (HIML_SERVICE_PRINCIPAL_ID)"
    assert (signed_in.principal, signed_in.tenant_id) == (other.client_id, principal.tenant)
    assert 86_000 < signed_in.expires - time.time() < 86_400


def test_incomplete_service_principal_error_names_missing_keys(
    unsigned: StagedWorkspace, stage: Stage, project: Path
) -> None:
    incomplete: dict[str, dict[str, object]] = {
        "no tenant_id.": {"service_principal_id": "i", "service_principal_password": "p"},
        "no service_principal_password.": {"service_principal_id": "i", "tenant_id": "t"},
        "no service_principal_id.": {"service_principal_password": "p", "tenant_id": "t"},
        "no tenant_id and no service_principal_password.": {"service_principal_id": "i"},
    }
    for missing, given in incomplete.items():
        write_settings(project, given)
        with pytest.raises(NotAllowed, match=missing) as caught, connected(unsigned, project):
            raise AssertionError("it was opened")
        assert f"service_principal_{'id' if 'service_principal_id' in given else 'password'} ({project}" in str(
            caught.value
        )
        assert "HIML_" in caught.value.hint
    assert not stage.log.all()


def test_settings_that_cannot_be_meant_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[tuple[dict[str, object], str, str]] = [
        (
            {"service_principal_password": "p"},
            "himl.toml",
            r"himl\.toml', line 2: 'service_principal_password' is a secret",
        ),
        ({"cloud": "Moon"}, "himl.toml", r"himl\.toml', line 2: 'cloud' must be a known cloud, not 'Moon'"),
        ({"tenat_id": "t"}, "himl.private.toml", r"'tenat_id' is not known"),
        ({"tenant_id": 7}, "himl.private.toml", r"'tenant_id' must be text"),
    ]
    for values, name, complaint in refused:
        path = write_settings(project, values, name)
        with pytest.raises(BadUsage, match=complaint):
            azure_settings(project)
        path.unlink()
    write_settings(project, {"cloud": "AzureChinaCloud"}, "himl.toml")
    assert azure_settings(project).cloud == "AzureChinaCloud"
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureCloud")
    assert azure_settings(project).cloud == ""


@pytest.mark.large("takes long, and other tests run its branches")
def test_each_refusal_has_its_own_sentence(
    unsigned: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    principal, expired = unsigned.state.principal, unsigned.add_principal(secret_expired=True)
    right = {
        "tenant_id": principal.tenant,
        "service_principal_id": principal.client_id,
        "service_principal_password": principal.secret,
    }
    refusals = [
        ({"service_principal_password": "s3cr3t"}, "the client secret is wrong", "service_principal_password"),
        (
            {"service_principal_id": expired.client_id, "service_principal_password": expired.secret},
            "the client secret has expired",
            "az ad app credential reset",
        ),
        ({"service_principal_id": NOBODY}, "the application does not exist in this tenant", "service_principal_id"),
        ({"tenant_id": NOBODY}, "the tenant does not exist", "tenant_id"),
        ({"tenant_id": "no tenant!"}, "tenant", "tenant_id"),
    ]
    for wrong, complaint, named in refusals:
        values = right | wrong
        path = write_settings(project, values)
        with connected(unsigned, project) as connection, pytest.raises(NotAllowed, match=complaint) as caught:
            connection.record()
        told = f"{caught.value} {caught.value.hint}"
        assert f"Sign-in as service principal {values['service_principal_id'][:8]}… ({path}:3)" in told
        assert (f"{named} in {path}:{list(right).index(named) + 2}" if named in right else named) in caught.value.hint
        assert ("HIML_" in told, "AZURE_" in told, values["service_principal_password"] in told) == (
            False,
            False,
            False,
        )
        assert (caught.value.exit_code, "\n" in str(caught.value)) == (4, False)
        for name, value in values.items():
            monkeypatch.setenv("HIML_" + name.upper(), value)
        path.unlink()
        with connected(unsigned, project) as connection, pytest.raises(NotAllowed, match=complaint) as caught:
            connection.record()
        assert "(HIML_SERVICE_PRINCIPAL_ID)" in str(caught.value)
        assert ("HIML_" + named.upper() if named in right else named) in caught.value.hint
        for name in values:
            monkeypatch.delenv("HIML_" + name.upper())


def test_what_was_tried_is_named_until_azure_variables_sign_in(
    unsigned: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(unsigned, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    assert str(caught.value) == (
        "Not signed in to Azure. Tried: environment variables (not set), Azure CLI (not installed), "
        "browser and device code (no terminal)."
    )
    assert "az login" in caught.value.hint
    assert "HIML_SERVICE_PRINCIPAL_ID" in caught.value.hint
    assert not stage.log.all()
    principal = unsigned.state.principal
    monkeypatch.setenv("AZURE_CLIENT_SECRET", principal.secret)
    monkeypatch.setenv("AZURE_CLIENT_ID", principal.client_id)
    with (
        connected(unsigned, project) as connection,
        pytest.raises(NotAllowed, match=r"AZURE_CLIENT_SECRET \(AZURE_TENANT_ID missing\)"),
    ):
        connection.record()
    monkeypatch.setenv("AZURE_TENANT_ID", NOBODY)
    with connected(unsigned, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    assert caught.value.hint == "Check AZURE_TENANT_ID."
    monkeypatch.setenv("AZURE_TENANT_ID", principal.tenant)
    with connected(unsigned, project) as connection:
        assert connection.sign_in().credential == "service principal of AZURE_CLIENT_SECRET"


def test_a_managed_identity_signs_in_where_its_endpoint_is(
    unsigned: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = unsigned.add_principal()
    set_all(monkeypatch, unsigned.identity_environment(identity))
    with connected(unsigned, project) as connection:
        signed_in = connection.sign_in()
    assert (signed_in.credential, signed_in.principal) == ("managed identity", identity.client_id)


def test_all_that_applies_is_tried_in_order_and_named(
    unsigned: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federated = project / "token"
    federated.write_text("assertion")
    nobody = unsigned.add_principal(tenant="11111111-2222-3333-4444-555555555555")
    ids = {
        "AZURE_TENANT_ID": unsigned.state.tenant,
        "AZURE_CLIENT_ID": unsigned.state.principal.client_id,
        "AZURE_FEDERATED_TOKEN_FILE": str(federated),
    }
    set_all(monkeypatch, unsigned.identity_environment(nobody) | {"MSI_SECRET": "another"} | ids)
    with connected(unsigned, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    tried = re.findall(r"([\w ]+) \(", str(caught.value).partition("Tried: ")[2])
    assert [name.strip() for name in tried] == [
        "environment variables",
        "workload identity",
        "managed identity",
        "Azure CLI",
        "browser and device code",
    ]
    assert "managed identity (this machine has none)" in str(caught.value)
    assert "az login" in caught.value.hint


@pytest.mark.parametrize("where", ["openid-configuration", "POST .*/token"])
def test_stalled_login_host_fails_in_bounded_time(azure_environment: StagedWorkspace, stage: Stage, where: str) -> None:
    principal, policy = (
        azure_environment.state.principal,
        RetryPolicy(attempts=4, first=0.01, total=0.5, read_timeout=0.4),
    )
    assert 30 <= SIGN_IN_POLICY.total + CONNECT_SECONDS + SIGN_IN_POLICY.read_timeout <= 41, "so long at most, then"
    stage.faults.add(Stall(60), where, times=None)

    def make() -> Credential:
        return Credential(
            "ClientSecretCredential", principal.tenant, principal.client_id, principal.secret, policy=policy
        )

    chain = Chain(
        [CredentialSource("service principal", make, "x", is_explicit=True)],
        authority="https://login.microsoftonline.com",
    )
    with pytest.raises(ServiceFailed, match=r"login\.microsoftonline\.com took too long to answer") as caught:
        chain.fetch("https://management.azure.com/.default", anew=False)
    chain.close()
    assert caught.value.exit_code == 5
    assert len(stage.log.find("login")) <= 5


@pytest.mark.parametrize(("where", "status"), [("openid-configuration", 503), ("POST .*/token", 429)])
def test_a_place_of_sign_in_that_is_busy_is_no_refusal(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, where: str, status: int
) -> None:
    stage.faults.add(Status(status, retry_after=0), where, times=2)
    with connected(azure_environment, project) as connection:
        connection.record()
    stage.faults.add(Status(status, retry_after=7200), where, times=None)
    azure_environment.state.principal.revoked_before = time.time()
    with (
        connected(azure_environment, project) as connection,
        pytest.raises(ServiceFailed, match=f"failed at the sign-in: it answered {status}"),
    ):
        connection.record(fresh=True)


def test_workspace_of_another_tenant_names_that_tenant(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = azure_environment.add_principal(tenant="11111111-2222-3333-4444-555555555555")
    set_all(monkeypatch, azure_environment.environment(stranger))
    with (
        connected(azure_environment, project) as connection,
        pytest.raises(NotAllowed, match="belongs to a tenant other than") as caught,
    ):
        connection.record()
    assert f"az login --tenant {azure_environment.state.tenant}" in caught.value.hint
    assert f"HIML_TENANT_ID={azure_environment.state.tenant}" in caught.value.hint
    assert sign_ins(stage) == 1


NOT_SIGNED_IN = {"error": "ERROR: Please run 'az login' to setup account.\n"}
NO_SUCH_SUBSCRIPTION = {"error": "ERROR: The subscription of '2ab3' doesn't exist in cloud 'AzureCloud'.\n"}
EXPIRED = {
    "error": "ERROR: AADSTS700082: The refresh token has expired due to inactivity. Trace ID: 1\n"
    "To re-authenticate, please run: az login\n"
}


def test_azure_cli_is_called_for_the_subscription_and_tenant(
    az: Az, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    az.answer(NOT_SIGNED_IN, subscription=token_of(azure.state.principal))
    with connected(azure, project) as connection:
        signed_in = connection.sign_in()
    assert (signed_in.credential, signed_in.principal) == ("Azure CLI", azure.state.principal.client_id)
    [line] = az.asked
    assert f"--subscription {azure.state.subscription}" in line
    assert "--resource https://management.azure.com" in line
    assert "--tenant" not in line
    monkeypatch.setenv("HIML_TENANT_ID", azure.state.tenant)
    az.answer(token_of(azure.state.principal))
    with connected(azure, project) as connection:
        connection.sign_in()
    assert f"--tenant {azure.state.tenant}" in az.asked[1]


def test_azure_cli_is_retried_without_unknown_subscription(az: Az, azure: StagedWorkspace, project: Path) -> None:
    az.answer(token_of(azure.state.principal), subscription=NO_SUCH_SUBSCRIPTION)
    with connected(azure, project) as connection:
        connection.record()
    assert ["--subscription" in line for line in az.asked] == [True, False]


def test_azure_cli_failure_is_told_in_a_few_words(az: Az, azure: StagedWorkspace, project: Path) -> None:
    token = token_of(azure.state.principal)["token"]
    answers: list[tuple[Mapping[str, object], str, str]] = [
        (NOT_SIGNED_IN, "Azure CLI (not signed in)", "az login"),
        (EXPIRED, "Azure CLI (the sign-in has expired)", "Sign in again: az login"),
        ({"error": "ERROR: The disk is on fire.\nsee the log"}, "Azure CLI (The disk is on fire)", "az login"),
        ({"token": token, "expires": "soon"}, "Azure CLI", ""),
    ]
    for answer, reason, hint in answers:
        az.answer(answer)
        with connected(azure, project) as connection, pytest.raises(NotAllowed) as caught:
            connection.record()
        assert reason in str(caught.value)
        assert hint in caught.value.hint
        assert str(token) not in f"{caught.value} {caught.value.hint}"


def test_azure_cli_token_is_kept_until_another_account(
    az: Az, azure: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    accounts = tmp_path / "home" / ".azure" / "azureProfile.json"
    accounts.parent.mkdir()
    other = azure.add_principal()
    for count, (user, principal) in enumerate(
        {"ada@example.org": azure.state.principal, "grace@example.org": other}.items(), 1
    ):
        accounts.write_text(json.dumps({"subscriptions": [{"user": {"name": user}}]}))
        az.answer(token_of(principal))
        for _ in range(2):
            with connected(azure, project) as connection:
                connection.record(fresh=True)
        assert len(az.asked) == count
    with connected(azure, project) as connection:
        assert connection.sign_in().principal == other.client_id


@pytest.fixture
def principal(azure_environment: StagedWorkspace) -> Principal:
    """An application whose secret is not available to himl."""
    return azure_environment.add_principal(secret="unknown to all")


@pytest.fixture
def token_file(principal: Principal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the platform's token, to which the three variables point. There are no other credentials."""
    path = tmp_path / "federated_token"
    path.write_text(principal.new_assertion())
    for name in SIGN_IN:
        monkeypatch.delenv(name)
    variables = {
        "AZURE_TENANT_ID": principal.tenant,
        "AZURE_CLIENT_ID": principal.client_id,
        "AZURE_FEDERATED_TOKEN_FILE": str(path),
        "PATH": "",
    }
    set_all(monkeypatch, variables)
    return path


@pytest.mark.usefixtures("token_file")
def test_workload_identity_signs_in_where_a_token_is_named(
    azure_environment: StagedWorkspace,
    principal: Principal,
    stage: Stage,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _ in range(2):
        with connected(azure_environment, project) as connection:
            connection.record(fresh=True)
    assert sign_ins(stage) == 1
    with connected(azure_environment, project) as connection:
        signed_in = connection.sign_in()
    assert (signed_in.credential, signed_in.principal) == ("workload identity", principal.client_id)
    stage.log.clear()
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE")
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record(fresh=True)
    assert "workload" not in str(caught.value)
    assert not stage.log.all()


def test_workload_token_is_read_again_after_a_refusal(
    azure_environment: StagedWorkspace, principal: Principal, token_file: Path, project: Path
) -> None:
    reasons = {
        "foreign": "AADSTS70021: No matching federated identity record found",
        principal.new_assertion(seconds=-1): "the assertion is not valid",
    }
    for assertion, reason in reasons.items():
        token_file.write_text(assertion)
        with connected(azure_environment, project) as connection, pytest.raises(NotAllowed) as caught:
            connection.record()
        assert f"workload identity ({reason}" in str(caught.value)
        assert assertion not in f"{caught.value} {caught.value.hint}"
    token_file.write_text(principal.new_assertion())
    with connected(azure_environment, project) as connection:
        connection.record()


@pytest.mark.usefixtures("token_file")
def test_workload_identity_names_missing_variables(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, missing in {
        "AZURE_CLIENT_ID": "AZURE_CLIENT_ID",
        "AZURE_TENANT_ID": "AZURE_TENANT_ID and AZURE_CLIENT_ID",
    }.items():
        monkeypatch.setenv(name, "")
        with connected(azure_environment, project) as connection, pytest.raises(NotAllowed) as caught:
            connection.record()
        assert f"workload identity ({missing} missing)" in str(caught.value)
    assert not stage.log.all()


@pytest.fixture
def environment(azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The variables that reach the workspace, without credentials and without a display."""
    azure.write_config(project)
    azure.add_run("run_1", "exp")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    kept = {name: value for name, value in azure.environment().items() if name not in SIGN_IN}
    return kept | {"HIML_TENANT_ID": azure.state.tenant, "PATH": os.defpath, "SSH_TTY": "/dev/pts/9"}


POSIX = pytest.mark.skipif(sys.platform == "win32", reason="terminals are POSIX's here")


@pytest.mark.large("starts a terminal")
@POSIX
def test_a_person_is_asked_in_a_terminal_once(
    himl: Himl, azure: StagedWorkspace, stage: Stage, project: Path, environment: Mapping[str, str]
) -> None:
    command = [str(himl.program), "runs", "list"]
    refused = himl("runs", "list", env=environment)
    assert refused.code == 4
    assert "browser and device code (no terminal)" in refused.stderr
    terminal = Terminal(command, cwd=project, env=environment)
    terminal.wait_for(f"https://microsoft.com/devicelogin in any browser and enter the code {USER_CODE}.")
    assert (terminal.finish(), "run_1" in terminal.screen) == (0, True)
    count = sign_ins(stage)
    assert "run_1" in himl.ok("runs", "list", env=environment).stdout
    assert sign_ins(stage) == count
    azure.state.principal.claims_wanted = '{"access_token":{"acrs":{"essential":true,"value":"p1"}}}'
    refused = himl("runs", "list", env=environment)
    assert refused.code == 4
    assert "No credential provides the stronger sign-in that the service requires. Tried: " in refused.stderr
    for is_first in (True, False):
        terminal = Terminal(command, cwd=project, env=environment)
        assert terminal.finish() == 0
        assert (USER_CODE in terminal.screen, "run_1" in terminal.screen) == (is_first, True)


@POSIX
def test_a_person_who_interrupts_the_sign_in_ends_the_command(
    himl: Himl, project: Path, environment: Mapping[str, str], stage: Stage
) -> None:
    terminal = Terminal([str(himl.program), "runs", "list"], cwd=project, env=environment)
    terminal.wait_for(USER_CODE)
    terminal.interrupt()
    assert terminal.finish() == 130
