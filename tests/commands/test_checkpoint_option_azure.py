"""`himl submit --checkpoint` for jobs on Azure ML: read where it lies, by whatever words it is named; what lies elsewhere is uploaded once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from himl_cli.core.runs import FROM_RUN
from tests.servers.azureml.log import Seen
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.running import Himl, write_files

LAST = os.urandom(300_000)
SUBMIT = ("submit", "train.py", "--cluster", "cpu-cluster", "-q")
INPUT = "himl_checkpoint"


@pytest.fixture
def early(azure_environment: StagedWorkspace, project: Path) -> str:
    """The id of a run that kept checkpoints, in the workspace that is configured for the project."""
    azure_environment.write_config(project)
    write_files(project, {"train.py": "", "environment.yml": "dependencies:\n- python=3.11\n"})
    run = azure_environment.add_run("early", experiment="train")
    azure_environment.put_artifacts(run, {"outputs/checkpoints/last.ckpt": LAST, "outputs/checkpoints/parts/a.bin": b"a"})
    return "early"


def moved(stage: Stage) -> list[Seen]:
    """Requests that moved bytes of a checkpoint, either way; one for the first byte counts too."""
    return stage.log.find(r"^(GET|PUT) \S+\.blob\.core\S*(last\.ckpt|a\.bin|himl_checkpoints)", lambda seen: "comp=list" not in seen.query)


def submitted(azure: StagedWorkspace, run_id: str) -> tuple[str, str]:
    """Where the job's input lies, and its command, as the service has them."""
    job = azure.state.runs[run_id].job
    assert job is not None
    return job["inputs"][INPUT]["uri"], job["command"]


@pytest.mark.parametrize(("source", "path", "brings"), [
    ("early", "outputs/checkpoints/last.ckpt", "outputs/checkpoints/last.ckpt"),
    ("early:outputs/checkpoints/", "outputs/checkpoints/", "find . -type f"),
])  # fmt: skip
def test_a_run_of_the_workspace_is_read_where_it_lies(
    himl: Himl, azure: StagedWorkspace, stage: Stage, early: str, source: str, path: str, brings: str
) -> None:
    run_id = himl.ok(*SUBMIT, "--checkpoint", source).stdout.strip()
    uri, command = submitted(azure, run_id)
    assert uri.rstrip("/").endswith(f"/workspaceartifactstore/paths/ExperimentRun/{azure.state.runs[early].data_container_id}/outputs/checkpoints")
    assert brings in command
    assert azure.state.runs[run_id].tags[FROM_RUN] == f"early:{path}"
    assert moved(stage) == []


def test_link_to_workspace_storage_is_read_in_place_unsigned(himl: Himl, azure: StagedWorkspace, stage: Stage, early: str) -> None:
    """The signature of the link reaches neither the job nor its tags nor the output."""
    link = himl.ok("checkpoint", "url", early, "-q").stdout.strip()
    address, _, query = link.partition("?")
    stage.log.clear()
    outcome = himl.ok(*SUBMIT, "-v", "--checkpoint", link)
    uri, command = submitted(azure, outcome.stdout.strip())
    assert uri.rstrip("/").endswith("/outputs/checkpoints")
    assert "/last.ckpt outputs/checkpoints" in command.replace("'", "")
    run = azure.state.runs[outcome.stdout.strip()]
    assert run.tags[FROM_RUN] == address
    signature = next(part for part in query.split("&") if part.startswith("sig=")).removeprefix("sig=")
    assert signature not in f"{run.job} {run.tags} {outcome.stderr}"
    assert moved(stage) == []
    gone = himl(*SUBMIT, "--checkpoint", link.replace("last.ckpt", "lost.ckpt"))
    assert (gone.code, "/lost.ckpt' in datastore" in gone.stderr) == (3, True), gone.stderr


def test_checkpoint_link_to_other_storage_is_uploaded_once(himl: Himl, azure: StagedWorkspace, stage: Stage, early: str) -> None:
    other = stage.workspace("elsewhere").state.storage
    other.make_container("models")
    other.put("models", "weights.pt", LAST)
    for _ in range(2):
        run_id = himl.ok(*SUBMIT, "--checkpoint", other.blob_link("models", "weights.pt")).stdout.strip()
    uri, command = submitted(azure, run_id)
    assert "workspaceblobstore/paths/himl_checkpoints/" in uri
    assert "outputs/checkpoints/last.pt" in command
    sent = stage.log.find(r"^PUT .*himl_checkpoints", lambda seen: "comp=list" not in seen.query)
    read = stage.log.find(r"^GET .*weights\.pt", lambda seen: seen.headers.get("range") != "bytes=0-0")
    assert [len(sent), len(read)] == [1, 1]
    assert [azure.get_blob("workspaceblobstore", name) for name in azure.blob_names("workspaceblobstore", "himl_checkpoints/")] == [LAST]
