"""Tests of runs for TensorBoard: selections, runs that join while it is open, and few requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import NotFound
from himl_cli.core.events import Event, Notice
from himl_cli.core.files import LATEST_RUN_FILE
from himl_cli.core.locks import ProcessLock
from himl_cli.core.runs import RunSelection, RunStatus
from himl_cli.services.tensorboard.copies import FULL_LISTING_EVERY, CopiedSource, EventFinder, ShownFolder
from himl_cli.services.tensorboard.server import Poller
from himl_cli.services.tensorboard.shown_runs import RUNS_AT_ONCE, SelectedRuns, call_each, readable_name, unique_name
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.base import Workspace
from tests.azureml_double.faults import FlipByte
from tests.azureml_double.jobs.records import add_trial
from tests.azureml_double.seeding import StagedWorkspace, add_sweep
from tests.support.azure import opened
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import LONG, NAME, SHORT

REFRESH = 0.05


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    with opened(azure_environment, project) as found:
        yield found
        azure_environment.stage.faults.clear()
        for thread in threading.enumerate():
            if thread.name == "himl-tb":
                # Otherwise a delayed poll would use the workspace during a later test.
                thread.join(60)


@pytest.fixture
def runs(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


@pytest.fixture
def alive(project: Path) -> Iterator[Callable[[str], str]]:
    """Return a function that keeps a local run in progress by holding its lock. It takes the run's id."""
    locks: list[ProcessLock] = []

    def hold(run_id: str) -> str:
        locks.append(ProcessLock(project / ".himl" / "runs" / run_id / "lock"))
        assert locks[-1].take()
        return run_id

    yield hold
    for lock in locks:
        lock.release()


class Selection:
    """Selected runs as in `himl tb`: those that it shows, and those that it still polls."""

    def __init__(self, workspace: Workspace, folder: Path, **selection: Any) -> None:
        self.selected = SelectedRuns(workspace, RunSelection(**selection), folder, "logs", folder / "copies")
        self.selected.start()

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.selected.sources]

    @property
    def ids(self) -> list[str]:
        return [source.run.id for source in self.selected.sources]

    @property
    def open(self) -> list[str]:
        return [source.run.id for source in self.selected.sources if not source.run.status.is_final]

    def renew(self) -> list[str]:
        """Fetch changes, and return the ids of deleted runs."""
        change = self.selected.fetch_changes(self.open)
        self.selected.apply(change)
        return [*change.gone]


def requests(azure: StagedWorkspace, act: Callable[[], object]) -> list[str]:
    before = len(azure.requests())
    act()
    return azure.requests()[before:]


def test_runs_that_come_to_match_join_and_none_leaves(
    azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path
) -> None:
    azure.add_run("train_1", "train")
    azure.add_run("train_2", "train", status="Running")
    selection = Selection(workspace, tmp_path, experiment="train")
    assert selection.ids == ["train_2"]
    for number in (3, 4):
        azure.add_run(f"train_{number}", "train", status="Queued")
    azure.add_run("other_1", "other")
    azure.state.runs["train_2"].status = "Completed"
    lines = requests(azure, selection.renew)
    assert (selection.ids, selection.open) == (["train_2", "train_3", "train_4"], ["train_3", "train_4"])
    assert (len(lines), selection.selected.may_grow) == (1, True)
    for number in range(5, 25):  # more new runs than the request for a few includes
        azure.add_run(f"train_{number}", "train", status="Queued")
    selection.renew()
    assert selection.ids == [f"train_{number}" for number in range(2, 25)]
    for number, status in enumerate(("Running", "Queued", "Running")):
        azure.add_run(f"old_{number}", "old", status=status)
    selection = Selection(workspace, tmp_path, experiment="old", statuses=[RunStatus.running], num_runs=10)
    assert selection.ids == ["old_2", "old_0"]
    azure.state.runs["old_1"].status = "Running"
    azure.state.runs["old_2"].status = "Failed"
    selection.renew()
    assert (selection.ids, selection.open) == (["old_2", "old_0", "old_1"], ["old_0", "old_1"])


