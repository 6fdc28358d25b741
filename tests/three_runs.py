"""Three runs on record for tests of `himl runs`, and the mark of those tests that need POSIX."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from himl_cli.core.runs import RunStatus
from tests.recorded_runs import RecordedRuns

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal or signals")


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    """Three runs, the newest with metrics, parameters and children."""
    runs = RecordedRuns(project)
    runs.add("base_1_aa", experiment="base", display_name="baseline", exit_code=0, tags={"team": "blue"})
    runs.add("train_2_bb", status=RunStatus.failed, exit_code=3, reason="exit code 3", seconds=3.25, tags={"team": "red", "build_branch": "main"})
    runs.add(
        "train_3_cc",
        exit_code=0,
        tags={"team": "blue"},
        files={"user_logs/std_log.txt": b"epoch 1\n\xff\xfe raw\n", "user_logs/std_log_process_1.txt": "rank 1\n"},
    )
    runs.add("fold_0", parent="train_3_cc", display_name="fold 0")
    runs.add("fold_1", parent="train_3_cc", display_name="fold 1", status=RunStatus.failed, exit_code=1)
    runs.log("train_3_cc", [("val/loss", 1.0, 1, 1), ("val/loss", 0.5, 2, 2), ("grad", float("nan"), 2, 2), ("big", float("-inf"), 2, 2)], {"lr": "0.1"})
    runs.log("fold_0", [("val/loss", 0.25, 1, 1)])
    return runs
