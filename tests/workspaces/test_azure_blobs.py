"""Listing and naming in Azure Storage: nothing is lost, nothing is mistaken for something else, and the order is that of plain strings."""

from __future__ import annotations

import hashlib
import socket
import time
from pathlib import Path

import pytest

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import BadUsage, ServiceFailed
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.workspaces.azure.storage.blob_upload import BLOCK
from himl_cli.workspaces.azure.storage.container import AzureBlobs
from himl_cli.workspaces.azure.storage.curl import CurlPool
from himl_cli.workspaces.azure.storage.signing import SasSigner
from himl_cli.workspaces.retry import RetryPolicy
from tests.servers.azureml.faults import SmallPages, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, hasty_store, storage_that_lists
from tests.support.folders import contents
from tests.support.running import until
from tests.support.stores import Received, Stored, listed, named, sending

ODD_NAMES = [
    "a",
    "a/b",
    "a b/ c ",
    "100%",
    "%41",
    "a%2Fb",
    "q?x=1&y",
    "h#ash",
    "plus+plus",
    "ümlaut/größe",
    "日本/語",
    "\U0001f600/smile",
    "\uff08wide",
    "Case",
    "case",
    "~tilde;=@$,!'()*",
    'quo"te',
    "x" * 1024,
]
MINUTES = RetryPolicy(attempts=50)
"""All of these tries take that long, three of them less than a second."""