@pytest.mark.large("takes long, and other tests run its branches")
def test_sweep_shows_trials_and_new_ones_join(
    azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path
) -> None:
    sweep = add_sweep(
        azure, "hunt", [{"lr": 0.1, "depth": 3}, {"lr": 0.01, "depth": 3}], statuses={1: "Running"}, experiment="tuning"
    )
    selection = Selection(workspace, tmp_path, runs=["hunt"])
    assert selection.names == ["hunt", "lr=0.1_depth=3-hunt_0", "lr=0.01_depth=3-hunt_1"]
    add_trial(azure.state, sweep, 2, {"lr": 0.5, "depth": 1})
    selection.renew()
    assert (selection.names[3:], selection.open) == (["lr=0.5_depth=1-hunt_2"], ["hunt", "hunt_1", "hunt_2"])
    assert len(requests(azure, selection.renew)) == 2, "the sweep, and the list of its trials"
    sweep.status = "Completed"
    selection.renew()
    assert (selection.selected.may_grow, selection.open) == (False, ["hunt_1", "hunt_2"])
    azure.state.runs["hunt_1"].status = azure.state.runs["hunt_2"].status = "Completed"
    selection.renew()
    assert selection.open == []
    assert Selection(workspace, tmp_path, runs=["hunt"], children=True).ids == ["hunt_0", "hunt_1", "hunt_2"]
    assert len(Selection(workspace, tmp_path, experiment="tuning").ids) == 4


def test_pipeline_and_children_are_shown_with_runs_below_them(
    runs: RecordedRuns, project: Path, alive: Callable[[str], str]
) -> None:
    alive(runs.add("pipe", status=RunStatus.running, tags={"himl.many": "pipeline"}, display_name="Nightly"))
    runs.add(
        "pipe_step", parent="pipe", tags={"himl.step": "step1"}, display_name="prepare", files={f"logs/{NAME}": LONG}
    )
    selection = Selection(runs.workspace, project, runs=["pipe"])
    assert selection.names == ["Nightly-pipe", "prepare-pipe_step"]
    alive(
        runs.add("hunt", parent="pipe", status=RunStatus.running, tags={"himl.many": "crossval"}, display_name="folds")
    )
    for fold in range(2):
        runs.add(
            f"hunt_{fold}",
            parent="hunt",
            tags={"hyperparameters": f'{{"crossval_index": {fold}}}', "himl.trial": str(fold)},
        )
    selection.renew()
    assert selection.names[2:] == ["folds-hunt", "crossval_index=0-hunt_0", "crossval_index=1-hunt_1"]
    runs.add("alone")
    with pytest.raises(NotFound, match="No child runs: alone"):
        Selection(runs.workspace, project, runs=["alone"], children=True)
    alive(runs.add("parent", status=RunStatus.running))
    runs.add("nested_1", parent="parent")
    selection = Selection(runs.workspace, project, runs=["parent"], children=True)
    runs.add("nested_2", parent="parent")
    selection.renew()
    assert selection.ids == ["nested_1", "nested_2"]


@pytest.mark.large("takes long, and other tests run its branches")
def test_children_are_requested_at_once_and_once_of_ended_runs(
    azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path
) -> None:
    for number in range(12):
        azure.add_run(f"parent_{number}", "train", status="Running" if number % 2 else "Completed")
        azure.add_run(f"child_{number}", "train", parent=f"parent_{number}", status="Completed")
    selection = Selection(workspace, tmp_path, runs=[f"parent_{number}" for number in range(12)], children=True)
    assert selection.ids == [f"child_{number}" for number in range(12)]
    lines = requests(azure, lambda: selection.selected.fetch_changes([]))
    assert len([line for line in lines if "parent_" in line]) == 6
    all_act = threading.Barrier(RUNS_AT_ONCE, timeout=60)

    def act(number: int) -> int:
        all_act.wait()
        return number * number

    assert call_each(act, range(2 * RUNS_AT_ONCE)) == [number * number for number in range(2 * RUNS_AT_ONCE)]


def submit(folder: Path, run: str) -> None:
    (folder / LATEST_RUN_FILE).write_text(f"train:{run}\n")


@pytest.mark.parametrize(
    "named", [{}, {"latest_run_file": LATEST_RUN_FILE}, {"runs": ["latest"]}], ids=["nearest file", "file", "latest"]
)
def test_run_submitted_later_joins(
    runs: RecordedRuns, project: Path, alive: Callable[[str], str], named: dict[str, Any]
) -> None:
    runs.add("train_1")
    submit(project, "train_1")
    selection = Selection(runs.workspace, project, **named)
    (project / LATEST_RUN_FILE).write_text("")  # being written at this moment
    selection.renew()
    alive(runs.add("train_2", status=RunStatus.running))
    submit(project, "train_2")
    selection.renew()
    selection.renew()
    assert (selection.ids, selection.open, selection.selected.may_grow) == (["train_1", "train_2"], ["train_2"], True)


