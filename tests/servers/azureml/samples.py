"""Sample runs, for a look around by hand and for the benchmarks of commands."""

from __future__ import annotations

import math
from datetime import timedelta

from tests.servers.azureml.seeding import DEFAULT, StagedWorkspace
from tests.servers.azureml.state import Run, now
from tests.servers.azureml.sweep_seeding import add_sweep

LOG = "epoch {epoch}: loss {loss:.4f}\n"


def fill(workspace: StagedWorkspace, *, many: int = 300) -> None:
    """A finished training with files and curves, a failed one, one that runs, a sweep with trials, an experiment with *many* runs, and some data."""
    _training(workspace)
    _failed(workspace)
    _sweep(workspace)
    _running(workspace)
    _many(workspace, many)
    workspace.put_blobs(
        DEFAULT, {f"data/images/{number:04d}.bin": bytes([number % 256]) * 1024 for number in range(40)} | {"data/labels.csv": b"name,label\n0000,cat\n"}
    )


def _training(workspace: StagedWorkspace) -> Run:
    run = workspace.add_run(
        "kind_owl_4g2k7w1x9c",
        "segmentation",
        created=now() - timedelta(hours=5),
        seconds=5400,
        display_name="baseline",
        tags={"model": "unet", "fold": "0"},
        parameters={"lr": "0.001", "epochs": "20", "batch_size": "8"},
        script="train.py",
    )
    losses = [math.exp(-epoch / 7) for epoch in range(20)]
    workspace.add_metric(run, "loss", losses)
    workspace.add_metric(run, "val/dice", [1 - loss for loss in losses])
    workspace.add_table(run, "confusion", [{"predicted": 0, "true": 0, "count": 90}, {"predicted": 1, "true": 0, "count": 10}])
    files = {
        "outputs/checkpoints/last.ckpt": b"\x80\x02" * 200_000,
        "outputs/checkpoints/best.ckpt": b"\x80\x03" * 200_000,
        "outputs/results.json": b'{"dice": 0.94}\n',
        "user_logs/std_log.txt": "".join(LOG.format(epoch=epoch, loss=loss) for epoch, loss in enumerate(losses)).encode(),
        "system_logs/lifecycler/lifecycler.log": b"started\nended\n",
    }
    workspace.put_artifacts(run, files)
    workspace.add_output(run, "predictions", {"0000.png": b"\x89PNG" + bytes(1000), "0001.png": b"\x89PNG" + bytes(1000)})
    return run


def _failed(workspace: StagedWorkspace) -> Run:
    text = "Execution failed. User process 'python' exited with status code 1. Error: RuntimeError: CUDA out of memory."
    run = workspace.add_run(
        "mango_fig_9d8s7f6g5h", "segmentation", status="Failed", created=now() - timedelta(hours=3), seconds=95, error=text, tags={"model": "unet++"}
    )
    workspace.put_artifact(run, "user_logs/std_log.txt", b"Traceback (most recent call last):\nRuntimeError: CUDA out of memory.\n")
    return run


def _running(workspace: StagedWorkspace) -> Run:
    run = workspace.add_run(
        "quiet_pine_1a2b3c4d5e", "segmentation", status="Running", created=now() - timedelta(minutes=10), tags={"model": "unet", "fold": "1"}
    )
    workspace.append_log(run, LOG.format(epoch=0, loss=1.0))
    workspace.add_metric(run, "loss", [1.0, 0.9, 0.83])
    return run


def _sweep(workspace: StagedWorkspace) -> Run:
    rates = (0.1, 0.01, 0.001)
    curves = [[0.5 + number / 10 - 1 / (epoch + 3) for epoch in range(10)] for number in range(len(rates))]
    sweep = add_sweep(workspace, "bold_kite_sweep00001", [{"lr": rate} for rate in rates], lambda number, _: {"accuracy": curves[number]}, seconds=900)
    for name, rate in zip(sweep.children, rates, strict=True):
        workspace.put_artifact(workspace.state.runs[name], "outputs/model.txt", f"lr {rate}".encode())
    return sweep


def _many(workspace: StagedWorkspace, count: int) -> None:
    begun = now() - timedelta(days=30)
    for number in range(count):
        status = "Failed" if number % 10 == 3 else "Completed"
        workspace.add_run(f"many_{number:06d}", "many", status=status, created=begun + timedelta(seconds=number * 20), tags={"batch": str(number % 7)})
