"""Tests of the connection to a workspace: its record and the requests for it, proxies, certificates and firewalls, and
the rights of a job's run token.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest

from himl_cli.core.errors import BadUsage, HimlError, NotAllowed, NotFound, ServiceFailed, WorkspaceNotFound
from himl_cli.workspaces.azure.config import address_of_job, azure_settings
from himl_cli.workspaces.azure.connection import Connection, WorkspaceRecord
from himl_cli.workspaces.azure.storage.datastores import Datastores
from tests.azureml_double.faults import Latency, Page, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Principal, make_token
from tests.support.azure import DEFAULT, SIGN_IN, address_of, connected, set_all, sign_ins
from tests.support.folders import files_below, files_with
from tests.support.stores import Stored, listed, sending
from tests.support.web import serving_files

GET_WORKSPACE = r"GET management\.azure\.com/subscriptions"


def test_the_record_and_urls_are_those_of_the_services(azure_environment: StagedWorkspace, project: Path) -> None:
    state, path, base = azure_environment.state, address_of(azure_environment).path, "https://eastus.api.azureml.ms"
    with connected(azure_environment, project) as connection:
        record = connection.record()
        assert (record.workspace_id, record.location, record.tenant_id, record.data_plane) == (
            state.workspace_id,
            "eastus",
            state.tenant,
            base,
        )
        assert record.storage_account.endswith(f"/storageAccounts/{state.storage.account}")
        assert not connection.in_job
        assert connection.arm("/datastores") == f"https://management.azure.com{path}/datastores"
        assert connection.service("mlflow", "/runs/search") == f"{base}/mlflow/v2.0{path}/api/2.0/mlflow/runs/search"
        for service in ("history/v1.0", "artifact/v2.0", "metric/v2.0", "index/v1.0", "data/v1.0"):
            assert connection.service(service.partition("/")[0], "/x") == f"{base}/{service}{path}/x"
    with connected(azure_environment, project, resource_group="team (a)") as connection:
        assert "/resourceGroups/team%20%28a%29/providers/" in connection.arm()


def test_the_record_is_kept_until_it_proves_wrong(
    azure_environment: StagedWorkspace, stage: Stage, project: Path
) -> None:
    for _ in range(2):
        with connected(azure_environment, project) as connection, ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(lambda _: connection.record(), range(8)))) == 1
    assert len(stage.log.find(GET_WORKSPACE)) == 1
    with connected(azure_environment, project) as connection:
        connection.record(fresh=True)
        connection.forget_record()
        connection.record()
    assert len(stage.log.find(GET_WORKSPACE)) == 3
    with connected(azure_environment, project) as connection:
        connection.record()
    kept = dict(stage.azure.workspaces)
    stage.azure.workspaces.clear()
    try:
        with connected(azure_environment, project) as connection:
            url = connection.service("history", "/runs/r")
            with pytest.raises(WorkspaceNotFound):
                connection.get(url)
        with connected(azure_environment, project) as connection, pytest.raises(WorkspaceNotFound):
            connection.record()
    finally:
        stage.azure.workspaces.update(kept)


def test_an_answer_that_is_no_workspace_is_a_failure(azure: StagedWorkspace) -> None:
    for answer in (None, {}, {"properties": None}):
        with pytest.raises(ServiceFailed, match="contains no workspace"):
            WorkspaceRecord.from_arm(answer, address_of(azure))


def test_unusable_discovery_address_is_a_failure(
    azure_environment: StagedWorkspace, stage: Stage, project: Path
) -> None:
    for discovery in ("https://[eastus.api.azureml.ms/discovery", "https://", "https://host:port/discovery"):
        stage.faults.only(
            Page(json.dumps({"properties": {"discoveryUrl": discovery}}), content_type="application/json"),
            GET_WORKSPACE,
        )
        with (
            connected(azure_environment, project) as connection,
            pytest.raises(ServiceFailed, match="Azure returned no address of the services of"),
        ):
            connection.record()


def test_missing_service_address_is_found_by_discovery(
    azure_environment: StagedWorkspace, stage: Stage, project: Path
) -> None:
    with connected(azure_environment, project) as connection:
        connection.record()
        assert not stage.log.find("/discovery")
        azure_environment.state.tracking_host = "ab12.workspace.eastus.api.azureml.ms"
        assert connection.record(fresh=True).data_plane == "https://eastus.api.azureml.ms"
        azure_environment.state.tells_tracking = False
        assert connection.record(fresh=True).data_plane == "https://eastus.api.azureml.ms"
    assert ["authorization" in seen.headers for seen in stage.log.find("/discovery")] == [False] * 2


def test_services_whose_name_is_unknown_are_looked_for_anew(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure_environment.state.services_host = "nobody.invalid"
    set_all(monkeypatch, dict.fromkeys(("NO_PROXY", "no_proxy"), "nobody.invalid"))
    with (
        connected(azure_environment, project) as connection,
        pytest.raises(ServiceFailed, match=r"cannot resolve the host name nobody\.invalid"),
    ):
        connection.get(connection.service("history", "/runs/r"))
    azure_environment.state.services_host = ""
    with connected(azure_environment, project) as connection:
        assert connection.record().data_plane == "https://eastus.api.azureml.ms"
    assert len(stage.log.find(GET_WORKSPACE)) == 2


FORKED = """
import logging, os
from pathlib import Path
from himl_cli.workspaces.azure.config import address_from_config, find_config
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.config import azure_settings