def test_run_deleted_or_without_event_files_is_reported(runs: RecordedRuns, project: Path) -> None:
    for number in range(3):
        runs.add(f"train_{number}", status=RunStatus.running)
    lock = ProcessLock(project / ".himl" / "runs" / "train_1" / "lock")
    assert lock.take()
    selection = Selection(runs.workspace, project, experiment="train", num_runs=3)
    assert selection.open == ["train_1"]
    lock.release()
    for number in range(2):
        runs.workspace.delete(f"train_{number}")
    assert selection.renew() == ["train_1"], "of one that had ended nothing is requested"
    assert selection.ids == ["train_2", "train_1", "train_0"]
    runs.add("late_1", experiment="late")
    watch = Watch(runs.workspace, project, experiment="late")
    watch.until(lambda: bool(watch.events))
    runs.add("late_2", experiment="late", files={f"logs/{NAME}": LONG})
    watch.shows("late_2", LONG)
    assert watch.events[:2] == [Notice("Run 'late_1' has no event files."), Notice("New run: late_2.")]


def test_run_names_are_readable_short_and_distinct(runs: RecordedRuns) -> None:
    values = '{"lr": 0.1, "opt": "adam"}'
    named = [
        ("", ""),
        ("First try", "First_try"),
        ("lr=0.1, big", "lr=0.1_big"),
        ("../../x", "x"),
        ("größer 🙂", "größer"),
        ("run_5", "lr=0.1_opt=adam"),
    ]
    for number, (display_name, name) in enumerate([*named, ("sincere_wolf_6", "lr=0.1_opt=adam"), ("run_7", "")]):
        tags = {"hyperparameters": values} if "opt" in name else {}
        runs.add(
            f"run_{number}", parent="hunt" if "wolf" in display_name else None, display_name=display_name, tags=tags
        )
        assert readable_name(runs.workspace.run(f"run_{number}")) == "-".join(filter(None, (name, f"run_{number}")))
    many = ", ".join(f'"hyperparameter_{number}": {number / 7}' for number in range(20))
    runs.add("hunt_1", parent="hunt", tags={"hyperparameters": f"{{{many}}}"})
    long = readable_name(runs.workspace.run("hunt_1"))
    assert (long.startswith("hyperparameter_0=0.0_"), long.endswith("-hunt_1"), len(long) < 70) == (True, True, True)
    taken: dict[str, str] = {}
    ids = ("Train_1", "train_1", "x_1", "x_2")
    for run_id in ids:
        runs.add(run_id, display_name="same" if run_id.startswith("x") else "")
    first, second, *others = [unique_name(runs.workspace.run(run_id), taken) for run_id in ids]
    assert (first, others) == ("Train_1", ["same-x_1", "same-x_2"])
    assert second.startswith("train_1-")


def listed_folders(azure: StagedWorkspace, finder: EventFinder, looks: int) -> Sequence[str]:
    """Return the folders of the run that were listed."""
    lines = requests(azure, lambda: [finder.find() for _ in range(looks)])
    return [
        line.partition("_1%2F")[2].partition("&")[0].partition(" ")[0].replace("%2F", "/")
        for line in lines
        if "comp=list" in line
    ]


def test_only_folder_with_event_files_is_listed(azure: StagedWorkspace, workspace: AzureWorkspace) -> None:
    run = azure.add_run("train_1", "train", status="Running")
    azure.put_artifact(run, "outputs/model.pt", b"m")
    finder = EventFinder(workspace.run_files("train_1"), "logs")
    assert listed_folders(azure, finder, 2) == ["logs/", "", ""]
    azure.put_artifact(run, f"logs/a/{NAME}", LONG)
    assert listed_folders(azure, finder, 3) == ["", "logs/", "logs/"]
    azure.put_artifact(run, f"outputs/tb/b/{NAME}", LONG)
    assert [*finder.find(is_last=True)] == [f"a/{NAME}"]
    run = azure.add_run("other_1", "train", status="Running")
    azure.put_artifact(run, f"outputs/tb/a/{NAME}", LONG)
    finder = EventFinder(workspace.run_files("other_1"), "logs")
    assert listed_folders(azure, finder, FULL_LISTING_EVERY) == [
        "logs/",
        "",
        *["outputs/tb/a/"] * (FULL_LISTING_EVERY - 2),
        "",
    ]
    azure.put_artifacts(run, {f"logs/{NAME}": LONG, f"outputs/tb/b/{NAME}": LONG})
    assert [*finder.find(is_last=True)] == [f"logs/{NAME}", f"outputs/tb/a/{NAME}", f"outputs/tb/b/{NAME}"]


