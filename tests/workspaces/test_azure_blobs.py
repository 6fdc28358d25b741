"""Tests of blobs in Azure Storage: complete lists, names and ranges, uploads that overwrite no other files, and faults
that corrupt no file or blob.
"""

from __future__ import annotations

import _thread
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from himl_cli.core.blobs import MOST_CHECKED, BlobInfo, FetchRequest
from himl_cli.core.errors import BadUsage, BlobChanged, HimlError, IntegrityFailed, NotAllowed, ServiceFailed
from himl_cli.core.events import Event, Planned
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest, UploadRequest
from himl_cli.services.transfer.upload import upload
from himl_cli.workspaces.azure.storage.blob_upload import (
    BLOCK,
    MOST_BLOCKS,
    Block,
    BlockReader,
    MemoryBudget,
    block_id,
    block_size,
)
from himl_cli.workspaces.azure.storage.container import AzureBlobs, listed_page, out_of_folders
from himl_cli.workspaces.azure.storage.signing import SasSigner, quoted, reason_not_to_ask
from himl_cli.workspaces.retry import RetryPolicy
from tests.azureml_double.faults import (
    Action,
    ChangeEtag,
    FlipByte,
    Meanwhile,
    Page,
    Reset,
    ResetUpload,
    SmallPages,
    Stall,
    Status,
    Truncate,
    WrongMd5,
)
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.support.azure import DEFAULT, HASTY_STORE, PATIENT, hasty_store, set_all, storage_that_lists
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
]
ODD_NAMES += ["Case", "case", "~tilde;=@$,!'()*", 'quo"te', "x" * 1024]
# All attempts together take minutes. Three attempts take less than a second.
MINUTES = RetryPolicy(attempts=50)
BODY = bytes(range(256)) * 8_000
LARGE = random.Random(8).randbytes(3 * BLOCK + 17)
BIG, UP = "GET .*/big", "PUT .*/up"


@pytest.fixture
def staged(azure_environment: StagedWorkspace) -> StagedWorkspace:
    """A workspace with a blob whose MD5 is recorded."""
    azure_environment.put_blob(DEFAULT, "big", BODY)
    return azure_environment


def fetched(staged: StagedWorkspace, *, store: AzureBlobs | None = None, workers: int = 1) -> Received:
    """Return what a sink receives for the whole blob."""
    sink, blob = Received(), named(hasty_store(staged), "big")
    (store or hasty_store(staged)).fetch([FetchRequest(blob, 0, blob.size)], sink, workers=workers)
    return sink


@pytest.mark.large("takes long, and other tests run its branches")
def test_odd_names_are_stored_listed_described_read_and_fetched(
    azure_environment: StagedWorkspace, tmp_path: Path
) -> None:
    bodies = {name: f"{place}".encode() * place for place, name in enumerate(ODD_NAMES)}
    store, stored, sink = hasty_store(azure_environment), Stored(), Received()
    store.store([sending(tmp_path / str(len(body)), name, body) for name, body in bodies.items()], stored, workers=4)
    blobs = listed(store)
    store.fetch([FetchRequest(blob, 0, blob.size) for blob in blobs], sink, workers=4)
    assert sorted(blob.name for blob in blobs) == sorted(bodies)  # Azurite sorts names above U+FFFF before U+E000
    assert stored.blobs == {blob.name: blob for blob in blobs}
    assert [store.stat(blob.name) for blob in blobs] == blobs
    assert {name: sink.bodies.get((name, 0), b"") for name in bodies} == bodies
    assert {name: b"".join(store.read(name)) for name in bodies} == bodies
    assert {name: azure_environment.get_blob(DEFAULT, name) for name in bodies} == bodies


def test_download_refuses_path_traversal_names(tmp_path: Path) -> None:
    climbing = ["../evil", "..", "a/../../evil", "a//b", "good/./x", "./x", "good/../x", "/../evil"]
    with storage_that_lists([*climbing, "good/file", "/tmp/file"], b"x") as store:
        assert {blob.name for blob in listed(store)} == {*climbing, "good/file", "/tmp/file"}
        result = download(store, DownloadRequest(tmp_path / "in" / "out"))
    assert sorted(one.name for one in result.refused) == sorted(climbing)
    assert (result.files, result.failed) == (2, ())
    assert contents(tmp_path / "in") == {"out/good/file": b"x", "out/tmp/file": b"x"}


