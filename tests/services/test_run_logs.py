"""How often a run is looked at while its log is followed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from himl_cli.commands.error_handler import as_himl_error
from himl_cli.core.errors import BadUsage, HimlError, JobFailed, NotFound, ServiceFailed
from himl_cli.core.events import Event, Notice
from himl_cli.services.runs.logs import follow_log, last_lines, read_log, watching
from himl_cli.workspaces.resolve import JoinedWorkspace, open_workspace
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.runs import RecordedRuns

CONFIG = {"subscription_id": "00000000-1111-2222-3333-444444444444", "resource_group": "team", "workspace_name": "lab"}


def test_a_service_is_asked_seldom_and_a_run_kept_here_often(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("train_1_aa")
    (project / "config.json").write_text(json.dumps(CONFIG))
    azure = open_workspace(None, None, start=project)
    at_first, at_most = azure.home_of("any").poll_interval
    assert 1.0 <= at_first <= 2.0 <= at_most <= 10.0
    assert max(runs.workspace.home_of("train_1_aa").poll_interval) <= 0.1
    both = JoinedWorkspace(runs.workspace, lambda: azure, azure.label)
    assert both.home_of("train_1_aa").poll_interval == runs.workspace.home_of("train_1_aa").poll_interval


def test_log_is_found_by_base_name_unless_ambiguous(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("train_1_aa", files={"logs/deep/a.log": "a", "logs/one/b.log": "1", "user_logs/two/b.log": "2"})
    assert b"".join(read_log(runs.workspace, "train_1_aa", "a.log")) == b"a"
    assert b"".join(follow_log(runs.workspace, "train_1_aa", "a.log")) == b"a"
    with pytest.raises(NotFound) as caught:
        read_log(runs.workspace, "train_1_aa", "b.log")
    assert caught.value.hint == "There are: user_logs/two/b.log, logs/one/b.log."


def test_a_log_of_a_run_that_has_ended_is_given_once(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("train_1_aa", files={"user_logs/std_log.txt": "one\ntwo\n"})
    assert b"".join(follow_log(runs.workspace, "train_1_aa")) == b"one\ntwo\n"


@pytest.mark.parametrize("failure", [ServiceFailed("Away.", hint="Try again."), BadUsage("No such file."), OSError("odd"), PermissionError(13, "Denied", "x")])
def test_error_while_following_names_run_and_cancel_command(failure: Exception) -> None:
    with pytest.raises(type(failure)) as caught, watching("train_1_aa"):
        raise failure
    told = as_himl_error(caught.value)
    assert "Run 'train_1_aa' goes on, unless it has ended;" in told.hint
    assert told.hint.endswith("to cancel it: himl runs cancel train_1_aa")


@pytest.mark.parametrize("failure", [JobFailed("Run 'a' failed.", hint="See it."), NotFound("No run 'a'.", hint="See it.")])
def test_what_is_said_of_the_run_itself_stays_as_it_is(failure: HimlError) -> None:
    with pytest.raises(type(failure)) as caught, watching("train_1_aa"):
        raise failure
    assert caught.value.hint == "See it."


TRIED = {"user_logs/std_log.txt": "one\n", "user_logs/retry_001/std_log.txt": "two\n", "user_logs/retry_010/std_log.txt": "eleven\n"}


def test_log_of_last_try_is_read_by_default(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("train_1_aa", files={**TRIED, "user_logs/retry_010/std_log_process_1.txt": "other\n"})
    told: list[Event] = []
    assert b"".join(read_log(runs.workspace, "train_1_aa", notify=told.append)) == b"eleven\n"
    assert told == [Notice("This is the log of try 11; that of the one before: himl runs logs train_1_aa --try 2")]
    assert b"".join(read_log(runs.workspace, "train_1_aa", "std_log.txt")) == b"eleven\n"
    assert b"".join(read_log(runs.workspace, "train_1_aa", "user_logs/std_log.txt")) == b"one\n"
    assert last_lines(runs.workspace, "train_1_aa") == ("user_logs/retry_010/std_log.txt", b"eleven\n")
    for attempt, text in ((1, b"one\n"), (2, b"two\n"), (11, b"eleven\n")):
        assert b"".join(read_log(runs.workspace, "train_1_aa", attempt=attempt)) == text
        assert b"".join(follow_log(runs.workspace, "train_1_aa", attempt=attempt)) == text
    assert b"".join(read_log(runs.workspace, "train_1_aa", "std_log_process_1.txt", attempt=11)) == b"other\n"
    with pytest.raises(NotFound) as caught:
        read_log(runs.workspace, "train_1_aa", attempt=3)
    assert (str(caught.value), caught.value.hint) == ("Run 'train_1_aa' has no log of try 3.", "There are logs of: 1, 2, 11.")


def test_earlier_tries_of_a_run_here_count_likewise(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("train_1_aa", files={"user_logs/try_1/std_log.txt": "one\n", "user_logs/try_2/std_log.txt": "two\n", "user_logs/std_log.txt": "three\n"})
    assert b"".join(read_log(runs.workspace, "train_1_aa")) == b"three\n"
    assert [b"".join(read_log(runs.workspace, "train_1_aa", attempt=attempt)) for attempt in (1, 2, 3)] == [b"one\n", b"two\n", b"three\n"]


MAIN_LOGS = {
    "std_log.txt": ("user_logs/std_log.txt", "user_logs/std_log_process_0.txt"),
    "padded": ("user_logs/std_log_process_00.txt", "user_logs/std_log_process_01.txt", "user_logs/mpi_log.txt"),
    "retried ranks": ("user_logs/retry_035/std_log_process_00.txt", "user_logs/retry_035/std_log_process_10.txt", "user_logs/std_log_process_00.txt"),
    "worker": ("user_logs/std_log_node_00_worker.txt", "user_logs/std_log_node_01_worker.txt", "user_logs/std_log_node_00_ps.txt"),
    "servers": ("user_logs/std_log_node_00_ps.txt", "user_logs/std_log_node_01_ps.txt"),
    "vendor's pattern": ("user_logs/std_log_ps.txt",),
    "old driver": ("azureml-logs/70_driver_log.txt", "azureml-logs/55_azureml-execution.txt", "azureml-logs/75_job_post.txt"),
    "old ranks": ("azureml-logs/70_driver_log_0.txt", "azureml-logs/70_driver_log_1.txt", "azureml-logs/70_driver_log_10.txt"),
    "old workers": ("azureml-logs/70_driver_log-worker-0.txt", "azureml-logs/70_driver_log-worker-10.txt"),
    "sweep": ("azureml-logs/hyperdrive.txt",),
    "pipeline": ("logs/azureml/executionlogs.txt", "logs/azureml/stderrlogs.txt"),
}


@pytest.mark.parametrize("kind", MAIN_LOGS)
def test_the_main_log_is_known_by_each_of_its_names(azure: StagedWorkspace, azure_environment: StagedWorkspace, project: Path, kind: str) -> None:
    main, *others = MAIN_LOGS[kind]
    run = azure.add_run("train_1_aa", "train")
    azure.put_artifacts(run, {main: b"main", **dict.fromkeys(others, b"other"), "system_logs/lifecycler/lifecycler.log": b"system"})
    azure_environment.write_config(project)
    workspace = open_workspace(None, None, start=project)
    assert b"".join(read_log(workspace, "train_1_aa")) == b"main"
    assert last_lines(workspace, "train_1_aa") == (main, b"main")
