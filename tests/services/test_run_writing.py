"""Tests of logging: valid values, and gathering and sending them to services that fail meanwhile."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himl_cli.core.errors import BadUsage, HimlError, RunNotFound, ServiceFailed
from himl_cli.core.logged import LoggedKind
from himl_cli.core.runs import Run
from himl_cli.services.runs import writing
from himl_cli.services.runs.writing import RunWriter
from himl_cli.workspaces.azure.config import PUBLIC, WorkspaceAddress, azure_settings
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.retry import Pauses, RetryPolicy
from tests.azureml_double.faults import Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.running import Himl, until

RUN = "train_1_aa"
BATCH = r"POST .*/metric/.*/batch"
REFUSED = Status(400, code="UserError", message="No such metric.")


class Several:
    """A stand-in for a tensor with several elements."""

    def item(self) -> Any:
        raise ValueError("can only convert a tensor of size 1")


def test_values_keep_types_or_become_text_under_a_name_at_a_step(caplog: pytest.LogCaptureFixture) -> None:
    kept_as: list[tuple[Any, Any]] = [(given, given) for given in (1, 0.5, True, "word", None)]
    for given, kept in (
        *kept_as,
        (np.float32(0.25), 0.25),
        (np.bool_(True), True),
        (Fraction(1, 4), 0.25),
        (2**70, float(2**70)),
    ):
        (row,) = writing.scalar("m", given).rows
        assert (row.values, type(row.values["m"])) == ({"m": kept}, type(kept))
    assert not caplog.text
    others: list[Any] = [object(), Several(), Decimal("0.1"), b"bytes"]
    for given in others:
        caplog.clear()
        (row,) = writing.scalar("m", given).rows
        assert row.values == {"m": repr(given)}
        assert "logging a value of type" in caplog.text
    for given in ([1], (1,), range(3), {"a": 1}, (x for x in [1])):
        with pytest.raises(BadUsage, match="log takes one value") as caught:
            writing.scalar("m", given)
        assert "log_list" in caught.value.hint
    for name in ("", "  "):
        with pytest.raises(BadUsage, match="needs a name"):
            writing.scalar(name, 1)
    for step, kept in ((3, 3), (3.0, 3), (np.int64(4), 4), (None, None)):
        assert writing.scalar("m", 1, step).rows[0].step == kept  # type: ignore[arg-type]
    for wrong in (0.5, "3", True, float("nan"), 2**63):
        with pytest.raises(BadUsage, match="a step must be a whole number"):
            writing.scalar("m", 1, wrong)  # type: ignore[arg-type]


def test_lists_take_iterables_and_tables_equal_columns() -> None:
    for given in ([1, 0.5], (1, 0.5), (value for value in [1, 0.5]), [np.int64(1), 0.5]):
        logged = writing.values("m", given)
        assert logged.kind is LoggedKind.list
        assert [row.values["m"] for row in logged.rows] == [1, 0.5]
    rows = [row for _ in range(100) for row in writing.values("m", [1, 1]).rows]
    assert len({row.id for row in rows}) == 200
    assert all(row.time.utcoffset() is not None for row in rows)
    for wrong in (3, "abc", {"a": 1}):
        with pytest.raises(BadUsage, match="takes a list"):
            writing.values("m", wrong)  # type: ignore[arg-type]
    logged = writing.table("t", {"a": [1, 2], "b": ("x", "y"), "c": np.array([1, 2])})
    assert [dict(row.values) for row in logged.rows] == [{"a": 1, "b": "x", "c": 1}, {"a": 2, "b": "y", "c": 2}]
    assert logged.columns == ["a", "b", "c"]
    assert [dict(row.values) for row in writing.table("t", {"a": 1, "b": "xy"}).rows] == [{"a": 1, "b": "xy"}]
    (row,) = writing.row("t", {"a": 1, "b": np.float64(2.5)}).rows
    assert row.values == {"a": 1, "b": 2.5}
    with pytest.raises(BadUsage, match="column 'a' takes one value"):
        writing.row("t", {"a": [1]})
    wrongs: tuple[tuple[Any, str], ...] = (
        ({"a": [1, 2], "b": [1]}, "'a' has 2, 'b' has 1"),
        ({}, "takes a dictionary"),
        ([1, 2], "takes a dictionary"),
    )
    for wrong, message in wrongs:
        with pytest.raises(BadUsage, match=message):
            writing.table("t", wrong)


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    """A workspace that sends each request only once, with a run that a program writes."""
    state = azure_environment.state
    address = WorkspaceAddress(state.subscription, state.group, state.name, PUBLIC, "a test")
    with Connection.open(address, settings=azure_settings(project), policy=RetryPolicy(attempts=1)) as connection:
        opened = AzureWorkspace(connection)
        opened.start_run(Run(RUN, "train"))
        yield opened


@pytest.fixture
def writer(workspace: AzureWorkspace) -> RunWriter:
    return RunWriter(workspace, RUN, pauses=Pauses(0.05, 0.1))


def logged(azure: StagedWorkspace, name: str = "loss") -> list[object]:
    metric = azure.state.runs[RUN].metrics.get(name)
    return [point.data[name] for point in metric.points] if metric else []


def test_outage_loses_nothing_and_is_bridged_automatically(
    writer: RunWriter, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture
) -> None:
    azure.stage.faults.add(Status(500), BATCH, times=None)
    writer.add(writing.scalar("loss", 0.0))
    with pytest.raises(ServiceFailed):
        writer.flush()
    assert logged(azure) == []
    azure.stage.faults.clear()
    azure.stage.faults.add(Status(503), BATCH, times=3)
    with caplog.at_level(logging.WARNING):
        for number in range(1, 600):
            writer.add(writing.scalar("loss", float(number)))
        until(lambda: not writer.left)
    assert logged(azure) == [float(number) for number in range(600)]
    said = [record.getMessage() for record in caplog.records if "runs.writing" in record.name]
    assert len([line for line in said if "Cannot send values to run" in line]) == 1


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("refusals", [1, 3])
def test_refused_entry_does_not_take_others_with_it(
    writer: RunWriter, azure: StagedWorkspace, refusals: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch has four entries, of which one is refused and named in a warning.

    The service refuses the batch, its first half and that half's first entry, then accepts the other entries.
    """
    for number in range(4):
        writer.add(writing.scalar(f"m{number}", float(number)))
    azure.stage.faults.add(REFUSED, BATCH, times=refusals)
    lost = max(0, min(refusals - 2, 2))
    if lost:
        with pytest.raises(HimlError, match="Azure ML rejected"):
            writer.flush()
    else:
        writer.flush()
    assert [number for number in range(4) if logged(azure, f"m{number}")] == [*range(lost, 4)]
    assert [
        f"himl did not store 'm{number}' of run '{RUN}': Azure ML rejected" in caplog.text for number in range(2)
    ] == [lost == 1, False]
    assert writer.left == 0
    writer.add(writing.scalar("loss", 2.0))
    writer.flush()
    assert logged(azure) == [2.0]


