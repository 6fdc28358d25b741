"""A local run and the double of Azure ML that it is told to, for tests of what tells it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from himl_cli.core.runs import Run
from himl_cli.services.runs.mirror import Mirror, Timing
from himl_cli.services.runs.mirror_state import MirrorFile, MirrorState, SentRun
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.azure_workspaces import opened
from tests.recorded_runs import RecordedRuns
from tests.servers.azureml.seeding import StagedWorkspace

ID = "train_1_aa"
QUICK = Timing(look=0.01, start=0.3, longest_pause=0.1, refused=0.05)


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


@pytest.fixture
def here(recorded: RecordedRuns) -> LocalWorkspace:
    return recorded.workspace


@pytest.fixture
def there(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    with opened(azure_environment, project) as workspace:
        yield workspace


@pytest.fixture
def file(here: LocalWorkspace, there: AzureWorkspace) -> Iterator[MirrorFile]:
    """The note of a recording that has just begun, with the run that it is told to."""
    there.start_run(Run(ID, "train"))
    made = MirrorFile(here.folder, ID)
    made.begin(MirrorState(ID, {}))
    yield made
    made.release()


def record(here: LocalWorkspace, there: AzureWorkspace, file: MirrorFile, timing: Timing = QUICK) -> None:
    note = file.read()
    assert note is not None
    Mirror(here, there, file, note, timing).run()


def told_of(file: MirrorFile) -> SentRun:
    note = file.read()
    assert note is not None
    return note.runs.get(ID, SentRun())


def values(workspace: AzureWorkspace) -> dict[tuple[str, str], list[tuple[int, float]]]:
    return {(metric.run, metric.name): [(point.step, point.value) for point in metric.points] for metric in workspace.metrics(ID)}


def content(workspace: AzureWorkspace, run_id: str = ID) -> dict[str, bytes]:
    files = workspace.run_files(run_id)
    return {blob.name: b"".join(files.read(blob.name)) for page in files.list() for blob in page}
