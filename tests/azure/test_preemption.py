"""Jobs on a cluster that are preempted or start from a checkpoint: the double removes the node, and the next attempt
continues.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.azureml_double.jobs.runner import JobRunner
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.running import Himl, until, write_files
from tests.support.sweeps import RESUMABLE_TRAIN, notes_folder, undisturbed

ENVIRONMENT = "dependencies:\n- python=3.11\n- pip:\n  - himl-cli\n"
LOOKS = """
from pathlib import Path
from himl_cli.job import recovery_checkpoint
found = recovery_checkpoint()
print(sorted(path.name for path in Path("outputs/checkpoints").glob("*")),
    found and found.name, found and found.read_text())
"""
SUBMIT = ("submit", "train.py", "--cluster", "cpu-cluster", "-q")


@pytest.fixture
def jobs(azure_environment: StagedWorkspace, project: Path, request: pytest.FixtureRequest) -> Iterator[JobRunner]:
    """Run jobs with the `disk` of each test's parameter, since the state of the disk in the next attempt is not
    known.
    """
    azure_environment.write_config(project)
    write_files(project, {"train.py": LOOKS, "environment.yml": ENVIRONMENT})
    with azure_environment.run_jobs(disk=getattr(request, "param", "new")) as running:
        yield running


def test_preempted_training_logs_same_metrics_as_undisturbed(
    himl: Himl, azure: StagedWorkspace, jobs: JobRunner, project: Path, tmp_path: Path
) -> None:
    write_files(project, {"train.py": RESUMABLE_TRAIN})
    notes = notes_folder(tmp_path, holds=True)
    run_id = himl.ok(*SUBMIT, "--env_var", f"NOTES={notes.as_posix()}").stdout.strip()
    until(lambda: (notes / "epochs").exists() and len((notes / "epochs").read_text().splitlines()) > 1)
    time.sleep(random.uniform(0, 0.2))  # preempt at a random moment
    jobs.preempt(run_id)
    until(lambda: azure.state.runs[run_id].attempt == 2)
    (notes / "hold").unlink()
    run = azure.wait_for(run_id, "Completed")
    points = sorted(run.metrics["loss"].points, key=lambda point: (point.step or 0, point.created))
    assert {point.step: point.data["loss"] for point in points} == pytest.approx(undisturbed())
    first, second = [int(line.split()[1]) for line in (notes / "tries").read_text().splitlines()]
    assert first == -1 < second


TRIES = """
import os, sys, time
from pathlib import Path
from himl_cli.job import recovery_checkpoint
found = recovery_checkpoint()
print("found", found and found.name, found and found.read_text(), flush=True)
folder, notes = Path("outputs/checkpoints"), Path(os.environ["NOTES"])
number = len(list(notes.iterdir())) + 1
(notes / str(number)).touch()
folder.mkdir(parents=True, exist_ok=True)
files = {"recovery_epoch=2": "two", "recovery_epoch=9": ""}, {"recovery_epoch=4": "four", "autosave": "no"}, {}
for name, text in files[number - 1].items():
    (folder / f"{name}.ckpt").write_text(text)
if number == 3:
    sys.exit()
