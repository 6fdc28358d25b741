"""The datastores of an Azure ML workspace: which there are, which himl can read, and what is said where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, HimlError, NotFound, ServiceFailed
from himl_cli.workspaces.azure.config import PUBLIC, US_GOVERNMENT, WorkspaceAddress
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.azure.storage.datastores import DataLocation, Datastores, parse_data_uri
from tests.servers.azureml.faults import Page
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, connected
from tests.support.stores import Stored, listed, sending

HERE = WorkspaceAddress("sub", "group", "name", PUBLIC, "a test")
LONG = "azureml://subscriptions/SUB/resourcegroups/Group/workspaces/name/datastores/d/paths/a/b/"


def test_all_datastores_are_listed_the_default_one_first(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.state.page_size = 2
    with connected(azure_environment, project) as connection:
        infos = Datastores(connection).infos()
    names = [info.name for info in infos]
    assert names[0] == DEFAULT
    assert names[1:] == sorted(name for name in azure_environment.state.datastores if name != DEFAULT)
    assert [info.is_default for info in infos] == [True] + [False] * (len(names) - 1)
    assert infos[0].location == f"https://{azure_environment.state.storage.host}/{azure_environment.state.datastores[DEFAULT].container}"
    assert {info.kind for info in infos} == {"blob", "file share"}


def test_an_unknown_datastore_names_those_there_are(azure_environment: StagedWorkspace, project: Path) -> None:
    with connected(azure_environment, project) as connection, pytest.raises(NotFound) as caught:
        Datastores(connection).open("workspaceblobstor")
    assert all(name in str(caught.value) for name in azure_environment.state.datastores)
    assert f"'{DEFAULT}'" in caught.value.hint


@pytest.mark.parametrize("name", ["..", "", "a/b", "x" * 300, "a\0b"])
def test_what_cannot_be_a_datastores_name_is_not_asked_for(stage: Stage, azure_environment: StagedWorkspace, project: Path, name: str) -> None:
    with connected(azure_environment, project) as connection, pytest.raises(NotFound, match="No datastore"):
        Datastores(connection).open(name)
    assert all(seen.path.endswith("/datastores") for seen in stage.log.find("GET management.azure.com"))


@pytest.mark.parametrize(
    ("kind", "called", "way_out"),
    [("AzureFile", "a file share", "azcopy"), ("AzureDataLakeGen1", "Azure Data Lake Gen1", "Gen2"), ("OneLake", "OneLake", "azcopy")],
    ids=["file share", "gen1", "onelake"],
)
def test_unsupported_datastore_kind_fails_with_hint(azure_environment: StagedWorkspace, project: Path, kind: str, called: str, way_out: str) -> None:
    azure_environment.add_datastore("odd", kind=kind)
    with (
        connected(azure_environment, project) as connection,
        pytest.raises(BadUsage, match=rf"The datastore 'odd' is {called}, which himl does not support") as caught,
    ):
        Datastores(connection).open("odd")
    assert way_out in caught.value.hint


@pytest.mark.parametrize("kind", ["AzureBlob", "AzureDataLakeGen2"])
@pytest.mark.parametrize("credentials", ["AccountKey", "Sas", "None"])
def test_each_datastore_kind_and_credential_reads_and_writes(
    azure_environment: StagedWorkspace, project: Path, tmp_path: Path, kind: str, credentials: str
) -> None:
    azure = azure_environment
    azure.add_datastore("data", kind=kind, credentials=credentials, sas_permissions="rcwl", account=azure.state.second_storage)
    azure.put_blob("data", "a", b"1")
    sink = Stored()
    with connected(azure, project) as connection:
        store = Datastores(connection).open("data")
        assert b"".join(store.read("a")) == b"1"
        store.store([sending(tmp_path / "1", "b", b"22")], sink, workers=1)
        assert [(blob.name, blob.size) for blob in listed(store)] == [("a", 1), ("b", 2)]
    assert sink.errors == {}


def failure(azure: StagedWorkspace, folder: Path, name: str) -> HimlError:
    with connected(azure, folder) as connection, pytest.raises(HimlError) as caught:
        listed(Datastores(connection).open(name))
    return caught.value


def test_a_container_that_is_not_there_is_named(azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.add_datastore("gone", container="gone-container")
    azure_environment.state.storage.client.delete_container("gone-container")
    error = failure(azure_environment, project, "gone")
    assert isinstance(error, NotFound)
    assert "no container 'gone-container'" in str(error)


def test_an_account_that_is_not_there_is_named(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    azure.state.datastores[DEFAULT].storage = type(azure.state.storage)("nosuchaccount", azure.state.storage.key, azure.state.storage.azurite)
    stage.log.expect_unknown(r"nosuchaccount\.blob")
    error = failure(azure, project, DEFAULT)
    assert isinstance(error, ServiceFailed)
    assert "nosuchaccount.blob.core.windows.net" in str(error)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("azureml://datastores/d/paths/a/b/", DataLocation("a/b/", datastore="d")),
        ("azureml://datastores/d/paths/", DataLocation("", datastore="d")),
        ("azureml://datastores/d", DataLocation("", datastore="d")),
        ("azureml://datastores/d/ExperimentRun/dcid.x", DataLocation("ExperimentRun/dcid.x", datastore="d")),
        ("azureml://datastores/d/paths/paths/a b", DataLocation("paths/a b", datastore="d")),
        (LONG, DataLocation("a/b/", datastore="d")),
        ("https://acct.blob.core.windows.net/c/a%20b/", DataLocation("a b/", account="acct", container="c")),
        ("wasbs://c@acct.blob.core.windows.net/a", DataLocation("a", account="acct", container="c")),
        ("abfss://c@acct.dfs.core.windows.net/a", DataLocation("a", account="acct", container="c")),
    ],
)
def test_uris_of_data_are_understood(uri: str, place: DataLocation) -> None:
    assert parse_data_uri(uri, HERE) == place


@pytest.mark.parametrize("uri", ["s3://x/y", "https://example.org/a?sig=secret", "azureml:data:1", "", LONG.replace("name", "other")])
def test_other_uris_are_refused_without_their_secrets(uri: str) -> None:
    with pytest.raises(BadUsage) as caught:
        parse_data_uri(uri, HERE)
    assert "secret" not in str(caught.value)


def test_a_uri_is_a_folder_or_one_file_of_its_datastore(azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    azure.put_blobs(DEFAULT, {"data/a": b"1", "data/b/c": b"22", "data2/d": b"3", "data": b"4444"})
    container = azure.state.datastores[DEFAULT].container
    with connected(azure, project) as connection:
        stores = Datastores(connection)
        for uri in (f"azureml://datastores/{DEFAULT}/paths/data", f"https://{azure.state.storage.host}/{container}/data/"):
            assert [blob.name for blob in listed(stores.at_uri(uri, "output 'x'"))] == ["a", "b/c"]
        one = stores.at_uri(f"azureml://datastores/{DEFAULT}/paths/data/b/c", "output 'x'", is_file=True)
        assert ([blob.name for blob in listed(one)], b"".join(one.read("c")), one.stat("a")) == (["c"], b"22", None)


def test_a_container_that_is_no_datastore_is_not_found(azure_environment: StagedWorkspace, project: Path) -> None:
    with connected(azure_environment, project) as connection, pytest.raises(NotFound, match=r"No datastore .* container 'other'"):
        Datastores(connection).at_uri("https://acct.blob.core.windows.net/other/x", "output 'x'")


def record(**fields: str) -> DatastoreRecord:
    plain = {"name": "d", "type": "AzureBlob", "account": "acct", "container": "c", "endpoint": "", "protocol": "", "credentials": "None"}
    return DatastoreRecord(**{**plain, **fields})  # type: ignore[arg-type]


def test_datastore_url_uses_own_or_cloud_endpoint_with_tls() -> None:
    """Plain http is kept for an emulator on localhost alone."""
    assert record().url(US_GOVERNMENT) == "https://acct.blob.core.usgovcloudapi.net/c"
    assert record(endpoint="core.example.net", protocol="http").url(PUBLIC) == "https://acct.blob.core.example.net/c"
    assert record(endpoint="localhost:10000", protocol="http").url(PUBLIC) == "http://acct.blob.localhost:10000/c"


def test_container_uri_prefers_datastore_with_secret(azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    azure.add_datastore("a_without", credentials="None", container="shared")
    azure.add_datastore("with_secret", credentials="AccountKey", container="shared")
    azure.put_blob("with_secret", "x", b"1")
    azure.state.principal.rights.discard(Right.STORAGE_READ)
    with connected(azure, project) as connection:
        store = Datastores(connection).at_uri(f"https://{azure.state.storage.host}/shared/", "output 'x'")
        assert [blob.name for blob in listed(store)] == ["x"]


def test_a_list_of_datastores_that_does_not_end_is_an_error(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    page = '{"value": [], "nextLink": "https://management.azure.com/subscriptions/x/datastores?api-version=1"}'
    stage.faults.add(Page(page, content_type="application/json"), "management.azure.com.*/datastores", times=None)
    with connected(azure_environment, project) as connection, pytest.raises(ServiceFailed, match="does not end"):
        Datastores(connection).infos()


ODD = ["[]", '""', "{}", '{"value": [{}]}', '{"value": [[]]}', '{"value": 1}', '{"value": [{"name": "a", "properties": "b"}]}']


@pytest.mark.parametrize("answer", ODD)
@pytest.mark.parametrize(
    ("asked", "use_of"),
    [
        (r"GET .*/datastores\?", Datastores.infos),
        ("GET .*/datastores/workspaceblobstore", lambda datastores: listed(datastores.open("workspaceblobstore"))),
        ("POST .*/listSecrets", lambda datastores: listed(datastores.open("workspaceblobstore"))),
    ],
    ids=["the list", "one", "its secret"],
)
def test_malformed_datastore_response_raises_service_failed(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, asked: str, use_of: Callable[[Datastores], object], answer: str
) -> None:
    stage.faults.add(Page(answer, content_type="application/json"), asked, times=None)
    with connected(azure_environment, project) as connection, pytest.raises(ServiceFailed):
        use_of(Datastores(connection))
