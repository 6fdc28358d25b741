"""Tests of jobs of `himl submit` in the local workspace: what they get, the snapshot, what they leave, full disks, and
interrupted and killed submits.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from ast import literal_eval
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage, Interrupted
from himl_cli.core.events import ignore
from himl_cli.core.jobs import LARGE_SNAPSHOT_BYTES
from himl_cli.core.runs import Run, RunStatus
from himl_cli.services.runs.follow import naming_started
from himl_cli.services.submission.repeat import merged_arguments
from himl_cli.services.submission.start import start_and_note
from himl_cli.workspaces.azure.jobs.job_submission import created_job
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.support.azure import azure_project as azure_project
from tests.support.azure import running as running
from tests.support.folders import SmallDisk, files_below, files_with
from tests.support.processes import MARK, is_sound, processes_below, processes_marked, supervisor_of
from tests.support.running import Himl, until, write_files
from tests.support.runs import STUBBORN, latest, posix, runs, started, status
from tests.support.terminals import Terminal

SHOW = (
    "import json, os, sys; print(json.dumps({'argv': sys.argv[1:], 'cwd': os.getcwd(), 'env': "
    "dict(os.environ), 'python': sys.executable}))"
)
COUNT = "import os, sys; print(len(sys.stdin.buffer.read()), 'bytes', os.environ.get('RANK', ''))"
RANK = (
    "import os, sys; print(*(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', "
    "'MASTER_PORT')), len(sys.stdin.buffer.read()))"
)
ARGUMENTS = "import os, sys; print(sys.argv[1:], os.environ.get('RANK'), os.path.exists('.himl'))\n"
ELSEWHERE = """
import os, pathlib, shutil, helper
for name in ("outputs/kept.txt", "logs/kept.txt", "lab/logs/new.txt"):
    pathlib.Path(name).write_text("kept")
pathlib.Path("models/version_0").mkdir(parents=True)
shutil.copy2("data/old.csv", "models/version_0/epoch=1.ckpt")
os.utime("models/version_0/epoch=1.ckpt", (0, 0))
open("data/old.csv", "a").write("2")
"""
DRY = ("submit", "train.py", "--cluster", "gpu", "--docker_image", "me/train", "--dry_run")
JOBS = {
    "train.py": "",
    "job.yml": "command: python train.py\ncode: .\ncompute: local\n",
    "pipeline.json": json.dumps({"step1": {"type": "PythonScriptStep", "script": "train.py", "source_directory": "."}}),
}
SECRETS = {".env": "A=1", ".ssh/id_rsa": "k", "lib/key.pem": "-----BEGIN PRIVATE KEY-----\n", "x/.netrc": "n"}
LEFT_OUT = (
    "himl left out 4 files that may contain secrets: '.env', '.ssh/id_rsa', 'lib/key.pem' and 1 more. To "
    "include one, use 'himl submit --include_secret GLOB'."
)


def seen(himl: Himl, *arguments: str | Path, **options: Any) -> dict[str, Any]:
    return dict(json.loads(himl.ok(*arguments, **options).stdout))


@pytest.mark.large("takes long, and other tests run its branches")
@posix
def test_in_place_a_debugger_can_be_used(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "x = 41\nbreakpoint()\nprint('x is', x)\n", "pyproject.toml": ""})
    terminal = Terminal([str(himl.program), "submit", "train.py", "--in_place"], cwd=project)
    terminal.wait_for("(Pdb)")
    terminal.type("x = x + 1\n")
    terminal.type("continue\n")
    assert terminal.finish() == 0, terminal.screen
    assert "x is 42" in terminal.screen


@posix
def test_a_job_in_a_terminal_has_keys_bars_and_colours(himl: Himl, started_himl: Himl, project: Path) -> None:
    script = """import os, sys