def test_refused_metric_among_others_is_named_in_warning(
    writer: RunWriter, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture
) -> None:
    writer.add(writing.scalar("loss", 2.0))
    writer.flush()
    for name, value in (("loss", "none yet"), ("accuracy", 1), ("accuracy", 0.5)):
        writer.add(writing.scalar(name, value))
    writer.flush()
    assert (logged(azure), logged(azure, "accuracy")) == ([2.0], [1.0, 0.5])
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"Azure ML rejected metric 'loss' of run '{RUN}': Metric loss is of another type."
    ]


def test_long_texts_and_many_rows_keep_to_documented_limits(
    writer: RunWriter, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2):
        writer.add(writing.scalar("note", f"{number} {'x' * 300} end"))
    for number in range(600):
        writer.add(writing.scalar("loss", float(number)))
    writer.flush()
    notes = [str(note) for note in logged(azure, "note")]
    assert [(len(note), note[:3], note[-4:]) for note in notes] == [(255, "0 x", " end"), (255, "1 x", " end")]
    assert len(logged(azure)) == 600
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "Azure ML stores at most 255 characters of a text, so himl shortens 'note'."
    ]


def test_end_reports_what_is_left_and_missing_run_is_an_error(
    workspace: AzureWorkspace, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture
) -> None:
    kept, lost = RunWriter(workspace, RUN), RunWriter(workspace, RUN)
    kept.add(writing.scalar("loss", 1.0))
    kept.end()
    assert logged(azure) == [1.0]
    azure.stage.faults.add(Status(500), BATCH, times=None)
    with caplog.at_level(logging.WARNING):
        lost.add(writing.scalar("loss", 2.0))
        lost.end()
    assert "Lost 1 entries that were logged to run 'train_1_aa'" in caplog.text
    azure.stage.faults.clear()
    lost.flush()
    writer = RunWriter(workspace, "nope_1_aa")
    writer.add(writing.scalar("loss", 1.0))
    with pytest.raises(RunNotFound):
        writer.flush()
    assert writer.left == 0


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


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forked_process_logs_too_and_killed_leaves_run_failed(himl: Himl) -> None:
    (himl.folder / ".himl").mkdir(exist_ok=True)
    shown = []
    for how, code in (("fork", 0), ("killed", -9)):
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], cwd=himl.folder, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        shown.append(himl.ok("runs", "show", "--run", done.stdout.strip(), "--json").json())
    forked, killed = shown
    assert (forked["status"], [metric["count"] for metric in forked["metrics"]]) == ("Completed", [2])
    assert (killed["status"], [metric["value"] for metric in killed["metrics"]]) == ("Failed", [0.5])
    assert "neither complete() nor fail() was called" in str(killed["reason"])
