"""What is known of a workspace, and what it costs to know it."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from himl_cli.core.errors import ServiceFailed, WorkspaceNotFound
from himl_cli.workspaces.azure.connection import WorkspaceRecord
from tests.servers.azureml.faults import FlipByte, Page
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import address_of, connected

GET_WORKSPACE = r"GET management\.azure\.com/subscriptions"


def test_the_record_says_what_resource_manager_says(azure_environment: StagedWorkspace, project: Path) -> None:
    state = azure_environment.state
    with connected(azure_environment, project) as connection:
        record = connection.record()
        assert (record.workspace_id, record.location, record.tenant_id) == (state.workspace_id, "eastus", state.tenant)
        assert record.data_plane == "https://eastus.api.azureml.ms"
        assert record.storage_account.endswith(f"/storageAccounts/{state.storage.account}")
        assert not connection.in_job


def test_urls_are_those_of_the_services(azure_environment: StagedWorkspace, project: Path) -> None:
    path = address_of(azure_environment).path
    with connected(azure_environment, project) as connection:
        assert connection.arm("/datastores") == f"https://management.azure.com{path}/datastores"
        base = "https://eastus.api.azureml.ms"
        assert connection.service("history", "/runs/r") == f"{base}/history/v1.0{path}/runs/r"
        assert connection.service("artifact", "/x") == f"{base}/artifact/v2.0{path}/x"
        assert connection.service("metric", "/x") == f"{base}/metric/v2.0{path}/x"
        assert connection.service("mlflow", "/runs/search") == f"{base}/mlflow/v2.0{path}/api/2.0/mlflow/runs/search"
        assert connection.service("index", "/entities") == f"{base}/index/v1.0{path}/entities"
        assert connection.service("data", "/x") == f"{base}/data/v1.0{path}/x"


def test_a_name_that_has_to_be_quoted_is(azure: StagedWorkspace, project: Path) -> None:
    with connected(azure, project, resource_group="team (a)") as connection:
        assert "/resourceGroups/team%20%28a%29/providers/" in connection.arm()


def test_the_record_is_asked_once_and_kept(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    for _ in range(2):
        with connected(azure_environment, project) as connection, ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(lambda _: connection.record(), range(8)))) == 1
    assert len(stage.log.find(GET_WORKSPACE)) == 1
    with connected(azure_environment, project) as connection:
        connection.record(fresh=True)
        connection.forget_record()
        connection.record()
    assert len(stage.log.find(GET_WORKSPACE)) == 3


def test_a_record_that_proves_wrong_is_forgotten(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    with connected(azure_environment, project) as connection:
        connection.record()
    kept = dict(stage.azure.workspaces)
    stage.azure.workspaces.clear()
    try:
        with connected(azure_environment, project) as connection:
            url = connection.service("history", "/runs/r")
            with pytest.raises(WorkspaceNotFound):
                connection.rest.get(url)
        with connected(azure_environment, project) as connection, pytest.raises(WorkspaceNotFound):
            connection.record()
    finally:
        stage.azure.workspaces.update(kept)


@pytest.mark.parametrize("answer", [None, [], {}, {"properties": None}, {"error": "x"}])
def test_an_answer_that_is_no_workspace_is_a_failure(azure: StagedWorkspace, answer: object) -> None:
    with pytest.raises(ServiceFailed, match="holds no workspace"):
        WorkspaceRecord.from_arm(answer, address_of(azure))


@pytest.mark.parametrize("discovery", ["https://[eastus.api.azureml.ms/discovery", "https://", "https://host:port/discovery"])
def test_a_place_of_discovery_that_is_no_address_is_a_failure(azure_environment: StagedWorkspace, stage: Stage, project: Path, discovery: str) -> None:
    stage.faults.add(Page(json.dumps({"properties": {"discoveryUrl": discovery}}), content_type="application/json"), GET_WORKSPACE)
    with connected(azure_environment, project) as connection, pytest.raises(ServiceFailed, match="Azure does not tell where the services of"):
        connection.record()


def test_missing_service_address_is_found_by_discovery(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    """The discovery request carries no token."""
    azure_environment.state.tells_tracking = False
    with connected(azure_environment, project) as connection:
        assert connection.record().data_plane == "https://eastus.api.azureml.ms"
    [seen] = stage.log.find("/discovery")
    assert "authorization" not in seen.headers


def test_where_discovery_is_elsewhere_than_tracking_it_is_asked(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    """The address within a private network, which may stand in one of the two only: the vendor's clients go by discovery."""
    with connected(azure_environment, project) as connection:
        connection.record()
    assert not stage.log.find("/discovery")
    azure_environment.state.tracking_host = "ab12.workspace.eastus.api.azureml.ms"
    with connected(azure_environment, project) as connection:
        assert connection.record(fresh=True).data_plane == "https://eastus.api.azureml.ms"
    assert len(stage.log.find("/discovery")) == 1


