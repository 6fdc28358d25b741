"""What the service says of a run, as our record of it; and our conditions in its words."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.workspaces.azure.config import CHINA, PUBLIC, WorkspaceAddress
from himl_cli.workspaces.azure.responses import as_time
from himl_cli.workspaces.azure.run_history import ROOTS_IN_INDEX, can_be_id, fulfils, history_filter, index_conditions, plain_tags
from himl_cli.workspaces.azure.run_records import as_run, history_condition, status_of, studio_url

ADDRESS = WorkspaceAddress("sub", "team", "lab", PUBLIC, "a test")


def told(**fields: Any) -> dict[str, Any]:
    """A run as the run history tells it."""
    return {"runId": "r1", "experimentId": "e", "status": "Completed", "createdUtc": "2026-03-01T12:00:00.1234567+00:00"} | fields


def record(**fields: Any) -> Run:
    return as_run(told(**fields), experiment="train", address=ADDRESS)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("NotStarted", RunStatus.queued),
        ("Unapproved", RunStatus.queued),
        ("Starting", RunStatus.queued),
        ("Provisioning", RunStatus.queued),
        ("Preparing", RunStatus.queued),
        ("Queued", RunStatus.queued),
        ("Paused", RunStatus.queued),
        ("Running", RunStatus.running),
        ("Finalizing", RunStatus.running),
        ("CancelRequested", RunStatus.running),
        ("Pausing", RunStatus.running),
        ("NotResponding", RunStatus.running),
        ("Unknown", RunStatus.running),
        ("AStateOfTheFuture", RunStatus.running),
        ("", RunStatus.running),
        ("Completed", RunStatus.completed),
        ("Failed", RunStatus.failed),
        ("Canceled", RunStatus.canceled),
    ],
)
def test_each_state_of_the_service_is_one_of_ours(state: str, status: RunStatus) -> None:
    assert record(status=state).status is status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T12:00:00.1234567+00:00", datetime(2026, 3, 1, 12, 0, 0, 123456, timezone.utc)),
        ("2026-03-01T12:00:00.5Z", datetime(2026, 3, 1, 12, 0, 0, 500000, timezone.utc)),
        ("2026-03-01T12:00:00", datetime(2026, 3, 1, 12, tzinfo=timezone.utc)),
        ("2026-03-01T14:00:00+02:00", datetime(2026, 3, 1, 12, tzinfo=timezone.utc)),
        (None, None),
        ("", None),
        ("soon", None),
    ],
)
def test_times_are_read_as_utc(text: str | None, expected: datetime | None) -> None:
    assert as_time(text) == expected


def test_a_run_has_the_times_and_names_that_the_service_gave_it() -> None:
    run = record(
        displayName="first try", description="why", startTimeUtc="2026-03-01T12:01:00+00:00", endTimeUtc="2026-03-01T12:02:05+00:00", parentRunId="sweep_1"
    )
    assert (run.display_name, run.description, run.parent, run.duration, run.experiment, run.workspace) == (
        "first try", "why", "sweep_1", 65.0, "train", "workspace team/lab",
    )  # fmt: skip


def test_a_run_that_goes_on_has_no_end() -> None:
    run = record(status="Finalizing", startTimeUtc="2026-03-01T12:01:00+00:00", endTimeUtc="2026-03-01T12:02:05+00:00")
    assert (run.ended, run.status) == (None, RunStatus.running)


def test_the_tags_of_the_service_itself_are_left_out() -> None:
    tags = {"team": "blue", "_aml_system_ComputeTargetStatus": "{}", "mlflow.user": "ada", "empty": None, "azureml.nodeid": "1c", "azureml.pipeline": "p"}
    assert record(tags=tags).tags == {"empty": "", "mlflow.user": "ada", "team": "blue"}


def test_what_the_service_leaves_null_is_empty() -> None:
    run = record(
        tags=None, displayName=None, description=None, parentRunId=None, startTimeUtc=None, endTimeUtc=None, error=None, properties=None, scriptName=None
    )
    assert (run.tags, run.display_name, run.description, run.parent, run.started, run.ended, run.reason, run.command) == ({}, "", "", None, None, None, "", "")


@pytest.mark.parametrize(
    ("error", "reason", "exit_code"),
    [
        ({"error": {"code": "UserError", "message": "Execution failed.\n User process 'python' exited with status code 3.\nSee the log."}},
         "Execution failed. User process 'python' exited with status code 3. See the log.", 3),
        ({"error": {"code": "UserError", "message": '{"NonCompliant": "The image could not be built."}'}}, "The image could not be built.", None),
        ({"error": {"message": json.dumps({"error": {"code": "X", "message": "The cluster has no quota."}})}}, "The cluster has no quota.", None),
        ({"error": {"code": "ServiceError", "message": ""}}, "ServiceError", None),
        ({"error": {"message": "{not json"}}, "{not json", None),
        ({"message": "Out of memory, exit code: -9"}, "Out of memory, exit code: -9", -9),
        ({"error": {"message": "Cannot read https://a.blob.core.windows.net/c/b?sv=1&sig=SECRETSECRET"}},
         "Cannot read https://a.blob.core.windows.net/c/b?sv=1&sig=***", None),
        (None, "", None),
    ],
)  # fmt: skip
def test_why_a_run_failed_is_one_line_without_secrets(error: Any, reason: str, exit_code: int | None) -> None:
    run = record(status="Failed", error=error)
    assert (run.reason, run.exit_code) == (reason, exit_code)


COMMAND = {"traits": ["azureml.scriptrun", "scriptRun", "remote"]}


@pytest.mark.parametrize(
    ("fields", "exit_code"),
    [
        ({"status": "Completed", "runTypeV2": COMMAND, "target": "cpu-cluster"}, 0),
        ({"status": "Running", "runTypeV2": COMMAND, "target": "cpu-cluster"}, None),
        ({"status": "Canceled", "runTypeV2": COMMAND, "target": "cpu-cluster"}, None),
        ({"status": "Completed", "runTypeV2": {"traits": ["unspecified"]}, "target": "local"}, None),
        ({"status": "Completed", "runTypeV2": COMMAND, "target": "local"}, None),
        ({"status": "Completed", "runTypeV2": COMMAND, "runType": "hyperdrive", "target": "cpu-cluster"}, None),
        ({"status": "Completed", "runTypeV2": None}, None),
    ],
)
def test_the_exit_code_of_a_command_that_completed_is_known(fields: dict[str, Any], exit_code: int | None) -> None:
    assert record(**fields).exit_code == exit_code


def test_the_command_is_what_himl_was_told_to_run() -> None:
    tags = {"command_line": "train.py --epochs 3"}
    assert record(tags=tags, scriptName="train.py").command == "train.py --epochs 3"
    assert record(tags={}, scriptName="train.py").command == "train.py"


def test_run_reason_is_truncated_and_empty_for_completed_runs() -> None:
    body = {"error": {"message": "x" * 5000}}
    assert len(record(status="Failed", error=body).reason) == 500
    assert record(status="Completed", error=body).reason == ""
    assert record(status="Canceled", cancelationReason="by ada").reason == "by ada"


def test_the_page_of_a_run_names_its_workspace_and_tenant() -> None:
    assert studio_url("a b", ADDRESS, "t1") == "https://ml.azure.com/runs/a%20b?wsid=/subscriptions/sub/resourcegroups/team/workspaces/lab&tid=t1"
    assert studio_url("r", WorkspaceAddress("sub", "team", "lab", CHINA, "")).startswith("https://studio.ml.azure.cn/runs/r?wsid=")


@pytest.mark.parametrize("run_id", ["", ".", "..", "...", "a/b", "../a", "a\\b", "a\0b", "a\nb", "x" * 257, "a\x7fb"])
def test_what_can_be_no_id_is_not_asked_for(run_id: str) -> None:
    assert not can_be_id(run_id)


@pytest.mark.parametrize("run_id", ["train_1772366400_1a2b3c4d", "wheat_fowl_03wxvd9gdg", "HD_0a1b-2c_17", "0ab1", "a.b", "50%?#", "x" * 256])
def test_ids_as_the_service_makes_them_are_asked_for(run_id: str) -> None:
    assert can_be_id(run_id)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (RunQuery(), "(ParentRunId eq null)"),
        (RunQuery(parent="p"), ""),
        (RunQuery(statuses=[RunStatus.failed]), "(ParentRunId eq null) and (Status eq Failed)"),
        (RunQuery(parent="p", statuses=[RunStatus.failed, RunStatus.completed]), "(Status eq Completed or Status eq Failed)"),
        (RunQuery(parent="p", tags={"team": "blue", "run.no": "a b:1"}), '(Tags/team eq "blue") and (Tags/run.no eq "a b:1")'),
        (RunQuery(parent="p", tags={"team": 'a"b', "größe": "1", "a/b": "1", "ok": "ü"}), ""),
        (RunQuery(parent="p", statuses=list(RunStatus)), ""),
    ],
)
def test_history_filter_holds_only_safe_conditions(query: RunQuery, expected: str) -> None:
    assert history_filter(query) == expected


def test_filter_for_running_runs_excludes_other_states() -> None:
    condition = history_condition([RunStatus.running])
    assert condition.startswith("Status ne NotStarted and ")
    assert "Running" not in condition
    assert "Status ne Completed" in condition


def test_index_query_selects_unarchived_root_runs() -> None:
    assert ROOTS_IN_INDEX == [
        {"field": "type", "operator": "eq", "values": ["runs"]},
        {"field": "annotations/archived", "operator": "eq", "values": ["false"]},
        {"field": "properties/parentRunId", "operator": "eq", "values": [None]},
    ]


def test_index_conditions_hold_only_plain_tags() -> None:
    assert index_conditions(RunQuery(tags={"team": "blue", "a b": "1"}, statuses=[RunStatus.failed])) == [
        {"field": "annotations/status", "operator": "eq", "values": ["Failed"]},
        {"field": "annotations/tags/team", "operator": "eq", "values": ["blue"]},
    ]
    assert plain_tags(RunQuery(tags={"team": "blue", "a b": "1", "owner": "it's"})) == {"team": "blue"}


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        (RunQuery("TRAIN"), True),
        (RunQuery("other"), False),
        (RunQuery(tags={"team": "blue"}), True),
        (RunQuery(tags={"team": "Blue"}), False),
        (RunQuery(statuses=[RunStatus.failed]), False),
        (RunQuery(parent="p"), False),
    ],
)
def test_each_run_is_checked_here_once_more(query: RunQuery, holds: bool) -> None:
    assert fulfils(record(tags={"team": "blue"}), query) is holds


def test_an_unknown_state_is_no_end() -> None:
    assert not status_of("SomethingNew").is_final
