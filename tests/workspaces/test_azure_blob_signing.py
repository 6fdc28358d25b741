"""Signatures and tokens of storage: got once, renewed while a transfer goes on, replaced by the user's own sign-in where there is no other way."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import HimlError, NotAllowed, ServiceFailed
from himl_cli.workspaces.azure.storage.curl import CurlRequest
from himl_cli.workspaces.azure.storage.signing import Signature, Signed, Signer, sas_expiry
from tests.servers.azureml.faults import ExpireSas, Latency, Meanwhile, Status, WrongDate
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, opened, use
from tests.support.folders import files_with
from tests.support.stores import Received, Stored, listed, sending

FILES = {f"f/{number:02}": bytes([number]) * 1000 for number in range(12)}
SECRETS = r"POST .*/listSecrets\?api-version=2025-12-01"


def fetched(azure: StagedWorkspace, folder: Path, name: str, *, workers: int = 4) -> Received:
    """All blobs of the datastore *name*, as they arrive."""
    sink = Received()
    with opened(azure, folder) as workspace:
        store = workspace.datastore(name)
        store.fetch([FetchRequest(blob, 0, blob.size) for blob in listed(store)], sink, workers=workers)
    return sink


def is_complete(sink: Received) -> bool:
    return not sink.errors and {name: body for (name, _), body in sink.bodies.items()} == FILES


def test_cache_keeps_datastore_signature_but_not_account_key(stage: Stage, azure_environment: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    azure = azure_environment
    azure.put_blobs(DEFAULT, FILES)
    assert is_complete(fetched(azure, project, DEFAULT))
    stage.log.clear()
    assert is_complete(fetched(azure, project, DEFAULT))
    assert [seen.method for seen in stage.log.find("management.azure.com")] == ["GET"]  # what the datastore is, for that may change
    kept = files_with(tmp_path / "home", "sig=")
    assert kept
    assert files_with(tmp_path / "home", azure.state.storage.key) == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)


def test_a_sas_that_ends_during_a_transfer_is_renewed(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    azure.add_datastore("signed", credentials="Sas", sas_permissions="rl", sas_seconds=3)
    azure.put_blobs("signed", FILES)
    stage.faults.add(Meanwhile(lambda: setattr(azure.state.datastores["signed"], "sas_seconds", 3600)), SECRETS)
    stage.faults.add(Latency(0.8), "GET .*/f/", times=None)
    assert is_complete(fetched(azure, project, "signed", workers=2))
    assert len(stage.log.find(SECRETS)) >= 2


@pytest.mark.parametrize("credentials", ["AccountKey", "Sas"])
def test_refused_signature_is_renewed_once_without_errors(stage: Stage, azure_environment: StagedWorkspace, project: Path, credentials: str) -> None:
    azure = azure_environment
    azure.add_datastore("signed", credentials=credentials, sas_permissions="rl")
    azure.put_blobs("signed", FILES)
    stage.faults.add(ExpireSas(), "GET .*/f/", skip=3)
    assert is_complete(fetched(azure, project, "signed", workers=1))
    assert len(stage.log.find(SECRETS)) == 2


def test_permanently_refused_signature_fails_after_few_renewals(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    azure.put_blobs(DEFAULT, FILES)
    stage.faults.add(ExpireSas(), "GET .*/f/", times=None)
    sink = fetched(azure, project, DEFAULT)
    assert {type(error) for error in sink.errors.values()} == {NotAllowed}
    assert len(sink.errors) == len(FILES)
    told = {str(error) for error in sink.errors.values()}
    account = azure.state.storage.account
    assert told == {f"Storage account '{account}' refuses a signature by the account's key, also when it was got anew just now (AuthenticationFailed)."}
    assert len(stage.log.find(SECRETS)) <= 3


@pytest.mark.parametrize("request_of", ["up/small", "comp=block&", "comp=blocklist&"], ids=["a whole file", "a block", "the list of blocks"])
def test_a_signature_that_is_refused_during_an_upload_is_renewed(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, tmp_path: Path, request_of: str
) -> None:
    azure = azure_environment
    stage.faults.add(ExpireSas(), f"PUT .*({request_of})")
    sink = Stored()
    large = bytes(9 << 20)
    with opened(azure, project) as workspace:
        workspace.datastore().store([sending(tmp_path / "1", "up/small", b"1"), sending(tmp_path / "2", "up/large", large)], sink, workers=1)
    assert (sink.errors, sink.sent) == ({}, 1 + len(large))
    assert azure.get_blob(DEFAULT, "up/large") == large
    assert len(stage.log.find(SECRETS)) == 2


def test_a_token_that_is_refused_during_a_transfer_is_renewed(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
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


def test_a_datastore_of_a_service_principal_signs_in_as_that(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure = azure_environment
    other = azure.add_principal({Right.STORAGE_READ})
    azure.add_datastore("lake", kind="AzureDataLakeGen2", credentials="ServicePrincipal", service_principal=other)
    azure.put_blobs("lake", FILES)
    use(azure, monkeypatch, {Right.READ, Right.SECRETS})
    assert is_complete(fetched(azure, project, "lake"))


@pytest.mark.parametrize("rights", [{Right.READ, Right.STORAGE_READ}], ids=["no right to secrets"])
def test_without_the_right_to_secrets_the_own_sign_in_is_used(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, rights: set[Right]
) -> None:
    azure_environment.put_blobs(DEFAULT, FILES)
    use(azure_environment, monkeypatch, rights)
    assert is_complete(fetched(azure_environment, project, DEFAULT))


def test_account_without_key_access_is_read_with_user_sign_in(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.put_blobs(DEFAULT, FILES)
    azure_environment.state.storage.takes_keys = False
    assert is_complete(fetched(azure_environment, project, DEFAULT))


def complaint(azure: StagedWorkspace, folder: Path, name: str = DEFAULT) -> HimlError:
    with opened(azure, folder) as workspace, pytest.raises(NotAllowed) as caught:
        listed(workspace.datastore(name))
    return caught.value


def test_a_missing_right_to_the_data_names_the_role(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(azure_environment, monkeypatch, {Right.READ})
    error = complaint(azure_environment, project)
    assert "Storage Blob Data Reader" in error.hint
    assert "your own sign-in" in str(error)


def test_a_missing_right_to_write_names_the_role(azure_environment: StagedWorkspace, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(azure_environment, monkeypatch, {Right.READ, Right.STORAGE_READ})
    sink = Stored()
    with opened(azure_environment, project) as workspace:
        workspace.datastore().store([sending(tmp_path / "1", "x", b"x")], sink, workers=1)
    assert "Storage Blob Data Contributor" in sink.errors["x"].hint


def test_a_firewall_is_named(azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.state.storage.is_open = False
    assert "firewall" in str(complaint(azure_environment, project))


def test_a_clock_that_is_off_is_named_with_how_far(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    stage.faults.add(WrongDate(-7200), "comp=list", times=None)
    stage.faults.add(ExpireSas(), "comp=list", times=None)
    assert "clock is 2 hours ahead of" in str(complaint(azure_environment, project))


def test_no_signature_or_token_is_in_an_error_or_log(stage: Stage, azure_environment: StagedWorkspace, project: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    azure_environment.put_blobs(DEFAULT, {"a": b"1"})
    stage.faults.add(Status(403, code="AuthenticationFailed"), r"GET .*/a\?", times=None)
    sink = fetched(azure_environment, project, DEFAULT)
    said = caplog.text + "".join(f"{error} {error.hint}" for error in sink.errors.values())
    assert "AuthenticationFailed" in said
    assert "sig=" not in said.replace("sig=***", "")
    assert azure_environment.state.storage.key not in said
    assert azure_environment.state.principal.secret not in said


def test_a_sas_is_renewed_before_its_end() -> None:
    ends = time.time() + 3600
    made = Signature.of_sas(f"?sv=1&se={time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(ends))}&sig=x")
    assert made.query.startswith("sv=1")
    assert abs(made.expires - ends) <= 1
    assert 250 < made.expires - made.renew_at <= 300
    assert not made.is_due


@pytest.mark.parametrize(
    ("ends", "known"), [("2030-01-01T00:00:00Z", True), ("2030-01-01T00%3A00Z", True), ("2030-01-01", True), ("", False), ("nonsense", False)]
)
def test_the_end_of_a_sas_is_read_in_every_form_that_it_has(ends: str, known: bool) -> None:
    assert sas_expiry(f"sv=1&se={ends}") == (1893456000.0 if known else 0)


def test_fresh_signature_refused_at_once_is_not_renewed_again() -> None:
    class Counting(Signer):
        made = 0

        def _make(self, refused: Signature | None, code: str) -> Signature:
            self.made += 1
            return Signature.of_sas(f"sig={self.made}")

    signer = Counting()
    first = signer.current()
    assert signer.renewed(first, "AuthenticationFailed")
    assert signer.renewed(first, "AuthenticationFailed")  # somebody else's request: there is a newer one already
    assert not signer.renewed(signer.current(), "AuthenticationFailed")
    signer.worked()
    assert signer.renewed(signer.current(), "AuthenticationFailed")
    assert signer.current().query == "sig=3"


@pytest.mark.parametrize(
    "ends",
    [
        "2030-01-01T10:00:00Z",
        "2030-01-01T10%3A00%3A00.0000000Z",
        "2030-01-01T12:00:00+02:00",
        "2030-01-01T12:00:00%2B02:00",
        "2030-01-01T05:00-05:00",
        "2030-01-01T10:00:00",
    ],
)
def test_the_end_of_a_sas_is_one_moment_however_it_is_written(ends: str) -> None:
    assert sas_expiry(f"?sv=2023-11-03&se={ends}&sig=x") == 1893492000.0


def test_reregistered_datastore_is_read_from_new_container(azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    azure.add_datastore("data", container="first-place")
    azure.put_blob("data", "old", b"1")
    with opened(azure, project) as workspace:
        assert [blob.name for blob in listed(workspace.datastore("data"))] == ["old"]
        azure.add_datastore("data", container="second-place")
        azure.put_blob("data", "new", b"2")
        assert [blob.name for blob in listed(workspace.datastore("data"))] == ["new"]


def test_busy_resource_manager_is_not_a_permission_error(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    stage.faults.add(Status(429, retry_after=3600), SECRETS, times=None)
    with opened(azure_environment, project) as workspace, pytest.raises(ServiceFailed):
        listed(workspace.datastore())


def test_no_secret_is_in_what_python_shows_of_our_records() -> None:
    signature = Signature(query="sig=hidden", headers=("Authorization: Bearer hidden",))
    signed = Signed("https://host/a?sig=hidden", signature.headers, signature)
    exchange = CurlRequest(signed.url, [*signed.headers], "PUT", b"hidden")
    assert "hidden" not in f"{signature!r} {signed!r} {exchange!r}"


def test_expired_datastore_sas_fails_with_its_end_time(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    """It fails before any request to storage."""
    azure_environment.add_datastore("old", credentials="Sas", sas_seconds=-100)
    ended = datetime.fromtimestamp(time.time() - 100, timezone.utc)
    for _ in range(2):
        error = complaint(azure_environment, project, "old")
        assert re.fullmatch(rf"The SAS of datastore 'old' ended on {ended:%Y-%m-%d} at \d\d:\d\d UTC\.", str(error))
        assert "Ask its owner to renew it" in error.hint
        assert error.exit_code == 4
    assert not stage.log.find(azure_environment.state.storage.host)


def test_that_a_sas_is_over_is_not_asked_about_for_each_file(stage: Stage, azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    signed = azure.add_datastore("signed", credentials="Sas", sas_permissions="rl")
    azure.put_blobs("signed", FILES)
    for seconds in (4, 40):  # the second for a machine that is too slow for the first
        stage.log.clear()
        sink, signed.sas_seconds = Received(), seconds
        with opened(azure, project) as workspace:
            store = workspace.datastore("signed")
            blobs = listed(store)
            is_listed_in_time = len(stage.log.find(SECRETS)) == 1
            signed.sas_seconds = -100  # nobody renewed it
            time.sleep(seconds / 2 + 0.1)
            store.fetch([FetchRequest(blob, 0, blob.size) for blob in blobs], sink, workers=1)
        if is_listed_in_time:
            break
    assert len(sink.errors) == len(FILES)
    assert all("The SAS of datastore 'signed' ended on" in str(error) for error in sink.errors.values())
    assert len(stage.log.find(SECRETS)) == 2


@pytest.mark.parametrize(
    ("credentials", "what", "way_out"),
    [
        ("AccountKey", "a signature by the account's key", "out of date"),
        ("Sas", "the datastore's SAS token", "revoked"),
        ("None", "your own sign-in", "tenant"),
    ],
)
def test_credential_refused_after_renewal_fails_with_hint(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, credentials: str, what: str, way_out: str
) -> None:
    azure = azure_environment
    azure.add_datastore("signed", credentials=credentials)
    azure.put_blobs("signed", {"one": b"1"})
    stage.faults.add(ExpireSas(), "GET .*/one", times=2)
    [error] = fetched(azure, project, "signed").errors.values()
    assert f"refuses {what}, also when it was got anew just now" in str(error)
    assert way_out in error.hint


def test_a_closed_firewall_is_no_matter_of_signatures(azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.state.storage.is_open = False
    assert "anew" not in str(complaint(azure_environment, project))
