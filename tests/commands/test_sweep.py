"""Tests of sweeps: their trials, their outcome, refusals, canceled, interrupted and killed sweeps, and `himl submit
--resume`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.azureml_double.seeding import StagedWorkspace
from tests.support.folders import files_with
from tests.support.processes import processes_below
from tests.support.running import Himl, Outcome, until, write_files
from tests.support.sweeps import (
    KEEPER,
    NOTING,
    SUPERVISOR,
    children,
    kill,
    lines,
    log_of,
    notes_folder,
    pids,
    show,
    statuses,
)
from tests.support.sweeps import lab as lab
from tests.support.sweeps import script as script

ARGUMENTS = (
    "import json, os, sys\nopen('outputs/seen.json', 'w').write(json.dumps([sys.argv[1:], dict(os.environ), "
    "open('data.txt').read()]))\n"
)
LOSS_OF_LR = (
    "import sys\nfrom himl_cli import RUN_CONTEXT\nlr = float(sys.argv[2])\nfor step in range(3):\n"
    "    RUN_CONTEXT.log('val/loss', lr * (3 - step))\n"
)
# A trial with a high loss logs it, then waits until it is stopped.
POOR_ONES_WAIT = """
import sys, time
from himl_cli import RUN_CONTEXT
loss = float(sys.argv[2])
for step in range(6):
    if loss < 0.1:
        import mlflow
        mlflow.log_metric("val/loss", loss, step=step)
    else:
        RUN_CONTEXT.log("val/loss", loss, step=step)
RUN_CONTEXT.flush()
if loss > 1:
    print("waiting", flush=True)
    time.sleep(600)
"""
SCORES = """
import argparse
from himl_cli import RUN_CONTEXT
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--name")
args = parser.parse_args()
RUN_CONTEXT.log("score", args.lr)
if args.name == "fails":
    raise SystemExit(3)
"""
BY_SCORE = ("--cluster", "cpu-cluster", "--primary_metric", "score", "--goal", "maximize")
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX, /proc")
# The first attempt of a trial logs 100 at steps 0 to 3 and fails. The next one continues from step $FROM, and logs its
# argument times the step's number.
TWO_TRIES = """
import os, sys
from datetime import datetime
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
FAILS_ONCE = """
import os, sys
mark = os.environ["MARKS"] + "/" + sys.argv[sys.argv.index("--random_seed") + 1]
if not os.path.exists(mark):
    open(mark, "w").close()
    sys.exit(3)
"""


def sweep(himl: Himl, *options: str | Path, code: int = 0, **env: str) -> str:
    done = himl("submit", "train.py", "--experiment", "exp", "-q", *options, env=env)
    assert done.code == code, done.stderr
    return str(himl.ok("runs", "list", "-q", "--num_runs", "1").stdout.strip())


def seen(project: Path, run: str) -> tuple[list[str], dict[str, str], str]:
    arguments, environment, data = json.loads((project / f".himl/runs/{run}/code/outputs/seen.json").read_text())
    return arguments, environment, data


@pytest.mark.large("imports MLflow in jobs")
def test_poor_trials_are_stopped_early_and_not_run_again(himl: Himl, project: Path) -> None:
    write_files(
        project, {"train.py": POOR_ONES_WAIT + "import os\nsys.exit('BROKEN' in os.environ and loss == 0.05)\n"}
    )
    parent = sweep(himl, "--sweep", "loss=0.1,50,0.05", "--early_stop", "bandit(slack_factor=0.5)", code=1, BROKEN="1")
    found = children(himl, parent)
    assert [run["status"] for run in found] == ["Completed", "Canceled", "Failed"]
    assert found[1]["reason"].startswith("stopped early by bandit at interval ")
    assert found[1]["tags"]["himl.stopped_early"] == "bandit"
    told = log_of(project, parent)
    assert ("trial 1, loss=50: stopped early by bandit" in told, told.count("stopped early by")) == (True, 1)
    himl.ok("submit", "--resume", parent)
    assert statuses(himl, parent) == ["Completed", "Canceled", "Completed"]
    assert log_of(project, parent).count("trial 1, loss=50: started") == 1


def drawn(himl: Himl, parent: str) -> list[dict[str, float]]:
    return [json.loads(run["tags"]["hyperparameters"]) for run in children(himl, parent)]


