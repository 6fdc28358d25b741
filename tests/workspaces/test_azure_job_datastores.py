"""Datastores inside an Azure ML job: its run token opens those that have a secret, an identity the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, NotAllowed, NotFound, ServiceFailed
from himl_cli.workspaces.azure.config import address_of_job, azure_settings
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.storage.datastores import Datastores
from tests.servers.azureml.faults import Page, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, SIGN_IN
from tests.support.folders import files_below, files_with
from tests.support.stores import Stored, listed, sending


@pytest.fixture
def job(azure: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> StagedWorkspace:
    """This process is a run of the workspace, with no identity but its run token."""
    for name in SIGN_IN:
        monkeypatch.delenv(name, raising=False)
    for name, value in azure.job_environment(azure.add_run("run_1", "exp")).items():
        monkeypatch.setenv(name, value)
    return azure


@pytest.fixture
def connection(job: StagedWorkspace, project: Path) -> Iterator[Connection]:
    address = address_of_job()
    assert address is not None
    with Connection.open(address, settings=azure_settings(project)) as connection:
        yield connection


def hosts(stage: Stage) -> set[str]:
    return {seen.host for seen in stage.log.all()}


def test_run_token_reads_and_writes_default_datastore(connection: Connection, job: StagedWorkspace, stage: Stage, tmp_path: Path) -> None:
    job.put_blob(DEFAULT, "data/a", b"1")
    store, sink = Datastores(connection).open(), Stored()
    assert b"".join(store.read("data/a")) == b"1"
    store.store([sending(tmp_path / "b", "data/b", b"22")], sink, workers=1)
    assert sink.errors == {}
    assert job.get_blob(DEFAULT, "data/b") == b"22"
    assert hosts(stage) == {"eastus.api.azureml.ms", job.state.storage.host}


@pytest.mark.parametrize("kind", ["AzureBlob", "AzureDataLakeGen2"])
@pytest.mark.parametrize("credentials", ["AccountKey", "Sas", "ServicePrincipal"])
def test_every_kind_of_secret_is_told_to_the_run_token(connection: Connection, job: StagedWorkspace, stage: Stage, kind: str, credentials: str) -> None:
    job.add_datastore("data", kind=kind, credentials=credentials, sas_permissions="rcwl", account=job.state.second_storage)
    job.put_blob("data", "a", b"1")
    assert [blob.name for blob in listed(Datastores(connection).open("data"))] == ["a"]
    assert "management.azure.com" not in hosts(stage)


def test_all_are_listed_page_by_page_the_default_one_first(connection: Connection, job: StagedWorkspace, stage: Stage) -> None:
    job.state.page_size = 2
    job.add_datastore("lake", kind="AzureDataLakeGen1", credentials="None")
    infos = Datastores(connection).infos()
    assert [info.name for info in infos] == [DEFAULT, *sorted(name for name in job.state.datastores if name != DEFAULT)]
    assert [info.is_default for info in infos] == [True] + [False] * (len(infos) - 1)
    assert {info.name: info.kind for info in infos}["lake"] == "Azure Data Lake Gen1"
    assert infos[0].location == f"https://{job.state.storage.host}/{job.state.datastores[DEFAULT].container}"
    assert len(stage.log.find(r"GET .*/datastore/v1\.0/.*/datastores\b")) == 3


def test_unknown_and_unsupported_datastores_fail_with_reason(connection: Connection, job: StagedWorkspace) -> None:
    stores = Datastores(connection)
    with pytest.raises(NotFound, match=f"No datastore 'workspaceblobstor' .* there are: {DEFAULT}, ") as caught:
        stores.open("workspaceblobstor")
    assert f"'{DEFAULT}'" in caught.value.hint
    with pytest.raises(BadUsage, match="is a file share"):
        stores.open("workspacefilestore")


def test_one_without_a_secret_wants_an_identity_and_says_so(connection: Connection, job: StagedWorkspace) -> None:
    job.add_datastore("open", credentials="None")
    with pytest.raises(NotAllowed, match=r"the job's identity \(it runs without one") as caught:
        listed(Datastores(connection).open("open"))
    assert "--identity managed" in caught.value.hint


def test_one_without_a_secret_is_opened_by_the_identity(connection: Connection, job: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job.add_datastore("open", credentials="None")
    job.put_blob("open", "a", b"1")
    for name, value in job.identity_environment(job.add_principal()).items():
        monkeypatch.setenv(name, value)
    with Connection.open(connection.address, settings=azure_settings(project)) as own:
        assert [blob.name for blob in listed(Datastores(own).open("open"))] == ["a"]


def test_an_identity_goes_on_where_the_run_token_is_refused(
    connection: Connection, job: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.put_blob(DEFAULT, "a", b"1")
    stage.faults.add(Status(403, code="UserError", message="No."), "/datastore/v1.0/", times=None)
    with pytest.raises(NotAllowed, match=r"eastus\.api\.azureml\.ms answered 403"):
        Datastores(connection).open()
    for name, value in job.identity_environment(job.add_principal()).items():
        monkeypatch.setenv(name, value)
    with Connection.open(connection.address, settings=azure_settings(project)) as own:
        stores = Datastores(own)
        assert [blob.name for blob in listed(stores.open())] == ["a"]
        assert stores.infos()[0].name == DEFAULT


def test_datastore_with_invalid_tenant_fails_to_sign_in(connection: Connection, job: StagedWorkspace) -> None:
    nobody = job.add_principal(tenant="no tenant!")
    job.add_datastore("data", kind="AzureDataLakeGen2", credentials="ServicePrincipal", service_principal=nobody)
    with pytest.raises(NotAllowed, match=r"datastore 'data' cannot sign in: its tenant 'no tenant!' is no id"):
        listed(Datastores(connection).open("data"))


@pytest.mark.parametrize("text", ["[]", '""', "3"])
def test_an_answer_that_is_no_datastore_is_a_failure(connection: Connection, stage: Stage, text: str) -> None:
    stage.faults.add(Page(text, content_type="application/json"), "/datastore/", times=None)
    stores = Datastores(connection)
    for ask in (stores.open, stores.infos, lambda: stores.open(DEFAULT)):
        with pytest.raises(ServiceFailed, match=r"eastus\.api\.azureml\.ms answered with something unexpected: it holds no "):
            ask()


def test_no_secret_is_in_what_is_kept_or_said(connection: Connection, job: StagedWorkspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    listed(Datastores(connection).open())
    key = job.state.storage.key
    assert files_below(tmp_path / "home")
    assert files_with(tmp_path / "home", key) == []
    assert key not in caplog.text
