"""Code that azure-ai-ml sends and code that himl sends are the same: neither uploads what the other did."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from himl_cli.core.events import ignore
from himl_cli.core.jobs import Snapshot
from himl_cli.services.submission.snapshot import take_snapshot
from himl_cli.workspaces.azure.jobs.assets import fingerprint
from tests.azure.lab import Lab
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import connected
from tests.support.azure_jobs import ensured
from tests.support.running import write_files

CODE: dict[str, str | bytes] = {
    "train.py": "print(1)\n",
    "README.md": "# Training\n",
    "empty.txt": b"",
    "Upper/B.py": b"\x00\x01\r\n",
    "Upper.py": "u",
    "a-b/x.py": "dash",
    "a/x.py": "slash",
    "a.py": "dot",
    "größe/überblick ü.txt": "ß",
    "日本/語.py": "# 日本語\n",
    "ZZ/İstanbul.txt": "dotted",
    "with space #1 100%.txt": "odd",
    "large.bin": bytes(range(256)) * 9000,
}


@pytest.fixture
def code(tmp_path: Path) -> Snapshot:
    write_files(tmp_path / "code", CODE)
    if sys.platform != "win32":
        (tmp_path / "code" / "linked.py").symlink_to("train.py")
    return take_snapshot(tmp_path / "code").snapshot


def submit_by_sdk(azure: StagedWorkspace, folder: Path) -> str:
    azure.state.assets["environments"].setdefault("torch", {"1": {"properties": {}, "image": "docker.io/python:3.11", "_created": ""}})
    answer: dict[str, str] = Lab(azure, {}).program(Path(sys.executable), "azure_ai_ml_code", folder)
    return answer["code"]


def test_the_sdk_asks_for_our_hash_and_finds_our_upload(
    stage: Stage, azure_environment: StagedWorkspace, project: Path, tmp_path: Path, code: Snapshot
) -> None:
    with connected(azure_environment, project) as connection:
        ours = ensured(connection, code, ignore)
    assert not ours.is_cached
    stage.log.clear()
    theirs = submit_by_sdk(azure_environment, tmp_path)
    (asked,) = stage.log.find(r"GET [^ ]*/codes/[^ ]*hash=")
    assert parse_qs(asked.query)["hash"] == [fingerprint(code)[0]]
    assert parse_qs(asked.query)["hashVersion"] == ["202208"]
    assert theirs.lower() == ours.id.lower()
    assert not stage.log.find("startPendingUpload")


def test_we_find_the_upload_of_the_sdk(stage: Stage, azure_environment: StagedWorkspace, project: Path, tmp_path: Path, code: Snapshot) -> None:
    theirs = submit_by_sdk(azure_environment, tmp_path)
    stage.log.clear()
    with connected(azure_environment, project) as connection:
        ours = ensured(connection, code, ignore)
    assert (ours.id.lower(), ours.is_cached) == (theirs.lower(), True)
    assert len(stage.log.find(r"management\.azure\.com")) == 1