def test_grid_runs_every_combination_with_its_values(himl: Himl, project: Path) -> None:
    script = (
        ARGUMENTS
        + "from pathlib import Path\n(Path(os.environ['AZURE_ML_OUTPUT_model']) / 'm').write_text(sys.argv[2])\n"
    )
    write_files(
        project,
        {"train.py": script, "data.txt": "snapshot", "site/sitecustomize.py": "print('welcome', end='', flush=True)\n"},
    )
    options = (
        "--sweep",
        "lr=0.10,0.033234493303921135",
        "--sweep",
        'net=small,"64,32"',
        "--max_concurrent",
        "2",
        "--output",
        "model=models",
    )
    variables = ("--env_var", "WANDB_API_KEY=very-secret-1", "--processes_per_node", "1")
    outcome = himl(
        "submit",
        "train.py",
        *options,
        *variables,
        "--",
        "--epochs",
        "3",
        "--rate=${{search_space.lr}}",
        env={"PYTHONPATH": str(project / "site")},
    )
    assert outcome.code == 0, outcome.stderr
    assert (
        outcome.stderr.splitlines()[0]
        == 'Sweep: lr=0.10,0.033234493303921135 net=small,"64,32", grid, 4 trials, minimize val/loss.'
    )
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    assert f"Compare all metrics: himl runs aggregate {parent}" in outcome.stderr
    found = children(himl, parent)
    names = [
        "lr=0.10, net=small",
        "lr=0.10, net=64,32",
        "lr=0.033234493303921135, net=small",
        "lr=0.033234493303921135, net=64,32",
    ]
    assert [(run["id"], run["status"], run["display_name"]) for run in found] == [
        (f"{parent}_{n}", "Completed", name) for n, name in enumerate(names)
    ]
    assert "trial 2, lr=0.0332345, net=small: started" in log_of(project, parent), "numbers in six digits"
    assert drawn(himl, parent)[3] == {"lr": 0.033234493303921135, "net": "64,32"}
    arguments, environment, data = seen(project, f"{parent}_1")
    assert (arguments, data) == (["--epochs", "3", "--rate=0.10", "--net", "64,32"], "snapshot")
    wanted = {
        "AZUREML_SWEEP_lr": "0.10",
        "AZUREML_SWEEP_net": "64,32",
        "AZUREML_RUN_ID": f"{parent}_1",
        "AZUREML_ROOT_RUN_ID": parent,
        "RANK": "0",
    }
    assert {name: environment[name] for name in wanted} == wanted
    assert show(himl, f"{parent}_1")["parameters"] == {"lr": "0.10", "net": "64,32"}
    store = project / ".himl/datastores/local/models"
    assert {path.parent.name for path in store.glob("*/m")} == {f"{parent}_{number}" for number in range(4)}
    himl.ok("download", f"{parent}_1", "--output_key", "model", "--output_dir", "got", "--flat")
    assert (project / "got/m").read_text() == "3"
    assert [path.name for path in files_with(project / ".himl", "very-secret-1")] == ["seen.json"] * 4, (
        "which the script wrote"
    )


@pytest.mark.large("runs many trials")
def test_values_reach_a_script_as_it_takes_them_and_numbers_keep_their_spelling(himl: Himl, project: Path) -> None:
    script = """
import argparse, json, sys
parser = argparse.ArgumentParser()
parser.add_argument("--amp", action="store_true")
parser.add_argument("--ema", action=argparse.BooleanOptionalAction)
parser.add_argument("--sizes", nargs="+", type=int)
parser.add_argument("--py")
parser.parse_known_args()
print(json.dumps(sys.argv[1:]))
sys.exit("1e-4" in sys.argv)
"""
    write_files(
        project,
        {"train.py": script, "himl.toml": '[submit]\nsweep.lr = [1e-4, 1e5]\nsweep.v = ["3.10"]\nmax_concurrent = 4\n'},
    )
    rows: list[tuple[list[str], list[list[str]], list[str]]] = [
        ([], [["--lr", "1e-4", "--v", "3.10"], ["--lr", "1e5", "--v", "3.10"]], ["lr=1e-4, v=3.10", "lr=1e5, v=3.10"]),
        (
            ["--sweep", "amp=true,false", "--sweep", "ema=False"],
            [["--amp", "--no-ema"], ["--no-ema"]],
            ["amp=true, ema=False", "amp=false, ema=False"],
        ),
        (
            ["--sweep", 'sizes="64 32",128', "--sweep", "py=3.10"],
            [["--sizes", "64", "32", "--py", "3.10"], ["--sizes", "128", "--py", "3.10"]],
            ["sizes=64 32, py=3.10", "sizes=128, py=3.10"],
        ),
        (
            ["--sweep", "x=switch(true,--no-x)", "--sweep", "y=words(a 'b c')"],
            [["--x", "--y", "a", "b c"], ["--no-x", "--y", "a", "b c"]],
            ["x=true, y=a 'b c'", "x=--no-x, y=a 'b c'"],
        ),
    ]
    for options, arguments, names in rows:
        ended = himl("submit", "train.py", *options)
        found = children(himl, latest(himl))
        assert [run["display_name"] for run in found] == names, ended.stderr
        assert [json.loads(log_of(project, run["id"])) for run in found] == arguments
        if not options:
            assert himl("submit", "--resume", "latest").code == 1
            assert log_of(project, f"{latest(himl)}_0") == '["--lr", "1e-4", "--v", "3.10"]\n', "the second attempt"
            assert [run["tags"]["hyperparameters"] for run in found] == [
                '{"lr": 1e-4, "v": "3.10"}',
                '{"lr": 1e5, "v": "3.10"}',
            ]
            assert [run["hyperparameters"] for run in show(himl, latest(himl))["children"]] == [
                {"lr": 1e-4, "v": "3.10"},
                {"lr": 1e5, "v": "3.10"},
            ]
            assert show(himl, f"{latest(himl)}_1")["parameters"] == {"lr": "1e5", "v": "3.10"}
            assert himl.ok("runs", "aggregate", "--child_arg", "lr", "--json").json()["children"][1]["label"] == "1e5"
            assert "trial 1, lr=1e5, v=3.10: started" in log_of(project, latest(himl))
    assert "y: " not in ended.stderr