class Watch:
    """A poller for the runs of a selection, without a TensorBoard."""

    def __init__(self, workspace: Workspace, folder: Path, **selection: Any) -> None:
        self.events: list[Event] = []
        self.shown = folder / "shown"
        self.selected = Selection(workspace, folder, **selection).selected
        self._poller = Poller(self.selected, ShownFolder(self.shown), REFRESH, self.events.append)

    def until(self, is_so: Callable[[], bool]) -> None:
        for _ in range(6000):
            if is_so():
                return
            self._poller.step(0.01)
        raise AssertionError(self.events)

    def shows(self, run: str, content: bytes) -> None:
        path = self.shown / run / NAME
        self.until(lambda: path.exists() and path.read_bytes() == content)


@pytest.mark.large("takes long, and other tests run its branches")
def test_stalled_run_does_not_delay_other_or_new_runs(
    azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path
) -> None:
    grows = azure.add_run("train_1", "train", status="Running")
    azure.add_run("train_2", "train", status="Running")
    azure.state.storage.append("azureml", f"{grows.artifact_prefix}logs/{NAME}", SHORT)
    with azure.stage.holding(r"GET .*prefix=.*train_2"):
        watch = Watch(workspace, tmp_path, experiment="train", num_runs=2)
        watch.shows("train_1", SHORT)
        azure.state.storage.append("azureml", f"{grows.artifact_prefix}logs/{NAME}", LONG[len(SHORT) :])
        watch.shows("train_1", LONG)
        azure.put_artifact(azure.add_run("train_3", "train", status="Running"), f"logs/{NAME}", SHORT)
        watch.shows("train_3", SHORT)
        (stalled,) = (source for source in watch.selected.sources if source.run.id == "train_2")
        assert not stalled.is_checked


def test_bytes_after_end_of_run_are_shown(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    run = azure.add_run("train_1", "train", status="Running")
    azure.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", SHORT)
    selection = Selection(workspace, tmp_path, runs=["train_1"])
    (source,) = selection.selected.sources
    assert isinstance(source, CopiedSource)
    source.update()
    run.status = "Canceled"
    selection.renew()
    source.update()
    assert not source.is_done
    azure.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", LONG[len(SHORT) :])
    source.update()
    assert (source.is_done, source.files[NAME].read_bytes()) == (True, LONG)


def test_damaged_bytes_are_reported_once_and_fetched_again(
    azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path
) -> None:
    run = azure.add_run("train_1", "train", status="Running")
    azure.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", SHORT)
    watch = Watch(workspace, tmp_path, runs=["train_1"])
    watch.shows("train_1", SHORT)
    get = rf"GET .*train_1/logs/{NAME}"
    azure.stage.faults.add(FlipByte(-1), get, times=None)
    azure.state.storage.append("azureml", f"{run.artifact_prefix}logs/{NAME}", LONG[len(SHORT) :])
    watch.until(lambda: bool(watch.events))
    before = len(azure.requests(get))
    watch.until(lambda: len(azure.requests(get)) > before + 3)
    azure.stage.faults.clear()
    watch.shows("train_1", LONG)
    watch.until(lambda: len(watch.events) > 1)
    damaged, again = watch.events
    assert (str(damaged).count("himl keeps trying. TensorBoard shows the local files."), again) == (
        1,
        Notice("The service responds again."),
    )


@pytest.mark.parametrize("status", ["Completed", "Running"])
def test_named_run_without_event_files_ends_with_not_found(
    azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path, status: str
) -> None:
    azure.add_run("train_1", "train", status=status)
    with azure.stage.holding(r"GET .*prefix=.*train_1", times=None if status == "Running" else 0):
        watch = Watch(workspace, tmp_path, runs=["train_1"])
        if status == "Running":
            del azure.state.runs["train_1"]
        with pytest.raises(NotFound, match="Run 'train_1' has no event files"):
            watch.until(lambda: False)
    gone = [
        event.text
        for event in watch.events
        if isinstance(event, Notice) and event.text.endswith("himl stops updating it.")
    ]
    assert len(gone) == (status == "Running")


def test_name_impossible_here_is_reported_once(
    azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path
) -> None:
    azure.put_artifacts(
        azure.add_run("train_1", "train", status="Running"), {f"logs/a/..\\..\\{NAME}": SHORT, f"logs/{NAME}": SHORT}
    )
    watch = Watch(workspace, tmp_path, runs=["train_1"])
    watch.until(lambda: bool(watch.events))
    before = len(azure.requests(r"GET .*prefix="))
    watch.until(lambda: len(azure.requests(r"GET .*prefix=")) > before + 2)
    (event,) = watch.events
    assert str(event).count(NAME) == 1
    assert "not shown" in str(event)
