"""`himl submit --resume`: going on with what stopped, by the installed program."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest

from tests.support.folders import files_with
from tests.support.running import Himl, until, write_files
from tests.support.sweeps import KEEPER, NOTING, SUPERVISOR, children, kill, lines, log_of, notes_folder, pids, show, statuses

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX, /proc")

# Goes on at the step behind the last one that it kept; fails at step 2 while ../notes/broken is there.
TRAINING = """
import os, sys
from pathlib import Path
from himl_cli import RUN_CONTEXT
notes, kept = Path(os.environ["NOTES"]), Path("outputs/step.txt")
begin = int(kept.read_text()) + 1 if kept.exists() else 0
print("from", begin, flush=True)
for step in range(begin, 4):
    if step == 2 and (notes / "broken").exists():
        sys.exit(9)
    RUN_CONTEXT.log("loss", 10 - step, step=step)
    kept.write_text(str(step))
"""


def latest(himl: Himl) -> str:
    return himl.ok("runs", "list", "-q", "--num_runs", "1").stdout.strip()


def test_a_failed_job_goes_on_in_its_folder_with_its_metrics(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": TRAINING})
    notes = notes_folder(tmp_path)
    (notes / "broken").touch()
    env = {"NOTES": str(notes)}
    assert himl("submit", "train.py", "--tag", "team=blue", env=env).code == 1
    run = latest(himl)
    (notes / "broken").unlink()
    write_files(project, {"train.py": "raise SystemExit('this is not what was submitted')"})
    resumed = himl.ok("submit", "--resume", run, env=env)
    assert resumed.stdout == "from 2\n"
    facts = show(himl, run)
    assert (facts["status"], facts["exit_code"], facts["reason"], facts["tags"]["team"]) == ("Completed", 0, "", "blue")
    (loss,) = facts["metrics"]
    assert (loss["value"], loss["step"], loss["count"]) == (7, 3, 4)
    assert (project / f".himl/runs/{run}/user_logs/try_1/std_log.txt").read_text() == "from 0\n"
    assert himl.ok("runs", "logs", run, "--file", "user_logs/try_1/std_log.txt").stdout == "from 0\n"


@POSIX
def test_a_job_whose_supervisor_was_killed_goes_on(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    env = {"NOTES": str(notes)}
    himl.ok("submit", "train.py", "--no_wait", env=env)
    until(lambda: len(lines(notes / "starts")) == 1)
    kill(project, SUPERVISOR)
    (notes / "hold").unlink()
    himl.ok("submit", "--resume", latest(himl), env=env)
    assert show(himl, latest(himl))["status"] == "Completed"


def test_a_completed_run_and_one_that_is_at_work_are_refused(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path)
    env = {"NOTES": str(notes)}
    himl.ok("submit", "train.py", env=env)
    refused = himl("submit", "--resume", latest(himl), env=env)
    assert (refused.code, "is completed: nothing is left to do" in refused.stderr) == (2, True)
    (notes / "hold").touch()
    himl.ok("submit", "train.py", "--no_wait", env=env)
    refused = himl("submit", "--resume", latest(himl), env=env)
    assert (refused.code, "is still at work" in refused.stderr) == (2, True)
    (notes / "hold").unlink()
    until(lambda: show(himl, latest(himl))["status"] == "Completed")


def test_variables_have_to_be_given_again(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import os, sys\nsys.exit(os.environ['SEED'] != '2')\n"})
    assert himl("submit", "train.py", "--env_var", "SEED=1").code == 1
    run = latest(himl)
    refused = himl("submit", "--resume", run)
    assert (refused.code, "--env_var SEED=" in refused.stderr) == (2, True)
    himl.ok("submit", "--resume", run, "--env_var", "SEED=2")
    assert show(himl, run)["status"] == "Completed"


def test_a_secret_among_the_arguments_is_not_kept(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "raise SystemExit(1)"})
    assert himl("submit", "train.py", "--", "--api_key", "sesame-open-1").code == 1
    run = latest(himl)
    refused = himl("submit", "--resume", run)
    assert (refused.code, "its arguments hold a secret" in refused.stderr, "--api_key" in refused.stderr) == (2, True, True)
    assert files_with(project / ".himl" / "runs" / run, "sesame-open-1") == []


def test_other_arguments_are_refused_and_the_same_ones_are_not(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import sys\nprint(sys.argv[1:])\nraise SystemExit(1)"})
    assert himl("submit", "train.py", "--", "--val", "2").code == 1
    run = latest(himl)
    refused = himl("submit", "--resume", run, "--", "--val", "3")
    assert (refused.code, "goes on with the arguments of 'train.py --val 2', not with '--val 3'" in refused.stderr) == (2, True), refused.stderr
    assert himl("submit", "--resume", run, "--", "--val", "2").stdout == "['--val', '2']\n"


def test_a_pipeline_is_no_sweep(himl: Himl, project: Path) -> None:
    step = {"type": "PythonScriptStep", "script": "train.py", "source_directory": "."}
    write_files(project, {"train.py": "raise SystemExit(1)", "p.json": json.dumps({"step1": step})})
    assert himl("submit", "p.json").code == 1
    refused = himl("submit", "--resume", "latest", "--sweep", "a=1")
    assert (refused.code, "is: a pipeline; not: " in refused.stderr) == (2, True), refused.stderr


def test_a_count_of_tokens_is_no_secret(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import sys\nprint(sys.argv[1:])\nraise SystemExit(1)"})
    assert himl("submit", "train.py", "--", "--token_count", "5").code == 1
    assert himl("submit", "--resume", latest(himl)).stdout == "['--token_count', '5']\n"


def test_a_trial_is_resumed_with_its_sweep(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "raise SystemExit(1)"})
    assert himl("submit", "train.py", "--sweep", "n=1,2").code == 1
    run = latest(himl)
    refused = himl("submit", "--resume", f"{run}_1")
    assert (refused.code, f"himl submit --resume {run}" in refused.stderr) == (2, True)


def test_resume_of_sweep_runs_failed_and_unstarted_trials(himl: Himl, project: Path, tmp_path: Path) -> None:
    script = NOTING + "\nif (notes / 'broken').exists() and sys.argv[2] != '0': raise SystemExit(4)\n"
    write_files(project, {"train.py": script})
    notes = notes_folder(tmp_path)
    (notes / "broken").touch()
    env = {"NOTES": str(notes)}
    options = ("--sweep", "n=1,2,3,0,4", "--max_concurrent", "1")
    assert himl("submit", "train.py", *options, env=env).code == 1
    run = latest(himl)
    assert statuses(himl, run) == ["Failed"] * 3
    (notes / "broken").unlink()
    himl.ok("submit", "--resume", run, "--max_concurrent", "2", env=env)
    assert statuses(himl, run) == ["Completed"] * 5
    assert sorted(lines(notes / "ends")) == sorted([f"{run}_{number}" for number in (0, 0, 1, 1, 2, 2, 3, 4)])
    assert "resumed: 5 of 5 trials are left, 0 at work" in log_of(project, run)
    assert [each["tags"]["hyperparameters"] for each in children(himl, run)] == [f'{{"n": {number}}}' for number in (1, 2, 3, 0, 4)]


def test_a_tag_that_somebody_changed_does_not_hinder(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import sys\nfrom pathlib import Path\nsys.exit(sys.argv[2] == '2' and not Path('../../../../mended').exists())\n"})
    assert himl("submit", "train.py", "--sweep", "n=1,2").code == 1
    run = latest(himl)
    himl.ok("runs", "tag", f"{run}_0", "himl.trial=the first")
    (project / "mended").touch()
    himl.ok("submit", "--resume", run)
    assert statuses(himl, run) == ["Completed"] * 2


def test_a_trial_that_was_stopped_early_is_not_run_again(himl: Himl, project: Path, tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from himl_cli import RUN_CONTEXT
with (Path(os.environ["NOTES"]) / "starts").open("a") as stream:
    stream.write(sys.argv[2] + "\\n")
RUN_CONTEXT.log("val/loss", float(sys.argv[2]))
if sys.argv[2] == "50":
    time.sleep(600)
if (Path(os.environ["NOTES"]) / "broken").exists():
    sys.exit(sys.argv[2] == "3")
"""
    write_files(project, {"train.py": script})
    notes = notes_folder(tmp_path)
    (notes / "broken").touch()
    env = {"NOTES": str(notes)}
    assert himl("submit", "train.py", "--sweep", "loss=1,50,3", "--early_stop", "bandit(slack_amount=10)", env=env).code == 1
    run = latest(himl)
    assert statuses(himl, run) == ["Completed", "Canceled", "Failed"]
    (notes / "broken").unlink()
    himl.ok("submit", "--resume", run, env=env)
    assert statuses(himl, run) == ["Completed", "Canceled", "Completed"]
    assert lines(notes / "starts") == ["1", "50", "3", "3"]


