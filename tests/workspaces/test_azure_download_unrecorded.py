"""Downloads of blobs that have no MD5 on record: their bytes come in ranges, each with an MD5 that the service computes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from himl_cli.core.errors import IntegrityFailed
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from tests.servers.azureml.faults import FlipByte
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, hasty_store

DICE = random.Random(11)
BODIES = {name: DICE.randbytes(size) for name, size in {"small": 3_000, "in_one": 6_000_000, "in_pieces": 34_000_000}.items()}
GET = r"GET .*/(small|in_one|in_pieces)"


@pytest.fixture(params=sorted(BODIES))
def name(request: pytest.FixtureRequest, azure_environment: StagedWorkspace) -> str:
    azure_environment.put_blob(DEFAULT, request.param, BODIES[request.param], md5=False)
    return str(request.param)


def test_bytes_that_were_damaged_come_again(stage: Stage, azure_environment: StagedWorkspace, name: str, tmp_path: Path) -> None:
    stage.faults.add(FlipByte(at=1_000), GET, times=2)
    result = download(hasty_store(azure_environment), DownloadRequest(tmp_path / "out"))
    assert ((tmp_path / "out" / name).read_bytes() == BODIES[name], result.problem(), result.unverified) == (True, None, 1)


def test_what_stays_damaged_gets_no_name(stage: Stage, azure_environment: StagedWorkspace, name: str, tmp_path: Path) -> None:
    stage.faults.add(FlipByte(at=1_000), GET, times=None)
    result = download(hasty_store(azure_environment), DownloadRequest(tmp_path / "out"))
    assert isinstance(result.problem(), IntegrityFailed)
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".himl")] == []


def test_without_validation_nothing_of_that_is_asked(stage: Stage, azure_environment: StagedWorkspace, tmp_path: Path) -> None:
    azure_environment.put_blob(DEFAULT, "small", BODIES["small"], md5=False)
    download(hasty_store(azure_environment), DownloadRequest(tmp_path / "out", validate=False))
    (seen,) = stage.log.find(GET)
    assert "x-ms-range-get-content-md5" not in seen.headers
