"""How much work fixed jobs are, in calls of functions: a count that is the same on every machine, where times are noise.

Calls are not time: a call may do more. What they notice is work that is done once more for each file, run or slide, and work that grows
faster than what there is to do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guards.jobs import JOBS

ROOT = Path(__file__).parents[2]
MEASURED = {
    (3, 11): {"plan": 182_435, "download": 56_249, "listing": 150_025, "runs list": 141_306, "aggregate": 100_822, "montage": 35_769},
}
"""Calls of the larger of each two jobs, by the version of Python. A change that makes them fewer is welcome to lower these."""
SLACK, TWICE = 1.15, 2.1


@pytest.mark.parametrize("name", JOBS)
def test_job_call_count_stays_as_measured_and_grows_with_size(name: str, tmp_path: Path) -> None:
    """On a Python whose calls were not measured, the growth alone is compared."""
    variables = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "tests.guards.jobs", name, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    calls, of_twice = json.loads(done.stdout)
    assert of_twice <= TWICE * calls, f"{JOBS[name].size} took {calls:,} calls, and twice as many {of_twice:,}"
    if (measured := MEASURED.get(sys.version_info[:2])) is not None:
        assert of_twice <= SLACK * measured[name], f"{of_twice:,} calls; it was {measured[name]:,}"