@POSIX
@pytest.mark.parametrize("who", ["keeper", "all"])
@pytest.mark.parametrize("chance", range(2))
def test_resume_after_killed_sweep_completes_with_no_result_lost(himl: Himl, project: Path, tmp_path: Path, who: str, chance: int) -> None:
    """Trials whose supervisor lives end by themselves, and are run once; the end of a trial that is on record stays. The last trial never ends by itself."""
    last_one_waits = NOTING.replace('(notes / "hold").exists()', '(notes / "hold").exists() and sys.argv[2] == "11"')
    write_files(project, {"train.py": last_one_waits})
    notes = notes_folder(tmp_path, holds=True)
    env = {"NOTES": str(notes)}
    himl.ok("submit", "train.py", "--no_wait", "--sweep", f"n={','.join(map(str, range(12)))}", "--max_concurrent", "3", env=env)
    run = latest(himl)
    moment = random.Random(f"{who}/{chance}").random() * 1.5
    time.sleep(moment)
    kill(project, KEEPER)
    if who == "all":
        kill(project, SUPERVISOR)
        until(lambda: not pids(project, b"train.py"))
    assert show(himl, run)["status"] == "Failed"
    completed = {each["id"] for each in show(himl, run)["children"] if each["status"] == "Completed"}
    (notes / "hold").unlink()
    himl.ok("submit", "--resume", run, env=env)
    assert statuses(himl, run) == ["Completed"] * 12, f"killed after {moment:.3f} s"
    times = {f"{run}_{number}": lines(notes / "ends").count(f"{run}_{number}") for number in range(12)}
    assert all(times.values())
    assert [times[each] for each in completed] == [1] * len(completed)
    if who == "keeper":
        assert set(times.values()) == {1}, f"killed after {moment:.3f} s"
    values = [(project / f".himl/runs/{run}_{number}/code/outputs/result.txt").read_text() for number in range(12)]
    assert values == [f"--n {number}" for number in range(12)]


