"""`RUN_CONTEXT` in jobs here, in jobs on Azure ML, and outside of a job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, write_files

LOGGING = """
import json, sys
from pathlib import Path
import himl_cli
from himl_cli import RUN_CONTEXT, Run
run = Run.get_context(allow_offline=False)
assert RUN_CONTEXT == run and isinstance(RUN_CONTEXT, Run)
for step, loss in enumerate((1.0, 0.5)):
    RUN_CONTEXT.log("loss", loss, step=step)
RUN_CONTEXT.log_row("row", a=1, b=2.5)
RUN_CONTEXT.log_text("hello", "notes.txt")
Path("weights.bin").write_bytes(b"w")
RUN_CONTEXT.upload_file("outputs/weights.bin", "weights.bin")
run.set_tags({"by": "script"})
RUN_CONTEXT.flush()
loaded = [name for name in ("azure.ai", "azure.identity", "msal", "azureml", "mlflow", "torch", "typer", "rich") if name in sys.modules]
print(json.dumps([RUN_CONTEXT.id, RUN_CONTEXT.experiment.name, run.get_status(), run.get_metrics(), himl_cli.is_running_in_azure_ml(RUN_CONTEXT), loaded]))
RUN_CONTEXT.log("last", 3.0)
RUN_CONTEXT.complete()
"""
LOGGED = {"loss": [1.0, 0.5], "row/a": 1.0, "row/b": 2.5}


def shown(himl: Himl, run_id: str) -> Any:
    return himl.ok("runs", "show", "--run", run_id, "--json").json()


def values(document: Any) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in document["metrics"]}


@pytest.mark.parametrize("how", [[], ["--in_place"]])
def test_a_job_here_logs_to_its_run(project: Path, himl: Himl, how: list[str]) -> None:
    write_files(project, {"train.py": LOGGING})
    done = himl("submit", "train.py", "-q", *how)
    assert done.code == 0, done.stderr
    run_id = done.stdout.strip().splitlines()[-1]
    log = himl.ok("runs", "logs", "--run", run_id).stdout
    assert json.loads(log.splitlines()[-1]) == [run_id, "train", "Running", LOGGED, False, []]
    document = shown(himl, run_id)
    assert (document["status"], document["tags"]["by"]) == ("Completed", "script")
    assert values(document) == {"loss": 0.5, "row/a": 1.0, "row/b": 2.5, "last": 3.0}
    himl.ok("download", "--run", run_id, "--output_dir", project / "down")
    down = project / "down" / run_id
    assert ((down / "notes.txt").read_text(), (down / "outputs" / "weights.bin").read_bytes()) == ("hello", b"w")


def test_a_script_that_says_it_failed_and_goes_on_has_completed(project: Path, himl: Himl) -> None:
    """As on Azure ML: the job's end counts."""
    write_files(project, {"train.py": "from himl_cli import RUN_CONTEXT\nRUN_CONTEXT.log('a', 1)\nRUN_CONTEXT.fail('so what')\n"})
    run_id = himl.ok("submit", "train.py", "-q").stdout.strip().splitlines()[-1]
    assert (shown(himl, run_id)["status"], values(shown(himl, run_id))) == ("Completed", {"a": 1.0})


def test_what_was_logged_just_before_the_end_is_kept(project: Path, himl: Himl) -> None:
    """Also where something was sent before, so that the workspace's record is open and closes itself as the interpreter ends."""
    write_files(project, {"train.py": "import time\nfrom himl_cli import RUN_CONTEXT\nRUN_CONTEXT.log('a', 1)\ntime.sleep(1.5)\nRUN_CONTEXT.log('a', 2)\n"})
    run_id = himl.ok("submit", "train.py", "-q").stdout.strip().splitlines()[-1]
    assert values(shown(himl, run_id)) == {"a": 2.0}
    assert "lost" not in himl.ok("runs", "logs", "--run", run_id).stdout


def test_all_ranks_write_to_the_same_run(project: Path, himl: Himl) -> None:
    program = """
import os
from himl_cli import RUN_CONTEXT
rank = os.environ["RANK"]
for n in range(50):
    RUN_CONTEXT.log("rank" + rank, n, step=n)
    RUN_CONTEXT.log_row("t", rank=int(rank), n=n)
"""
    write_files(project, {"train.py": program})
    run_id = himl.ok("submit", "train.py", "--processes_per_node", "3", "-q").stdout.strip().splitlines()[-1]
    counts = {metric["name"]: metric["count"] for metric in shown(himl, run_id)["metrics"]}
    assert counts == {"rank0": 50, "rank1": 50, "rank2": 50, "t/rank": 150, "t/n": 150}