print("terminal", sys.stdin.isatty(), sys.stdout.isatty(), os.get_terminal_size().columns, open("/dev/tty").isatty())
print("\\rbar 1\\rbar 2\\n\\x1b[31mred\\x1b[0m")
x = 41
breakpoint()
print("x is", x)
"""
    write_files(
        project,
        {
            "train.py": script,
            "read.py": "print(sys.stdout.isatty(), repr(input()))".replace("sys", "__import__('sys')"),
        },
    )
    terminal = Terminal([str(himl.program), "submit", "train.py", "--tty"], cwd=project, columns=99)
    terminal.wait_for("(Pdb)")
    terminal.type("x = x + 1\n")
    terminal.type("continue\n")
    assert terminal.finish() == 0, terminal.screen
    assert terminal.screen.count("x = x + 1") == 1, terminal.screen
    log = himl.ok("runs", "logs", "latest").stdout
    assert log.startswith("terminal True True 99 True\n\rbar 1\rbar 2\n\x1b[31mred\x1b[0m\n")
    assert log.endswith("x is 42\n")
    assert started_himl("submit", "read.py", "--tty", input=b"piped\n").stdout == "True 'piped'\n"
    refused = [("--sweep", "x=1,2"), ("--cluster", "slurm:gpu"), ("--no_wait",), ("--processes_per_node", "2")]
    for option in refused:
        done = himl("submit", "train.py", "--tty", *option)
        assert (done.code, f"--tty cannot be used with {option[0]}" in done.stderr) == (2, True), done.stderr


@pytest.mark.large("starts several ranks")
def test_ranks_get_their_variables_and_logs(himl: Himl, started_himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": RANK, "show.py": SHOW})
    outcome = started_himl("submit", "train.py", "--processes_per_node", "3", input=b"hi\n")
    logs = project / ".himl" / "runs" / latest(himl)["id"] / "user_logs"
    lines = [(logs / f"std_log_process_{rank}.txt").read_text().split() for rank in range(3)]
    port = lines[0][4]
    assert 10_000 <= int(port) < 30_000, "no client gets it before a rank listens there"
    assert lines == [
        [str(rank), str(rank), "3", "127.0.0.1", port, "0" if rank or os.name == "nt" else "3"] for rank in range(3)
    ]
    assert outcome.stdout.split() == lines[0]
    env = seen(himl, "submit", "show.py", "--processes_per_node", "1", "--distribution", "mpi")["env"]
    assert (env["OMPI_COMM_WORLD_RANK"], env["OMPI_COMM_WORLD_SIZE"]) == ("0", "1")
    launched = {"PMI_RANK": "1", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2", "PMIX_RANK": "1", "GROUP_RANK": "0"}
    inner = (
        f"import os; print(sorted(name for name in os.environ if name in {('RANK', 'WORLD_SIZE', *launched)} or "
        "name.startswith('AZURE_ML_')))"
    )
    outer = f"import subprocess; subprocess.run(['{himl.program}', 'submit', 'inner.py'], check=True)"
    write_files(project, {"inner.py": inner, "outer.py": outer})
    assert (
        himl.ok("submit", "outer.py", "--processes_per_node", "1", "--output", "preds").stdout.splitlines().count("[]")
        == 1
    )
    assert himl.ok("submit", "inner.py", env=launched).stdout == "[]\n"


def test_script_runs_here_with_what_it_is_given(himl: Himl, project: Path) -> None:
    write_files(
        project,
        {
            "train.py": "import pathlib, sys\nprint('epochs', sys.argv[2])\n"
            "pathlib.Path('outputs/best.txt').write_text('0.9')\n"
        },
    )
    names = (
        "--display_name",
        "First try",
        "--description",
        "With dropout",
        "--tag",
        "team=blue",
        "--tag",
        "note=a=b",
        "--build_number",
        "42",
    )
    outcome = himl.ok(
        "submit",
        "train.py",
        *names,
        "--env_var",
        "API_TOKEN=marked-secret",
        "-v",
        "--",
        "--epochs",
        "5",
        "--password",
        "marked-secret",
    )
    assert outcome.stdout == "epochs 5\n"
    run = latest(himl)
    assert (run["status"], run["experiment"], run["exit_code"]) == ("Completed", "train", 0)
    assert re.fullmatch(r"train_\d+_[0-9a-f]{8}", run["id"])
    assert (project / "most_recent_run.txt").read_text() == f"train:{run['id']}\n"
    assert (project / ".himl" / "runs" / run["id"] / "code" / "outputs" / "best.txt").read_text() == "0.9"
    assert (run["display_name"], run["description"]) == ("First try", "With dropout")
    assert {
        "team": "blue",
        "note": "a=b",
        "build_number": "42",
        "run_recovery_id": f"train:{run['id']}",
    }.items() <= run["tags"].items()
    assert all(
        words in outcome.stderr
        for words in ("Created a local workspace", run["id"], "snapshot root", "starting a supervisor")
    )
    assert ("marked-secret" in outcome.stderr, files_with(project / ".himl", "marked-secret")) == (False, [])
    write_files(project, {"sub/show.py": SHOW, "pyproject.toml": ""})
    arguments = [
        "--a b",
        "",
        "'",
        '"',
        "--",
        "-m",
        "$HOME",
        "*",
        "ä€",
        "--num-runs",
        "\n",
        *([os.fsdecode(b"\xff\xfe")] if os.name == "posix" else []),
    ]
    options = (
        "--env_var",
        "COLOUR=blue=ish",
        "--env_var",
        "EMPTY=",
        "--experiment",
        "my exp",
        "--python",
        sys.executable,
    )
    job = seen(himl, "submit", "sub/show.py", *options, "--", *arguments)
    run = latest(himl)
    assert (job["argv"], job["python"]) == (arguments, sys.executable)
    wanted = {"AZUREML_RUN_ID": run["id"], "AZUREML_ARM_PROJECT_NAME": "my_exp", "COLOUR": "blue=ish", "EMPTY": ""}
    assert wanted.items() <= job["env"].items()
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"} & set(job["env"])
    assert Path(job["cwd"]) == Path(job["env"]["PWD"]) == project / ".himl" / "runs" / run["id"] / "code"
    folder = himl("submit", "sub/show.py", "--python", "/usr/bin")
    assert (folder.code, "'/usr/bin' is a folder, not a Python." in folder.stderr) == (2, True)
    for given in ("scans", "images=scans"):
        unknown = himl("submit", "sub/show.py", "--input", given)
        assert (unknown.code, f"--input {given}: no dataset or folder 'scans'" in unknown.stderr) == (3, True)
        assert f"--input {given},local=FOLDER" in unknown.stderr
    missing = himl("submit", "sub/show.py", "--python", "/nowhere/python")
    assert (missing.code, "/nowhere/python" in missing.stderr) == (2, True)
    env = seen(himl, "submit", "sub/show.py", "--env_var", "MLFLOW_TRACKING_URI=https://mlflow.example.org")["env"]
    assert env["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org", "a server of the user's own is left to him"
    assert "MLFLOW_TRACKING_TOKEN" not in env


@pytest.mark.skipif(sys.platform == "win32", reason="its PATH has more that is needed")
@pytest.mark.usefixtures("script")
def test_plain_command_runs_without_bash_but_shell_line_fails(himl: Himl, project: Path) -> None:
    env = {"PATH": str(project / "nothing")}
    assert (
        himl.ok("submit", "--command", "python lab/train.py --a 'b c'", env=env).stdout == "['--a', 'b c'] None False\n"
    )
    done = himl("submit", "--command", "cd lab && python train.py", env=env)
    assert (done.code, "for bash, which is not installed on this machine" in done.stderr) == (3, True)


def test_command_runs_from_a_snapshot_and_keeps_no_secret(
    himl: Himl, project: Path, script: Path, tmp_path: Path
) -> None:
    cases = {
        ("lab/train.py", "--command", "x"): "A script and --command cannot be combined.",
        ("-m", "lab.train", "--command", "x"): "-m MODULE and --command cannot be combined.",
        ("--command", ""): "--command got an empty value.",
        ("--command", "cat ${{inputs.a}}"): "'${{inputs.a}}' names no input",
    }
    for options, message in cases.items():
        done = himl("submit", *options)
        assert (done.code, message in done.stderr) == (2, True), done.stderr
    assert not (project / ".himl").exists()
    for line, said, experiment in (
        ("python lab/train.py --a 'b c'", "['--a', 'b c', '--lr', '$X'] None False", "train"),
        ("cd lab && python train.py", "['--lr', '$X'] None False", "train"),
        ("python -m lab.train", "['--lr', '$X'] None False", "lab_train"),
        ("echo", "--lr $X", "echo"),
    ):
        assert himl.ok("submit", "--command", line, "--", "--lr", "$X").stdout == f"{said}\n"
        run = latest(himl)
        assert (run["experiment"], run["status"], run["tags"]["command_line"].partition(" ")[0]) == (
            experiment,
            "Completed",
            "--command",
        )
    if sys.platform != "win32":  # not a text file on Windows
        other = project / "other-python"
        other.write_text(f'#!/bin/sh\necho this one\nexec {sys.executable} "$@"\n')
        other.chmod(0o755)
        assert (
            himl.ok("submit", "--command", "python lab/train.py", "--python", str(other)).stdout
            == "this one\n[] None False\n"
        )
    himl.ok("submit", "--command", "python lab/train.py --password marked-secret", "-v")
    kept = files_with(tmp_path, "marked-secret")
    assert [path.name for path in kept] == ["std_log.txt"]  # the script printed it
    for shown in ("--dry_run", "--show_settings"):
        done = himl.ok("submit", "--command", "python x.py --password marked-secret", shown)
        assert "python x.py --password ***" in done.stdout
        assert "marked-secret" not in done.stdout


@pytest.mark.large("takes long, and other tests run its branches")
def test_jobs_in_one_folder_at_once_say_whose_files_are_uncertain(himl: Himl, project: Path) -> None:
    script = (
        "import os, sys, time\nopen(f'outputs/{sys.argv[1]}', 'w').close()\n"
        "while sys.argv[1] == 'a' and not os.path.exists('go'):\n    time.sleep(0.02)"
    )
    write_files(project, {"train.py": script, "pyproject.toml": ""})
    first = himl.ok("submit", "train.py", "--in_place", "--no_wait", "-q", "--", "a").stdout.strip()
    until((project / "outputs" / "a").exists)
    second = himl.ok("submit", "train.py", "--in_place", "--", "b")
    assert f"The results may include files of '{first}', which ran in the same folder then.\n" in second.stderr
    write_files(project, {"go": ""})
    until(lambda: latest_of(himl, first)["status"] == "Completed")
    assert (
        latest_of(himl, first)["reason"]
        == f"the results may include files of '{latest(himl)['id']}', which ran in the same folder then"
    )
    assert "may include" not in himl.ok("submit", "train.py", "--in_place", "--", "c").stderr


def latest_of(himl: Himl, run_id: str) -> Any:
    return himl.ok("runs", "show", run_id, "--json").json()


def test_what_is_new_is_kept_in_place_and_what_is_not_is_told(himl: Himl, project: Path) -> None:
    script = (
        "import os, pathlib\nprint(os.getcwd())\npathlib.Path('outputs/new.txt').write_text('n')\n"
        "pathlib.Path('outputs/old.txt').write_text('changed')\n"
    )
    if sys.platform != "win32":  # where links need a right
        script += "os.symlink('../../key', 'outputs/key')\n"
        write_files(project.parent, {"key": "private"})
    write_files(
        project, {"train.py": script, "outputs/old.txt": "old", "outputs/same.txt": "same", "pyproject.toml": ""}
    )
    outcome = himl.ok("submit", "train.py", "--in_place")
    assert outcome.stdout == f"{project}\n"
    kept = project / ".himl" / "runs" / latest(himl)["id"] / "code"
    assert {path.relative_to(kept).as_posix(): path.read_text() for path in files_below(kept)} == {
        "outputs/new.txt": "n",
        "outputs/old.txt": "changed",
    }
    said = "links that lead out of the project are not saved: 'outputs/key'"
    assert (said in latest(himl)["reason"]) is (sys.platform != "win32")
    files = {"helper.py": "", "data/old.csv": "1", "lab/logs/old.txt": ""}
    write_files(project, {"fails.py": ELSEWHERE + "raise SystemExit(3)", "one.py": "open('a.txt', 'w')", **files})
    for script, code, told, glob in (
        ("one.py", 0, "1 new file outside outputs/ and logs/ is", "a.txt"),
        ("fails.py", 1, "3 new files outside outputs/ and logs/ are", "'**'"),
    ):
        outcome = himl("submit", script)
        place = project / ".himl" / "runs" / latest(himl)["id"] / "code"
        assert outcome.code == code
        told += (
            f" not part of the results: '{place / 'a.txt' if script == 'one.py' else place}'. To keep such "
            "files, add --keep "
        )
        assert told + glob in outcome.stderr.splitlines()
        assert "not part of" not in himl("submit", script, "--keep", glob.strip("'")).stderr


LOGGED = ("lightning_logs/version_0/metrics.csv", "lab/runs/one/events.out.tfevents.1", "lab/runs/one/more/a.txt")
KEPT = ("models/a b/m.pt", "x.csv")
WRITES = f"""
import pathlib
for name in {(*LOGGED, *KEPT, "models/n.pt", "lab/x.csv")}:
    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(name).write_text(name)
