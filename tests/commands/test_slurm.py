"""Tests of jobs on a real Slurm cluster: submitting, showing, canceling and restarting runs, and what happens when
Slurm or himl is not available.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.runs import RunQuery
from himl_cli.workspaces.local.controller import end_if_last
from himl_cli.workspaces.local.engines.queue import QueuedJobs
from himl_cli.workspaces.local.run_store import Database, RunStore
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.support.running import SECONDS, Himl, Outcome, until, write_files
from tests.support.slurm import Slurm

LOG_METRIC = """
import json, os, time, urllib.request

def log(name, value):
    body = json.dumps({"run_id": os.environ["AZUREML_RUN_ID"], "key": name, "value": value,
        "timestamp": int(time.time() * 1000), "step": 0}).encode()
    headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"], "Content-Type": "application/json"}
    url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
    urllib.request.urlopen(urllib.request.Request(url, body, headers)).read()
"""
SCRIPTS = {
    "log.py": LOG_METRIC,
    "hello.py": "import os, sys\nprint('hello', *sys.argv[1:], os.environ.get('TOKEN'))\n"
    "open('outputs/made.txt', 'w').write('made')\n",
    "sleep.py": "import sys, time\nprint('asleep', flush=True)\ntime.sleep(float(sys.argv[1]))\n",
}
IS_LARGE = bool(os.environ.get("HIML_TEST_LARGE"))
"""`.ci/run` sets it, for 200 trials and 30 kills in place of a few."""
Run = dict[str, Any]


@pytest.fixture
def send(himl: Himl, project: Path, slurm: Slurm) -> Callable[..., str]:
    """Return a function that submits to the partition `gpu` and returns the run's id."""
    write_files(project, {name: text.encode() for name, text in SCRIPTS.items()})

    def call(*arguments: str) -> str:
        done = himl("submit", "--cluster", "slurm:gpu", "-q", *arguments)
        assert done.code == 0, done.stderr
        return done.stdout.strip()

    return call


def has_logged(himl: Himl, run_id: str, text: str) -> bool:
    return text in himl("runs", "logs", run_id).stdout


def shown(himl: Himl, run_id: str) -> Run:
    run: Run = himl("runs", "show", run_id, "--json").json()
    return run


def ended(himl: Himl, run_id: str, *, jobs: int = 1) -> Run:
    """Wait until the run of so many *jobs* has ended, and return it."""
    until(
        lambda: shown(himl, run_id)["status"] not in ("Queued", "Running"),
        lambda: f"it ends: {shown(himl, run_id) | {'children': None}}",
        seconds=SECONDS + jobs,
    )
    return shown(himl, run_id)


def job_of(run: Run) -> str:
    return str(run["tags"]["himl.slurm_job"])


def test_submit_returns_at_once_and_the_run_is_as_any(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    run_id = send("hello.py", "--env_var", "TOKEN=very-secret-1", "--sbatch", "comment=mine", "--", "world")
    run = ended(himl, run_id)
    assert (run["status"], run["exit_code"], run["reason"]) == ("Completed", 0, "")
    assert himl("runs", "logs", run_id).stdout == "hello world very-secret-1\n"
    notes = [line.split() for line in (project / ".himl" / "runs" / run_id / "log_times").read_text().splitlines()]
    assert [(attempt, log, size) for attempt, log, _, size in notes] == [
        ("1", "std_log.txt", "0"),
        ("1", "std_log.txt", "26"),
    ]
    after = datetime.fromtimestamp(int(notes[-1][2]) / 1000 + 1, timezone.utc).isoformat()
    assert [himl("runs", "logs", run_id, "--since", since).stdout for since in ("1h", after)] == [
        "hello world very-secret-1\n",
        "",
    ]
    assert himl("download", run_id).code == 0
    assert list((project / "outputs").rglob("made.txt"))
    job = slurm("scontrol", "show", "job", job_of(run))
    assert f"JobName={run_id}" in job
    assert "Comment=mine" in job
    assert "Partition=gpu" in job
    kept = [path for path in (project / ".himl").rglob("*") if path.is_file() and path.name != "std_log.txt"]
    assert not [path for path in kept if b"very-secret-1" in path.read_bytes()]
    assert "very-secret-1" not in job + slurm.calls.read_text()
    assert slurm.calls.read_text().count("sbatch --parsable") == 1


def test_a_queued_run_tells_why_it_waits_and_is_canceled(himl: Himl, slurm: Slurm, send: Callable[..., str]) -> None:
    run_id = send("sleep.py", "--sbatch", "begin=now+1hour", "--", "60")
    assert (shown(himl, run_id)["status"], shown(himl, run_id)["reason"]) == ("Queued", "BeginTime")
    assert "Waits for     BeginTime" in himl("runs", "show", run_id).stdout
    done = himl("runs", "delete", run_id, "--yes")
    assert done.code == 2
    assert f"error: Run '{run_id}' is queued. Nothing was deleted." in done.stderr
    assert himl("runs", "cancel", run_id).code == 0
    assert (shown(himl, run_id)["status"], shown(himl, run_id)["reason"]) == ("Canceled", "canceled")
    assert not slurm("squeue", "-h", "-n", run_id)


def test_a_running_run_is_canceled_here_or_in_slurm(himl: Himl, slurm: Slurm, send: Callable[..., str]) -> None:
    here, there = send("sleep.py", "--", "600"), send("sleep.py", "--", "600")
    for run_id in (here, there):
        # The script has started.
        until(partial(has_logged, himl, run_id, "asleep"), "it runs")
    assert himl("runs", "cancel", here).code == 0
    slurm("scancel", job_of(shown(himl, there)))
    assert (ended(himl, here)["status"], ended(himl, here)["reason"]) == ("Canceled", "canceled")
    assert (ended(himl, there)["status"], ended(himl, there)["reason"]) == (
        "Canceled",
        f"canceled in Slurm (job {job_of(shown(himl, there))})",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--cluster", "slurm:none"],
            "error: Slurm refused the job: invalid partition specified: none; Invalid partition name specified.",
        ),
        (
            ["--cluster", "slurm:short", "--sbatch", "time=60"],
            "error: Slurm refused the job: Requested time limit is invalid (missing or exceeds some limit).",
        ),
        (
            ["--cluster", "slurm:gpu", "--sbatch", "gres=gpu:2"],
            "error: Slurm refused the job: Invalid generic resource (gres) specification.",
        ),
        (
            ["--cluster", "slurm:gpu", "--sbatch", "grse=gpu:2"],
            "error: --sbatch grse: sbatch has no option --grse.\nhint: Did you mean gres?",
        ),
        (
            ["--cluster", "slurm:gpu", "--sbatch", "array=0-3"],
            "error: --sbatch 'array=0-3' is not allowed, because himl sets --array.\nhint: Use --sweep, ",
        ),
        (
            ["--cluster", "slurm:gpu", "--sbatch", "nodes=2"],
            "error: --sbatch 'nodes=2' is not allowed, because himl sets --nodes.\nhint: Use --num_nodes of",
        ),
        (
            ["--cluster", "slurm:gpu", "--sbatch", "outp=x"],
            "error: --sbatch 'outp=x' is not allowed, because himl sets --output.\nhint: Omit it.",
        ),
        (
            ["--cluster", "slurm:gpu", "--sbatch", "signal=@"],
            "error: --sbatch signal=@ is not a signal.\nhint: Write NAME@SECONDS",
        ),
        (["--after", "latest"], "error: --after applies to Slurm jobs only.\nhint: Add --cluster slurm:NAME"),
        (
            ["--cluster", "slurm:gpu", "--sbatch", "wait"],
            "error: --sbatch 'wait' is not allowed, because himl sets --wait.\nhint: Use --wait of",
        ),
        (["--sbatch", "mem=1G"], "error: --sbatch applies to Slurm jobs only.\nhint: Add --cluster slurm:NAME"),
    ],
)
def test_what_slurm_refuses_is_not_recorded(
    himl: Himl, project: Path, send: Callable[..., str], options: list[str], message: str
) -> None:
    for many in ([], ["--crossval", "2"]):
        done = himl("submit", "hello.py", *options, *many)
        assert done.code == 2
        assert message in done.stderr
    folder = project / ".himl"
    assert not folder.exists() or (
        himl("runs", "list", "-q").stdout,
        os.listdir(folder / "runs"),
        os.listdir(folder / "starting"),
    ) == ("", [], [])


