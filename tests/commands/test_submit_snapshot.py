"""What `himl submit` sends, and what it says of that."""

from __future__ import annotations

import json
import os
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


def test_what_himl_downloaded_is_not_sent_with_the_next_job(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import os; print(sorted(os.listdir()), sorted(os.listdir('lib')))", "lib/net.py": "", "own/outputs/kept": "1"})
    himl.ok("submit", "train.py")
    himl.ok("download", "latest", "--prefix", "user_logs", "--output_dir", "lib/got")
    himl.ok("download", "latest", "--prefix", "user_logs", "--output_dir", "got")
    outcome = himl.ok("submit", "train.py")
    assert outcome.stdout.endswith("'own', 'train.py'] ['net.py']\n")
    assert "'got'" not in outcome.stdout
    assert "Left out, since himl downloaded it: 'got', 'lib/got'." in outcome.stderr


def test_a_script_among_downloads_is_told_why_it_is_left_out(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "pyproject.toml": ""})
    himl.ok("submit", "train.py")
    himl.ok("download", "latest", "--prefix", "user_logs", "--output_dir", "got")
    write_files(project, {"got/again.py": ""})
    outcome = himl("submit", "got/again.py")
    assert (outcome.code, "himl downloaded files to 'got'" in outcome.stderr) == (2, True)


def test_the_snapshot_s_size_is_said_and_a_large_one_is_warned_of(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "lib/net.py": ""})
    assert "2 files" in himl.ok("submit", "train.py").stderr
    with (project / "lib" / "weights.bin").open("wb") as stream:
        stream.truncate(301 * 1024 * 1024)
    talk = himl.ok("submit", "train.py").stderr
    assert "warning" in talk
    assert "lib (315.6 MB)" in talk
    assert f"'{project / '.gitignore'}', a file to make" in talk
    write_files(project, {".gitignore": "lib/\n"})
    assert "warning" not in himl.ok("submit", "train.py").stderr


@pytest.mark.skipif(os.name == "nt", reason="permissions are not bits on Windows")
def test_the_snapshot_keeps_permissions(himl: Himl, project: Path) -> None:
    write_files(project, {"tool.sh": "#!/bin/sh\necho ran\n", "train.py": "import subprocess; subprocess.run(['./tool.sh'], check=True)"})
    (project / "tool.sh").chmod(0o755)
    assert himl.ok("submit", "train.py").stdout == "ran\n"
