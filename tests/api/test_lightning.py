"""Tests of `himl_cli.lightning` with the real PyTorch Lightning: in local jobs and on the double, on two ranks,
resumed, and outside of a job.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from himl_cli import get_workspace
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.running import Himl, write_files

pytestmark = pytest.mark.timeout(900)
TRAIN = """
import argparse, os, sys, time, warnings
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from himl_cli.job import recovery_checkpoint
from himl_cli.lightning import AzureMLLogger, AzureMLProgressBar, BatchTimeCallback, log_learning_rate, log_on_epoch

parser = argparse.ArgumentParser()
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--fail_at", type=int, default=-1)
parser.add_argument("--own_run", action="store_true")
args = parser.parse_args()
checkpoint = recovery_checkpoint()


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        time.sleep(0.02 * (index == 5))
        return torch.full((3,), index / 8)


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"width": 3, "optimizer": {"name": "sgd", "rate": 0.1}})
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch, index):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        log_learning_rate(self)
        if checkpoint is None and self.current_epoch == args.fail_at and index == 2:
            self.logger.save()
            os._exit(7)
        return loss

    def validation_step(self, batch, index):
        log_on_epoch(self, "val/size", float(len(batch)))
        log_on_epoch(self, metrics={"val/first": batch.mean()})

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


logger = AzureMLLogger(enable_logging_outside_azure_ml=args.own_run, experiment_name="own", run_name="mine")
saved = ModelCheckpoint(dirpath="outputs/checkpoints", filename="recovery_{epoch}", every_n_epochs=1)
callbacks = [AzureMLProgressBar(refresh_rate=2), BatchTimeCallback(max_batch_load_time_seconds=0.01), saved]
trainer = Trainer(
    max_epochs=2, logger=logger, callbacks=callbacks, accelerator="cpu", devices=args.devices,
        log_every_n_steps=1, enable_model_summary=False
)
loader = torch.utils.data.DataLoader(Slow(), batch_size=2)
trainer.fit(Model(), loader, loader, ckpt_path=str(checkpoint) if checkpoint else None)
"""
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ "
LINES = [
    STAMP + r"Training epoch 0 \(step 4\):    4/4 \(100%\) completed\. 00:0\d elapsed, total epoch time ~ 00:0\d",
    STAMP + r"Validation epoch 1:    4/4 \(100%\) completed\. 00:0\d elapsed, total epoch time ~ 00:0\d",
    r"Epoch 1 training: Loaded the first minibatch of data in 0\.\d\d sec\.",
    r"Epoch 1 training: Loading minibatch 3 took 0\.\d\d sec, more than 0\.01 sec\. Data loading is too slow\.",
    r"Epoch 1 validation took \d+\.\d\dsec, of which waiting for data took 0\.\d\d sec total\.",
]
TIMES = ["batch_time [sec] avg", "batch_time [sec] max", "batch_loading_over_threshold [sec]", "epoch_time [sec]"]
PARAMETERS = {"width": "3", "optimizer/name": "sgd", "optimizer/rate": "0.1"}


@pytest.fixture
def himl_with_lightning(himl: Himl, project: Path, lightning_packages: str, monkeypatch: pytest.MonkeyPatch) -> Himl:
    write_files(project, {"train.py": TRAIN.encode()})
    monkeypatch.setenv("PYTHONPATH", lightning_packages)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return himl


def steps(himl: Himl) -> dict[str, list[int]]:
    """Return the steps of each metric of the latest run."""
    (run,) = himl("runs", "aggregate", "latest", "--json").json()["children"]
    return {name: found["steps"] for name, found in run["series"].items()}


def test_training_here_is_logged_and_resumed(himl_with_lightning: Himl, project: Path) -> None:
    himl = himl_with_lightning
    assert himl("submit", "train.py", "--", "--fail_at", "1").code == 1
    done = himl("submit", "--resume", "latest")
    assert done.code == 0, done.stderr
    run = himl("runs", "show", "latest", "--json").json()
    assert (run["status"], run["parameters"]) == ("Completed", PARAMETERS)
    assert get_workspace(workspace_config_path=project / ".himl").get_run(run["id"]).get_metrics("hyperparams") == {
        "hyperparams": {"name": [*PARAMETERS], "value": [*PARAMETERS.values()]}
    }
    told = himl("runs", "logs", "latest", "--try", "1").stdout + done.stdout
    for line in LINES:
        assert re.search(f"^{line}$", told, re.MULTILINE), (line, told)
    found = steps(himl)
    timing = {f"timing/{stage}/{name}" for stage in ("train", "val") for name in TIMES}
    assert found.keys() == {"epoch", "loss", "learning_rate", "val/size", "val/first", *timing}
    assert found["loss"] == list(range(8))
    assert {name: each for name, each in found.items() if each != [3, 7]}.keys() == {"epoch", "loss"}


def test_two_ranks_log_once(himl_with_lightning: Himl) -> None:
    himl = himl_with_lightning
    done = himl("submit", "train.py", "--processes_per_node", "2", "--", "--devices", "2")
    assert done.code == 0, done.stderr
    found = steps(himl)
    assert (found["loss"], found["val/size"], found["timing/val/epoch_time [sec]"]) == ([0, 1, 2, 3], [1, 3], [1, 3])
    logs = [himl("runs", "logs", "latest", "--file", f"std_log_process_{rank}.txt").stdout for rank in range(2)]
    assert ["Training epoch 1 (step 4)" in log for log in logs] == [True, False]


def test_outside_of_a_job_a_run_of_its_own_is_made_where_that_is_wanted(
    himl_with_lightning: Himl, project: Path
) -> None:
    himl = himl_with_lightning
    assert himl("init", "--local").code == 0
    given = """import himl_cli; from himl_cli.lightning import AzureMLLogger as A
