"""Two workspaces behind one: two local ones stand for the near and the far one here."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.errors import NotAllowed, NotFound, RunNotFound, ServiceFailed
from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.services.runs.writing import delete_runs
from himl_cli.workspaces.base import Workspace
from himl_cli.workspaces.resolve import JoinedWorkspace
from tests.support.runs import RecordedRuns


@pytest.fixture
def near(tmp_path: Path) -> RecordedRuns:
    (tmp_path / "near").mkdir()
    return RecordedRuns(tmp_path / "near")


@pytest.fixture
def far(tmp_path: Path) -> RecordedRuns:
    (tmp_path / "far").mkdir()
    return RecordedRuns(tmp_path / "far")


@pytest.fixture
def both(near: RecordedRuns, far: RecordedRuns) -> JoinedWorkspace:
    """Made in turns: near_1, far_1 (the same second), near_2, far_2, ..."""
    for number in (1, 2, 3):
        near.add(f"near_{number}", tags={"place": "near"}, files={"outputs/x": f"near {number}"})
        far.add(f"far_{number}", experiment="other" if number == 3 else "train", tags={"place": "far"}, files={"outputs/x": f"far {number}"})
    near.add("near_child", parent="near_1")
    far.add("far_child", parent="far_1", status=RunStatus.failed)
    far.log("far_1", [("loss", 0.5, 1, 1)], {"lr": "0.1"})
    return JoinedWorkspace(near.workspace, lambda: far.workspace, far.workspace.label)


def ids(workspace: Workspace, query: RunQuery) -> list[str]:
    return [run.id for run in workspace.runs(query)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (RunQuery(), ["near_3", "far_3", "near_2", "far_2", "near_1", "far_1"]),
        (RunQuery(limit=3), ["near_3", "far_3", "near_2"]),
        (RunQuery(limit=0), []),
        (RunQuery("train", limit=3), ["near_3", "near_2", "far_2"]),
        (RunQuery("other"), ["far_3"]),
        (RunQuery("nothing"), []),
        (RunQuery(tags={"place": "far"}, limit=2), ["far_3", "far_2"]),
        (RunQuery(parent="far_1"), ["far_child"]),
        (RunQuery(parent="near_1"), ["near_child"]),
    ],
)
def test_runs_of_both_come_newest_first(both: JoinedWorkspace, query: RunQuery, expected: list[str]) -> None:
    assert ids(both, query) == expected


def test_a_run_is_asked_of_the_workspace_that_keeps_it(both: JoinedWorkspace) -> None:
    assert {run.id: run.workspace for run in both.runs(RunQuery(limit=2))} == {
        "near_3": both.run("near_3").workspace,
        "far_3": both.run("far_3").workspace,
    }
    assert b"".join(both.run_files("near_1").read("outputs/x")) == b"near 1"
    assert b"".join(both.run_files("far_1").read("outputs/x")) == b"far 1"
    assert (both.parameters("far_1"), [metric.name for metric in both.metrics("far_1")], both.metrics("near_1")) == ({"lr": "0.1"}, ["loss"], [])
    assert both.cancel("far_1") is False


def test_tags_are_set_where_the_run_is(both: JoinedWorkspace, near: RecordedRuns, far: RecordedRuns) -> None:
    assert both.tag("far_2", {"note": "x"}).tags == {"place": "far", "note": "x"}
    assert far.workspace.run("far_2").tags["note"] == "x"
    assert "note" not in near.workspace.run("near_2").tags


def test_an_unknown_run_names_similar_ones_of_both(both: JoinedWorkspace, near: RecordedRuns, far: RecordedRuns) -> None:
    near.add("train_77_aa")
    far.add("train_78_aa")
    with pytest.raises(RunNotFound, match="No run 'train_79_aa'") as caught:
        both.run("train_79_aa")
    assert {"train_77_aa", "train_78_aa"} <= set(caught.value.similar)
    assert near.workspace.label in str(caught.value)
    assert far.workspace.label in str(caught.value)


@pytest.mark.parametrize("act", ["run", "cancel", "metrics", "parameters", "run_files", "home_of"])
def test_an_unknown_run_is_run_not_found_whatever_is_asked(both: JoinedWorkspace, act: str) -> None:
    with pytest.raises(RunNotFound):
        getattr(both, act)("nothing")


def unreachable() -> Workspace:
    raise ServiceFailed("management.azure.com cannot be reached.", hint="Check the network.")


def test_a_run_that_is_kept_here_never_needs_the_service(both: JoinedWorkspace, near: RecordedRuns) -> None:
    alone = JoinedWorkspace(near.workspace, unreachable, "workspace far/away")
    assert alone.run("near_1") == both.run("near_1")
    assert b"".join(alone.run_files("near_1").read("outputs/x")) == b"near 1"
    assert ids(alone, RunQuery(parent="near_1")) == ["near_child"]
    assert alone.label.endswith("and workspace far/away")


@pytest.mark.usefixtures("both")
def test_lists_fail_with_the_service_and_say_how_to_do_without(near: RecordedRuns) -> None:
    """A list without the runs of the service would look complete."""
    alone = JoinedWorkspace(near.workspace, unreachable, "workspace far/away")
    with pytest.raises(ServiceFailed, match="cannot be reached") as caught:
        list(alone.runs(RunQuery()))
    assert caught.value.hint == "Check the network. To look at the runs kept here alone: --workspace local"
    with pytest.raises(ServiceFailed) as caught:
        alone.run("near_9")
    assert caught.value.hint.startswith("Did you mean near_3 or near_2 or near_1, kept here?")
    assert "--workspace local" in caught.value.hint


def test_not_signed_in_says_how_to_do_without(near: RecordedRuns) -> None:
    def refused() -> Workspace:
        raise NotAllowed("Nobody is signed in.")

    with pytest.raises(NotAllowed) as caught:
        list(JoinedWorkspace(near.workspace, refused, "workspace far/away").runs(RunQuery(limit=1)))
    assert caught.value.hint == "To look at the runs kept here alone: --workspace local"


def test_what_a_run_lacks_is_said_without_talk_of_workspaces(both: JoinedWorkspace) -> None:
    with pytest.raises(NotFound, match="has no output 'x'") as caught:
        both.output_files("far_1", "x")
    assert "--workspace" not in caught.value.hint


def test_a_run_that_both_keep_is_that_of_here(both: JoinedWorkspace, near: RecordedRuns, far: RecordedRuns) -> None:
    near.add("twin", display_name="near twin")
    far.add("twin", display_name="far twin")
    assert both.run("twin").display_name == "near twin"
    assert both.home_of("twin") is near.workspace


def test_it_has_the_abilities_of_a_joined_workspace(both: JoinedWorkspace, near: RecordedRuns, far: RecordedRuns) -> None:
    assert (both.home_of("near_1"), both.home_of("far_1")) == (near.workspace, far.workspace)
    delete_runs(both, [both.run("near_1")])
    with pytest.raises(RunNotFound):
        both.run("near_1")


def test_data_is_that_of_the_service(both: JoinedWorkspace, far: RecordedRuns) -> None:
    assert both.datastores() == far.workspace.datastores()
    assert both.datastore().label == far.workspace.datastore().label
