"""Links into Azure Storage, with and without a signature that is still good, read as any file at an address."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from himl_cli.core.errors import NotAllowed, NotFound
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.workspaces.resolve import open_address
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.servers.azureml.storage import Storage

LARGE = os.urandom(34 << 20)
NAME = "ExperimentRun/dcid.a/outputs/checkpoints/epoch=3 best.ckpt"


@pytest.fixture
def storage(azure_environment: StagedWorkspace) -> Storage:
    return azure_environment.state.storage


def test_large_file_is_verified_and_new_link_fetches_one_byte(storage: Storage, stage: Stage, tmp_path: Path) -> None:
    storage.put("azureml", NAME, LARGE)
    first = download(open_address(storage.blob_link("azureml", NAME)), DownloadRequest(tmp_path))
    assert (first.problem(), first.unverified) == (None, 0)
    assert hashlib.md5((tmp_path / "epoch=3 best.ckpt").read_bytes()).digest() == hashlib.md5(LARGE).digest()
    stage.log.clear()
    again = download(open_address(storage.blob_link("azureml", NAME, seconds=60)), DownloadRequest(tmp_path))
    assert (again.skipped, [(seen.method, seen.headers["range"]) for seen in stage.log.all()]) == (1, [("GET", "bytes=0-0")])


def test_links_that_are_over_or_lead_nowhere(storage: Storage, tmp_path: Path) -> None:
    storage.put("azureml", NAME, b"abc")
    with pytest.raises(NotAllowed, match=r"The link to https://\S+best\.ckpt has expired \(\d"):
        [*open_address(storage.blob_link("azureml", NAME, seconds=-60)).list()]
    with pytest.raises(NotAllowed, match="has expired, or does not allow reading"):
        [*open_address(storage.blob_link("azureml", NAME, permissions="w")).list()]
    with pytest.raises((NotAllowed, NotFound)):
        [*open_address(storage.url("azureml", NAME)).list()]
    with pytest.raises(NotFound, match="There is no file at"):
        [*open_address(storage.blob_link("azureml", "lost.ckpt")).list()]


def test_an_empty_one(storage: Storage, tmp_path: Path) -> None:
    storage.put("azureml", NAME, b"")
    assert download(open_address(storage.blob_link("azureml", NAME)), DownloadRequest(tmp_path)).files == 1
    assert (tmp_path / "epoch=3 best.ckpt").read_bytes() == b""
