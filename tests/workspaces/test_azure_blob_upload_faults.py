"""What storage and networks do to an upload: all of it is stored, or what had the name before stays."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.workspaces.azure.storage.blob_upload import BLOCK
from tests.servers.azureml.faults import Action, Latency, Reset, ResetUpload, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, hasty_store
from tests.support.running import until
from tests.support.stores import Stored, sending
from tests.workspaces.big_blob import BODY
from tests.workspaces.big_blob import azure as azure


@pytest.mark.parametrize("fault", [ResetUpload(after=20_000), Status(500), Status(503, retry_after=0), Latency(0.2)], ids=str)
def test_an_upload_survives_faults_that_pass(stage: Stage, azure: StagedWorkspace, tmp_path: Path, fault: Action) -> None:
    stage.faults.add(fault, "PUT .*", times=2)
    sink = Stored()
    large = hashlib.shake_128(b"seed").digest(10 << 20)
    hasty_store(azure).store([sending(tmp_path / "1", "up/small", BODY), sending(tmp_path / "2", "up/large", large)], sink, workers=4)
    assert (sink.errors, {*sink.blobs}, sink.sent) == ({}, {"up/small", "up/large"}, len(BODY) + len(large))
    assert (azure.get_blob(DEFAULT, "up/small"), azure.get_blob(DEFAULT, "up/large")) == (BODY, large)


def test_an_upload_that_fails_leaves_what_had_the_name(stage: Stage, azure: StagedWorkspace, tmp_path: Path) -> None:
    stage.faults.add(Status(500), "PUT .*", times=None)
    sink = Stored()
    large = bytes(10 << 20)
    hasty_store(azure).store([sending(tmp_path / "1", "new", b"x"), sending(tmp_path / "2", "big", large)], sink, workers=4)
    assert ({*sink.errors}, sink.blobs) == ({"new", "big"}, {})
    assert (azure.blob_names(DEFAULT), azure.get_blob(DEFAULT, "big")) == (["big"], BODY)


def test_repeated_upload_sends_only_missing_blocks(stage: Stage, azure: StagedWorkspace, tmp_path: Path) -> None:
    large = hashlib.shake_128(b"seed").digest(4 * BLOCK + 17)
    sink = Stored()
    stage.faults.add(Status(400, code="InvalidInput"), "PUT .*comp=block&", times=None, skip=3)
    store = hasty_store(azure)
    store.store([sending(tmp_path / "1", "up", large)], sink, workers=1)
    assert {*sink.errors} == {"up"}
    stage.faults.clear()
    stage.log.clear()
    again = Stored()
    store.store([sending(tmp_path / "1", "up", large)], again, workers=4)
    assert (again.errors, again.sent) == ({}, len(large) - 3 * BLOCK)
    until(lambda: sum(seen.sent for seen in stage.log.find("PUT .*comp=block&")) == len(large) - 3 * BLOCK)
    assert azure.get_blob(DEFAULT, "up") == large


@pytest.mark.parametrize("size", [100, 9 << 20], ids=["small", "large"])
def test_upload_with_lost_response_counts_as_own_upload(stage: Stage, azure: StagedWorkspace, tmp_path: Path, size: int) -> None:
    """It is told to replace nothing, and then finds what it stored itself."""
    stage.faults.add(Reset(), "PUT .*/new(?!.*comp=block&)")
    sink, body = Stored(), hashlib.shake_128(b"seed").digest(size)
    hasty_store(azure).store([replace(sending(tmp_path / "1", "new", body), replaces="")], sink, workers=1)
    assert (sink.errors, sink.sent, sink.blobs["new"].md5) == ({}, size, hashlib.md5(body).digest())
    assert azure.get_blob(DEFAULT, "new") == body