def xml(*blobs: str, marker: str = "") -> bytes:
    listing = f"<Blobs>{''.join(blobs)}</Blobs><NextMarker>{marker}</NextMarker>"
    return f'\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults>{listing}</EnumerationResults>'.encode()


def blob_xml(name: str, size: int = 0, kind: str = "file") -> str:
    return (
        f"<Blob>{name}<Properties><Content-Length>{size}</Content-Length><ResourceType>{kind}</ResourceType></"
        "Properties></Blob>"
    )


def test_while_a_page_is_worked_on_the_next_one_is_on_its_way(stage: Stage, azure_environment: StagedWorkspace) -> None:
    azure_environment.put_blobs(DEFAULT, {"many/1000": b"", "other": b""})
    page = xml(
        *(blob_xml(f"<Name>many/{number:04}</Name>").replace("file", "") for number in range(1000)), marker="many/0999"
    )
    stage.faults.add(Page(page.decode(), content_type="application/xml"), "comp=list")
    pages = hasty_store(azure_environment).list("many/")
    assert len(next(pages)) == 1000
    until(lambda: len(stage.log.find("comp=list")) == 2)
    assert [blob.name for page in pages for blob in page] == ["many/1000"]


def test_a_listing_that_does_not_end_is_an_error() -> None:
    with storage_that_lists(["a"], b"x", marker="again") as store, pytest.raises(ServiceFailed, match="does not end"):
        listed(store)


def test_failed_listing_page_is_retried_and_fails_if_it_persists(
    stage: Stage, azure_environment: StagedWorkspace
) -> None:
    azure_environment.put_blobs(DEFAULT, {f"{number}": b"" for number in range(9)})
    stage.faults.add(SmallPages(4), "comp=list", times=None)
    stage.faults.add(Status(503), "comp=list.*marker=", times=2)
    store = hasty_store(azure_environment)
    assert len(listed(store)) == 9
    stage.faults.add(Status(503), "comp=list.*marker=", times=None)
    with pytest.raises(ServiceFailed, match="is busy"):
        listed(store)


def test_directory_markers_are_no_files(azure_environment: StagedWorkspace) -> None:
    azure_environment.put_blob(DEFAULT, "folder", b"", metadata={"hdi_isfolder": "true"})
    azure_environment.put_blob(DEFAULT, "folder/file", b"1")
    store = hasty_store(azure_environment)
    assert [blob.name for blob in listed(store)] == ["folder/file"]
    assert store.stat("folder") is None


def test_listings_omit_directories_and_decode_names() -> None:
    page = listed_page(xml(blob_xml('<Name Encoded="true">a%01%EF%BF%BE%2F%25</Name>')), "")
    assert [blob.name for blob in page.blobs] == ["a\x01\ufffe/%"]
    assert quoted("a\x01\ufffe/%") == "a%01%EF%BF%BE/%25"
    for body in (b"<html>log in</html>", b"no xml at all", b""):
        with pytest.raises(ServiceFailed):
            listed_page(body, "")
    page = listed_page(
        xml(blob_xml("<Name>r/a</Name>", kind="directory"), blob_xml("<Name>r/a/b</Name>", 3), marker="next"), "r/"
    )
    assert ([blob.name for blob in page.blobs], page.marker, page.is_hierarchical) == (["a/b"], "next", True)


PATHS = st.lists(
    st.lists(st.text(st.sampled_from("ab-.0"), min_size=1, max_size=3), min_size=1, max_size=4).map("/".join),
    max_size=40,
)


def in_order(names: Sequence[str]) -> list[BlobInfo]:
    return [BlobInfo(name, 0) for name in names]


@given(PATHS, st.integers(0, 5))
@example(["a/a.", "a/a/0"], 1)
def test_names_in_folder_order_are_resorted_as_plain_strings(paths: list[str], held: int) -> None:
    names = {name for name in paths if not any(other.startswith(name + "/") for other in paths)}

    def has_rivals(folder: str) -> bool:
        return any(
            folder < name.removesuffix("/") and name.startswith(folder) and name[len(folder)] < "/"
            for name in names
            if name != folder
        )

    given_order = sorted(names, key=lambda name: name.replace("/", "\0"))
    assert [blob.name for blob in out_of_folders(in_order(given_order), has_rivals, held_at_most=held)] == sorted(names)