"""


def test_event_files_count_as_logs_and_what_is_kept_as_outputs(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": WRITES, "lab/runs/old/events.out.tfevents.0": "sent, and not new"})
    said = himl.ok("submit", "train.py", "--keep", "models/a b,/x.csv").stderr
    assert "2 new files outside" in said
    himl.ok("download", "latest", "--output_dir", "got")
    (run,) = [folder for folder in (project / "got").iterdir() if folder.is_dir()]
    got = {path.relative_to(run).as_posix(): path.read_text() for path in files_below(run)}
    assert got.keys() == {
        *(f"logs/{name}" for name in LOGGED),
        *(f"outputs/{name}" for name in KEPT),
        "user_logs/std_log.txt",
    }
    assert all(text == name.partition("/")[2] for name, text in got.items() if text)
    assert himl.ok("tb", "latest", "--sync_only", "-q").stdout.strip() == str(
        project / ".himl" / "runs" / run.name / "code" / "logs"
    )
    again = "import os\nis_first = not os.path.exists('lightning_logs')\nos.makedirs('lightning_logs', exist_ok=True)\n"
    again += (
        "open('part', 'w').write('first' if is_first else 'second')\n"
        "os.replace('part', 'lightning_logs/a.txt')\nraise SystemExit(is_first)"
    )
    write_files(project, {"again.py": again})
    assert himl("submit", "again.py").code == 1
    himl.ok("submit", "--resume", "latest")
    kept = project / ".himl" / "runs" / latest(himl)["id"] / "code" / "logs" / "lightning_logs" / "a.txt"
    assert kept.read_text() == "second"
    write_files(project, {"own.py": "open('outputs/y.txt', 'w').write('own')\nopen('y.txt', 'w').write('other')"})
    assert "1 new file outside" in himl.ok("submit", "own.py", "--keep", "y.txt").stderr
    assert (kept.parents[3].with_name(latest(himl)["id"]) / "code" / "outputs" / "y.txt").read_text() == "own"
    for wrong in (("--keep", "a[z-a]"), ("--keep", "*", "--cluster", "gpu", "--sdk", "v1")):
        assert himl("submit", "train.py", *wrong).code == 2


@pytest.mark.large("runs many jobs")
@posix
def test_what_is_piped_in_reaches_the_script_alone(started_himl: Himl, project: Path, himl: Himl) -> None:
    # Jobs of this himl get its standard input.
    himl = started_himl
    write_files(
        project, {"count.py": COUNT, "read.py": "import sys; print(text := sys.stdin.read()); sys.exit(text != 'good')"}
    )
    assert himl("submit", "count.py", input=b"x" * 3_000_000).stdout == "3000000 bytes \n"
    run = himl("submit", "count.py", "--no_wait", "-q", input=b"hi\n").stdout.strip()
    assert himl.ok("runs", "logs", run, "--follow").stdout == "3 bytes \n"
    assert himl("submit", "read.py", input=b"bad").code == 1
    again = himl("submit", "--resume", str(latest(himl)["id"]), input=b"good")
    assert (again.code, again.stdout) == (0, "good\n"), again.stderr
    for line, printed in [
        ("printf 'a\\nb\\nc\\n' | while read -r x; do {himl} submit show.py -- $x; done", "a\nb\nc\n"),
        ("{himl} submit show.py -- a <&-", "a\n"),
    ]:
        write_files(
            project,
            {
                "first.py": "import sys; print(sys.stdin.readline().strip())",
                "show.py": "import sys; print(sys.argv[1])",
            },
        )
        done = subprocess.run(
            line.format(himl=himl.program), shell=True, cwd=project, capture_output=True, text=True, timeout=250
        )
        assert (done.returncode, done.stdout) == (0, printed), done.stderr


@pytest.fixture
def script(project: Path) -> None:
    write_files(project, {"lab/train.py": ARGUMENTS, "pyproject.toml": ""})


def large_file(path: Path, size: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(size)


@pytest.mark.large("takes long, and other tests run its branches")
def test_include_secret_sends_file_by_option_and_by_setting(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print(open('.env').read(), end='')", ".env": "A=1", "b.env": "B=2"})
    outcome = himl.ok("submit", "train.py", "--include_secret", "/.env")
    assert (outcome.stdout, "himl left out one file that may contain secrets: 'b.env'." in outcome.stderr) == (
        "A=1",
        True,
    )
    write_files(project, {"himl.toml": "[submit]\ninclude_secret = ['.env', 'b.env']\n"})
    outcome = himl.ok("submit", "train.py")
    assert (outcome.stdout, "secrets" in outcome.stderr) == ("A=1", False)
    assert "--include_secret" in himl.ok("submit", "train.py", "--in_place", "--include_secret", ".env").stderr
    assert himl("submit", "train.py", "--include_secret", "[z-a]").code == 2


@pytest.mark.parametrize(("files", "named"), [({}, ".gitignore"), ({".amlignore": "*.log\n"}, ".amlignore")])
def test_large_snapshot_warning_names_folders_and_ignore_file(
    himl: Himl, project: Path, files: dict[str, str], named: str
) -> None:
    write_files(project, {"train.py": "", "small/a": "1", **files})
    large_file(project / "data" / "a.bin", LARGE_SNAPSHOT_BYTES)
    large_file(project / "models" / "a.ckpt", 1 << 20)
    warning = next(line for line in himl.ok(*DRY).stderr.splitlines() if "The snapshot is large" in line)
    assert warning.index("data (") < warning.index("models (")
    assert f"'{project / named}'" in warning
    # The last lines are rules that git ignores.
    write_files(project, {named: "/data/\n/models/\n\\\n[\n!\n"})
    outcome = himl.ok(*DRY)
    assert ("The snapshot is large" in outcome.stderr, "3 files" in outcome.stderr) == (False, True)


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("target", JOBS)
def test_secrets_stay_here_and_one_line_says_so(himl: Himl, project: Path, target: str) -> None:
    write_files(project, {**JOBS, **SECRETS, "lib/net.py": "", "himl.toml": "[submit]\nignored_folders = ['dta']\n"})
    told = "warning: --ignored_folders 'dta' excludes nothing: the snapshot has no such folder."
    dry = himl.ok("submit", target, "--dry_run").stderr
    assert (dry.count("may contain secrets"), told in dry.splitlines()) == (1, True)
    assert "warning" not in himl.ok("submit", target, "--dry_run", "--ignored_folders", "x").stderr
    outcome = himl.ok("submit", target)
    assert outcome.stderr.splitlines().count(LEFT_OUT) == 1
    sent = {name.rpartition("/")[2] for name in himl.ok("runs", "code", "-q").stdout.split()}
    assert (sent & {".env", "id_rsa", "key.pem", ".netrc"}, "net.py" in sent) == (set(), True)


@pytest.mark.large("takes long, and other tests run its branches")
def test_what_himl_downloaded_is_not_sent_with_the_next_job(himl: Himl, project: Path) -> None:
    """Only that: a folder in which the user has files keeps them."""
    look = (
        "import glob, os, subprocess; print(sorted(glob.glob('**', recursive=True))); open('outputs/made.py', "
        "'w').write('1')\n"
    )
    look += "subprocess.run(['./tool.sh'], check=os.name != 'nt')"
    files = {
        "train.py": look,
        "lib/net.py": "",
        "own/outputs/kept": "1",
        "pyproject.toml": "",
        "tool.sh": "#!/bin/sh\necho ran >&2\n",
    }
    write_files(project, files)
    (project / "tool.sh").chmod(0o755)
    himl.ok("submit", "train.py")
    for place in ("lib/got", "got"):
        himl.ok("download", "latest", "--prefix", "user_logs", "--output_dir", place)
    for place in ("lib", "."):
        himl.ok("checkpoint", "fetch", "latest:outputs/made.py", "--output_dir", place)
    write_files(project, {"got/again.py": ""})
    outcome = himl.ok("submit", "train.py")
    there = [name for name in literal_eval(outcome.stdout.splitlines()[0]) if "." in name or "kept" in name]
    assert there == sorted([*(name.replace("/", os.sep) for name in files), os.path.join("got", "again.py")])
    (left_out,) = [line for line in outcome.stderr.splitlines() if "downloaded by himl" in line]
    assert re.findall("'(.*?)'", left_out)[1:] == ["lib/got", "lib/outputs"]
    outcome = himl("submit", "lib/outputs/made.py")
    assert (outcome.code, "himl downloaded 'lib/outputs'" in outcome.stderr) == (2, True)


@pytest.mark.large("takes long, and other tests run its branches")
def test_home_folder_is_refused_unless_it_is_named(himl: Himl, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.setenv("USERPROFILE", str(project))
    write_files(project, {"environment.yml": "", "train.py": "", "sub/train.py": "", "notes/a.txt": "1"})
    for script in ("train.py", "sub/train.py"):
        outcome = himl("submit", script)
        assert (outcome.code, "all of your home folder" in outcome.stderr, "--snapshot_root" in outcome.stderr) == (
            2,
            True,
            True,
        )
        assert not (project / ".himl").exists()
    himl.ok("submit", "train.py", "--in_place")
    himl.ok("submit", "sub/train.py", "--snapshot_root", ".")


@pytest.mark.large("runs several jobs")
def test_job_here_gets_data_from_azure(
    azure_environment: StagedWorkspace, stage: Stage, himl: Himl, project: Path
) -> None:
    azure_environment.write_config(project)
    azure_environment.put_blobs("workspaceblobstore", {"scans/a.png": b"1", "scans/deep/b.png": b"22"})
    look = "import os; print(sorted(os.listdir(os.environ['AZURE_ML_INPUT_scans'])))"
    write_files(project, {"train.py": look, "himl.toml": '[submit]\ndefault_datastore = "workspaceblobstore"\n'})
    missing = himl("submit", "train.py", "--input", "scans=lungs")
    assert (
        missing.code,
        f"unknown data asset 'lungs' in {azure_environment.label}" in " ".join(missing.stderr.split()),
    ) == (3, True)
    assert not (project / ".himl").exists()
    for _ in range(2):
        stage.log.clear()
        done = himl.ok("submit", "train.py", "--input", "scans=scans", "--output", "maps=maps")
        assert done.stdout == "['a.png', 'deep']\n"
    assert not stage.log.find(r"GET [^ ]*/scans/")
    write_files(project, {"look.py": "import os; print(sorted(os.listdir('got/scans')))"})
    assert himl.ok("submit", "look.py", "--input", "scans,target=got/scans").stdout == "['a.png', 'deep']\n"


@pytest.mark.large("runs several jobs")
def test_local_input_at_its_target_is_a_link_in_the_folder_of_the_job(
    himl: Himl, project: Path, git: Callable[..., str]
) -> None:
    """So a script whose data git ignores runs unchanged, also if git tracks a file beside the data."""
    look = (
        "import os, sys; print(*((open(f'{each}/a.csv').read(), os.path.islink(each)) for each in sys.argv[1:] "
        "if os.path.isdir(each)))\n"
    )
    write_files(
        project,
        {"train.py": look, "data/a.csv": "1", "data/.gitkeep": "", "conf/x": "", ".gitignore": "data/*\n!.gitkeep\n"},
    )
    git(project, "init", "-q")
    git(project, "add", ".")
    data = ("--input", "x,local=data,target=data", "--input", "y,local=data,target=conf/deep/in")
    assert himl.ok("submit", "train.py", *data, "--", "data", "conf/deep/in").stdout == "('1', True) ('1', True)\n"
    himl.ok("submit", "train.py", *data, "--sweep", "lr=1,2", "--", "data")
    assert [himl.ok("runs", "logs", f"{latest(himl)['id']}_{number}").stdout for number in range(2)] == [
        "('1', True)\n"
    ] * 2
    in_place = himl.ok("submit", "train.py", "--in_place", *data, "--", "data")
    assert re.findall(r"no link for a job in place, and ignores '(.*?)'", in_place.stderr) == ["target=conf/deep/in"]
    for targets, why in {"conf": "the snapshot has files there", "a a/b": "one is inside the other"}.items():
        inputs = [
            word
            for number, target in enumerate(targets.split())
            for word in ("--input", f"x{number}=x,local=data,target={target}")
        ]
        outcome = himl("submit", "train.py", *inputs)
        assert (outcome.code, why in outcome.stderr) == (2, True)
    himl.ok("runs", "delete", "--experiment", "train", "--num_runs", "all", "--yes")
    assert (project / "data/a.csv").exists()


def test_what_ran_is_on_record_with_the_changes_of_its_code(himl: Himl, project: Path, git: Callable[..., str]) -> None:
    """The diff contains the files of the snapshot only, and makes them of the commit. Runs that start from a trial
    have it.
    """
    write_files(
        project, {"train.py": "print(1)\n", "old.py": "k = 1\n", ".env": "TOKEN=marked-old\n", "big.bin": b"\0" * 9}
    )
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "First")
    himl.ok("submit", "train.py")
    clean = himl.ok("runs", "show", "--environment", "--json").json()
    assert (clean["tags"]["build_source_dirty"], clean["environment"]["changes"]) == ("false", "")
    (project / "old.py").unlink()
    write_files(project, {"new.py": "x = 1", "empty.py": "", "train.py": "print(2)\n", ".env": "TOKEN=marked-new\n"})
    write_files(project, {"big.bin": b"\0" * 8, "raw.bin": b"\0"})
    himl.ok("submit", "train.py", "--sweep", "x=1,2")
    document = himl.ok("runs", "show", "--environment", "--json").json()
    found = document["environment"]
    assert (found["python"], found["version"]) == (sys.executable, ".".join(map(str, sys.version_info[:3])))
    assert (found["packages"]["pytest"], found["problem"], document["tags"]["build_source_dirty"]) == (
        pytest.__version__,
        "",
        "true",
    )
    shown = himl.ok("runs", "show", f"{document['id']}_0", "--environment").stdout
    assert re.search(rf"^  pytest +{re.escape(pytest.__version__)}$", shown, re.MULTILINE)
    assert found["changes"].startswith("Deleted: old.py\nNot in this diff: raw.bin\ndiff --git ")
    assert "marked" not in found["changes"]
    himl.ok("submit", "--from", f"{document['id']}_0")
    assert himl.ok("runs", "show", "--environment", "--json").json()["environment"]["changes"] == found["changes"]
    git(project, "stash", "-u")
    (project / "run.diff").write_text(found["changes"])
    git(project, "apply", "run.diff")
    assert [(project / name).read_bytes() for name in ("train.py", "new.py", "empty.py", "big.bin")] == [
        b"print(2)\n",
        b"x = 1",
        b"",
        b"\0" * 8,
    ]


PIPELINE_OF_TWO = """type: pipeline
jobs:
  one: {type: command, code: one, command: python train.py}
  two: {type: command, code: two, command: python train.py}
