"""Inside an Azure ML job: its own workspace, its run token, and the identity that it was given."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from himl_cli.core.errors import NotAllowed
from himl_cli.workspaces.azure.config import address_of_job, azure_settings
from himl_cli.workspaces.azure.connection import Connection
from tests.servers.azureml.faults import Latency, Page, Status
from tests.servers.azureml.principals import Principal, make_token
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import SIGN_IN
from tests.support.folders import files_below

API = {"api-version": "2024-10-01"}


@pytest.fixture
def job(azure: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> StagedWorkspace:
    """This process is the run `run_1` of the workspace, with no identity but its run token."""
    set_job(azure, monkeypatch)
    return azure


def set_job(azure: StagedWorkspace, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 3600) -> None:
    run = azure.add_run("run_1", "exp")
    for name in SIGN_IN:
        monkeypatch.delenv(name, raising=False)
    for name, value in azure.job_environment(run, seconds=seconds).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def connection(job: StagedWorkspace, project: Path) -> Iterator[Connection]:
    with opened(project) as connection:
        yield connection


def opened(project: Path) -> Connection:
    address = address_of_job()
    assert address is not None
    return Connection.open(address, settings=azure_settings(project))


def test_run_token_alone_reads_run_history(connection: Connection, job: StagedWorkspace, stage: Stage) -> None:
    assert connection.in_job
    assert connection.rest.get(connection.service("history", "/runs/run_1"))["runId"] == "run_1"
    assert [seen.host for seen in stage.log.all()] == ["eastus.api.azureml.ms"]
    record = connection.record()
    assert (record.workspace_id, record.location, record.data_plane) == (job.state.workspace_id, "eastus", "https://eastus.api.azureml.ms")
    assert connection.sign_in().credential == "the job's run token"


def test_the_run_token_is_not_sent_to_resource_manager(connection: Connection, stage: Stage) -> None:
    with pytest.raises(NotAllowed, match=r"the job's identity \(it runs without one") as caught:
        connection.rest.get(connection.arm(), params=API)
    assert "--identity managed" in caught.value.hint
    assert not stage.log.all()


def test_a_managed_identity_opens_resource_manager_and_storage(job: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = job.add_principal()
    for name, value in job.identity_environment(identity).items():
        monkeypatch.setenv(name, value)
    with opened(project) as connection:
        connection.rest.get(connection.service("history", "/runs/run_1"))
        assert connection.record(fresh=True).tenant_id == job.state.tenant
        assert connection.tokens.get(connection.address.cloud.storage_scope)
        assert connection.sign_in().credential == "the job's run token"
    assert [seen.host for seen in stage.log.find("GET")] == ["eastus.api.azureml.ms", "management.azure.com"]


def test_a_service_principal_that_was_set_counts_in_a_job_too(job: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in job.environment().items():
        if name.startswith("HIML_"):
            monkeypatch.setenv(name, value)
    with opened(project) as connection:
        assert connection.rest.get(connection.arm(), params=API)["name"] == job.state.name


def test_the_submitters_identity_is_asked_at_its_endpoint(job: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_behalf_of(job.state.principal) as server:
        monkeypatch.setenv("OBO_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}/obo")
        monkeypatch.setenv("AZUREML_OBO_ENABLED", "true")
        with opened(project) as connection:
            assert connection.rest.get(connection.arm(), params=API)["name"] == job.state.name
    with opened(project) as connection, pytest.raises(NotAllowed, match="the submitter's identity"):
        connection.rest.get(connection.arm(), params=API)


@pytest.mark.parametrize("said", ["False", "false", "0", ""])
def test_a_submitters_identity_that_is_switched_off_is_not_asked(job: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("OBO_ENDPOINT", "http://127.0.0.1:9/obo")
    monkeypatch.setenv("AZUREML_OBO_ENABLED", said)
    with opened(project) as connection, pytest.raises(NotAllowed, match=r"the job's identity \(it runs without one"):
        connection.rest.get(connection.arm(), params=API)


def test_job_uses_its_assigned_managed_identity_by_client_id(job: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = job.add_principal()
    for name, value in job.identity_environment(identity).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DEFAULT_IDENTITY_CLIENT_ID")
    monkeypatch.setenv("AZUREML_IDENTITY_IN_USE", "Managed")
    for client_id, is_known in ((identity.client_id, True), ("99999999-1111-2222-3333-444444444444", False)):
        monkeypatch.setenv("AZUREML_IDENTITY_CLIENT_ID", client_id)
        with opened(project) as connection:
            if is_known:
                assert connection.rest.get(connection.arm(), params=API)["name"] == job.state.name
            else:
                with pytest.raises(NotAllowed, match="managed identity"):
                    connection.rest.get(connection.arm(), params=API)


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("eastus.api.azureml.ms", "eastus"),
        ("ab12.workspace.eastus.api.azureml.ms", "eastus"),
        ("chinaeast2.api.ml.azure.cn", "chinaeast2"),
        ("eastus.experiments.azureml.net", "eastus"),
    ],
)
def test_the_region_is_read_from_the_services_address(job: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, host: str, region: str) -> None:
    monkeypatch.setenv("AZUREML_SERVICE_ENDPOINT", f"https://{host}/")
    with opened(project) as connection:
        record = connection.record()
    assert (record.location, record.data_plane) == (region, f"https://{host}")


def test_a_run_token_near_its_end_is_renewed(azure: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_job(azure, monkeypatch, seconds=60)
    with opened(project) as connection:
        for _ in range(2):
            assert connection.rest.get(connection.service("history", "/runs/run_1"))["runId"] == "run_1"
            assert len(stage.log.find(r"GET .*/experiments/exp/runs/run_1/token")) == 1


@pytest.mark.parametrize(
    "text", ["{}", "[]", '""', '{"token": ""}', '{"token": "x", "expiryTimeUtc": "soon"}', '{"token": 3, "expiryTimeUtc": "2090-01-01T00:00:00Z"}']
)
def test_an_answer_without_a_new_run_token_is_told(azure: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    set_job(azure, monkeypatch, seconds=-60)
    stage.faults.add(Page(text, content_type="application/json"), "/token")
    with opened(project) as connection, pytest.raises(NotAllowed, match=r"run token is no longer accepted, and there is no new one .*holds no"):
        connection.rest.get(connection.service("history", "/runs/run_1"))


def test_run_token_renewal_does_not_deadlock_with_record_request(azure: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two wants what the other holds: neither may wait for ever."""
    set_job(azure, monkeypatch, seconds=60)
    for name, value in azure.identity_environment(azure.add_principal()).items():
        monkeypatch.setenv(name, value)
    with opened(project) as connection:
        url = connection.service("history", "/runs/run_1")
        connection.tokens.get(connection.address.cloud.management_scope)
        stage.faults.add(Latency(1.0), "GET management")
        stage.faults.add(Status(401, code="InvalidAuthenticationToken"), "GET management")
        done: list[str] = []
        threads = [
            threading.Thread(target=lambda: done.append(connection.record(fresh=True).location), daemon=True),
            threading.Thread(target=lambda: done.append(connection.rest.get(url)["runId"]), daemon=True),
        ]
        for thread in threads:
            thread.start()
            time.sleep(0.3)
        for thread in threads:
            thread.join(60)
        assert sorted(done) == ["eastus", "run_1"]


def test_a_run_token_past_its_end_is_told(azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_job(azure, monkeypatch, seconds=-60)
    with opened(project) as connection, pytest.raises(NotAllowed, match="run token is no longer accepted"):
        connection.rest.get(connection.service("history", "/runs/run_1"))


def test_nothing_of_a_job_is_kept_on_disk(connection: Connection, tmp_path: Path) -> None:
    connection.rest.get(connection.service("history", "/runs/run_1"))
    assert not [path for path in files_below(tmp_path / "home") if "tokens" in path.parts]


def on_behalf_of(principal: Principal) -> ThreadingHTTPServer:
    """A server that gives tokens of *principal*, in the field names of Azure ML's endpoint; stops when its context ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text, seconds = make_token(principal, "https://management.azure.com")
            body = json.dumps({"token": text, "expiresOn": time.strftime("%Y-%m-%dT%H:%M:%S.1234567+00:00", time.gmtime(time.time() + seconds))}).encode()
            self.send_response(200 if "resource=https%3A%2F%2Fmanagement.azure.com" in self.path else 400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def __enter__(self) -> Server:
            threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            return self

        def __exit__(self, *args: object) -> None:
            self.shutdown()
            self.server_close()

    return Server(("127.0.0.1", 0), Handler)