def test_a_large_folder_without_rivals_is_not_held_back() -> None:
    blobs = iter(in_order([f"data/{number:05}" for number in range(5000)]))
    assert next(out_of_folders(blobs, lambda folder: False, held_at_most=10)).name == "data/00000"
    assert len([*blobs]) > 4980


def test_names_that_a_url_cannot_mean_are_not_asked_for(
    stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path
) -> None:
    """Azure Storage drops dots at the end of folders and names, and reads backslashes as slashes.

    It would overwrite another file.
    """
    for name in ("", "..", "a/./b", "a\0", "\ud800", "x" * 1025):
        assert reason_not_to_ask(name)
    azure_environment.put_blobs(DEFAULT, {"file": b"1", "dir/x": b"1", "a/b": b"1"})
    sink, store = Stored(), hasty_store(azure_environment)
    deep, climbing = "/".join("a" * 255), {"file.": "drops the dot", "dir./x": "drops the dot", "a\\b": "backslash"}
    reasons = {**climbing, "a\x01": "control character", deep: "folders", "a//b": "slash"}
    store.store([sending(tmp_path / "1", name, b"2") for name in reasons], sink, workers=1)
    assert {name: reason in str(sink.errors[name]) for name, reason in reasons.items()} == dict.fromkeys(reasons, True)
    assert {azure_environment.get_blob(DEFAULT, one) for one in azure_environment.blob_names(DEFAULT)} == {b"1"}
    assert [store.stat(name) for name in climbing] == [None] * 3
    assert not stage.log.find(azure_environment.state.storage.host)  # himl sends no request


def test_wrong_bundle_and_untrusted_certificate_are_told(
    azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(BadUsage, match=r"REQUESTS_CA_BUNDLE names '/nowhere/ca.pem'"):
        listed(hasty_store(azure_environment))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ServiceFailed, match="is not trusted") as caught:
        listed(hasty_store(azure_environment))
    assert "REQUESTS_CA_BUNDLE" in caught.value.hint


