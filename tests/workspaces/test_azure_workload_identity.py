"""Workload identity: a token of another platform, in a file, signs in; azure-identity's own credential says so first."""

from __future__ import annotations

from pathlib import Path

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import WorkloadIdentityCredential

from himl_cli.core.errors import NotAllowed
from tests.servers.azureml.principals import Principal, read_token
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import SIGN_IN, connected, sign_ins
from tests.support.running import Himl

SCOPE = "https://management.azure.com/.default"


@pytest.fixture
def principal(azure_environment: StagedWorkspace) -> Principal:
    """An application whose secret nobody here knows."""
    return azure_environment.add_principal(secret="unknown to all")


@pytest.fixture
def token_file(principal: Principal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The platform's token where the three variables say; nothing else that signs in."""
    path = tmp_path / "federated_token"
    path.write_text(principal.new_assertion())
    for name in SIGN_IN:
        monkeypatch.delenv(name)
    variables = {"AZURE_TENANT_ID": principal.tenant, "AZURE_CLIENT_ID": principal.client_id, "AZURE_FEDERATED_TOKEN_FILE": str(path), "PATH": ""}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return path


@pytest.mark.usefixtures("token_file")
def test_azure_identity_signs_in_by_it(principal: Principal) -> None:
    with WorkloadIdentityCredential() as credential:
        claims = read_token(credential.get_token(SCOPE).token)
    assert (claims["appid"], claims["aud"]) == (principal.client_id, "https://management.azure.com")


@pytest.mark.parametrize(("seconds", "number"), [(300, "AADSTS70021"), (-1, "AADSTS700024")])
def test_azure_identity_fails_with_foreign_or_expired_assertion(principal: Principal, token_file: Path, seconds: float, number: str) -> None:
    token_file.write_text("foreign" if seconds > 0 else principal.new_assertion(seconds=seconds))
    with WorkloadIdentityCredential() as credential, pytest.raises(ClientAuthenticationError, match=f"{number}:"):
        credential.get_token(SCOPE)


@pytest.mark.usefixtures("token_file")
def test_himl_signs_in_by_it(azure_environment: StagedWorkspace, principal: Principal, stage: Stage, project: Path) -> None:
    for _ in range(2):
        with connected(azure_environment, project) as connection:
            connection.record(fresh=True)
    assert sign_ins(stage) == 1
    with connected(azure_environment, project) as connection:
        signed_in = connection.sign_in()
    assert (signed_in.credential, signed_in.principal) == ("workload identity", principal.client_id)


def test_a_token_that_was_renewed_is_read_again(azure_environment: StagedWorkspace, principal: Principal, token_file: Path, project: Path) -> None:
    token_file.write_text(principal.new_assertion(seconds=-1))
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed, match=r"workload identity \(the assertion is not valid at this time\)"):
        connection.record()
    token_file.write_text(principal.new_assertion())
    with connected(azure_environment, project) as connection:
        connection.record()


def test_doctor_names_it_and_says_why_it_fails(himl: Himl, azure_environment: StagedWorkspace, token_file: Path, project: Path) -> None:
    azure_environment.write_config(project)
    assert "workload identity" in himl.ok("doctor").stdout
    token_file.write_text("foreign")
    refused = himl("doctor", "--json", env={"HIML_NO_CACHE": "1"})
    (sign_in,) = (check for check in refused.json() if check["name"] == "sign-in")
    assert (refused.code, sign_in["state"]) == (1, "failed")
    assert "workload identity (AADSTS70021: No matching federated identity record found" in sign_in["message"]
    assert "foreign" not in f"{refused.stdout}{refused.stderr}"


@pytest.mark.usefixtures("token_file")
def test_it_is_not_tried_where_no_token_is_named(azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE")
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    assert "workload" not in str(caught.value)
    assert not stage.log.all()


@pytest.mark.parametrize("missing", [["AZURE_TENANT_ID"], ["AZURE_CLIENT_ID"], ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"]])
@pytest.mark.usefixtures("token_file")
def test_workload_identity_without_ids_names_missing_variables(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    for name in missing:
        monkeypatch.setenv(name, "")
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    assert f"workload identity ({' and '.join(missing)} missing)" in str(caught.value)
    assert not stage.log.all()
