"""Listing and naming in Azure Storage: nothing is lost, nothing is mistaken for something else, and the order is that of plain strings."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.blobs import BlobInfo, FetchRequest
from himl_cli.core.errors import BadUsage, ServiceFailed
from himl_cli.core.events import Event, Planned
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.requests import DownloadRequest, UploadRequest
from himl_cli.services.transfer.upload import upload
from himl_cli.workspaces.azure.blobs.blocks import BLOCK, MOST_BLOCKS, Block, BlockReader, block_id, block_size
from himl_cli.workspaces.azure.blobs.listing import listed_page
from himl_cli.workspaces.azure.blobs.names import can_be_asked_for, quoted
from himl_cli.workspaces.azure.blobs.order import in_plain_order, out_of_folders
from himl_cli.workspaces.azure.blobs.room import Room
from tests.azure_blobs import DEFAULT, hasty_store, storage_that_lists
from tests.blob_sinks import Received, Stored, listed, named, sending
from tests.servers.azureml.faults import SmallPages, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage

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
NAMES = st.text(st.sampled_from("ab-./\uff08\U0001f600"), min_size=1, max_size=8)
PATHS = st.lists(st.lists(st.text(st.sampled_from("ab-.0"), min_size=1, max_size=3), min_size=1, max_size=4).map("/".join), max_size=40)


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


def test_names_that_climb_are_refused_by_name_and_the_rest_arrives(tmp_path: Path) -> None:
    """What a service sends is untrusted."""
    climbing = ["../evil", "..", "a/../../evil", "/evil", "/tmp/evil", "a//b", "good/./x", "./x", "good/../x"]
    with storage_that_lists([*climbing, "good/file"], b"x") as store:
        assert {blob.name for blob in listed(store)} == {*climbing, "good/file"}
        result = download(store, DownloadRequest(tmp_path / "in" / "out"))
    assert sorted(one.name for one in result.refused) == sorted(climbing)
    assert (result.files, result.failed) == (1, ())
    assert files_below(tmp_path) == ["in/out/good/file"]


def test_a_blob_that_is_a_folder_of_others_too_is_refused_by_name(azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    azure_environment.put_blobs(DEFAULT, dict.fromkeys(["same", "same/below", "Case", "case"], b"x"))
    result = download(hasty_store(azure_environment), DownloadRequest(tmp_path / "out"))
    assert [one.name for one in result.refused][:1] == ["same"]
    there = {*files_below(tmp_path)}
    named_or_kept = {one.removeprefix("out/") for one in there} | {one.name for one in result.refused}
    assert named_or_kept == {"same", "same/below", "Case", "case"}
    assert len(there) + len(result.refused) == 4


def test_odd_names_arrive_on_the_disk_or_are_refused_by_name(azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    azure_environment.put_blobs(DEFAULT, {name: name[:9].encode() for name in ODD_NAMES})
    result = download(hasty_store(azure_environment), DownloadRequest(tmp_path / "out"))
    refused = {one.name for one in result.refused}
    there = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {name: there.get(name) for name in ODD_NAMES if name not in refused} == {name: name[:9].encode() for name in ODD_NAMES if name not in refused}
    assert refused >= {"a", "x" * 1024}
    assert result.failed == ()


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".himl"))


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
    ends = time.monotonic() + 5
    while len(stage.log.find("comp=list")) < 2 and time.monotonic() < ends:
        time.sleep(0.02)
    assert len(stage.log.find("comp=list")) == 2
    assert [blob.name for page in pages for blob in page] == names[1000:]


def test_a_listing_that_does_not_end_is_an_error() -> None:
    with storage_that_lists(["a"], b"x", marker="again") as store, pytest.raises(ServiceFailed, match="does not end"):
        listed(store)


def test_a_page_that_fails_midway_is_asked_for_again_and_an_endless_failure_is_an_error(stage: Stage, azure_environment: StagedWorkspace) -> None:
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


def test_a_large_file_keeps_its_md5_and_media_type_and_sends_each_byte_with_an_md5(stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path) -> None:
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


def test_a_certificate_that_is_not_trusted_is_named_and_not_tried_again(azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ServiceFailed, match="is not trusted") as caught:
        listed(hasty_store(azure_environment))
    assert "REQUESTS_CA_BUNDLE" in caught.value.hint


def test_a_proxy_that_is_not_there_is_named(azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(ServiceFailed, match=r"No connection to .*blob") as caught:
        listed(hasty_store(azure_environment))
    assert "HTTPS_PROXY" in caught.value.hint


def in_order(names: Sequence[str]) -> list[BlobInfo]:
    return [BlobInfo(name, 0) for name in names]


@given(st.sets(NAMES))
def test_names_in_the_order_of_utf_16_come_out_in_that_of_plain_strings(names: set[str]) -> None:
    given_order = sorted(names, key=lambda name: name.encode("utf-16-be"))
    assert [blob.name for blob in in_plain_order(in_order(given_order))] == sorted(names)


@given(PATHS, st.integers(0, 5))
def test_names_in_the_order_of_folders_come_out_in_that_of_plain_strings(paths: list[str], held: int) -> None:
    names = {name for name in paths if not any(other.startswith(name + "/") for other in paths)}

    def has_rivals(folder: str) -> bool:
        return any(folder < name.removesuffix("/") and name.startswith(folder) and name[len(folder)] < "/" for name in names if name != folder)

    given_order = sorted(names, key=lambda name: name.replace("/", "\0"))
    assert [blob.name for blob in out_of_folders(in_order(given_order), has_rivals, held_at_most=held)] == sorted(names)


def test_a_large_folder_without_rivals_is_not_held_back() -> None:
    taken: list[str] = []

    def arriving() -> list[BlobInfo]:
        return in_order([f"data/{number:05}" for number in range(5000)])

    def counted(blobs: list[BlobInfo]):  # type: ignore[no-untyped-def]
        for blob in blobs:
            taken.append(blob.name)
            yield blob

    given_out = out_of_folders(counted(arriving()), lambda folder: False, held_at_most=10)
    next(given_out)
    assert len(taken) < 20


def xml(*blobs: str, marker: str = "") -> bytes:
    listing = f"<Blobs>{''.join(blobs)}</Blobs><NextMarker>{marker}</NextMarker>"
    return f'\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults>{listing}</EnumerationResults>'.encode()


def test_a_page_of_a_hierarchical_account_is_known_and_its_directories_are_left_out() -> None:
    folder = "<Blob><Name>r/a</Name><Properties><Content-Length>0</Content-Length><ResourceType>directory</ResourceType></Properties></Blob>"
    file = "<Blob><Name>r/a/b</Name><Properties><Content-Length>3</Content-Length><ResourceType>file</ResourceType></Properties></Blob>"
    page = listed_page(xml(folder, file, marker="next"), "r/")
    assert ([blob.name for blob in page.blobs], page.marker, page.is_hierarchical) == (["a/b"], "next", True)


def test_names_that_xml_cannot_hold_are_decoded() -> None:
    page = listed_page(xml('<Blob><Name Encoded="true">a%01%EF%BF%BE%2F%25</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>'), "")
    assert [blob.name for blob in page.blobs] == ["a\x01\ufffe/%"]
    assert quoted("a\x01\ufffe/%") == "a%01%EF%BF%BE/%25"


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"no xml at all", b""])
def test_what_is_no_listing_is_a_failed_service(body: bytes) -> None:
    with pytest.raises(ServiceFailed):
        listed_page(body, "")


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/..", "a/./b", "/a", "a\0", "\ud800", "x" * 1025, "end.", "dir./x", "a\\b", "/".join("a" * 255)])
def test_names_that_a_url_cannot_mean_are_not_asked_for(name: str) -> None:
    assert not can_be_asked_for(name)


@pytest.mark.parametrize("size", [1, BLOCK, 1 << 30, 190 << 30, 1 << 40, MOST_BLOCKS * (4000 << 20)])
def test_blocks_are_no_more_than_the_service_takes(size: int) -> None:
    assert size <= MOST_BLOCKS * block_size(size)
    assert block_size(size) <= 4000 << 20


def test_block_ids_are_of_one_length_and_tell_place_and_content() -> None:
    ids = {block_id(index, bytes([content]) * 16) for index in (0, 1, 49_999) for content in (1, 2)}
    assert len(ids) == 6
    assert len({len(one) for one in ids}) == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file.", "drops the dot"),
        ("dir./x", "drops the dot"),
        ("a\\b", "backslash"),
        ("a\x01", "control character"),
        ("/".join("a" * 255), "folders"),
        ("a//b", "slash"),
    ],
)
def test_a_name_that_the_service_would_change_is_refused_with_the_reason(azure_environment: StagedWorkspace, tmp_path: Path, name: str, why: str) -> None:
    """It drops dots at the end of folders and names, and takes backslashes for slashes: another file would be overwritten."""
    azure_environment.put_blobs(DEFAULT, {"file": b"1", "dir/x": b"1", "a/b": b"1"})
    sink, store = Stored(), hasty_store(azure_environment)
    store.store([sending(tmp_path / "1", name, b"2")], sink, workers=1)
    assert why in str(sink.errors[name])
    assert {azure_environment.get_blob(DEFAULT, one) for one in azure_environment.blob_names(DEFAULT)} == {b"1"}
    if why in ("drops the dot", "backslash"):
        assert store.stat(name) is None


def test_a_blob_that_cannot_be_made_of_blocks_is_sent_whole(stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    """As one that was written by the lake's own interface."""
    body = hashlib.shake_128(b"seed").digest(3 * BLOCK + 17)
    for sign in ("comp=block&", "comp=blocklist&blocklisttype", "comp=blocklist&"):
        stage.faults.clear()
        stage.faults.add(Status(409, code="BlobOperationNotSupported"), f"(PUT|GET) .*{sign}", times=None)
        sink = Stored()
        hasty_store(azure_environment).store([replace(sending(tmp_path / "1", "lake", body), md5=None)], sink, workers=4)
        assert (sink.errors, sink.sent, sink.blobs["lake"].md5) == ({}, len(body), hashlib.md5(body).digest())
        assert azure_environment.get_blob(DEFAULT, "lake") == body