@pytest.mark.parametrize("many", ["trial", "step"])
def test_failed_restart_on_resume_does_not_repeat_earlier_error(himl: Himl, project: Path, many: str) -> None:
    step = {"type": "PythonScriptStep", "script": "train.py", "source_directory": "."}
    write_files(project, {"train.py": "print('of the first try')\nraise SystemExit(9)", "p.json": json.dumps({"step1": step})})
    submitted = himl("submit", *(("train.py", "--sweep", "n=1,2") if many == "trial" else ("p.json",)))
    assert (submitted.code, "exit code 9" in submitted.stdout) == (1, True)
    run = latest(himl)
    child = children(himl, run)[-1]["id"]
    log = project / f".himl/runs/{child}/supervisor.log"
    log.unlink()
    log.mkdir()  # nothing can be written there
    resumed = himl("submit", "--resume", run)
    told = [line for line in resumed.stdout.splitlines() if "could not be started: Cannot start the job" in line]
    assert (resumed.code, bool(told)) == (1, True), resumed.stdout
    assert resumed.stdout.count("exit code 9") == (1 if many == "trial" else 0), resumed.stdout


@POSIX
def test_of_two_that_resume_at_once_one_does(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    env = {"NOTES": str(notes)}
    himl.ok("submit", "train.py", "--no_wait", "--sweep", "n=1,2", env=env)
    run = latest(himl)
    until(lambda: len(lines(notes / "starts")) == 1)
    kill(project, KEEPER)
    both = [himl.start("submit", "--resume", run, "--no_wait", env=env) for _ in range(2)]
    codes = sorted(process.wait(60) for process in both)
    for process in both:
        process.communicate()
    assert codes == [0, 2]
    (notes / "hold").unlink()
    until(lambda: show(himl, run)["status"] == "Completed")
    assert sorted(lines(notes / "ends")) == [f"{run}_0", f"{run}_1"]


# The first try of a trial logs 100 at steps 0 to 3 and fails; the next one goes on from $FROM, and logs its argument times the step's number.
TWO_TRIES = """
import os, sys
from pathlib import Path
from himl_cli import RUN_CONTEXT
begun = Path("outputs/begun")
if not begun.exists():
    begun.touch()
    for step in range(4):
        RUN_CONTEXT.log("acc", 100, step=step)
    sys.exit(9)
for step in range(int(os.environ["FROM"]), 6):
    RUN_CONTEXT.log("acc", float(sys.argv[2]) * step, step=step)
"""


@pytest.mark.parametrize(("begin", "earlier", "best"), [("0", [], 1), ("2", [100.0, 100.0], 0)])
def test_later_try_replaces_metrics_from_its_first_step_on(himl: Himl, project: Path, begin: str, earlier: list[float], best: int) -> None:
    """Of a script that begins anew nothing of the first try is left, of one that goes on the steps before that; also where the best trial is chosen."""
    write_files(project, {"train.py": TWO_TRIES})
    first = himl("submit", "train.py", "--sweep", "n=1,2", "--primary_metric", "acc", "--goal", "maximize", env={"FROM": begin})
    assert (first.code, first.stdout.count("exit code 9")) == (1, 2), first.stdout
    run = latest(himl)
    himl.ok("submit", "--resume", run, env={"FROM": begin})
    assert show(himl, run)["tags"]["himl.best_trial"] == f"{run}_{best}"
    (acc,) = show(himl, f"{run}_1")["metrics"]
    assert (acc["value"], acc["step"], acc["count"]) == (10.0, 5, 6)
    trials = himl.ok("runs", "aggregate", run, "--json").json()["children"]
    assert trials[1]["series"]["acc"]["steps"] == [0, 1, 2, 3, 4, 5]
    assert trials[1]["series"]["acc"]["values"] == [*earlier, *(2.0 * step for step in range(int(begin), 6))]
    assert "best 100" in log_of(project, run) or begin == "0"


def test_a_random_sweep_goes_on_with_its_seed(himl: Himl, project: Path) -> None:
    """Trials that were never started get what they would have got; the same options may be given again, without the seed that was drawn."""
    write_files(project, {"train.py": "import os\nos.environ['GOOD']"})
    options = ("--sweep", "lr=uniform(0,1)", "--max_trials", "5")
    assert himl("submit", "train.py", *options).code == 1
    run = latest(himl)
    sampling = show(himl, run)["tags"]["himl.sweep"].split(", ")[1]
    himl.ok("submit", "--resume", run, *options, env={"GOOD": "1"})
    resumed = [each["tags"]["hyperparameters"] for each in children(himl, run)]
    himl.ok("submit", "train.py", *options, "--sampling", sampling, env={"GOOD": "1"})
    assert [each["tags"]["hyperparameters"] for each in children(himl, latest(himl))] == resumed


def test_a_shorter_second_try_has_the_last_value(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": TWO_TRIES.replace("6)", "2)")})
    first = himl("submit", "train.py", "--sweep", "n=1,2", "--primary_metric", "acc", env={"FROM": "0"})
    assert (first.code, first.stdout.count("exit code 9")) == (1, 2), first.stdout
    run = latest(himl)
    himl.ok("submit", "--resume", run, env={"FROM": "0"})
    (acc,) = show(himl, f"{run}_1")["metrics"]
    assert (acc["value"], acc["step"], acc["count"]) == (2.0, 1, 2)
    aggregated = himl.ok("runs", "aggregate", run, "--json").json()
    assert [trial["last"]["acc"] for trial in aggregated["children"]] == [1.0, 2.0]
