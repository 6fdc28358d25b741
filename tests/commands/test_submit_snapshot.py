"""What `himl submit` says of what it sends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from himl_cli.core.jobs import LARGE_SNAPSHOT_BYTES
from tests.running import Himl, write_files

SHOW = ("submit", "train.py", "--cluster", "gpu", "--docker_image", "me/train", "--dry_run")


def large_file(path: Path, size: int) -> None:
    """A file that takes no room on the disk."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)


@pytest.mark.parametrize(("files", "named"), [({}, ".gitignore"), ({".gitignore": "*.log\n"}, ".gitignore"), ({".amlignore": "*.log\n"}, ".amlignore")])
def test_a_large_snapshot_warns_with_the_biggest_folders_and_the_file_to_write(himl: Himl, project: Path, files: dict[str, str], named: str) -> None:
    write_files(project, {"train.py": "", "small/a": "1", **files})
    large_file(project / "data" / "a.bin", LARGE_SNAPSHOT_BYTES)
    large_file(project / "models" / "a.ckpt", 1 << 20)
    warning = next(line for line in himl.ok(*SHOW).stderr.splitlines() if "much to copy" in line)
    assert warning.index("data (") < warning.index("models (")
    assert f"'{project / named}'" in warning


JOBS = {
    "train.py": "",
    "job.yml": "command: python train.py\ncode: .\ncompute: local\n",
    "pipeline.json": json.dumps({"step1": {"type": "PythonScriptStep", "script": "train.py", "source_directory": "."}}),
}


@pytest.mark.parametrize("target", JOBS)
def test_an_ignored_folder_that_is_not_there_is_told(himl: Himl, project: Path, target: str) -> None:
    write_files(project, {**JOBS, "data/x": "1", "himl.toml": "[submit]\nignored_folders = ['dta']\n"})
    told = "warning: nothing is left out for --ignored_folders 'dta': what is sent has no folder of such a name."
    assert told in himl.ok("submit", target, "--dry_run").stderr.splitlines()
    assert "warning" not in himl.ok("submit", target, "--dry_run", "--ignored_folders", "data").stderr


def test_following_that_advice_helps(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", ".gitignore": "/data/\n"})
    large_file(project / "data" / "a.bin", LARGE_SNAPSHOT_BYTES + 1)
    outcome = himl.ok(*SHOW)
    assert "much to copy" not in outcome.stderr
    assert "2 files" in outcome.stderr


def test_rules_that_git_passes_over_do_no_harm(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", ".gitignore": "\\\n[\n!\n"})
    assert "2 files" in himl.ok(*SHOW).stderr
