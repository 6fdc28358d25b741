"""Sweeps that run in the double, as the vendor's clients and `himl` see them, none of which was changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.azure.conftest import Heard, client_python
from tests.azure.lab import EXPERIMENT, SWEEP, Lab
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support import clients
from tests.support.running import Himl

if TYPE_CHECKING:
    from tests.servers.azureml.stage import Stage

TRIALS = tuple(f"{SWEEP}_{index}" for index in range(3))
RATES = (0.5, 0.25, 0.125)
CURVES = {"accuracy": [[0.25, 0.5], [0.5, 0.75], [0.875]], "loss": [[1.0], [0.5], [0.25]]}
pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment


@pytest.fixture
def lab(shared_stage: Stage) -> Lab:
    """A sweep of three trials, the last of which failed; nothing ran."""
    shared_stage.clear()
    azure = shared_stage.workspace()
    values = [{"lr": rate} for rate in RATES]
    curves = [{name: curve[index] for name, curve in CURVES.items()} for index in range(3)]
    add_sweep(azure, SWEEP, values, lambda index, _: curves[index], experiment=EXPERIMENT, statuses={2: "Failed"})
    return Lab(azure, {SWEEP: azure.state.runs[SWEEP]})


def heard_by(lab: Lab, client: str, program: str, folder: Path) -> Any:
    said = lab.program(client_python(client), program, folder)
    unknown = lab.azure.stage.log.unknown()
    assert not unknown, f"requests that the double does not play: {unknown}"
    return said


def test_azure_ai_ml_runs_a_sweep_and_downloads_the_best_trial(shared_stage: Stage, himl: Himl, project: Path, tmp_path: Path) -> None:
    shared_stage.clear()
    azure = shared_stage.workspace()
    azure.add_environment("torch")
    with azure.run_jobs(python=client_python(clients.AZUREML_MLFLOW)):
        said = Lab(azure, {}).program(Path(sys.executable), "azure_ai_ml_sweep", tmp_path, seconds=300)
    unknown = shared_stage.log.unknown()
    assert not unknown, f"requests that the double does not play: {unknown}"
    name = said["id"]
    assert (said["status"], said["space"], said["best"]) == (["Running", "Completed"], {"lr": [0.5, 0.125, 0.25]}, f"{name}_1")
    trials = {f"{name}_{index}": ["Completed", f'{{"lr": {lr}}}'] for index, lr in enumerate((0.5, 0.125, 0.25))}
    assert said["children"] == trials
    assert "Scheduling job" in said["log"]
    assert "0.125" in [text for file, text in said["files"].items() if file.endswith("rate.txt")]
    heard = Heard.of((Lab(azure, {}), said), himl, project)
    assert heard.json("runs", "show", "--run", name)["status"] == "Completed"


def test_azureml_core_reads_the_trials(lab: Lab, tmp_path: Path) -> None:
    said = heard_by(lab, clients.AZUREML_CORE, "azureml_core_swept", tmp_path)
    assert (said["type"], said["status"], said["best"]) == ("hyperdrive", "Completed", TRIALS[2])  # failed ones count, as the vendor says
    assert said["children"][TRIALS[1]] == [{"lr": 0.25}, {"accuracy": [0.5, 0.75], "loss": 0.5}, "Completed"]
    assert said["children"][TRIALS[2]][2] == "Failed"


def test_hyperdrive_itself_reads_the_sweep(lab: Lab, tmp_path: Path) -> None:
    said = heard_by(lab, clients.HIML_V1, "hyperdrive_swept", tmp_path)
    assert said["values"] == {trial: {"lr": rate} for trial, rate in zip(TRIALS, RATES, strict=True)}
    assert said["best"] == TRIALS[2]
    assert said["ordered"] == [[TRIALS[2], 0.875, "Failed"], [TRIALS[1], 0.75, "Completed"], [TRIALS[0], 0.5, "Completed"]]
    assert said["metrics"][TRIALS[0]] == {"accuracy": [0.25, 0.5], "loss": 1.0}


def test_mlflow_searches_the_trials_by_their_parent(lab: Lab, tmp_path: Path) -> None:
    said = heard_by(lab, clients.AZUREML_MLFLOW, "mlflow_swept", tmp_path)
    assert [trial[0] for trial in said["trials"]] == [TRIALS[2], TRIALS[1], TRIALS[0]]
    assert said["trials"][1] == [TRIALS[1], {"lr": 0.25}, {"accuracy": 0.75, "loss": 0.5}, "FINISHED"]
    assert said["curves"][TRIALS[0]] == [[0, 0.25], [1, 0.5]]
