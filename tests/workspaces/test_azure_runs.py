"""Finding one run of an Azure ML workspace, and changing it: what is asked for it, and what is said when it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.errors import HimlError, NotAllowed, RunNotFound, ServiceFailed
from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Meanwhile, Status
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened, opened_in_job

DATA_PLANE = r"api\.azureml\.ms/"


def test_a_run_costs_one_request_once_its_experiment_was_seen(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.add_run("train_1_aa", "train")
    first = workspace.run("train_1_aa")
    azure.stage.log.clear()
    with opened(azure, project) as later:
        assert later.run("train_1_aa") == first
    assert [line.partition("?")[0] for line in azure.requests()] == [f"GET eastus.api.azureml.ms/history/v1.0{azure.state.path}/runs/train_1_aa -> 200"]


def test_a_record_tells_all_that_the_run_history_knows(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("sweep_1", "train")
    run = azure.add_run(
        "r1", "train", status="Failed", parent="sweep_1", display_name="try 1", description="why", seconds=65, error="exit code 3", script="train.py"
    )
    told = workspace.run("r1")
    assert (told.status, told.parent, told.display_name, told.description) == (RunStatus.failed, "sweep_1", "try 1", "why")
    assert (told.created, told.started, told.ended, told.duration) == (run.created, run.started, run.ended, 65.0)
    assert (told.reason, told.exit_code, told.command, told.workspace, told.folder) == ("exit code 3", 3, "train.py", azure.label, "")
    place = f"/subscriptions/{azure.state.subscription}/resourcegroups/{azure.state.group}/workspaces/{azure.state.name}"
    assert told.url == f"https://ml.azure.com/runs/r1?wsid={place}&tid={azure.state.tenant}"


@pytest.mark.parametrize("run_id", ["train_1_ab", "train_1"])
def test_unknown_run_id_suggests_runs_of_its_experiment(workspace: AzureWorkspace, azure: StagedWorkspace, run_id: str) -> None:
    for name in ("train_1_aa", "train_22_bb"):
        azure.add_run(name, "train")
    azure.add_run("train_1_ac", "elsewhere")
    with pytest.raises(RunNotFound) as caught:
        workspace.run(run_id)
    assert "train_1_aa" in caught.value.similar
    assert "train_1_ac" not in caught.value.similar
    assert len(azure.requests(DATA_PLANE)) == 2


def test_unknown_run_id_suggests_similar_runs_of_workspace(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    for number in range(3):
        azure.add_run(f"wheat_fowl_03wx{number}", f"e{number}")
    with pytest.raises(RunNotFound) as caught:
        workspace.run("wheat_fowl_03w")
    assert sorted(caught.value.similar) == ["wheat_fowl_03wx0", "wheat_fowl_03wx1", "wheat_fowl_03wx2"]
    assert len(azure.requests(DATA_PLANE)) == 2


def test_an_unknown_id_stays_unknown_where_no_hint_can_be_had(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.stage.faults.add(Status(400, code="UserError"), match=r"POST .*(runs:query|/index/)", times=None)
    azure.stage.faults.add(Status(403, code="AuthorizationFailed"), match=r"GET .*/jobs")
    with pytest.raises(RunNotFound, match=f"No run 'train_1_ab' in {azure.label}"):
        workspace.run("train_1_ab")


@pytest.mark.parametrize("run_id", ["", "..", "../x", "a/b", "a\0b", "x" * 500])
def test_what_can_be_no_id_is_unknown_without_a_request(workspace: AzureWorkspace, azure: StagedWorkspace, run_id: str) -> None:
    with pytest.raises(RunNotFound):
        workspace.run(run_id)
    assert azure.requests() == []


@pytest.mark.parametrize("run_id", ["a b", "größe", "a&b=c", "a;b", "~a", "a:b", "a+b", "x" * 256])
def test_an_odd_id_is_asked_for_as_it_is(workspace: AzureWorkspace, azure: StagedWorkspace, run_id: str) -> None:
    azure.add_run(run_id, "odd")
    assert workspace.run(run_id).id == run_id


def test_who_may_not_read_hears_it(azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.add_run("r1")
    stranger = azure.add_principal(rights=())
    for name, value in azure.environment(stranger).items():
        monkeypatch.setenv(name, value)
    with opened(azure, project) as workspace, pytest.raises(NotAllowed):
        workspace.run("r1")


def test_run_request_is_retried_and_permanent_failure_is_error(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("r1")
    azure.stage.faults.add(Status(503, retry_after=0), match=r"GET .*/runs/r1", times=2)
    assert workspace.run("r1").id == "r1"
    azure.stage.faults.add(Status(500, retry_after=0), match=r"GET .*/runs/r1", times=None)
    with pytest.raises(ServiceFailed, match="500"):
        workspace.run("r1")


def test_tags_are_set_with_one_change_and_others_stay(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    run = azure.add_run("r1", tags={"team": "blue", "_aml_system_x": "1"})
    assert workspace.tag("r1", {"note": 'a="b" ü', "team": "red"}).tags == {"note": 'a="b" ü', "team": "red"}
    assert run.tags == {"team": "red", "_aml_system_x": "1", "note": 'a="b" ü'}
    assert len(azure.requests("PATCH ")) == 1


def test_tagging_an_unknown_run_makes_none(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    with pytest.raises(RunNotFound):
        workspace.tag("nope", {"a": "b"})
    assert azure.requests("PATCH ") == []


def test_who_may_only_read_cannot_tag(azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = azure.add_run("r1")
    reader = azure.add_principal(rights=(Right.READ,))
    for name, value in azure.environment(reader).items():
        monkeypatch.setenv(name, value)
    with opened(azure, project) as workspace, pytest.raises(NotAllowed):
        workspace.tag("r1", {"a": "b"})
    assert run.tags == {}


@pytest.mark.parametrize("state", ["Running", "Queued", "Preparing", "NotStarted"])
def test_a_run_that_goes_on_is_asked_to_stop_and_nobody_waits(workspace: AzureWorkspace, azure: StagedWorkspace, state: str) -> None:
    azure.add_run("r1", status=state)
    assert workspace.cancel("r1") is True
    assert azure.state.runs["r1"].status in ("CancelRequested", "Canceled")
    assert len(azure.requests(r"POST .*/cancel")) == 1
    assert azure.requests(r"GET management\.azure\.com.*(jobs|[Oo]peration)") == []


@pytest.mark.parametrize("state", ["Completed", "Failed", "Canceled"])
def test_a_run_that_has_ended_is_left_alone(workspace: AzureWorkspace, azure: StagedWorkspace, state: str) -> None:
    azure.add_run("r1", status=state)
    assert workspace.cancel("r1") is False
    assert azure.requests("POST .*cancel") == []


@pytest.mark.parametrize("status", [404, 400, 409])
def test_cancel_refused_by_resource_manager_uses_run_history(workspace: AzureWorkspace, azure: StagedWorkspace, status: int) -> None:
    azure.add_run("r1", status="Running")
    azure.stage.faults.add(Status(status, code="UserError"), match=r"POST management\.azure\.com.*/cancel")
    assert workspace.cancel("r1") is True
    assert workspace.run("r1").status is RunStatus.canceled


@pytest.mark.parametrize("in_job", [False, True])
def test_cancel_of_finalizing_run_fails_with_its_state(azure_environment: StagedWorkspace, project: Path, in_job: bool) -> None:
    azure = azure_environment
    run = azure.add_run("r1", status="Finalizing")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (azure.job_environment(run) if in_job else {}).items():
            patch.setenv(name, value)
        with opened_in_job(project) if in_job else opened(azure, project) as workspace, pytest.raises(HimlError, match="Finalizing") as caught:
            workspace.cancel("r1")
    assert not isinstance(caught.value, ServiceFailed)
    assert run.status == "Finalizing"


@pytest.mark.parametrize(("state", "answer"), [("CancelRequested", True), ("Canceled", True), ("Completed", False)])
def test_refused_cancel_of_ended_or_stopping_run_is_no_error(workspace: AzureWorkspace, azure: StagedWorkspace, state: str, answer: bool) -> None:
    run = azure.add_run("r1", status="Running")
    azure.stage.faults.add(Status(400, code="UserError"), match=r"POST management\.azure\.com.*/cancel")
    azure.stage.faults.add(Meanwhile(lambda: setattr(run, "status", state)), match=r"POST management\.azure\.com.*/cancel")
    workspace.run("r1")
    assert workspace.cancel("r1") is answer
    assert azure.requests(r"POST .*/history/.*/cancel") == []


def test_a_run_that_nobody_agrees_to_stop_says_so(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("r1", status="Running")
    azure.stage.faults.add(Status(400, code="UserError"), match="POST .*/cancel", times=None)
    with pytest.raises(ServiceFailed, match=r"refused POST .*/cancel: 400"):
        workspace.cancel("r1")


def test_cancel_with_busy_service_raises_service_failed(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("r1", status="Running")
    azure.stage.faults.add(Status(503, retry_after=0), match=r"POST management\.azure\.com.*/cancel", times=None)
    with pytest.raises(ServiceFailed, match="503"):
        workspace.cancel("r1")
    assert azure.state.runs["r1"].status == "Running"


def test_cancel_of_run_that_completes_meanwhile_returns_false(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    run = azure.add_run("r1", status="Running")
    workspace.run("r1")
    azure.stage.faults.add(Meanwhile(lambda: setattr(run, "status", "Completed")), match=r"GET .*/runs/r1")
    assert workspace.cancel("r1") is False


def test_in_a_job_its_own_token_is_enough(azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = azure.add_run("job_1", "train", status="Running", parameters={"lr": "0.1"})
    azure.add_run("child", "train", parent="job_1")
    azure.add_metric(own, "loss", [0.5])
    for name, value in azure.job_environment(own).items():
        monkeypatch.setenv(name, value)
    with opened_in_job(project) as workspace:
        assert workspace.run("job_1").experiment == "train"
        assert [run.id for run in workspace.runs(RunQuery())] == ["job_1"]
        assert [run.id for run in workspace.runs(RunQuery("train"))] == ["job_1"]
        assert [run.id for run in workspace.runs(RunQuery(parent="job_1"))] == ["child"]
        assert workspace.tag("job_1", {"a": "b"}).tags == {"a": "b"}
        assert [metric.name for metric in workspace.metrics("job_1")] == ["loss"]
        assert workspace.parameters("job_1") == {"lr": "0.1"}
        with pytest.raises(RunNotFound):
            workspace.run("job_2")
        assert workspace.cancel("job_1") is True
    assert azure.requests(r"management\.azure\.com|login\.microsoftonline") == []
