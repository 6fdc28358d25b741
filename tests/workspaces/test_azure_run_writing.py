"""What himl asks the services for when programs write to runs, and what happens where they fail or refuse."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import NotAllowed
from himl_cli.core.runs import Run, RunEnd, RunStatus
from himl_cli.services.runs import writing
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Reset, Status
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.stores import Stored

RUN = "train_1_aa"
PLACE = f"ExperimentRun/dcid.{RUN}"


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    with opened(azure_environment, project) as found:
        found.start_run(Run(RUN, "train"))
        azure_environment.stage.log.clear()
        yield found


def store(workspace: AzureWorkspace, folder: Path, files: dict[str, bytes]) -> Stored:
    requests = []
    for number, (name, content) in enumerate(files.items()):
        (folder / str(number)).write_bytes(content)
        requests.append(StoreRequest(folder / str(number), name, len(content), hashlib.md5(content).digest()))
    sink = Stored()
    workspace.run_files(RUN).store(iter(requests), sink, workers=4)
    return sink


def test_files_cost_a_request_each_and_one_for_fifty_names(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    assert store(workspace, tmp_path, {f"many/{number:03}": b"x" for number in range(120)}).errors == {}
    assert len(azure.requests(r"POST .*/batch/metadata/")) == 3
    assert len(azure.requests(r"PUT .*blob")) == 120
    assert len(azure.requests()) == 123


def test_existing_artifact_name_is_overwritten_by_its_own_link(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    """The real service answers so for a name that is taken; azureml-core's users know it as `Resource Conflict`."""
    store(workspace, tmp_path, {"log #1.txt": b"old"})
    azure.stage.faults.add(Status(409, code="UserError", message="Resource Conflict: ArtifactId already exists."), r"POST .*/batch/metadata/", times=None)
    assert store(workspace, tmp_path, {"log #1.txt": b"new, and longer", "other": b"o"}).errors == {}
    assert azure.get_blob("workspaceartifactstore", f"{PLACE}/log #1.txt") == b"new, and longer"
    assert len(azure.requests(r"GET .*/artifacts/write/")) == 2


def test_a_link_that_is_refused_is_replaced(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    azure.stage.faults.add(Status(403, code="AuthenticationFailed", message="Signature not valid in the specified time frame."), r"PUT .*model\.bin", times=1)
    assert store(workspace, tmp_path, {"outputs/model.bin": b"m"}).errors == {}
    assert azure.get_blob("workspaceartifactstore", f"{PLACE}/outputs/model.bin") == b"m"
    assert len(azure.requests(r"GET .*/artifacts/write/")) == 1


def test_who_may_only_read_is_told_so(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = azure.add_principal({Right.READ})
    for name, value in azure.environment(reader).items():
        monkeypatch.setenv(name, value)
    with opened(azure, project) as reading:
        for write in (
            lambda: reading.log(RUN, [writing.scalar("loss", 1.0)]),
            lambda: reading.end_run(RUN, RunEnd(RunStatus.completed)),
            lambda: reading.start_run(Run("train_2_bb", "train")),
        ):
            with pytest.raises(NotAllowed):
                write()
        sink = store(reading, tmp_path, {"a": b"a", "b": b"b"})
    assert {name: type(error) for name, error in sink.errors.items()} == {"a": NotAllowed, "b": NotAllowed}


@pytest.mark.parametrize("lost", [r"POST .*/experiments/new", r"PATCH .*/runs/", r"POST .*/events"])
def test_a_start_whose_answer_is_lost_makes_one_run(workspace: AzureWorkspace, azure: StagedWorkspace, lost: str) -> None:
    azure.stage.faults.add(Reset(), lost, times=1)
    assert workspace.start_run(Run("train_2_bb", "new", tags={"a": "b"})).status is RunStatus.running
    assert [run for run in azure.state.runs if run != RUN] == ["train_2_bb"]
    assert azure.state.runs["train_2_bb"].tags == {"a": "b"}


def test_interrupted_run_start_is_completed_by_repeated_start(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.stage.faults.add(Status(403, code="AuthorizationFailed"), r"POST .*/events", times=1)
    with pytest.raises(NotAllowed):
        workspace.start_run(Run("train_2_bb", "new"))
    assert workspace.run("train_2_bb").status is RunStatus.queued
    assert workspace.start_run(Run("train_2_bb", "new")).status is RunStatus.running


def test_a_job_that_waits_is_not_begun_by_who_looks_for_it(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("job_1_cc", "train", status="NotStarted")
    assert workspace.start_run(Run("job_1_cc", "train")).status is RunStatus.queued
    assert not azure.requests(r"POST .*/events")


def test_secrets_in_a_reason_are_masked(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    workspace.end_run(RUN, RunEnd(RunStatus.failed, "cannot read https://a.blob.core.windows.net/c?sv=1&sig=abc%2Fdef\nsecond line"))
    assert "abc%2Fdef" not in str(azure.state.runs[RUN].error)
    assert "second line" in str(azure.state.runs[RUN].error)
    assert azure.state.runs[RUN].status == "Failed"


def test_a_busy_service_is_asked_again(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.stage.faults.add(Status(429, retry_after=0), r"POST .*/metric/.*/batch", times=2)
    workspace.log(RUN, [writing.scalar("loss", 1.0)])
    assert [point.data for point in azure.state.runs[RUN].metrics["loss"].points] == [{"loss": 1.0}]


def test_settling_waits_as_long_as_the_service_says(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.stage.faults.add(Status(202), r"GET .*/metricsingest/wait", times=1)
    workspace.settle(RUN)
    assert len(azure.requests(r"GET .*/metricsingest/wait")) == 2


def test_settling_ends_when_its_time_is_over(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.stage.faults.add(Status(202), r"GET .*/metricsingest/wait", times=None)
    workspace.settle(RUN, 0)
    assert len(azure.requests(r"GET .*/metricsingest/wait")) == 1