@pytest.mark.large("runs many trials")
def test_log_tells_the_course_and_best_trial_is_noted(himl: Himl, project: Path) -> None:
    script = LOSS_OF_LR + "import os\nprint('boom')\nsys.exit(3 * (lr < float(os.environ['FAILS_BELOW'])))\n"
    write_files(project, {"train.py": script})
    parent = sweep(himl, "--sweep", "lr=0.5,0.25,1", code=1, FAILS_BELOW="0.3")
    assert statuses(himl, parent) == ["Completed", "Failed", "Completed"]
    run = show(himl, parent)
    assert (run["status"], run["reason"], run["metrics"]) == ("Failed", "1 of 3 trials failed", [])
    wanted = {"best_trial": f"{parent}_0", "primary_metric": "val/loss", "goal": "minimize", "many": "sweep"}
    assert {name: run["tags"][f"himl.{name}"] for name in wanted} == wanted
    told = [line.split(" ", 1)[1] for line in log_of(project, parent).splitlines()]
    assert told[:2] == ["3 trials, 1 at once", f"trial 0, lr=0.5: started, {parent}_0"]
    assert all(datetime.fromisoformat(line.split(" ")[0]).tzinfo for line in log_of(project, parent).splitlines()), (
        "with the zone"
    )
    assert told[2].startswith("trial 0, lr=0.5: completed after ")
    assert told[2].endswith("s, val/loss 0.5 (1 of 3 ended)")
    assert re.search(r"exit code 3.*; last line of its log: boom \(2 of 3 ended\)", log_of(project, parent))
    assert f"best: trial 0, lr=0.5, val/loss 0.5, {parent}_0" in told
    broken = sweep(himl, "--sweep", "lr=0.5,0.25,0.5000001,4,5,6", code=1, FAILS_BELOW="9")
    assert show(himl, broken)["reason"] == "the first 3 trials to end failed; 3 of 6 were not started"
    assert show(himl, broken)["tags"]["himl.best_trial"] == f"{broken}_1"
    assert "best (no trial completed, this one is failed): trial 1, lr=0.25" in log_of(project, broken)
    misnamed = sweep(himl, "--sweep", "lr=0.5,0.25", "--primary_metric", "val/lss", FAILS_BELOW="0")
    complaints = [
        line for line in log_of(project, misnamed).splitlines() if "without the primary metric 'val/lss'" in line
    ]
    assert [[*line.split(" ")[1:3], line.endswith(", logged: val/loss (1 of 2 ended)")] for line in complaints] == [
        ["trial", "0,", True]
    ]


@pytest.mark.large("runs many trials")
@pytest.mark.usefixtures("known_disk")
def test_trials_keep_only_files_that_differ_from_those_of_the_sweep(himl: Himl, project: Path, tmp_path: Path) -> None:
    """The unchanged copies go when a trial ends, and come back when it runs again, except where a result is a link
    to one.
    """
    script = f"""
import os, sys, lib.part
from pathlib import Path

x = sys.argv[-1]
print(lib.part.VALUE, Path("state").read_text(), Path("data/a.bin").stat().st_size, sorted(os.listdir()))
Path("state").write_text(f"of {{x}}")
Path("added").touch()
Path("outputs/model").write_text(x)
if x == "3":
    os.symlink(os.path.abspath("data/a.bin"), "outputs/data")
sys.exit(x == "2" and not Path({str(tmp_path / "again")!r}).exists())
"""
    write_files(project, {"train.py": script, "lib/part.py": "VALUE = 7", "data/a.bin": bytes(1000), "state": "first"})
    run = himl("submit", "train.py", "--sweep", "x=1,2,3", "--max_concurrent", "1", "-q").stdout.strip()

    def files(name: str) -> list[str]:
        code = project / ".himl" / "runs" / name / "code"
        return sorted(path.relative_to(code).as_posix() for path in code.rglob("*") if not path.is_dir())

    own = ["added", "outputs/model", "state"]
    assert [files(f"{run}_{index}") for index in (0, 1)] == [own, own]
    assert {*own, "data/a.bin", "lib/part.py", "outputs/data", "train.py"} <= {*files(f"{run}_2")}
    until(lambda: files(run) == [])  # they are in the store
    assert himl.ok("runs", "diff", f"{run}_1", run, "-q").stdout == ""
    (tmp_path / "again").touch()
    himl.ok("submit", "--resume", run)
    until(lambda: files(run) == [])
    expected = "7 {} 1000 ['added', 'data', 'lib', 'logs', 'outputs', 'state', 'train.py']\n"
    assert himl.ok("runs", "logs", f"{run}_1").stdout == expected.format("of 2")
    assert (files(f"{run}_1"), show(himl, run)["status"]) == (own, "Completed")


@pytest.mark.large("runs many trials")
def test_sweep_whose_first_trials_fail_can_be_finished(himl: Himl, project: Path) -> None:
    write_files(
        project,
        {"train.py": "import sys\nsys.exit(float(sys.argv[2]) > 2)\n", "himl.toml": "[submit]\nmax_failures = 1\n"},
    )
    given_up = himl("submit", "train.py", "--sweep", "size=4,3,1")
    run = latest(himl)
    hint = f"himl submit --resume {run}"
    assert f"error: Run '{run}' failed: the first trial to end failed; 2 of 3 were not started.\n" in given_up.stderr
    assert himl("submit", "--resume", run).code == 1
    assert (show(himl, run)["reason"], statuses(himl, run)) == (
        "the first trial to end failed; 1 of 3 was not started",
        ["Failed"] * 2,
    )
    resumed = himl("submit", "--resume", run)
    assert (resumed.code, show(himl, run)["reason"], statuses(himl, run)) == (
        1,
        "2 of 3 trials failed",
        ["Failed"] * 2 + ["Completed"],
    )
    assert re.findall(r"(trial \d), size=\d: started", resumed.stdout) == ["trial 2", "trial 0", "trial 1"]
    again = himl("submit", "--resume", run)
    reason = f"the first trial to end failed; 1 of 3 was not started again; to run all: {hint} --max_failures 0"
    assert (again.code, show(himl, run)["reason"]) == (1, reason)
    assert again.stderr.splitlines()[-2:] == [
        f"error: Run '{run}' failed: {reason}.",
        f"hint: Show the cause: himl runs logs {run}_0",
    ]
    assert "To resume" not in himl.ok("runs", "show", run).stdout, "which the reason names"
    ended = himl(*hint.split()[1:], "--max_failures", "0")
    assert (ended.code, ended.stdout.count(": started"), show(himl, run)["reason"]) == (1, 2, "2 of 3 trials failed")
    write_files(project, {"train.py": "raise SystemExit(1)\n"})
    for options, failed in [(("--crossval", "2"), 1), (("--different_seeds", "2", "--max_failures", "0"), 2)]:
        assert himl("submit", "train.py", *options).code == 1
        assert statuses(himl, latest(himl)) == ["Failed"] * failed


