"""Pipelines that himl and azure-ai-ml submit, read by azure-ai-ml, azureml-core and himl: all say the same of the runs and of their steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from himl_cli.core.events import ignore
from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.azure.conftest import AZURE_AI_ML, client_python
from tests.azure.lab import Lab
from tests.support import clients
from tests.support.azure import opened
from tests.support.azure_jobs import pipeline_of, prepare, train

if TYPE_CHECKING:
    from tests.servers.azureml.stage import Stage

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment
SHOWN = ("step1 makes", "step2 reads")


@dataclass(frozen=True)
class Piped:
    """A workspace with a pipeline of himl's and one of azure-ai-ml's; what the two clients said of them."""

    lab: Lab
    run_id: str
    by_ml: Any
    by_core: Any


@pytest.fixture(scope="module")
def piped(shared_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Piped]:
    shared_stage.clear()
    azure, folder = shared_stage.workspace(), tmp_path_factory.mktemp("piped")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**azure.environment(), "HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "cache")}.items():
            patch.setenv(name, value)
        with azure.run_jobs():
            for workspace in opened_once(azure, folder):
                run = workspace.submit_pipeline(pipeline_of(prepare(folder), train(folder), tags={"k": "v"}, display_name="both"), notify=ignore)
            azure.wait_for(run.id)
            lab = Lab(azure, {})
            by_ml = lab.program(client_python(AZURE_AI_ML), "azure_ai_ml_pipeline", made(folder / "ml"), seconds=300, variables={"LAB_PIPELINE": run.id})
        core = client_python(clients.AZUREML_CORE)
        by_core = lab.program(core, "azureml_core_pipeline", made(folder / "core"), variables={"LAB_PIPELINE": run.id})
    unknown = shared_stage.log.unknown()
    assert not unknown, f"requests that the double does not play: {unknown}"
    yield Piped(lab, run.id, by_ml, by_core)
    shared_stage.clear()


def opened_once(azure: Any, folder: Path) -> Iterator[AzureWorkspace]:
    with opened(azure, folder) as workspace:
        yield workspace


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_azure_ai_ml_reads_the_pipeline_of_himl(piped: Piped) -> None:
    said = piped.by_ml["himl"]
    assert (said["status"], said["type"], said["jobs"], said["name"]) == ("Completed", "pipeline", ["step1", "step2"], "both")
    assert said["tags"] == {"k": "v", "run_recovery_id": f"piped:{piped.run_id}"}
    assert {name: child["status"] for name, child in said["children"].items()} == dict.fromkeys(SHOWN, "Completed")
    assert "sum 6" in said["files"]["step2 reads"]["artifacts/user_logs/std_log.txt"]


def test_azureml_core_reads_the_pipeline_of_himl(piped: Piped) -> None:
    said = piped.by_core
    assert (said["run"]["status"], said["run"]["type"], said["run"]["name"]) == ("Completed", "azureml.PipelineRun", "both")
    steps = {child.display_name: child for child in children(piped, piped.run_id)}
    assert {name: step["id"] for name, step in said["steps"].items()} == {name: child.run_id for name, child in steps.items()}
    assert {(step["type"], step["parent"], step["status"]) for step in said["steps"].values()} == {("azureml.StepRun", piped.run_id, "Completed")}
    assert said["details"] == dict.fromkeys(SHOWN, piped.run_id)
    assert all("user_logs/std_log.txt" in step["files"] for step in said["steps"].values())


def test_a_pipeline_of_azure_ai_ml_runs_and_is_streamed(piped: Piped) -> None:
    own = piped.by_ml["own"]
    assert own["status"] == "Completed", piped.by_ml["log"]
    assert "Execution Summary" in piped.by_ml["log"]
    assert sorted(own["children"]) == ["make", "take"]
    assert "hello" in own["files"]["take"]["artifacts/user_logs/std_log.txt"]


def test_himl_knows_the_steps_of_a_pipeline_of_azure_ai_ml(piped: Piped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in piped.lab.azure.environment().items():
        monkeypatch.setenv(name, value)
    with opened(piped.lab.azure, tmp_path) as workspace:
        run = workspace.run(piped.by_ml["id"])
        steps = {step.tags["himl.step"]: step for step in workspace.runs(RunQuery(parent=run.id))}
    assert (run.status, run.experiment) == (RunStatus.completed, "of_the_sdk")
    assert {key: step.tags.get("himl.after") for key, step in steps.items()} == {"make": None, "take": "make"}


def children(piped: Piped, run_id: str) -> list[Any]:
    state = piped.lab.azure.state
    return [state.runs[child] for child in state.runs[run_id].children]
