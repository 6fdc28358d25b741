"""Event files whose bytes are changed or lost on the way: no copy ever has another byte than its original."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from himl_cli.core.errors import IntegrityFailed, ServiceFailed
from himl_cli.core.events import Event, Notice
from himl_cli.core.runs import RunSelection
from himl_cli.services.tensorboard.copies import OVERLAP, EventSource
from himl_cli.services.tensorboard.server import sync_once
from himl_cli.services.tensorboard.shown_runs import SelectedRuns
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Action, ChangeEtag, FlipByte, Truncate, WrongMd5
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.tensorboard import NAME, event_bytes

RUN = "train_1_aa"
GET = rf"GET .*{RUN}/logs/{NAME}"
LONG = event_bytes([1.0, 0.5, 0.25, 0.125])
SHORT = event_bytes([1.0, 0.5])
DAMAGE = [FlipByte(OVERLAP + 4), FlipByte(3), FlipByte(-1), WrongMd5()]


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    with opened(azure_environment, project) as found:
        yield found


@pytest.fixture
def source(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> EventSource:
    """A run that is at work, and whose first bytes are here."""
    azure.add_run(RUN, "train", status="Running")
    append(azure, SHORT)
    selected = SelectedRuns(workspace, RunSelection(runs=[RUN]), Path.cwd(), "logs", tmp_path)
    selected.start()
    (source,) = selected.sources
    source.update()
    return source


def append(azure: StagedWorkspace, content: bytes) -> None:
    azure.state.storage.append("azureml", f"{azure.state.runs[RUN].artifact_prefix}logs/{NAME}", content)


def copies(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / RUN).iterdir()}


@pytest.mark.parametrize("fault", [*DAMAGE, Truncate(after=OVERLAP + 4)], ids=str)
def test_what_was_damaged_once_is_brought_again_within_the_look(azure: StagedWorkspace, source: EventSource, tmp_path: Path, fault: Action) -> None:
    append(azure, LONG[len(SHORT) :])
    azure.stage.faults.add(fault, GET)
    source.update()
    assert (copies(tmp_path), source.stats.received) == ({NAME: LONG}, len(LONG) - len(SHORT))


@pytest.mark.parametrize("fault", DAMAGE, ids=str)
def test_what_stays_damaged_is_an_error_and_the_copy_what_it_was(azure: StagedWorkspace, source: EventSource, tmp_path: Path, fault: Action) -> None:
    append(azure, LONG[len(SHORT) :])
    azure.stage.faults.add(fault, GET, times=None)
    synced, problem = sync_once([source], lambda event: None)
    assert isinstance(problem, IntegrityFailed)
    assert (copies(tmp_path), [one.new_bytes for one in synced]) == ({NAME: SHORT}, [0])
    azure.stage.faults.clear()
    assert sync_once([source], lambda event: None)[1] is None
    assert copies(tmp_path) == {NAME: LONG}


def test_a_file_that_never_comes_undamaged_leaves_none(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    azure.put_artifact(azure.add_run(RUN, "train"), f"logs/{NAME}", LONG)
    azure.stage.faults.add(FlipByte(50), GET, times=None)
    selected = SelectedRuns(workspace, RunSelection(runs=[RUN]), Path.cwd(), "logs", tmp_path)
    selected.start()
    synced, problem = sync_once(selected.sources, lambda event: None)
    assert (type(problem), synced, [*tmp_path.rglob(f"{NAME}*")]) == (IntegrityFailed, [], [])


@pytest.mark.parametrize("is_here", [True, False])
def test_a_file_that_changes_each_time_it_is_read_is_an_error(azure: StagedWorkspace, source: EventSource, tmp_path: Path, is_here: bool) -> None:
    """Whether some of it is here or nothing; a run is not said to be one without event files."""
    if is_here:
        append(azure, LONG[len(SHORT) :])
    else:
        azure.put_artifact(azure.state.runs[RUN], "logs/more/" + NAME, LONG)
    azure.stage.faults.add(ChangeEtag(), rf"GET .*{RUN}/logs/.*{NAME}", times=None)
    heard: list[Event] = []
    synced, problem = sync_once([source], heard.append)
    assert isinstance(problem, ServiceFailed)
    assert str(problem) == f"Event files of run '{RUN}' changed each time they were read."
    assert (copies(tmp_path) if is_here else [one.files for one in synced], [each for each in heard if isinstance(each, Notice)]) == (
        {NAME: SHORT} if is_here else [1],
        [],
    )
    azure.stage.faults.clear()
    assert sync_once([source], lambda event: None)[1] is None
