"""Paths in the home of somebody whom this machine does not know: they are taken as they are written; and users who have no home."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.running import Himl

NOBODY = "~nobody_at_all/x"
ROOT_ONLY = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become a user that nobody knows")


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "list", "--config_file", NOBODY),
        ("runs", "list", "--workspace", NOBODY),
        ("checkpoint", "fetch", f"{NOBODY}.ckpt"),
        ("montage", NOBODY),
    ],
)
def test_a_home_that_nobody_has_is_a_path_that_is_not_there(himl: Himl, arguments: tuple[str, ...]) -> None:
    outcome = himl(*arguments)
    assert (outcome.code, outcome.stdout) == (3, "")
    assert outcome.stderr.startswith("error: There is no ")
    assert NOBODY in outcome.stderr


@pytest.fixture
def without_home(require_program: Callable[[str], str]) -> Sequence[str]:
    """What stands before a program for a user id that nobody knows, as containers are run with, who may use the test's files."""
    rights = "+dac_read_search,+dac_override"
    as_nobody = ("--reuid=54321", "--clear-groups", f"--inh-caps={rights}", f"--ambient-caps={rights}")
    return (require_program("setpriv"), *as_nobody, "env", "--unset=HOME", "--unset=XDG_DATA_HOME")


@ROOT_ONLY
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_without_a_home_a_script_of_completion_has_no_place(himl: Himl, without_home: Sequence[str], shell: str) -> None:
    outcome = himl("completion", shell, "--install", prefix=without_home)
    assert (outcome.code, outcome.stdout) == (3, "")
    assert outcome.stderr == f"error: There is no home folder for it: this user has none.\nhint: Set HOME, or print the script: himl completion {shell}\n"


@ROOT_ONLY
def test_without_a_home_jobs_run(himl: Himl, without_home: Sequence[str], project: Path) -> None:
    (project / "train.py").write_text("print('trained')\n", encoding="utf-8")
    outcome = himl("submit", "train.py", prefix=without_home)
    assert (outcome.code, outcome.stdout) == (0, "trained\n"), outcome.stderr
