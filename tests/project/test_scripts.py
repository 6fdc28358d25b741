"""What the scripts say on a machine that lacks what they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
NEEDED = ("bash", "cat", "cksum", "dirname", "env", "grep", "rm")
NAMES = ("bench", "check", "demo", "docs", "fix", "pictures", "release", "sizes", "smoke-ci", "stress", "test", "test-set")
SCRIPTS = (*(f"scripts/{name}" for name in NAMES), ".ci/run", ".ci/sets", ".ci/wheel")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a PATH of a few linked programs is made with symbolic links")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The project's scripts and what they read, in a folder with a space in its name, without .venv."""
    folder = tmp_path / "a checkout"
    for name in ("scripts", ".ci", "examples"):
        shutil.copytree(PROJECT / name, folder / name)
    for name in ("pyproject.toml", "requirements-dev.lock"):
        shutil.copyfile(PROJECT / name, folder / name)
    return folder


@pytest.fixture
def bare_path(tmp_path: Path, require_program: Callable[[str], str]) -> Path:
    """A PATH folder with the commonest programs and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        (folder / name).symlink_to(require_program(name))
    return folder


def add_python(bare_path: Path, guard: str) -> None:
    """A `python3` on PATH that runs *guard* before anything else."""
    startup = bare_path.parent / "startup"
    startup.mkdir()
    (startup / "sitecustomize.py").write_text(guard)
    python = bare_path / "python3"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{startup}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)


def run(script: Path, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(script)], env={"PATH": str(path), "HOME": str(path.parent)}, cwd=path, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_can_be_run(name: str) -> None:
    assert os.access(PROJECT / name, os.X_OK)


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_python_they_say_the_line_that_installs_it(name: str, checkout: Path, bare_path: Path) -> None:
    done = run(checkout / name, bare_path)
    assert done.returncode == 1
    assert done.stderr == "No Python 3.10 to 3.14 on PATH. On Debian or Ubuntu, install it with: apt-get install python3 python3-venv\n"


def test_a_python_that_is_too_old_is_as_none(checkout: Path, bare_path: Path) -> None:
    add_python(bare_path, "import sys\nsys.version_info = (3, 9, 18, 'final', 0)\n")
    done = run(checkout / "scripts" / "demo", bare_path)
    assert done.returncode == 1
    assert done.stderr.startswith("No Python 3.10 to 3.14 on PATH.")


def test_missing_venv_module_error_names_install_command(checkout: Path, bare_path: Path) -> None:
    add_python(bare_path, "import sys\nsys.modules['ensurepip'] = None\n")
    done = run(checkout / "scripts" / "demo", bare_path)
    assert done.returncode == 1
    assert done.stderr == "Python's venv module is missing. Install it with: apt-get install python3-venv\n"
    assert not (checkout / ".venv").exists()


STUBS = {
    "apt-get": 'echo "apt-get $*" >>"$ASKED"',
    "sudo": 'echo sudo >>"$ASKED"; [ "$MAY" = yes ] || exit 1; shift; exec "$@"',
}


@pytest.mark.parametrize(
    ("user", "ci", "may", "is_installed"),
    [
        (0, {}, "no", True),
        (1000, {}, "yes", False),
        (1000, {"CI": "true"}, "yes", True),
        (1000, {"TF_BUILD": "True"}, "yes", True),
        (1000, {"CI": "true"}, "no", False),
    ],
)
def test_programs_are_installed_by_root_and_in_ci(bare_path: Path, user: int, ci: dict[str, str], may: str, is_installed: bool) -> None:
    """Never by a user's sudo elsewhere. Nothing is on PATH but the commonest programs, so fish, jq and zsh are lacking."""
    for name, line in {**STUBS, "id": f"echo {user}"}.items():
        (bare_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (bare_path / name).chmod(0o755)
    (bare_path / "true").symlink_to("/bin/true")
    (bare_path / "sh").symlink_to("/bin/sh")
    asked = bare_path.parent / "asked"
    asked.touch()
    env = {"PATH": str(bare_path), "ASKED": str(asked), "MAY": may, **ci}
    subprocess.run(["bash", "-euc", ". scripts/_programs.sh; install_programs"], cwd=PROJECT, env=env, check=True, capture_output=True)
    lines = [line for line in asked.read_text().splitlines() if line.startswith("apt-get install")]
    assert bool(lines) is is_installed
    assert all({"fish", "jq", "zsh"} <= {*line.split()} for line in lines)
    assert user != 0 or "sudo" not in asked.read_text()