def test_a_blob_that_cannot_be_made_of_blocks_nor_sent_whole_is_an_error(stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    stage.faults.add(Status(409, code="BlobOperationNotSupported"), "PUT .*/lake", times=None)
    sink = Stored()
    hasty_store(azure_environment).store([sending(tmp_path / "1", "lake", bytes(9 << 20))], sink, workers=4)
    assert "Delete it there first" in sink.errors["lake"].hint


def first_of(reader: BlockReader) -> Block:
    """Its first block, waited for."""
    ends = time.monotonic() + 10
    while (block := reader.next()) is None and time.monotonic() < ends:
        time.sleep(0.01)
    assert block is not None
    return block


def test_a_file_that_is_not_read_to_its_end_gives_back_the_memory_that_was_set_aside_for_it(tmp_path: Path) -> None:
    room = Room(3 * BLOCK)
    reader = BlockReader(sending(tmp_path / "1", "x", bytes(10 * BLOCK)), room)
    block = first_of(reader)
    assert not room.take(3 * BLOCK)
    reader.close()
    room.give_back(len(block.body))
    assert room.take(3 * BLOCK)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_ends_the_reading_of_a_file_is_heard_of(tmp_path: Path) -> None:
    reader = BlockReader(replace(sending(tmp_path / "1", "x", b"1"), path=Path("not\0a path")), Room(BLOCK))
    with pytest.raises(RuntimeError, match="ended before its time"):
        first_of(reader)
    assert reader.is_through


def test_what_was_stored_between_listing_and_upload_is_left_as_it_is(azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a").write_bytes(b"ours")

    def meanwhile(event: Event) -> None:
        if isinstance(event, Planned):
            azure_environment.put_blob(DEFAULT, "a", b"theirs")

    result = upload(hasty_store(azure_environment), UploadRequest(tmp_path / "up"), meanwhile)
    assert (result.files, result.differing) == (0, ("a",))
    assert azure_environment.get_blob(DEFAULT, "a") == b"theirs"
