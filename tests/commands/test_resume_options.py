"""`himl submit --resume`: which run is meant, which options go with it, what is refused, and what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, write_files
from tests.support.sweeps import lab as lab
from tests.support.sweeps import script as script

FAILS_ONCE = """
import os, sys
mark = os.environ["MARKS"] + "/" + sys.argv[sys.argv.index("--random_seed") + 1]
if not os.path.exists(mark):
    open(mark, "w").close()
    sys.exit(3)
"""


def test_sweep_with_failed_trial_exits_1_and_resume_completes_it(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"once.py": FAILS_ONCE})
    marks = tmp_path / "marks"
    write_files(marks, {"0": "", "2": ""})
    variable = ("--env_var", f"MARKS={marks}")
    outcome = himl("submit", "once.py", "--different_seeds", "3", *variable)
    run_id = himl.ok("runs", "list", "--json").json()[0]["id"]
    assert outcome.code == 1
    assert outcome.stderr.splitlines()[-2:] == [
        f"error: Run '{run_id}' failed: 1 of 3 trials failed.",
        f"hint: What went wrong: himl runs logs {run_id}_1; to do what is missing: himl submit --resume {run_id}",
    ]
    without = himl("submit", "--resume", run_id)
    assert (without.code, "MARKS" in without.stderr) == (2, True)
    resumed = himl.ok("submit", "--resume", run_id, *variable)
    assert "trial 1, random_seed=1: completed" in resumed.stdout
    assert "trial 0" not in resumed.stdout, "what was shown before is not shown again"
    assert [child["status"] for child in himl.ok("runs", "show", run_id, "--json").json()["children"]] == ["Completed"] * 3
    assert himl("submit", "--resume", run_id, *variable).code == 2, "nothing is left to do"


@pytest.fixture
def failed(himl: Himl, project: Path, tmp_path: Path) -> tuple[str, str]:
    """The recovery id of a sweep of which a trial is missing, and the variable that it needs."""
    write_files(project, {"once.py": FAILS_ONCE})
    write_files(tmp_path / "marks", {"0": ""})
    variable = f"MARKS={tmp_path / 'marks'}"
    assert himl("submit", "once.py", "--different_seeds", "2", "--env_var", variable, "--", "--fixed", "1").code == 1
    return himl.ok("runs", "list", "--json").json()[0]["recovery_id"], variable


def test_resume_takes_the_same_options_again_and_refuses_others(himl: Himl, failed: tuple[str, str]) -> None:
    run, variable = failed
    for options, said in [
        (("train.py",), "was made by 'once.py --fixed 1', not by 'train.py'."),
        (("once.py", "--", "--fixed", "2"), "was made by 'once.py --fixed 1'"),
        (("--different_seeds", "3"), "not: random_seed=0,1,2, 3 runs, mean of val/loss."),
        (("--sweep", "random_seed=0,1", "--goal", "maximize"), "maximize val/loss."),
        (("--cluster", "gpu"), "--cluster does not go with --resume"),
        (("--experiment", "other"), "--experiment does not go with --resume"),
        (("--dry_run",), "--dry_run does not go with --resume"),
        (("--max_concurrent", "0"), "--max_concurrent 0: at least 1 is needed."),
    ]:
        outcome = himl("submit", "--resume", run, "--env_var", variable, *options)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert said in outcome.stderr.splitlines()[0]
    himl.ok("submit", "once.py", "--resume", run, "--env_var", variable, "--different_seeds", "2", "--max_concurrent", "2", "--", "--fixed", "1")


def test_resume_finds_the_latest_run_and_writes_it_down(himl: Himl, project: Path, failed: tuple[str, str]) -> None:
    run, variable = failed
    (project / "most_recent_run.txt").unlink()
    quiet = himl.ok("submit", "--resume", "latest", "--env_var", variable, "-q")
    assert run.endswith(quiet.stdout.strip())
    assert (project / "most_recent_run.txt").read_text().strip() == run


def test_resume_of_a_run_that_is_not_there_is_exit_code_3(himl: Himl) -> None:
    himl.ok("submit", "train.py")
    assert himl("submit", "--resume", "nothing").code == 3


def test_resume_on_azure_is_refused_with_the_way_on(himl: Himl, lab: StagedWorkspace) -> None:
    lab.add_run("there_1", "e", status="Failed")
    outcome = himl("submit", "--resume", "there_1")
    assert outcome.code == 2
    assert "where no run can be resumed" in outcome.stderr
    assert "Submit it again" in outcome.stderr