@pytest.mark.large("runs many trials")
def test_folds_and_seeds_pass_their_number_and_none_is_best(himl: Himl, project: Path) -> None:
    script = (
        "import sys\nfrom himl_cli import RUN_CONTEXT\nRUN_CONTEXT.log('val/loss', 1 + 2 * int(sys.argv[-1]))\n"
        "print(*sys.argv[1:])\n"
    )
    write_files(project, {"train.py": script, "himl.toml": "[submit]\nearly_stop = 'median'\n"})
    outcome = himl.ok("submit", "train.py", "--crossval", "3", "--json")
    run = outcome.json()
    assert (run["status"], run["parent"], run["tags"]["himl.many"]) == ("Completed", None, "crossval")
    assert "Cross-validation: crossval_index=0,1,2, 3 runs, mean of val/loss." in outcome.stderr.splitlines()
    assert "trial 1, crossval_index=1: completed" in outcome.stderr
    told = log_of(project, run["id"])
    assert ("himl.best_trial" in run["tags"], "best" in told, "val/loss: mean 3, std 2 of 3 runs" in told) == (
        False,
        False,
        True,
    )
    assert [log_of(project, f"{run['id']}_{fold}") for fold in range(3)] == [
        f"--crossval_index {fold}\n" for fold in range(3)
    ]
    write_files(project, {"train.py": "import sys\nprint(*sys.argv[1:])\n"})
    folds = sweep(
        himl, "--crossval", "2", "--crossval_arg", "fold", "--crossval-count-arg", "folds", "--max_concurrent", "2"
    )
    assert log_of(project, f"{folds}_1") == "--folds 2 --fold 1\n"
    quiet = himl.ok("submit", "train.py", "--different_seeds", "2", "-q").stdout.strip()
    assert log_of(project, f"{quiet}_0") == "--random_seed 0\n"


def refused(himl: Himl, project: Path, *options: str, env: dict[str, str] | None = None) -> Outcome:
    outcome = himl("submit", "train.py", *options, env=env)
    assert (outcome.code, outcome.stdout) == (2, ""), outcome.stderr
    assert [line.partition(":")[0] for line in outcome.stderr.splitlines()] in (["error", "hint"], ["error"])
    assert not (project / ".himl").exists()
    return outcome


