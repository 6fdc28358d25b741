"""Tests of datastores and the access to their storage: signatures and tokens, their renewal, and the messages of
refusals.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import BadUsage, HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.workspaces.azure.config import PUBLIC, US_GOVERNMENT, WorkspaceAddress
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.azure.storage.datastores import DataLocation, Datastores, parse_data_uri
from himl_cli.workspaces.azure.storage.signing import Signature, Signer, is_narrow, sas_expiry
from himl_cli.workspaces.transfer_engine.curl import CurlRequest
from himl_cli.workspaces.transfer_engine.scheduler import Signed
from tests.azureml_double.faults import ExpireSas, Latency, Meanwhile, Page, Status, WrongDate
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Right
from tests.support.azure import DEFAULT, connected, hasty_store, opened, use
from tests.support.folders import files_with
from tests.support.stores import Received, Stored, listed, sending

FILES = {f"f/{number:02}": bytes([number]) * 1000 for number in range(12)}
SECRETS = r"POST .*/listSecrets\?api-version=2025-12-01"
pytestmark = pytest.mark.usefixtures("azure_environment")


def fetched(azure: StagedWorkspace, folder: Path, name: str, *, workers: int = 4) -> Received:
    """Download all blobs of the datastore *name*."""
    sink = Received()
    with opened(azure, folder) as workspace:
        store = workspace.datastore(name)
        store.fetch([FetchRequest(blob, 0, blob.size) for blob in listed(store)], sink, workers=workers)
    return sink


def is_complete(sink: Received) -> bool:
    return not sink.errors and {name: body for (name, _), body in sink.bodies.items()} == FILES


@pytest.mark.large("takes long, and other tests run its branches")
def test_cache_keeps_datastore_signature_but_not_account_key(
    stage: Stage, azure: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    azure.put_blobs(DEFAULT, FILES)
    assert is_complete(fetched(azure, project, DEFAULT))
    found = [re.findall(r"spr=([^&]+)", seen.query) for seen in stage.log.find(r"GET .*\bsig=")]
    assert (len(found) >= len(FILES), {tuple(each) for each in found}) == (True, {("https",)})
    stage.log.clear()
    assert is_complete(fetched(azure, project, DEFAULT))
    # himl requests the datastore's record each time, because it may change.
    assert [seen.method for seen in stage.log.find("management.azure.com")] == ["GET"]
    kept = files_with(tmp_path / "home", "sig=")
    assert kept
    assert files_with(tmp_path / "home", azure.state.storage.key) == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)


def test_a_sas_of_the_account_or_with_deletion_stays_in_memory(
    stage: Stage, azure: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    azure.put_blobs(DEFAULT, FILES)
    azure.add_datastore("deletes", credentials="Sas", sas_permissions="rwdl")
    azure.put_blobs("deletes", FILES)
    azure.state.secrets = "sas"
    for name in (DEFAULT, "deletes"):
        stage.log.clear()
        for _ in range(2):
            assert is_complete(fetched(azure, project, name))
        assert len(stage.log.find(SECRETS)) == 2, "one for each command"
        assert files_with(tmp_path / "home", "sig=") == []
    azure.state.secrets = ""
    stage.faults.add(Status(400, code="UserError"), SECRETS)  # the service gives no key
    stage.log.clear()
    assert is_complete(fetched(azure, project, DEFAULT))
    assert len(stage.log.find(SECRETS)) == 2, "one for a key, one for a SAS in its place"
    assert files_with(tmp_path / "home", "sig=") == []
    cases = {
        "sr=c&sp=rcwl&sig=x": True,
        "?sr=c&sp=rl&sig=x": True,
        "sr=c&sp=rwdl&sig=x": False,
        "ss=bf&srt=co&sp=rl&sig=x": False,
        "": False,
    }
    assert {sas: is_narrow(sas) for sas in cases} == cases, "himl does not use what an earlier version cached either"


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_sas_that_ends_during_a_transfer_is_renewed(stage: Stage, azure: StagedWorkspace, project: Path) -> None:
    azure.add_datastore("signed", credentials="Sas", sas_permissions="rl", sas_seconds=2)
    azure.put_blobs("signed", FILES)
    stage.faults.add(Meanwhile(lambda: setattr(azure.state.datastores["signed"], "sas_seconds", 3600)), SECRETS)
    stage.faults.add(Latency(0.4), "GET .*/f/", times=None)
    assert is_complete(fetched(azure, project, "signed", workers=2))
    assert len(stage.log.find(SECRETS)) >= 2


@pytest.mark.large("takes long, and other tests run its branches")
def test_refused_signature_is_renewed_once_without_errors(stage: Stage, azure: StagedWorkspace, project: Path) -> None:
    for credentials in ("AccountKey", "Sas"):
        azure.add_datastore(credentials, credentials=credentials, sas_permissions="rl")
        azure.put_blobs(credentials, FILES)
        stage.log.clear()
        stage.faults.add(ExpireSas(), "GET .*/f/", skip=3)
        assert is_complete(fetched(azure, project, credentials, workers=1))
        assert len(stage.log.find(SECRETS)) == 2


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(
    ("credentials", "what", "way_out"),
    [
        ("AccountKey", "a signature by the account's key", "outdated"),
        ("Sas", "the datastore's SAS token", "revoked"),
        ("None", "your own sign-in", "tenant"),
    ],
)
def test_permanently_refused_signature_fails_after_few_renewals(
    stage: Stage, azure: StagedWorkspace, project: Path, credentials: str, what: str, way_out: str
) -> None:
    account = azure.state.storage.account
    azure.add_datastore("signed", credentials=credentials, sas_permissions="rl")
    azure.put_blobs("signed", FILES)
    stage.faults.add(ExpireSas(), "GET .*/f/", times=None)
    sink = fetched(azure, project, "signed")
    assert {type(error) for error in sink.errors.values()} == {NotAllowed}
    assert len(sink.errors) == len(FILES)
    told = {str(error) for error in sink.errors.values()}
    assert told == {f"Storage account '{account}' refuses {what}, even after its renewal (AuthenticationFailed)."}
    assert all(way_out in error.hint for error in sink.errors.values())
    assert len(stage.log.find(SECRETS)) <= 3


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_signature_that_is_refused_during_an_upload_is_renewed(
    stage: Stage, azure: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    large = bytes(9 << 20)
    for number, request_of in enumerate(("up/small", "comp=block&", "comp=blocklist&")):
        stage.log.clear()
        stage.faults.add(ExpireSas(), f"PUT .*({request_of})")
        sink = Stored()
        requests = [sending(tmp_path / "1", "up/small", b"1"), sending(tmp_path / "2", f"up/large{number}", large)]
        with opened(azure, project) as workspace:
            workspace.datastore().store(requests, sink, workers=1)
        assert (sink.errors, sink.sent) == ({}, 1 + len(large))
        assert azure.get_blob(DEFAULT, f"up/large{number}") == large
        assert len(stage.log.find(SECRETS)) == (2 if number == 0 else 1), (
            "the one got at first is kept, the new one too"
        )


def test_a_token_that_is_refused_during_a_transfer_is_renewed(
    stage: Stage, azure: StagedWorkspace, project: Path
) -> None:
    azure.add_datastore("own", credentials="None")
    azure.put_blobs("own", FILES)
    sink = Received()
    with opened(azure, project) as workspace:
        store = workspace.datastore("own")
        blobs = listed(store)
        time.sleep(0.01)
        azure.state.principal.revoked_before = time.time()
        store.fetch([FetchRequest(blob, 0, blob.size) for blob in blobs], sink, workers=4)
    assert is_complete(sink)
    assert stage.log.find("GET .*/f/")[0].status == 401
    assert not stage.log.find(SECRETS)


@pytest.mark.large("takes long, and other tests run its branches")
def test_own_sign_in_is_used_without_secrets_or_keys(
    azure: StagedWorkspace, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.put_blobs(DEFAULT, FILES)
    for takes_keys in (False, True):
        azure.state.storage.takes_keys = takes_keys
        if takes_keys:
            use(azure, monkeypatch, {Right.READ, Right.STORAGE_READ})
        assert is_complete(fetched(azure, project, DEFAULT))
        sink = Stored()
        with opened(azure, project) as workspace:
            workspace.datastore().store([sending(tmp_path / "1", "f/00", FILES["f/00"])], sink, workers=1)
        assert ["Storage Blob Data Contributor" in error.hint for error in sink.errors.values()] == [True] * takes_keys


def complaint(azure: StagedWorkspace, folder: Path, name: str = DEFAULT) -> HimlError:
    with opened(azure, folder) as workspace, pytest.raises(NotAllowed) as caught:
        listed(workspace.datastore(name))
    return caught.value


def test_a_refusal_of_storage_is_named(
    stage: Stage, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.put_artifacts(azure.add_run("run_1", "demo"), {"outputs/a": b"1"})
    azure.state.storage.is_open = False
    error = complaint(azure, project)
    assert "firewall" in str(error)
    assert "anew" not in str(error)
    with opened(azure, project) as workspace, pytest.raises(NotAllowed, match="firewall"):
        listed(workspace.run_files("run_1"))
    azure.state.storage.is_open = True
    stage.faults.add(WrongDate(-7200), "comp=list", times=None)
    stage.faults.add(ExpireSas(), "comp=list", times=None)
    assert "clock is 2 hours ahead of" in str(complaint(azure, project))
    stage.faults.only(Status(429, retry_after=3600), SECRETS, times=None)
    monkeypatch.setenv("HIML_NO_CACHE", "1")
    # A busy resource manager does not count as a refusal.
    with opened(azure, project) as workspace, pytest.raises(ServiceFailed):
        listed(workspace.datastore())
    for fault, why in ((ExpireSas(), "expired"), (Status(403, code="AuthenticationFailed"), "not valid")):
        stage.faults.only(fault, "comp=list", times=None)
        with pytest.raises(NotAllowed, match=f"reports that the SAS token is {why}\\."):
            listed(hasty_store(azure))
    stage.faults.clear()
    use(azure, monkeypatch, {Right.READ})
    error = complaint(azure, project)
    assert "Storage Blob Data Reader" in error.hint
    assert "your own sign-in" in str(error)


def test_signature_is_renewed_before_its_end_and_hides_itself() -> None:
    ends = time.time() + 3600
    made = Signature.of_sas(f"?sv=1&se={time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(ends))}&sig=x")
    assert made.query.startswith("sv=1")
    assert abs(made.expires - ends) <= 1
    assert 250 < made.expires - made.renew_at <= 300
    assert not made.is_due
    signature = Signature(query="sig=hidden", headers=("Authorization: Bearer hidden",))
    signed = Signed("https://host/a?sig=hidden", signature.headers, signature)
    exchange = CurlRequest(signed.url, [*signed.headers], "PUT", b"hidden")
    assert "hidden" not in f"{signature!r} {signed!r} {exchange!r}"
    midnight = ["2030-01-01T00:00:00Z", "2030-01-01T00%3A00Z", "2030-01-01"]
    ten = [
        "2030-01-01T10%3A00%3A00.0000000Z",
        "2030-01-01T12:00:00+02:00",
        "2030-01-01T12:00:00%2B02:00",
        "2030-01-01T10:00:00",
    ]
    moments = dict.fromkeys(midnight, 1893456000.0) | dict.fromkeys(ten, 1893492000.0) | {"": 0, "nonsense": 0}
    assert {text: sas_expiry(f"?sv=1&se={text}&sig=x") for text in moments} == moments


def test_fresh_signature_refused_at_once_is_not_renewed_again() -> None:
    class Counting(Signer):
        made = 0

        def _make(self, refused: Signature | None, code: str) -> Signature:
            self.made += 1
            return Signature.of_sas(f"sig={self.made}")

    signer = Counting()
    first = signer.current()
    assert signer.renewed(first, "AuthenticationFailed")
    # A refusal of another request, for which a newer signature exists already.
    assert signer.renewed(first, "AuthenticationFailed")
    assert not signer.renewed(signer.current(), "AuthenticationFailed")
    signer.is_unproven = False  # the service accepted the signature
    assert signer.renewed(signer.current(), "AuthenticationFailed")
    assert signer.current().query == "sig=3"


def test_reregistered_datastore_is_read_from_new_container(azure: StagedWorkspace, project: Path) -> None:
    azure.add_datastore("data", container="first-place")
    azure.put_blob("data", "old", b"1")
    with opened(azure, project) as workspace:
        assert [blob.name for blob in listed(workspace.datastore("data"))] == ["old"]
        azure.add_datastore("data", container="second-place")
        azure.put_blob("data", "new", b"2")
        assert [blob.name for blob in listed(workspace.datastore("data"))] == ["new"]


def test_expired_datastore_sas_fails_with_its_end_time(stage: Stage, azure: StagedWorkspace, project: Path) -> None:
    azure.add_datastore("old", credentials="Sas", sas_seconds=-100)
    ended = datetime.fromtimestamp(time.time() - 100, timezone.utc)
    for _ in range(2):
        error = complaint(azure, project, "old")
        assert re.fullmatch(rf"The SAS of datastore 'old' expired on {ended:%Y-%m-%d} at \d\d:\d\d UTC\.", str(error))
        assert "Ask its owner to renew it" in error.hint
        assert error.exit_code == 4
    assert not stage.log.find(azure.state.storage.host)


def test_an_ended_sas_is_not_asked_about_for_each_file(stage: Stage, azure: StagedWorkspace, project: Path) -> None:
    signed = azure.add_datastore("signed", credentials="Sas", sas_permissions="rl")
    azure.put_blobs("signed", FILES)
    for seconds in (2, 40):  # 40 seconds for a machine that is too slow for 2
        stage.log.clear()
        sink, signed.sas_seconds = Received(), seconds
        with opened(azure, project) as workspace:
            store = workspace.datastore("signed")
            blobs = listed(store)
            is_listed_in_time = len(stage.log.find(SECRETS)) == 1
            signed.sas_seconds = -100  # not renewed
            time.sleep(seconds / 2 + 0.1)
            store.fetch([FetchRequest(blob, 0, blob.size) for blob in blobs], sink, workers=1)
        if is_listed_in_time:
            break
    assert len(sink.errors) == len(FILES)
    assert all("The SAS of datastore 'signed' expired on" in str(error) for error in sink.errors.values())
    assert len(stage.log.find(SECRETS)) == 2


ADDRESS = WorkspaceAddress("sub", "group", "name", PUBLIC, "a test")
LONG = "azureml://subscriptions/SUB/resourcegroups/Group/workspaces/name/datastores/d/paths/a/b/"


def test_all_datastores_are_listed_the_default_one_first(stage: Stage, azure: StagedWorkspace, project: Path) -> None:
    azure.state.page_size = 2
    with connected(azure, project) as connection:
        infos = Datastores(connection).infos()
    names = [info.name for info in infos]
    assert names[0] == DEFAULT
    assert names[1:] == sorted(name for name in azure.state.datastores if name != DEFAULT)
    assert [info.is_default for info in infos] == [True] + [False] * (len(names) - 1)
    assert infos[0].location == f"https://{azure.state.storage.host}/{azure.state.datastores[DEFAULT].container}"
    assert {info.kind for info in infos} == {"blob", "file share"}


def test_what_cannot_be_a_datastore_is_refused(stage: Stage, azure: StagedWorkspace, project: Path) -> None:
    for name in ("..", "", "a/b"):
        with connected(azure, project) as connection, pytest.raises(NotFound, match="No datastore"):
            Datastores(connection).open(name)
    assert all(seen.path.endswith("/datastores") for seen in stage.log.find("GET management.azure.com"))
    kinds = {
        "AzureFile": ("a file share", "azcopy"),
        "AzureDataLakeGen1": ("Azure Data Lake Gen1", "Gen2"),
        "OneLake": ("OneLake", "azcopy"),
    }
    for kind, (called, way_out) in kinds.items():
        azure.add_datastore(kind, kind=kind)
        with connected(azure, project) as connection, pytest.raises(BadUsage) as caught:
            Datastores(connection).open(kind)
        assert str(caught.value).startswith(f"The datastore '{kind}' is {called}, which himl cannot read")
        assert way_out in caught.value.hint


def test_each_datastore_kind_and_credential_reads_and_writes(
    azure: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    for number, (kind, credentials) in enumerate(
        (("AzureBlob", "AccountKey"), ("AzureBlob", "Sas"), ("AzureDataLakeGen2", "None"))
    ):
        name = f"data{number}"
        azure.add_datastore(
            name, kind=kind, credentials=credentials, sas_permissions="rcwl", account=azure.state.second_storage
        )
        azure.put_blob(name, "a", b"1")
        sink = Stored()
        with connected(azure, project) as connection:
            store = Datastores(connection).open(name)
            assert b"".join(store.read("a")) == b"1"
            store.store([sending(tmp_path / "1", "b", b"22")], sink, workers=1)
            assert [(blob.name, blob.size) for blob in listed(store)] == [("a", 1), ("b", 2)]
        assert sink.errors == {}


@pytest.mark.large("takes long, and other tests run its branches")
def test_container_or_account_that_is_not_there_is_named(stage: Stage, azure: StagedWorkspace, project: Path) -> None:
    azure.add_datastore("gone", container="gone-container")
    azure.state.storage.client.delete_container("gone-container")
    azure.state.datastores[DEFAULT].storage = type(azure.state.storage)(
        "nosuchaccount", azure.state.storage.key, azure.state.storage.azurite
    )
    stage.log.expect_unknown(r"nosuchaccount\.blob")
    with connected(azure, project) as connection:
        with pytest.raises(NotFound, match="no container 'gone-container'"):
            listed(Datastores(connection).open("gone"))
        with pytest.raises(ServiceFailed, match=r"nosuchaccount\.blob\.core\.windows\.net"):
            listed(Datastores(connection).open(DEFAULT))


def test_uris_of_data_and_datastores_are_understood() -> None:
    places = {
        "azureml://datastores/d/paths/a/b/": DataLocation("a/b/", datastore="d"),
        "azureml://datastores/d": DataLocation("", datastore="d"),
        "azureml://datastores/d/ExperimentRun/dcid.x": DataLocation("ExperimentRun/dcid.x", datastore="d"),
        "azureml://datastores/d/paths/paths/a b": DataLocation("paths/a b", datastore="d"),
        LONG: DataLocation("a/b/", datastore="d"),
        "https://acct.blob.core.windows.net/c/a%20b/": DataLocation("a b/", account="acct", container="c"),
        "wasbs://c@acct.blob.core.windows.net/a": DataLocation("a", account="acct", container="c"),
        "abfss://c@acct.dfs.core.windows.net/a": DataLocation("a", account="acct", container="c"),
    }
    assert {uri: parse_data_uri(uri, ADDRESS) for uri in places} == places
    for uri in ("s3://x/y", "https://example.org/a?sig=secret", "azureml:data:1", "", LONG.replace("name", "other")):
        with pytest.raises(BadUsage) as caught:
            parse_data_uri(uri, ADDRESS)
        assert "secret" not in str(caught.value)
    assert record().url(US_GOVERNMENT) == "https://acct.blob.core.usgovcloudapi.net/c"
    assert record(endpoint="core.example.net", protocol="http").url(PUBLIC) == "https://acct.blob.core.example.net/c"
    assert record(endpoint="localhost:10000", protocol="http").url(PUBLIC) == "http://acct.blob.localhost:10000/c"


def test_uris_are_opened_as_folders_or_files_of_datastores(azure: StagedWorkspace, project: Path) -> None:
    azure.add_datastore("a_without", credentials="None", container="shared")
    azure.add_datastore("with_secret", credentials="AccountKey", container="shared")
    azure.put_blob("with_secret", "x", b"1")
    azure.state.principal.rights.discard(Right.STORAGE_READ)
    with connected(azure, project) as connection:
        store = Datastores(connection).at_uri(f"https://{azure.state.storage.host}/shared/", "output 'x'")
        assert [blob.name for blob in listed(store)] == ["x"], "that with a secret is taken"
        with pytest.raises(NotFound, match=r"no datastore for container 'other'"):
            Datastores(connection).at_uri("https://acct.blob.core.windows.net/other/x", "output 'x'")
    azure.put_blobs(DEFAULT, {"data/a": b"1", "data/b/c": b"22", "data2/d": b"3", "data": b"4444"})
    container = azure.state.datastores[DEFAULT].container
    with connected(azure, project) as connection:
        stores = Datastores(connection)
        for uri in (
            f"azureml://datastores/{DEFAULT}/paths/data",
            f"https://{azure.state.storage.host}/{container}/data/",
        ):
            assert [blob.name for blob in listed(stores.at_uri(uri, "output 'x'"))] == ["a", "b/c"]
        one = stores.at_uri(f"azureml://datastores/{DEFAULT}/paths/data/b/c", "output 'x'", is_file=True)
        assert ([blob.name for blob in listed(one)], b"".join(one.read("c")), one.stat("a")) == (["c"], b"22", None)


def record(**fields: str) -> DatastoreRecord:
    plain = {
        "name": "d",
        "type": "AzureBlob",
        "account": "acct",
        "container": "c",
        "endpoint": "",
        "protocol": "",
        "credentials": "None",
    }
    return DatastoreRecord(**{**plain, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_of", "use_of"),
    [
        (r"GET .*/datastores\?", Datastores.infos),
        ("GET .*/datastores/workspaceblobstore", lambda datastores: listed(datastores.open("workspaceblobstore"))),
        ("POST .*/listSecrets", lambda datastores: listed(datastores.open("workspaceblobstore"))),
    ],
    ids=["the list", "one", "its secret"],
)
def test_malformed_datastore_response_raises_service_failed(
    stage: Stage, azure: StagedWorkspace, project: Path, request_of: str, use_of: Callable[[Datastores], object]
) -> None:
    endless = '{"value": [], "nextLink": "https://management.azure.com/subscriptions/x/datastores?api-version=1"}'
    odd = [
        "[]",
        "{}",
        '{"value": [{}]}',
        '{"value": [[]]}',
        '{"value": 1}',
        '{"value": [{"name": "a", "properties": "b"}]}',
        endless,
    ]
    for answer in odd:
        stage.faults.only(Page(answer, content_type="application/json"), request_of, times=None)
        with connected(azure, project) as connection, pytest.raises(ServiceFailed) as caught:
            use_of(Datastores(connection))
        assert "does not end" in str(caught.value) or answer != endless or use_of is not Datastores.infos
