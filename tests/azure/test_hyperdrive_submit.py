"""azureml-train-core, unmodified and signed in by itself, submits sweeps to the double, waits for one and cancels another."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.azure.conftest import client_python
from tests.azure.lab import fill
from tests.servers.azureml.stage import Stage
from tests.support.clients import HIML_V1


@pytest.mark.timeout(1800)  # the first use of a client builds its environment
def test_its_trials_run_with_the_values_behind_their_arguments(shared_stage: Stage, tmp_path: Path) -> None:
    python = client_python(HIML_V1)
    shared_stage.clear()
    lab = fill(shared_stage.workspace())
    lab.azure.add_environment("torch")
    with lab.azure.run_jobs():
        said = lab.program(python, "hyperdrive_submit", tmp_path, seconds=300)
    unknown = shared_stage.log.unknown()
    assert not unknown, f"requests that the double does not play: {unknown}"
    sweep, canceled = said["ids"]
    assert (said["statuses"], canceled) == (["Completed", "Canceled"], "chosen")
    points = [{"--kernel": kernel, "C": c} for kernel in ("linear", "a 'b'") for c in (1, 0.5)]
    assert said["values"] == {f"{sweep}_{index}": point for index, point in enumerate(points)}
    logs = {run_id: lab.azure.artifacts(run_id)["user_logs/std_log.txt"].decode() for run_id in said["values"]}
    assert logs == {run_id: f"trained --fixed a b --kernel {point['--kernel']} --C {point['C']} {run_id}\n" for run_id, point in said["values"].items()}
    shared_stage.clear()