def test_what_makes_no_sense_is_refused_and_nothing_is_made(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    submit = ("submit", "train.py", "--cluster", "cpu-cluster")
    outcome = himl.ok(*submit, "--sweep", "lr=uniform(0,1)", "--max_trials", "3", "--dry_run")
    assert ("type: sweep" in outcome.stdout, "max_total_trials: 3" in outcome.stdout) == (True, True)
    (seed,) = re.findall(r"^  seed: (\d+)$", outcome.stdout, re.MULTILINE)
    assert f"random(seed={seed}), 3 trials" in outcome.stderr
    assert not lab.stage.log.all()
    for options, said in [
        (("--sweep", "lr=1,2", "--in_place"), "--in_place applies to a single run"),
        (("--max_trials", "3"), "--max_trials needs --sweep"),
        (("--max_concurrent", "3"), "--max_concurrent needs --sweep or --crossval or --different_seeds."),
        (("--seed_arg", "seed", "--crossval", "2"), "--seed_arg needs --different_seeds"),
        (
            ("--crossval", "2", "--crossval_arg", "--fold", "--crossval_count_arg", "fold"),
            "--crossval_arg and --crossval_count_arg are both 'fold'.",
        ),
        (
            ("--sweep", "lr=1,2", "--", "${{search_space.depth}}"),
            "'${{search_space.depth}}' names no hyperparameter; there are: lr.",
        ),
        (("--create_cluster",), "--create_cluster is for pipelines"),
    ]:
        assert said in refused(himl, project, *options).stderr.splitlines()[0]
    outcome = refused(himl, project, "--sweep", "token=hunter2secret,abcSECRET")
    assert ("hunter2" in outcome.stderr, "Pass a secret with --env_var." in outcome.stderr) == (False, True)
    outcome = refused(himl, project, "--sweep", "lr=0.1,0.01", "--crossval", "2", "--different_seeds", "3")
    assert outcome.stderr.splitlines() == [
        "error: --sweep and --crossval and --different_seeds cannot be combined.",
        "hint: To run every combination, list all values: --sweep lr=0.1,0.01 --sweep crossval_index=0,1 "
        "--sweep random_seed=0,1,2",
    ]
    for options, number in (((), 1), (("--max_concurrent", "2"), 2)):
        dry = himl.ok("submit", "train.py", "--sweep", "token_count=1,2", *options, "--dry_run").stdout
        assert f"  max_concurrent_trials: {number}\n" in dry, "as here, one at a time by default"


@pytest.mark.parametrize("fails", [pytest.param(False, marks=pytest.mark.large("runs trials on the double")), True])
def test_wait_exits_1_for_failed_trial_of_completed_sweep(
    lab: StagedWorkspace, himl: Himl, project: Path, *, fails: bool
) -> None:
    write_files(project, {"train.py": SCORES})
    with lab.run_jobs(fails_with_a_trial=fails):
        done = himl("submit", "train.py", *BY_SCORE, "--sweep", "lr=0.1", "--sweep", "name=good,fails", "--wait", "-q")
    run_id = done.stdout.split()[0]
    text = " ".join(done.stderr.split())
    assert (done.code, lab.state.runs[run_id].status) == (1, "Failed" if fails else "Completed")
    assert ("1 of 2 trials failed" in text) is not fails
    assert f"himl runs logs {run_id}_1" in text


@pytest.mark.large("runs many trials")
def test_sweep_in_settings_takes_lists_and_options_override_it(himl: Himl, project: Path) -> None:
    """--crossval and --in_place replace the sweep. In an environment variable, each line is one hyperparameter.

    A sweep cannot be recorded in Azure ML, wherever that setting comes from.
    """

    def arguments(*options: str, **env: str) -> list[str]:
        parent = himl.ok("submit", "train.py", "-q", *options, env=env).stdout.strip()
        return [log_of(project, child["id"]).strip() for child in children(himl, parent)]

    sweep = "lr = [0.1, 0.01]\nopt = 'adam,sgd'\n"
    write_files(project, {"himl.toml": f"[submit]\nmax_concurrent = 4\n[submit.sweep]\n{sweep}"})
    assert arguments() == [f"--lr {lr} --opt {opt}" for lr in ("0.1", "0.01") for opt in ("adam", "sgd")]
    assert arguments("--crossval", "2") == ["--crossval_index 0", "--crossval_index 1"]
    assert himl.ok("submit", "train.py", "--in_place").stdout == "\n", "a debugger's run is one run"
    assert arguments(HIML_SUBMIT_SWEEP="n=1,2\nname=a b") == ["--n 1 --name a b", "--n 2 --name a b"]
    config = {
        "subscription_id": "00000000-1111-2222-3333-444444444444",
        "resource_group": "team",
        "workspace_name": "lab",
    }
    write_files(
        project,
        {"himl.toml": f"[submit]\nrecord_in = 'azure'\n[submit.sweep]\n{sweep}", "config.json": json.dumps(config)},
    )
    outcome = himl("submit", "train.py")
    assert (outcome.code, "--record_in applies to a single run, but --sweep starts many." in outcome.stderr) == (
        2,
        True,
    )
    assert f"--record_in is set by {project / 'himl.toml'}:2." in outcome.stderr
    assert "Add --record_in local" in outcome.stderr


@pytest.mark.large("runs many trials")
def test_random_sweep_repeats_values_only_with_seed(himl: Himl, project: Path) -> None:
    write_files(project, {"lab/train.py": "import sys; print(sys.argv[1:])", "pyproject.toml": ""})
    for line in ("python lab/train.py --lr ${{search_space.lr}}", "cd lab && python train.py"):
        run_id = himl.ok("submit", "--command", line, "--sweep", "lr=1,2", "-q").stdout.strip()
        assert sorted(log_of(project, f"{run_id}_{index}") for index in (0, 1)) == [
            f"['--lr', '{value}']\n" for value in (1, 2)
        ]
    write_files(project, {"train.py": ""})
    options = (
        "--sweep",
        "lr=loguniform(-6,-1)",
        "--sweep",
        "seed=randint(1000)",
        "--max_trials",
        "2",
        "--max_concurrent",
        "2",
    )
    first = sweep(himl, *options)
    values = drawn(himl, first)
    assert len({value["lr"] for value in values}) == 2, "not one value for all"
    (seed,) = re.findall(r", (random\(seed=\d+\)), 2 trials", show(himl, first)["tags"]["himl.sweep"])
    assert drawn(himl, sweep(himl, *options, "--sampling", seed)) == values
    bayesian = drawn(himl, sweep(himl, "--sweep", "x=uniform(0,10)", "--sampling", "bayesian", "--max_trials", "2"))
    assert len({value["x"] for value in bayesian if 0 <= value["x"] <= 10}) == 2


def test_resume_takes_same_options_again_and_refuses_others(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"once.py": FAILS_ONCE})
    write_files(tmp_path / "marks", {"0": "", "2": ""})
    variable = ("--env_var", f"MARKS={tmp_path / 'marks'}")
    outcome = himl("submit", "once.py", "--different_seeds", "3", *variable, "--", "--fixed", "1")
    run = latest(himl)
    assert outcome.code == 1
    assert outcome.stderr.splitlines()[-2:] == [
        f"error: Run '{run}' failed: 1 of 3 trials failed.",
        f"hint: Show the cause: himl runs logs {run}_1; run the missing parts: himl submit --resume {run}",
    ]
    without = himl("submit", "--resume", run)
    assert (without.code, "--env_var MARKS=" in without.stderr) == (2, True), without.stderr
    for options, said in [
        (("train.py",), "was started as 'once.py --fixed 1', not as 'train.py'."),
        (("once.py", "--", "--fixed", "2"), "was started as 'once.py --fixed 1'"),
        (("--different_seeds", "2"), "not 'random_seed=0,1, 2 runs, mean of val/loss'."),
        (("--sweep", "random_seed=0,1", "--goal", "maximize"), "maximize val/loss'."),
        (("--experiment", "other"), "--experiment cannot be used with --resume"),
        (("--max_concurrent", "0"), "--max_concurrent must be a positive integer, not 0."),
        (("--max_failures=-1",), "--max_failures must be 0 or a positive integer, not -1."),
    ]:
        refused = himl("submit", "--resume", run, *variable, *options)
        assert (refused.code, refused.stdout, said in refused.stderr.splitlines()[0]) == (2, "", True)
    (project / "most_recent_run.txt").unlink()
    resumed = himl.ok(
        "submit",
        "once.py",
        "--resume",
        "latest",
        *variable,
        "--different_seeds",
        "3",
        "--max_concurrent",
        "2",
        "--",
        "--fixed",
        "1",
    )
    assert "trial 1, random_seed=1: completed" in resumed.stdout
    assert "trial 0" not in resumed.stdout, "what was shown before is not shown again"
    assert statuses(himl, run) == ["Completed"] * 3
    assert (project / "most_recent_run.txt").read_text().strip().endswith(run)


