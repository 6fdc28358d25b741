"""A workspace behind a private link, looked at from outside: said as what it is, at once, whatever status it comes with."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.errors import NotAllowed
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import connected, sign_ins

FIREWALL = r"The firewall of workspace .* lets nobody in from this network \({} answered {}\)"
API = {"api-version": "2024-10-01"}


def test_the_data_planes_401_is_no_matter_of_the_sign_in(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    azure_environment.state.is_private = True
    with connected(azure_environment, project) as connection:
        with pytest.raises(NotAllowed, match=FIREWALL.format(r"eastus\.api\.azureml\.ms", 401)) as caught:
            connection.rest.get(connection.service("history", "/runs/run_1"))
        assert "VPN" in caught.value.hint
        assert "az login" not in caught.value.hint
        assert (len(stage.log.find("runs/run_1")), sign_ins(stage)) == (1, 1)


def test_resource_managers_502_is_not_asked_again(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    azure_environment.state.is_private = True
    with connected(azure_environment, project) as connection:
        with pytest.raises(NotAllowed, match=FIREWALL.format(r"management\.azure\.com", 502)):
            connection.rest.get(connection.arm("/datastores"), params=API)
        assert len(stage.log.find("/datastores")) == 1


@pytest.mark.parametrize("status", [400, 403, 409, 500, 503])
@pytest.mark.parametrize(("code", "message"), [("PublicNetworkAccessDisabled", "No."), ("UserError", "Use a private endpoint.")])
def test_private_network_error_is_recognized_with_any_status(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, status: int, code: str, message: str
) -> None:
    stage.faults.add(Status(status, code=code, message=message), "/runs/", times=None)
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed, match=FIREWALL.format(r"eastus\.api\.azureml\.ms", status)):
        connection.rest.get(connection.service("history", "/runs/run_1"))
    assert len(stage.log.find("/runs/run_1")) == 1
