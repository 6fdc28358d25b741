"""`himl submit` in the local workspace, through the installed program."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.running import Himl, write_files
from tests.terminal import Terminal

SHOW = "import json, os, sys; print(json.dumps({'argv': sys.argv[1:], 'cwd': os.getcwd(), 'env': dict(os.environ), 'python': sys.executable}))"


def seen(himl: Himl, *arguments: str | Path, **options: Any) -> dict[str, Any]:
    """What a script that runs as a job sees."""
    return dict(json.loads(himl.ok(*arguments, **options).stdout))


def latest(himl: Himl) -> dict[str, Any]:
    """The newest run, in full."""
    run = himl.ok("runs", "show", "--run", "latest", "--json").json()
    return dict(run)


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


LACKS = "import no_such_package"


def test_a_python_that_lacks_a_module_is_named(himl: Himl, project: Path) -> None:
    write_files(project, {"lacks.py": LACKS, "raises.py": "raise ValueError('ModuleNotFoundError: no')"})
    outcome = himl("submit", "lacks.py", "--python", sys.executable)
    run = latest(himl)["id"]
    assert (outcome.code, outcome.stderr.splitlines()[-1]) == (
        1,
        f"hint: Its output: himl runs logs {run}; it ran with '{sys.executable}', --python names another",
    )
    swept = himl("submit", "lacks.py", "--different_seeds", "2", env={"VIRTUAL_ENV": sys.prefix})
    assert "; it ran with '" in swept.stderr.splitlines()[-1]
    assert swept.stderr.splitlines()[-1].index("--python names another; to do what is missing: himl submit --resume")
    other = himl("submit", "raises.py")
    assert other.stderr.splitlines()[-1] == f"hint: Its output: himl runs logs {latest(himl)['id']}"


def test_a_rank_that_lacks_a_module_has_its_python_named(himl: Himl, project: Path) -> None:
    write_files(project, {"lacks.py": f"import os, time\nif os.environ['RANK'] == '1':\n    {LACKS}\ntime.sleep(600)\n"})
    outcome = himl("submit", "lacks.py", "--processes_per_node", "2", "--python", sys.executable)
    assert outcome.stderr.splitlines()[-1].endswith(f" --file user_logs/std_log_process_1.txt; it ran with '{sys.executable}', --python names another")


def test_a_run_whose_record_is_broken_is_told_as_failed_all_the_same(himl: Himl, project: Path) -> None:
    write_files(project, {"lacks.py": "import pathlib\npathlib.Path('../job.json').write_text('{')\n" + LACKS})
    outcome = himl("submit", "lacks.py")
    assert outcome.stderr.splitlines()[-1] == f"hint: Its output: himl runs logs {latest(himl)['id']}"


def test_an_empty_target_is_nothing_to_run(himl: Himl) -> None:
    outcome = himl("submit", "")
    assert (outcome.code, outcome.stderr.splitlines()[0]) == (2, "error: Nothing to run.")


def test_options_that_do_nothing_are_said(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    outcome = himl.ok("submit", "train.py", "--in_place", "--ignored_folders", "data", "--distribution", "mpi")
    assert "nothing is copied: --ignored_folders." in outcome.stderr
    assert "one plain process: --distribution." in outcome.stderr


def test_what_himl_downloaded_is_not_sent_with_the_next_job(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import os; print(sorted(os.listdir()), sorted(os.listdir('lib')))", "lib/net.py": "", "own/outputs/kept": "1"})
    himl.ok("submit", "train.py")
    himl.ok("download", "latest", "--prefix", "user_logs", "--output_dir", "lib/got")
    himl.ok("download", "latest", "--prefix", "user_logs", "--output_dir", "got")
    outcome = himl.ok("submit", "train.py")
    assert outcome.stdout.endswith("'own', 'train.py'] ['net.py']\n")
    assert "'got'" not in outcome.stdout
    assert "Left out, since himl downloaded it: 'got', 'lib/got'." in outcome.stderr


def test_a_script_among_downloads_is_told_why_it_is_left_out(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "pyproject.toml": ""})
    himl.ok("submit", "train.py")
    himl.ok("download", "latest", "--prefix", "user_logs", "--output_dir", "got")
    write_files(project, {"got/again.py": ""})
    outcome = himl("submit", "got/again.py")
    assert (outcome.code, "himl downloaded files to 'got'" in outcome.stderr) == (2, True)


@pytest.mark.parametrize("argument", ["${{inputs.a-b}}", "x${{ outputs.data }}", "${{inputs.ä}}"])
def test_a_placeholder_that_names_nothing_is_refused_whatever_its_key(himl: Himl, project: Path, argument: str) -> None:
    write_files(project, {"train.py": ""})
    outcome = himl("submit", "train.py", "--", argument)
    assert (outcome.code, "names no" in outcome.stderr) == (2, True)


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
    found = [path for path in (project / ".himl").rglob("*") if path.is_file() and b"marked-secret" in path.read_bytes()]
    assert found == []


def test_a_module_and_a_shell_script(himl: Himl, project: Path, require_program: Callable[[str], str]) -> None:
    require_program("bash")
    write_files(
        project, {"lab/__init__.py": "", "lab/train.py": "import sys; print('module', sys.argv[1:])", "run.sh": 'echo shell "$@"; python -c "print(1 + 1)"'}
    )
    assert himl.ok("submit", "-m", "lab.train", "--", "x").stdout == "module ['x']\n"
    assert latest(himl)["experiment"] == "train"
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


def test_a_name_without_latin_letters_or_with_a_dash(himl: Himl, project: Path) -> None:
    write_files(project, {"實驗.py": "print('ran')", "--weird.py": "print('odd')"})
    assert himl.ok("submit", "實驗.py").stdout == "ran\n"
    assert latest(himl)["experiment"] == "experiment"
    assert himl.ok("submit", "./--weird.py").stdout == "odd\n"


def test_verbose_says_what_was_decided_and_no_secret(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    outcome = himl.ok("submit", "train.py", "-v", "--env_var", "API_TOKEN=marked-secret", "--", "--password", "marked-secret")
    assert "snapshot root" in outcome.stderr
    assert "starting a supervisor" in outcome.stderr
    assert "marked-secret" not in outcome.stderr


@pytest.mark.parametrize("options", [(), ("--json",), ("-q",)])
def test_what_is_said_after_broken_off_output_stands_on_its_own_line(himl: Himl, project: Path, options: tuple[str, ...]) -> None:
    write_files(project, {"train.py": "import sys; sys.stdout.write('no newline'); sys.exit(3)"})
    talk = himl("submit", "train.py", *options).stderr.splitlines()
    assert [line for line in talk if line.startswith(("error:", '{"error"'))]


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


def test_the_snapshot_s_size_is_said_and_a_large_one_is_warned_of(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "lib/net.py": ""})
    assert "2 files" in himl.ok("submit", "train.py").stderr
    with (project / "lib" / "weights.bin").open("wb") as stream:
        stream.truncate(301 * 1024 * 1024)
    talk = himl.ok("submit", "train.py").stderr
    assert "warning" in talk
    assert "lib (315.6 MB)" in talk
    assert f"'{project / '.gitignore'}', a file to make" in talk
    write_files(project, {".gitignore": "lib/\n"})
    assert "warning" not in himl.ok("submit", "train.py").stderr


def test_follow_and_no_wait_exclude_each_other(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print('shown')"})
    assert himl("submit", "train.py", "--follow", "--no_wait").code == 2
    assert himl.ok("submit", "train.py", "--follow").stdout == "shown\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothere.py"], "There is no script 'nothere.py'"),
        (["lib"], "'lib' is a folder"),
        (["train.py", "--tag", "novalue"], "--tag takes KEY=VALUE"),
        (["train.py", "--env_var", "=x"], "--env_var takes KEY=VALUE"),
        (["train.py", "--input", "1x=y"], "cannot be a key"),
        ([], "Nothing to run"),
        (["train.py", "-m", "lib"], "both given"),
    ],
)
def test_bad_input_is_one_line_a_hint_and_nothing_made(himl: Himl, project: Path, arguments: list[str], message: str) -> None:
    write_files(project, {"train.py": "", "lib/net.py": ""})
    outcome = himl("submit", *arguments)
    lines = outcome.stderr.strip().splitlines()
    assert (outcome.code, message in lines[0], len(lines)) == (2, True, 2), outcome.stderr
    assert sorted(path.name for path in project.iterdir()) == ["lib", "train.py"]


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


def test_a_rank_that_fails_ends_the_others_and_is_shown(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import os, sys, time\nif os.environ['RANK'] == '1':\n    print('boom'); sys.exit(7)\ntime.sleep(600)"})
    outcome = himl("submit", "train.py", "--processes_per_node", "2", timeout=30)
    assert outcome.code == 1
    assert "rank 1: exit code 7" in outcome.stderr
    assert "boom" in outcome.stderr
    assert "--file user_logs/std_log_process_1.txt" in outcome.stderr
    assert latest(himl)["exit_code"] == 7


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


def test_what_holds_on_azure_only_is_said(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "data/x.txt": "1"})
    talk = himl.ok("submit", "train.py", "--input", "a=mnist:3,target=/data,local=data").stderr
    assert "target=/data" in talk
    assert str(project / "data") in talk


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--input", "nowhere"], "no folder 'nowhere'", 3),
        (["--input", "x,local=nowhere"], "'nowhere' does not exist", 3),
        (["--output", "x,local=full,overwrite=false"], "overwrite=false", 2),
        (["--output", "../x"], "leaves the datastore", 2),
        (["--default_datastore", "nope"], "No datastore 'nope'", 3),
        (["--", "${{inputs.train}}"], "names no input", 2),
    ],
)
def test_data_that_cannot_be_had_is_named_and_nothing_is_made(himl: Himl, project: Path, arguments: list[str], message: str, code: int) -> None:
    write_files(project, {"train.py": "", "full/x": ""})
    outcome = himl("submit", "train.py", *arguments)
    assert (outcome.code, message in outcome.stderr) == (code, True), outcome.stderr
    assert sorted(path.name for path in project.iterdir()) == ["full", "train.py"]


def test_in_place_keeps_what_is_new_and_changed(himl: Himl, project: Path) -> None:
    script = "import os, pathlib\nprint(os.getcwd())\npathlib.Path('outputs/new.txt').write_text('n')\npathlib.Path('outputs/old.txt').write_text('changed')\n"
    write_files(project, {"train.py": script, "outputs/old.txt": "old", "outputs/same.txt": "same", "pyproject.toml": ""})
    outcome = himl.ok("submit", "train.py", "--in_place")
    assert outcome.stdout == f"{project}\n"
    kept = project / ".himl" / "runs" / latest(himl)["id"] / "code"
    assert {path.relative_to(kept).as_posix(): path.read_text() for path in kept.rglob("*") if path.is_file()} == {
        "outputs/new.txt": "n",
        "outputs/old.txt": "changed",
    }


def test_no_wait_returns_at_once_with_the_id(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time; time.sleep(600)"})
    run_id = himl.ok("submit", "train.py", "--no_wait", "-q").stdout.strip()
    assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Running"
    himl.ok("runs", "cancel", run_id)
    himl("runs", "logs", "--follow", run_id)
    assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Canceled"


def test_quiet_prints_the_id_alone_and_the_log_on_stderr(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print('hello')"})
    outcome = himl.ok("submit", "train.py", "-q")
    assert outcome.stdout.strip() == latest(himl)["id"]
    assert "hello" in outcome.stderr


def test_json_is_one_document_also_after_a_failure(himl: Himl, project: Path) -> None:
    write_files(project, {"good.py": "print('{not json')", "bad.py": "raise SystemExit(3)"})
    assert himl.ok("submit", "good.py", "--json").json()["status"] == "Completed"
    failed = himl("submit", "bad.py", "--json")
    assert (failed.code, failed.json()["status"], failed.json()["exit_code"]) == (1, "Failed", 3)


def test_the_script_s_exit_code_is_shown(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import sys; print('last words'); sys.exit(42)"})
    outcome = himl("submit", "train.py")
    assert outcome.code == 1
    assert "exit code 42" in outcome.stderr
    assert outcome.stdout == "last words\n"


def test_a_job_ends_after_its_maximum_duration(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time; time.sleep(600)"})
    outcome = himl("submit", "train.py", "--max_run_duration", "1s", timeout=30)
    assert outcome.code == 1
    assert "--max_run_duration" in latest(himl)["reason"]


def test_a_cluster_without_azure_makes_nothing(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    outcome = himl("submit", "train.py", "--cluster", "gpu")
    assert outcome.code == 2
    assert len(outcome.stderr.strip().splitlines()) == 2
    assert "config.json" in outcome.stderr
    assert "Without --cluster jobs run here" in outcome.stderr
    assert [path.name for path in project.iterdir()] == ["train.py"]


def test_cluster_local_runs_here_whatever_the_settings_say(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print('here')", "himl.toml": '[submit]\ncluster = "gpu"\n'})
    assert himl("submit", "train.py").code == 2
    assert himl.ok("submit", "train.py", "--cluster", "local").stdout == "here\n"


def test_the_workspace_stands_beside_an_azure_config(himl: Himl, project: Path) -> None:
    keys = dict.fromkeys(["subscription_id", "resource_group", "workspace_name"], "x")
    write_files(project, {"config.json": json.dumps(keys), "deep/er/train.py": "", "deep/config.json": "{}"})
    himl.ok("submit", "train.py", cwd=project / "deep" / "er")
    assert (project / ".himl" / "workspace.db").is_file()


def test_a_workspace_can_be_named(himl: Himl, project: Path, tmp_path: Path) -> None:
    write_files(project, {"train.py": ""})
    himl.ok("submit", "train.py", "--workspace", tmp_path / "lab")
    assert (tmp_path / "lab" / ".himl" / "workspace.db").is_file()
    assert not (project / ".himl").exists()


@pytest.mark.parametrize("option", ["--snapshot-root", "--snapshot_root"])
def test_hyphens_and_underscores_are_alike(himl: Himl, project: Path, option: str) -> None:
    write_files(project, {"a/train.py": "import os; print(sorted(os.listdir()))", "pyproject.toml": ""})
    assert himl.ok("submit", "a/train.py", option, "a").stdout == "['logs', 'outputs', 'train.py']\n"


def test_settings_set_options_and_flags_win(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "himl.toml": '[submit]\nexperiment = "from_file"\ndisplay_name = "file"\n'})
    himl.ok("submit", "train.py", "--display_name", "flag", env={"HIML_SUBMIT_DESCRIPTION": "variable"})
    run = latest(himl)
    assert (run["experiment"], run["display_name"], run["description"]) == ("from_file", "flag", "variable")


def test_hi_ml_s_variable_names_the_experiment(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    himl.ok("submit", "train.py", env={"HIML_EXPERIMENT_NAME": "from variable"})
    assert latest(himl)["experiment"] == "from_variable"


def test_the_interpreter_can_be_named(himl: Himl, project: Path) -> None:
    write_files(project, {"show.py": SHOW})
    assert seen(himl, "submit", "show.py", "--python", sys.executable)["python"] == sys.executable
    missing = himl("submit", "show.py", "--python", "/nowhere/python")
    assert (missing.code, "/nowhere/python" in missing.stderr) == (2, True)


@pytest.mark.skipif(os.name == "nt", reason="permissions are not bits on Windows")
def test_the_snapshot_keeps_permissions(himl: Himl, project: Path) -> None:
    write_files(project, {"tool.sh": "#!/bin/sh\necho ran\n", "train.py": "import subprocess; subprocess.run(['./tool.sh'], check=True)"})
    (project / "tool.sh").chmod(0o755)
    assert himl.ok("submit", "train.py").stdout == "ran\n"


@pytest.mark.skipif(os.name == "nt", reason="terminals are another matter on Windows")
def test_a_narrow_terminal_shows_settings_in_full(himl: Himl, project: Path) -> None:
    text = "".join(f"word-{number}-" for number in range(30))
    terminal = Terminal([str(himl.program), "submit", "--show_settings", "--description", text], cwd=project, columns=70)
    assert terminal.finish() == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.screen)
    row = shown[shown.index("\ndescription") : shown.index("\ndifferent_seeds")].strip()
    assert "".join(line.removeprefix("description").strip().split("  ")[0] for line in row.splitlines()) == text
    assert "…" not in shown


def test_settings_are_shown_with_their_sources_and_secrets_masked(himl: Himl, project: Path) -> None:
    write_files(project, {"himl.toml": '# lab\n[submit]\nexperiment = "from_file"\n'})
    outcome = himl.ok("submit", "--show_settings", "--json", "--env_var", "API_TOKEN=marked", "--env_var", "N=1", env={"HIML_SUBMIT_DESCRIPTION": "words"})
    shown = {row["option"]: (row["value"], row["source"]) for row in outcome.json()}
    assert shown["experiment"] == ("from_file", f"{project / 'himl.toml'}:3")
    assert shown["description"] == ("words", "HIML_SUBMIT_DESCRIPTION")
    assert shown["env_var"] == ("API_TOKEN=***, N=1", "command line")
    assert shown["num_nodes"] == ("1", "default")
    assert [path.name for path in project.iterdir()] == ["himl.toml"]


@pytest.mark.skipif(os.name == "nt", reason="command lines are text on Windows")
def test_arguments_that_are_no_utf_8(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import os, sys; print(os.fsencode(sys.argv[1]))"})
    assert himl.ok("submit", "train.py", "--", os.fsdecode(b"\xff\xfe")).stdout == "b'\\xff\\xfe'\n"
    assert latest(himl)["status"] == "Completed"