"""


def test_changes_of_all_steps_are_on_record_and_unknown_ones_are_told(
    himl: Himl, project: Path, git: Callable[..., str]
) -> None:
    step = {"name": "one", "type": "PythonScriptStep", "script": "train.py", "source_directory": "one"}
    write_files(
        project, {"one/train.py": "print(1)\n", "two/train.py": "print(1)\n", "big.txt": f"{'k' * 1023}\n" * (9 << 10)}
    )
    write_files(project, {"flow.yml": PIPELINE_OF_TWO, "flow.json": json.dumps({"step1": step})})
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "First")
    write_files(
        project, {"one/train.py": "print(2)\n", "two/train.py": "print(3)\n", "big.txt": f"{'z' * 1023}\n" * (9 << 10)}
    )

    def changes(run: str) -> str:
        return str(himl.ok("runs", "show", run, "--environment", "--json").json()["environment"]["changes"])

    himl.ok("submit", "flow.yml")
    pipeline = himl.ok("runs", "show", "--json").json()
    of_both = changes(pipeline["id"])
    assert re.findall(r"^[-+].*", of_both, re.MULTILINE) == [
        line
        for name, number in (("one", 2), ("two", 3))
        for line in (f"--- a/{name}/train.py", f"+++ b/{name}/train.py", "-print(1)", f"+print({number})")
    ]
    assert changes(pipeline["children"][0]["id"]) == of_both
    himl.ok("submit", "flow.json")
    assert "+print(2)" in changes("latest")
    told = himl.ok("submit", "one/train.py", "--snapshot_root", ".")
    assert "himl does not record the changes of the code: they have more than 16 MiB." in told.stderr
    assert changes("latest") == "Unknown: they have more than 16 MiB\n"


def test_a_repository_without_a_commit_is_no_remark(himl: Himl, project: Path, git: Callable[..., str]) -> None:
    write_files(project, {"train.py": "print(1)\n"})
    git(project, "init", "-q")
    assert "changes of the code" not in himl.ok("submit", "train.py").stderr
    found = latest(himl)["tags"]
    assert (found["build_source_dirty"], "build_source_id" in found) == ("true", False)


REPEATED = """
import argparse, os
parser = argparse.ArgumentParser()
for name in ("--lr", "--epochs", "--api_key", "--random_seed"):
    parser.add_argument(name)
