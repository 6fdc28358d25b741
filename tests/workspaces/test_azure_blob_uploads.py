"""Uploads to Azure Storage: what is refused, what is sent whole, what somebody else stored meanwhile."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.events import Event, Planned
from himl_cli.services.transfer.plan import UploadRequest
from himl_cli.services.transfer.upload import upload
from himl_cli.workspaces.azure.storage.blob_upload import BLOCK, Block, BlockReader, MemoryBudget
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, hasty_store
from tests.support.stores import Stored, sending


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
def test_upload_refuses_names_that_storage_would_change(stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path, name: str, why: str) -> None:
    """It drops dots at the end of folders and names, and takes backslashes for slashes: another file would be overwritten."""
    azure_environment.put_blobs(DEFAULT, {"file": b"1", "dir/x": b"1", "a/b": b"1"})
    sink, store = Stored(), hasty_store(azure_environment)
    store.store([sending(tmp_path / "1", name, b"2")], sink, workers=1)
    assert why in str(sink.errors[name])
    assert {azure_environment.get_blob(DEFAULT, one) for one in azure_environment.blob_names(DEFAULT)} == {b"1"}
    if why in ("drops the dot", "backslash"):
        assert store.stat(name) is None
    assert not stage.log.find(azure_environment.state.storage.host)  # it is not even asked


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


def test_a_file_whose_blocks_are_all_there_is_only_listed(stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    """An earlier command was ended, or refused, just before."""
    body = hashlib.shake_128(b"seed").digest(3 * BLOCK + 17)
    request = sending(tmp_path / "1", "large", body)
    stage.faults.add(Status(409, code="LeaseIdMissing"), "PUT .*comp=blocklist&", times=None)
    sink = Stored()
    hasty_store(azure_environment).store([request], sink, workers=4)
    assert sink.errors.keys() == {"large"}
    stage.faults.clear()
    sink, before = Stored(), len(stage.log.find("PUT .*comp=block&"))
    hasty_store(azure_environment).store([request], sink, workers=4)
    assert (sink.errors, sink.blobs["large"].md5) == ({}, hashlib.md5(body).digest())
    assert azure_environment.get_blob(DEFAULT, "large") == body
    assert before == len(stage.log.find("PUT .*comp=block&")) == 4


def test_large_upload_over_blob_without_blocks_fails_with_hint(stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    stage.faults.add(Status(409, code="BlobOperationNotSupported"), "PUT .*/lake", times=None)
    sink = Stored()
    hasty_store(azure_environment).store([sending(tmp_path / "1", "lake", bytes(9 << 20))], sink, workers=4)
    assert "Delete it there first" in sink.errors["lake"].hint


def first_of(reader: BlockReader) -> Block:
    """Its first block, waited for."""
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
    with pytest.raises(RuntimeError, match="ended before its time"):
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