def test_odd_names_are_stored_listed_described_read_and_fetched(azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    bodies = {name: f"{place}".encode() * place for place, name in enumerate(ODD_NAMES)}
    store, stored, sink = hasty_store(azure_environment), Stored(), Received()
    store.store([sending(tmp_path / str(len(body)), name, body) for name, body in bodies.items()], stored, workers=4)
    blobs = listed(store)
    store.fetch([FetchRequest(blob, 0, blob.size) for blob in blobs], sink, workers=4)
    assert [blob.name for blob in blobs] == sorted(bodies)
    assert stored.blobs == {blob.name: blob for blob in blobs}
    assert [store.stat(blob.name) for blob in blobs] == blobs
    assert {name: sink.bodies.get((name, 0), b"") for name in bodies} == bodies
    assert {name: b"".join(store.read(name)) for name in bodies} == bodies
    assert {name: azure_environment.get_blob(DEFAULT, name) for name in bodies} == bodies


def test_download_refuses_path_traversal_names(tmp_path: Path) -> None:
    """What a service sends is untrusted."""
    climbing = ["../evil", "..", "a/../../evil", "/evil", "/tmp/evil", "a//b", "good/./x", "./x", "good/../x"]
    with storage_that_lists([*climbing, "good/file"], b"x") as store:
        assert {blob.name for blob in listed(store)} == {*climbing, "good/file"}
        result = download(store, DownloadRequest(tmp_path / "in" / "out"))
    assert sorted(one.name for one in result.refused) == sorted(climbing)
    assert (result.files, result.failed) == (1, ())
    assert names_below(tmp_path) == ["in/out/good/file"]


def test_download_refuses_blob_that_is_also_a_folder(azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    azure_environment.put_blobs(DEFAULT, dict.fromkeys(["same", "same/below", "Case", "case"], b"x"))
    result = download(hasty_store(azure_environment), DownloadRequest(tmp_path / "out"))
    assert [one.name for one in result.refused][:1] == ["same"]
    there = {*names_below(tmp_path)}
    named_or_kept = {one.removeprefix("out/") for one in there} | {one.name for one in result.refused}
    assert named_or_kept == {"same", "same/below", "Case", "case"}
    assert len(there) + len(result.refused) == 4


def test_odd_names_arrive_on_the_disk_or_are_refused_by_name(azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    azure_environment.put_blobs(DEFAULT, {name: name[:9].encode() for name in ODD_NAMES})
    result = download(hasty_store(azure_environment), DownloadRequest(tmp_path / "out"))
    refused = {one.name for one in result.refused}
    there = contents(tmp_path / "out")
    assert {name: there.get(name) for name in ODD_NAMES if name not in refused} == {name: name[:9].encode() for name in ODD_NAMES if name not in refused}
    assert refused >= {"a", "x" * 1024}
    assert result.failed == ()


def names_below(folder: Path) -> list[str]:
    """All but what lies in the home folder."""
    return sorted(name for name in contents(folder) if not name.startswith("home/"))


def test_a_listing_of_many_pages_is_whole_and_asked_a_page_ahead(stage: Stage, azure_environment: StagedWorkspace) -> None:
    names = sorted(f"many/{number:03}" for number in range(25))
    azure_environment.put_blobs(DEFAULT, {**dict.fromkeys(names, b""), "other": b""})
    stage.faults.add(SmallPages(4), "comp=list", times=None)
    store = hasty_store(azure_environment)
    assert [blob.name for blob in listed(store, "many/")] == names
    assert len(stage.log.find("comp=list")) == 7


def test_while_a_page_is_worked_on_the_next_one_is_on_its_way(stage: Stage, azure_environment: StagedWorkspace) -> None:
    names = sorted(f"many/{number:04}" for number in range(1100))
    azure_environment.put_blobs(DEFAULT, dict.fromkeys(names, b""))
    stage.faults.add(SmallPages(1000), "comp=list", times=None)
    pages = hasty_store(azure_environment).list("many/")
    assert len(next(pages)) == 1000
    until(lambda: len(stage.log.find("comp=list")) == 2)
    assert [blob.name for page in pages for blob in page] == names[1000:]


def test_a_listing_that_does_not_end_is_an_error() -> None:
    with storage_that_lists(["a"], b"x", marker="again") as store, pytest.raises(ServiceFailed, match="does not end"):
        listed(store)


def test_failed_listing_page_is_retried_and_fails_if_it_persists(stage: Stage, azure_environment: StagedWorkspace) -> None:
    azure_environment.put_blobs(DEFAULT, {f"{number}": b"" for number in range(9)})
    stage.faults.add(SmallPages(4), "comp=list", times=None)
    stage.faults.add(Status(503), "comp=list.*marker=", times=2)
    store = hasty_store(azure_environment)
    assert len(listed(store)) == 9
    stage.faults.add(Status(503), "comp=list.*marker=", times=None)
    with pytest.raises(ServiceFailed, match="too busy"):
        listed(store)


def test_a_request_for_no_bytes_ends_well_wherever_it_begins(azure_environment: StagedWorkspace) -> None:
    azure_environment.put_blobs(DEFAULT, {"empty": b"", "full": b"12345"})
    store, sink = hasty_store(azure_environment), Received()
    empty, full = named(store, "empty"), named(store, "full")
    store.fetch([FetchRequest(empty, 0, 0), FetchRequest(full, 5, 0), FetchRequest(full, 0, 0), FetchRequest(full, 4, 1)], sink, workers=2)
    assert (sink.bodies, sink.errors, len(sink.md5s)) == ({("full", 4): b"5"}, {}, 4)


def test_directory_markers_are_no_files(azure_environment: StagedWorkspace) -> None:
    azure_environment.put_blob(DEFAULT, "folder", b"", metadata={"hdi_isfolder": "true"})
    azure_environment.put_blob(DEFAULT, "folder/file", b"1")
    store = hasty_store(azure_environment)
    assert [blob.name for blob in listed(store)] == ["folder/file"]
    assert store.stat("folder") is None


def test_a_root_is_a_folder_whose_names_are_seen_without_it(azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    azure_environment.put_blobs(DEFAULT, {"dcid.a_1/x": b"1", "dcid.a_10/x": b"2"})
    store, sink = hasty_store(azure_environment, root="dcid.a_1/"), Stored()
    store.store([sending(tmp_path / "1", "y", b"3")], sink, workers=1)
    assert [blob.name for blob in listed(store)] == ["x", "y"]
    assert (b"".join(store.read("x")), azure_environment.get_blob(DEFAULT, "dcid.a_1/y")) == (b"1", b"3")


def test_a_blob_without_md5_says_so(azure_environment: StagedWorkspace) -> None:
    azure_environment.put_blob(DEFAULT, "a", b"1", md5=False)
    store = hasty_store(azure_environment)
    blob, sink = named(store, "a"), Received()
    store.fetch([FetchRequest(blob, 0, 1)], sink, workers=1)
    assert (blob.md5, store.md5(blob)) == (None, None)
    assert sink.md5s[("a", 0)] in (None, hashlib.md5(b"1").digest())  # some services make one up for the answer


def test_upload_stores_md5_and_media_type(stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    """Every upload request carries an MD5 of its own."""
    body = hashlib.shake_128(b"seed").digest(20 << 20)
    sink = Stored()
    hasty_store(azure_environment).store([sending(tmp_path / "1", "m/log.txt", body), sending(tmp_path / "2", "m/small.json", b"{}")], sink, workers=4)
    container = azure_environment.state.datastores[DEFAULT].container
    large, small = (azure_environment.state.storage.properties(container, name) for name in ("m/log.txt", "m/small.json"))
    assert large is not None
    assert small is not None
    assert bytes(large.content_settings.content_md5 or b"") == hashlib.md5(body).digest()
    assert (large.content_settings.content_type, small.content_settings.content_type) == ("text/plain", "application/json")
    puts = stage.log.find(r"PUT .*/m/")
    assert len(puts) == -(-len(body) // BLOCK) + 2
    assert all("content-md5" in seen.headers for seen in puts)
    assert not any("expect" in seen.headers for seen in puts)


def test_a_wrong_bundle_of_authorities_is_named(azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(BadUsage, match=r"REQUESTS_CA_BUNDLE names '/nowhere/ca.pem'"):
        listed(hasty_store(azure_environment))


def test_untrusted_certificate_fails_with_ca_bundle_hint(azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ServiceFailed, match="is not trusted") as caught:
        listed(hasty_store(azure_environment))
    assert "REQUESTS_CA_BUNDLE" in caught.value.hint


def test_unreachable_proxy_error_hides_its_password(azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://user:hidden@127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(ServiceFailed) as caught:
        listed(hasty_store(azure_environment, retries=MINUTES))
    assert str(caught.value) == f"The proxy 127.0.0.1:9 did not connect to {azure_environment.state.storage.host}."  # as a resource manager out of reach
    assert time.monotonic() - started < 60
    assert "HTTPS_PROXY" in caught.value.hint
    assert "hidden" not in str(caught.value)


def test_unresponsive_proxy_fails_after_three_logged_tries(
    azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = azure_environment.state.storage
    url = f"https://{storage.host}/{azure_environment.state.default_datastore.container}"
    store = AzureBlobs(url, SasSigner("sig=x"), pool=CurlPool(connect=0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ServiceFailed) as caught:
            listed(store)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING" and record.name.startswith("himl_cli")]
    assert said == [f"{str(caught.value).removesuffix('.')}; trying again"] * 2
    assert f"did not connect to {storage.host}" in str(caught.value)


def test_storage_that_refuses_connections_is_told_so_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ServiceFailed, match=r"^127\.0\.0\.1 refuses connections\.$"):
        listed(AzureBlobs(f"http://127.0.0.1:{port}/account/container", SasSigner("sig=x"), policy=MINUTES))
    assert time.monotonic() - started < 60