print(*(f"{name}={value}" for name, value in vars(parser.parse_args()).items() if value),
    os.environ.get("TOKEN", "-"), os.environ["AZUREML_RUN_ID"])
"""


def test_a_run_is_submitted_again_with_changed_arguments(himl: Himl, project: Path, git: Callable[..., str]) -> None:
    """The code, options and arguments of the run, although the project has changed, and the record of its origin."""
    write_files(project, {"train.py": REPEATED, "data.txt": "old"})
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "First")
    options = ["--tag", "team=blue", "--display_name", "base", "--env_var", "TOKEN=marked-secret", "--retries", "1"]
    options += ["--primary_metric", "acc", "--goal", "maximize"]
    himl.ok("submit", "train.py", *options, "--", "--lr", "0.1", "--api_key", "marked-key", "--epochs", "3")
    first = latest(himl)
    assert (first["tags"]["himl.primary_metric"], first["tags"]["himl.goal"]) == ("acc", "maximize")
    write_files(project, {"train.py": "raise SystemExit('new code')"})
    lacking = himl("submit", "--from", first["id"], "--", "--lr", "0.2")
    assert (lacking.code, "look like secrets: --api_key." in lacking.stderr) == (2, True)
    assert f"hint: Give them again: himl submit --from {first['id']} -- --api_key VALUE" in lacking.stderr
    lacking = himl("submit", "--from", first["id"], "--", "--api_key", "marked-key")
    assert (lacking.code, "Set them again: --env_var TOKEN=" in lacking.stderr) == (2, True)
    given = ("--env_var", "TOKEN=marked-other", "--tag", "kind=b")
    again = himl.ok(
        "submit", "--from", first["id"], *given, "--", "--lr=0.2", "--api_key=marked-key", "--random_seed", "7"
    )
    second = latest(himl)
    assert again.stdout == f"lr=0.2 epochs=3 api_key=marked-key random_seed=7 marked-other {second['id']}\n"
    tags = {**first["tags"], "kind": "b", "himl.repeats": first["id"], "run_recovery_id": second["recovery_id"]}
    assert second["tags"] == {**tags, "command_line": "train.py --lr=0.2 '--api_key=***' --epochs 3 --random_seed 7"}
    assert (second["display_name"], himl.ok("runs", "diff", "--json").json()["code"]) == ("base", [])
    assert f"\nRepeats       {first['id']}\n" in himl.ok("runs", "show").stdout
    shown = himl.ok("submit", "--from", "latest", *given, "--dry_run", "--only_args").stdout.splitlines()
    assert shown[0] == f"# To save the code there: himl runs code {second['id']} --output_dir code_of_{second['id']}"
    assert f"code: {project}/code_of_{second['id']}" in shown
    only = himl.ok(
        "submit", "--from", "latest", *given, "--primary_metric", "loss", "--only_args", "--", "--epochs", "1"
    )
    assert only.stdout.startswith("epochs=1 marked-other ")
    assert {
        name: value for name, value in latest(himl)["tags"].items() if name in ("himl.primary_metric", "himl.goal")
    } == {"himl.primary_metric": "loss"}
    assert {path.name for path in files_with(project, "marked-key")} == {"std_log.txt"}, "what the script prints"


def test_a_trial_a_seed_and_a_step_are_repeated_alone(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": REPEATED})
    himl.ok("submit", "train.py", "--sweep", "lr=0.1,0.2", "--", "--epochs", "3")
    sweep = latest(himl)["id"]
    again = himl.ok("submit", "--from", f"{sweep}_1", "--", "--epochs", "4")
    assert again.stdout.startswith("lr=0.2 epochs=4 - ")
    assert {"himl.trial", "himl.hyperparameters"} & {*latest(himl)["tags"]} == set()
    himl.ok("submit", "--from", sweep, "--max_concurrent", "2", "--", "--epochs", "5")
    whole = himl.ok("runs", "show", "--json").json()
    assert [each["hyperparameters"] for each in whole["children"]] == [{"lr": 0.1}, {"lr": 0.2}]
    assert himl.ok("runs", "logs", whole["children"][0]["id"]).stdout.startswith("lr=0.1 epochs=5 - ")
    himl.ok("submit", "train.py", "--different_seeds", "2", "-q")
    assert himl.ok("submit", "--from", f"{latest(himl)['id']}_1").stdout.startswith("random_seed=1 - ")
    steps = {
        "step1": {
            "type": "PythonScriptStep",
            "name": "a",
            "script": "train.py",
            "arguments": ["--lr", "9"],
            "source_directory": ".",
        }
    }
    write_files(project, {"pipe.json": json.dumps(steps)})
    himl.ok("submit", "pipe.json")
    pipeline = latest(himl)["id"]
    write_files(project, {"train.py": "raise SystemExit('new code')"})
    assert himl.ok("submit", "--from", f"{pipeline}_step1").stdout.startswith("lr=9 ")
    for words, problem in {
        ("train.py", "--from", "latest"): "--from takes the script of the run",
        ("--from", "latest", "--in_place"): "--in_place cannot be used with --from",
        ("--from", "latest", "--", "word"): "The argument 'word' has no name",
        ("train.py", "--only_args"): "--only_args has no effect without --from RUN.",
    }.items():
        refused = himl("submit", *words)
        assert (refused.code, problem in refused.stderr) == (2, True), words


FILL = """
import os, pathlib, sys
place = pathlib.Path(sys.argv[sys.argv.index("--output") + 1]) if "--output" in sys.argv else None
if place:
    (place / "made.txt").write_text(sys.argv[2])
