"""The sample tool of `examples/own_tool`, here and on Azure ML."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from himl_cli.core.runs import RunStatus
from tests.api.scripts import run_script
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns

EXAMPLES = Path(__file__).parents[2] / "examples" / "own_tool"


@pytest.fixture
def tool(project: Path) -> Path:
    """A copy of the sample tool in the project's folder."""
    return Path(shutil.copy(EXAMPLES / "summary_typer.py", project))


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add("digits_1_aa", experiment="digits", tags={"team": "blue"}, seconds=60)
    runs.add("digits_2_bb", experiment="digits", status=RunStatus.failed, seconds=5)
    runs.log("digits_1_aa", [("loss", 2.0, 1, 1000), ("loss", 0.125, 2, 2000), ("loss", 0.25, 3, 3000), ("accuracy", 0.9, 1, 1000)])
    write_files(project, {"most_recent_run.txt": "digits:digits_2_bb\n"})
    return runs


def said(tool: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_script(tool, *arguments)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.usefixtures("recorded")
def test_runs_here_are_a_line_each(tool: Path) -> None:
    header = "run\tstatus\tseconds\tlast\tlowest\n"
    best, failed = "digits_1_aa\tCompleted\t60.0\t0.25\t0.125\n", "digits_2_bb\tFailed\t5.0\t\t\n"
    assert said(tool, "--experiment", "digits", "--num_runs", "all").stdout == header + failed + best
    assert said(tool, "digits_1_aa").stdout == header + best
    assert said(tool).stdout == header + failed
    assert said(tool, "digits_1_aa", "--metric", "accuracy", "-q").stdout == "digits_1_aa\n"
    (row,) = json.loads(said(tool, "--run", "digits_1_aa", "--metric", "accuracy", "--json").stdout)
    assert row == {"run": "digits_1_aa", "status": "Completed", "seconds": 60.0, "last": 0.9, "lowest": 0.9}


@pytest.mark.usefixtures("recorded")
def test_failures_are_those_of_himl(tool: Path, himl: Himl) -> None:
    unknown = said(tool, "digits_1_ab", code=3)
    assert (unknown.stdout, unknown.stderr) == ("", himl("runs", "show", "digits_1_ab").stderr)
    assert json.loads(said(tool, "digits_1_ab", "--json", code=3).stderr)["error"]["code"] == "run_not_found"


def test_runs_on_azure_ml_are_found_in_the_same_way(tool: Path, azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    config = azure.write_config(project)
    run = azure.add_run("digits_3_cc", "digits", seconds=90)
    azure.add_metric(run, "loss", [0.5, 0.75])
    azure.add_run("digits_4_dd", "digits", status="Failed", error="CUDA out of memory")
    shown = json.loads(said(tool, "--experiment", "digits", "--num_runs", "2", "--json").stdout)
    assert [(row["run"], row["status"], row["last"], row["lowest"]) for row in shown] == [
        ("digits_4_dd", "Failed", None, None),
        ("digits_3_cc", "Completed", 0.75, 0.5),
    ]
    assert said(tool, "--config_file", str(config), "--run_recovery_ids", "digits:digits_3_cc", "-q").stdout == "digits_3_cc\n"


def test_finished_job_is_found_by_file_written_by_submit(tool: Path, himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print('trained')\n"})
    run_id = himl.ok("submit", "train.py", "-q").stdout.strip()
    (row,) = json.loads(said(tool, "--json").stdout)
    assert (row["run"], row["status"]) == (run_id, "Completed")
