"""Jobs that run here and are recorded in the double of Azure ML, by `himl submit --record_in azure`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.processes import is_held
from himl_cli.core.runs import Run
from himl_cli.services.runs.mirror import Mirror, Timing
from himl_cli.services.runs.mirror_state import MirrorFile, MirrorState, SentRun
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Run as RunState
from tests.support.azure import opened
from tests.support.running import until, write_files
from tests.support.runs import RecordedRuns

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")
proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by /proc")

TRAIN = """
import pathlib
import himl_cli
run = himl_cli.Run.get_context()
for step in range(3):
    run.log("loss", 1 / (step + 1), step=step)
run.log_row("fruit", kind="fig", size=2)
pathlib.Path("outputs/deep").mkdir(parents=True)
pathlib.Path("outputs/deep/best.txt").write_text("0.9")
pathlib.Path("outputs/empty").touch()
print("trained")
"""
WAITING = """
import pathlib, sys, time
import himl_cli
run = himl_cli.Run.get_context()
run.log("loss", 1.0, step=0); run.flush()
print("up", flush=True)
while not pathlib.Path({go!r}).exists():
    time.sleep(0.05)
run.log("loss", 0.5, step=1); run.flush()
pathlib.Path("outputs").mkdir(exist_ok=True)
pathlib.Path("outputs/late.txt").write_text("late")
print("done", flush=True)
"""
SUBMIT = ("submit", "train.py", "--record_in", "azure")


@pytest.fixture
def azure_project(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure_environment.write_config(project)
    write_files(project, {"train.py": TRAIN})
    return azure_environment


@pytest.fixture
def go(azure_project: StagedWorkspace, project: Path, tmp_path: Path) -> Iterator[Path]:
    """train.py logs, prints `up`, and goes on once this file is there."""
    path = tmp_path / "go"
    write_files(project, {"train.py": WAITING.format(go=str(path))})
    yield path
    path.touch()
    azure_project.stage.faults.clear()
    wait_until_told(project)


def the_run(azure: StagedWorkspace) -> RunState:
    (run,) = (run for run in azure.state.runs.values() if run.parent_id is None)
    return run


def points(azure: StagedWorkspace, name: str) -> list[tuple[int | None, Any]]:
    metric = the_run(azure).metrics.get(name)
    return [(point.step, point.data[name]) for point in metric.points] if metric else []


def log_there(azure: StagedWorkspace) -> bytes:
    return azure.artifacts(the_run(azure).run_id).get("user_logs/std_log.txt", b"")


def note_of(project: Path) -> Path | None:
    return next(iter((project / ".himl" / "recordings").glob("*.json")), None)


def wait_until_told(project: Path) -> None:
    until(lambda: note_of(project) is None, lambda: [path.read_text() for path in (project / ".himl" / "recordings").iterdir()])


def pid_of(project: Path, module: str) -> int:
    """The process that was started as *module* for a run of *project*."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command, where = (entry / "cmdline").read_bytes(), os.readlink(entry / "cwd")
            except OSError:
                continue
            if module.encode() in command and where.startswith(str(project)):
                return int(entry.name)
    raise AssertionError(f"no {module}")


def kill_recorder(project: Path) -> None:
    path = note_of(project)
    assert path is not None
    os.kill(pid_of(project, "himl_cli.commands.recorder"), signal.SIGKILL)
    until(lambda: not is_held(path.with_suffix(".lock")))


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
