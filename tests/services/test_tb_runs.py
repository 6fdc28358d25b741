"""Which runs a selection stands for in TensorBoard: those it means, what joins them, and what it costs to see that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import NotFound
from himl_cli.core.files import LATEST_RUN_FILE
from himl_cli.core.processes import ProcessLock
from himl_cli.core.runs import RunSelection, RunStatus
from himl_cli.services.tensorboard.copies import FULL_LISTING_EVERY, EventFinder
from himl_cli.services.tensorboard.shown_runs import SelectedRuns, readable_name, unique_name
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.base import Workspace
from himl_cli.workspaces.resolve import JoinedWorkspace
from tests.servers.azureml.jobs.sweeps.trials import add_trial
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.state import now
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support.azure import opened
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import NAME, event_bytes

EVENTS = event_bytes([1.0])


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    with opened(azure_environment, project) as found:
        yield found


@pytest.fixture
def alive(project: Path) -> Iterator[Callable[[str], str]]:
    """Call it with the id of a run here to let it go on: somebody holds its lock."""
    locks: list[ProcessLock] = []

    def hold(run_id: str) -> str:
        locks.append(ProcessLock(project / ".himl" / "runs" / run_id / "lock"))
        assert locks[-1].take()
        return run_id

    yield hold
    for lock in locks:
        lock.release()


class Seen:
    """A selected as `himl tb` has it: what is shown, and what is still looked at."""

    def __init__(self, workspace: Workspace, folder: Path, **selection: Any) -> None:
        self.selected = SelectedRuns(workspace, RunSelection(**selection), folder, "logs", folder / "copies")
        self.selected.start()

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.selected.sources]

    @property
    def ids(self) -> list[str]:
        return [source.run.id for source in self.selected.sources]

    def renew(self) -> list[str]:
        """The ids of the runs that are gone."""
        change = self.selected.fetch_changes([source.run.id for source in self.selected.sources if not source.run.status.is_final])
        self.selected.apply(change)
        return [*change.gone]

    def open(self) -> list[str]:
        return [source.run.id for source in self.selected.sources if not source.run.status.is_final]


def asked(azure: StagedWorkspace, act: Any) -> list[str]:
    before = len(azure.requests())
    act()
    return azure.requests()[before:]


def test_runs_that_an_experiment_gets_later_join_and_none_leaves(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    azure.add_run("train_1", "train")
    azure.add_run("train_2", "train", status="Running")
    seen = Seen(workspace, tmp_path, experiment="train")
    assert seen.ids == ["train_2"]
    for number in (3, 4):
        azure.add_run(f"train_{number}", "train", status="Queued")
    azure.add_run("other_1", "other")
    azure.state.runs["train_2"].status = "Completed"
    lines = asked(azure, seen.renew)
    assert (seen.ids, seen.open()) == (["train_2", "train_3", "train_4"], ["train_3", "train_4"])
    assert (len(lines), seen.selected.may_grow) == (1, True)


def test_an_older_run_that_comes_to_meet_the_conditions_joins(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    """One that no longer meets them stays, and its end is noticed."""
    for number, status in enumerate(("Running", "Queued", "Running")):
        azure.add_run(f"train_{number}", "train", status=status)
    seen = Seen(workspace, tmp_path, experiment="train", statuses=[RunStatus.running], num_runs=10)
    assert seen.ids == ["train_2", "train_0"]
    azure.state.runs["train_1"].status = "Running"
    azure.state.runs["train_2"].status = "Failed"
    seen.renew()
    assert (seen.ids, seen.open()) == (["train_2", "train_0", "train_1"], ["train_0", "train_1"])


def test_renewing_300_runs_takes_one_request(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    """Once all runs have ended, none of them is left to ask for."""
    begun = now() - timedelta(hours=1)
    for number in range(300):
        azure.add_run(f"train_{number}", "train", status="Running" if number % 100 == 0 else "Completed", created=begun + timedelta(seconds=number))
    grows, named = (
        Seen(workspace, tmp_path, experiment="train", num_runs=300),
        Seen(workspace, tmp_path, runs=[f"train_{number}" for number in range(0, 300, 50)]),
    )
    assert len(grows.ids) == 300
    for seen in (grows, named):
        seen.renew()
        assert len(asked(azure, seen.renew)) == 1
        assert sorted(seen.open()) == ["train_0", "train_100", "train_200"]
    azure.state.runs["train_100"].hidden = True  # archived: it is in no list any more
    named.renew()
    azure.state.runs["train_100"].status = azure.state.runs["train_0"].status = azure.state.runs["train_200"].status = "Completed"
    lines = asked(azure, named.renew)
    assert (named.open(), named.selected.may_grow, len(lines)) == ([], False, 3)


def test_a_sweep_is_its_trials_by_their_values_and_new_ones_join(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    sweep = add_sweep(azure, "hunt", [{"lr": 0.1, "depth": 3}, {"lr": 0.01, "depth": 3}], statuses={1: "Running"}, experiment="tuning")
    seen = Seen(workspace, tmp_path, runs=["hunt"])
    assert seen.names == ["hunt", "lr=0.1_depth=3-hunt_0", "lr=0.01_depth=3-hunt_1"]
    add_trial(azure.state, sweep, 2, {"lr": 0.5, "depth": 1})
    seen.renew()
    assert (seen.names[3:], seen.open()) == (["lr=0.5_depth=1-hunt_2"], ["hunt", "hunt_1", "hunt_2"])
    assert len(asked(azure, seen.renew)) == 2, "the sweep, and the list of its trials"
    sweep.status = "Completed"
    seen.renew()
    assert (seen.selected.may_grow, seen.open()) == (False, ["hunt_1", "hunt_2"])
    azure.state.runs["hunt_1"].status = azure.state.runs["hunt_2"].status = "Completed"
    seen.renew()
    assert seen.open() == []
    assert Seen(workspace, tmp_path, runs=["hunt"], children=True).ids == ["hunt_0", "hunt_1", "hunt_2"]
    assert len(Seen(workspace, tmp_path, experiment="tuning").ids) == 4


def test_a_pipeline_is_its_steps_and_what_is_below_those(project: Path, alive: Callable[[str], str]) -> None:
    here = RecordedRuns(project)
    alive(here.add("pipe", status=RunStatus.running, tags={"himl.many": "pipeline"}, display_name="Nightly"))
    here.add("pipe_step", parent="pipe", tags={"himl.step": "step1"}, display_name="prepare", files={f"logs/{NAME}": EVENTS})
    seen = Seen(here.workspace, project, runs=["pipe"])
    assert seen.names == ["Nightly-pipe", "prepare-pipe_step"]
    alive(here.add("hunt", parent="pipe", status=RunStatus.running, tags={"himl.many": "crossval"}, display_name="folds"))
    for fold in range(2):
        here.add(f"hunt_{fold}", parent="hunt", tags={"hyperparameters": f'{{"crossval_index": {fold}}}', "himl.trial": str(fold)})
    seen.renew()
    assert seen.names[2:] == ["folds-hunt", "crossval_index=0-hunt_0", "crossval_index=1-hunt_1"]


def test_children_alone_need_children(project: Path, alive: Callable[[str], str]) -> None:
    here = RecordedRuns(project)
    here.add("alone")
    with pytest.raises(NotFound, match="No children: alone"):
        Seen(here.workspace, project, runs=["alone"], children=True)
    alive(here.add("parent", status=RunStatus.running))
    here.add("nested_1", parent="parent")
    seen = Seen(here.workspace, project, runs=["parent"], children=True)
    here.add("nested_2", parent="parent")
    seen.renew()
    assert seen.ids == ["nested_1", "nested_2"]


def submit(folder: Path, run: str) -> None:
    (folder / LATEST_RUN_FILE).write_text(f"train:{run}\n")


@pytest.mark.parametrize("named", [{}, {"latest_run_file": LATEST_RUN_FILE}, {"runs": ["latest"]}], ids=["nearest file", "file", "latest"])
def test_a_run_that_is_submitted_later_joins(project: Path, alive: Callable[[str], str], named: dict[str, Any]) -> None:
    here = RecordedRuns(project)
    here.add("train_1")
    submit(project, "train_1")
    seen = Seen(here.workspace, project, **named)
    (project / LATEST_RUN_FILE).write_text("")  # just being written
    seen.renew()
    alive(here.add("train_2", status=RunStatus.running))
    submit(project, "train_2")
    seen.renew()
    seen.renew()
    assert (seen.ids, seen.open(), seen.selected.may_grow) == (["train_1", "train_2"], ["train_2"], True)


def test_a_file_that_names_a_run_that_has_ended_costs_no_request(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    azure.add_run("train_1", "train")
    submit(tmp_path, "train_1")
    seen = Seen(workspace, tmp_path)
    assert asked(azure, seen.renew) == []


def test_local_runs_need_no_request_to_configured_service(azure: StagedWorkspace, workspace: AzureWorkspace, project: Path, tmp_path: Path) -> None:
    here = RecordedRuns(project)
    for number in range(4):
        here.add(f"here_{number}", status=RunStatus.running)
    azure.add_run("there_1", "train", status="Running")
    both = JoinedWorkspace(here.workspace, lambda: workspace, workspace.label)
    assert asked(azure, lambda: Seen(both, tmp_path, runs=["here_0", "here_1", "here_2"]).renew()) == []
    seen = Seen(both, tmp_path, experiment="train", num_runs=2)
    azure.add_run("there_2", "train")
    here.add("here_4")
    seen.renew()
    assert sorted(seen.ids) == ["here_3", "there_1", "there_2"], "none that is older than the oldest"


def names_of(runs: RecordedRuns, *ids: str) -> list[str]:
    taken: dict[str, str] = {}
    return [unique_name(runs.workspace.run(run_id), taken) for run_id in ids]


def test_no_two_runs_are_called_alike(project: Path) -> None:
    here = RecordedRuns(project)
    for run_id in ("Train_1", "train_1", "x_1", "x_2"):
        here.add(run_id, display_name="same" if run_id.startswith("x") else "")
    first, second, *others = names_of(here, "Train_1", "train_1", "x_1", "x_2")
    assert (first, others) == ("Train_1", ["same-x_1", "same-x_2"])
    assert second.startswith("train_1-")
    assert len(second) > len("train_1-")


def test_names_stay_short_and_say_the_values_first(project: Path) -> None:
    here = RecordedRuns(project)
    values = ", ".join(f'"hyperparameter_{number}": {number / 7}' for number in range(20))
    here.add("hunt_0", parent="hunt", display_name="sincere_wolf_1", tags={"hyperparameters": '{"lr": 0.1}'})
    here.add("hunt_1", parent="hunt", tags={"hyperparameters": f"{{{values}}}"})
    assert readable_name(here.workspace.run("hunt_0")) == "lr=0.1-hunt_0"
    long = readable_name(here.workspace.run("hunt_1"))
    assert long.startswith("hyperparameter_0=0.0_")
    assert long.endswith("-hunt_1")
    assert len(long) < 70


def prefixes(azure: StagedWorkspace, finder: EventFinder, looks: int, **options: Any) -> Sequence[str]:
    """The folders below the run that were listed."""
    lines = asked(azure, lambda: [finder.find(**options) for _ in range(looks)])
    return [line.partition("dcid.train_1%2F")[2].partition("&")[0].partition(" ")[0].replace("%2F", "/") for line in lines if "comp=list" in line]


def test_only_the_folder_that_has_event_files_is_listed(azure: StagedWorkspace, workspace: AzureWorkspace) -> None:
    run = azure.add_run("train_1", "train", status="Running")
    azure.put_artifact(run, "outputs/model.pt", b"m")
    finder = EventFinder(workspace.run_files("train_1"), "logs")
    assert prefixes(azure, finder, 2) == ["logs/", "", ""]
    azure.put_artifact(run, f"logs/a/{NAME}", EVENTS)
    assert prefixes(azure, finder, 3) == ["", "logs/", "logs/"]
    azure.put_artifact(run, f"outputs/tb/b/{NAME}", EVENTS)
    assert [*finder.find(is_last=True)] == [f"a/{NAME}"]


def test_event_files_elsewhere_keep_their_whole_names(azure: StagedWorkspace, workspace: AzureWorkspace) -> None:
    run = azure.add_run("train_1", "train", status="Running")
    azure.put_artifact(run, f"outputs/tb/a/{NAME}", EVENTS)
    finder = EventFinder(workspace.run_files("train_1"), "logs")
    assert prefixes(azure, finder, FULL_LISTING_EVERY) == ["logs/", "", *["outputs/tb/a/"] * (FULL_LISTING_EVERY - 2), ""]
    azure.put_artifacts(run, {f"logs/{NAME}": EVENTS, f"outputs/tb/b/{NAME}": EVENTS})
    assert [*finder.find(is_last=True)] == [f"logs/{NAME}", f"outputs/tb/a/{NAME}", f"outputs/tb/b/{NAME}"]


def test_a_run_that_is_deleted_while_it_is_shown_is_told(project: Path) -> None:
    here = RecordedRuns(project)
    for number in range(3):
        here.add(f"train_{number}", status=RunStatus.running)
    lock = ProcessLock(project / ".himl" / "runs" / "train_1" / "lock")
    assert lock.take()
    seen = Seen(here.workspace, project, experiment="train", num_runs=3)
    assert seen.open() == ["train_1"]
    lock.release()
    for number in range(2):
        here.workspace.delete(f"train_{number}")
    assert seen.renew() == ["train_1"], "of one that had ended nothing is asked"
    assert seen.ids == ["train_2", "train_1", "train_0"]