def test_what_does_not_connect_is_told_without_a_password(
    azure_environment: StagedWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ServiceFailed, match=r"^127\.0\.0\.1 refuses connections\.$"):
        listed(AzureBlobs(f"http://127.0.0.1:{port}/account/container", SasSigner("sig=x"), policy=MINUTES))
    set_all(monkeypatch, dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://user:hidden@127.0.0.1:9"))
    with pytest.raises(ServiceFailed) as caught:
        listed(hasty_store(azure_environment, retries=MINUTES))
    # The same message as for a resource manager out of reach.
    assert str(caught.value) == f"The proxy 127.0.0.1:9 did not connect to {azure_environment.state.storage.host}."
    assert "HTTPS_PROXY" in caught.value.hint
    assert "hidden" not in str(caught.value)


FAULTS: list[tuple[Action, int]] = [(Reset(), 2), (Reset(after=700_000), 2), (Status(500), 2), (Status(429), 2)]
FAULTS += [(FlipByte(1000), 1), (WrongMd5(), 1), (ChangeEtag(), 1)]


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_fault_that_passes_is_mended_by_another_try(stage: Stage, staged: StagedWorkspace, tmp_path: Path) -> None:
    for number, (fault, times) in enumerate(FAULTS):
        stage.log.clear()
        stage.faults.add(fault, BIG, times=times)
        assert download(hasty_store(staged), DownloadRequest(tmp_path / str(number))).problem() is None
        assert (tmp_path / str(number) / "big").read_bytes() == BODY
        assert len(stage.log.find(BIG)) == times + 1, fault


def test_what_no_other_try_can_mend_is_told_at_once(stage: Stage, staged: StagedWorkspace) -> None:
    faults: dict[Action, tuple[type[HimlError], str, int]] = {
        ChangeEtag(): (BlobChanged, "", 1),
        Status(403, code="AuthorizationPermissionMismatch"): (NotAllowed, "SAS token needs permission to read", 0),
        Status(503, retry_after=3600): (ServiceFailed, "requests a wait of 3600 s", 0),
    }
    for fault, (kind, words, skip) in faults.items():
        stage.log.clear()
        stage.faults.only(fault, "/big" if skip else BIG, times=None, skip=skip)
        sink = fetched(staged, store=hasty_store(staged))
        error = sink.errors["big"]
        assert (type(error), words in f"{error} {error.hint}", sink.bodies) == (kind, True, {})
        assert len(stage.log.find(BIG)) == 1


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("fault", [Truncate(after=700_000), Stall(120, after=700_000)], ids=str)
def test_what_arrived_before_a_break_is_not_asked_for_again(
    stage: Stage, staged: StagedWorkspace, fault: Action
) -> None:
    stage.faults.add(fault, BIG)
    sink = fetched(staged, store=hasty_store(staged, stall=2.0 if isinstance(fault, Stall) else PATIENT))
    assert (sink.bodies, sink.md5s) == ({("big", 0): BODY}, {("big", 0): hashlib.md5(BODY).digest()})
    first, *later = stage.log.find(BIG)
    assert "range" not in first.headers
    ranges = [
        [*map(int, seen.headers["range"].removeprefix("bytes=").split("-"))] for seen in later
    ]  # more than one on a slow machine
    assert 600_000 < ranges[0][0] <= 700_000
    assert ranges == sorted(ranges)
    assert {end for _, end in ranges} == {len(BODY) - 1}
    until(lambda: later[-1].received == len(BODY) - ranges[-1][0])


def test_other_bytes_than_were_asked_for_are_not_passed_on() -> None:
    answers = [  # body, range, whether the answer has its MD5, bytes per check
        (b"1234", "", True, 0), (b"1234", "bytes 0-3/8", True, 0), (b"12345678", "bytes 4-11/8", True, 0),
        (b"1234", "bytes 4-7/8", True, MOST_CHECKED), (b"1234", "bytes 4-7/8", False, MOST_CHECKED),
            (b"12345", "bytes 4-7/8", True, MOST_CHECKED),
    ]  # fmt: skip
    taken = []
    for body, content_range, tells_md5, checked in answers:
        sink = Received()
        with storage_that_lists(["a"], body, content_range=content_range, tells_md5=tells_md5) as store:
            [blob] = listed(store)
            store.fetch([FetchRequest(replace(blob, size=8), 4, 4, checked_each=checked)], sink, workers=1)
        assert [type(one) for one in sink.errors.values()] == [ServiceFailed] * (not sink.bodies)
        taken.append(sink.bodies)
    assert taken == [{}, {}, {}, {("a", 4): b"1234"}, {}, {}]


def test_the_end_of_a_blob_that_became_shorter_is_blob_changed(staged: StagedWorkspace) -> None:
    store, sink = hasty_store(staged), Received()
    blob = named(store, "big")
    staged.put_blob(DEFAULT, "big", BODY[: 1 << 20])
    store.fetch([FetchRequest(replace(blob, etag=named(store, "big").etag), 1 << 20, 5)], sink, workers=1)
    assert (type(sink.errors["big"]), sink.bodies) == (BlobChanged, {})


@pytest.mark.large("takes long, and other tests run its branches")
def test_ctrl_c_ends_a_transfer_that_hangs(stage: Stage, staged: StagedWorkspace) -> None:
    stage.faults.add(Meanwhile(_thread.interrupt_main), BIG)
    stage.faults.add(Stall(120), BIG, times=None)
    store = hasty_store(staged)
    blob = named(store, "big")
    # The process that runs the tests may ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            store.fetch([FetchRequest(blob, 0, blob.size)], Received(), workers=1)
        assert time.monotonic() - started < 60
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_child_opens_its_own_connection() -> None:
    program = """if True:
        import os, sys
        from himl_cli.workspaces.azure.storage.container import AzureBlobs
        from himl_cli.workspaces.azure.storage.signing import SasSigner
        store = AzureBlobs(sys.argv[1], SasSigner("sig=x"))
        def look():
            assert [blob.name for page in store.list() for blob in page] == ["a"]
        look()
        child = os.fork()
        if not child:
            look()
            look()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        look()
    """
    connections: list[int] = []
    with storage_that_lists(["a"], b"1", connections=connections) as store:
        subprocess.run([sys.executable, "-c", program, store.origin.rstrip("/")], check=True, timeout=100)
    assert len(connections) == 2


@pytest.mark.large("takes long, and other tests run its branches")
def test_service_outage_limits_retries_across_blobs(stage: Stage, staged: StagedWorkspace) -> None:
    staged.put_blobs(DEFAULT, {f"many/{number:02}": b"x" for number in range(40)})
    store, sink = hasty_store(staged), Received()
    blobs = listed(store, "many/")
    stage.faults.add(Status(500), "GET .*/many/", times=None)
    store.fetch([FetchRequest(blob, 0, 1) for blob in blobs], sink, workers=4)
    assert len(sink.errors) == 40
    at_work = 8 + 3  # requests of other workers are in flight when the eighth fails
    assert len(stage.log.find("GET .*/many/")) <= at_work * HASTY_STORE.attempts + (40 - at_work) * 2


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_pause_that_is_felt_is_said_once_for_all_that_make_it(
    stage: Stage, staged: StagedWorkspace, caplog: pytest.LogCaptureFixture
) -> None:
    staged.put_blobs(DEFAULT, {f"many/{number}": b"x" for number in range(4)})
    store, sink = hasty_store(staged), Received()
    blobs = listed(store, "many/")
    stage.faults.add(Status(503, retry_after=2), "GET .*/many/", times=4)
    store.fetch([FetchRequest(blob, 0, 1) for blob in blobs], sink, workers=4)
    notices = [
        record for record in caplog.records if record.levelname == "WARNING" and record.name.startswith("himl_cli")
    ]
    text = f"Storage account '{staged.state.storage.account}' answered 503; retrying in 2 s"
    assert {record.getMessage() for record in notices} == {text}
    assert all(later.created - earlier.created > 1.9 for earlier, later in pairwise(notices)), (
        "once as long as it lasts"
    )
    assert len(sink.md5s) == 4


def test_permanent_fault_fails_after_all_retries_or_three_stalls(
    stage: Stage, staged: StagedWorkspace, tmp_path: Path
) -> None:
    stage.faults.add(Stall(120), BIG, times=None)
    assert "3 times in a row" in str(fetched(staged, store=hasty_store(staged, stall=1)).errors["big"])
    until(lambda: len(stage.log.find(BIG)) == 3)
    for fault in (Reset(), Truncate(after=0), Status(500)):
        stage.log.clear()
        stage.faults.only(fault, BIG, times=None)
        sink = fetched(staged)
        assert isinstance(sink.errors["big"], ServiceFailed)
        assert (sink.bodies, sink.md5s) == ({}, {})
        # libcurl repeats a request that it sent on a closed connection.
        assert HASTY_STORE.attempts <= len(stage.log.find(BIG)) <= HASTY_STORE.attempts + 1
    stage.faults.only(FlipByte(1000), BIG, times=None)
    result = download(hasty_store(staged), DownloadRequest(tmp_path))
    assert ([one.code for one in result.failed], (tmp_path / "big").exists()) == (["integrity_failed"], False)


WHOLE = random.Random(8).randbytes(2 * MOST_CHECKED + 1_000_000)


@pytest.fixture
def appended(azure_environment: StagedWorkspace) -> StagedWorkspace:
    """A workspace with a blob whose MD5 is not recorded."""
    container = azure_environment.state.datastores[DEFAULT].container
    for start in range(0, len(WHOLE), MOST_CHECKED):
        azure_environment.state.storage.append(container, "big", WHOLE[start : start + MOST_CHECKED])
    return azure_environment


def fetched_checked(staged: StagedWorkspace, offset: int = 0) -> Received:
    """Return what a sink receives for the blob from *offset* on, with checks."""
    store, sink = hasty_store(staged), Received()
    blob = named(store, "big")
    store.fetch([FetchRequest(blob, offset, blob.size - offset, checked_each=MOST_CHECKED)], sink, workers=2)
    return sink


def ranges(stage: Stage) -> list[str]:
    return [seen.headers["range"].removeprefix("bytes=") for seen in stage.log.find(BIG)]


def test_bytes_come_in_ranges_that_are_asked_for_once(stage: Stage, appended: StagedWorkspace) -> None:
    for has_md5 in (False, True):
        if has_md5:
            appended.put_blob(DEFAULT, "big", WHOLE)
        stage.log.clear()
        sink = fetched_checked(appended, 16)
        assert (sink.bodies, sink.errors) == ({("big", 16): WHOLE[16:]}, {})
        ends = [16, 16 + MOST_CHECKED, 16 + 2 * MOST_CHECKED, len(WHOLE)]
        assert ranges(stage) == [f"{start}-{stop - 1}" for start, stop in pairwise(ends)]
    stage.log.clear()
    stage.faults.add(FlipByte(1000), BIG)
    stage.faults.add(Truncate(after=3_000_000), BIG)
    sink = fetched_checked(appended)
    assert sink.bodies == {("big", 0): WHOLE}
    asked = ranges(stage)
    assert 2_900_000 < int(asked[1].split("-")[0]) <= 3_000_000, "what came is kept"
    assert asked[2] == asked[0], "until its end shows the damage"
    assert len(asked) == 5


@pytest.mark.large("takes long, and other tests run its branches")
def test_damage_of_a_range_is_mended_or_ends_where_it_begins(stage: Stage, appended: StagedWorkspace) -> None:
    for fault in (FlipByte(-1), WrongMd5(), Status(503)):
        stage.log.clear()
        stage.faults.add(fault, BIG, times=2, skip=1)
        sink = fetched_checked(appended)
        assert (sink.bodies, sink.errors, len(ranges(stage))) == ({("big", 0): WHOLE}, {}, 5)
    stage.log.clear()
    stage.faults.add(FlipByte(1000), BIG, times=None, skip=1)
    sink = fetched_checked(appended)
    assert (type(sink.errors["big"]), sink.bodies, sink.md5s) == (
        IntegrityFailed,
        {("big", 0): WHOLE[:MOST_CHECKED]},
        {},
    )
    assert len(ranges(stage)) == 1 + 3


def test_upload_stores_md5_and_media_type(stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    requests = [sending(tmp_path / "1", "m/log.txt", LARGE), sending(tmp_path / "2", "m/small.json", b"{}")]
    many = [
        sending(tmp_path / f"of 8 MiB {number}", f"many/{number}", bytes(8 << 20)) for number in range(6)
    ]  # more than the memory for files
    sink = Stored()
    hasty_store(azure_environment).store([*requests, *many], sink, workers=8)
    assert (sink.errors, len(sink.blobs)) == ({}, 8)
    container = azure_environment.state.datastores[DEFAULT].container
    large, small = (
        azure_environment.state.storage.properties(container, name) for name in ("m/log.txt", "m/small.json")
    )
    assert large is not None
    assert small is not None
    assert bytes(large.content_settings.content_md5 or b"") == hashlib.md5(LARGE).digest()
    assert (large.content_settings.content_type, small.content_settings.content_type) == (
        "text/plain",
        "application/json",
    )
    puts = stage.log.find(r"PUT .*/m/")
    assert len(puts) == 4 + 2
    assert all("content-md5" in seen.headers and "expect" not in seen.headers for seen in puts)


def test_an_upload_survives_faults_or_leaves_what_had_the_name(
    stage: Stage, staged: StagedWorkspace, tmp_path: Path
) -> None:
    stage.faults.add(Status(500), "PUT .*", times=None)
    sink = Stored()
    hasty_store(staged).store(
        [sending(tmp_path / "1", "new", b"x"), sending(tmp_path / "2", "big", LARGE)], sink, workers=4
    )
    assert ({*sink.errors}, sink.blobs) == ({"new", "big"}, {})
    assert (staged.blob_names(DEFAULT), staged.get_blob(DEFAULT, "big")) == (["big"], BODY)
    stage.faults.clear()
    requests = [sending(tmp_path / "1", "up/small", BODY), sending(tmp_path / "2", "up/large", LARGE)]
    for fault in (ResetUpload(after=20_000), Status(500), Status(503, retry_after=0)):
        stage.faults.add(fault, UP, times=2)
        sink = Stored()
        hasty_store(staged).store(requests, sink, workers=4)
        assert (sink.errors, {*sink.blobs}, sink.sent) == ({}, {"up/small", "up/large"}, len(BODY) + len(LARGE))
        assert (staged.get_blob(DEFAULT, "up/small"), staged.get_blob(DEFAULT, "up/large")) == (BODY, LARGE)
        for name in ("up/small", "up/large"):
            staged.put_blob(DEFAULT, name, b"another")


def test_repeated_upload_sends_only_missing_blocks(
    stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path
) -> None:
    request, store = sending(tmp_path / "1", "up", LARGE), hasty_store(azure_environment)

    def tried(*, workers: int) -> tuple[Stored, int]:
        stage.log.clear()
        sink = Stored()
        store.store([request], sink, workers=workers)
        stage.faults.clear()
        return sink, sum(seen.sent for seen in stage.log.find("PUT .*comp=block&"))

    stage.faults.add(Status(400, code="InvalidInput"), "PUT .*comp=block&", times=None, skip=3)
    sink, _ = tried(workers=1)
    assert {*sink.errors} == {"up"}
    stage.faults.add(Status(409, code="LeaseIdMissing"), "PUT .*comp=blocklist&", times=None)
    sink, sent = tried(workers=4)
    assert ({*sink.errors}, sent) == ({"up"}, len(LARGE) - 3 * BLOCK)
    sink, sent = tried(workers=4)
    assert (sink.errors, sink.blobs["up"].md5, sink.sent, sent) == ({}, hashlib.md5(LARGE).digest(), 0, 0), (
        "all blocks are there: only named"
    )
    assert azure_environment.get_blob(DEFAULT, "up") == LARGE


@pytest.mark.large("takes long, and other tests run its branches")
def test_upload_with_lost_response_counts_as_own_upload(
    stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path
) -> None:
    for body in (b"small", LARGE):
        name = f"new{len(body)}"
        stage.faults.add(Reset(), f"PUT .*/{name}(?!.*comp=block&)")
        sink = Stored()
        hasty_store(azure_environment).store(
            [replace(sending(tmp_path / "1", name, body), replaces="")], sink, workers=1
        )
        assert (sink.errors, sink.sent, sink.blobs[name].md5) == ({}, len(body), hashlib.md5(body).digest())
        assert azure_environment.get_blob(DEFAULT, name) == body


def test_a_blob_that_cannot_be_made_of_blocks_is_sent_whole(
    stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path
) -> None:
    request = replace(sending(tmp_path / "1", "lake", LARGE), md5=None)
    for sign in ("comp=block&", "comp=blocklist&blocklisttype", "comp=blocklist&"):
        stage.faults.only(Status(409, code="BlobOperationNotSupported"), f"(PUT|GET) .*{sign}", times=None)
        sink = Stored()
        hasty_store(azure_environment).store([request], sink, workers=4)
        assert (sink.errors, sink.sent, sink.blobs["lake"].md5) == ({}, len(LARGE), hashlib.md5(LARGE).digest())
        assert azure_environment.get_blob(DEFAULT, "lake") == LARGE
    stage.faults.add(Status(409, code="BlobOperationNotSupported"), "PUT .*/lake", times=None)
    hasty_store(azure_environment).store([request], sink, workers=4)
    assert "Delete it first" in sink.errors["lake"].hint


def test_blocks_are_no_more_than_the_service_takes_and_have_ids() -> None:
    for size in (1, BLOCK, 190 << 30, 1 << 40, MOST_BLOCKS * (4000 << 20)):
        assert size <= MOST_BLOCKS * block_size(size)
        assert block_size(size) <= 4000 << 20
    ids = {block_id(index, bytes([content]) * 16) for index in (0, 1, 49_999) for content in (1, 2)}
    assert (len(ids), len({len(one) for one in ids})) == (6, 1), "of one length, they tell place and content"


def first_of(reader: BlockReader) -> Block:
    """Wait for the reader's first block."""
    ends = time.monotonic() + 60
    while (block := reader.next()) is None and time.monotonic() < ends:
        time.sleep(0.01)
    assert block is not None
    return block


def test_closing_block_reader_early_releases_its_memory(tmp_path: Path) -> None:
    memory = MemoryBudget(3 * BLOCK)
    reader = BlockReader(sending(tmp_path / "1", "x", bytes(10 * BLOCK)), memory)
    block = first_of(reader)
    assert not memory.try_acquire(3 * BLOCK)
    reader.close()
    memory.release(len(block.body))
    assert memory.try_acquire(3 * BLOCK)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_ends_the_reading_of_a_file_is_heard_of(tmp_path: Path) -> None:
    reader = BlockReader(replace(sending(tmp_path / "1", "x", b"1"), path=Path("not\0a path")), MemoryBudget(BLOCK))
    with pytest.raises(RuntimeError, match="ended early"):
        first_of(reader)
    assert reader.is_through


def test_upload_keeps_blob_stored_after_the_listing(azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a").write_bytes(b"ours")

    def meanwhile(event: Event) -> None:
        if isinstance(event, Planned):
            azure_environment.put_blob(DEFAULT, "a", b"theirs")

    result = upload(hasty_store(azure_environment), UploadRequest(tmp_path / "up"), meanwhile)
    assert (result.files, result.differing) == (0, ("a",))
    assert azure_environment.get_blob(DEFAULT, "a") == b"theirs"
