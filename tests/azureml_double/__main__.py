"""`python -m tests.azureml_double`: start the double by hand, with sample runs, and print the variables that connect
`himl` to it. Ctrl-C stops it.
"""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import tempfile
import threading
from datetime import timedelta
from pathlib import Path

from tests.azureml_double.seeding import DEFAULT, StagedWorkspace, add_sweep
from tests.azureml_double.stage import running_stage
from tests.azureml_double.state import now

LOG_LINE = "epoch {}: loss {:.4f}\n"


def fill(workspace: StagedWorkspace, many: int) -> None:
    """Add a finished training run with files and curves, a failed run, a running one, a sweep with trials, an
    experiment with *many* runs, and data.
    """
    begun, parameters = now() - timedelta(hours=5), {"lr": "0.001", "epochs": "20", "batch_size": "8"}
    tags = {"model": "unet", "fold": "0"}
    run = workspace.add_run(
        "kind_owl_4g2k7w1x9c",
        "segmentation",
        created=begun,
        seconds=5400,
        display_name="baseline",
        tags=tags,
        parameters=parameters,
    )
    losses = [math.exp(-epoch / 7) for epoch in range(20)]
    workspace.add_metric(run, "loss", losses)
    workspace.add_metric(run, "val/dice", [1 - loss for loss in losses])
    workspace.add_table(
        run, "confusion", [{"predicted": 0, "true": 0, "count": 90}, {"predicted": 1, "true": 0, "count": 10}]
    )
    log = "".join(LOG_LINE.format(epoch, loss) for epoch, loss in enumerate(losses)).encode()
    checkpoints = {f"outputs/checkpoints/{name}.ckpt": b"\x80\x02" * 200_000 for name in ("last", "best")}
    workspace.put_artifacts(
        run, {**checkpoints, "outputs/results.json": b'{"dice": 0.94}\n', "user_logs/std_log.txt": log}
    )
    workspace.add_output(
        run, "predictions", {"0000.png": b"\x89PNG" + bytes(1000), "0001.png": b"\x89PNG" + bytes(1000)}
    )
    error = (
        "Execution failed. User process 'python' exited with status code 1. Error: RuntimeError: CUDA out of memory."
    )
    run = workspace.add_run(
        "mango_fig_9d8s7f6g5h",
        "segmentation",
        status="Failed",
        created=now() - timedelta(hours=3),
        seconds=95,
        error=error,
    )
    workspace.put_artifact(
        run, "user_logs/std_log.txt", b"Traceback (most recent call last):\nRuntimeError: CUDA out of memory.\n"
    )
    run = workspace.add_run(
        "quiet_pine_1a2b3c4d5e", "segmentation", status="Running", created=now() - timedelta(minutes=10)
    )
    workspace.append_log(run, LOG_LINE.format(0, 1.0))
    workspace.add_metric(run, "loss", [1.0, 0.9, 0.83])
    curves = [{"accuracy": [0.5 + number / 10 - 1 / (epoch + 3) for epoch in range(10)]} for number in range(3)]
    sweep = add_sweep(
        workspace,
        "bold_kite_sweep00001",
        [{"lr": rate} for rate in (0.1, 0.01, 0.001)],
        lambda number, _: curves[number],
        seconds=900,
    )
    for name in sweep.children:
        workspace.put_artifact(workspace.state.runs[name], "outputs/model.txt", b"weights")
    for number in range(many):
        status, created = (
            "Failed" if number % 10 == 3 else "Completed",
            now() - timedelta(days=30) + timedelta(seconds=number * 20),
        )
        workspace.add_run(f"many_{number:06d}", "many", status=status, created=created, tags={"batch": str(number % 7)})
    images = {f"data/images/{number:04d}.bin": bytes([number % 256]) * 1024 for number in range(40)}
    workspace.put_blobs(DEFAULT, images | {"data/labels.csv": b"name,label\n0000,cat\n"})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.azureml_double", description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="runs in the experiment 'many' (default: %(default)s)")
    parser.add_argument("--empty", action="store_true", help="a workspace without runs")
    parser.add_argument(
        "--run_jobs",
        action="store_true",
        help="run the jobs that are submitted, on this machine, with its own `python`",
    )
    parser.add_argument("--env_file", type=Path, help="write the variables there, too, for `source`")
    options = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with (
        tempfile.TemporaryDirectory(prefix="himl-azureml-", ignore_cleanup_errors=True) as folder,
        running_stage(Path(folder)) as stage,
    ):
        workspace = stage.workspace("samples", group="research")
        if options.run_jobs:
            workspace.run_jobs()
            workspace.add_environment("training")
        if not options.empty:
            fill(workspace, options.runs)
        state = workspace.state
        place = {
            "HIML_SUBSCRIPTION_ID": state.subscription,
            "HIML_RESOURCE_GROUP": state.group,
            "HIML_WORKSPACE_NAME": state.name,
        }
        lines = "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in {**workspace.environment(), **place}.items()
        )
        if options.env_file:
            options.env_file.write_text(lines)
        print(lines, end="")
        print("# The double of Azure ML is running; Ctrl-C ends it.", flush=True)
        while not stopped.wait(0.5):
            pass


if __name__ == "__main__":
    main()
