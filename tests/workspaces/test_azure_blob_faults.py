"""What storage and networks do to a download: either exactly the right bytes arrive, or an error says why, after a bounded number of tries."""

from __future__ import annotations

import _thread
import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import BlobChanged, NotAllowed, ServiceFailed
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from tests.servers.azureml.faults import Action, ChangeEtag, FlipByte, Meanwhile, Reset, Stall, Status, Truncate, WrongMd5
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, HASTY_STORE, PATIENT, hasty_store, storage_that_lists
from tests.support.running import until
from tests.support.stores import Received, listed, named
from tests.workspaces.big_blob import BODY, GET
from tests.workspaces.big_blob import azure as azure

STALL = 3.0  # seconds until a request without progress is given up, in tests of one that is
PASSING = [Reset(), Reset(after=700_000), Truncate(after=700_000), Status(500), Status(503), Status(429), Status(408)]


@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_a_fault_that_passes_is_not_seen_by_the_sink(stage: Stage, azure: StagedWorkspace, fault: Action) -> None:
    stage.faults.add(fault, GET, times=2)
    store, sink = hasty_store(azure), Received()
    blob = named(store, "big")
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=2)
    assert (sink.bodies, sink.errors) == ({("big", 0): BODY}, {})
    assert sink.md5s[("big", 0)] == hashlib.md5(BODY).digest()
    assert len(stage.log.find(GET)) == 3


def test_a_stall_that_passes_is_not_seen_by_the_sink(stage: Stage, azure: StagedWorkspace) -> None:
    """Other requests may stall as well, where the machine does."""
    stage.faults.add(Stall(120), GET)
    store, sink = hasty_store(azure, stall=STALL), Received()
    blob = named(hasty_store(azure), "big")
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=2)
    assert (sink.bodies, sink.errors) == ({("big", 0): BODY}, {})
    assert sink.md5s[("big", 0)] == hashlib.md5(BODY).digest()
    assert len(stage.log.find(GET)) >= 2


@pytest.mark.parametrize("fault", [Truncate(after=700_000), Stall(120, after=700_000)], ids=str)
def test_what_arrived_before_a_break_is_not_asked_for_again(stage: Stage, azure: StagedWorkspace, fault: Action) -> None:
    stage.faults.add(fault, GET)
    store = hasty_store(azure, stall=STALL if isinstance(fault, Stall) else PATIENT)
    blob = named(store, "big")
    store.fetch([FetchRequest(blob, 0, blob.size)], Received(), workers=1)
    first, second = stage.log.find(GET)
    assert "range" not in first.headers
    start, end = second.headers["range"].removeprefix("bytes=").split("-")
    assert 600_000 < int(start) <= 700_000
    assert int(end) == len(BODY) - 1
    until(lambda: second.received == len(BODY) - int(start))


def test_what_arrived_of_a_small_blob_before_a_break_is_kept_too(stage: Stage, azure: StagedWorkspace) -> None:
    azure.put_blob(DEFAULT, "small", BODY[:100_000])
    stage.faults.add(Truncate(after=50_000), "GET .*/small")
    store, sink = hasty_store(azure), Received()
    blob = named(store, "small")
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
    assert sink.bodies == {("small", 0): BODY[:100_000]}
    assert 0 < int(stage.log.find("GET .*/small")[1].headers["range"].removeprefix("bytes=").split("-")[0]) <= 50_000


@pytest.mark.parametrize("fault", [Reset(), Truncate(after=0), Status(500), Status(503)], ids=str)
def test_permanent_fault_fails_after_all_retries(stage: Stage, azure: StagedWorkspace, fault: Action) -> None:
    stage.faults.add(fault, GET, times=None)
    store, sink = hasty_store(azure), Received()
    blob = named(store, "big")
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
    assert isinstance(sink.errors["big"], ServiceFailed)
    assert (sink.bodies, sink.md5s) == ({}, {})
    assert (
        HASTY_STORE.attempts <= len(stage.log.find(GET)) <= HASTY_STORE.attempts + 1
    )  # libcurl repeats by itself what was sent on a connection that was closed already


def test_a_changed_etag_is_blob_changed_at_once(stage: Stage, azure: StagedWorkspace) -> None:
    stage.faults.add(ChangeEtag(), r"/big", times=None, skip=1)
    store, sink = hasty_store(azure), Received()
    blob = named(store, "big")
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
    assert (type(sink.errors["big"]), sink.bodies) == (BlobChanged, {})
    assert len(stage.log.find(GET)) == 1


