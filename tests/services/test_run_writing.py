"""Gathering what is logged and sending it, on services that fail meanwhile."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import HimlError, RunNotFound, ServiceFailed
from himl_cli.core.runs import Run
from himl_cli.services.runs import writing
from himl_cli.services.runs.writing import RunWriter
from himl_cli.workspaces.azure.config import PUBLIC, WorkspaceAddress, azure_settings
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.retry import RetryPolicy
from tests.servers.azureml.faults import Reset, Status
from tests.servers.azureml.seeding import StagedWorkspace

RUN = "train_1_aa"
BATCH = r"POST .*/metric/.*/batch"


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    """A workspace whose requests are tried once only, with a run that a program keeps."""
    state = azure_environment.state
    address = WorkspaceAddress(state.subscription, state.group, state.name, PUBLIC, "a test")
    with Connection.open(address, settings=azure_settings(project), policy=RetryPolicy(attempts=1)) as connection:
        opened = AzureWorkspace(connection)
        opened.start_run(Run(RUN, "train"))
        yield opened


def logged(azure: StagedWorkspace, name: str = "loss") -> list[object]:
    metric = azure.state.runs[RUN].metrics.get(name)
    return [point.data[name] for point in metric.points] if metric else []


def test_what_is_logged_is_sent_by_itself(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    writer = RunWriter(workspace, RUN)
    for number in range(3):
        writer.add(writing.scalar("loss", float(number)))
    arrived = threading.Event()
    while writer.left:
        arrived.wait(0.02)
    assert logged(azure) == [0.0, 1.0, 2.0]
    assert len(azure.requests(BATCH)) <= 3


def test_many_values_take_few_requests(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    writer = RunWriter(workspace, RUN)
    for number in range(2000):
        writer.add(writing.scalar("loss", float(number)))
        writer.add(writing.scalar("accuracy", 0.5))
    writer.flush()
    assert logged(azure) == [float(number) for number in range(2000)]
    assert len(azure.requests(BATCH)) <= 20


def test_a_service_that_is_down_loses_nothing(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    writer = RunWriter(workspace, RUN)
    azure.stage.faults.add(Status(500), BATCH, times=None)
    writer.add(writing.scalar("loss", 1.0))
    with pytest.raises(ServiceFailed):
        writer.flush()
    writer.add(writing.scalar("loss", 2.0))
    assert logged(azure) == []
    azure.stage.faults.clear()
    writer.flush()
    assert logged(azure) == [1.0, 2.0]


def test_values_logged_during_outage_are_sent_automatically(workspace: AzureWorkspace, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture) -> None:
    writer = RunWriter(workspace, RUN, pauses=(0.05, 0.1))
    azure.stage.faults.add(Status(503), BATCH, times=3)
    moment = threading.Event()
    with caplog.at_level(logging.WARNING):
        for number in range(600):
            writer.add(writing.scalar("loss", float(number)))
        while writer.left:
            moment.wait(0.02)
    assert logged(azure) == [float(number) for number in range(600)]
    said = [record.getMessage() for record in caplog.records if "runs.writing" in record.name]
    assert len([line for line in said if "cannot be sent now and is kept" in line]) == 1


def test_an_answer_that_is_lost_doubles_nothing(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    writer = RunWriter(workspace, RUN)
    azure.stage.faults.add(Reset(), BATCH, times=1)
    writer.add(writing.values("loss", [1.0, 1.0]))
    with pytest.raises(ServiceFailed):
        writer.flush()
    assert logged(azure) == [1.0, 1.0]
    writer.flush()
    assert logged(azure) == [1.0, 1.0]


def test_what_is_refused_is_said_and_does_not_stop_the_rest(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    writer = RunWriter(workspace, RUN)
    azure.stage.faults.add(Status(400, code="UserError", message="No such metric."), BATCH, times=1)
    writer.add(writing.scalar("bad", 1.0))
    with pytest.raises(HimlError, match="were refused"):
        writer.flush()
    writer.add(writing.scalar("loss", 2.0))
    writer.flush()
    assert (logged(azure, "bad"), logged(azure)) == ([], [2.0])


@pytest.mark.parametrize("refusals", [1, 2, 3, 4, 5])
def test_an_entry_that_is_refused_does_not_take_others_with_it(workspace: AzureWorkspace, azure: StagedWorkspace, refusals: int) -> None:
    """Of four entries in one batch: the batch, its first half and that one's first entry are refused; then the second entry; then the other half."""
    writer = RunWriter(workspace, RUN)
    for number in range(4):
        writer.add(writing.scalar(f"m{number}", float(number)))
    azure.stage.faults.add(Status(400, code="UserError", message="No such metric."), BATCH, times=refusals)
    lost = max(0, min(refusals - 2, 2))
    if lost:
        with pytest.raises(HimlError, match="were refused"):
            writer.flush()
    else:
        writer.flush()
    assert [number for number in range(4) if logged(azure, f"m{number}")] == [*range(lost, 4)]
    assert writer.left == 0


