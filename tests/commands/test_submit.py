"""What a job of `himl submit` in the local workspace is given and what it leaves, through the installed program."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.folders import files_below, files_with
from tests.support.running import Himl, write_files
from tests.support.runs import POSIX, latest
from tests.support.terminals import Terminal

SHOW = "import json, os, sys; print(json.dumps({'argv': sys.argv[1:], 'cwd': os.getcwd(), 'env': dict(os.environ), 'python': sys.executable}))"


def seen(himl: Himl, *arguments: str | Path, **options: Any) -> dict[str, Any]:
    """What a script that runs as a job sees."""
    return dict(json.loads(himl.ok(*arguments, **options).stdout))


def test_a_script_runs_here_and_is_recorded(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import pathlib, sys\nprint('epochs', sys.argv[2])\npathlib.Path('outputs/best.txt').write_text('0.9')\n"})
    outcome = himl.ok("submit", "train.py", "--", "--epochs", "5")
    assert outcome.stdout == "epochs 5\n"
    run = latest(himl)
    assert (run["status"], run["experiment"], run["exit_code"]) == ("Completed", "train", 0)
    assert re.fullmatch(r"train_\d+_[0-9a-f]{8}", run["id"])
    assert (project / "most_recent_run.txt").read_text() == f"train:{run['id']}\n"
    assert (project / ".himl" / "runs" / run["id"] / "code" / "outputs" / "best.txt").read_text() == "0.9"
    assert "Made a local workspace" in outcome.stderr
    assert run["id"] in outcome.stderr


def test_arguments_arrive_as_they_were_typed(himl: Himl, project: Path) -> None:
    write_files(project, {"show.py": SHOW})
    arguments = ["--a b", "", "'", '"', "--", "-m", "$HOME", "*", "ä€", "--num-runs", "\n"]
    assert seen(himl, "submit", "show.py", "--", *arguments)["argv"] == arguments


def test_the_job_sees_the_environment_of_a_job(himl: Himl, project: Path) -> None:
    write_files(project, {"sub/show.py": SHOW, "pyproject.toml": ""})
    job = seen(himl, "submit", "sub/show.py", "--env_var", "COLOUR=blue=ish", "--env_var", "EMPTY=", "--experiment", "my exp")
    run = latest(himl)
    wanted = {"AZUREML_RUN_ID": run["id"], "AZUREML_ARM_PROJECT_NAME": "my_exp", "COLOUR": "blue=ish", "EMPTY": "", "MLFLOW_RUN_ID": run["id"]}
    assert wanted.items() <= job["env"].items()
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & set(job["env"])
    assert Path(job["cwd"]) == project / ".himl" / "runs" / run["id"] / "code"


def test_a_tracking_server_of_the_user_s_own_is_left_to_him(himl: Himl, project: Path) -> None:
    write_files(project, {"show.py": SHOW})
    env = seen(himl, "submit", "show.py", "--env_var", "MLFLOW_TRACKING_URI=https://mlflow.example.org")["env"]
    assert env["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org"
    assert not {"MLFLOW_RUN_ID", "MLFLOW_TRACKING_TOKEN", "MLFLOW_EXPERIMENT_ID"} & set(env)


def test_variables_given_to_a_job_are_in_no_file(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    himl.ok("submit", "train.py", "--env_var", "API_TOKEN=marked-secret", "--", "--password", "marked-secret")
    assert files_with(project / ".himl", "marked-secret") == []


def test_a_module_and_a_shell_script(himl: Himl, project: Path, require_program: Callable[[str], str]) -> None:
    require_program("bash")
    write_files(
        project, {"lab/__init__.py": "", "lab/train.py": "import sys; print('module', sys.argv[1:])", "run.sh": 'echo shell "$@"; python -c "print(1 + 1)"'}
    )
    assert himl.ok("submit", "-m", "lab.train", "--", "x").stdout == "module ['x']\n"
    assert latest(himl)["experiment"] == "lab_train"
    assert himl.ok("submit", "run.sh", "--", "a b", "c").stdout == "shell a b c\n2\n"


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_in_place_a_debugger_can_be_used(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "x = 41\nbreakpoint()\nprint('x is', x)\n", "pyproject.toml": ""})
    terminal = Terminal([str(himl.program), "submit", "train.py", "--in_place"], cwd=project)
    terminal.wait_for("(Pdb)")
    terminal.type("x = x + 1\n")
    terminal.type("continue\n")
    assert terminal.finish() == 0, terminal.screen
    assert "x is 42" in terminal.screen


COUNT = "import os, sys; print(len(sys.stdin.buffer.read()), 'bytes', os.environ.get('RANK', ''))"


@POSIX
@pytest.mark.parametrize("given", [b"", b"hi\n", b"x" * 3_000_000], ids=["nothing", "a line", "more than a pipe holds"])
def test_what_is_piped_in_reaches_the_script(himl: Himl, project: Path, given: bytes) -> None:
    write_files(project, {"count.py": COUNT})
    outcome = himl("submit", "count.py", input=given)
    assert (outcome.code, outcome.stdout) == (0, f"{len(given)} bytes \n"), outcome.stderr


@POSIX
def test_what_is_piped_in_reaches_a_job_that_is_left_running(himl: Himl, project: Path) -> None:
    write_files(project, {"count.py": COUNT})
    run = himl("submit", "count.py", "--no_wait", "-q", input=b"hi\n").stdout.strip()
    assert himl.ok("runs", "logs", run, "--follow").stdout == "3 bytes \n"


@POSIX
def test_the_first_rank_reads_what_is_piped_in(himl: Himl, project: Path) -> None:
    write_files(project, {"count.py": COUNT})
    assert himl("submit", "count.py", "--processes_per_node", "2", input=b"hi\n").stdout == "3 bytes 0\n"
    assert himl.ok("runs", "logs", "latest", "--file", "user_logs/std_log_process_1.txt").stdout == "0 bytes 1\n"


@POSIX
def test_another_try_reads_what_is_piped_in_then(himl: Himl, project: Path) -> None:
    write_files(project, {"read.py": "import sys; print(text := sys.stdin.read()); sys.exit(text != 'good')"})
    assert himl("submit", "read.py", input=b"bad").code == 1
    again = himl("submit", "--resume", str(latest(himl)["id"]), input=b"good")
    assert (again.code, again.stdout) == (0, "good\n"), again.stderr


@POSIX
@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("yes | {himl} submit first.py", "y\n"),
        ("printf 'a\\nb\\nc\\n' | while read -r x; do {himl} submit show.py -- $x; done", "a\nb\nc\n"),
        ("printf 'a\\nb\\nc\\n' > list; while read -r x; do {himl} submit first.py -- $x; done < list", "b\n"),
        ("{himl} submit show.py -- a <&-", "a\n"),
        ("{himl} submit first.py </dev/null", "\n"),
    ],
    ids=["without end", "a loop's, unread", "a loop's, read", "closed", "nothing"],
)
def test_stdin_is_the_script_s_as_without_himl(himl: Himl, project: Path, line: str, printed: str) -> None:
    """A script that reads its input takes what a loop would have read next; buffered, all of it."""
    write_files(project, {"first.py": "import sys; print(sys.stdin.readline().strip())", "show.py": "import sys; print(sys.argv[1])"})
    done = subprocess.run(line.format(himl=himl.program), shell=True, cwd=project, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stdout) == (0, printed), done.stderr


def test_a_name_without_latin_letters_or_with_a_dash(himl: Himl, project: Path) -> None:
    write_files(project, {"實驗.py": "print('ran')", "--weird.py": "print('odd')"})
    assert himl.ok("submit", "實驗.py").stdout == "ran\n"
    assert latest(himl)["experiment"] == "experiment"
    assert himl.ok("submit", "./--weird.py").stdout == "odd\n"


LOGGING = """
import math, mlflow, pathlib
mlflow.set_experiment("something else")
with mlflow.start_run():
    mlflow.log_params({"lr": 0.1})
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metric("odd", math.nan)
    pathlib.Path("report.txt").write_text("fine")
    mlflow.log_artifact("report.txt")
    for fold in (0, 1):
        with mlflow.start_run(nested=True, run_name=f"fold {fold}"):
            mlflow.log_metric("fold_loss", fold)
            mlflow.log_text(str(fold), "fold.txt")
