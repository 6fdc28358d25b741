"""Jobs on a cluster that are pre-empted or start from a checkpoint: the double takes the node away, the next try goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.many_here import notes_folder, wait_until
from tests.running import Himl, write_files
from tests.servers.azureml.jobs.runner import JobRunner
from tests.servers.azureml.seeding import StagedWorkspace
from tests.training import TRAIN, undisturbed

ENVIRONMENT = "dependencies:\n- python=3.11\n- pip:\n  - himl-cli\n"
LOOKS = """
from pathlib import Path
from himl_cli.job import recovery_checkpoint
found = recovery_checkpoint()
print(sorted(path.name for path in Path("outputs/checkpoints").glob("*")), found and found.name, found and found.read_text())
"""
SUBMIT = ("submit", "train.py", "--cluster", "cpu-cluster", "-q")


@pytest.fixture
def jobs(azure_environment: StagedWorkspace, project: Path) -> Iterator[JobRunner]:
    azure_environment.write_config(project)
    write_files(project, {"train.py": LOOKS, "environment.yml": ENVIRONMENT})
    with azure_environment.run_jobs() as running:
        yield running


@pytest.mark.parametrize("seed", range(2))
def test_a_training_whose_node_is_taken_away_ends_as_if_nothing_had_happened(
    himl: Himl, azure: StagedWorkspace, jobs: JobRunner, project: Path, tmp_path: Path, seed: int
) -> None:
    write_files(project, {"train.py": TRAIN})
    notes = notes_folder(tmp_path, holds=True)
    run_id = himl.ok(*SUBMIT, "--env_var", f"NOTES={notes.as_posix()}").stdout.strip()
    wait_until(lambda: (notes / "epochs").exists() and len((notes / "epochs").read_text().splitlines()) > 1)
    jobs.preempt_after(run_id, random.Random(seed).uniform(0, 0.2))
    wait_until(lambda: azure.state.runs[run_id].attempt == 2)
    (notes / "hold").unlink()
    run = azure.wait_for(run_id, "Completed")
    points = sorted(run.metrics["loss"].points, key=lambda point: (point.step or 0, point.created))
    assert {point.step: point.data["loss"] for point in points} == pytest.approx(undisturbed())
    first, second = [int(line.split()[1]) for line in (notes / "tries").read_text().splitlines()]
    assert first == -1 < second


def test_where_the_disk_is_new_the_checkpoint_comes_from_what_the_run_kept(himl: Himl, azure: StagedWorkspace, jobs: JobRunner, project: Path) -> None:
    taken = """
import shutil, sys, time
from pathlib import Path
if Path("outputs/mark").exists():
    shutil.rmtree("outputs")
    from himl_cli.job import recovery_checkpoint
    found = recovery_checkpoint()
    print(found.name, found.read_text(), Path("outputs").exists())
    sys.exit()