print("waits", number, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("jobs", ["new", "restored"], indirect=True)
def test_recovery_checkpoint_has_highest_epoch_of_all_tries(
    himl: Himl, azure: StagedWorkspace, jobs: JobRunner, project: Path, tmp_path: Path
) -> None:
    write_files(project, {"train.py": TRIES})
    (tmp_path / "notes").mkdir()
    run_id = himl.ok(*SUBMIT, "--env_var", f"NOTES={(tmp_path / 'notes').as_posix()}").stdout.strip()
    for number, found in ((1, "found None None"), (2, "found recovery_epoch=2.ckpt two")):
        until(lambda number=number: f"waits {number}" in azure.logs(run_id))  # type: ignore[misc]
        assert found in azure.logs(run_id)
        jobs.preempt(run_id)
    azure.wait_for(run_id, "Completed")
    assert himl.ok("runs", "logs", run_id).stdout.splitlines()[-1] == "found recovery_epoch=4.ckpt four"


def test_recovery_checkpoint_prefers_higher_epoch_of_disk_or_run(
    himl: Himl, azure: StagedWorkspace, jobs: JobRunner, project: Path
) -> None:
    looks = """
import os, sys, time
from pathlib import Path
from himl_cli.job import recovery_checkpoint
here = Path.cwd()
def found(*epochs):
    os.chdir(here)
    for path in Path("outputs/checkpoints").glob("*"):
        path.unlink()
    for epoch in epochs:
        Path("outputs/checkpoints", f"recovery_epoch={epoch}.ckpt").write_text("disk")
    os.chdir("/")  # a job's checkpoints stay where they are
    best = recovery_checkpoint()
    print(best.name, best.read_text(), flush=True)
Path("outputs/checkpoints").mkdir(parents=True)
print("waits", flush=True)
while not Path(sys.argv[1]).exists():
    time.sleep(0.02)
found(3, 1)
found(7)
found(5)
"""
    write_files(project, {"train.py": looks})
    run_id = himl.ok(*SUBMIT, "--", str(project / "go")).stdout.strip()
    until(lambda: "waits" in azure.logs(run_id))
    azure.put_artifacts(azure.state.runs[run_id], {"outputs/checkpoints/recovery_epoch=5.ckpt": b"run"})
    (project / "go").touch()
    azure.wait_for(run_id, "Completed")
    found = ["waits", "recovery_epoch=5.ckpt run", "recovery_epoch=7.ckpt disk", "recovery_epoch=5.ckpt disk"]
    assert himl.ok("runs", "logs", run_id).stdout.splitlines() == found


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_a_folder_that_others_can_write_to_is_not_loaded_from(
    himl: Himl, azure: StagedWorkspace, jobs: JobRunner, project: Path
) -> None:
    shared = """
import hashlib, os, tempfile
from pathlib import Path
place = Path(tempfile.gettempdir(),
    "himl_recovery_" + hashlib.sha256(os.environ["AZUREML_RUN_ID"].encode()).hexdigest()[:16])
place.mkdir()
place.chmod(0o777)
from himl_cli.job import recovery_checkpoint
try:
    recovery_checkpoint()
finally:
    place.rmdir()
"""
    write_files(project, {"train.py": shared})
    run_id = himl.ok(*SUBMIT).stdout.strip()
    azure.wait_for(run_id, "Failed")
    assert "Other users can write to" in himl.ok("runs", "logs", run_id).stdout


def test_checkpoint_of_a_run_or_file_here_is_given_to_each_job(
    himl: Himl, azure: StagedWorkspace, jobs: JobRunner, project: Path
) -> None:
    early = azure.add_run("early", experiment="train")
    azure.put_artifacts(
        early, {"outputs/checkpoints/last.ckpt": b"the last", "outputs/checkpoints/best.ckpt": b"the best"}
    )
    whole = himl.ok(*SUBMIT, "--checkpoint", "early:outputs/checkpoints/", "--wait").stdout.strip()
    assert himl.ok("runs", "logs", whole).stdout == "['best.ckpt', 'last.ckpt'] last.ckpt the last\n"
    assert not azure.state.assets.get("data")
    other = himl.ok(*SUBMIT, "--checkpoint", "early:best.ckpt", "--processes_per_node", "2", "--wait").stdout.strip()
    for rank in range(2):
        assert "last.ckpt the best" in himl.ok("runs", "logs", other, "--file", f"std_log_process_{rank}.txt").stdout
    write_files(project, {"kept/my weights.ckpt": "weights"})
    for _ in range(2):
        run_id = himl.ok(*SUBMIT, "--checkpoint", "kept/my weights.ckpt", "--wait").stdout.strip()
        assert himl.ok("runs", "logs", run_id).stdout == "['last.ckpt'] last.ckpt weights\n"
    stored = azure.blob_names("workspaceblobstore", "himl_checkpoints/")
    # The checkpoint is uploaded once.
    assert [name.rpartition("/")[2] for name in stored] == ["my weights.ckpt"]
    before = [*azure.state.runs]
    outcome = himl(*SUBMIT, "--checkpoint", "early:none.ckpt")
    assert (
        outcome.code,
        "Run 'early' has no 'none.ckpt'." in outcome.stderr,
        "outputs/checkpoints/best.ckpt" in outcome.stderr,
    ) == (3, True, True)
    refused = himl(*SUBMIT, "--checkpoint", "early:best.ckpt", "--dry_run")
    assert (refused.code, "--checkpoint cannot be used with --dry_run" in refused.stderr) == (2, True)
    assert [*azure.state.runs] == before
    retried = azure.add_run("retried", experiment="train")
    azure.put_artifacts(
        retried,
        {
            "outputs/retry_001/checkpoints/recovery_epoch=3.ckpt": b"three",
            "outputs/checkpoints/recovery_epoch=2.ckpt": b"two",
        },
    )
    parent = himl.ok(*SUBMIT, "--checkpoint", "retried", "--sweep", "lr=1,2", "--wait").stdout.strip()
    for trial in range(2):
        assert himl.ok("runs", "logs", f"{parent}_{trial}").stdout == "['last.ckpt'] last.ckpt three\n"


@pytest.mark.parametrize("jobs", ["restored"], indirect=True)
def test_preempted_job_resumes_own_checkpoint_not_initial_one(
    himl: Himl, azure: StagedWorkspace, jobs: JobRunner, project: Path
) -> None:
    stops = """
import time
from pathlib import Path
from himl_cli.job import recovery_checkpoint
found = recovery_checkpoint().read_text()
print("found", found, flush=True)
if found == "weights":
    Path("outputs/checkpoints/last.ckpt").write_text("own")
    print("waits", flush=True)
    time.sleep(600)
"""
    write_files(project, {"train.py": stops, "weights.ckpt": "weights"})
    run_id = himl.ok(*SUBMIT, "--checkpoint", "weights.ckpt").stdout.strip()
    until(lambda: "waits" in azure.logs(run_id))
    jobs.preempt(run_id)
    azure.wait_for(run_id, "Completed")
    assert himl.ok("runs", "logs", run_id).stdout == "found own\n"


FAILS_AT_LAST = """
import os, sys, time
from pathlib import Path
if os.environ["RANK"] != "1":
    time.sleep(600)
notes = Path(os.environ["NOTES"])
number = len(list(notes.iterdir())) + 1
(notes / str(number)).touch()
print("try", number, flush=True)
time.sleep(600) if number == 1 else sys.exit(7)
"""


def test_logs_of_each_try_are_found_in_retry_folders(
    himl: Himl, azure_environment: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    """After a failure, the tail is that of the last attempt's failed rank."""
    azure, notes = azure_environment, tmp_path / "notes"
    notes.mkdir()
    azure.write_config(project)
    write_files(project, {"train.py": FAILS_AT_LAST, "environment.yml": ENVIRONMENT})
    options = ("--processes_per_node", "2", "--env_var", f"NOTES={notes.as_posix()}")

    def take_away(jobs: JobRunner) -> None:
        until(lambda: any("try 1" in azure.logs(run_id) for run_id in azure.state.runs))
        jobs.preempt(next(iter(azure.state.runs)))

    with azure.run_jobs(retry_logs=True) as jobs:
        taking = threading.Thread(target=take_away, args=[jobs])
        taking.start()
        outcome = himl("submit", "train.py", "--cluster", "cpu-cluster", *options, "--wait")
        taking.join()
    run_id = next(iter(azure.state.runs))
    assert outcome.code == 1
    assert "The last lines of user_logs/retry_001/std_log_process_1.txt:\ntry 2\n" in outcome.stderr
    of_rank = ("--file", "std_log_process_1.txt")
    assert himl.ok("runs", "logs", run_id, *of_rank).stdout == "try 2\n"
    assert himl.ok("runs", "logs", run_id, *of_rank, "--try", "1").stdout == "try 1\n"
    assert himl("runs", "logs", run_id, "--try", "0").code == 2
    missing = himl("runs", "logs", run_id, "--try", "3")
    assert (missing.code, "has no log of attempt 3. " in missing.stderr.replace("\n", " ")) == (3, True)