def test_services_whose_name_nobody_knows_are_looked_for_anew(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workspace was made again elsewhere, say; a resource manager that cannot be reached is no sign of that."""
    azure_environment.state.services_host = "nobody.invalid"
    monkeypatch.setenv("NO_PROXY", "nobody.invalid")
    monkeypatch.setenv("no_proxy", "nobody.invalid")
    with connected(azure_environment, project) as connection, pytest.raises(ServiceFailed, match=r"nobody\.invalid is not known here"):
        connection.rest.get(connection.service("history", "/runs/r"))
    azure_environment.state.services_host = ""
    with connected(azure_environment, project) as connection:
        assert connection.record().data_plane == "https://eastus.api.azureml.ms"
    assert len(stage.log.find(GET_WORKSPACE)) == 2


FORKED = """
import logging, os, sys, time
from pathlib import Path
from himl_cli.workspaces.azure.config import address_from_config, find_config
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.config import azure_settings

logging.basicConfig()
logging.getLogger("himl_cli.workspaces.retry").setLevel("DEBUG")  # what it says of broken connections has to be nothing
with Connection.open(address_from_config(find_config(Path.cwd())), settings=azure_settings(Path.cwd())) as connection:
    url = connection.service("history", "/runs/run_1")
    connection.rest.get(url)
    child = os.fork()
    began = time.monotonic()
    for _ in range(30):
        assert connection.rest.get(url)["runId"] == "run_1"
    assert connection.record(fresh=True).location == "eastus"
    seconds = time.monotonic() - began
    if child == 0:
        os._exit(0 if seconds < 40 else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seconds < 40)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_process_has_connections_of_its_own(azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.add_run("run_1", "exp")
    azure_environment.write_config(project)
    outcome = subprocess.run([sys.executable, "-c", FORKED], cwd=project, capture_output=True, text=True, timeout=120, check=False)
    assert (outcome.stdout.strip(), outcome.stderr) == ("0 True", "")


def test_a_garbled_answer_is_not_kept(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    stage.faults.add(FlipByte(0), GET_WORKSPACE, times=None)
    with connected(azure_environment, project) as connection, pytest.raises(ServiceFailed, match="came garbled"):
        connection.record()
    stage.faults.clear()
    with connected(azure_environment, project) as connection:
        assert connection.record().location == "eastus"


PROGRAM = """
import sys
from pathlib import Path
from himl_cli.workspaces.azure.config import address_from_config, find_config
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.config import azure_settings

with Connection.open(address_from_config(find_config(Path.cwd())), settings=azure_settings(Path.cwd())) as connection:
    first = "azure.core" in sys.modules or "requests" in sys.modules
    connection.rest.get(connection.service("history", "/runs/run_1"))
heavy = {"azure.identity", "msal", "azure.ai.ml", "azureml", "mlflow", "cryptography", "aiohttp", "opentelemetry"}
print(first, sorted(name for name in heavy if name in sys.modules))
"""


def test_cached_call_makes_one_request_without_auth_imports(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    azure_environment.add_run("run_1", "exp")
    azure_environment.write_config(project)
    with connected(azure_environment, project) as connection:
        connection.record()
    stage.log.clear()
    outcome = subprocess.run([sys.executable, "-c", PROGRAM], cwd=project, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "False []"
    assert len(stage.log.all()) == 1


@pytest.mark.parametrize("url", ["https://[::1", "http://eastus.api.azureml.ms/x", "eastus.api.azureml.ms"])
def test_what_is_no_address_behind_tls_gets_no_sign_in(azure_environment: StagedWorkspace, project: Path, url: str) -> None:
    with connected(azure_environment, project) as connection, pytest.raises(ServiceFailed, match=r"sends no sign-in to '.*' without TLS"):
        connection.rest.get(url)
