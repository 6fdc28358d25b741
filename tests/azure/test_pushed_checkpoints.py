"""A run that `himl checkpoint push` made is one that azureml-core reads as any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.azure.conftest import client_python
from tests.azure.lab import Lab
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.clients import AZUREML_CORE
from tests.support.running import Himl, write_files

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment


def test_azureml_core_finds_its_files_and_tags(himl: Himl, azure_environment: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    azure_environment.write_config(project)
    azure_environment.put_artifact(azure_environment.add_run("train_1_aa", "train"), "outputs/checkpoints/last.ckpt", b"old")
    write_files(project, {"new/last.ckpt": "new", "new/part/weights.pt": "weights"})
    run_id = himl.ok("checkpoint", "push", "new", "--from", "train_1_aa", "--tag", "team=blue").stdout.strip()
    said = Lab(azure_environment, {}).program(client_python(AZUREML_CORE), "azureml_core_pushed", tmp_path, variables={"LAB_RUN": run_id})
    assert (said["status"], said["name"], said["experiment"]) == ("Completed", "changed checkpoints of train_1_aa", "train")
    assert said["tags"].items() >= {"himl.checkpoint_from": "train_1_aa", "team": "blue"}.items()
    assert said["names"] == ["outputs/checkpoints/last.ckpt", "outputs/checkpoints/part/weights.pt"]
    assert said["files"] == {"outputs/checkpoints/last.ckpt": "new", "outputs/checkpoints/part/weights.pt": "weights"}