@pytest.mark.parametrize(
    ("body", "content_range"),
    [(b"1234", ""), (b"1234", "bytes 0-3/8"), (b"12345678", "bytes 4-11/8")],
    ids=["the whole", "another range", "more than was asked for"],
)
def test_other_bytes_than_were_asked_for_are_not_passed_on(body: bytes, content_range: str) -> None:
    """As a cache in between may send them."""
    sink = Received()
    with storage_that_lists(["a"], body, content_range=content_range) as store:
        store.fetch([FetchRequest(replace(blob, size=8), 4, 4) for blob in listed(store)], sink, workers=1)
    assert (type(sink.errors["a"]), sink.bodies) == (ServiceFailed, {})


def test_the_end_of_a_blob_that_became_shorter_is_blob_changed(azure: StagedWorkspace) -> None:
    store, sink = hasty_store(azure), Received()
    blob = named(store, "big")
    azure.put_blob(DEFAULT, "big", BODY[: 1 << 20])
    store.fetch([FetchRequest(replace(blob, etag=named(store, "big").etag), 1 << 20, 5)], sink, workers=1)
    assert (type(sink.errors["big"]), sink.bodies) == (BlobChanged, {})


@pytest.mark.parametrize(
    ("fault", "code"),
    [(FlipByte(1000), "integrity_failed"), (WrongMd5(), "integrity_failed"), (ChangeEtag(), "service_failed"), (Status(500), "service_failed")],
    ids=["a flipped byte", "a wrong MD5", "a changed ETag", "errors for ever"],
)
def test_damaged_download_leaves_no_file_and_next_succeeds(stage: Stage, azure: StagedWorkspace, tmp_path: Path, fault: Action, code: str) -> None:
    azure.put_blob(DEFAULT, "good", b"good")
    stage.faults.add(fault, GET, times=None)
    store = hasty_store(azure)
    result = download(store, DownloadRequest(tmp_path / "out"))
    assert [(one.name, one.code) for one in result.failed] == [("big", code)]
    assert ((tmp_path / "out" / "good").read_bytes(), (tmp_path / "out" / "big").exists()) == (b"good", False)
    stage.faults.clear()
    assert download(store, DownloadRequest(tmp_path / "out")).problem() is None
    assert (tmp_path / "out" / "big").read_bytes() == BODY


@pytest.mark.parametrize("fault", [FlipByte(1000), WrongMd5(), ChangeEtag()], ids=["a flipped byte", "a wrong MD5", "a changed ETag"])
def test_damage_that_happens_once_is_mended_by_another_try(stage: Stage, azure: StagedWorkspace, tmp_path: Path, fault: Action) -> None:
    stage.faults.add(fault, GET)
    assert download(hasty_store(azure), DownloadRequest(tmp_path / "out")).problem() is None
    assert (tmp_path / "out" / "big").read_bytes() == BODY
    assert len(stage.log.find(GET)) == 2


def test_a_second_download_brings_only_what_the_first_did_not(stage: Stage, azure: StagedWorkspace, tmp_path: Path) -> None:
    large = hashlib.shake_128(b"seed").digest(12 << 20)
    azure.put_blob(DEFAULT, "large", large)
    stage.faults.add(Truncate(after=7 << 20), "GET .*/large")
    stage.faults.add(Status(500), "GET .*/large", times=None, skip=1)
    store = hasty_store(azure)
    assert [one.code for one in download(store, DownloadRequest(tmp_path / "out")).failed] == ["service_failed"]
    stage.faults.clear()
    stage.log.clear()
    assert download(store, DownloadRequest(tmp_path / "out")).problem() is None
    assert (tmp_path / "out" / "large").read_bytes() == large
    until(lambda: sum(seen.received for seen in stage.log.find("GET .*/large")) == 5 << 20)


def test_ctrl_c_ends_a_transfer_that_hangs(stage: Stage, azure: StagedWorkspace) -> None:
    stage.faults.add(Meanwhile(_thread.interrupt_main), GET)
    stage.faults.add(Stall(120), GET, times=None)
    store = hasty_store(azure)
    blob = named(store, "big")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    try:
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            store.fetch([FetchRequest(blob, 0, blob.size)], Received(), workers=1)
        assert time.monotonic() - started < 60
    finally:
        signal.signal(signal.SIGINT, before)


def test_permission_error_is_not_retried_with_new_signature(stage: Stage, azure: StagedWorkspace) -> None:
    stage.faults.add(Status(403, code="AuthorizationPermissionMismatch"), GET, times=None)
    store, sink = hasty_store(azure), Received()
    blob = named(store, "big")
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
    assert isinstance(sink.errors["big"], NotAllowed)
    assert "SAS token has to allow reading" in sink.errors["big"].hint
    assert len(stage.log.find(GET)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_child_opens_its_own_connection() -> None:
    """As the workers of a data loader do; on a connection that both used each would get the other's answers."""
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