def held_sweep(himl: Himl, project: Path, tmp_path: Path, *options: str, at_work: int = 2) -> tuple[str, Path]:
    """Start a sweep whose first trials run until `hold` is removed from the folder of their notes.

    Return its id and that folder.
    """
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    himl.ok("submit", "train.py", "--no_wait", "--max_concurrent", str(at_work), *options, env={"NOTES": str(notes)})
    until(lambda: len(lines(notes / "starts")) == at_work)
    return latest(himl), notes


@pytest.mark.large("runs many trials")
@POSIX
def test_sweep_cancel_stops_others_and_retries_stuck_trial(himl: Himl, project: Path, tmp_path: Path) -> None:
    parent, notes = held_sweep(himl, project, tmp_path, "--sweep", "n=1,2,3")
    stuck = project / ".himl" / "runs" / f"{parent}_0" / "canceled"
    stuck.mkdir()
    assert (
        himl.ok("runs", "cancel", parent).stdout
        == f"Requested cancellation of run '{parent}'. Its trials stop with it.\n"
    )
    until(lambda: "himl retries it." in log_of(project, parent))
    until(lambda: show(himl, f"{parent}_1")["status"] == "Canceled")
    stuck.rmdir()
    until(lambda: not pids(project, KEEPER))
    assert (show(himl, parent)["status"], statuses(himl, parent)) == ("Canceled", ["Canceled", "Canceled"])
    assert {run["reason"] for run in children(himl, parent)} == {"its parent was canceled"}
    assert lines(notes / "ends") == []


@pytest.mark.large("takes long, and other tests run its branches")
@POSIX
def test_canceled_or_killed_trial_lets_the_others_go_on(himl: Himl, project: Path, tmp_path: Path) -> None:
    parent, notes = held_sweep(himl, project, tmp_path, "--sweep", "n=1,2,3", at_work=1)
    told = himl.ok("runs", "cancel", f"{parent}_0").stdout
    assert told == f"Requested cancellation of run '{parent}_0'. Sweep '{parent}' continues with its other trials.\n"
    until(lambda: len(lines(notes / "starts")) == 2)
    for pid in pids(project, SUPERVISOR):
        os.kill(pid, signal.SIGKILL)
    (notes / "hold").unlink()
    until(lambda: not pids(project, KEEPER))
    assert statuses(himl, parent) == ["Canceled", "Failed", "Completed"]
    assert show(himl, parent)["reason"] == "1 of 3 trials failed, 1 of 3 trials were canceled"


