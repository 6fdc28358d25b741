"""Signing in: who is signed in by what, and what is said when it fails."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, NotAllowed, ServiceFailed
from himl_cli.workspaces.azure.config import azure_settings
from himl_cli.workspaces.azure.credentials import SIGN_IN as SIGN_IN_POLICY
from himl_cli.workspaces.azure.credentials import Chain, Credential, Source
from himl_cli.workspaces.azure.http import CONNECT_SECONDS
from himl_cli.workspaces.retry import RetryPolicy
from tests.servers.azureml.faults import Reset, Stall, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import connected, sign_ins, write_settings

NOBODY = "00000000-0000-0000-0000-000000000000"


def test_a_service_principal_of_the_variables_signs_in(azure_environment: StagedWorkspace, project: Path) -> None:
    principal = azure_environment.state.principal
    with connected(azure_environment, project) as connection:
        signed_in = connection.sign_in()
    assert signed_in.credential == f"service principal {principal.client_id[:8]}… (HIML_SERVICE_PRINCIPAL_ID)"
    assert (signed_in.principal, signed_in.tenant_id) == (principal.client_id, principal.tenant)
    assert 86_000 < signed_in.expires - time.time() < 86_400


def test_service_principal_variables_override_settings_file(unsigned: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    principal = unsigned.state.principal
    path = write_settings(
        project,
        {"tenant_id": principal.tenant, "service_principal_id": principal.client_id, "service_principal_password": principal.secret},
    )
    with connected(unsigned, project) as connection:
        assert connection.sign_in().credential == f"service principal {principal.client_id[:8]}… ({path}:3)"
    other = unsigned.add_principal()
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_ID", other.client_id)
    monkeypatch.setenv("HIML_SERVICE_PRINCIPAL_PASSWORD", other.secret)
    with connected(unsigned, project) as connection:
        assert connection.sign_in().principal == other.client_id


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"service_principal_id": "i", "service_principal_password": "p"}, r"no tenant_id\."),
        ({"service_principal_id": "i", "tenant_id": "t"}, r"no service_principal_password\."),
        ({"service_principal_password": "p", "tenant_id": "t"}, r"no service_principal_id\."),
        ({"service_principal_id": "i"}, r"no tenant_id and no service_principal_password\."),
    ],
)
def test_incomplete_service_principal_error_names_missing_keys(
    unsigned: StagedWorkspace, stage: Stage, project: Path, given: dict[str, str], missing: str
) -> None:
    write_settings(project, given)
    with pytest.raises(NotAllowed, match=missing) as caught, connected(unsigned, project):
        raise AssertionError("it was opened")
    assert f"service_principal_{'id' if 'service_principal_id' in given else 'password'} ({project}" in str(caught.value)
    assert "HIML_" in caught.value.hint
    assert not stage.log.all()


@pytest.mark.parametrize(
    ("values", "name", "complaint"),
    [
        ({"service_principal_password": "p"}, "himl.toml", r"himl\.toml', line 2: 'service_principal_password' is a secret"),
        ({"tenat_id": "t"}, "himl.private.toml", r"'tenat_id' is not known"),
        ({"tenant_id": 7}, "himl.private.toml", r"'tenant_id' must be text"),
        ({"cloud": "Moon"}, "himl.toml", r"himl\.toml', line 2: 'cloud' is no cloud that himl knows: 'Moon'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(project: Path, values: dict[str, object], name: str, complaint: str) -> None:
    write_settings(project, values, name)
    with pytest.raises(BadUsage, match=complaint):
        azure_settings(project)


def test_the_cloud_may_be_set_and_its_variable_wins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings(project, {"cloud": "AzureChinaCloud"}, "himl.toml")
    assert azure_settings(project).cloud == "AzureChinaCloud"
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureCloud")
    assert azure_settings(project).cloud == ""


def test_a_password_is_not_shown_by_the_settings(project: Path) -> None:
    write_settings(project, {"tenant_id": "t", "service_principal_id": "i", "service_principal_password": "s3cr3t"})
    settings = azure_settings(project)
    assert "s3cr3t" not in repr(settings)


@pytest.mark.parametrize(
    ("broken", "complaint", "hint"),
    [
        ("secret", "the client secret is wrong", "HIML_SERVICE_PRINCIPAL_PASSWORD"),
        ("expired", "the client secret has expired", "az ad app credential reset"),
        ("client", "no such application in this tenant", "HIML_SERVICE_PRINCIPAL_ID"),
        ("tenant", "no such tenant", "HIML_TENANT_ID"),
        ("malformed tenant", "tenant", "HIML_TENANT_ID"),
    ],
)
def test_each_refusal_has_its_own_sentence(
    azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, broken: str, complaint: str, hint: str
) -> None:
    nobody = "00000000-0000-0000-0000-000000000000"
    principal = azure_environment.add_principal(secret_expired=True) if broken == "expired" else azure_environment.state.principal
    values = {
        "HIML_SERVICE_PRINCIPAL_ID": nobody if broken == "client" else principal.client_id,
        "HIML_SERVICE_PRINCIPAL_PASSWORD": "s3cr3t" if broken == "secret" else principal.secret,
        "HIML_TENANT_ID": nobody if broken == "tenant" else "no tenant!" if broken.startswith("malformed") else principal.tenant,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed, match=complaint) as caught:
        connection.record()
    told = f"{caught.value} {caught.value.hint}"
    assert "Sign-in as service principal" in told
    assert "(HIML_SERVICE_PRINCIPAL_ID)" in told
    assert hint in told
    assert values["HIML_SERVICE_PRINCIPAL_PASSWORD"] not in told
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("tenant_id", "no tenant!", "tenant_id in {}:2"), ("tenant_id", NOBODY, "tenant_id in {}:2"),
     ("service_principal_id", NOBODY, "service_principal_id in {}:3"), ("service_principal_password", "s3cr3t", "service_principal_password in {}:4")],
)  # fmt: skip
def test_wrong_setting_hint_names_its_file_and_line(unsigned: StagedWorkspace, project: Path, key: str, value: str, named: str) -> None:
    principal = unsigned.state.principal
    values = {"tenant_id": principal.tenant, "service_principal_id": principal.client_id, "service_principal_password": principal.secret}
    path = write_settings(project, values | {key: value})
    with connected(unsigned, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    assert named.format(path) in caught.value.hint
    assert "HIML_" not in caught.value.hint
    assert "AZURE_" not in caught.value.hint


def test_a_tenant_of_the_vendors_variables_is_named_as_theirs(unsigned: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AZURE_TENANT_ID", NOBODY), ("AZURE_CLIENT_ID", NOBODY), ("AZURE_CLIENT_SECRET", "s3cr3t")):
        monkeypatch.setenv(name, value)
    with connected(unsigned, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    assert caught.value.hint == "Check AZURE_TENANT_ID."


def test_what_was_tried_is_named_when_nothing_signs_in(unsigned: StagedWorkspace, stage: Stage, project: Path) -> None:
    with connected(unsigned, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    assert str(caught.value) == (
        "Not signed in to Azure. Tried: environment variables (not set), Azure CLI (not installed), browser and device code (no terminal)."
    )
    assert "az login" in caught.value.hint
    assert "HIML_SERVICE_PRINCIPAL_ID" in caught.value.hint
    assert not stage.log.all()


def test_azure_variables_sign_in_and_missing_one_is_named(unsigned: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    principal = unsigned.state.principal
    monkeypatch.setenv("AZURE_CLIENT_SECRET", principal.secret)
    monkeypatch.setenv("AZURE_CLIENT_ID", principal.client_id)
    with connected(unsigned, project) as connection, pytest.raises(NotAllowed, match=r"AZURE_CLIENT_SECRET \(AZURE_TENANT_ID missing\)"):
        connection.record()
    monkeypatch.setenv("AZURE_TENANT_ID", principal.tenant)
    with connected(unsigned, project) as connection:
        assert connection.sign_in().credential == "service principal of AZURE_CLIENT_SECRET"


def test_a_managed_identity_signs_in_where_its_endpoint_is(unsigned: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = unsigned.add_principal()
    for name, value in unsigned.identity_environment(identity).items():
        monkeypatch.setenv(name, value)
    with connected(unsigned, project) as connection:
        signed_in = connection.sign_in()
    assert (signed_in.credential, signed_in.principal) == ("managed identity", identity.client_id)


def test_all_that_applies_is_tried_in_order_and_named(unsigned: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federated = project / "token"
    federated.write_text("assertion")
    nobody = unsigned.add_principal(tenant="11111111-2222-3333-4444-555555555555")
    variables = unsigned.identity_environment(nobody) | {"MSI_SECRET": "another"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_TENANT_ID", unsigned.state.tenant)
    monkeypatch.setenv("AZURE_CLIENT_ID", unsigned.state.principal.client_id)
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(federated))
    with connected(unsigned, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    assert re.findall(r"([\w ]+) \(", str(caught.value).partition("Tried: ")[2]) == [
        "environment variables",
        " workload identity",
        " managed identity",
        " Azure CLI",
        " browser and device code",
    ]
    assert "managed identity (this machine has none)" in str(caught.value)
    assert "az login" in caught.value.hint


def test_unreachable_login_host_raises_service_failed(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    stage.faults.add(Reset(), "login", times=None)
    with connected(azure_environment, project) as connection, pytest.raises(ServiceFailed, match=r"login\.microsoftonline\.com"):
        connection.record()


@pytest.mark.parametrize("where", ["login", "openid-configuration", "POST .*/token"])
def test_stalled_login_host_fails_in_bounded_time(azure_environment: StagedWorkspace, stage: Stage, where: str) -> None:
    principal, policy = azure_environment.state.principal, RetryPolicy(attempts=4, first=0.01, total=0.9, read_timeout=0.8)
    assert 30 <= SIGN_IN_POLICY.total + CONNECT_SECONDS + SIGN_IN_POLICY.read_timeout <= 41, "so long at most, then"
    stage.faults.add(Stall(60), where, times=None)

    def make() -> Credential:
        return Credential("ClientSecretCredential", principal.tenant, principal.client_id, principal.secret, policy=policy)

    chain = Chain([Source("service principal", make, "x", is_explicit=True)], authority="https://login.microsoftonline.com")
    began = time.monotonic()
    with pytest.raises(ServiceFailed, match=r"login\.microsoftonline\.com took too long to answer") as caught:
        chain.fetch("https://management.azure.com/.default", anew=False)
    chain.close()
    assert (caught.value.exit_code, time.monotonic() - began < 40) == (5, True)
    assert len(stage.log.find("login")) <= 5


@pytest.mark.parametrize("where", ["openid-configuration", "POST .*/token"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_place_of_sign_in_that_is_busy_is_no_refusal(azure_environment: StagedWorkspace, stage: Stage, project: Path, where: str, status: int) -> None:
    stage.faults.add(Status(status, retry_after=0), where, times=2)
    with connected(azure_environment, project) as connection:
        connection.record()
    stage.faults.add(Status(status, retry_after=7200), where, times=None)
    azure_environment.state.principal.revoked_before = time.time()
    with connected(azure_environment, project) as connection, pytest.raises(ServiceFailed, match=f"failed at the sign-in: it answered {status}"):
        connection.record(fresh=True)


def test_a_sovereign_cloud_has_its_own_hosts(azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureUSGovernment")
    with connected(azure_environment, project) as connection:
        connection.tokens.get(connection.address.cloud.storage_scope)
        assert connection.arm().startswith("https://management.usgovcloudapi.net/subscriptions/")
    assert {seen.host for seen in stage.log.all()} == {"login.microsoftonline.us"}


def test_a_workspace_of_another_tenant_is_told_with_that_tenant(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = azure_environment.add_principal(tenant="11111111-2222-3333-4444-555555555555")
    for name, value in azure_environment.environment(stranger).items():
        monkeypatch.setenv(name, value)
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed, match="from another tenant") as caught:
        connection.record()
    assert f"az login --tenant {azure_environment.state.tenant}" in caught.value.hint
    assert f"HIML_TENANT_ID={azure_environment.state.tenant}" in caught.value.hint
    assert sign_ins(stage) == 1
