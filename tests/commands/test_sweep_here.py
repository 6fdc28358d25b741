"""Sweeps that run here, by the installed program: which trials there are, what each gets, when they stop, how the whole ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.folders import files_with
from tests.support.running import Himl, write_files
from tests.support.sweeps import children, log_of, notes_folder, show, statuses

ARGUMENTS = "import json, os, sys\nopen('outputs/seen.json', 'w').write(json.dumps([sys.argv[1:], dict(os.environ), open('data.txt').read()]))\n"
LOSS_OF_LR = "import sys\nfrom himl_cli import RUN_CONTEXT\nlr = float(sys.argv[2])\nfor step in range(3):\n    RUN_CONTEXT.log('val/loss', lr * (3 - step))\n"
# By plain MLflow; a trial whose loss is high logs and then waits to be stopped.
POOR_ONES_WAIT = """
import sys, time
import mlflow
loss = float(sys.argv[2])
for step in range(6):
    mlflow.log_metric("val/loss", loss, step=step)
if loss > 1:
    print("waiting", flush=True)
    time.sleep(600)
"""


def sweep(himl: Himl, *options: str | Path, code: int = 0, **env: str) -> str:
    """Submit train.py as a sweep and wait for it; its run's id."""
    done = himl("submit", "train.py", "--experiment", "exp", "-q", *options, env=env)
    assert done.code == code, done.stderr
    return str(himl.ok("runs", "list", "-q", "--num_runs", "1").stdout.strip())


def seen(project: Path, run: str) -> tuple[list[str], dict[str, str], str]:
    arguments, environment, data = json.loads((project / f".himl/runs/{run}/code/outputs/seen.json").read_text())
    return arguments, environment, data


def test_a_grid_runs_every_combination_with_its_values(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ARGUMENTS, "data.txt": "snapshot"})
    parent = sweep(himl, "--sweep", "lr=0.1,0.01", "--sweep", "net=small,large", "--max_concurrent", "2", "--", "--epochs", "3")
    found = children(himl, parent)
    assert [(run["id"], run["status"], run["display_name"]) for run in found] == [
        (f"{parent}_{number}", "Completed", text)
        for number, text in enumerate(["lr=0.1, net=small", "lr=0.1, net=large", "lr=0.01, net=small", "lr=0.01, net=large"])
    ]
    assert [json.loads(run["tags"]["hyperparameters"]) for run in found][2] == {"lr": 0.01, "net": "small"}
    arguments, environment, data = seen(project, f"{parent}_2")
    assert (arguments, data) == (["--epochs", "3", "--lr", "0.01", "--net", "small"], "snapshot")
    wanted = {"AZUREML_SWEEP_lr": "0.01", "AZUREML_SWEEP_net": "small", "AZUREML_RUN_ID": f"{parent}_2", "AZUREML_ROOT_RUN_ID": parent}
    assert {name: environment[name] for name in wanted} == wanted
    assert [run["id"] for run in himl.ok("runs", "list", "--json").json()] == [parent]
    assert show(himl, f"{parent}_1")["parameters"] == {"lr": "0.1", "net": "large"}


def test_a_placeholder_takes_the_value_where_it_stands(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ARGUMENTS, "data.txt": ""})
    parent = sweep(himl, "--sweep", "lr=0.5,1", "--", "--rate=${{search_space.lr}}", "--last")
    assert seen(project, f"{parent}_1")[0] == ["--rate=1", "--last"]


def test_random_sweep_repeats_values_only_with_seed(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "data.txt": ""})
    options = ("--sweep", "lr=loguniform(-6,-1)", "--sweep", "seed=randint(1000)", "--max_trials", "4", "--max_concurrent", "4")
    first = sweep(himl, *options)
    values = drawn(himl, first)
    assert len({value["lr"] for value in values}) == 4
    (seed,) = re.findall(r", (random\(seed=\d+\)), 4 trials", show(himl, first)["tags"]["himl.sweep"])
    assert drawn(himl, sweep(himl, *options, "--sampling", seed)) == values
    assert drawn(himl, sweep(himl, *options)) != values


def drawn(himl: Himl, parent: str) -> list[dict[str, float]]:
    return [json.loads(run["tags"]["hyperparameters"]) for run in children(himl, parent)]


def test_so_many_trials_run_at_once_and_no_more(himl: Himl, project: Path, tmp_path: Path) -> None:
    """Each trial goes on only when three of them run; a fourth that runs beside them makes it fail."""
    script = """
import os, sys, time
from pathlib import Path
notes = Path(os.environ["NOTES"])
mine = notes / f"alive-{sys.argv[2]}"
mine.touch()
if int(sys.argv[2]) < 3:
    while len(list(notes.glob("met-*"))) < 3 and len(list(notes.glob("alive-*"))) < 3:
        time.sleep(0.01)
    (notes / f"met-{sys.argv[2]}").touch()
    while len(list(notes.glob("met-*"))) < 3:
        time.sleep(0.01)
many = len(list(notes.glob("alive-*")))
mine.unlink()
sys.exit(many > 3)
"""
    write_files(project, {"train.py": script})
    parent = sweep(himl, "--sweep", "n=0,1,2,3,4,5,6", "--max_concurrent", "3", NOTES=str(notes_folder(tmp_path)))
    assert statuses(himl, parent) == ["Completed"] * 7


