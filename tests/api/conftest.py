"""Fixtures of the tests of the Python functions: a project folder with recorded runs, and the files that downloads
leave.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.files import is_bookkeeping
from himl_cli.core.runs import RunStatus
from tests.support.folders import files_below
from tests.support.running import write_files
from tests.support.runs import RecordedRuns

FILES = {
    "outputs/model.bin": "m" * 10,
    "outputs/checkpoints/last.ckpt": "last",
    "outputs/checkpoints_old/last.ckpt": "old",
    "user_logs/std_log.txt": "hello\n",
}


@pytest.fixture
def local_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedRuns:
    """A local workspace with a run that has files, metrics, tags and child runs. Its project is the current folder."""
    runs = RecordedRuns(project)
    runs.add("train_1_aa", tags={"team": "blue"}, display_name="first", files=FILES)
    runs.add("train_2_bb", status=RunStatus.failed, exit_code=3, reason="exit code 3", tags={"team": "red"})
    runs.add("child_a", parent="train_1_aa", tags={"fold": "0"})
    runs.add("child_b", parent="train_1_aa", status=RunStatus.failed, tags={"fold": "1"})
    runs.add("grandchild", parent="child_b")
    runs.log("train_1_aa", [("loss", 1.0, 1, 1), ("loss", 0.5, 2, 2), ("acc", 0.9, 2, 3)], {"lr": "0.1"})
    runs.log("child_a", [("loss", 0.25, 1, 1)])
    write_files(
        project / ".himl" / "datastores" / "local",
        {"foo/bar/1.txt": "one", "foo/bar/2.txt": "two", "foo/other.txt": "three"},
    )
    monkeypatch.chdir(project)
    return runs


def arrived(folder: Path) -> dict[str, str]:
    """Return the texts of the files below *folder* by name, without himl's internal files."""
    found = [
        path for path in files_below(folder) if not any(is_bookkeeping(part) for part in path.relative_to(folder).parts)
    ]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(found)}
