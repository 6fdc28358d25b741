"""Tests of records of runs in an Azure ML workspace: reading, tagging, canceling, starting, logging and ending."""

from __future__ import annotations

import json
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import HimlError, NotAllowed, RunNotFound, ServiceFailed
from himl_cli.core.runs import Run, RunEnd, RunQuery, RunStatus
from himl_cli.services.runs import writing
from himl_cli.workspaces.azure.config import CHINA, PUBLIC, WorkspaceAddress, address_of_job
from himl_cli.workspaces.azure.run_history import fulfils, history_filter, index_conditions, plain_tags
from himl_cli.workspaces.azure.run_records import as_run, history_condition, status_of, studio_url
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.azureml_double.faults import Meanwhile, Reset, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Right
from tests.support.azure import HASTY, opened, set_all, use
from tests.support.stores import Stored, sending

DATA_PLANE = r"api\.azureml\.ms/"


def test_a_record_tells_all_that_the_run_history_knows(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("sweep_1", "train")
    run = azure.add_run(
        "r1",
        "train",
        status="Failed",
        parent="sweep_1",
        display_name="try 1",
        description="why",
        seconds=65,
        error="exit code 3",
        script="train.py",
    )
    told = workspace.run("r1")
    assert (told.status, told.parent, told.display_name, told.description) == (
        RunStatus.failed,
        "sweep_1",
        "try 1",
        "why",
    )
    assert (told.created, told.started, told.ended, told.duration) == (run.created, run.started, run.ended, 65.0)
    assert (told.reason, told.exit_code, told.command, told.workspace, told.folder) == (
        "exit code 3",
        3,
        "train.py",
        azure.label,
        "",
    )
    place = (
        f"/subscriptions/{azure.state.subscription}/resourcegroups/{azure.state.group}/workspaces/{azure.state.name}"
    )
    assert told.url == f"https://ml.azure.com/runs/r1?wsid={place}&tid={azure.state.tenant}"


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("run_id", ["train_1_ab", "train_1"])
def test_unknown_run_id_suggests_new_runs_and_those_of_its_experiment(
    workspace: AzureWorkspace, azure: StagedWorkspace, run_id: str
) -> None:
    for name in ("train_1_aa", "train_22_bb"):
        azure.add_run(name, "train")
    azure.add_run("train_1_ac", "elsewhere")
    with pytest.raises(RunNotFound) as caught:
        workspace.run(run_id)
    assert {"train_1_aa", "train_1_ac"} <= {*caught.value.similar}
    assert len(azure.requests(DATA_PLANE)) == 3
    with pytest.raises(RunNotFound) as caught:
        workspace.tag("train_2_bb", {"a": "b"})
    assert "train_22_bb" in caught.value.similar
    assert azure.requests("PATCH ") == []


def test_unknown_run_id_is_told_where_no_hint_can_be_had(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.stage.faults.add(Status(400, code="UserError"), match=r"POST .*(runs:query|/index/)", times=None)
    azure.stage.faults.add(Status(403, code="AuthorizationFailed"), match=r"GET .*/jobs")
    with pytest.raises(RunNotFound, match=f"No run 'train_1_ab' in {azure.label}"):
        workspace.run("train_1_ab")


@pytest.mark.large("takes long, and other tests run its branches")
def test_impossible_run_id_is_unknown_without_a_request(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    for run_id in ("", "..", "a/b", "a\\b", "a\0b", "a\nb", "x" * 257, "a\x7fb"):
        with pytest.raises(RunNotFound):
            workspace.run(run_id)
    assert azure.requests() == []
    for run_id in ("a b", "größe", "a&b=c", "a+b", "HD_0a.1b-2c_17", "x" * 256):
        azure.add_run(run_id, "odd")
        assert workspace.run(run_id).id == run_id


def test_a_run_whose_process_died_is_ended(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    for number, status in enumerate(("Running", "CancelRequested")):
        run = workspace.start_run(Run(f"train_{number}_aa", "train"))
        azure.state.runs[run.id].status = status
        assert workspace.cancel(run.id) is True
        assert workspace.run(run.id).status is RunStatus.canceled
        assert workspace.cancel(run.id) is False


def test_a_tag_without_a_value_is_found_in_both_lists(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("r1", "train").tags["empty"] = None  # type: ignore[assignment]
    azure.add_run("r2", "train", tags={"empty": ""})
    azure.add_run("r3", "train", tags={"empty": "no"})
    for experiment in ("train", None):
        assert {run.id for run in workspace.runs(RunQuery(experiment, tags={"empty": ""}))} == {"r1", "r2"}


def test_cancel_refused_by_resource_manager_uses_run_history(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    for status in (404, 400, 409):
        azure.add_run(f"r{status}", status="Running")
        azure.stage.faults.add(Status(status, code="UserError"), match=r"POST management\.azure\.com.*/cancel")
        assert workspace.cancel(f"r{status}") is True
        assert workspace.run(f"r{status}").status is RunStatus.canceled
    azure.add_run("r1", status="Running")
    azure.stage.faults.add(Status(400, code="UserError"), match="POST .*/cancel", times=None)
    with pytest.raises(ServiceFailed, match=r"refused POST .*/cancel: 400"):
        workspace.cancel("r1")
    azure.stage.faults.clear()
    azure.stage.log.clear()
    for count, state in enumerate(["Running", "NotStarted"], 1):
        azure.add_run(state, status=state)
        assert workspace.cancel(state) is True
        assert azure.state.runs[state].status in ("CancelRequested", "Canceled")
        assert len(azure.requests(r"POST .*/cancel")) == count
    assert azure.requests(r"GET management\.azure\.com.*(jobs|[Oo]peration)") == []


@pytest.mark.parametrize("in_job", [False, True])
def test_cancel_of_finalizing_run_fails_with_its_state(
    azure_environment: StagedWorkspace, project: Path, in_job: bool
) -> None:
    azure = azure_environment
    run = azure.add_run("r1", status="Finalizing")
    with pytest.MonkeyPatch.context() as patch:
        set_all(patch, azure.job_environment(run) if in_job else {})
        with (
            opened(azure, project, address=address_of_job() if in_job else None) as workspace,
            pytest.raises(HimlError, match="Finalizing") as caught,
        ):
            workspace.cancel("r1")
    assert not isinstance(caught.value, ServiceFailed)
    assert run.status == "Finalizing"


def test_refused_cancel_of_ended_or_stopping_run_is_no_error(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    for state, answer in {"CancelRequested": True, "Canceled": True, "Completed": False}.items():
        run = azure.add_run(state, status="Running")
        azure.stage.faults.add(Status(400, code="UserError"), match=r"POST management\.azure\.com.*/cancel")
        azure.stage.faults.add(
            Meanwhile(partial(setattr, run, "status", state)), match=r"POST management\.azure\.com.*/cancel"
        )
        workspace.run(state)
        assert workspace.cancel(state) is answer
    assert azure.requests(r"POST .*/history/.*/cancel") == []
    run = azure.add_run("r1", status="Running")
    workspace.run("r1")
    azure.stage.faults.add(Meanwhile(lambda: setattr(run, "status", "Completed")), match=r"GET .*/runs/r1")
    assert workspace.cancel("r1") is False


def test_cancel_with_busy_service_raises_service_failed(azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.add_run("r1", status="Running")
    azure_environment.stage.faults.add(
        Status(503, retry_after=0), match=r"POST management\.azure\.com.*/cancel", times=None
    )
    with opened(azure_environment, project, HASTY) as workspace, pytest.raises(ServiceFailed, match="503"):
        workspace.cancel("r1")
    assert azure_environment.state.runs["r1"].status == "Running"


@pytest.mark.large("takes long, and other tests run its branches")
def test_in_a_job_its_own_token_is_enough(
    azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = azure.add_run("job_1", "train", status="Running", parameters={"lr": "0.1"})
    azure.add_run("child", "train", parent="job_1")
    azure.add_metric(own, "loss", [0.5])
    azure.put_artifacts(own, {"outputs/a": b"1"})
    azure.add_output(own, "model", {"b": b"2"})
    set_all(monkeypatch, azure.job_environment(own))
    with opened(azure, project, address=address_of_job()) as workspace:
        assert workspace.run("job_1").experiment == "train"
        for query in (RunQuery(), RunQuery("train")):
            assert [run.id for run in workspace.runs(query)] == ["job_1"]
        assert [run.id for run in workspace.runs(RunQuery(parent="job_1"))] == ["child"]
        assert workspace.tag("job_1", {"a": "b"}).tags == {"a": "b"}
        assert [metric.name for metric in workspace.metrics("job_1")] == ["loss"]
        assert workspace.parameters("job_1") == {"lr": "0.1"}
        assert b"".join(workspace.output_files("job_1", "default").read("outputs/a")) == b"1"
        assert b"".join(workspace.output_files("job_1", "model").read("b")) == b"2"
        with urllib.request.urlopen(workspace.link("job_1", "outputs/a", days=1).url, timeout=60) as answer:
            assert answer.read() == b"1"
        with pytest.raises(RunNotFound):
            workspace.run("job_2")
        assert workspace.cancel("job_1") is True
    assert azure.requests(r"management\.azure\.com|login\.microsoftonline") == []


ADDRESS = WorkspaceAddress("sub", "team", "lab", PUBLIC, "a test")


def raw_record(**fields: Any) -> dict[str, Any]:
    """Return a run in the format of the run history."""
    return {
        "runId": "r1",
        "experimentId": "e",
        "status": "Completed",
        "createdUtc": "2026-03-01T12:00:00.1234567+00:00",
    } | fields


def record(**fields: Any) -> Run:
    return as_run(raw_record(**fields), experiment="train", address=ADDRESS)


STATES = {
    RunStatus.queued: ["NotStarted", "Unapproved", "Starting", "Provisioning", "Preparing", "Queued", "Paused"],
    RunStatus.running: [
        "Running",
        "Finalizing",
        "CancelRequested",
        "Pausing",
        "NotResponding",
        "Unknown",
        "AStateOfTheFuture",
        "",
    ],
    RunStatus.completed: ["Completed"],
    RunStatus.failed: ["Failed"],
    RunStatus.canceled: ["Canceled"],
}


def test_records_are_read_with_what_the_service_leaves_null() -> None:
    names = (
        "tags",
        "displayName",
        "description",
        "parentRunId",
        "startTimeUtc",
        "endTimeUtc",
        "error",
        "properties",
        "scriptName",
    )
    run = record(**dict.fromkeys(names))
    assert (
        run.tags,
        run.display_name,
        run.description,
        run.parent,
        run.started,
        run.ended,
        run.reason,
        run.command,
    ) == ({}, "", "", None, None, None, "", "")
    tags = {
        "team": "blue",
        "_aml_system_ComputeTargetStatus": "{}",
        "mlflow.user": "ada",
        "empty": None,
        "azureml.nodeid": "1c",
        "azureml.pipeline": "p",
    }
    assert record(tags=tags).tags == {"empty": "", "mlflow.user": "ada", "team": "blue"}, (
        "the tags of the service itself are left out"
    )
    assert record(tags={"command_line": "train.py --epochs 3"}, scriptName="train.py").command == "train.py --epochs 3"
    assert record(tags={}, scriptName="train.py").command == "train.py"
    for status, states in STATES.items():
        assert {record(status=state).status for state in states} == {status}
    times = {"startTimeUtc": "2026-03-01T12:01:00+00:00", "endTimeUtc": "2026-03-01T12:02:05+00:00"}
    assert (record(status="Finalizing", **times).ended, record(**times).duration) == (None, 65.0)
    assert (
        studio_url("a b", ADDRESS, "t1")
        == "https://ml.azure.com/runs/a%20b?wsid=/subscriptions/sub/resourcegroups/team/workspaces/lab&tid=t1"
    )
    assert studio_url("r", WorkspaceAddress("sub", "team", "lab", CHINA, "")).startswith(
        "https://studio.ml.azure.cn/runs/r?wsid="
    )


def test_why_a_run_failed_is_one_line_without_secrets() -> None:
    user = "Execution failed.\n User process 'python' exited with status code 3.\nSee the log."
    reasons: list[tuple[Any, str]] = [
        (
            {"error": {"code": "UserError", "message": '{"NonCompliant": "The image could not be built."}'}},
            "The image could not be built.",
        ),
        (
            {"error": {"message": json.dumps({"error": {"code": "X", "message": "The cluster has no quota."}})}},
            "The cluster has no quota.",
        ),
        ({"error": {"code": "ServiceError", "message": ""}}, "ServiceError"),
        ({"error": {"message": "{not json"}}, "{not json"),
        ({"error": {"message": '{"a":' * 3000}}, ('{"a":' * 3000)[:499] + "…"),
        (
            {"error": {"message": "Cannot read https://a.blob.core/c/b?sv=1&sig=SECRETSECRET"}},
            "Cannot read https://a.blob.core/c/b?sv=1&sig=***",
        ),
        ({"error": {"message": "x" * 5000}}, "x" * 499 + "…"),
        (None, ""),
    ]
    for error, reason in reasons:
        run = record(status="Failed", error=error)
        assert (run.reason, run.exit_code) == (reason, None)
        assert record(status="Completed", error=error).reason == ""
    failed = record(status="Failed", error={"error": {"code": "UserError", "message": user}})
    assert (failed.reason, failed.exit_code) == (" ".join(user.split()), 3)
    no_codes = [
        "AzureML upload failed with status code 403",
        "HTTP status code: 500",
        "the server sent return code 7",
        "exit code 1 after exit code 2",
    ]
    codes = {
        **dict.fromkeys(no_codes),
        "Command gave exit code 7. User process 'python' exited with status code 1": 1,
        "Out of memory, exit code: -9": -9,
        "ExecutionFailed: [REDACTED]\n\texit_codes: 1": 1,
        "exit_codes: 0, 137": 137,
        "exit_codes: 0,0": None,
    }
    for message, code in codes.items():
        assert record(status="Failed", error={"message": message}).exit_code == code
    assert record(status="Paused").reason == "Azure ML, which paused it", "that Queued waits for"
    assert record(status="Canceled", cancelationReason="by ada").reason == "by ada"
    command: dict[str, Any] = {
        "status": "Completed",
        "runTypeV2": {"traits": ["azureml.scriptrun", "scriptRun", "remote"]},
        "target": "cpu-cluster",
    }
    assert record(**command).exit_code == 0
    others: list[dict[str, Any]] = [
        {"status": "Running"},
        {"target": "local"},
        {"runType": "hyperdrive"},
        {"runTypeV2": None},
    ]
    for other in [*others, {"runTypeV2": {"traits": ["unspecified"]}}]:
        assert record(**command | other).exit_code is None


def test_filters_hold_only_safe_conditions() -> None:
    conditions = {
        "(ParentRunId eq null)": RunQuery(),
        "(ParentRunId eq null) and (Status eq Failed)": RunQuery(statuses=[RunStatus.failed]),
        "(Status eq Completed or Status eq Failed)": RunQuery(
            parent="p", statuses=[RunStatus.failed, RunStatus.completed]
        ),
        '(Tags/team eq "blue") and (Tags/run.no eq "a b:1")': RunQuery(
            parent="p", tags={"team": "blue", "run.no": "a b:1"}
        ),
    }
    for condition, query in conditions.items():
        assert history_filter(query) == condition
    unsafe = RunQuery(parent="p", tags={"team": 'a"b', "größe": "1", "a/b": "1", "ok": "ü"})
    for query in (RunQuery(parent="p"), RunQuery(parent="p", statuses=list(RunStatus)), unsafe):
        assert history_filter(query) == ""
    running = history_condition([RunStatus.running])
    assert running.startswith("Status ne NotStarted and ")
    assert ("Running" in running, "Status ne Completed" in running, status_of("SomethingNew").is_final) == (
        False,
        True,
        False,
    )
    assert index_conditions(RunQuery(tags={"team": "blue", "a b": "1"}, statuses=[RunStatus.failed])) == [
        {"field": "annotations/status", "operator": "eq", "values": ["Failed"]},
        {"field": "annotations/tags/team", "operator": "eq", "values": ["blue"]},
    ]
    assert plain_tags(RunQuery(tags={"team": "blue", "a b": "1", "owner": "it's"})) == {"team": "blue"}
    run = record(tags={"team": "blue"})
    others = [
        RunQuery("other"),
        RunQuery(tags={"team": "Blue"}),
        RunQuery(statuses=[RunStatus.failed]),
        RunQuery(parent="p"),
    ]
    assert [fulfils(run, query) for query in (RunQuery("TRAIN"), RunQuery(tags={"team": "blue"}), *others)] == [
        True
    ] * 2 + [False] * 4


RUN = "train_1_aa"
PLACE = f"ExperimentRun/dcid.{RUN}"


@pytest.fixture
def started(workspace: AzureWorkspace, azure: StagedWorkspace) -> AzureWorkspace:
    """A workspace with a run to write to."""
    workspace.start_run(Run(RUN, "train"))
    azure.stage.log.clear()
    return workspace


def store(workspace: AzureWorkspace, folder: Path, files: dict[str, bytes]) -> Stored:
    requests, sink = (
        [sending(folder / str(number), name, content) for number, (name, content) in enumerate(files.items())],
        Stored(),
    )
    workspace.run_files(RUN).store(iter(requests), sink, workers=4)
    return sink


@pytest.mark.large("takes long, and other tests run its branches")
def test_files_cost_a_request_each_and_one_for_fifty_names(
    started: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path
) -> None:
    assert store(started, tmp_path, {f"many/{number:03}": b"x" for number in range(60)}).errors == {}
    assert len(azure.requests(r"POST .*/batch/metadata/")) == 2
    assert len(azure.requests(r"PUT .*blob")) == 60
    assert len(azure.requests()) == 62


def test_links_to_write_to_are_asked_anew_where_they_are_refused(
    started: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path
) -> None:
    store(started, tmp_path, {"log #1.txt": b"old"})
    azure.stage.faults.add(
        Status(409, code="UserError", message="Resource Conflict: ArtifactId already exists."),
        r"POST .*/batch/metadata/",
        times=None,
    )
    assert store(started, tmp_path, {"log #1.txt": b"new, and longer", "other": b"o"}).errors == {}
    assert azure.get_blob("workspaceartifactstore", f"{PLACE}/log #1.txt") == b"new, and longer"
    assert len(azure.requests(r"GET .*/artifacts/write/")) == 2
    azure.stage.log.clear()
    azure.stage.faults.only(
        Status(403, code="AuthenticationFailed", message="Signature not valid in the specified time frame."),
        r"PUT .*model\.bin",
        times=1,
    )
    assert store(started, tmp_path, {"outputs/model.bin": b"m"}).errors == {}
    assert azure.get_blob("workspaceartifactstore", f"{PLACE}/outputs/model.bin") == b"m"
    assert len(azure.requests(r"GET .*/artifacts/write/")) == 1


@pytest.mark.large("takes long, and other tests run its branches")
def test_reader_may_neither_write_nor_tag(
    started: AzureWorkspace, azure: StagedWorkspace, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(azure, monkeypatch, {Right.READ})
    with opened(azure, project) as reading:
        for write in (
            lambda: reading.log(RUN, [writing.scalar("loss", 1.0)]),
            lambda: reading.end_run(RUN, RunEnd(RunStatus.completed)),
            lambda: reading.start_run(Run("train_2_bb", "train")),
            lambda: reading.tag(RUN, {"a": "b"}),
        ):
            with pytest.raises(NotAllowed):
                write()
        sink = store(reading, tmp_path, {"a": b"a", "b": b"b"})
    assert {name: type(error) for name, error in sink.errors.items()} == {"a": NotAllowed, "b": NotAllowed}
    assert azure.state.runs[RUN].tags == {}


def test_a_start_whose_answer_is_lost_makes_one_run(azure_environment: StagedWorkspace, project: Path) -> None:
    for lost in (r"POST .*/experiments/new", r"PATCH .*/runs/", r"POST .*/events"):
        azure_environment.stage.faults.add(Reset(), lost, times=1)
    with opened(azure_environment, project, HASTY) as workspace:
        assert workspace.start_run(Run("train_2_bb", "new", tags={"a": "b"})).status is RunStatus.running
    assert [*azure_environment.state.runs] == ["train_2_bb"]
    assert azure_environment.state.runs["train_2_bb"].tags == {"a": "b"}


def test_interrupted_run_start_is_completed_by_repeated_start(
    workspace: AzureWorkspace, azure: StagedWorkspace
) -> None:
    azure.stage.faults.add(Status(403, code="AuthorizationFailed"), r"POST .*/events", times=1)
    with pytest.raises(NotAllowed):
        workspace.start_run(Run("train_2_bb", "new"))
    assert workspace.run("train_2_bb").status is RunStatus.queued
    assert workspace.start_run(Run("train_2_bb", "new")).status is RunStatus.running
    azure.stage.log.clear()
    azure.add_run("job_1_cc", "train", status="NotStarted")
    assert workspace.start_run(Run("job_1_cc", "train")).status is RunStatus.queued
    assert not azure.requests(r"POST .*/events")


def test_secrets_in_a_reason_are_masked(started: AzureWorkspace, azure: StagedWorkspace) -> None:
    started.end_run(
        RUN, RunEnd(RunStatus.failed, "cannot read https://a.blob.core.windows.net/c?sv=1&sig=abc%2Fdef\nsecond line")
    )
    assert "abc%2Fdef" not in str(azure.state.runs[RUN].error)
    assert "second line" in str(azure.state.runs[RUN].error)
    assert azure.state.runs[RUN].status == "Failed"


def test_settling_waits_until_the_service_or_time_ends_it(started: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.stage.faults.add(Status(202), r"GET .*/metricsingest/wait", times=2)
    started.settle(RUN, 0)
    assert len(azure.requests(r"GET .*/metricsingest/wait")) == 1
    started.settle(RUN, 60)
    assert len(azure.requests(r"GET .*/metricsingest/wait")) == 3
