"""`himl runs aggregate`, through the installed program."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from himl_cli.core.jobs import HYPERPARAMETERS, STOPPED_EARLY
from himl_cli.core.logged import Logged
from himl_cli.core.runs import Run, RunEnd, RunStatus
from himl_cli.services.runs import writing
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support.running import Himl
from tests.support.runs import RecordedRuns
from tests.support.terminals import Terminal

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
COMPLETED = RunEnd(RunStatus.completed)
FAILED = RunEnd(RunStatus.failed, "out of memory")
SWEEP = "sweep_1_aa"


def curve(name: str, *values: float) -> list[Logged]:
    return [writing.scalar(name, value, step) for step, value in enumerate(values)]


def record(workspace: LocalWorkspace, run_id: str, entries: Iterable[Logged], end: RunEnd = COMPLETED, **fields: object) -> None:
    """A run that logged *entries* and ended so."""
    workspace.start_run(Run(run_id, **{"experiment": "sweep", **fields}))  # type: ignore[arg-type]
    workspace.log(run_id, list(entries))
    workspace.end_run(run_id, end)


def record_trial(workspace: LocalWorkspace, number: int, values: Mapping[str, object], entries: Iterable[Logged], end: RunEnd = COMPLETED) -> None:
    record(workspace, f"{SWEEP}_{number}", entries, end, parent=SWEEP, tags={HYPERPARAMETERS: json.dumps(values)})


def shown(himl: Himl, *arguments: str) -> list[str]:
    """What a person sees on a terminal of 80 columns."""
    terminal = Terminal([str(himl.program), *arguments], cwd=himl.folder, env={"NO_COLOR": "1"})
    assert terminal.finish() == 0, terminal.screen
    return terminal.screen.splitlines()


@pytest.fixture
def workspace(project: Path) -> LocalWorkspace:
    """A sweep of three trials, one of which failed and lacks a metric."""
    found = RecordedRuns(project).workspace
    found.start_run(Run(SWEEP, "sweep"))
    record_trial(found, 0, {"lr": 0.1}, [*curve("val/loss", 3.0, 1.0), *curve("acc", 0.5), writing.scalar("word", "tab\there")])
    record_trial(found, 1, {"lr": 0.01}, curve("val/loss", 2.0), FAILED)
    record_trial(found, 2, {"lr": 0.001}, [*curve("val/loss", 9.0, 3.0), *curve("acc", 0.25)])
    found.end_run(SWEEP, COMPLETED)
    return found


@pytest.mark.usefixtures("workspace")
def test_programs_get_all_of_it_with_tabs(himl: Himl) -> None:
    done = himl.ok("runs", "aggregate", SWEEP)
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["metric", "mean", "std", "min", "max", "median", "0.1", "0.01", "0.001"],
        ["status", "", "", "", "", "", "Completed", "Failed", "Completed"],
        ["acc", "0.375", repr(math.sqrt(2) / 8), "0.25", "0.5", "0.375", "0.5", "", "0.25"],
        ["val/loss", "2.0", "1.0", "1.0", "3.0", "2.0", "1.0", "2.0", "3.0"],
        ["word", "", "", "", "", "", "tab here", "", ""],
    ]
    assert done.stderr == "1 of 3 runs did not complete: 0.01 (Failed). What they logged counts.\n"


@pytest.mark.usefixtures("workspace")
def test_json_is_one_document_with_the_series(himl: Himl) -> None:
    found = himl.ok("runs", "aggregate", "--run", SWEEP, "--json").json()
    assert found["metrics"] == ["acc", "val/loss", "word"]
    assert found["statistics"]["val/loss"] == {"mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0, "median": 2.0, "count": 3}
    first, second, _ = found["children"]
    assert (first["id"], first["label"], first["status"], first["hyperparameters"]) == (f"{SWEEP}_0", "0.1", "Completed", {"lr": 0.1})
    assert first["last"] == {"acc": 0.5, "val/loss": 1.0, "word": "tab\there"}
    assert (first["series"]["val/loss"]["steps"], first["series"]["val/loss"]["values"]) == ([0, 1], [3.0, 1.0])
    assert first["texts"]["word"][0]["value"] == "tab\there"
    assert (second["status"], second["reason"], second["last"]) == ("Failed", "out of memory", {"val/loss": 2.0})


@pytest.mark.usefixtures("workspace")
def test_numbers_that_json_has_no_word_for(himl: Himl, workspace: LocalWorkspace) -> None:
    record(workspace, "odd", [*curve("a", math.nan, math.inf), *curve("b", math.nan)])
    found = himl.ok("runs", "aggregate", "odd", "--json").json()
    assert found["children"][0]["last"] == {"a": "Infinity", "b": "NaN"}
    assert found["children"][0]["series"]["a"]["values"] == ["NaN", "Infinity"]
    assert found["statistics"]["b"]["count"] == 0


@pytest.mark.usefixtures("workspace")
def test_quiet_gives_the_ids(himl: Himl) -> None:
    done = himl.ok("runs", "aggregate", SWEEP, "-q")
    assert (done.stdout.split(), done.stderr) == ([f"{SWEEP}_{number}" for number in range(3)], "")


@posix
@pytest.mark.usefixtures("workspace")
def test_a_person_gets_a_table_that_fits(himl: Himl) -> None:
    lines = shown(himl, "runs", "aggregate", SWEEP, "--metrics", "val/loss,acc")
    assert lines[:2] == ["METRIC     MEAN      STD   MIN  MAX  MEDIAN        0.1    0.01      0.001", "status" + " " * 39 + "Completed  Failed  Completed"]
    assert lines[3].split() == ["val/loss", "2", "1", "1", "3", "2", "1", "2", "3"]


@posix
def test_a_table_that_is_too_wide_is_turned_round_or_cut(himl: Himl, project: Path) -> None:
    workspace = RecordedRuns(project).workspace
    workspace.start_run(Run(SWEEP, "sweep"))
    for number in range(12):
        entries = [*curve("val/loss", number), *(entry for metric in range(9) for entry in curve(f"metric number {metric}", metric))]
        record_trial(workspace, number, {"lr": number / 8, "depth": number % 3}, entries)
    workspace.end_run(SWEEP, COMPLETED)
    turned = shown(himl, "runs", "aggregate", SWEEP, "--metrics", "val/*")
    assert turned[0].split() == ["RUN", "val/loss"]
    assert turned[2].split() == ["lr=0.125,", "depth=1", "1"]
    assert [line.split() for line in turned[13:19]] == [[], ["mean", "5.5"], ["std", "3.6056"], ["min", "0"], ["max", "11"], ["median", "5.5"]]
    cut = shown(himl, "runs", "aggregate", SWEEP)
    assert all(len(line) <= 80 for line in cut)
    assert cut[0].split()[:6] == ["METRIC", "MEAN", "STD", "MIN", "MAX", "MEDIAN"]
    assert "of 12 runs are not shown: no room" in cut[-1]
    assert "--output_csv" in cut[-1]


@pytest.mark.usefixtures("workspace")
def test_files_are_written_beside_the_table(himl: Himl, project: Path) -> None:
    done = himl.ok("runs", "aggregate", SWEEP, "--output_csv", "m.csv", "--output_parquet", "m.parquet", "--plot", "m.svg", "--no_stats", "--metrics", "val/*")
    assert done.stdout.splitlines()[0] == "metric\t0.1\t0.01\t0.001"
    assert list(csv.reader((project / "m.csv").read_text().splitlines())) == [["metric", "0.1", "0.01", "0.001"], ["val/loss", "1.0", "2.0", "3.0"]]
    assert (project / "m.parquet").read_bytes()[:4] == b"PAR1"
    assert (project / "m.svg").read_text().startswith("<?xml")
    assert done.stderr.splitlines()[:3] == ["Wrote m.csv.", "Wrote m.parquet.", "Drew m.svg."]


def test_what_cannot_be_written_is_said_before_anything_is_read(himl: Himl, project: Path) -> None:
    for options, words in (
        (("--output_csv", "nowhere/m.csv"), "there is no folder"),
        (("--output_parquet", "."), "is a folder"),
        (("--plot", "m.pdf"), "Pictures end in .png or .svg"),
    ):
        done = himl("runs", "aggregate", "nope", *options)
        assert (done.code, words in done.stderr) == (2, True), done.stderr
    assert not [path for path in project.iterdir() if path.suffix]


@pytest.mark.usefixtures("workspace")
def test_what_is_not_there(himl: Himl) -> None:
    done = himl("runs", "aggregate", "nope", "--json")
    assert (done.code, done.stdout, done.error_json()["code"]) == (3, "", "run_not_found")
    done = himl("runs", "aggregate", SWEEP, "--metrics", "dice,f*")
    assert done.stderr.splitlines() == ["error: None of 3 runs logged a metric like dice or f*.", "hint: There are: acc, val/loss, word."]
    assert (done.code, done.stdout) == (3, "")
    done = himl("runs", "aggregate", SWEEP, "--child_arg", "depth")
    assert done.code == 2
    assert "None of the runs has a hyperparameter, tag, parameter or argument 'depth'" in done.stderr
    assert "There are: lr." in done.stderr


def test_trials_that_a_policy_stopped_are_no_failures(himl: Himl, workspace: LocalWorkspace) -> None:
    for number, tags in enumerate(({"seed": "0"}, {"seed": "1", STOPPED_EARLY: "bandit"}, {"seed": "2"})):
        record(workspace, f"run_{number}", curve("loss", number), RunEnd(RunStatus.canceled, "stopped") if number else COMPLETED, tags=tags)
    done = himl.ok("runs", "aggregate", "run_0", "run_1", "run_2", "--no_stats")
    assert done.stdout.splitlines()[1:] == ["status\tCompleted\tCanceled\tCanceled", "loss\t0.0\t1.0\t2.0"]
    assert done.stderr.splitlines() == [
        "1 of 3 runs were stopped early. What they logged counts.",
        "1 of 3 runs did not complete: 2 (Canceled). What they logged counts.",
    ]


def test_any_selection_of_runs_and_a_run_alone(himl: Himl, workspace: LocalWorkspace) -> None:
    for number in range(3):
        record(workspace, f"train_{number}", curve("loss", number), experiment="train", tags={"seed": str(10 - number)}, command=f"train.py --fold {number}")
    assert himl.ok("runs", "aggregate", "train_0", "train_2", "--no_stats").stdout.splitlines()[0] == "metric\t10\t8"
    assert himl.ok("runs", "aggregate", "--experiment", "train", "--num_runs", "2", "--no_stats").stdout.splitlines()[0] == "metric\t8\t9"
    assert (
        himl.ok("runs", "aggregate", "--experiment", "train", "--num_runs", "all", "--child_arg", "fold", "--no_stats").stdout.splitlines()[0]
        == "metric\t0\t1\t2"
    )
    assert himl.ok("runs", "aggregate", "--run", SWEEP, "--children", "--no_stats").stdout.splitlines()[0] == "metric\t0.1\t0.01\t0.001"
    done = himl.ok("runs", "aggregate", "train_1")
    assert done.stdout == "metric\ttrain_1\nstatus\tCompleted\nloss\t1.0\n"
    assert done.stderr == "Run 'train_1' has no children: it stands alone.\n"


def test_a_sweep_that_is_still_at_work(himl: Himl, workspace: LocalWorkspace) -> None:
    workspace.start_run(Run("young_1_bb", "sweep"))
    workspace.start_run(Run("young_1_bb_0", "sweep", parent="young_1_bb", tags={HYPERPARAMETERS: '{"lr": 1}'}))
    done = himl.ok("runs", "aggregate", "young_1_bb")
    assert done.stdout.splitlines() == ["metric\tlr=1", "status\tRunning"]
    assert done.stderr.splitlines() == ["No metrics were logged yet.", "1 of 1 runs have not ended yet."]
    workspace.log("young_1_bb_0", curve("loss", 2.0))
    assert himl.ok("runs", "aggregate", "young_1_bb").stdout.splitlines()[2] == "loss\t2.0"
    workspace.end_run("young_1_bb_0", COMPLETED)
    workspace.end_run("young_1_bb", COMPLETED)


def test_runs_of_both_workspaces_at_once(himl: Himl, workspace: LocalWorkspace, azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.write_config(project)
    add_sweep(azure_environment, "there", [{"lr": 0.5}, {"lr": 0.25}], lambda number, _: {"val/loss": [1.0, number]})
    record(workspace, "here", curve("val/loss", 7.0))
    assert himl.ok("runs", "aggregate", "there", "--no_stats").stdout.splitlines() == [
        "metric\t0.5\t0.25",
        "status\tCompleted\tCompleted",
        "val/loss\t0.0\t1.0",
    ]
    assert himl.ok("runs", "aggregate", "here", "there_1", "--no_stats").stdout.splitlines()[2] == "val/loss\t7.0\t1.0"


def test_where_the_service_fails_it_is_said(himl: Himl, azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.write_config(project)
    add_sweep(azure_environment, "there", [{"lr": 0.5}], lambda *_: {"loss": [1.0]})
    azure_environment.stage.faults.add(Status(403, code="AuthorizationFailed", message="no"), "/mlflow/", times=None)
    done = himl("runs", "aggregate", "there", "--output_csv", "m.csv")
    assert (done.code, done.stdout) == (4, "")
    assert not (project / "m.csv").exists()


@pytest.fixture
def two_sweeps(himl: Himl, project: Path) -> Himl:
    """Two sweeps of a trial each, and a run by itself."""
    runs = RecordedRuns(project)
    for name, loss in (("first", 0.5), ("second", 0.25)):
        runs.add(name, tags={"himl.many": "sweep"}, command="train.py --lr ${{search_space.lr}}")
        runs.add(f"{name}_0", parent=name, tags={HYPERPARAMETERS: '{"lr": 0.1}', "himl.trial": "0"})
        runs.log(f"{name}_0", [("loss", loss, 0, 0)])
    runs.add("plain", command="train.py")
    runs.log("plain", [("loss", 0.125, 0, 0)])
    return himl


@pytest.mark.parametrize("selection", [("first", "second", "plain"), ("first", "first_0", "second", "plain")])
def test_aggregate_replaces_sweep_by_trials_without_repeats(two_sweeps: Himl, selection: tuple[str, ...]) -> None:
    found = two_sweeps.ok("runs", "aggregate", *selection, "--json").json()["children"]
    assert [child["id"] for child in found] == ["first_0", "second_0", "plain"]
    assert all(child["label"] and "$" not in child["label"] for child in found)


def test_aggregate_of_all_sweeps_omits_no_children_notice(two_sweeps: Himl) -> None:
    done = two_sweeps.ok("runs", "aggregate", "--experiment", "train", "--num_runs", "all")
    assert "alone" not in done.stderr
    assert done.stdout.splitlines()[-1].split("\t")[0] == "loss"


def test_two_results_cannot_go_to_one_file(two_sweeps: Himl, project: Path) -> None:
    done = two_sweeps("runs", "aggregate", "first", "--output_csv", "o.csv", "--output_parquet", "./o.csv")
    assert done.code == 2
    assert "Two results cannot go to one file" in done.stderr
    assert not (project / "o.csv").exists()