def test_mlflow_in_the_same_job_sees_what_was_logged(project: Path, himl: Himl) -> None:
    program = """
import mlflow
from himl_cli import RUN_CONTEXT
mlflow.log_metric("theirs", 1.0)
client = mlflow.MlflowClient()
read = lambda: client.get_run(RUN_CONTEXT.id).data.metrics
assert read() == {"theirs": 1.0}, read()
for value in (0.5, 0.25):
    RUN_CONTEXT.log("ours", value)
    RUN_CONTEXT.flush()
    assert read() == {"theirs": 1.0, "ours": value}, read()
mlflow.log_metric("ours", 0.125, step=1)
assert read()["ours"] == 0.125
"""
    write_files(project, {"train.py": program})
    done = himl("submit", "train.py", "-q")
    assert done.code == 0, done.stdout + done.stderr


def test_a_server_of_the_users_own_is_not_in_the_way(project: Path, himl: Himl) -> None:
    write_files(project, {"train.py": "from himl_cli import RUN_CONTEXT\nRUN_CONTEXT.log('a', 1)\n"})
    done = himl("submit", "train.py", "-q", "--env_var", "MLFLOW_TRACKING_URI=http://127.0.0.1:9")
    assert done.code == 0, done.stderr
    assert values(shown(himl, done.stdout.strip().splitlines()[-1])) == {"a": 1.0}


def in_job(azure: StagedWorkspace, project: Path, program: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The program in a job on Azure ML, with nothing but the run's own token."""
    run = azure.state.runs.get("train_1_aa") or azure.add_run("train_1_aa", "train", status="Running")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HIML_", "AZURE_"))}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env={**environment, **azure.job_environment(run), **more}, cwd=project, capture_output=True, text=True)


def test_a_job_on_azure_logs_to_its_run_with_the_run_token(azure_environment: StagedWorkspace, project: Path, himl: Himl) -> None:
    azure = azure_environment
    done = in_job(azure, project, LOGGING)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["train_1_aa", "train", "Running", LOGGED, True, []]
    assert azure.requests(r"management\.azure\.com") == []
    azure.write_config(project)
    document = shown(himl, "train_1_aa")
    assert (document["status"], document["tags"]["by"]) == ("Running", "script")
    assert values(document) == {"loss": 0.5, "row/a": 1.0, "row/b": 2.5, "last": 3.0}
    assert azure.get_blob("workspaceartifactstore", "ExperimentRun/dcid.train_1_aa/outputs/weights.bin") == b"w"


def test_a_job_here_that_is_started_in_one_on_azure_writes_here(azure_environment: StagedWorkspace, project: Path, himl: Himl) -> None:
    write_files(project, {"train.py": "from himl_cli import RUN_CONTEXT\nRUN_CONTEXT.log('a', 1)\n"})
    program = f"import subprocess\nsubprocess.run([{str(himl.program)!r}, 'submit', 'train.py', '-q', '--workspace', '.himl'], check=True)\n"
    done = in_job(azure_environment, project, program)
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.strip().splitlines()[-1]
    assert values(himl.ok("runs", "show", "--run", run_id, "--workspace", "local", "--json").json()) == {"a": 1.0}
    assert azure_environment.state.runs["train_1_aa"].metrics == {}


def outside(program: str, project: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=project, env={**os.environ, **(env or {})}, capture_output=True, text=True)


def test_outside_of_a_job_the_log_is_told_and_nothing_is_written(project: Path) -> None:
    program = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
import himl_cli
from himl_cli import RUN_CONTEXT
RUN_CONTEXT.log("loss", 0.5)
RUN_CONTEXT.log("loss", 0.25, step=1)
RUN_CONTEXT.log_table("t", {"a": [1, 2], "b": ["x", "y"]})
RUN_CONTEXT.log_text("hello", "a.txt")
RUN_CONTEXT.tag("a", "b")
RUN_CONTEXT.flush()
with RUN_CONTEXT as run:
    pass
assert RUN_CONTEXT.get_metrics() == {"loss": [0.5, 0.25], "t": {"a": [1, 2], "b": ["x", "y"]}}
assert not hasattr(RUN_CONTEXT, "experiment") and RUN_CONTEXT.id.startswith("OfflineRun_")
assert not himl_cli.is_running_in_azure_ml(RUN_CONTEXT)
try:
    himl_cli.Run.get_context(allow_offline=False)
except himl_cli.HimlError as err:
    print(err)
"""
    done = outside(program, project)
    assert done.returncode == 0, done.stderr
    assert "part of no job" in done.stdout
    assert "No run to log to: scalar 'loss' 0.5" in done.stderr
    assert [*project.iterdir()] == []


def test_importing_it_does_nothing(project: Path) -> None:
    program = """
import json, sys
from himl_cli import RUN_CONTEXT
print(json.dumps([name for name in sys.modules if name.startswith(("azure", "himl_cli.workspaces.azure", "himl_cli.workspaces.local", "filelock", "pycurl"))]))
"""
    job = {"AZUREML_RUN_ID": "r", "AZUREML_ARM_SUBSCRIPTION": "s", "AZUREML_ARM_RESOURCEGROUP": "g", "AZUREML_ARM_WORKSPACE_NAME": "w"}
    done = outside(program, project, job)
    assert json.loads(done.stdout) == [], done.stderr