@POSIX
def test_killed_keeper_leaves_trials_running_and_cancelable(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": NOTING})
    notes = notes_folder(tmp_path, holds=True)
    process = himl.start("submit", "train.py", "--sweep", "n=1,2,3", "--max_concurrent", "2", env={"NOTES": str(notes)})
    until(lambda: len(lines(notes / "starts")) == 2)
    kill(project, KEEPER)
    _, told = process.communicate(timeout=100)
    run = show(himl, latest(himl))
    parent = run["id"]
    assert (process.returncode, f"; to do what is missing: himl submit --resume {parent}" in told.decode()) == (1, True)
    assert (run["status"], "controller ended without recording" in run["reason"]) == ("Failed", True)
    assert run["reason"].endswith(f"its child runs continue; to do what is missing: himl submit --resume {parent}")
    assert statuses(himl, parent) == ["Running", "Running"]
    refused = himl("runs", "delete", parent, "--yes")
    assert (refused.code, "is running. Nothing was deleted." in refused.stderr) == (2, True)
    himl.ok("runs", "cancel", f"{parent}_0")
    until(lambda: statuses(himl, parent) == ["Canceled", "Running"])
    both = [himl.start("submit", "--resume", parent, "--no_wait", env={"NOTES": str(notes)}) for _ in range(2)]
    assert sorted((process.communicate(timeout=100), process.returncode)[1] for process in both) == [0, 2]
    until(lambda: len(lines(notes / "starts")) > 2)
    for pid in pids(project, KEEPER):
        os.kill(pid, signal.SIGTERM)
    until(lambda: not pids(project, KEEPER))
    assert "SIGTERM" in show(himl, parent)["reason"]
    until(lambda: "Running" not in statuses(himl, parent))
    himl.ok("runs", "delete", parent, "--yes")
    assert list((project / ".himl/runs").iterdir()) == []


@POSIX
def test_cancel_of_failed_sweep_stops_trials_still_at_work(himl: Himl, project: Path, tmp_path: Path) -> None:
    parent, _ = held_sweep(himl, project, tmp_path, "--sweep", "n=1,2,3")
    kill(project, KEEPER)
    himl.ok("runs", "cancel", parent)
    until(lambda: statuses(himl, parent) == ["Canceled", "Canceled"])
    assert {run["reason"] for run in children(himl, parent)} == {"its parent was canceled"}
    assert show(himl, parent)["status"] == "Failed"


def latest(himl: Himl) -> str:
    return himl.ok("runs", "list", "-q", "--num_runs", "1").stdout.strip()


def test_resume_refuses_runs_at_work_done_or_below_a_parent(himl: Himl, project: Path, tmp_path: Path) -> None:
    step = {"type": "PythonScriptStep", "script": "fails.py", "source_directory": "."}
    fails = "import os, sys\nprint(sys.argv[1:])\nsys.exit(os.environ.get('SEED') != '2')\n"
    write_files(project, {"train.py": NOTING, "fails.py": fails, "p.json": json.dumps({"step1": step})})
    notes = notes_folder(tmp_path)
    env = {"NOTES": str(notes)}

    def check(run: str, said: str, *options: str, code: int = 2) -> None:
        refused = himl("submit", "--resume", run, *options, env=env)
        assert (refused.code, said in refused.stderr) == (code, True), refused.stderr

    himl.ok("submit", "train.py", env=env)
    check(latest(himl), "is already completed")
    check("nothing", "nothing", code=3)
    (notes / "hold").touch()
    himl.ok("submit", "train.py", "--no_wait", env=env)
    check(latest(himl), "is still in progress")
    (notes / "hold").unlink()
    assert himl("submit", "fails.py", "--env_var", "SEED=1", "--", "--token_count", "2").code == 1
    check(latest(himl), "--env_var SEED=")
    run = latest(himl)
    check(
        run,
        "has the arguments of 'fails.py --token_count 2', not '--token_count 3'",
        "--env_var",
        "SEED=2",
        "--",
        "--token_count",
        "3",
    )
    assert (
        himl.ok("submit", "--resume", run, "--env_var", "SEED=2", "--", "--token_count", "2").stdout
        == "['--token_count', '2']\n"
    )
    assert show(himl, run)["status"] == "Completed"
    assert himl("submit", "fails.py", "--", "--api_key", "sesame-open-1").code == 1
    run = latest(himl)
    check(run, "himl does not store arguments that look like secrets")
    check(run, f"Give them again: himl submit --resume {run} -- --api_key VALUE")
    check(run, "himl does not store arguments", "fails.py", "--", "--api_key", "***")
    kept = files_with(project / ".himl" / "runs" / run, "sesame-open-1")
    assert [path.name for path in kept] == ["std_log.txt"], "which the script printed"
    assert himl("submit", "p.json").code == 1
    check("latest", "is 'a pipeline', not '", "--sweep", "a=1")
    assert himl("submit", "fails.py", "--sweep", "n=1,2").code == 1
    check(f"{latest(himl)}_1", f"himl submit --resume {latest(himl)}")


@pytest.mark.large("runs many trials")
def test_masked_arguments_given_again_resume_a_run(himl: Himl, project: Path) -> None:
    write_files(project, {"t.py": "import os, sys\nprint(sys.argv[1:])\nsys.exit(not os.environ.get('PASSES'))\n"})
    again, secret = (
        ("submit", "--resume", "latest", "--env_var", "PASSES=1"),
        ("--api_key", "sesame-open-1", "--label_key", "y"),
    )
    assert himl("submit", "t.py", "--", *secret).code == 1
    assert himl.ok(*again, "t.py", "--", *secret).stdout == f"{[*secret]}\n"
    assert show(himl, latest(himl))["command"] == "python t.py --api_key '***' --label_key y"
    line = "python t.py --api_key=sesame-open-2"
    assert himl("submit", "--command", line).code == 1
    refused = himl(*again).stderr
    assert f"himl submit --resume {latest(himl)} --command 'python t.py --api_key=VALUE'" in refused
    assert himl.ok(*again, "--command", line).stdout == "['--api_key=sesame-open-2']\n"
    assert himl("submit", "t.py", "--sweep", "label_key=a,b", "--", *secret[:2]).code == 1
    assert f"himl submit --resume {latest(himl)} -- --api_key VALUE" in himl(*again).stderr
    himl.ok(*again, "--", *secret[:2])
    assert {run["status"] for run in children(himl, latest(himl))} == {"Completed"}
    step = {"type": "PythonScriptStep", "script": "t.py", "source_directory": "."}
    steps = {f"step{n}": {**step, "arguments": ["--api_key", f"sesame-open-{n}"]} for n in (1, 2)}
    write_files(project, {"p.json": json.dumps(steps), "j.yml": f"{{code: ., command: {line}, environment: e}}"})
    for file, run in [("p.json", "_step2"), ("j.yml", "")]:
        assert himl("submit", file).code == 1
        hint = f"hint: Give them again: himl submit --resume {latest(himl)} {file}"
        assert himl(*again).stderr.splitlines()[1] == hint
        himl.ok(*again, file)
        assert "sesame-open-2" in log_of(project, f"{latest(himl)}{run}")


@pytest.mark.parametrize("many", ["trial", "step"])
def test_failed_restart_on_resume_does_not_repeat_old_error(himl: Himl, project: Path, many: str) -> None:
    step = {"type": "PythonScriptStep", "script": "train.py", "source_directory": "."}
    write_files(
        project, {"train.py": "print('of the first try')\nraise SystemExit(9)", "p.json": json.dumps({"step1": step})}
    )
    submitted = himl("submit", *(("train.py", "--sweep", "n=1,2") if many == "trial" else ("p.json",)))
    assert (submitted.code, "exit code 9" in submitted.stdout) == (1, True)
    run = latest(himl)
    log = project / f".himl/runs/{children(himl, run)[-1]['id']}/supervisor.log"
    log.unlink()
    log.mkdir()  # so that himl cannot write there
    resumed = himl("submit", "--resume", run)
    assert (resumed.code, "could not be started: Cannot start the job" in resumed.stdout) == (1, True), resumed.stdout
    assert resumed.stdout.count("exit code 9") == (1 if many == "trial" else 0), resumed.stdout


@POSIX
@pytest.mark.parametrize("who", [pytest.param("keeper", marks=pytest.mark.large("runs many trials")), "all"])
def test_resume_after_killed_sweep_loses_no_result(himl: Himl, project: Path, tmp_path: Path, who: str) -> None:
    """Trials whose supervisor is still alive end normally and run once. A recorded end of a trial stays."""
    waits = NOTING.replace('(notes / "hold").exists()', '(notes / "hold").exists() and int(sys.argv[2]) > 2')
    write_files(project, {"train.py": waits})
    notes = notes_folder(tmp_path, holds=True)
    env = {"NOTES": str(notes)}
    himl.ok("submit", "train.py", "--no_wait", "--sweep", "n=0,1,2,3,4,5", "--max_concurrent", "2", env=env)
    run = latest(himl)
    until(lambda: len(lines(notes / "starts")) == 5)
    kill(project, KEEPER)
    if who == "all":
        kill(project, SUPERVISOR)
        until(lambda: not pids(project, "train.py"))
    assert show(himl, run)["status"] == "Failed"
    completed = {each["id"] for each in show(himl, run)["children"] if each["status"] == "Completed"}
    (notes / "hold").unlink()
    himl.ok("submit", "--resume", run, env=env)
    assert statuses(himl, run) == ["Completed"] * 6
    times = {f"{run}_{number}": lines(notes / "ends").count(f"{run}_{number}") for number in range(6)}
    assert len(completed) >= 3
    assert set(times.values()) == {1}
    values = [(project / f".himl/runs/{run}_{number}/code/outputs/result.txt").read_text() for number in range(6)]
    assert values == [f"--n {number}" for number in range(6)]


@pytest.mark.large("runs many trials")
@pytest.mark.parametrize(
    ("begin", "end", "earlier", "best"),
    [(2, 6, [100.0, 100.0], 0), pytest.param(0, 2, [], 1, marks=pytest.mark.large("runs many trials"))],
)
def test_later_try_replaces_metrics_from_its_first_step_on(
    himl: Himl, project: Path, begin: int, end: int, earlier: list[float], best: int
) -> None:
    """If the script starts from the beginning, no metrics of the first attempt remain.

    If it continues, earlier steps remain. The choice of the best trial uses the same values.
    """
    write_files(project, {"train.py": TWO_TRIES.replace("6)", f"{end})")})
    env = {"FROM": str(begin)}
    first = himl("submit", "train.py", "--sweep", "n=1,2", "--primary_metric", "acc", "--goal", "maximize", env=env)
    assert (first.code, first.stdout.count("exit code 9")) == (1, 2), first.stdout
    run = latest(himl)
    himl.ok("submit", "--resume", run, env=env)
    assert show(himl, run)["tags"]["himl.best_trial"] == f"{run}_{best}"
    (acc,) = show(himl, f"{run}_1")["metrics"]
    assert (acc["value"], acc["step"], acc["count"]) == (2.0 * (end - 1), end - 1, end)
    trials = himl.ok("runs", "aggregate", run, "--json").json()["children"]
    assert trials[1]["series"]["acc"]["steps"] == list(range(end))
    assert trials[1]["series"]["acc"]["values"] == [*earlier, *(2.0 * step for step in range(begin, end))]
    assert "best 100" in log_of(project, run) or begin == 0


def test_a_goal_that_the_metric_contradicts_is_told(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print(1)"})
    told = (
        "warning: the sweep minimizes 'val/acc'. By its name, the highest value is best. For that, add --goal maximize."
    )
    sweep = ("submit", "train.py", "--dry_run", "--sweep", "n=1,2", "--primary_metric")
    for metric, options, is_told in (
        ("val/acc", (), True),
        ("val/acc", ("--early_stop", "median"), True),
        ("val/acc", ("--goal", "minimize"), False),
        ("val/acc", ("--goal", "maximize"), False),
        ("val/loss", (), False),
        ("grade", (), False),
    ):
        assert (told in himl.ok(*sweep, metric, *options).stderr) is is_told, (metric, options)
    assert (
        told not in himl.ok("submit", "train.py", "--dry_run", "--crossval", "2", "--primary_metric", "val/acc").stderr
    )


def test_sweep_on_a_cluster_is_followed_but_not_resumed(himl: Himl, lab: StagedWorkspace) -> None:
    with lab.run_jobs():
        outcome = himl.ok("submit", "train.py", "--cluster", "cpu-cluster", "--crossval", "2", "--follow")
    assert (
        lab.artifacts(himl.ok("runs", "list", "--json").json()[0]["id"])["azureml-logs/hyperdrive.txt"].decode()
        in outcome.stdout
    )
    assert "No trial logged the primary metric 'val/loss'. To use another one, set --primary_metric." in outcome.stderr
    lab.add_run("there_1", "e", status="Failed")
    outcome = himl("submit", "--resume", "there_1")
    assert outcome.code == 2
    assert "where runs cannot be resumed" in outcome.stderr
    assert "Submit it again" in outcome.stderr


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(sys.platform != "linux", reason="NEEDS /proc")
def test_a_sweep_wakes_up_for_the_ends_of_its_trials_only(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time; print('up', flush=True); time.sleep(600)"})
    sweep = himl.ok(
        "submit", "train.py", "--sweep", "lr=1,2", "--max_concurrent", "2", "--no_wait", "-q"
    ).stdout.strip()
    until(lambda: sum(log.stat().st_size > 0 for log in (project / ".himl/runs").glob("*/user_logs/std_log.txt")) == 3)
    (controller,) = processes_below(project / ".himl", "himl_cli.workspaces.local.controller")

    def wakes() -> int:
        """How often the process has slept."""
        status = Path(f"/proc/{controller}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    begin, before = time.monotonic(), wakes()
    time.sleep(2)
    assert wakes() - before <= 4 * (time.monotonic() - begin) + 3
    himl.ok("runs", "cancel", sweep)
    until(lambda: processes_below(project) == [])