"""


def test_what_a_script_logs_with_mlflow_is_shown_and_downloaded(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": LOGGING})
    himl.ok("submit", "train.py", env={"HTTP_PROXY": "http://127.0.0.1:9"})
    run = latest(himl)
    assert (run["experiment"], run["parameters"]) == ("train", {"lr": "0.1"})
    metrics = {(metric["name"], metric["run"] == run["id"]): metric for metric in run["metrics"]}
    loss = metrics["loss", True]
    assert (loss["value"], loss["step"], loss["count"]) == (pytest.approx(1 / 3), 2, 3)
    assert metrics["odd", True]["value"] == "NaN"
    assert [metric["value"] for metric in run["metrics"] if metric["name"] == "fold_loss"] == [0.0, 1.0]
    children = {child["display_name"]: child for child in run["children"]}
    assert {name: child["status"] for name, child in children.items()} == {"fold 0": "Completed", "fold 1": "Completed"}
    himl.ok("download", run["id"], children["fold 1"]["id"])
    assert (project / "outputs" / run["id"] / "report.txt").read_text() == "fine"
    assert (project / "outputs" / children["fold 1"]["id"] / "fold.txt").read_text() == "1"


def test_a_job_inside_a_job_is_no_rank_of_it(himl: Himl, project: Path) -> None:
    inner = "import os; print(sorted(name for name in os.environ if name in ('RANK', 'WORLD_SIZE') or name.startswith('AZURE_ML_')))"
    outer = f"import subprocess; subprocess.run(['{himl.program}', 'submit', 'inner.py'], check=True)"
    write_files(project, {"inner.py": inner, "outer.py": outer})
    assert himl.ok("submit", "outer.py", "--processes_per_node", "1", "--output", "preds").stdout.splitlines().count("[]") == 1


def test_names_description_and_tags(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    himl.ok(
        "submit", "train.py", "--display_name", "First try", "--description", "With dropout", "--tag", "team=blue", "--tag", "note=a=b", "--build_number", "42"
    )
    run = latest(himl)
    assert (run["display_name"], run["description"]) == ("First try", "With dropout")
    assert {"team": "blue", "note": "a=b", "build_number": "42", "run_recovery_id": f"train:{run['id']}"}.items() <= run["tags"].items()


def test_ranks_get_their_variables_and_logs(himl: Himl, project: Path) -> None:
    write_files(
        project, {"train.py": "import os; print(*(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR')), os.environ['MASTER_PORT'])"}
    )
    outcome = himl.ok("submit", "train.py", "--processes_per_node", "3")
    logs = project / ".himl" / "runs" / latest(himl)["id"] / "user_logs"
    lines = [(logs / f"std_log_process_{rank}.txt").read_text().split() for rank in range(3)]
    assert [line[:4] for line in lines] == [[str(rank), str(rank), "3", "127.0.0.1"] for rank in range(3)]
    assert len({line[4] for line in lines}) == 1
    assert outcome.stdout.split() == lines[0]


def test_mpi_variables(himl: Himl, project: Path) -> None:
    write_files(project, {"show.py": SHOW})
    env = seen(himl, "submit", "show.py", "--processes_per_node", "1", "--distribution", "mpi")["env"]
    assert (env["OMPI_COMM_WORLD_RANK"], env["OMPI_COMM_WORLD_SIZE"]) == ("0", "1")


def test_inputs_and_outputs(himl: Himl, project: Path) -> None:
    write_files(project, {"show.py": SHOW, "data/mnist/x.txt": "1", "elsewhere/y.txt": "2"})
    himl.ok("submit", "show.py")
    himl.ok("datastore", "upload", "data/mnist", "mnist")
    arguments = ["--in", "${{inputs.train}}/x.txt", "--out=${{ outputs.preds }}", "${{inputs.INPUT_1}}"]
    job = seen(himl, "submit", "show.py", "--input", "train=mnist", "--input", "other,local=elsewhere", "--output", "preds=results/a", "--", *arguments)
    store = project / ".himl" / "datastores" / "local"
    assert job["argv"] == ["--in", f"{store / 'mnist'}/x.txt", f"--out={store / 'results' / 'a'}", str(project / "elsewhere")]
    assert job["env"]["AZURE_ML_INPUT_train"] == str(store / "mnist")
    assert job["env"]["AZURE_ML_OUTPUT_preds"] == str(store / "results" / "a")
    assert (store / "results" / "a").is_dir()


def test_in_place_keeps_what_is_new_and_changed(himl: Himl, project: Path) -> None:
    script = "import os, pathlib\nprint(os.getcwd())\npathlib.Path('outputs/new.txt').write_text('n')\npathlib.Path('outputs/old.txt').write_text('changed')\n"
    write_files(project, {"train.py": script, "outputs/old.txt": "old", "outputs/same.txt": "same", "pyproject.toml": ""})
    outcome = himl.ok("submit", "train.py", "--in_place")
    assert outcome.stdout == f"{project}\n"
    kept = project / ".himl" / "runs" / latest(himl)["id"] / "code"
    assert {path.relative_to(kept).as_posix(): path.read_text() for path in files_below(kept)} == {
        "outputs/new.txt": "n",
        "outputs/old.txt": "changed",
    }


def test_the_interpreter_can_be_named(himl: Himl, project: Path) -> None:
    write_files(project, {"show.py": SHOW})
    assert seen(himl, "submit", "show.py", "--python", sys.executable)["python"] == sys.executable
    missing = himl("submit", "show.py", "--python", "/nowhere/python")
    assert (missing.code, "/nowhere/python" in missing.stderr) == (2, True)


@pytest.mark.skipif(os.name == "nt", reason="command lines are text on Windows")
def test_arguments_that_are_no_utf_8(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import os, sys; print(os.fsencode(sys.argv[1]))"})
    assert himl.ok("submit", "train.py", "--", os.fsdecode(b"\xff\xfe")).stdout == "b'\\xff\\xfe'\n"
    assert latest(himl)["status"] == "Completed"


ELSEWHERE = """
import os, pathlib, shutil, helper
for name in ("outputs/kept.txt", "logs/kept.txt", "outputs/lightning_logs/kept.txt"):
    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(name).write_text("kept")
