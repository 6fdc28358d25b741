"""From selections to runs, in a real workspace."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage, NotFound, RunNotFound
from himl_cli.core.runs import RunSelection, RunStatus
from himl_cli.services.runs.lookup import check_selection, find_runs, nearest_latest_run_file, read_latest_run_file
from tests.support.runs import RecordedRuns


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add("old_1_aa", experiment="my_exp", tags={"team": "blue"})
    runs.add("mid_2_bb", experiment="my_exp", tags={"team": "red"}, status=RunStatus.failed)
    runs.add("new_3_cc", experiment="my_exp", tags={"team": "blue"})
    runs.add("other_4_dd", experiment="other")
    runs.add("child_a", experiment="my_exp", parent="old_1_aa")
    runs.add("child_b", experiment="my_exp", parent="new_3_cc")
    return runs


def found(recorded: RecordedRuns, wanted: RunSelection | None = None, *, cwd: Path | None = None) -> list[str]:
    return [run.id for run in find_runs(recorded.workspace, wanted or RunSelection(), cwd=cwd or recorded.folder)]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (RunSelection(runs=["old_1_aa"]), ["old_1_aa"]),
        (RunSelection(runs=["new_3_cc", "old_1_aa", "new_3_cc"]), ["new_3_cc", "old_1_aa"]),
        (RunSelection(runs=["my_exp:mid_2_bb"]), ["mid_2_bb"]),
        (RunSelection(runs=["latest"]), ["other_4_dd"]),
        (RunSelection(runs=["LATEST"]), ["other_4_dd"]),
        (RunSelection(runs=["https://ml.azure.com/runs/mid_2_bb?wsid=x"]), ["mid_2_bb"]),
        (RunSelection(runs=["child_a"]), ["child_a"]),
        (RunSelection(experiment="my_exp"), ["new_3_cc"]),
        (RunSelection(experiment="my exp"), ["new_3_cc"]),
        (RunSelection(experiment="my_exp", num_runs=2), ["new_3_cc", "mid_2_bb"]),
        (RunSelection(experiment="my_exp", num_runs=99), ["new_3_cc", "mid_2_bb", "old_1_aa"]),
        (RunSelection(experiment="my_exp", num_runs=9, tags={"team": "blue"}), ["new_3_cc", "old_1_aa"]),
        (RunSelection(experiment="my_exp", statuses=[RunStatus.failed]), ["mid_2_bb"]),
        (RunSelection(experiment="my_exp", num_runs=9, children=True), ["child_b", "child_a"]),
        (RunSelection(runs=["old_1_aa"], children=True), ["child_a"]),
    ],
)
def test_selections(recorded: RecordedRuns, selection: RunSelection, expected: list[str]) -> None:
    assert found(recorded, selection) == expected


def test_without_a_selector_the_nearest_latest_run_file_counts(recorded: RecordedRuns) -> None:
    deep = recorded.folder / "a" / "b"
    deep.mkdir(parents=True)
    (recorded.folder / "most_recent_run.txt").write_text("my_exp:old_1_aa\n")
    assert found(recorded, cwd=deep) == ["old_1_aa"]
    (recorded.folder / "a" / "most_recent_run.txt").write_text("mid_2_bb")
    assert found(recorded, cwd=deep) == ["mid_2_bb"]


def test_latest_run_file_option_is_relative_to_cwd(recorded: RecordedRuns) -> None:
    (recorded.folder / "runs.txt").write_text("my_exp:mid_2_bb")
    assert found(recorded, RunSelection(latest_run_file="runs.txt")) == ["mid_2_bb"]
    assert found(recorded, RunSelection(latest_run_file=str(recorded.folder / "runs.txt"))) == ["mid_2_bb"]


def test_an_implied_run_is_refused_where_it_must_be_named() -> None:
    with pytest.raises(BadUsage, match="Say which run is meant"):
        check_selection(RunSelection(), explicit=True)
    check_selection(RunSelection(runs=["latest"]), explicit=True)


def test_an_unknown_run_names_similar_ones(recorded: RecordedRuns) -> None:
    with pytest.raises(RunNotFound, match="No run 'old_1_ab'") as caught:
        found(recorded, RunSelection(runs=["old_1_ab"]))
    assert "old_1_aa" in caught.value.hint


def test_unknown_run_suggests_runs_of_named_experiment(recorded: RecordedRuns) -> None:
    """Among all runs, others are nearer."""
    for number in range(5):
        recorded.add(f"train_1_a{number}", experiment="noise")
    recorded.add("train_7_zz", experiment="asked")
    with pytest.raises(RunNotFound, match="No run 'train_1_zz'") as caught:
        found(recorded, RunSelection(runs=["asked:train_1_zz"]))
    assert caught.value.similar == ("train_7_zz",)


def test_an_address_of_another_workspace_is_said(recorded: RecordedRuns) -> None:
    url = "https://ml.azure.com/runs/gone_9_ff?wsid=/subscriptions/s/resourcegroups/team/workspaces/lab"
    with pytest.raises(NotFound, match=r"The address names a run of workspace team/lab, and local workspace .* is open") as caught:
        found(recorded, RunSelection(runs=[url]))
    assert "--config_file" in caught.value.hint


def test_an_unknown_experiment_names_similar_ones(recorded: RecordedRuns) -> None:
    with pytest.raises(NotFound, match="No run of an experiment 'my_exq'") as caught:
        found(recorded, RunSelection(experiment="my_exq"))
    assert caught.value.hint == "Did you mean my_exp?"


def test_a_latest_run_file_of_a_deleted_run_is_named(recorded: RecordedRuns) -> None:
    path = recorded.folder / "most_recent_run.txt"
    path.write_text("my_exp:gone_9_ff")
    with pytest.raises(NotFound, match=r"No run 'gone_9_ff', which '.*most_recent_run.txt' names"):
        found(recorded)


def test_latest_in_an_empty_workspace(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(NotFound, match="There is no run"):
        found(RecordedRuns(folder), RunSelection(runs=["latest"]))


CORRUPT = [b"", b"\n \n", b"a:b\nc:d\n", b"\x00\x01\x02", b"\xff\xfe\xfd", b"two words", b"a:b:c", b"x" * 5000 + b" y", bytes(range(256)) * 10]


@pytest.mark.parametrize("content", CORRUPT)
def test_a_corrupt_latest_run_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "most_recent_run.txt"
    path.write_bytes(content)
    with pytest.raises(BadUsage, match=r"most_recent_run.txt'") as caught:
        read_latest_run_file(path)
    assert "experiment:run_id" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "most_recent_run.txt"
    path.write_bytes(b"\xef\xbb\xbfmy_exp:run_1\r\n")
    assert read_latest_run_file(path) == ("run_1", "my_exp")


@given(st.binary(max_size=200))
@example(b"!: !")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_content_is_a_run_or_bad_usage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "most_recent_run.txt"
    path.write_bytes(content)
    reference = None
    with contextlib.suppress(BadUsage):
        reference = read_latest_run_file(path)
    assert reference is None or (reference.run_id.isprintable() and " " not in reference.run_id)


def test_a_folder_of_that_name_is_passed_over(tmp_path: Path) -> None:
    inner = tmp_path / "a"
    (inner / "most_recent_run.txt").mkdir(parents=True)
    (tmp_path / "most_recent_run.txt").write_text("e:r")
    assert nearest_latest_run_file(inner) == tmp_path / "most_recent_run.txt"


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (RunSelection(runs=["old_1_aa"], experiment="my_exp"), "Two selections at once: --run and --experiment"),
        (RunSelection(experiment="my_exp", latest_run_file="x"), "Two selections at once: --experiment and --latest_run_file"),
        (RunSelection(runs=["old_1_aa"], tags={"a": "b"}), "--tags selects among the runs of an experiment"),
        (RunSelection(statuses=[RunStatus.failed], num_runs=3), "--num_runs and --status select among"),
        (RunSelection(experiment="my_exp", num_runs=0), "--num_runs must be at least 1"),
    ],
)
def test_selections_that_contradict_themselves(recorded: RecordedRuns, selection: RunSelection, said: str) -> None:
    with pytest.raises(BadUsage, match=said):
        found(recorded, selection)


def test_latest_run_file_allows_spaces_in_experiment_only(tmp_path: Path) -> None:
    path = tmp_path / "most_recent_run.txt"
    path.write_text("my exp:run_1\n")
    assert read_latest_run_file(path) == ("run_1", "my exp")
    path.write_text("my exp:some words\n")
    with pytest.raises(BadUsage, match="does not hold a run id"):
        read_latest_run_file(path)