for name, text in {"checkpoints/recovery_epoch=2": "two", "retry_001/checkpoints/recovery_epoch=4": "four", "checkpoints/recovery_epoch=9": ""}.items():
    path = Path("outputs", f"{name}.ckpt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
Path("outputs/mark").touch()
print("waits", flush=True)
time.sleep(600)
"""
    write_files(project, {"train.py": taken})
    run_id = himl.ok(*SUBMIT).stdout.strip()
    wait_until(lambda: "waits" in azure.logs(run_id))
    jobs.preempt(run_id)
    azure.wait_for(run_id, "Completed")
    assert himl.ok("runs", "logs", run_id).stdout == "recovery_epoch=4.ckpt four False\n"


def test_a_checkpoint_of_a_run_is_read_where_it_lies(himl: Himl, azure: StagedWorkspace, jobs: JobRunner) -> None:
    early = azure.add_run("early", experiment="train")
    azure.put_artifacts(early, {"outputs/checkpoints/last.ckpt": b"the last", "outputs/checkpoints/best.ckpt": b"the best"})
    run_id = himl.ok(*SUBMIT, "--checkpoint", "early", "--wait").stdout.strip()
    assert himl.ok("runs", "logs", run_id).stdout == "['last.ckpt'] last.ckpt the last\n"
    assert not azure.state.assets.get("data")
    other = himl.ok(*SUBMIT, "--checkpoint", "early:best.ckpt", "--processes_per_node", "2", "--wait").stdout.strip()
    for rank in range(2):
        assert "last.ckpt the best" in himl.ok("runs", "logs", other, "--file", f"std_log_process_{rank}.txt").stdout
    whole = himl.ok(*SUBMIT, "--checkpoint", "early:outputs/checkpoints/", "--wait").stdout.strip()
    assert himl.ok("runs", "logs", whole).stdout == "['best.ckpt', 'last.ckpt'] last.ckpt the last\n"


def test_a_job_that_was_preempted_goes_on_from_its_own_checkpoint_and_not_from_the_one_it_began_with(
    himl: Himl, azure: StagedWorkspace, jobs: JobRunner, project: Path
) -> None:
    stops = """
import time
from pathlib import Path
place = Path("outputs/checkpoints/last.ckpt")
print("found", place.read_text(), flush=True)
if place.read_text() == "weights":
    place.write_text("own")
    print("waits", flush=True)
    time.sleep(600)
"""
    write_files(project, {"train.py": stops, "weights.ckpt": "weights"})
    run_id = himl.ok(*SUBMIT, "--checkpoint", "weights.ckpt").stdout.strip()
    wait_until(lambda: "waits" in azure.logs(run_id))
    jobs.preempt(run_id)
    azure.wait_for(run_id, "Completed")
    assert himl.ok("runs", "logs", run_id).stdout == "found own\n"


def test_each_trial_of_a_sweep_has_it(himl: Himl, azure: StagedWorkspace, jobs: JobRunner) -> None:
    early = azure.add_run("early", experiment="train")
    azure.put_artifacts(early, {"outputs/retry_001/checkpoints/recovery_epoch=3.ckpt": b"three", "outputs/checkpoints/recovery_epoch=2.ckpt": b"two"})
    parent = himl.ok(*SUBMIT, "--checkpoint", "early", "--sweep", "lr=1,2", "--wait").stdout.strip()
    for trial in range(2):
        assert himl.ok("runs", "logs", f"{parent}_{trial}").stdout == "['last.ckpt'] last.ckpt three\n"


def test_a_file_here_is_uploaded_once(himl: Himl, azure: StagedWorkspace, jobs: JobRunner, project: Path) -> None:
    write_files(project, {"kept/my weights.ckpt": "weights"})
    for _ in range(2):
        run_id = himl.ok(*SUBMIT, "--checkpoint", "kept/my weights.ckpt", "--wait").stdout.strip()
        assert himl.ok("runs", "logs", run_id).stdout == "['last.ckpt'] last.ckpt weights\n"
    stored = azure.blob_names("workspaceblobstore", "himl_checkpoints/")
    assert [name.rpartition("/")[2] for name in stored] == ["my weights.ckpt"]


def test_what_is_not_there_is_said_before_anything_is_sent(himl: Himl, azure: StagedWorkspace, jobs: JobRunner) -> None:
    early = azure.add_run("early", experiment="train")
    azure.put_artifacts(early, {"outputs/checkpoints/best.ckpt": b"the best"})
    outcome = himl(*SUBMIT, "--checkpoint", "early:last.ckpt")
    assert outcome.code == 3
    assert "Run 'early' has no 'last.ckpt'." in outcome.stderr
    assert "outputs/checkpoints/best.ckpt" in outcome.stderr
    assert [*azure.state.runs] == ["early"]
    refused = himl(*SUBMIT, "--checkpoint", "early:best.ckpt", "--dry_run")
    assert (refused.code, "--checkpoint does not go with --dry_run" in refused.stderr) == (2, True)