pathlib.Path("helper.py").read_text()
pathlib.Path("lightning_logs/version_0").mkdir(parents=True)
shutil.copy2("data/old.csv", "lightning_logs/version_0/epoch=1.ckpt")
os.utime("lightning_logs/version_0/epoch=1.ckpt", (0, 0))
"""


def test_files_that_are_not_kept_are_told(himl: Himl, project: Path) -> None:
    """Neither what was kept, nor caches of modules, nor files that came with the snapshot."""
    write_files(project, {"train.py": ELSEWHERE, "helper.py": "", "data/old.csv": "1", "lab/logs/old.txt": ""})
    where = str(project / ".himl" / "runs" / "{}" / "code" / "lightning_logs" / "version_0" / "epoch=1.ckpt")
    once = himl.ok("submit", "train.py")
    told = [line for line in once.stderr.splitlines() if "not kept" in line]
    assert told == [f"1 file outside outputs/ and logs/ was not kept with the results: '{where.format(latest(himl)['id'])}'."]
    write_files(project, {"more.py": ELSEWHERE + "open('data/old.csv', 'a').write('2')\nopen('lab/logs/new.txt', 'w')\nraise SystemExit(3)"})
    failed = himl("submit", "more.py")
    assert f"3 files outside outputs/ and logs/ were not kept with the results: '{Path(where.format(latest(himl)['id'])).parents[2]}'." in failed.stderr
    swept = himl.ok("submit", "train.py", "--sweep", "lr=1,2")
    assert swept.stderr.count("not kept") == 1
    assert "2 files outside outputs/ and logs/ were not kept with the results: " in swept.stderr
    shutil.rmtree(project / "outputs", ignore_errors=True)
    assert "not kept" not in himl.ok("submit", "train.py", "--in_place").stderr