r = himl_cli.create_aml_run_object("own")
a = A(True, "other", r, "name")
a.log_metrics({"loss": 1.0, "epoch": 0}, 7); a.log_hyperparams({"net": {"width": 3}}); a.finalize("success")
print(a.run is a.experiment is r, a.name, r.get_status(), r.get_metrics("hyperparams"), r.get_metrics("loss"),
    r.tags == r.get_tags())
r.complete(); himl_cli.get_workspace().opened.delete(r.id)"""
    silent = (
        "from himl_cli.lightning import AzureMLLogger as A; a = A(); a.log_metrics({'loss': 1.0}); "
        "a.log_hyperparams({}); a.save(); print(a.experiment)"
    )
    for command, said in (
        (["-c", silent], r"^AzureMLLogger logs nothing outside of a job.*\nNone$"),
        (
            ["-c", given],
            r"^True own Running \{'hyperparams': \{'name': 'net/width', 'value': '3'\}\} \{'loss': 1.0\} True$",
        ),
        (
            ["train.py", "--own_run"],
            r"^Writing metrics to run (\S+) in experiment own\.\nTo show the run: himl runs show \1$",
        ),
    ):
        done = subprocess.run([sys.executable, *command], cwd=project, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert re.search(said, done.stdout, re.MULTILINE), done.stdout
    (run,) = himl("runs", "list", "--json").json()
    assert (run["status"], run["display_name"], run["experiment"]) == ("Completed", "mine", "own")
    assert himl("runs", "show", run["id"], "--json").json()["parameters"] == PARAMETERS


def test_job_on_azure_logs_to_its_run(himl_with_lightning: Himl, azure: StagedWorkspace, project: Path) -> None:
    run = azure.add_run("train_1_aa", "train", status="Running")
    env = {**os.environ, **azure.job_environment(run)}
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=project, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [point.step for point in run.metrics["loss"].points] == list(range(8))
    assert run.parameters == PARAMETERS


def test_without_lightning_it_is_said(project: Path) -> None:
    code = "import sys; sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None; import himl_cli.lightning"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: himl_cli.lightning needs PyTorch Lightning, which is not installed: pip install lightning"
    )