def test_the_log_tells_the_course_and_the_best_trial_is_noted(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": LOSS_OF_LR})
    parent = sweep(himl, "--sweep", "lr=0.5,0.25,1")
    tags = show(himl, parent)["tags"]
    assert {name: tags[f"himl.{name}"] for name in ("best_trial", "primary_metric", "goal", "many")} == {
        "best_trial": f"{parent}_1",
        "primary_metric": "val/loss",
        "goal": "minimize",
        "many": "sweep",
    }
    told = [line.split(" ", 1)[1] for line in log_of(project, parent).splitlines()]
    assert told[0] == "3 trials, 1 at once"
    assert told[1] == f"trial 0, lr=0.5: started, {parent}_0"
    assert told[2].startswith("trial 0, lr=0.5: completed after ")
    assert told[2].endswith("s, val/loss 0.5 (1 of 3 ended)")
    assert told[-2:] == [f"best: trial 1, lr=0.25, val/loss 0.25, {parent}_1", "completed"]
    assert show(himl, parent)["metrics"] == []


def test_waiting_shows_the_course(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    done = himl("submit", "train.py", "--sweep", "n=1,2")
    assert done.code == 0, done.stderr
    assert "trial 1, n=2: completed" in done.stdout


def test_a_failing_trial_fails_the_sweep_after_all_others(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import sys\nprint('boom'); sys.exit(3 if sys.argv[2] == '2' else 0)\n"})
    parent = sweep(himl, "--sweep", "n=1,2,3,4", code=1)
    assert statuses(himl, parent) == ["Completed", "Failed", "Completed", "Completed"]
    run = show(himl, parent)
    assert (run["status"], run["reason"]) == ("Failed", "1 of 4 trials failed")
    assert "exit code 3; its last line: boom (2 of 4 ended)" in log_of(project, parent)


def test_sweep_starts_no_more_trials_after_three_early_failures(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "raise SystemExit(1)"})
    parent = sweep(himl, "--sweep", "n=1,2,3,4,5,6", code=1)
    assert statuses(himl, parent) == ["Failed"] * 3
    assert show(himl, parent)["reason"] == "the first 3 trials to end failed; 3 of 6 were not started"


@pytest.mark.parametrize("policy", ["bandit(slack_factor=0.5)", "median", "truncation(truncation_percentage=50)"])
def test_poor_trials_are_stopped_early_by_what_plain_mlflow_logs(himl: Himl, project: Path, policy: str) -> None:
    write_files(project, {"train.py": POOR_ONES_WAIT})
    parent = sweep(himl, "--sweep", "loss=0.1,50,0.05", "--early_stop", policy)
    found = children(himl, parent)
    assert [run["status"] for run in found] == ["Completed", "Canceled", "Completed"]
    word = policy.partition("(")[0]
    assert found[1]["reason"].startswith(f"stopped early by {word} at interval ")
    assert found[1]["tags"]["himl.stopped_early"] == word
    assert show(himl, parent)["status"] == "Completed"
    told = log_of(project, parent)
    assert f"trial 1, loss=50: stopped early by {word}" in told
    assert told.count("stopped early by") == 1


def test_bayesian_sampling_learns_from_the_trials_before(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import sys\nfrom himl_cli import RUN_CONTEXT\nRUN_CONTEXT.log('val/loss', (float(sys.argv[2]) - 3) ** 2)\n"})
    parent = sweep(himl, "--sweep", "x=uniform(0,10)", "--sampling", "bayesian", "--max_trials", "4")
    values = [json.loads(run["tags"]["hyperparameters"])["x"] for run in children(himl, parent)]
    assert len(set(values)) == 4
    assert all(0 <= value <= 10 for value in values)


def test_a_script_that_writes_its_values_otherwise_may_log_them(himl: Himl, project: Path) -> None:
    """1 becomes 1.0 in a script that reads floats; MLflow refuses to change a parameter that is logged."""
    write_files(project, {"train.py": "import sys, mlflow\nmlflow.log_params({'lr': float(sys.argv[2])})\n"})
    parent = sweep(himl, "--sweep", "lr=1")
    assert show(himl, f"{parent}_0")["parameters"] == {"lr": "1.0"}


def test_each_trial_writes_its_outputs_to_a_folder_of_its_own(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import os, sys\nfrom pathlib import Path\n(Path(os.environ['AZURE_ML_OUTPUT_model']) / 'm').write_text(sys.argv[2])\n"})
    parent = sweep(himl, "--sweep", "n=1,2", "--output", "model=models", "--max_concurrent", "2")
    store = project / ".himl/datastores/local/models"
    assert {path.parent.name: path.read_text() for path in store.glob("*/m")} == {f"{parent}_0": "1", f"{parent}_1": "2"}
    himl.ok("download", f"{parent}_1", "--output_key", "model", "--output_dir", "got", "--flat")
    assert (project / "got/m").read_text() == "2"


def test_ranks_of_a_trial(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import os\nprint('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])\n"})
    parent = sweep(himl, "--sweep", "n=1,2", "--processes_per_node", "2")
    assert (project / f".himl/runs/{parent}_1/user_logs/std_log_process_1.txt").read_text() == "rank 1 of 2\n"


def test_the_limit_on_time_counts_for_each_trial(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import sys, time\ntime.sleep(600 if sys.argv[2] == '1' else 0)\n"})
    for limit in ("2s", "20s"):  # the longer one for a machine on which a script of one line takes seconds
        found = statuses(himl, sweep(himl, "--sweep", "n=1,2", "--max_run_duration", limit, code=1))
        if found == ["Failed", "Completed"]:
            break
    assert found == ["Failed", "Completed"]


def test_what_a_sitecustomize_prints_confuses_nobody(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "pass", "site/sitecustomize.py": "import sys\nprint('welcome', end='', flush=True)\n"})
    parent = sweep(himl, "--sweep", "n=1,2,3", PYTHONPATH=str(project / "site"))
    assert statuses(himl, parent) == ["Completed"] * 3


def test_crossval_and_seeds_pass_their_number(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ARGUMENTS, "data.txt": ""})
    splits = sweep(himl, "--crossval", "2")
    assert seen(project, f"{splits}_1")[0] == ["--crossval_index", "1"]
    assert show(himl, splits)["tags"]["himl.many"] == "crossval"
    seeds = sweep(himl, "--different_seeds", "2")
    assert seen(project, f"{seeds}_0")[0] == ["--random_seed", "0"]


def test_failed_trial_is_best_only_if_no_other_has_a_value(himl: Himl, project: Path) -> None:
    script = LOSS_OF_LR + "import os\nsys.exit(lr < float(os.environ['FAILS_BELOW']))\n"
    write_files(project, {"train.py": script})
    parent = sweep(himl, "--sweep", "lr=0.25,0.5,1", code=1, FAILS_BELOW="0.3")
    assert show(himl, parent)["tags"]["himl.best_trial"] == f"{parent}_1"
    assert f"best: trial 1, lr=0.5, val/loss 0.5, {parent}_1" in log_of(project, parent)
    broken = sweep(himl, "--sweep", "lr=0.5,0.25", code=1, FAILS_BELOW="9")
    assert show(himl, broken)["tags"]["himl.best_trial"] == f"{broken}_1"
    assert "best (none was completed, this one is failed): trial 1, lr=0.25" in log_of(project, broken)


def test_folds_end_with_mean_and_spread_and_none_is_the_best(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import sys\nfrom himl_cli import RUN_CONTEXT\nRUN_CONTEXT.log('val/loss', 1 + 2 * int(sys.argv[2]))\n"})
    parent = sweep(himl, "--crossval", "3")
    assert "himl.best_trial" not in show(himl, parent)["tags"]
    told = log_of(project, parent)
    assert "val/loss: mean 3, std 2 of 3 runs" in told
    assert "best" not in told


def test_the_log_tells_numbers_in_six_digits(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    parent = sweep(himl, "--sweep", "lr=0.033234493303921135")
    assert "trial 0, lr=0.0332345: started" in log_of(project, parent)


def test_no_file_holds_the_variables(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": 'import os; assert os.environ["WANDB_API_KEY"][-8:] == "secret-1"'})
    parent = sweep(himl, "--sweep", "n=1,2", "--env_var", "WANDB_API_KEY=very-secret-1")
    assert statuses(himl, parent) == ["Completed", "Completed"]
    assert files_with(project / ".himl", "very-secret-1") == []


def test_every_trial_starts_from_checkpoint_of_sweep_start(himl: Himl, project: Path) -> None:
    """Also those that are started later, and again: from the parent's folder."""
    script = """
import os, sys
from pathlib import Path
Path(os.environ["SOURCE"]).unlink(missing_ok=True)
assert Path("outputs/checkpoints/last.ckpt").read_text() == "weights"
sys.exit("FAIL" in os.environ)
"""
    write_files(project, {"src/train.py": script, "last.ckpt": "weights"})
    options = ("--checkpoint", "last.ckpt", "--sweep", "n=1,2")
    failed = himl("submit", "src/train.py", "--snapshot_root", "src", *options, env={"SOURCE": str(project / "last.ckpt"), "FAIL": "1"})
    assert failed.code == 1, failed.stderr
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    himl.ok("submit", "--resume", parent, env={"SOURCE": str(project / "last.ckpt")})
    assert statuses(himl, parent) == ["Completed", "Completed"]