logging.basicConfig()
logging.getLogger("himl_cli.workspaces.retry").setLevel("DEBUG")  # what it says of broken connections has to be nothing
with Connection.open(address_from_config(find_config(Path.cwd())), settings=azure_settings(Path.cwd())) as connection:
    url = connection.service("history", "/runs/run_1")
    connection.get(url)
    child = os.fork()
    for _ in range(30):
        assert connection.get(url).body["runId"] == "run_1"
    assert connection.record(fresh=True).location == "eastus"
    if child == 0:
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_process_has_connections_of_its_own(azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.add_run("run_1", "exp")
    azure_environment.write_config(project)
    outcome = subprocess.run(
        [sys.executable, "-c", FORKED], cwd=project, capture_output=True, text=True, timeout=120, check=False
    )
    assert (outcome.stdout.strip(), outcome.stderr) == ("0", "")


CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def failure(staged: StagedWorkspace, project: Path) -> HimlError:
    """Return the error of the first request of a connection."""
    with connected(staged, project) as connection, pytest.raises(HimlError) as caught:
        connection.record()
    assert "\n" not in str(caught.value)
    return caught.value


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Yield a port that sends the same bytes on each connection."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(answer)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_proxy_in_the_way_is_named_without_its_password(
    azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_proxy(address: str) -> None:
        set_all(monkeypatch, dict.fromkeys(("HTTPS_PROXY", "https_proxy"), f"http://ada:s3cr3t@{address}"))

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    set_proxy(f"127.0.0.1:{port}")
    error = failure(azure_environment, project)
    assert str(error) == f"The proxy 127.0.0.1:{port} did not connect to login.microsoftonline.com."
    assert isinstance(error, ServiceFailed)
    assert "HTTPS_PROXY" in error.hint
    assert "s3cr3t" not in f"{error} {error.hint}"
    with answering(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as port:
        set_proxy(f"127.0.0.1:{port}")
        assert (
            str(failure(azure_environment, project))
            == f"The proxy 127.0.0.1:{port} requires a user name and a password."
        )


def test_a_name_that_is_not_known_is_told_so(
    azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "login.himl.invalid")
    set_all(monkeypatch, dict.fromkeys(("NO_PROXY", "no_proxy"), "himl.invalid"))
    error = failure(azure_environment, project)
    assert str(error) == "This machine cannot resolve the host name login.himl.invalid (DNS)."
    assert (error.exit_code, "VPN" in error.hint) == (5, True)


def test_certificates_count_by_each_usual_variable(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*CA_VARIABLES[:3], ""):
        for other in CA_VARIABLES:
            monkeypatch.delenv(other, raising=False)
        if name:
            monkeypatch.setenv(name, str(stage.ca_file))
            with connected(azure_environment, project) as connection:
                assert connection.record(fresh=True).location == "eastus"
    monkeypatch.setenv("HIML_NO_CACHE", "1")
    error = failure(azure_environment, project)
    assert str(error).startswith("The certificate of login.microsoftonline.com is not trusted (")
    assert "authorities from certifi" in str(error)
    assert "REQUESTS_CA_BUNDLE" in error.hint


def test_a_ca_bundle_that_is_unusable_or_goes_is_told(
    azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    error = failure(azure_environment, project)
    assert isinstance(error, BadUsage)
    assert str(error) == "REQUESTS_CA_BUNDLE names '/nowhere/ca.pem', which does not exist."
    path = project / "ca.pem"
    path.write_text("nothing")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    assert str(failure(azure_environment, project)) == "The file of REQUESTS_CA_BUNDLE contains no certificates."
    path = project / "ca.pem"
    path.write_bytes(stage.ca_file.read_bytes())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    azure_environment.add_run("run_1", "exp")
    with connected(azure_environment, project) as connection:
        url = connection.service("history", "/runs/run_1")
        assert connection.get(url).body["runId"] == "run_1"
        path.rename(project / "elsewhere.pem")
        with pytest.raises(ServiceFailed) as caught:
            connection.get(url)
        assert (
            str(caught.value) == f"The file of certificate authorities '{path}' (REQUESTS_CA_BUNDLE) no longer exists."
        )
        (project / "elsewhere.pem").rename(path)
        assert connection.get(url).body["runId"] == "run_1"


FIREWALL = r"The firewall of workspace .* blocks this network \({} answered {}\)"


def test_firewall_is_told_from_a_refused_sign_in(
    azure_environment: StagedWorkspace, stage: Stage, project: Path
) -> None:
    azure_environment.state.is_private = True
    with connected(azure_environment, project) as connection:
        with pytest.raises(NotAllowed, match=FIREWALL.format(r"eastus\.api\.azureml\.ms", 401)) as caught:
            connection.get(connection.service("history", "/runs/run_1"))
        assert "VPN" in caught.value.hint
        assert "az login" not in caught.value.hint
        assert (len(stage.log.find("runs/run_1")), sign_ins(stage)) == (1, 1)
        with pytest.raises(NotAllowed, match=FIREWALL.format(r"management\.azure\.com", 502)):
            connection.get(connection.arm("/datastores"), params={"api-version": "2024-10-01"})
        assert len(stage.log.find("/datastores")) == 1


def test_private_network_error_is_recognized_with_any_status(
    azure_environment: StagedWorkspace, stage: Stage, project: Path
) -> None:
    refusals = [
        (403, "PublicNetworkAccessDisabled", "No."),
        (400, "AccessDeniedByNetwork", "No."),
        (503, "UserError", "Use a private endpoint."),
    ]
    for number, (status, code, message) in enumerate(refusals, 1):
        stage.faults.only(Status(status, code=code, message=message), "/runs/", times=None)
        with (
            connected(azure_environment, project) as connection,
            pytest.raises(NotAllowed, match=FIREWALL.format(r"eastus\.api\.azureml\.ms", status)),
        ):
            connection.get(connection.service("history", "/runs/run_1"))
        assert len(stage.log.find("/runs/run_1")) == number


API = {"api-version": "2024-10-01"}


@pytest.fixture
def job(azure: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> StagedWorkspace:
    """This process is the run `run_1` of the workspace. Its run token is its only identity."""
    set_job(azure, monkeypatch)
    return azure


def set_job(azure: StagedWorkspace, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 3600) -> None:
    run = azure.add_run("run_1", "exp")
    for name in SIGN_IN:
        monkeypatch.delenv(name, raising=False)
    set_all(monkeypatch, azure.job_environment(run, seconds=seconds))


@pytest.fixture
def connection(job: StagedWorkspace, project: Path) -> Iterator[Connection]:
    with opened(project) as connection:
        yield connection


def opened(project: Path) -> Connection:
    address = address_of_job()
    assert address is not None
    return Connection.open(address, settings=azure_settings(project))


def test_run_token_reads_history_and_stays_from_resource_manager(
    connection: Connection, job: StagedWorkspace, stage: Stage, tmp_path: Path
) -> None:
    assert connection.in_job
    assert connection.get(connection.service("history", "/runs/run_1")).body["runId"] == "run_1"
    assert [seen.host for seen in stage.log.all()] == ["eastus.api.azureml.ms"]
    record = connection.record()
    assert (record.workspace_id, record.location, record.data_plane) == (
        job.state.workspace_id,
        "eastus",
        "https://eastus.api.azureml.ms",
    )
    assert connection.sign_in().credential == "the job's run token"
    assert not [path for path in files_below(tmp_path / "home") if "tokens" in path.parts]
    stage.log.clear()
    with pytest.raises(NotAllowed, match=r"the job's identity \(none") as caught:
        connection.get(connection.arm(), params=API)
    assert "--identity managed" in caught.value.hint
    assert not stage.log.all()


def test_a_managed_identity_opens_resource_manager_and_storage(
    job: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = job.add_principal()
    set_all(monkeypatch, job.identity_environment(identity))
    with opened(project) as connection:
        connection.get(connection.service("history", "/runs/run_1"))
        assert connection.record(fresh=True).tenant_id == job.state.tenant
        assert connection.tokens.get(connection.address.cloud.storage_scope)
        assert connection.sign_in().credential == "the job's run token"
    assert [seen.host for seen in stage.log.find("GET")] == ["eastus.api.azureml.ms", "management.azure.com"]
    monkeypatch.delenv("DEFAULT_IDENTITY_CLIENT_ID")
    monkeypatch.setenv("AZUREML_IDENTITY_IN_USE", "Managed")
    monkeypatch.setenv("HIML_NO_CACHE", "1")
    monkeypatch.setenv("AZUREML_IDENTITY_CLIENT_ID", identity.client_id)
    with opened(project) as connection:
        assert connection.get(connection.arm(), params=API).body["name"] == job.state.name
    monkeypatch.setenv("AZUREML_IDENTITY_CLIENT_ID", "99999999-1111-2222-3333-444444444444")
    with opened(project) as connection, pytest.raises(NotAllowed, match="managed identity"):
        connection.get(connection.arm(), params=API)


def test_a_service_principal_that_was_set_counts_in_a_job_too(
    job: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in job.environment().items():
        if name.startswith("HIML_"):
            monkeypatch.setenv(name, value)
    with opened(project) as connection:
        assert connection.get(connection.arm(), params=API).body["name"] == job.state.name


def test_the_submitters_identity_is_asked_at_its_endpoint(
    job: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_behalf_of(job.state.principal) as address:
        monkeypatch.setenv("OBO_ENDPOINT", address)
        monkeypatch.setenv("AZUREML_OBO_ENABLED", "true")
        with opened(project) as connection:
            assert connection.get(connection.arm(), params=API).body["name"] == job.state.name
    with opened(project) as connection, pytest.raises(NotAllowed, match="the submitter's identity"):
        connection.get(connection.arm(), params=API)
    monkeypatch.setenv("AZUREML_OBO_ENABLED", "False")
    with opened(project) as connection, pytest.raises(NotAllowed, match=r"the job's identity \(none"):
        connection.get(connection.arm(), params=API)


def test_the_region_is_read_from_the_services_address(
    job: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = {
        "ab12.workspace.eastus.api.azureml.ms": "eastus",
        "chinaeast2.api.ml.azure.cn": "chinaeast2",
        "eastus.experiments.azureml.net": "eastus",
    }
    for host, region in hosts.items():
        monkeypatch.setenv("AZUREML_SERVICE_ENDPOINT", f"https://{host}/")
        with opened(project) as connection:
            record = connection.record()
        assert (record.location, record.data_plane) == (region, f"https://{host}")


def test_a_run_token_near_its_end_is_renewed(
    azure: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_job(azure, monkeypatch, seconds=60)
    with opened(project) as connection:
        for _ in range(2):
            assert connection.get(connection.service("history", "/runs/run_1")).body["runId"] == "run_1"
            assert len(stage.log.find(r"GET .*/experiments/exp/runs/run_1/token")) == 1


def test_an_answer_without_a_new_run_token_is_told(
    azure: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_job(azure, monkeypatch, seconds=-60)
    expires = '"expiryTimeUtc": "2090-01-01T00:00:00Z"}'
    for text in ("[]", '{"token": ""}', '{"token": "x", "expiryTimeUtc": "soon"}', '{"token": 3, ' + expires):
        stage.faults.only(Page(text, content_type="application/json"), "/token")
        with (
            opened(project) as connection,
            pytest.raises(NotAllowed, match=r"run token is no longer valid, and its renewal failed .*no (run )?token"),
        ):
            connection.get(connection.service("history", "/runs/run_1"))


def test_run_token_renewal_does_not_deadlock_with_a_record(
    azure: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_job(azure, monkeypatch, seconds=60)
    set_all(monkeypatch, azure.identity_environment(azure.add_principal()))
    with opened(project) as connection:
        url = connection.service("history", "/runs/run_1")
        connection.tokens.get(connection.address.cloud.management_scope)
        stage.faults.add(Latency(0.6), "GET management")
        stage.faults.add(Status(401, code="InvalidAuthenticationToken"), "GET management")
        done: list[str] = []
        threads = [
            threading.Thread(target=lambda: done.append(connection.record(fresh=True).location), daemon=True),
            threading.Thread(target=lambda: done.append(connection.get(url).body["runId"]), daemon=True),
        ]
        for thread in threads:
            thread.start()
            time.sleep(0.2)
        for thread in threads:
            thread.join(60)
        assert sorted(done) == ["eastus", "run_1"]


@contextmanager
def on_behalf_of(principal: Principal) -> Iterator[str]:
    """Yield the URL of a server that issues tokens of *principal*, with the field names of Azure ML's endpoint."""
    text, seconds = make_token(principal, "https://management.azure.com")
    answer = {
        "token": text,
        "expiresOn": time.strftime("%Y-%m-%dT%H:%M:%S.1234567+00:00", time.gmtime(time.time() + seconds)),
    }
    with serving_files(None) as server:
        server.put("/obo", json.dumps(answer).encode(), status=200)
        yield server("/obo")
        assert {"resource=https%3A%2F%2Fmanagement.azure.com" in asked.query for asked in server.seen} == {True}


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(
    ("kind", "credentials"),
    [("AzureBlob", "AccountKey"), ("AzureBlob", "Sas"), ("AzureDataLakeGen2", "ServicePrincipal")],
)
def test_run_token_opens_datastores_that_have_a_secret(
    connection: Connection,
    job: StagedWorkspace,
    stage: Stage,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    credentials: str,
) -> None:
    caplog.set_level("DEBUG")
    job.add_datastore(
        "data", kind=kind, credentials=credentials, sas_permissions="rcwl", account=job.state.second_storage
    )
    job.put_blob("data", "a", b"1")
    store, sink = Datastores(connection).open("data"), Stored()
    assert [blob.name for blob in listed(store)] == ["a"]
    store.store([sending(tmp_path / "b", "b", b"22")], sink, workers=1)
    assert (sink.errors, job.get_blob("data", "b")) == ({}, b"22")
    assert "management.azure.com" not in {seen.host for seen in stage.log.all()}
    key = job.state.second_storage.key
    assert (files_with(tmp_path / "home", key), key in caplog.text) == ([], False)


def test_unknown_and_unsupported_datastores_fail_with_reason(connection: Connection, job: StagedWorkspace) -> None:
    stores = Datastores(connection)
    with pytest.raises(NotFound, match=f"No datastore 'workspaceblobstor' .* there are: {DEFAULT}, ") as caught:
        stores.open("workspaceblobstor")
    assert f"'{DEFAULT}'" in caught.value.hint
    with pytest.raises(BadUsage, match="is a file share"):
        stores.open("workspacefilestore")
    nobody = job.add_principal(tenant="no tenant!")
    job.add_datastore("data", kind="AzureDataLakeGen2", credentials="ServicePrincipal", service_principal=nobody)
    with pytest.raises(NotAllowed, match=r"datastore 'data' cannot sign in: its tenant 'no tenant!' is not an id"):
        listed(Datastores(connection).open("data"))


def test_refused_principal_of_a_datastore_is_told_in_himls_words(
    azure_environment: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    """With a cached token, only the principal needs azure-identity, whose loggers would print to stderr."""
    azure_environment.write_config(project)
    with connected(azure_environment, project) as connection:
        connection.record()
    stranger = replace(azure_environment.add_principal(), secret="another")
    azure_environment.add_datastore(
        "data", kind="AzureDataLakeGen2", credentials="ServicePrincipal", service_principal=stranger
    )
    command = [
        sys.executable,
        "-m",
        "himl_cli",
        "datastore",
        "download",
        "a/",
        str(tmp_path / "a"),
        "--datastore",
        "data",
    ]
    done = subprocess.run(command, cwd=project, check=False, capture_output=True, text=True)
    assert done.returncode == 4
    error, hint = done.stderr.splitlines()
    assert "The service principal of datastore 'data'" in error
    assert "Check whether its secret expired." in hint


def test_datastore_without_a_secret_needs_the_identity(
    connection: Connection, job: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.add_datastore("open", credentials="None")
    job.put_blob("open", "a", b"1")
    with pytest.raises(NotAllowed, match=r"the job's identity \(none") as caught:
        listed(Datastores(connection).open("open"))
    assert "--identity managed" in caught.value.hint
    set_all(monkeypatch, job.identity_environment(job.add_principal()))
    with Connection.open(connection.address, settings=azure_settings(project)) as own:
        assert [blob.name for blob in listed(Datastores(own).open("open"))] == ["a"]


def test_an_identity_goes_on_where_the_run_token_is_refused(
    connection: Connection, job: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.put_blob(DEFAULT, "a", b"1")
    stage.faults.add(Status(403, code="UserError", message="No."), "/datastore/v1.0/", times=None)
    with pytest.raises(NotAllowed, match=r"eastus\.api\.azureml\.ms answered 403"):
        Datastores(connection).open()
    set_all(monkeypatch, job.identity_environment(job.add_principal()))
    with Connection.open(connection.address, settings=azure_settings(project)) as own:
        stores = Datastores(own)
        assert [blob.name for blob in listed(stores.open())] == ["a"]
        assert stores.infos()[0].name == DEFAULT
