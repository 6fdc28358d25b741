"""Claims challenges: a service that wants a stronger sign-in gets it where the credential can give it, else its user is told how."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import azure.identity
import pytest
from azure.core.exceptions import ClientAuthenticationError

from himl_cli.core.errors import NotAllowed
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.service_errors import STRONGER, claims_of, reason_of
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import SIGN_IN, Az, connected, sign_ins, token_of

SECOND_FACTOR = '{"access_token":{"acrs":{"essential":true,"value":"p1"}}}'
ENCODED = base64.b64encode(SECOND_FACTOR.encode()).decode()
WRITES = frozenset({"PATCH", "PUT", "POST", "DELETE"})


@pytest.fixture
def az(tmp_path: Path, azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> Az:
    """`az` is all that signs in."""
    for name in SIGN_IN:
        monkeypatch.delenv(name)
    program = Az(tmp_path / "programs")
    program.answer(token_of(azure_environment.state.principal))
    monkeypatch.setenv("PATH", str(program.folder))
    return program


def read(connection: Connection) -> str:
    return str(connection.rest.get(connection.service("history", "/runs/run_1"))["runId"])


def write(connection: Connection) -> str:
    return str(connection.rest.patch(connection.service("history", "/experiments/exp/runs/run_1"), json={"displayName": "new"})["displayName"])


@pytest.fixture
def workspace(azure_environment: StagedWorkspace) -> StagedWorkspace:
    azure_environment.add_run("run_1", "exp")
    return azure_environment


def test_a_challenge_gets_a_token_with_its_claims_which_is_kept(workspace: StagedWorkspace, stage: Stage, project: Path) -> None:
    with connected(workspace, project) as connection:
        assert read(connection) == "run_1"
    workspace.state.principal.claims_wanted = SECOND_FACTOR
    for _ in range(2):
        with connected(workspace, project) as connection:
            assert read(connection) == "run_1"
            assert write(connection) == "new"
    assert sign_ins(stage) == 2
    assert [seen.status for seen in stage.log.find("runs/run_1")] == [200, 401, 200, 200, 200, 200]


def test_a_challenge_of_writes_alone_is_met_as_well(workspace: StagedWorkspace, stage: Stage, project: Path) -> None:
    principal = workspace.state.principal
    principal.claims_wanted, principal.claims_wanted_by = SECOND_FACTOR, WRITES
    with connected(workspace, project) as connection:
        assert read(connection) == "run_1"
        assert write(connection) == "new"
        assert read(connection) == "run_1"
    assert sign_ins(stage) == 2


def test_what_the_place_of_sign_in_says_to_the_claims_is_told(workspace: StagedWorkspace, project: Path) -> None:
    principal = workspace.state.principal
    principal.claims_wanted, principal.meets_claims = SECOND_FACTOR, False
    with connected(workspace, project) as connection, pytest.raises(NotAllowed, match=r"conditional access rule") as caught:
        read(connection)
    assert str(caught.value).startswith("Sign-in as service principal ")


def test_a_claim_that_stays_unmet_is_told_as_one(workspace: StagedWorkspace, stage: Stage, project: Path) -> None:
    workspace.state.principal.claims_wanted = SECOND_FACTOR
    with connected(workspace, project) as connection:
        connection.record()
    workspace.state.principal.claims_wanted = '{"access_token":{"nbf":{"value":"1"}},"id_token":{}}'
    challenge = f'Bearer error="insufficient_claims", claims="{ENCODED}"'
    stage.faults.add(Status(401, code="InvalidAuthenticationToken", message="x", headers=(("WWW-Authenticate", challenge),)), "runs/run_1", times=None)
    with connected(workspace, project) as connection, pytest.raises(NotAllowed, match=r"wants a stronger sign-in than that by service principal") as caught:
        read(connection)
    assert "conditional access" in caught.value.hint
    assert len(stage.log.find("runs/run_1")) == 2


def test_a_user_of_the_azure_cli_is_told_the_command_that_helps(az: Az, workspace: StagedWorkspace, project: Path) -> None:
    principal = workspace.state.principal
    principal.claims_wanted, principal.claims_wanted_by = SECOND_FACTOR, WRITES
    for _ in range(2):
        with connected(workspace, project) as connection:
            assert read(connection) == "run_1"
            with pytest.raises(NotAllowed, match=r"wants a stronger sign-in than that by Azure CLI") as caught:
                write(connection)
            assert f"az login --claims-challenge {ENCODED}" in caught.value.hint
            assert "--scope https://management.azure.com/.default" in caught.value.hint
            assert caught.value.exit_code == 4
            assert read(connection) == "run_1"
    assert len(az.asked) == 1  # the token that is good for reading was kept


@pytest.mark.parametrize(
    ("credential", "command"),
    [("AzureCliCredential", f"az login --claims-challenge {ENCODED}"), ("AzurePowerShellCredential", f"Connect-AzAccount -ClaimsChallenge {ENCODED}")],
)
def test_the_tools_own_words_on_claims_become_the_command_to_run(credential: str, command: str) -> None:
    with pytest.raises(ClientAuthenticationError) as caught:
        getattr(azure.identity, credential)().get_token("https://management.azure.com/.default", claims=SECOND_FACTOR)
    reason = reason_of(caught.value)
    assert reason.text == STRONGER
    assert reason.hint.startswith(f"Run: {command}")
    assert reason.hint.endswith("or later)")


def challenge(claims: str, error: str = "insufficient_claims") -> Mapping[str, str]:
    return {"WWW-Authenticate": f'Bearer realm="", authorization_uri="https://login/x", error="{error}", claims="{claims}"'}


@pytest.mark.parametrize(
    ("headers", "claims"),
    [
        (challenge(ENCODED), SECOND_FACTOR),
        (challenge(ENCODED.rstrip("=")), SECOND_FACTOR),
        ({"www-authenticate": challenge(ENCODED)["WWW-Authenticate"]}, SECOND_FACTOR),
        (challenge(base64.urlsafe_b64encode(b'{"access_token":{"x":"\xc3\xbf\xc3\xbf\xc3\xbf>>>???"}}').decode()), '{"access_token":{"x":"ÿÿÿ>>>???"}}'),
        (challenge(ENCODED, "invalid_token"), ""),
        (challenge("%%%"), ""),
        (challenge(base64.b64encode(b"\xff\xfe").decode()), ""),
        (challenge(base64.b64encode(b"[1").decode()), ""),
        ({"WWW-Authenticate": 'Bearer error="insufficient_claims"'}, ""),
        ({}, ""),
    ],
)
def test_claims_are_read_from_the_challenge_and_nothing_else(headers: Mapping[str, str], claims: str) -> None:
    assert claims_of(headers) == claims
    assert not claims or json.loads(claims)
