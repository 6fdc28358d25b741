"""One training script's whole way on Azure ML: submitted, followed, shown, its curves synchronised and read by TensorBoard, downloaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.folders import contents
from tests.support.running import Himl, write_files
from tests.support.tensorboard import WRITER, scalars

TRAIN = f"""
import argparse, pathlib
{WRITER}
from himl_cli import RUN_CONTEXT

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
epochs = parser.parse_args().epochs
writer = EventFileWriter("logs/train")
validation = EventFileWriter("logs/val")
for epoch in range(epochs):
    loss = 1.0 / 2**epoch
    write(writer, "loss", epoch, loss)
    write(validation, "loss", epoch, 2 * loss)
    RUN_CONTEXT.log("loss", loss, step=epoch)
    print("epoch", epoch, "loss", loss, flush=True)
writer.close()
validation.close()
RUN_CONTEXT.flush()
checkpoints = pathlib.Path("outputs/checkpoints")
checkpoints.mkdir(parents=True)
(checkpoints / "last.ckpt").write_bytes(bytes(range(256)) * 1000)
"""
LOSSES = [1.0, 0.5, 0.25]
LOG = "".join(f"epoch {epoch} loss {loss}\n" for epoch, loss in enumerate(LOSSES))
CONDA = "name: lab\ndependencies:\n- python=3.11\n- pip\n- pip:\n  - himl-cli\n  - tensorboard\n"
SUBMIT = ("submit", "train.py", "--cluster", "cpu-cluster", "--display_name", "Whole way")
BY_SDK = """
import sys
from azure.ai.ml import MLClient, load_job
from azure.identity import EnvironmentCredential

client = MLClient(EnvironmentCredential(), *sys.argv[2:])
print("ID", client.jobs.create_or_update(load_job(sys.argv[1])).name)
"""


@pytest.fixture
def himl(started_himl: Himl) -> Himl:
    return started_himl


@pytest.fixture
def azure_project(azure_environment: StagedWorkspace, project: Path) -> Iterator[StagedWorkspace]:
    """A project with a training script, and a workspace whose jobs are run."""
    azure_environment.write_config(project)
    write_files(project, {"train.py": TRAIN, "environment.yml": CONDA})
    with azure_environment.run_jobs():
        yield azure_environment


def check_results(himl: Himl, azure: StagedWorkspace, folder: Path, run_id: str) -> None:
    """Metrics, log, curves and files of the run are those that the script wrote, by every command that reads them."""
    shown = himl.ok("runs", "show", run_id, "--json").json()
    assert (shown["id"], shown["status"], shown["display_name"]) == (run_id, "Completed", "Whole way")
    (loss,) = shown["metrics"]
    assert loss == {"name": "loss", "value": LOSSES[-1], "step": 2, "count": 3, "run": run_id}
    assert himl.ok("runs", "logs", run_id).stdout == LOG

    copies = Path(himl.ok("tb", run_id, "--sync_only", "-q", "--run_logs_dir", "curves").stdout.strip())
    stored = {name.removeprefix("logs/"): content for name, content in azure.artifacts(run_id).items() if "tfevents" in name}
    assert contents(copies) == stored
    assert copies == folder / "curves" / f"Whole_way-{run_id}"
    assert scalars(copies / "train") == list(enumerate(LOSSES))
    assert scalars(copies / "val") == [(step, 2 * loss) for step, loss in enumerate(LOSSES)]

    himl.ok("download", run_id, "--prefix", "outputs")
    assert (folder / "outputs" / run_id / "outputs" / "checkpoints" / "last.ckpt").read_bytes() == bytes(range(256)) * 1000


def test_submitted_by_himl(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    followed = himl.ok(*SUBMIT, "--follow", "--", "--epochs", "3")
    assert followed.stdout == LOG
    run_id = (project / "most_recent_run.txt").read_text().strip().partition(":")[2]
    check_results(himl, azure_project, project, run_id)


def test_the_job_of_a_dry_run_submitted_by_azure_ai_ml(himl: Himl, azure_project: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    """The same job: himl's YAML, sent by the vendor's own SDK."""
    job = tmp_path / "job.yml"
    job.write_bytes(himl.ok(*SUBMIT, "--dry_run", "--", "--epochs", "3").raw_stdout)
    state = azure_project.state
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BY_SDK, str(job), state.subscription, state.group, state.name], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.splitlines()[-1].removeprefix("ID ")
    azure_project.wait_for(run_id, "Completed")
    check_results(himl, azure_project, project, run_id)
