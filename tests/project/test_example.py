"""The example is a training script of its own: it works without himl and leaves what it says."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import joblib
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.running import Himl

EXAMPLE = Path(__file__).parents[2] / "examples" / "train.py"


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", str(EXAMPLE), *arguments], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the example has trained for four epochs."""
    folder = tmp_path_factory.mktemp("trained")
    done = train(folder, "--epochs", "4")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[:-1]] == [["epoch", f"{epoch}/4"] for epoch in (1, 2, 3, 4)]
    return folder


def test_it_learns_and_writes_what_it_learned(trained: Path) -> None:
    results = json.loads((trained / "outputs" / "results.json").read_text())
    assert results["test_accuracy"] > 0.85
    with (trained / "outputs" / "confusion_matrix.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    counts = [[int(count) for count in row[1:]] for row in rows]
    assert header == ["digit", *map(str, range(10))]
    assert sum(map(sum, counts)) == results["test_images"] == 360
    right = sum(counts[digit][digit] for digit in range(10))
    assert right / 360 == pytest.approx(results["test_accuracy"], abs=1e-4)


def test_example_keeps_each_epoch_checkpoint_and_newest_as_last(trained: Path) -> None:
    checkpoints = trained / "outputs" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [*(f"epoch={epoch}.ckpt" for epoch in (1, 2, 3, 4)), "last.ckpt"]
    assert joblib.load(checkpoints / "last.ckpt")["epoch"] == 4
    assert joblib.load(checkpoints / "epoch=2.ckpt")["epoch"] == 2


def test_tensorboard_reads_every_epoch_and_the_loss_falls(trained: Path) -> None:
    events = EventAccumulator(str(trained / "logs"))
    events.Reload()
    assert sorted(events.Tags()["tensors"]) == ["train/loss", "val/accuracy", "val/loss"]
    losses = {event.step: float(event.tensor_proto.float_val[0]) for event in events.Tensors("train/loss")}
    assert list(losses) == [1, 2, 3, 4]
    assert losses[4] < losses[1] / 2


def test_the_seed_decides_the_result(trained: Path, tmp_path: Path) -> None:
    assert train(tmp_path, "--epochs", "4", "--output_dir", "again").returncode == 0
    assert (tmp_path / "again" / "results.json").read_bytes() == (trained / "outputs" / "results.json").read_bytes()
    assert not (tmp_path / "outputs").exists()


def test_example_environment_on_cluster_has_imports_and_mlflow(himl: Himl) -> None:
    """By the command of the README; azureml-mlflow is what knows the address that Azure ML tells MLflow."""
    requirements = EXAMPLE.with_name("requirements-cluster.txt")
    shown = himl.ok("submit", str(EXAMPLE), "--cluster", "gpu", "--requirements", str(requirements), "--dry_run").stdout
    *_, pip = yaml.safe_load(shown)["environment"]["conda_file"]["dependencies"]
    names = {re.split(r"[<>=]", line)[0] for line in pip["pip"]}
    imported = {line.split(">=")[0] for line in EXAMPLE.with_name("requirements.txt").read_text().splitlines() if not line.startswith("#")}
    assert names == imported | {"azureml-mlflow"}


def test_no_epoch_is_a_usage_error(tmp_path: Path) -> None:
    done = train(tmp_path, "--epochs", "0")
    assert done.returncode == 2
    assert "--epochs must be at least 1" in done.stderr
    assert list(tmp_path.glob("outputs")) == []
