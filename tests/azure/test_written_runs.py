"""What himl writes to a run of Azure ML is what the vendor's clients read: equal to what they write themselves by the same calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from himl_cli import Run, create_aml_run_object, get_workspace
from himl_cli.core.runs import Run as RunRecord
from himl_cli.workspaces.base import RunRecorder
from tests.azure.conftest import client_python
from tests.azure.lab import EXPERIMENT, Lab
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.clients import AZUREML_CORE, AZUREML_MLFLOW

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(20)


class Figure:
    def savefig(self, target: Path, format: str) -> None:
        target.write_bytes(PNG)


def log_all(run: Run) -> None:
    """The same calls as in `programs/azureml_core_written.py`."""
    for step, loss in enumerate((1.0, 0.5, 0.25)):
        run.log("loss", loss, step=step)
    run.log("once", 3)
    run.log("flag", True)
    run.log("word", "yes")
    run.log_list("sizes", [1, 2, 3])
    run.log_list("mixed", [1, 0.5])
    run.log_row("row", a=1, b=2.5, c="x")
    run.log_row("rows", a=1, b=2.5)
    run.log_row("rows", a=2, b=0.5)
    run.log_row("single", x=1)
    run.log_list("words", ["a", "b"])
    run.log_table("table", {"epoch": [1, 2], "accuracy": [0.7, 0.8], "note": ["a", "b"]})
    run.log_image("curve", plot=Figure())


@pytest.fixture
def written(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with everything that himl can write, one that failed, and one nested in the first."""
    azure_environment.write_config(project)
    monkeypatch.chdir(project)
    run = create_aml_run_object(EXPERIMENT, "by himl")
    log_all(run)
    run.log_text("weights", "outputs/model.bin")
    opened = get_workspace().opened
    assert isinstance(opened, RunRecorder)
    opened.log_parameters(run.id, {"lr": "0.1"})
    opened.start_run(RunRecord("nested_1_aa", EXPERIMENT, display_name="nested", parent=run.id))
    run.complete()
    create_aml_run_object(EXPERIMENT, "failed").fail("no memory left")
    return run


def test_azureml_core_reads_what_it_would_have_written(written: Run, azure: StagedWorkspace, tmp_path: Path) -> None:
    said = Lab(azure, {}).program(client_python(AZUREML_CORE), "azureml_core_written", tmp_path)
    ours, theirs = said["himl"]["by himl"], said["core"]
    (image,) = [name for name in ours["files"] if name.startswith("curve_")]
    assert ours["metrics"].pop("curve") == f"aml://artifactId/ExperimentRun/dcid.{written.id}/{image}"
    assert theirs["metrics"].pop("curve").startswith(f"aml://artifactId/ExperimentRun/dcid.{theirs['id']}/curve_")
    assert ours["metrics"] == theirs["metrics"]
    assert typed(ours["metrics"]) == typed(theirs["metrics"])
    assert len(ours["metrics"]) == 11
    assert as_himl_names(theirs["metrics"]) == written.get_metrics()
    other = get_workspace().get_run(theirs["id"])
    assert other.get_metrics() == written.get_metrics()
    assert (ours["id"], ours["status"], ours["error"], said["model"]) == (written.id, "Completed", None, "weights")
    assert ours["files"] == sorted([image, "outputs/model.bin"])
    assert ours["tags"] == written.tags
    failed = said["himl"]["failed"]
    assert (failed["status"], failed["error"]) == (theirs["status"], theirs["error"]) == ("Failed", "no memory left")


def as_himl_names(metrics: dict[str, Any]) -> dict[str, Any]:
    """What azureml-core's `get_metrics` gives as himl's does: of tables, each column by a name of its own."""
    columns = {f"{name}/{column}": content for name, value in metrics.items() if isinstance(value, dict) for column, content in value.items()}
    return columns | {name: value for name, value in metrics.items() if not isinstance(value, dict)}


def typed(value: Any) -> Any:
    """*value* with the types of what is in it: 1 and 1.0 and True are equal."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    return [typed(item) for item in value] if isinstance(value, list) else type(value).__name__


def test_mlflow_reads_it_too(written: Run, azure: StagedWorkspace, tmp_path: Path) -> None:
    said = Lab(azure, {}).program(client_python(AZUREML_MLFLOW), "mlflow_written", tmp_path)
    assert (said["status"], said["loss"], said["params"]) == ("FINISHED", [[0, 1.0], [1, 0.5], [2, 0.25]], {"lr": "0.1"})
    assert said["files"] == ["outputs/model.bin"]
    assert said["tags"]["run_recovery_id"] == f"{EXPERIMENT}:{written.id}"
