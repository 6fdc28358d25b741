"""Jobs that are killed at any moment and go on: the curve of their loss is that of a job which nothing disturbed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from himl_cli.workspaces.resolve import open_runs
from tests.support.running import Himl, until, write_files
from tests.support.sweeps import EPOCHS, RESUMABLE_TRAIN, SUPERVISOR, kill, notes_folder, show, undisturbed

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX, /proc")


def curve(project: Path, run: str) -> dict[int, float]:
    """The loss by step; of a step that was logged by two tries, the later one's."""
    (metric,) = open_runs("local", None, start=project).metrics(run)
    return {point.step: point.value for point in sorted(metric.points, key=lambda point: (point.step, point.time))}


def words(path: Path) -> list[list[str]]:
    """What the script noted, line by line."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def latest(himl: Himl) -> str:
    return himl.ok("runs", "list", "-q", "--num_runs", "1").stdout.strip()


@POSIX
@pytest.mark.parametrize("seed", range(3))
def test_repeatedly_killed_training_resumes_to_same_loss_curve(himl: Himl, project: Path, tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    write_files(project, {"train.py": RESUMABLE_TRAIN})
    notes = notes_folder(tmp_path, holds=True)
    env = {"NOTES": str(notes)}
    himl.ok("submit", "train.py", "--no_wait", env=env)
    run = latest(himl)
    until(lambda: len(words(notes / "epochs")) > 1)
    time.sleep(moments.uniform(0, 0.2))
    kill(project, SUPERVISOR)
    until(lambda: show(himl, run)["status"] == "Failed")
    himl.ok("submit", "--resume", run, "--no_wait", env=env)
    until(lambda: len(words(notes / "tries")) > 1)
    time.sleep(moments.uniform(0, 0.2))
    os.kill(int(words(notes / "tries")[-1][0]), signal.SIGKILL)
    until(lambda: show(himl, run)["status"] == "Failed")
    (notes / "hold").unlink()
    himl.ok("submit", "--resume", run, env=env)
    assert show(himl, run)["status"] == "Completed"
    assert curve(project, run) == pytest.approx(undisturbed())
    begun = [int(epoch) for _, epoch in words(notes / "tries")]
    assert begun[0] == -1 < begun[1] <= begun[2], begun
    assert len(words(notes / "epochs")) <= EPOCHS + 2  # what was torn, or not noted yet, is trained once more, and nothing else


def test_recovery_checkpoint_is_none_on_first_try(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "from himl_cli.job import recovery_checkpoint\nprint(recovery_checkpoint())\n"})
    assert himl.ok("submit", "train.py").stdout == "None\n"


def test_looking_for_a_checkpoint_here_loads_no_sdk(himl: Himl, project: Path) -> None:
    heavy = ("azure", "azureml", "mlflow", "torch", "typer", "rich", "pycurl")
    script = f"import sys\nfrom himl_cli.job import recovery_checkpoint\nrecovery_checkpoint()\nprint(sorted({{*{heavy!r}}} & {{*sys.modules}}))\n"
    write_files(project, {"train.py": script})
    assert himl.ok("submit", "train.py").stdout == "[]\n"
