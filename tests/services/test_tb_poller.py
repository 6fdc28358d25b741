"""What goes on while TensorBoard runs: no run waits for another one, and the end comes only where nothing can follow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import NotFound
from himl_cli.core.events import Event, Notice
from himl_cli.core.runs import RunSelection
from himl_cli.services.tensorboard.copies import CopiedSource, ShownFolder
from himl_cli.services.tensorboard.server import Poller
from himl_cli.services.tensorboard.shown_runs import AT_ONCE, SelectedRuns, call_each
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.base import Workspace
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import NAME, event_bytes

LONG = event_bytes([1.0, 0.5, 0.25, 0.125])
SHORT = event_bytes([1.0, 0.5])
REFRESH = 0.05


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    with opened(azure_environment, project) as found:
        yield found
        azure_environment.stage.faults.clear()
        for thread in threading.enumerate():
            if thread.name == "himl-tb":
                thread.join(60)  # or a look that was held up asks after the workspace in a later test


class Watched:
    """A watch over the runs of a selection, without a TensorBoard."""

    def __init__(self, workspace: Workspace, folder: Path, **selection: Any) -> None:
        self.said: list[Event] = []
        self.shown = folder / "shown"
        self.selected = SelectedRuns(workspace, RunSelection(**selection), folder, "logs", folder / "copies")
        self.selected.start()
        self._poller = Poller(self.selected, ShownFolder(self.shown), REFRESH, self.said.append)

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < deadline, self.said
            self._poller.step(0.02)

    def shows(self, run: str, content: bytes) -> None:
        path = self.shown / run / NAME
        self.until(lambda: path.exists() and path.read_bytes() == content)


def test_stalled_run_does_not_delay_other_or_new_runs(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    grows = azure.add_run("train_1", "train", status="Running")
    azure.add_run("train_2", "train", status="Running")
    azure.state.storage.append("azureml", f"{grows.artifact_prefix}logs/{NAME}", SHORT)
    with azure.stage.holding(r"GET .*prefix=.*train_2"):
        watched = Watched(workspace, tmp_path, experiment="train", num_runs=2)
        watched.shows("train_1", SHORT)
        azure.state.storage.append("azureml", f"{grows.artifact_prefix}logs/{NAME}", LONG[len(SHORT) :])
        watched.shows("train_1", LONG)
        azure.put_artifact(azure.add_run("train_3", "train", status="Running"), f"logs/{NAME}", SHORT)
        watched.shows("train_3", SHORT)
        (stalled,) = (source for source in watched.selected.sources if source.run.id == "train_2")
        assert not stalled.is_checked


def test_bytes_that_come_after_the_end_of_a_run_are_shown(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    run = azure.add_run("train_1", "train", status="Running")
    azure.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", SHORT)
    selected = SelectedRuns(workspace, RunSelection(runs=["train_1"]), tmp_path, "logs", tmp_path)
    selected.start()
    (source,) = selected.sources
    assert isinstance(source, CopiedSource)
    source.update()
    run.status = "Canceled"
    selected.apply(selected.fetch_changes(["train_1"]))
    source.update()
    assert not source.is_done
    azure.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", LONG[len(SHORT) :])
    source.update()
    assert (source.is_done, source.files[NAME].read_bytes()) == (True, LONG)


def test_experiment_without_event_files_waits_for_new_run(project: Path) -> None:
    here = RecordedRuns(project)
    here.add("train_1")
    watched = Watched(here.workspace, project, experiment="train")
    watched.until(lambda: bool(watched.said))
    here.add("train_2", files={f"logs/{NAME}": LONG})
    watched.shows("train_2", LONG)
    assert watched.said[:2] == [Notice("Run 'train_1' has no event files."), Notice("One more run: train_2.")]


@pytest.mark.parametrize("status", ["Completed", "Running"])
def test_named_run_without_event_files_ends_with_not_found(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path, status: str) -> None:
    """Also one that is deleted before anybody could look at it."""
    azure.add_run("train_1", "train", status=status)
    with azure.stage.holding(r"GET .*prefix=.*train_1", times=None if status == "Running" else 0):
        watched = Watched(workspace, tmp_path, runs=["train_1"])
        if status == "Running":
            del azure.state.runs["train_1"]
        with pytest.raises(NotFound, match="Run 'train_1' has no event files"):
            watched.until(lambda: False)
    gone = [each.text for each in watched.said if isinstance(each, Notice) and each.text.endswith("It is not looked at any more.")]
    assert len(gone) == (status == "Running")


def test_a_name_that_no_file_here_can_have_is_said_once(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    azure.put_artifacts(azure.add_run("train_1", "train", status="Running"), {f"logs/a/..\\..\\{NAME}": SHORT, f"logs/{NAME}": SHORT})
    watched = Watched(workspace, tmp_path, runs=["train_1"])
    watched.until(lambda: bool(watched.said))
    before = len(azure.requests(r"GET .*prefix="))
    watched.until(lambda: len(azure.requests(r"GET .*prefix=")) > before + 2)
    (said,) = watched.said
    assert str(said).count(NAME) == 1
    assert "not shown" in str(said)


def test_run_list_reading_stops_at_cost_of_single_requests(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    """Three runs lie at the bottom of a large experiment."""
    for number in range(320):
        azure.add_run(f"train_{number}", "train", status="Running" if number < 3 else "Completed")
    wanted = ["train_0", "train_1", "train_2"]
    selected = SelectedRuns(workspace, RunSelection(runs=wanted), tmp_path, "logs", tmp_path)
    selected.start()
    assert sorted(selected.fetch_changes(wanted).runs) == wanted
    before = len(azure.requests())
    assert sorted(selected.fetch_changes(wanted).runs) == wanted
    lines = azure.requests()[before:]
    assert (len(lines), [line for line in lines if "/history/" not in line]) == (3, [])


def test_the_children_of_several_runs_are_asked_for_at_once(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    """Those of runs that ended only at first."""
    for number in range(12):
        azure.add_run(f"parent_{number}", "train", status="Running" if number % 2 else "Completed")
        azure.add_run(f"child_{number}", "train", parent=f"parent_{number}", status="Completed")
    selected = SelectedRuns(workspace, RunSelection(runs=[f"parent_{number}" for number in range(12)], children=True), tmp_path, "logs", tmp_path)
    selected.start()
    assert [source.run.id for source in selected.sources] == [f"child_{number}" for number in range(12)]
    before = len(azure.requests())
    selected.fetch_changes([])
    assert len([line for line in azure.requests()[before:] if "parent_" in line]) == 6


def test_as_many_as_may_be_are_asked_at_a_time() -> None:
    all_ask = threading.Barrier(AT_ONCE, timeout=60)

    def ask(number: int) -> int:
        all_ask.wait()
        return number * number

    assert call_each(ask, range(2 * AT_ONCE)) == [number * number for number in range(2 * AT_ONCE)]
