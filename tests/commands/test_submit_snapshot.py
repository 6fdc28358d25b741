"""What `himl submit` sends, and what it says of that."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from himl_cli.core.jobs import LARGE_SNAPSHOT_BYTES
from tests.support.running import Himl, write_files

SHOW = ("submit", "train.py", "--cluster", "gpu", "--docker_image", "me/train", "--dry_run")


def large_file(path: Path, size: int) -> None:
    """A file that takes no room on the disk."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)


@pytest.mark.parametrize(("files", "named"), [({}, ".gitignore"), ({".gitignore": "*.log\n"}, ".gitignore"), ({".amlignore": "*.log\n"}, ".amlignore")])
def test_large_snapshot_warning_names_folders_and_ignore_file(himl: Himl, project: Path, files: dict[str, str], named: str) -> None:
    """Folders come largest first; the ignore file is the one that already counts, else .gitignore."""
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


def test_snapshot_size_is_shown_with_warning_if_large(himl: Himl, project: Path) -> None:
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


SECRETS = {".env": "A=1", ".ssh/id_rsa": "k", "lib/key.pem": "-----BEGIN PRIVATE KEY-----\n", "x/.netrc": "n"}
LEFT_OUT = (
    "4 files that may hold secrets are left out: '.env', '.ssh/id_rsa', 'lib/key.pem' and 1 more. 'himl submit --include_secret GLOB' sends one on purpose."
)


@pytest.mark.parametrize("target", JOBS)
def test_secrets_stay_here_and_one_line_says_so(himl: Himl, project: Path, target: str) -> None:
    write_files(project, {**JOBS, **SECRETS, "train.py": "import os; print(sorted(os.listdir()), sorted(os.listdir('lib')))", "lib/net.py": ""})
    assert himl.ok("submit", target, "--dry_run").stderr.count("may hold secrets") == 1
    outcome = himl.ok("submit", target)
    assert outcome.stderr.splitlines().count(LEFT_OUT) == 1
    runs = [path for path in (project / ".himl" / "runs").rglob("*") if path.name in (".env", "id_rsa", "key.pem", ".netrc")]
    assert (runs, list((project / ".himl" / "runs").rglob("net.py")) != []) == ([], True)


def test_include_secret_sends_file_by_option_and_by_setting(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print(open('.env').read(), end='')", ".env": "A=1", "b.env": "B=2"})
    outcome = himl.ok("submit", "train.py", "--include_secret", "/.env")
    assert (outcome.stdout, "One file that may hold secrets is left out: 'b.env'." in outcome.stderr) == ("A=1", True)
    write_files(project, {"himl.toml": "[submit]\ninclude_secret = ['.env', 'b.env']\n"})
    outcome = himl.ok("submit", "train.py")
    assert (outcome.stdout, "secrets" in outcome.stderr) == ("A=1", False)
    assert "--include_secret" in himl.ok("submit", "train.py", "--in_place", "--include_secret", ".env").stderr
    assert himl("submit", "train.py", "--include_secret", "[z-a]").code == 2


def test_secrets_are_not_listed_for_a_cluster_either(himl: Himl, project: Path) -> None:
    write_files(project, {**SECRETS, "train.py": ""})
    talk = himl.ok(*SHOW).stderr
    assert LEFT_OUT in talk
    assert "1 file," in talk
    assert "2 files," in himl.ok(*SHOW, "--include_secret", "id_rsa").stderr


@pytest.mark.parametrize("where", [".", "sub"])
def test_the_home_folder_is_refused_unless_it_is_named(himl: Himl, project: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.setenv("USERPROFILE", str(project))
    write_files(project, {"environment.yml": "", f"{where}/train.py": "", "notes/a.txt": "1"})
    outcome = himl("submit", f"{where}/train.py")
    assert (outcome.code, "all of your home folder" in outcome.stderr, "--snapshot_root" in outcome.stderr) == (2, True, True)
    assert not (project / ".himl").exists()
    himl.ok("submit", f"{where}/train.py", "--in_place")
    himl.ok("submit", f"{where}/train.py", "--snapshot_root", ".")


def test_a_folder_above_the_module_s_repository_is_refused(himl: Himl, project: Path) -> None:
    write_files(project, {"repo/.git/HEAD": "", "repo/train.py": "print('ran')", "other/a.txt": "1"})
    outcome = himl("submit", "-m", "repo.train")
    assert (outcome.code, f"a folder above the repository of '{project / 'repo' / 'train.py'}'" in outcome.stderr) == (2, True)
    assert himl.ok("submit", "-m", "repo.train", "--snapshot_root", ".").stdout == "ran\n"
    assert himl.ok("submit", "repo/train.py").stdout == "ran\n"


def test_repositories_inside_a_project_refuse_nothing(himl: Himl, project: Path) -> None:
    write_files(project, {".git/HEAD": "", "train.py": "print('ran')", "vendored/.git/HEAD": "", "vendored/x.py": "", "pyproject.toml": ""})
    assert himl.ok("submit", "train.py").stdout == "ran\n"
    write_files(project, {"vendored/pyproject.toml": "", "vendored/own.py": "print('own')"})
    assert himl.ok("submit", "vendored/own.py").stdout == "own\n"