def test_refused_metric_among_others_is_named_in_warning(workspace: AzureWorkspace, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture) -> None:
    writer = RunWriter(workspace, RUN)
    writer.add(writing.scalar("loss", 2.0))
    writer.flush()
    writer.add(writing.scalar("loss", "none yet"))
    writer.add(writing.scalar("accuracy", 1))
    writer.add(writing.scalar("accuracy", 0.5))
    writer.flush()
    assert (logged(azure), logged(azure, "accuracy")) == ([2.0], [1.0, 0.5])
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"Metric 'loss' of run '{RUN}' was refused: Metric loss is of another type."
    ]


def test_a_run_that_is_gone_is_an_error(workspace: AzureWorkspace) -> None:
    writer = RunWriter(workspace, "nope_1_aa")
    writer.add(writing.scalar("loss", 1.0))
    with pytest.raises(RunNotFound):
        writer.flush()
    assert writer.left == 0


def test_what_is_left_at_the_end_is_sent_or_said(workspace: AzureWorkspace, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture) -> None:
    kept, lost = RunWriter(workspace, RUN), RunWriter(workspace, RUN)
    kept.add(writing.scalar("loss", 1.0))
    kept.end()
    assert logged(azure) == [1.0]
    azure.stage.faults.add(Status(500), BATCH, times=None)
    with caplog.at_level(logging.WARNING):
        lost.add(writing.scalar("loss", 2.0))
        lost.end()
    assert "1 entries that were logged to run 'train_1_aa' are lost" in caplog.text
    azure.stage.faults.clear()
    lost.flush()


def test_threads_may_log_at_once(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    writer = RunWriter(workspace, RUN)

    def work(number: int) -> None:
        for value in range(50):
            writer.add(writing.scalar(f"m{number}", value))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.flush()
    assert [logged(azure, f"m{number}") for number in range(4)] == [[*range(50)]] * 4


PROGRAM = """
import os, sys
from himl_cli import create_aml_run_object
run = create_aml_run_object("train")
run.log("loss", 0.5)
if sys.argv[1] == "fork":
    child = os.fork()
    if not child:
        run.log("loss", 0.25)
        os._exit(0)
    os.waitpid(child, 0)
    from himl_cli import get_workspace
    assert get_workspace().get_run(run.id).status == "Running"
    run.complete()
print(run.id)
if sys.argv[1] == "killed":
    run.flush()
    sys.stdout.flush()
    os.kill(os.getpid(), 9)
"""


def program(how: str, project: Path) -> tuple[str, Any]:
    """The id of the run that the program makes in a local workspace, and how `himl` shows it afterwards."""
    (project / ".himl").mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], cwd=project, capture_output=True, text=True)
    assert done.returncode == (0 if how != "killed" else -9), done.stderr
    run_id = done.stdout.strip()
    shown = subprocess.run([sys.executable, "-m", "himl_cli", "runs", "show", "--run", run_id, "--json"], cwd=project, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return run_id, json.loads(shown.stdout)


def test_exit_without_complete_keeps_metrics_and_fails_run(project: Path) -> None:
    _, shown = program("ends", project)
    assert (shown["status"], [metric["value"] for metric in shown["metrics"]]) == ("Failed", [0.5])
    assert "neither complete() nor fail() was called" in str(shown["reason"])


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_program_that_is_killed_leaves_a_failed_run(project: Path) -> None:
    _, shown = program("killed", project)
    assert (shown["status"], [metric["value"] for metric in shown["metrics"]]) == ("Failed", [0.5])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_logs_too_and_does_not_end_the_run(project: Path) -> None:
    _, shown = program("fork", project)
    (metric,) = shown["metrics"]
    assert (shown["status"], metric["count"]) == ("Completed", 2)