given = sys.argv[sys.argv.index("--input_data") + 1] if "--input_data" in sys.argv else ""
print(sys.argv[2], *sorted(os.listdir(given)) if given else "", os.environ["TOKEN"])
"""
DATA_PIPELINE = {
    "step1": {
        "script": "fill.py",
        "source_directory": "one",
        "arguments": ["--lr", "1"],
        "output": "made",
        "input_dataset_name": "digits",
    },
    "step2": {
        "script": "fill.py",
        "source_directory": "two",
        "arguments": ["--lr", "2"],
        "input_datareference_name": "made",
    },
}


def test_a_whole_pipeline_is_repeated(himl: Himl, project: Path) -> None:
    """The same files of each step, arguments, inputs, options and order, although all files have changed."""
    steps = {key: {"type": "PythonScriptStep", "name": f"{key} of it", **step} for key, step in DATA_PIPELINE.items()}
    write_files(project, {"one/fill.py": FILL, "two/fill.py": FILL, "pipe.json": json.dumps(steps)})
    write_files(project, {".himl/datastores/local/digits/a.csv": "1"})
    options = [
        "--tag",
        "team=blue",
        "--display_name",
        "base",
        "--env_var",
        "TOKEN=marked-one",
        "--max_run_duration",
        "5m",
    ]
    himl.ok("submit", "pipe.json", *options)
    first = latest(himl)["id"]
    write_files(
        project, {"one/fill.py": "raise SystemExit(1)", "two/fill.py": "raise SystemExit(1)", "pipe.json": "{}"}
    )
    lacking = himl("submit", "--from", first)
    assert (lacking.code, "Set them again: --env_var TOKEN=" in lacking.stderr) == (2, True)
    himl.ok("submit", "--from", first, "--env_var", "TOKEN=other", "--tag", "kind=b", "--same_environment")
    again = latest(himl)
    assert (again["status"], again["display_name"], again["experiment"]) == ("Completed", "base", "pipe")
    assert {name: again["tags"].get(name) for name in ("team", "kind", "himl.repeats", "command_line")} == {
        "team": "blue",
        "kind": "b",
        "himl.repeats": first,
        "command_line": "pipe.json",
    }
    assert [(step["id"], step["display_name"]) for step in again["children"]] == [
        (f"{again['id']}_{key}", f"{key} of it") for key in steps
    ]
    assert [himl.ok("runs", "logs", step["id"]).stdout for step in again["children"]] == [
        "1 a.csv other\n",
        "2 made.txt other\n",
    ]
    stored = json.loads((project / ".himl" / "runs" / again["id"] / "plan.json").read_text())["many"]
    assert [job["spec"]["max_seconds"] for job in stored["jobs"]] == [300, 300]
    assert himl.ok("runs", "diff", first, again["id"], "--json").json()["code"] == []
    dry = himl.ok("submit", "--from", first, "--env_var", "TOKEN=other", "--dry_run").stdout
    for key in steps:
        folder = f"code_of_{first}_{key}"
        assert f"himl runs code {first}_{key} --output_dir {folder}\n" in dry
        assert f"code: {project / folder}\n" in dry
    write_files(project, {"flow.yml": PIPELINE_OF_TWO.replace("python train.py", "python fill.py --lr 7")})
    write_files(project, {"one/fill.py": FILL, "two/fill.py": FILL})
    himl.ok("submit", "flow.yml", "--env_var", "TOKEN=t")
    himl.ok("submit", "--from", "latest", "--env_var", "TOKEN=u")
    assert {himl.ok("runs", "logs", step["id"]).stdout for step in latest(himl)["children"]} == {"7 u\n"}


def test_what_a_repeated_pipeline_does_not_take(himl: Himl, project: Path) -> None:
    step = {
        "type": "PythonScriptStep",
        "name": "a",
        "script": "train.py",
        "source_directory": ".",
        "arguments": ["--api_key", "marked-key"],
    }
    write_files(project, {"train.py": "print(1)\n", "pipe.json": json.dumps({"step1": step})})
    himl.ok("submit", "pipe.json")
    run = latest(himl)["id"]
    for words, problem, hint in [
        (
            [],
            f"himl does not store values of run '{run}' that look like secrets: --api_key of step1.",
            f"himl submit pipe.json --from {run}",
        ),
        (
            ["--", "--lr", "1"],
            f"Run '{run}' is a pipeline, whose steps have arguments.",
            f"himl submit --from {run}_STEP -- --NAME VALUE",
        ),
        (
            ["--only_args"],
            f"Run '{run}' is a pipeline, whose steps have arguments.",
            f"himl submit --from {run}_STEP -- --NAME VALUE",
        ),
        (
            ["--sweep", "lr=1,2"],
            f"--sweep cannot be used with --from and the pipeline '{run}'.",
            "himl submit pipe.json",
        ),
        (["--max_concurrent", "2"], "--max_concurrent cannot be used", "himl submit pipe.json"),
        (["--input", "digits"], "--input cannot be used", "himl submit pipe.json"),
    ]:
        refused = himl("submit", "--from", run, *words)
        assert (refused.code, problem in refused.stderr, hint in refused.stderr) == (2, True, True), refused.stderr
    write_files(project, {"train.py": "raise SystemExit(1)\n"})
    himl.ok("submit", "pipe.json", "--from", run)
    again = latest(himl)
    assert (again["tags"]["himl.repeats"], again["tags"]["command_line"]) == (run, "pipe.json")
    # The user's own file is in the copy of the project, which the supervisor removes after the end
    found = {path.name for path in files_with(project / ".himl" / "runs" / again["id"], "marked-key")}
    assert found <= {"pipe.json"}
    shutil.rmtree(project / ".himl" / "runs" / run / "steps")
    plan = project / ".himl" / "runs" / run / "plan.json"
    plan.write_text(plan.read_text().replace("***", "x"))
    refused = himl("submit", "--from", run)
    assert (refused.code, "it has no copy of its code" in refused.stderr) == (2, True), refused.stderr
    himl.ok("submit", "-m", "this")
    (project / ".himl" / "runs" / latest(himl)["id"] / "plan.json").unlink()
    assert "himl submit -m this" in himl("submit", "--from", "latest").stderr


def test_a_run_is_repeated_only_with_the_same_packages(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": REPEATED})
    himl.ok("submit", "train.py")
    himl.ok("submit", "--from", "latest", "--same_environment")
    run = latest(himl)["id"]
    place = project / ".himl" / "runs" / run / "environment.json"
    found = json.loads(place.read_text())
    found["packages"] |= {"pytest": "1.0", "torch": "2.4"}
    place.write_text(json.dumps(found))
    refused = himl("submit", "--from", run, "--same_environment")
    assert refused.code == 2
    assert (
        f"packages differ from those of run '{run}': pytest 1.0 -> {pytest.__version__}, torch 2.4 -> missing."
        in refused.stderr
    )
    found["packages"] |= {f"a{number}": "1" for number in range(200)}
    place.write_text(json.dumps({**found, "version": "3.9"}))
    refused = himl("submit", "--from", run, "--same_environment")
    assert (refused.stderr.count(" -> "), " and 183 more.\n" in refused.stderr) == (20, True), refused.stderr
    assert f"'{run}': python 3.9 -> " in refused.stderr


@pytest.mark.large("takes long, and other tests run its branches")
def test_printed_commands_name_a_workspace_elsewhere(himl: Himl, project: Path) -> None:
    """In another folder than the nearest one, so that they find the run when they are typed."""
    write_files(project, {"train.py": "print('ran')"})
    himl.ok("submit", "train.py")
    for folder in ("../the other/.himl", ".himl"):
        ended = himl("submit", "train.py", "--workspace", folder)
        (command,) = re.findall("Details: himl (.*)", ended.stderr)
        assert ("-w" in command) == (folder != ".himl")
        assert himl.ok(*shlex.split(command)).stdout.startswith("train_")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("--lr 0.1 data.csv --amp", "--lr 0.2", "--lr 0.2 data.csv --amp"),
        ("--layers 64 32 --lr 1", "--layers 128", "--layers 128 --lr 1"),
        ("--amp data.csv", "--no-amp", "--no-amp data.csv"),
        ("--x=1 -v", "--x 2 -w", "--x 2 -v -w"),
        ("model=a lr=1", "lr=2 +new=3", "model=a lr=2 +new=3"),
        ("--shift -1 --shift -2", "--shift -3", "--shift -3"),
        ("--lr 1", "", "--lr 1"),
        ("--flag pos", "--flag", "how many values --flag has"),
    ],
)
def test_given_arguments_replace_those_of_the_same_name(old: str, new: str, expected: str) -> None:
    forms = {"lr": "", "layers": "words", "amp": "negatable"}
    try:
        found = " ".join(merged_arguments(old.split(), new.split(), forms))
    except BadUsage as err:
        found = str(err)
    assert expected in found if "how" in expected else found == expected


@pytest.mark.large("takes long, and other tests run its branches")
def test_job_stays_completed_when_outputs_cannot_be_kept(himl: Himl, project: Path) -> None:
    script = (
        "import os, pathlib\nrun = os.environ['AZUREML_RUN_ID']\n"
        "(pathlib.Path('.himl/runs') / run / 'code' / 'outputs').write_text('in the way')\n"
    )
    write_files(project, {"train.py": script + "pathlib.Path('outputs/new').write_text('n')\n"})
    assert himl("submit", "train.py", "--in_place").code == 0
    (run,) = runs(himl)
    assert (run["status"], run["exit_code"], "could be saved" in run["reason"]) == ("Completed", 0, True)


def test_a_disk_that_fills_while_the_job_runs(himl: Himl, small_disk: SmallDisk) -> None:
    fill = 'printf \'print(1, flush=True)\\nopen("outputs/big", "wb").write(b"x" * 9000000)\\n\' > train.py'
    done = on_disk(himl, small_disk, f"{fill}; himl submit train.py; echo code $?; himl runs list --json")
    assert "code 1" in done.stdout
    assert '"Failed"' in done.stdout
    assert "is full" in done.stdout
    assert not small_disk.is_shared or is_sound(small_disk.folder)
    assert "No space left on device" in done.stdout + done.stderr


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_job_that_is_refused_for_want_of_space_leaves_nothing(himl: Himl, small_disk: SmallDisk) -> None:
    """There is space for the workspace and the run's folder, but not for recording the end of the run."""
    begin = (
        "printf 'print(1)' > train.py; mkdir -p .himl/runs; dd if=/dev/zero of=fill bs=1k 2>/dev/null; "
        "truncate -s -60K fill"
    )
    done = on_disk(himl, small_disk, f"{begin}; himl submit train.py; echo code $?; ls .himl/runs | wc -l")
    assert done.stdout.split() == ["code", "1", "0"], done.stdout + done.stderr
    assert "Cannot record the run: No space left" in done.stderr