def test_signals_reach_the_script_and_the_reason_is_true(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    script = """
import signal, sys, time
def save(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM or 'usr' in sys.argv:
        time.sleep(float(sys.argv[1]))
        sys.exit(0)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, save)
print('ready', flush=True)
time.sleep(600)
"""
    write_files(project, {"save.py": script.encode()})
    limited = send("save.py", "--grace", "4m", "--sbatch", "time=5", "--", "6")
    at_once = send("save.py", "--grace", "1s", "--", "0")
    by_script = send(
        "save.py",
        "--sbatch",
        "signal=USR1@300",
        "--sbatch",
        "hint=nomultithread",
        "--sbatch",
        "export=NIL",
        "--",
        "0",
        "usr",
    )
    assert (
        "B:USR1@300"
        in himl("submit", "save.py", "--cluster", "slurm:gpu", "--dry_run", "--sbatch", "signal=SIGUSR1@300").stdout
    )
    signals = {limited: ["USR1", "TERM"], at_once: ["TERM"], by_script: ["USR1"]}
    for run_id, names in signals.items():
        until(partial(has_logged, himl, run_id, "ready"), "it runs")
        for name in names:
            slurm("scancel", "--batch", f"--signal={name}", job_of(shown(himl, run_id)))
            until(partial(has_logged, himl, run_id, name), f"{name} arrives")
    found = {
        run_id: (ended(himl, run_id)["status"], shown(himl, run_id)["reason"], shown(himl, run_id)["exit_code"])
        for run_id in signals
    }
    assert found[limited] == ("Failed", "it reached Slurm's time limit (00:05:00, less 240 s to save)", 0)
    assert found[at_once] == ("Failed", "its supervisor received SIGTERM, as at a shutdown of the machine", 0)
    assert found[by_script] == ("Completed", "", 0)


def test_a_run_starts_after_others(himl: Himl, slurm: Slurm, send: Callable[..., str]) -> None:
    done, going, many = send("hello.py"), send("sleep.py", "--", "600"), send("sleep.py", "--crossval", "2", "--", "0")
    last = send(
        "hello.py", "--after", going, "--after", many, "--sbatch", f"dependency=after:{job_of(shown(himl, done))}"
    )
    waiting = slurm("scontrol", "show", "job", job_of(shown(himl, last)))
    assert f"afterok:{job_of(shown(himl, going))}(unfulfilled)" in waiting
    assert shown(himl, last)["reason"] == "Dependency"
    assert ended(himl, done)["status"] == "Completed"
    assert ended(himl, send("hello.py", "--after", done))["status"] == "Completed"
    assert himl("runs", "cancel", going).code == 0
    assert (ended(himl, last)["status"], shown(himl, last)["reason"]) == (
        "Canceled",
        "a job before it did not complete",
    )
    refused = himl("submit", "hello.py", "--cluster", "slurm:gpu", "--after", going)
    assert (refused.code, f"--after {going}: the run is canceled, so the job would never start." in refused.stderr) == (
        2,
        True,
    ), refused.stderr


def test_a_failed_job_is_started_again_as_often_as_asked(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    flag = project.parent / "attempts"
    count = f"with open({str(flag)!r}, 'a+') as f:\n f.write('x'); f.seek(0); n = len(f.read())\n"
    write_files(project, {"flaky.py": f"import sys\n{count}print('attempt', n)\nsys.exit(n < 4)\n".encode()})
    run_id = send("flaky.py", "--retries", "3")
    until(
        lambda: slurm.start_requeued(run_id) and shown(himl, run_id)["status"] == "Completed",
        lambda: str(shown(himl, run_id)),
    )
    assert [himl("runs", "logs", run_id, "--try", str(number)).stdout for number in (1, 4)] == [
        "attempt 1\n",
        "attempt 4\n",
    ]
    run = shown(himl, run_id)
    assert [each["outcome"] for each in run["attempts"]] == [*["failed: exit code 1"] * 3, "completed"]
    assert run["started"] == run["attempts"][0]["started"] < run["attempts"][3]["started"]
    flag.unlink()
    run_id = send("flaky.py", "--retries", "1")
    until(
        lambda: slurm.start_requeued(run_id) and shown(himl, run_id)["status"] == "Failed",
        lambda: str(shown(himl, run_id)),
    )
    assert flag.read_text() == "xx"


def test_a_requeued_job_is_another_attempt_of_the_run(himl: Himl, slurm: Slurm, send: Callable[..., str]) -> None:
    run_id = send("sleep.py", "--", "600")
    for attempt in range(2):
        until(
            lambda: (shown(himl, run_id)["status"], himl("runs", "logs", run_id).stdout) == ("Running", "asleep\n"),
            "it runs",
        )
        slurm("scontrol", "requeue", job_of(shown(himl, run_id)))
        until(lambda: shown(himl, run_id)["status"] == "Queued", lambda: str(shown(himl, run_id)))
        until(
            lambda: slurm.start_requeued(run_id) and shown(himl, run_id)["status"] == "Running",
            f"attempt {attempt + 2} runs",
        )
    assert himl("runs", "cancel", run_id).code == 0
    run = ended(himl, run_id)
    assert (run["status"], run["started"], len(run["attempts"])) == ("Canceled", run["attempts"][0]["started"], 3)
    assert himl("runs", "logs", run_id, "--try", "3").code == 0


def test_a_script_may_requeue_its_own_job(himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]) -> None:
    script = """import os, subprocess
first = 'SLURM_RESTART_COUNT' not in os.environ
print('first' if first else 'second')
if first:
    subprocess.run(['scontrol', 'requeue', os.environ['SLURM_JOB_ID']], check=True)
"""
    write_files(project, {"again.py": script.encode()})
    run_id = send("again.py")
    until(
        lambda: slurm.start_requeued(run_id) and shown(himl, run_id)["status"] == "Completed",
        lambda: str(shown(himl, run_id)),
    )
    assert [himl("runs", "logs", run_id, "--try", str(number)).stdout for number in (1, 2)] == ["first\n", "second\n"]


def test_a_job_whose_supervisor_is_killed_has_failed(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    run_id = send("sleep.py", "--", "600")
    until(lambda: "asleep" in himl("runs", "logs", run_id).stdout, "it runs")
    slurm("scancel", "--signal=KILL", "--batch", job_of(shown(himl, run_id)))
    run = ended(himl, run_id)
    assert run["status"] == "Failed"
    assert run["reason"].startswith(f"job {job_of(run)} ended in Slurm as "), run


def test_tables_of_settings_make_the_script(himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]) -> None:
    table = (
        '[slurm.lab]\npartition = "short"\nsbatch = { mem = "100M", exclusive = true }\n'
        'setup = "export FROM_SETUP=yes"\nrun_with = "env FROM_RUN_WITH=too"\n'
    )
    script = (
        "import os\nprint(os.environ['FROM_SETUP'], os.environ['FROM_RUN_WITH'], os.environ['SLURM_JOB_PARTITION'])\n"
    )
    write_files(project, {"himl.toml": table.encode(), "show.py": script.encode()})
    done = himl("submit", "show.py", "--cluster", "slurm:lab", "--wait", "--max_run_duration", "90s")
    assert done.code == 0, done.stderr
    assert himl("runs", "logs", "latest").stdout == "yes too short\n"
    write_files(project, {"job.yml": b"type: command\ncode: .\ncommand: python show.py\ncompute: slurm:lab\n"})
    assert himl("submit", "job.yml", "--wait").code == 0
    assert himl("runs", "logs", "latest").stdout == "yes too short\n"
    assert "#SBATCH --partition=short" in himl("submit", "job.yml", "--dry_run", "--json").json()["batch_script"]
    dry = himl("submit", "show.py", "--cluster", "slurm:lab", "--dry_run", "--env_var", "TOKEN=very-secret-2").stdout
    for line in ("#SBATCH --partition=short", "#SBATCH --mem=100M", "#SBATCH --exclusive", "export FROM_SETUP=yes"):
        assert line in dry.splitlines()
    assert "very-secret-2" not in dry
    for options, asked in (
        (["--gpus", "2"], ["#SBATCH --gres=gpu:2"]),
        (["--gpus", "2", "--sbatch", "gpus-per-task=1"], []),
        (["--gpus", "0"], []),
    ):
        dry = himl("submit", "show.py", "--cluster", "slurm:lab", "--dry_run", *options).stdout
        assert [line for line in dry.splitlines() if "--gres" in line] == asked
    for option, value in (("--gpus", "0.5"), ("--queue", None)):
        assert himl("submit", "show.py", "--cluster", "slurm:lab", option, *([value] if value else [])).code == 2
    for of_table, partition in ((b"", ["#SBATCH --partition=lab"]), (b'partition = ""', [])):
        write_files(project, {"himl.toml": b"[slurm.lab]\n" + of_table})
        dry = himl("submit", "show.py", "--cluster", "slurm:lab", "--dry_run").stdout
        assert [line for line in dry.splitlines() if line.startswith("#SBATCH --partition")] == partition
    write_files(project, {"himl.toml": b'[slurm.lab]\npartitoin = "short"\n'})
    done = himl("submit", "show.py", "--cluster", "slurm:lab")
    assert done.code == 2
    assert "has the unknown key 'partitoin'" in done.stderr
    assert "Did you mean partition?" in done.stderr


# A program that runs a command as in an image: with a Python of its own in a folder that does not exist outside of it
APPTAINER = """#!/bin/sh
[ "$1" = exec ] && shift 2
echo "in the image: $1" | sed "s#/.*/##"
PATH={bin}:$PATH exec "$@"
"""


def test_the_python_of_a_container_and_of_setup_lines(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    inside, other = project.parent / "inside", project.parent / "other"
    for folder in (inside, other):
        folder.mkdir()
        name = "python-of-image" if folder == inside else "python"
        (folder / name).write_text(f'#!/bin/sh\necho {folder.name} >&2\nexec {sys.executable} "$@"\n')
        (folder / name).chmod(0o755)
    (inside / "apptainer").write_text(APPTAINER.format(bin=inside))
    (inside / "apptainer").chmod(0o755)
    broken = f"PYTHONPATH={project}/broken"
    tables = {
        "image": f'python = "python-of-image"\nrun_with = "{inside}/apptainer exec image.sif"',
        "other": f'setup = """\necho hello from setup\nif true; then\n  export PATH={other}:$PATH {broken}\nfi\n\n'
        '# a comment\nfalse || true\n"""',
        "fails": 'setup = ["echo before", "ls /nonexistent  # fails", "echo after"]',
        "exits": 'setup = ["exit 4"]',
        "wrong": 'setup = ["if true"]',
    }
    settings = "".join(f'[slurm.{name}]\npartition = "short"\n{text}\n' for name, text in tables.items())
    write_files(
        project,
        {
            "himl.toml": settings.encode(),
            "broken/json/__init__.py": b"raise SystemExit('a module of the job')\n",
            "show.py": b"import os, sys\nprint('PYTHONPATH' in os.environ, [name for name in os.environ if "
            b"name.startswith('HIML_SETUP')])\n",
        },
    )
    jobs = [
        ("image", "show.py"),
        ("image", "-m", "show"),
        ("image", "--command", "python show.py"),
        ("other", "show.py"),
    ]
    runs = [send(*job, "--cluster", f"slurm:{table}") for table, *job in jobs]
    array = send("show.py", "--crossval", "2", "--cluster", "slurm:other")
    failing = {table: send("show.py", "--cluster", f"slurm:{table}") for table in ("fails", "exits")}
    assert [ended(himl, run_id)["status"] for run_id in [*runs, array]] == ["Completed"] * 5
    logs = [himl("runs", "logs", run_id).stdout.splitlines() for run_id in [*runs, f"{array}_0"]]
    assert logs[:3] == [
        [f"in the image: {first}", "inside", "False []"] for first in ("python-of-image", "python-of-image", "bash")
    ]
    assert logs[3:] == [["hello from setup", "other", "True []"]] * 2
    assert (ended(himl, failing["fails"])["reason"], ended(himl, failing["exits"])["reason"]) == (
        "the setup line 'ls /nonexistent  # fails' ended with exit code 2",
        "the setup line 'exit' ended with exit code 4",
    )
    log = himl("runs", "logs", failing["fails"]).stdout
    assert ("before" in log, "cannot access" in log, "after" in log) == (True, True, False)
    assert not list((project / ".himl").rglob("*.setup"))
    assert re.search(
        r"On node \w+, the setup line 'ls /nonexistent.* code 2\.",
        himl("doctor", "--slurm", "fails").stdout.replace("\n", " "),
    )
    refused = himl("submit", "show.py", "--cluster", "slurm:wrong")
    assert (refused.code, "error: bash rejects the setup lines: bash: line" in refused.stderr) == (2, True), (
        refused.stderr
    )


def test_python_function_submits_too(himl: Himl, project: Path, send: Callable[..., str]) -> None:
    call = (
        'submit_to_azure_if_needed(compute_cluster_name="slurm:gpu", snapshot_root_directory=".", '
        "wait_for_completion=True)"
    )
    write_files(
        project,
        {
            "own.py": (
                f"import sys\nfrom himl_cli import submit_to_azure_if_needed\n{call}\n"
                "print('in the job', *sys.argv[1:])\n"
            ).encode()
        },
    )
    done = subprocess.run(
        [sys.executable, "own.py", "--azureml", "--epochs=2"], cwd=project, capture_output=True, text=True
    )
    assert (done.returncode, "Ignored" in done.stderr) == (0, False), done.stderr
    assert himl("runs", "logs", "latest").stdout == "in the job --epochs=2\n"


def test_trials_are_one_array(himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]) -> None:
    script = "import sys\nfrom log import log\nlog('loss', float(sys.argv[2]))\n"
    write_files(project, {"trial.py": b"open('in/x').close()\n" + script.encode(), "data/x": b""})
    run_id = send(
        "trial.py",
        "--input",
        "x,local=data,target=in",
        "--sweep",
        "x=" + ",".join(str(value) for value in range(1, 7)),
        "--max_concurrent",
        "3",
        "--primary_metric",
        "loss",
    )
    run = ended(himl, run_id)
    assert (run["status"], run["tags"]["himl.best_trial"]) == ("Completed", f"{run_id}_0")
    assert job_of(run).endswith("[0-5]")
    assert slurm.calls.read_text().count("sbatch --parsable") == 1
    assert "completed" in himl("runs", "logs", run_id).stdout


def test_no_more_trials_run_at_once_than_was_said(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    times = project.parent / "times"
    times.mkdir()
    script = "import sys, time\nfrom log import log\nbegun = time.time()\nlog('loss', float(sys.argv[2]))\n"
    script += f"open({str(times)!r} + '/' + sys.argv[2], 'w').write(f'{{begun}} {{time.time()}}')\n"
    write_files(project, {"trial.py": script.encode()})
    count = 200 if IS_LARGE else 20
    run_id = send(
        "trial.py",
        "--sweep",
        "x=" + ",".join(map(str, range(count))),
        "--max_concurrent",
        "8",
        "--primary_metric",
        "loss",
    )
    assert ended(himl, run_id, jobs=count)["status"] == "Completed"
    spans = [tuple(map(float, (times / str(number)).read_text().split())) for number in range(count)]
    assert max(sum(begun <= moment < end for begun, end in spans) for moment, _ in spans) <= 8
    trials = himl("runs", "aggregate", run_id, "--json").json()["children"]
    assert [(trial["hyperparameters"]["x"], trial["last"]["loss"]) for trial in trials] == [
        (x, x) for x in range(count)
    ]
    assert slurm.calls.read_text().count("sbatch --parsable") == 1


def test_a_trial_and_a_whole_sweep_are_canceled(himl: Himl, slurm: Slurm, send: Callable[..., str]) -> None:
    run_id = send("sleep.py", "--crossval", "4", "--max_concurrent", "1", "--", "600")
    until(lambda: shown(himl, run_id)["status"] == "Running", "the first trial runs")
    assert himl("runs", "cancel", f"{run_id}_3").code == 0
    assert shown(himl, f"{run_id}_3")["status"] == "Canceled"
    assert shown(himl, f"{run_id}_2")["status"] == "Queued"
    assert himl("runs", "cancel", run_id).code == 0
    assert ended(himl, run_id)["status"] == "Canceled"
    assert [shown(himl, f"{run_id}_{number}")["status"] for number in range(4)] == ["Canceled"] * 4
    until(lambda: not slurm("squeue", "-h", "-n", run_id), "no job is left")


def test_a_resumed_run_is_sent_as_a_new_one_and_suspended_it_is_canceled(
    himl: Himl, project: Path, started_himl: Himl, slurm: Slurm, send: Callable[..., str]
) -> None:
    write_files(
        project,
        {
            "again.py": b"import os, time\nprint('asleep', flush=True)\n"
            b"time.sleep(600 * (os.environ['HIML_TRY'] != '1'))\nraise SystemExit(3)\n"
        },
    )
    run_id = send("again.py")
    assert ended(himl, run_id)["status"] == "Failed"
    done = himl("submit", "--resume", run_id)
    assert (done.code, done.stdout.split()[0]) == (0, run_id), done.stderr
    until(
        lambda: shown(himl, run_id)["status"] == "Running" and "asleep" in himl("runs", "logs", run_id).stdout,
        "it runs",
    )
    slurm("scontrol", "suspend", job_of(shown(himl, run_id)))
    assert himl("runs", "cancel", run_id).code == 0
    assert ended(himl, run_id)["status"] == "Canceled"
    with subprocess.Popen(
        [str(started_himl.program), "submit", "--resume", run_id, "--wait"],
        cwd=project,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        until(lambda: shown(himl, run_id)["status"] == "Running", "it runs again")
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate()
    assert (waiting.returncode, f"Stopped following run '{run_id}'. The run continues." in said) == (130, True), said
    assert shown(himl, run_id)["status"] == "Running"
    assert himl("runs", "cancel", run_id).code == 0
    assert ended(himl, run_id)["status"] == "Canceled"


def test_what_is_missing_of_a_sweep_is_done_later(himl: Himl, project: Path, send: Callable[..., str]) -> None:
    flag = project.parent / "flag"
    write_files(
        project,
        {
            "fold.py": (
                f"import os, sys\nprint(sys.argv)\nsys.exit(sys.argv[2] == '1' and not os.path.exists({str(flag)!r}))\n"
            ).encode()
        },
    )
    run_id = send("fold.py", "--crossval", "3")
    assert (ended(himl, run_id)["status"], ended(himl, run_id)["reason"]) == ("Failed", "1 of 3 trials failed")
    flag.touch()
    done = himl("submit", "--resume", run_id, "--wait")
    assert done.code == 0, done.stderr
    assert "resumed: 1 of 3 trials remaining" in himl("runs", "logs", run_id).stdout


@pytest.mark.parametrize(
    "options",
    [
        ["--sampling", "bayesian", "--max_trials", "3", "--max_concurrent", "2"],
        ["--early_stop", "median", "--max_trials", "3"],
    ],
)
def test_what_depends_on_results_has_a_controller(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str], options: list[str]
) -> None:
    write_files(project, {"trial.py": b"import sys\nfrom log import log\nlog('loss', float(sys.argv[2]) ** 2)\n"})
    run_id = send("trial.py", "--sweep", "x=uniform(0,1)", *options, "--primary_metric", "loss", "--sbatch", "mem=100M")
    run = ended(himl, run_id)
    assert run["status"] == "Completed", himl("runs", "logs", run_id).stdout
    assert slurm.calls.read_text().count("sbatch --parsable") == 4
    assert "best: trial" in himl("runs", "logs", run_id).stdout


def test_a_controller_restarts_and_its_trials_continue(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    go, table = (
        project.parent / "go",
        '[slurm.gpu]\ncontroller = ["time=30", "comment=its own"]\nsbatch = { mem = "100M", signal = "USR1@200" }\n',
    )
    script = (
        f"import os, sys, time\nfrom log import log\nwhile not os.path.exists({str(go)!r}):\n  time.sleep(0.1)\n"
        "log('loss', float(sys.argv[2]))\n"
    )
    write_files(project, {"himl.toml": table.encode(), "trial.py": script.encode()})
    options = ["--sampling", "bayesian", "--max_trials", "3", "--max_concurrent", "2", "--primary_metric", "loss"]
    run_id = send("trial.py", "--sweep", "x=uniform(0,1)", *options)

    def trials() -> list[str]:
        return [shown(himl, f"{run_id}_{number}")["status"] for number in (0, 1)]

    for way in (["scancel", "--batch", "--signal=TERM"], ["scontrol", "requeue"]):
        until(
            lambda: len(shown(himl, run_id)["children"] or ()) == 2 and trials() == ["Running"] * 2,
            lambda: str(shown(himl, run_id)),
        )
        number = job_of(shown(himl, run_id))
        job = slurm("scontrol", "show", "job", number)
        assert ("Comment=its own" in job, "TimeLimit=00:30:00" in job, "mem=100M" in job) == (True, True, False)
        slurm(*way, number)
        until(lambda: shown(himl, run_id)["status"] == "Queued", lambda: str(shown(himl, run_id)))
        assert trials() == ["Running"] * 2
        until(
            lambda: slurm.start_requeued(run_id) and shown(himl, run_id)["status"] == "Running",
            "the controller restarts",
        )
    go.touch()
    assert ended(himl, run_id)["status"] == "Completed", himl("runs", "logs", run_id).stdout
    assert [trial["status"] for trial in shown(himl, run_id)["children"]] == ["Completed"] * 3
    assert slurm.calls.read_text().count("sbatch --parsable") == 4


def test_more_trials_than_the_site_takes_at_once_are_sent_as_others_end(
    himl: Himl, project: Path, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, send: Callable[..., str]
) -> None:
    """A stand-in for a site with accounting, where a user may submit at most three jobs, counting tasks of arrays."""
    limit = """n=1
for each; do case $each in --array=*) n=${each##*-}; n=$((${n%%%*} + 1));; esac; done
[ $(($(squeue -h -r -t PD,R,CG | wc -l) + n)) -le 3 ] && exec BIN/sbatch "$@"
echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit
sbatch: error: Batch job submission failed: Job violates accounting/QOS policy' >&2
exit 1
"""
    stand_in(tmp_path, monkeypatch, {"sbatch": limit.replace("BIN", str(slurm.programs))})
    done = himl("submit", "hello.py", "--cluster", "slurm:gpu", "--crossval", "4", "--primary_metric", "loss")
    assert (
        done.code,
        "Slurm takes fewer jobs at a time, so a controller submits them as others end." in done.stderr,
    ) == (0, True), done.stderr
    run_id = done.stdout.split()[0]
    assert ended(himl, run_id)["status"] == "Completed", himl("runs", "logs", run_id).stdout
    assert [trial["status"] for trial in shown(himl, run_id)["children"]] == ["Completed"] * 4
    assert "QOSMaxSubmitJobPerUserLimit" in himl("runs", "logs", run_id).stdout


def test_steps_of_a_pipeline_wait_for_each_other(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    step = {
        "type": "PythonScriptStep",
        "script": "step.py",
        "source_directory": "code",
        "requirements": "requirements.txt",
    }
    steps = {
        "step1": {**step, "name": "first", "arguments": "--code 0"},
        "step2": {**step, "name": "second", "arguments": "--code 3"},
        "step3": {**step, "name": "third"},
    }
    script = b"import sys\nsys.exit(int(sys.argv[2]) if len(sys.argv) > 2 else 0)\n"
    write_files(project, {"pipe.json": json.dumps(steps).encode(), "code/step.py": script, "requirements.txt": b""})
    run_id = send("pipe.json")
    run = ended(himl, run_id)
    assert run["status"] == "Failed"
    assert run["reason"].startswith("step 'second' (step2) failed"), run
    assert [shown(himl, f"{run_id}_step{number}")["status"] for number in (1, 2, 3)] == [
        "Completed",
        "Failed",
        "Canceled",
    ]
    assert shown(himl, f"{run_id}_step3")["reason"] == "a job before it did not complete"


def test_runs_are_repeated_on_slurm_and_here(himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]) -> None:
    """From Slurm to Slurm with its options, to this machine, and back: jobs, sweeps and pipelines."""
    options = ["--sbatch", "comment=mine", "--sbatch", "mem=64M", "--tag", "team=blue", "--max_run_duration", "10m"]
    first = send("hello.py", *options, "--", "--lr", "0.1", "--name", "a b")
    ended(himl, first)
    write_files(project, {"hello.py": b"raise SystemExit('new code')"})
    again = himl.ok("submit", "--from", first, "-q", "--", "--lr", "0.2").stdout.strip()
    run = ended(himl, again)
    assert (run["status"], run["tags"]["himl.repeats"], run["tags"]["team"]) == ("Completed", first, "blue")
    assert himl.ok("runs", "logs", again).stdout == "hello --lr 0.2 --name a b None\n"
    jobs = [slurm("scontrol", "show", "job", job_of(each)) for each in (shown(himl, first), run)]
    facts = [re.findall(r"\b(?:Comment|Partition|TimeLimit|MinMemoryNode)=\S+", job) for job in jobs]
    assert ("Comment=mine" in facts[0], facts[1]) == (True, facts[0])
    here = himl.ok("submit", "--from", again, "--cluster", "local")
    assert here.stdout == "hello --lr 0.2 --name a b None\n"
    run_here = shown(himl, "latest")
    assert "himl.slurm_job" not in run_here["tags"]
    back = ended(himl, himl.ok("submit", "--from", run_here["id"], "--cluster", "slurm:gpu", "-q").stdout.strip())
    assert (back["status"], back["tags"]["himl.repeats"], job_of(back) != "") == ("Completed", run_here["id"], True)
    refused = himl("submit", "--from", run_here["id"], "--sbatch", "mem=1M")
    assert (refused.code, "--sbatch applies to Slurm jobs only" in refused.stderr) == (2, True), refused.stderr
    sweep = send("log.py", "--sweep", "lr=0.1,0.2")
    ended(himl, sweep, jobs=2)
    trial = himl.ok("submit", "--from", f"{sweep}_1", "-q").stdout.strip()
    assert ended(himl, trial)["status"] == "Completed"
    whole = himl.ok("submit", "--from", sweep, "-q").stdout.strip()
    assert [each["hyperparameters"] for each in ended(himl, whole, jobs=2)["children"]] == [{"lr": 0.1}, {"lr": 0.2}]


def test_a_pipeline_is_repeated_on_slurm_and_here(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    step = {"type": "PythonScriptStep", "script": "step.py", "source_directory": "code", "arguments": "--code 0"}
    steps = {"step1": {**step, "name": "first"}, "step2": {**step, "name": "second"}}
    write_files(
        project, {"pipe.json": json.dumps(steps).encode(), "code/step.py": b"import sys\nprint(*sys.argv[1:])\n"}
    )
    first = send("pipe.json", "--sbatch", "comment=mine")
    ended(himl, first, jobs=2)
    write_files(project, {"code/step.py": b"raise SystemExit(1)"})
    again = himl.ok("submit", "--from", first, "-q").stdout.strip()
    assert ended(himl, again, jobs=2)["status"] == "Completed"
    assert "Comment=mine" in slurm("scontrol", "show", "job", job_of(shown(himl, f"{again}_step2")))
    himl.ok("submit", "--from", first, "--cluster", "local")
    here = shown(himl, "latest")
    assert (here["status"], here["tags"]["himl.repeats"]) == ("Completed", first)
    assert himl.ok("runs", "logs", f"{here['id']}_step2").stdout == "--code 0\n"
    back = himl.ok("submit", "--from", here["id"], "--cluster", "slurm:gpu", "-q").stdout.strip()
    assert ended(himl, back, jobs=2)["status"] == "Completed"
    assert job_of(shown(himl, f"{back}_step1"))


def test_ranks_of_two_nodes_meet_and_log(himl: Himl, project: Path, send: Callable[..., str]) -> None:
    script = "import os, sys, time\nfrom log import log\nlog('rank_' + os.environ['RANK'], 1.0)\n"
    script += "print(*(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'NODE_RANK', 'WORLD_SIZE')))\n"
    script += "if len(sys.argv) > 1:\n  sys.exit(4) if os.environ['RANK'] == sys.argv[1] else time.sleep(600)\n"
    write_files(project, {"ranks.py": script.encode()})
    run_id = send("ranks.py", "--num_nodes", "2", "--processes_per_node", "2")
    assert ended(himl, run_id)["status"] == "Completed", himl("runs", "logs", run_id).stdout
    logs = [himl("runs", "logs", run_id, "--file", f"std_log_process_{rank}.txt").stdout for rank in range(4)]
    assert logs == ["0 0 0 4\n", "1 1 0 4\n", "2 0 1 4\n", "3 1 1 4\n"]
    assert {metric["name"] for metric in shown(himl, run_id)["metrics"]} == {f"rank_{rank}" for rank in range(4)}
    run_id = send("ranks.py", "--num_nodes", "2", "--processes_per_node", "2", "--", "2")
    assert (ended(himl, run_id)["status"], ended(himl, run_id)["reason"]) == ("Failed", "rank 2: exit code 4")


def test_samples_are_of_the_ranks_on_the_first_node(himl: Himl, project: Path, send: Callable[..., str]) -> None:
    script = "import os, pathlib, time\nheld = b'x' * int(300e6 if os.environ['NODE_RANK'] == '1' else 100e6)\n"
    script += f"while not pathlib.Path({str(project / 'over')!r}).exists():\n  time.sleep(0.1)\n"
    write_files(project, {"hold.py": script.encode()})
    run_id = send(
        "hold.py",
        "--num_nodes",
        "2",
        "--processes_per_node",
        "1",
        "--env_var",
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL=0.5",
    )

    def megabytes() -> list[float]:
        return [
            each["value"]
            for each in shown(himl, run_id)["metrics"]
            if each["name"] == "system/system_memory_usage_megabytes"
        ]

    until(lambda: max(megabytes(), default=0) > 100, lambda: f"samples: {shown(himl, run_id)}")
    assert max(megabytes()) < 300
    (project / "over").touch()
    assert ended(himl, run_id)["status"] == "Completed"
    assert "\nMachine       CPU " in himl("runs", "show", run_id).stdout


def test_a_controller_that_is_away_loses_nothing(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    waiting = send("sleep.py", "--sbatch", "begin=now+1hour", "--", "1")
    slurm.stop_controller()
    try:
        done = himl("submit", "hello.py", "--cluster", "slurm:gpu")
        assert done.code == 5
        assert "error: Slurm does not respond: " in done.stderr
        run = shown(himl, waiting)
        assert run["status"] == "Queued"
        assert run["reason"].startswith("unknown: squeue failed: "), run
    finally:
        slurm.start_controller()
    assert himl("runs", "list", "-q").stdout.split() == [waiting]
    assert himl("runs", "cancel", waiting).code == 0


def test_reasons_are_true_where_nodes_lack_scontrol(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    write_files(
        project, {"himl.toml": '[slurm.gpu]\nsetup = "export PATH=/usr/bin:/bin"\n', "fail.py": "raise SystemExit(3)"}
    )
    failed, canceled = send("fail.py", "--retries", "1"), send("sleep.py", "--", "600")
    until(lambda: "asleep" in himl("runs", "logs", canceled).stdout, "it runs")
    slurm("scancel", job_of(shown(himl, canceled)))
    reasons = {run_id: (ended(himl, run_id)["status"], ended(himl, run_id)["reason"]) for run_id in (failed, canceled)}
    assert reasons == {
        failed: ("Failed", "exit code 3; the job was not restarted: there is no scontrol on PATH"),
        canceled: ("Canceled", f"canceled in Slurm (job {job_of(shown(himl, canceled))})"),
    }


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, programs: dict[str, str]) -> None:
    """Replace programs of Slurm by shell scripts."""
    for name, text in programs.items():
        program = folder / "stand_ins" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'stand_ins'}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    "what", ["Invalid account or account/partition combination specified", "Invalid qos specification"]
)
def test_what_a_site_with_accounts_refuses(
    himl: Himl,
    project: Path,
    slurm: Slurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    send: Callable[..., str],
    what: str,
) -> None:
    """These refusals need an accounting database, which the test cluster does not have."""
    refusal = f"cat >/dev/null\necho 'sbatch: error: Batch job submission failed: {what}' >&2\nexit 1\n"
    stand_in(tmp_path, monkeypatch, {"sbatch": f"[ $1 = --help ] && exec {slurm.programs}/sbatch --help\n{refusal}"})
    done = himl("submit", "hello.py", "--cluster", "slurm:gpu", "--sbatch", "account=none", "--sbatch", "qos=high")
    assert done.code == 2
    assert f"error: Slurm refused the job: {what}." in done.stderr
    assert himl("runs", "list", "-q").stdout == ""


# As at sites whose wrapper of sbatch checks the job and prints the result
BANNER = "echo '---------'\necho '--> Verifying valid submit host (login4)...OK'\n"


def test_the_number_is_found_in_what_a_wrapper_prints(
    himl: Himl, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, send: Callable[..., str]
) -> None:
    wrapper = f'{BANNER}number=$({slurm.programs}/sbatch "$@") && '
    stand_in(
        tmp_path,
        monkeypatch,
        {"sbatch": f"{wrapper}echo \"$number;himl\"\necho 'Balance: 12 hours'\necho 'sbatch: Low balance.' >&2\n"},
    )
    monkeypatch.setenv("SBATCH_WAIT", "1")
    done = himl("submit", "sleep.py", "--cluster", "slurm:gpu", "--", "600")
    assert (done.code, "sbatch: Low balance." in done.stderr) == (0, True), done.stderr
    run_id = done.stdout.split()[0]
    assert slurm("squeue", "-h", "-n", run_id, "-o", "%i") == job_of(shown(himl, run_id))
    assert himl("runs", "cancel", run_id).code == 0
    ended(himl, run_id)
    # The number is unknown: himl finds the job by its name
    stand_in(tmp_path, monkeypatch, {"sbatch": f"{wrapper}echo accepted\n"})
    for command in (["sleep.py", "--cluster", "slurm:gpu"], ["--resume", run_id]):
        done = himl("submit", *command, *(["--", "600"] if "sleep.py" in command else []))
        assert (done.code, "so it is unknown whether Slurm has the job: accepted." in done.stderr) == (5, True), (
            done.stderr
        )
        found = himl("runs", "list", "-q").stdout.split()[0] if "sleep.py" in command else run_id
        until(
            lambda found=found: shown(himl, found)["status"] == "Running",  # type: ignore[misc]
            lambda found=found: str(shown(himl, found)),  # type: ignore[misc]
        )
        # The number stays unknown if the supervisor started before himl queried Slurm.
        assert job_of(shown(himl, found)) in ("", slurm("squeue", "-h", "-n", found, "-t", "RUNNING", "-o", "%i"))
        assert himl("runs", "cancel", found).code == 0
        assert ended(himl, found)["status"] == "Canceled"


@pytest.mark.parametrize("is_alone", [True, False])
def test_an_sbatch_that_a_signal_ends_has_not_refused(
    himl: Himl, project: Path, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_alone: bool
) -> None:
    write_files(project, {"sleep.py": SCRIPTS["sleep.py"].encode()})
    signals = "kill -TERM $$" if is_alone else "kill -TERM $PPID $$"
    stand_in(tmp_path, monkeypatch, {"sbatch": f'{slurm.programs}/sbatch "$@" >/dev/null\n{signals}\nsleep 60\n'})
    done = himl("submit", "sleep.py", "--cluster", "slurm:gpu", "--", "600")
    assert done.code == (5 if is_alone else 130), done.stderr
    assert "error: sbatch was ended by SIGTERM, so it is unknown whether Slurm has the job.\n" in done.stderr
    run_id = himl("runs", "list", "-q").stdout.split()[0]
    if is_alone:
        until(lambda: shown(himl, run_id)["status"] == "Running", lambda: str(shown(himl, run_id)))
        assert himl("runs", "cancel", run_id).code == 0
    assert ended(himl, run_id)["status"] == "Canceled"


def test_how_jobs_ended_that_slurm_has_forgotten(
    himl: Himl, project: Path, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, send: Callable[..., str]
) -> None:
    """squeue forgets a job after some minutes (MinJobAge).

    A stand-in for it forgets at once, and a stand-in for sacct prints how the jobs ended.
    """
    runs = {
        state: send("sleep.py", "--sbatch", "begin=now+1hour", "--", "1")
        for state in ("TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "CANCELLED by 0", "")
    }
    numbers = {state: job_of(shown(himl, run_id)) for state, run_id in runs.items()}
    for number in numbers.values():
        slurm("scancel", number)
    forgotten = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    stand_ins = {
        "squeue": "",
        "scontrol": forgotten,
        "sacct": "".join(
            f"echo '{number}|{state}|2026-01-02T03:04:05'\n" for state, number in numbers.items() if state
        ),
    }
    stand_in(tmp_path, monkeypatch, stand_ins)
    found = {state: (shown(himl, run_id)["status"], shown(himl, run_id)["reason"]) for state, run_id in runs.items()}
    assert found == {
        "TIMEOUT": ("Failed", f"it reached Slurm's time limit (job {numbers['TIMEOUT']})"),
        "OUT_OF_MEMORY": (
            "Failed",
            f"it exceeded its memory limit in Slurm (--sbatch mem=SIZE) (job {numbers['OUT_OF_MEMORY']})",
        ),
        "NODE_FAIL": ("Failed", f"its node failed (job {numbers['NODE_FAIL']})"),
        "CANCELLED by 0": ("Canceled", f"canceled in Slurm (job {numbers['CANCELLED by 0']})"),
        "": ("Failed", "it ended without recording an outcome, and Slurm no longer has its job, so it is unknown how"),
    }
    assert {shown(himl, run_id)["ended"] for state, run_id in runs.items() if state} == {"2026-01-02T03:04:05.000Z"}


def test_a_sweep_that_seemed_to_have_ended_continues_with_its_trials(
    himl: Himl, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, send: Callable[..., str]
) -> None:
    run_id, path = send("hello.py", "--crossval", "2", "--sbatch", "begin=now+1hour"), os.environ["PATH"]
    stand_in(
        tmp_path,
        monkeypatch,
        dict.fromkeys(("squeue", "scontrol"), "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"),
    )
    assert shown(himl, run_id)["status"] == "Failed"
    monkeypatch.setenv("PATH", path)
    slurm("scontrol", "update", f"JobId={job_of(shown(himl, run_id)).partition('[')[0]}", "StartTime=now")
    names = [run_id, f"{run_id}_0", f"{run_id}_1"]
    until(lambda: {shown(himl, name)["status"] for name in names} == {"Completed"}, lambda: str(shown(himl, run_id)))


def test_a_submit_that_is_killed_leaves_one_run_or_none(
    project: Path, himl: Himl, started_himl: Himl, slurm: Slurm, send: Callable[..., str]
) -> None:
    command = [str(started_himl.program), "submit", "sleep.py", "--cluster", "slurm:gpu", "--", "0"]
    begun = time.monotonic()
    subprocess.run(command, cwd=project, capture_output=True, check=True)
    usual = time.monotonic() - begun

    def submit_and_kill(seed: int) -> None:
        many = ["--crossval", "2"] if seed % 2 else []
        with subprocess.Popen(
            [*command[:-2], *many, *command[-2:]], cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(random.Random(seed).uniform(0.3, 2.0) * usual)
            process.kill()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(submit_and_kill, range(30 if IS_LARGE else 6)))
    known: dict[str, Run] = {}

    def have_all_ended() -> bool:
        known.update({run["id"]: run for run in himl.ok("runs", "list", "--num_runs", "all", "--json").json() or []})
        return all(run["status"] in ("Completed", "Failed") for run in known.values())

    until(have_all_ended, lambda: f"all have ended: {known}")
    told = slurm("squeue", "-h", "-t", "all", "-o", "%j %F %Z").splitlines()
    # The tasks of an array have equal lines.
    jobs = [line.split()[0] for line in {line for line in told if str(project) in line}]
    assert len(set(jobs)) == len(jobs), jobs
    assert {name for name, run in known.items() if run["status"] == "Completed"} <= set(jobs) <= known.keys()
    assert not list((project / ".himl" / "runs").glob(".*"))


def test_many_open_runs_cost_one_call(himl: Himl, slurm: Slurm, send: Callable[..., str]) -> None:
    run_id = send("sleep.py", "--crossval", "60", "--sbatch", "begin=now+1hour", "--", "1")
    for _ in range(3):
        send("sleep.py", "--sbatch", "begin=now+1hour", "--", "1")

    def reasons() -> set[str]:
        lines = slurm("squeue", "-h", "-o", "%r %Z").splitlines()
        return {line.split()[0] for line in lines if str(himl.folder) in line}

    until(lambda: reasons() == {"BeginTime"}, reasons)  # before, Slurm has not considered all of them
    slurm.calls.write_text("")
    assert himl("runs", "list").code == 0
    found = [*LocalWorkspace(himl.folder / ".himl").runs(RunQuery())]
    assert len(LocalWorkspace(himl.folder / ".himl").refresh(found)) == 4
    assert [line.split()[0] for line in slurm.calls.read_text().splitlines()] == ["squeue"] * 3
    with closing(Database(himl.folder / ".himl" / "workspace.db")) as database:
        store, queued = RunStore(database), QueuedJobs(himl.folder / ".himl", end_if_last)
        pauses = []
        for _ in range(6):  # nothing changes
            queued.refresh(store, store.queued_jobs([run_id]), now=True)
            pauses.append(queued.pause)
    assert pauses == [5, 10, 20, 40, 60, 60]
    for run in himl("runs", "list", "-q").stdout.split():
        assert himl("runs", "cancel", run).code == 0
    assert shown(himl, run_id)["status"] == "Canceled"


@pytest.mark.parametrize("options", [[], ["--sweep", "x=1,2"]])
def test_without_slurm_nothing_is_left(himl: Himl, project: Path, options: list[str]) -> None:
    write_files(project, {"hello.py": SCRIPTS["hello.py"].encode()})
    without = {"PATH": str(project)}
    done = himl("submit", "hello.py", "--cluster", "slurm:gpu", *options, env=without)
    assert (done.code, "There is no sbatch on PATH" in done.stderr) == (3, True), done.stderr
    assert [*(project / ".himl" / "runs").iterdir()] == []
    done = himl("init", "--slurm", env=without)
    assert (done.code, "There is no sinfo on PATH" in done.stderr) == (3, True), done.stderr


def test_doctor_and_init_know_slurm(himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]) -> None:
    assert himl("init", "--local").code == 0
    done: Outcome = himl("doctor", "--slurm", "gpu")
    assert re.search(r"slurm-wlm \d+\.\d+", done.stdout), done.stdout
    assert f"can access '{project / '.himl'}' and this Python" in done.stdout, done.stdout
    assert "Slurm refused the job" in himl("doctor", "--slurm", "none").stdout
    write_files(project, {"himl.toml": '[submit]\nexperiment = "digits"\n', "below/empty": ""})
    assert himl("init", "--slurm", cwd=project / "below").code == 0  # adds to the project's settings
    assert (project / "himl.toml").read_text().startswith('[submit]\nexperiment = "digits"\n\n[slurm.gpu]')
    assert himl("submit", "hello.py", "--cluster", "slurm:short", "--wait", "-q").code == 0


def test_trials_run_the_snapshot_and_a_resumed_job_the_new_code(
    himl: Himl, project: Path, slurm: Slurm, send: Callable[..., str]
) -> None:
    edit = f"open({str(project / 'src' / 'lib.py')!r}, 'w').write('VALUE = 2')"
    write_files(
        project,
        {
            "pyproject.toml": "",
            "src/lib.py": "VALUE = 1",
            "jobs/train.py": f"import sys, lib\nprint('VALUE', lib.VALUE)\n{edit}\nsys.exit(lib.VALUE == 1)",
        },
    )
    command = ("jobs/train.py", "--env_var", f"PYTHONPATH={project / 'src'}")
    run_id = send(*command, "--sweep", "x=1,2", "--max_concurrent", "1")
    ended(himl, run_id)
    assert [himl("runs", "logs", f"{run_id}_{index}").stdout for index in (0, 1)] == ["VALUE 1\n"] * 2
    again = "--new_code", *command[1:], "--no_wait"
    himl.ok("submit", "--resume", run_id, *again)
    until(lambda: shown(himl, run_id)["status"] == "Completed")
    assert [himl("runs", "logs", f"{run_id}_{index}").stdout for index in (0, 1)] == ["VALUE 2\n"] * 2
    write_files(project, {"src/lib.py": "VALUE = 1"})
    single = send(*command)
    ended(himl, single)
    himl.ok("submit", "--resume", single, *again)
    until(lambda: shown(himl, single)["status"] == "Completed")
    assert himl("runs", "logs", single).stdout == "VALUE 2\n"
