"""The copies of `himl` that most tests run are the program: `tests/support/forked_himl.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forked_himl import PROGRAM, forked
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns

pytestmark = pytest.mark.skipif(sys.platform == "win32" or os.environ.get("HIML_TEST_START") == "1", reason="no copies are made")


@pytest.mark.parametrize("command", ["--version", "runs list", "runs show train_1_aa --json", "runs show nope", "dowload", "runs list --bad", "runs --help"])
def test_a_copy_prints_and_exits_as_a_start_does(himl: Himl, started_himl: Himl, project: Path, command: str) -> None:
    RecordedRuns(project).add("train_1_aa")
    for _ in range(2):  # the second finds more imported
        assert himl(*command.split()) == started_himl(*command.split())


def test_a_copy_has_its_own_folder_variables_and_input(himl: Himl, started_himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": "import os, sys\nprint(os.environ['COLOUR'], os.getcwd() != sys.argv[1])\n"})
    for each in (himl, started_himl):
        outcome = each(
            "submit", project / "train.py", "--workspace", tmp_path / "w", "--", tmp_path, cwd=tmp_path, env={"COLOUR": "blue"}, input=b"y\n" * 40_000
        )
        assert (outcome.code, outcome.stdout) == (0, "blue True\n"), outcome.stderr


def test_a_copy_that_takes_too_long_is_ended(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time\ntime.sleep(600)\n"})
    with pytest.raises(subprocess.TimeoutExpired):
        himl("submit", "train.py", timeout=1)


def test_what_only_a_start_heeds_is_started(himl: Himl) -> None:
    copies = forked(PROGRAM)
    himl.ok("--version")
    assert not copies.can_run({"PYTHONUTF8": "1"})
    assert "import time" in himl.ok("--version", env={"PYTHONPROFILEIMPORTTIME": "1"}).stderr


def test_a_script_is_run_as_python_runs_it(tmp_path: Path) -> None:
    script_text = "import sys, beside\nprint(__name__, sys.argv[1:], beside.WORD)\nraise ValueError('no')\n"
    write_files(tmp_path, {"beside.py": "WORD = 'beside'\n", "script.py": script_text})
    copies, script = forked(PROGRAM), str(tmp_path / "script.py")
    assert copies.can_run(os.environ)
    copy = copies.run([script, "a"], tmp_path, os.environ, is_script=True)
    start = subprocess.run([sys.executable, "-W", "error", script, "a"], cwd=tmp_path, capture_output=True)
    assert (copy.returncode, copy.stdout, copy.stderr) == (start.returncode, start.stdout, start.stderr)