def test_a_full_disk_takes_jobs_again_and_is_read(himl: Himl, small_disk: SmallDisk) -> None:
    script = "print(1); open('outputs/model', 'wb').write(bytes(500_000))"
    begin = f'printf "{script}" > train.py; cat /dev/zero > fill 2>/dev/null'
    refused = (
        "himl submit train.py; echo code $?; rm fill; himl runs list --json; himl submit train.py -q "
        ">/dev/null; echo code $?"
    )
    # An ending supervisor frees space.
    settle = "while [ -e .himl/workspace.db-wal ]; do sleep 0.05; done; dd if=/dev/zero of=fill bs=1k 2>/dev/null"
    look = (
        "himl runs list --json; himl runs logs latest; himl runs delete latest --yes; echo code $?; himl runs "
        "list --json"
    )
    done = on_disk(himl, small_disk, f"{begin}; {refused}; {settle}; {look}")
    lines = done.stdout.splitlines()
    assert lines[:3] == ["code 1", "[]", "code 0"], done.stdout + done.stderr
    assert ('"Completed"' in lines[3], lines[4], lines[-2:]) == (True, "1", ["code 0", "[]"]), done.stdout + done.stderr
    assert ("No space left" in done.stderr, "Traceback" in done.stderr) == (True, False)


def test_a_disk_that_is_too_small_for_the_snapshot(himl: Himl, small_disk: SmallDisk, project: Path) -> None:
    (project / "big.bin").write_bytes(os.urandom(9_000_000))
    write_files(project, {"train.py": ""})
    workspace = f"--workspace '{small_disk.folder}/lab'"
    done = on_disk(
        himl,
        small_disk,
        f"cd '{project}'; himl submit train.py {workspace}; echo code $?; himl runs list --json {workspace}",
    )
    assert ("code 1" in done.stdout, '"Failed"' in done.stdout, "No space left on device" in done.stderr) == (
        True,
        True,
        True,
    ), done.stderr


@pytest.mark.large("fills a disk")
def test_full_disk_during_trials_still_records_sweep_failure(himl: Himl, small_disk: SmallDisk) -> None:
    write = 'with open("outputs/x", "wb") as s: s.write(b"x" * (9000000 if os.path.exists(os.environ["FILL"]) else 1))'
    submit = (
        f"printf 'import os\\n{write}\\n' > train.py; FILL=$PWD/train.py himl submit train.py --sweep n=1,2; "
        "echo code $?"
    )
    resume = "rm -f .himl/runs/*/code/outputs/x; FILL=/nowhere himl submit --resume latest -q >/dev/null; echo code $?"
    done = on_disk(himl, small_disk, f"{submit}; himl runs show latest --json; {resume}; himl runs show latest --json")
    told = [line for line in done.stdout.splitlines() if line.startswith(("code", "{"))]
    assert [told[0], told[2]] == ["code 1", "code 0"], done.stdout + done.stderr
    before, after = json.loads(told[1]), json.loads(told[3])
    reason, _, why = before["reason"].partition(" (")
    assert (before["status"], reason, "No space left" in why) == ("Failed", "2 of 2 trials failed", True), (
        "a sweep names what kept a trial from starting"
    )
    assert [run["status"] for run in after["children"]] == ["Completed", "Completed"]


def on_disk(himl: Himl, disk: SmallDisk, script: str) -> subprocess.CompletedProcess[str]:
    code = f'cd "{disk.folder}" && himl() {{ "{himl.program}" "$@"; }} && {script}'
    return subprocess.run(
        [*disk.prefix, "sh", "-c", code], capture_output=True, text=True, timeout=100, env=dict(os.environ)
    )


@pytest.mark.large("takes long, and other tests run its branches")
def test_project_that_may_only_be_read(
    himl: Himl, project: Path, tmp_path: Path, read_only: Callable[[Path], Path]
) -> None:
    write_files(project, {"train.py": "print('ran')"})
    run = himl.ok("submit", "train.py", "-q").stdout.strip()
    read_only(project)
    refused = himl("submit", "train.py")
    assert (refused.code, len(refused.stderr.strip().splitlines()), "--workspace" in refused.stderr) == (1, 3, True), (
        refused.stderr
    )
    elsewhere = himl("submit", "train.py", "--workspace", tmp_path / "lab")
    assert (elsewhere.code, elsewhere.stdout, "most_recent_run.txt" in elsewhere.stderr) == (0, "ran\n", True)
    assert (himl.ok("runs", "list", "-q").stdout, himl.ok("runs", "logs", run).stdout) == (f"{run}\n", "ran\n")
    refused = himl("runs", "tag", run, "a=b")
    assert (refused.code, refused.stdout, "Cannot write" in refused.stderr, "workspace.db" in refused.stderr) == (
        1,
        "",
        True,
        True,
    )


SLEEPER = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
DAEMON = (
    "import subprocess, sys\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    f"{SLEEPER}"
)
RUN = Run(id="train_7", experiment="train", status=RunStatus.queued, created=datetime(2026, 1, 1, tzinfo=timezone.utc))


@pytest.mark.large("takes long, and other tests run its branches")
def test_nested_runs_that_were_left_open_end_with_their_job(himl: Himl, project: Path) -> None:
    nested = (
        "import mlflow, os\nmlflow.start_run()\nmlflow.start_run(nested=True)\nmlflow.log_metric('loss', 0.5)\n"
        "os._exit(3)\n"
    )
    write_files(project, {"train.py": nested})
    assert himl("submit", "train.py").code == 1
    shown = himl.ok("runs", "show", "latest", "--json").json()
    assert [child["status"] for child in shown["children"]] == ["Failed"]
    child = himl.ok("runs", "show", shown["children"][0]["id"], "--json").json()
    assert (child["status"], child["reason"]) == ("Failed", "the job ended"), "recorded, not only read off a free lock"


@pytest.mark.large("takes long, and other tests run its branches")
@posix
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(himl: Himl, project: Path, closed: str) -> None:
    write_files(project, {"train.py": "print('ran')"})
    done = subprocess.run(
        ["sh", "-c", f'"{himl.program}" submit train.py {closed}; echo $?'],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.splitlines()[-1:] == ["0"], done
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    assert status(himl) == "Completed"
    assert is_sound(project)


@posix
@pytest.mark.parametrize("victims", ["supervisor", "supervisor and shim", "shim", "SIGTERM to supervisor"])
def test_killed_helpers_leave_no_process_and_a_failed_run(himl: Himl, project: Path, victims: str) -> None:
    if victims == "shim" and sys.platform != "linux":
        pytest.skip("finding daemons that left their group needs Linux")
    write_files(project, {"train.py": {"shim": DAEMON, "supervisor": STUBBORN}.get(victims, SLEEPER)})
    process = started(himl, project)
    if victims.endswith("supervisor"):
        os.kill(supervisor_of(project), signal.SIGTERM if "SIGTERM" in victims else signal.SIGKILL)
    else:
        for pid in (
            processes_below(project / ".himl", "shim.py") if victims == "shim" else processes_below(project, "himl_cli")
        ):
            os.kill(pid, signal.SIGKILL)
    _, talk = process.communicate(timeout=100)
    (run,) = runs(himl)
    assert (process.returncode, run["status"], "SIGTERM" in run["reason"]) == (
        1,
        "Failed",
        victims == "SIGTERM to supervisor",
    )
    assert (b"supervisor" in talk, run["duration"]) == (True, None) or victims != "supervisor"
    until(lambda: processes_below(project) == [])
    assert himl.ok("runs", "logs", run["id"]).stdout == "up\n"
    assert himl.ok("runs", "list", "--status", "running", "-q").stdout == ""
    assert is_sound(project)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("words", [["train.py", "--nonsense"], ["other.py"], ["train.py", "--num_nodes", "2"]])
def test_a_supervisor_that_gets_no_work_ends(himl: Himl, project: Path, words: list[str]) -> None:
    write_files(project, {"train.py": "print('ran')", "himl.toml": '[submit]\ncluster = "slurm:gpu"\n'})
    mark = uuid.uuid4().hex
    command, environment = [str(himl.program), "submit", *words], {**os.environ, MARK: mark, "PATH": str(project)}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, timeout=100)
    assert (done.returncode in (2, 3), done.stdout, b"error: " in done.stderr) == (True, b"", True), done
    assert processes_marked(mark, patience=60) == []
    module = ["-m", "himl_cli.workspaces.local.supervisor"]
    alone = subprocess.run([sys.executable, *module], stdin=subprocess.DEVNULL, capture_output=True, timeout=100)
    assert (alone.returncode, alone.stdout, alone.stderr) == (0, b"", b"")


