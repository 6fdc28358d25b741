"""azure-ai-ml, unmodified, reads the double and acts on it, and agrees with `himl`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.azure.conftest import AZURE_AI_ML, Heard, Visit
from tests.azure.lab import BEST, DATA, FAILED, FILES, PREDICTIONS, ROOTS, RUNNING, SWEEP, TRIALS, WEIGHTS, Lab, digests, digests_below, fill
from tests.support.running import Himl

if TYPE_CHECKING:
    from tests.servers.azureml.seeding import StagedWorkspace
    from tests.servers.azureml.stage import Stage


@pytest.fixture(scope="module")
def reading(visit: Visit) -> tuple[Lab, Any]:
    return visit(AZURE_AI_ML, "azure_ai_ml_read")


@pytest.fixture(scope="module")
def acting(visit: Visit) -> tuple[Lab, Any]:
    return visit(AZURE_AI_ML, "azure_ai_ml_act")


@pytest.fixture
def read(reading: tuple[Lab, Any], himl: Himl, project: Path) -> Heard:
    return Heard.of(reading, himl, project)


@pytest.fixture
def acted(acting: tuple[Lab, Any], himl: Himl, project: Path) -> Heard:
    return Heard.of(acting, himl, project)


def test_it_finds_the_workspace(read: Heard) -> None:
    path = read.lab.azure.state.path
    assert read.said["workspace"] == {"id": path, "location": "eastus", "tracking": f"azureml://eastus.api.azureml.ms/mlflow/v1.0{path}"}


def test_it_lists_the_runs_that_himl_lists(read: Heard) -> None:
    listed = read.json("runs", "list", "--num_runs", "all")
    fields = {"id": "id", "status": "status", "tags": "tags", "name": "display_name", "experiment": "experiment"}
    assert read.said["jobs"] == [{theirs: run[ours] for theirs, ours in fields.items()} for run in listed]
    assert [run["id"] for run in listed] == ["other_run", *ROOTS]


def test_it_shows_the_run_that_himl_shows(read: Heard) -> None:
    ours = read.json("runs", "show", "--run", BEST)
    job = read.said["job"]
    assert (job["id"], job["status"], job["tags"], job["name"]) == (ours["id"], ours["status"], ours["tags"], ours["display_name"])
    assert read.said["studio"].lower() == ours["url"].lower()


def test_it_finds_the_children_that_himl_finds(read: Heard) -> None:
    assert read.said["children"] == sorted(child["id"] for child in read.json("runs", "show", "--run", SWEEP)["children"]) == list(TRIALS)


def test_it_downloads_the_artifacts_that_himl_downloads(read: Heard, project: Path) -> None:
    read.downloads("--run", BEST, "--output_dir", project / "out")
    ours = digests_below(project / "out" / BEST)
    assert read.said["artifacts"] == {f"artifacts/{name}": digest for name, digest in ours.items()}
    assert ours == digests(FILES)


def test_it_downloads_the_named_output_that_himl_downloads(read: Heard, project: Path) -> None:
    read.downloads("--run", BEST, "--output_key", "predictions", "--output_dir", project / "out")
    ours = digests_below(project / "out" / BEST)
    assert read.said["predictions"] == {f"named-outputs/predictions/{name}": digest for name, digest in digests(PREDICTIONS).items()}
    assert sorted(ours.values()) == sorted(digests(PREDICTIONS).values())


def test_its_generated_clients_read_the_routes_that_himl_asks(read: Heard, project: Path) -> None:
    outputs = read.lab.runs[BEST].outputs
    weights = {"type": "CustomModel", "path": outputs["weights"].uri}
    assert read.said["inner"] == {"found": BEST, "failed": ["two"], "output": outputs["predictions"].uri, "weights": weights}
    read.downloads("--run", BEST, "--output_key", "weights", "--output_dir", project / "out")
    assert sorted(digests_below(project / "out" / BEST).values()) == sorted(digests(WEIGHTS).values())


def test_it_lists_the_datastores_that_himl_knows(read: Heard) -> None:
    assert sorted(read.said["datastores"]) == sorted(read.lab.azure.state.datastores)
    assert read.said["default"] == read.json("workspace", "show")[0]["facts"]["default_datastore"]
    named = read.himl("datastore", "list", "--datastore", "nope", env=read.lab.azure.environment())
    assert named.code == 3
    assert [name for name in read.said["datastores"] if name not in named.stderr.replace("\n", "")] == []


def test_it_is_given_the_secret_of_a_datastore(read: Heard) -> None:
    assert read.said["secret"] == read.lab.azure.state.storage.key


def test_it_finds_the_compute(read: Heard) -> None:
    assert read.said["compute"] == {"name": "cpu-cluster", "size": "STANDARD_DS3_V2", "max": 4}


def test_himl_shows_the_run_that_it_canceled(acted: Heard) -> None:
    assert acted.said["canceled"] == "Canceled"
    assert acted.json("runs", "show", "--run", RUNNING)["status"] == "Canceled"


def test_himl_does_not_list_the_run_that_it_archived(acted: Heard) -> None:
    assert FAILED not in acted.said["active"]
    listed = acted.json("runs", "list", "--num_runs", "all")
    assert acted.said["active"] == [run["id"] for run in listed]


def test_it_streams_a_run_to_its_end(acted: Heard) -> None:
    assert f"RunId: {BEST}" in acted.said["streamed"]
    assert "Execution Summary" in acted.said["streamed"]


def test_it_registers_data_and_datastores(acted: Heard) -> None:
    state = acted.lab.azure.state
    place = f"azureml://subscriptions/{state.subscription}/resourcegroups/{state.group}/workspaces/{state.name}"
    assert acted.said["asset"].lower() == f"{place}/datastores/workspaceblobstore/paths/scans/".lower()
    assert (acted.said["version"], acted.said["newest"]) == ("1", "1")
    assert "second" in acted.said["datastores"]
    assert sorted(blob["name"] for blob in acted.json("datastore", "list", "scans/", "--datastore", "second")) == sorted(DATA)


def test_a_missing_job_is_said_in_the_service_s_own_form(acted: Heard) -> None:
    assert acted.said["missing"] == "UserError"


def test_himl_lists_the_jobs_that_it_submits(visit: Visit, himl: Himl, project: Path) -> None:
    sent = Heard(*visit(AZURE_AI_ML, "azure_ai_ml_submit"), himl)
    sent.lab.azure.write_config(project)
    listed = sent.json("runs", "list", "--experiment", "sent")
    assert [(run["id"], run["tags"]) for run in listed] == [(sent.said["again"], {"from": "sdk"}), (sent.said["id"], {"from": "sdk"})]
    assert listed[0]["status"] in ("Queued", "Running")
    assert sent.said["same_code"]
    assert (sent.said["environments"], sent.said["computes"], sent.said["data"]) == (["torch"], ["cpu-cluster", "gpu-cluster"], [])


def test_it_streams_the_log_of_a_running_job_until_the_job_ends(stage: Stage, azure: StagedWorkspace, tmp_path: Path) -> None:
    lab = fill(azure)

    def go_on() -> None:
        while not any(seen.status == 200 for seen in stage.log.find(r"/details")) and not given_up.wait(0.05):
            pass
        azure.append_log(lab.runs[RUNNING], "epoch 1\n")
        lab.runs[RUNNING].status = "Completed"

    given_up = threading.Event()
    job = threading.Thread(target=go_on)
    job.start()
    try:
        shown = lab.program(Path(sys.executable), "azure_ai_ml_stream", tmp_path)
    finally:
        given_up.set()
        job.join()
    assert "Streaming user_logs/std_log.txt" in shown
    assert shown.index("epoch 0\n") < shown.index("epoch 1\n") < shown.index("Execution Summary")
