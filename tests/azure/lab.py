"""The runs that all clients read: one workspace with everything in it, and what each client has to say of it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.state import Run, now
from tests.support.folders import contents
from tests.support.processes import MARK

PROGRAMS = Path(__file__).with_name("programs")
EXPERIMENT = "lungs"
BEST, FAILED, RUNNING, SWEEP = "kind_owl_best", "mango_fig_failed", "quiet_pine_running", "bold_kite_sweep"
TRIALS = (f"{SWEEP}_0", f"{SWEEP}_1")
ROOTS = (RUNNING, SWEEP, FAILED, BEST)  # newest first
FILES = {
    "outputs/model.bin": bytes(range(256)) * 4096,
    "odd names/grün #1 100%.txt": "größer\n".encode(),
    "outputs/empty": b"",
    "user_logs/std_log.txt": b"epoch 0\nepoch 1\n",
    "system_logs/lifecycler/lifecycler.log": b"started\n",
}
PREDICTIONS = {"0000.png": b"\x89PNG" + bytes(1000), "more/0001.png": b"\x89PNG"}
WEIGHTS = {"model.pt": bytes(100)}
LOSS = [1.0, 0.5, 0.25]
DATA = {"scans/a.bin": b"\x00\x01", "scans/b/c d.bin": b"\x02"}


@dataclass(frozen=True)
class Lab:
    """The workspace and its runs by id."""

    azure: StagedWorkspace
    runs: Mapping[str, Run]

    def program(self, python: Path, name: str, folder: Path, *, job: str = "", variables: Mapping[str, str] | None = None, seconds: float = 90) -> Any:
        """What the program *name* prints as JSON, run in *folder* and with a folder of its own for files; *job*: as that job would run it."""
        command = [str(python), str(PROGRAMS / f"{name}.py"), str(folder / "files")]
        identity = self.azure.job_environment(self.runs[job]) if job else self.azure.environment()
        done = subprocess.run(
            command,
            env={**self._environment(folder), **identity, **(variables or {})},
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])

    def _environment(self, folder: Path) -> dict[str, str]:
        state = self.azure.state
        machine = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP", "TMP", MARK) if name in os.environ}
        home = {"HOME": str(folder / "home"), "USERPROFILE": str(folder / "home"), "PYTHONUTF8": "1"}
        place = {"LAB_SUBSCRIPTION": state.subscription, "LAB_GROUP": state.group, "LAB_WORKSPACE": state.name, "LAB_EXPERIMENT": EXPERIMENT}
        quick = {"AZUREML_DEFAULT_RETRIES": "0", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "AZUREML_RUN_POLLING_INTERVAL_MIN": "1"}
        (folder / "home").mkdir(exist_ok=True)
        return {**machine, **home, **place, **quick}


def fill(azure: StagedWorkspace) -> Lab:
    """A finished run with files, curves and named outputs, a failed one, one that runs, a sweep with two trials, and a run of another experiment."""
    at = now() - timedelta(hours=8)

    def add(run_id: str, hours: float, **fields: Any) -> Run:
        return azure.add_run(run_id, fields.pop("experiment", EXPERIMENT), created=at + timedelta(hours=hours), **fields)

    best = add(BEST, 0, seconds=60, display_name="baseline", tags={"kind": "best", "fold": "0"}, parameters={"lr": "0.1"}, script="train.py")
    azure.add_metric(best, "loss", LOSS)
    azure.add_metric(best, "val/dice", [0.75])
    azure.put_artifacts(best, FILES)
    azure.add_output(best, "predictions", PREDICTIONS)
    azure.add_output(best, "weights", WEIGHTS, path="models/best/", kind="CustomModel")
    failed = add(FAILED, 1, status="Failed", seconds=5, tags={"kind": "second"}, error="CUDA out of memory.")
    sweep = add(SWEEP, 2, seconds=600, run_type="hyperdrive", properties={"azureml.runsource": "hyperdrive"})
    trials = [add(trial, 2.1 + place / 100, parent=SWEEP, seconds=60) for place, trial in enumerate(TRIALS)]
    for place, trial in enumerate(trials):
        azure.add_metric(trial, "accuracy", [0.5 + place / 10])
    running = add(RUNNING, 3, status="Running", tags={"kind": "best"})
    azure.append_log(running, "epoch 0\n")
    other = add("other_run", 4, experiment="other", seconds=1)
    azure.put_blobs("workspaceblobstore", DATA)
    return Lab(azure, {run.run_id: run for run in (best, failed, sweep, *trials, running, other)})


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def digests_below(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below *folder*, by its path with `/`."""
    return digests(contents(folder))
