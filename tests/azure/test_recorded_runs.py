"""A run that goes on here and is told to Azure ML reads there, by the vendor's client, as it does here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.azure.conftest import client_python
from tests.azure.lab import EXPERIMENT, Lab
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.clients import AZUREML_CORE
from tests.support.running import Himl, write_files

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment

TRAIN = """
import pathlib
from himl_cli import RUN_CONTEXT as run
for step, loss in enumerate((1.0, 0.5, 0.25)):
    run.log("loss", loss, step=step)
run.log("once", 3)
run.log_table("table", {"epoch": [1, 2], "accuracy": [0.7, 0.8]})
pathlib.Path("outputs/model.bin").write_text("weights")
print("trained")
"""


def test_azureml_core_reads_it(himl: Himl, azure_environment: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    azure_environment.write_config(project)
    write_files(project, {"train.py": TRAIN})
    run_id = himl.ok(
        "submit", "train.py", "--record_in", "azure", "--experiment", EXPERIMENT, "--display_name", "by himl", "--tag", "team=blue", "-q"
    ).stdout.strip()
    said = Lab(azure_environment, {}).program(client_python(AZUREML_CORE), "azureml_core_written", tmp_path)
    read = said["himl"]["by himl"]
    assert (read["id"], read["status"], read["error"], read["tags"]["team"], said["model"]) == (run_id, "Completed", None, "blue", "weights")
    assert read["metrics"] == {"loss": [1.0, 0.5, 0.25], "once": 3.0, "table/epoch": [1.0, 2.0], "table/accuracy": [0.7, 0.8]}
    assert read["files"] == ["logged/table.jsonl", "outputs/model.bin", "user_logs/std_log.txt"]
