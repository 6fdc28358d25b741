"""Jobs that azure-ai-ml, unmodified, submits to the double run there, in an environment of their own; what they leave, it and `himl` read alike."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.azure.conftest import Heard, client_python
from tests.azure.lab import Lab
from tests.support import clients
from tests.support.running import Himl

if TYPE_CHECKING:
    from tests.servers.azureml.stage import Stage

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment


@pytest.fixture(scope="module")
def trained(shared_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Any]:
    """A workspace in which the program has submitted its jobs; what it said of them."""
    shared_stage.clear()
    azure = shared_stage.workspace()
    azure.put_blobs("workspaceblobstore", {"scans/a.bin": b"A", "scans/b.bin": b"B"})
    lab = Lab(azure, {})
    with azure.run_jobs(python=client_python(clients.AZUREML_MLFLOW)):
        said = lab.program(Path(sys.executable), "azure_ai_ml_jobs", tmp_path_factory.mktemp("jobs"), seconds=300)
    unknown = shared_stage.log.unknown()
    assert not unknown, f"requests that the double does not play: {unknown}"
    return lab, said


@pytest.fixture
def heard(trained: tuple[Lab, Any], himl: Himl, project: Path) -> Heard:
    return Heard.of(trained, himl, project)


def test_it_streams_a_job_that_trains(heard: Heard) -> None:
    said = heard.said["train"]
    assert said["status"] == "Completed", said["log"]
    for line in ("files a.bin b.bin local.txt", "epoch 0", "epoch 1", "Execution Summary"):
        assert line in said["log"]


def test_it_downloads_what_the_job_left(heard: Heard) -> None:
    files = heard.said["train"]["files"]
    assert files["artifacts/outputs/model.txt"] == "weights"
    assert files["artifacts/note.txt"] == "note"
    assert "epoch 1" in files["artifacts/user_logs/std_log.txt"]


def test_it_finds_the_data_that_the_job_registered(heard: Heard) -> None:
    version, path = heard.said["train"]["masks"]
    assert version == "1"
    assert path.endswith("/datastores/workspaceblobstore/paths/masks/")
    assert heard.lab.azure.get_blob("workspaceblobstore", "masks/mask.txt") == b"mask"


def test_himl_shows_what_the_job_logged(heard: Heard) -> None:
    shown = heard.json("runs", "show", "--run", heard.said["train"]["id"])
    assert (shown["status"], shown["experiment"], shown["tags"]["from"], shown["parameters"]) == ("Completed", "trained", "sdk", {"seed": "7"})
    assert {metric["name"]: metric["value"] for metric in shown["metrics"]} == {"loss": 0.5}


def test_it_is_told_why_a_job_failed(heard: Heard) -> None:
    said = heard.said["fail"]
    assert said["status"] == "Failed"
    assert "exited with status code 1" in said["log"]
    assert "rank 0" in said["log"]
    assert heard.json("runs", "show", "--run", said["id"])["status"] == "Failed"


def test_it_submits_environments_that_are_built_and_searches(heard: Heard) -> None:
    assert (heard.said["build"], heard.said["sweep"]) == ("Completed", "sweep")


def test_it_is_refused_a_name_that_is_taken(heard: Heard) -> None:
    assert "A job with this name already exists" in heard.said["twice"]