@posix
def test_script_that_ends_by_signal_or_cannot_start_says_so(himl: Himl, project: Path, tmp_path: Path) -> None:
    dies = (
        "import os, signal, sys\nsys.stdout.buffer.write(bytes(range(256)))\nsys.stdout.flush()\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    write_files(project, {"train.py": dies, "run.sh": "exec /nowhere/python train.py\n"})
    outcome = himl("submit", "train.py")
    assert (outcome.code, "signal 11 (SIGSEGV)" in outcome.stderr, outcome.raw_stdout) == (1, True, bytes(range(256)))
    assert (runs(himl)[0]["exit_code"], himl.ok("runs", "logs", "latest").raw_stdout) == (139, bytes(range(256)))
    outcome = himl("submit", "run.sh")
    assert (outcome.code, "/nowhere/python" in outcome.stdout, runs(himl)[0]["exit_code"]) == (1, True, 127)
    broken = tmp_path / "python"
    broken.write_text("#!/nowhere/interpreter\n")
    broken.chmod(0o755)
    assert himl("submit", "train.py", "--python", broken).code == 1
    assert (runs(himl)[0]["status"], str(broken) in runs(himl)[0]["reason"]) == ("Failed", True)


@pytest.mark.large("starts himl at once several times")
def test_submits_at_once_are_all_recorded(himl: Himl, project: Path) -> None:
    write_files(
        project,
        {"train.py": "import os, pathlib\npathlib.Path('outputs/id').write_text(os.environ['AZUREML_RUN_ID'])\n"},
    )
    processes = [himl.start("submit", "train.py", "-q") for _ in range(5)]
    ids = {process.communicate(timeout=100)[0].decode().strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 5
    recorded = runs(himl)
    assert ({run["id"] for run in recorded}, {run["status"] for run in recorded}, len(ids)) == (ids, {"Completed"}, 5)
    assert all(
        (project / ".himl" / "runs" / run_id / "code" / "outputs" / "id").read_text() == run_id for run_id in ids
    )
    assert is_sound(project)


@pytest.mark.large("runs several jobs")
@posix
@pytest.mark.parametrize(("number", "quiet", "group"), [(signal.SIGTERM, True, False), (signal.SIGINT, False, True)])
def test_interrupting_waiting_submit_cancels_the_job(
    himl: Himl, project: Path, number: signal.Signals, quiet: bool, group: bool
) -> None:
    """One case sends the signal to the whole process group, which excludes the supervisor.

    With --quiet, himl still prints the run's id.
    """
    write_files(
        project,
        {
            "train.py": "import time\ntry:\n    print('up', flush=True); time.sleep(600)\nexcept KeyboardInterrupt:\n"
            "    print('saved')\n"
        },
    )
    process = started(himl, project, *(["-q"] if quiet else []))
    (os.killpg if group else os.kill)(process.pid, number)
    output, talk = process.communicate(timeout=100)
    (run,) = runs(himl)
    assert (process.returncode, run["status"]) == (130, "Canceled"), talk
    assert output.decode() == (f"{run['id']}\n" if quiet else "up\nsaved\n")
    until(lambda: processes_below(project) == [])


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(sys.platform != "linux", reason="NEEDS /proc")
def test_only_the_main_thread_of_a_waiting_submit_wakes_up(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time\nprint('up', flush=True); time.sleep(600)\n"})
    process = started(himl, project)

    def wakes() -> dict[int, int]:
        """How often each thread has slept, by its id."""
        tasks = {int(task.name): (task / "status").read_text() for task in Path(f"/proc/{process.pid}/task").iterdir()}
        return {
            task: int(found[1])
            for task, text in tasks.items()
            if (found := re.search(r"\nvoluntary_ctxt_switches:\s*(\d+)", text))
        }

    before = wakes()
    until(lambda: wakes()[process.pid] >= before[process.pid] + 45)
    after = wakes()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    assert len(after) > 1
    assert sum(after.values()) - after[process.pid] <= sum(before.values()) - before[process.pid] + 2  # its start


@posix
def test_ctrl_c_while_a_large_file_is_copied(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print('ran')"})
    with (project / "big.bin").open("wb") as stream:
        stream.truncate(20_000_000_000)
    process = himl.start("submit", "train.py")
    until(lambda: any((project / ".himl" / "runs").glob("*/code/big.bin")))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert (process.returncode, status(himl), output) == (130, "Canceled", b"")
    himl.ok("runs", "delete", "--run", "latest", "--yes")


@pytest.mark.large("takes long, and other tests run its branches")
@posix
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_closed_terminal_or_killed_submit_leaves_job_running(
    himl: Himl, project: Path, tmp_path: Path, number: signal.Signals
) -> None:
    go = tmp_path / "go"
    script = (
        f"import os, time\nprint('up', flush=True)\nwhile not os.path.exists({str(go)!r}):\n"
        "    time.sleep(0.05)\nprint('done')\n"
    )
    write_files(project, {"train.py": script})
    process = started(himl, project)
    os.killpg(process.pid, number)
    process.communicate(timeout=100)
    assert (process.returncode, status(himl)) == (-number, "Running")
    go.touch()
    until(lambda: status(himl) == "Completed")
    assert himl.ok("runs", "logs", "latest").stdout == "up\ndone\n"


@posix
@pytest.mark.parametrize(("function", "returns"), [("interruptions", 2), ("submit_prepared", 1), ("start_and_note", 1)])
def test_ctrl_c_between_the_creation_of_a_job_and_its_output_names_the_job(
    himl: Himl, azure_project: StagedWorkspace, project: Path, function: str, returns: int
) -> None:
    write_files(project, {"train.py": "print(1)\n"})
    ended = himl.interrupted(function, returns, "submit", "train.py", "--cluster", "cpu-cluster", "-q")
    (run_id,) = azure_project.state.runs
    said = f"error: Interrupted during the start of run '{run_id}', which may exist.\nhint: 'himl runs show {run_id}' "
    assert (ended.code, ended.stdout, ended.stderr[: len(said)]) == (130, "", said)


def test_ctrl_c_once_a_run_has_begun_says_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who waits for the file may interrupt at once.

    Python then raises the exception just after the file is renamed.
    """
    with pytest.raises(KeyboardInterrupt), naming_started(ignore):  # nothing has begun, so the caller handles it
        raise KeyboardInterrupt
    with (
        pytest.raises(Interrupted, match="Interrupted after the creation of job 'train_7'") as caught,
        created_job("train_7"),
    ):
        raise KeyboardInterrupt
    assert caught.value.hint == "To stop it: himl runs cancel train_7"
    replace = os.replace

    def interrupted_just_behind(old: str, new: str) -> None:
        replace(old, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted_just_behind)
    with pytest.raises(Interrupted, match="'train_7'\\. The run continues"):
        start_and_note(lambda notify: RUN, tmp_path, lambda event: None)
    assert (tmp_path / "most_recent_run.txt").read_text() == "train:train_7\n"


@pytest.mark.large("waits for stubborn processes")
@posix
def test_second_ctrl_c_stops_waiting_for_run_to_end(himl: Himl, project: Path) -> None:
    """SIGTERM follows the SIGINT that the script ignores, and lets rank 0 print its last lines.

    SIGKILL ends rank 1, which ignores both.
    """
    ignores = "import os, signal, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    stubborn = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ['RANK'] == '1' else lambda *_: "
        "sys.exit('told to'))\n"
    )
    write_files(project, {"train.py": f"{ignores}{stubborn}print('up', flush=True)\ntime.sleep(600)\n"})
    process = himl.start("submit", "train.py", "--processes_per_node", "2")
    until(
        lambda: (
            len(
                [
                    log
                    for log in (project / ".himl" / "runs").glob("*/user_logs/std_log_process_*.txt")
                    if log.read_bytes()
                ]
            )
            == 2
        )
    )
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while b"Canceling run" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=100)
    assert (process.returncode, b"still being canceled" in talk) == (130, True)
    until(lambda: status(himl) == "Canceled")
    assert himl.ok("runs", "logs", "latest").stdout == "up\ntold to\n"
    until(lambda: processes_below(project) == [])
