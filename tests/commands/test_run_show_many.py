"""`himl runs show` of runs with many children: trials as a table, steps as a tree."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from himl_cli.core.jobs import BEST_TRIAL, GOAL, HYPERPARAMETERS, MANY, PRIMARY_METRIC, STEP, STEP_AFTER, SWEPT, TRIAL, Scalar, values_text
from himl_cli.core.runs import RunStatus
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support.running import Himl
from tests.support.runs import RecordedRuns
from tests.support.terminals import Terminal

SWEEP = "train_1772366400_0a1b2c3d"
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


def add_sweep_here(runs: RecordedRuns, count: int, *, goal: str = "minimize", failed: tuple[int, ...] = (), tags: Mapping[str, str] | None = None) -> None:
    """A sweep over two hyperparameters, whose trial 2 is the best; those that *failed* logged nothing."""
    own = {MANY: "sweep", PRIMARY_METRIC: "val/loss", GOAL: goal, SWEPT: "lr=uniform(0,1) opt=adam,sgd, random", **(tags or {})}
    runs.add(SWEEP, tags=own, exit_code=0)
    for index in range(count):
        values: dict[str, Scalar] = {"lr": (index + 1) / 1000, "opt": "adam" if index % 2 else "sgd"}
        status = RunStatus.failed if index in failed else RunStatus.completed
        trial_tags = {HYPERPARAMETERS: json.dumps(values), TRIAL: str(index)}
        runs.add(f"{SWEEP}_{index}", parent=SWEEP, status=status, tags=trial_tags, display_name=values_text(values), seconds=index + 1)
        if index not in failed:
            sign = 1 if goal == "minimize" else -1
            runs.log(f"{SWEEP}_{index}", [("val/loss", 9.0, 0, 1), ("val/loss", sign * abs(index - 2.25), 1, 2), ("other", 1.0, 1, 2)])


def table(text: str, header: str = "TRIAL") -> list[list[str]]:
    """The rows of the table with that header, in words, the header first."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    begin = next(place for place, line in enumerate(lines) if line.strip().startswith(header))
    return [line.split() for line in lines[begin:]]


def test_trials_in_pipe_are_rows_best_first_with_full_ids(himl: Himl, recorded: RecordedRuns) -> None:
    add_sweep_here(recorded, 4, failed=(1,))
    shown = himl.ok("runs", "show", SWEEP).stdout
    assert "Trials: 3 Completed, 1 Failed\n" in shown
    assert table(shown) == [
        ["TRIAL", "lr", "opt", "val/loss", "STATUS", "DURATION"],
        [f"{SWEEP}_2", "0.003", "sgd", "0.25", "best", "Completed", "3.0s"],
        [f"{SWEEP}_3", "0.004", "adam", "0.75", "Completed", "4.0s"],
        [f"{SWEEP}_0", "0.001", "sgd", "2.25", "Completed", "1.0s"],
        [f"{SWEEP}_1", "0.002", "adam", "Failed", "2.0s"],
    ]
    assert "Sweep         lr=uniform(0,1) opt=adam,sgd, random\n" in shown
    assert "himl." not in shown


def test_the_goal_decides_which_is_best(himl: Himl, recorded: RecordedRuns) -> None:
    add_sweep_here(recorded, 3, goal="maximize")
    assert [row[0] for row in table(himl.ok("runs", "show", SWEEP).stdout)[1:]] == [f"{SWEEP}_2", f"{SWEEP}_1", f"{SWEEP}_0"]


def test_the_best_trial_is_the_recorded_one_everywhere(himl: Himl, recorded: RecordedRuns) -> None:
    add_sweep_here(recorded, 3, tags={BEST_TRIAL: f"{SWEEP}_1"})
    shown = himl.ok("runs", "show", SWEEP).stdout
    assert f"The best value at any step is that of {SWEEP}_1; the table has last values.\n" in shown
    assert f"Best trial    {SWEEP}_1\n" in shown
    assert [[row[0], "best" in row] for row in table(shown)[1:4]] == [[f"{SWEEP}_1", True], [f"{SWEEP}_2", False], [f"{SWEEP}_0", False]]
    assert himl.ok("runs", "show", SWEEP, "--json").json()["primary_metric"]["best"] == f"{SWEEP}_1"


def test_values_that_are_no_numbers_are_shown_and_never_best(himl: Himl, recorded: RecordedRuns) -> None:
    add_sweep_here(recorded, 3, failed=(0, 1, 2))
    for index, value in enumerate((math.nan, -math.inf, 1e300)):
        recorded.log(f"{SWEEP}_{index}", [("val/loss", value, 1, 2)])
    rows = table(himl.ok("runs", "show", SWEEP).stdout)[1:]
    assert [row[3] for row in rows] == ["1e+300", "-Infinity", "NaN"]
    assert ["best" in row for row in rows] == [True, False, False]


def test_json_has_every_trial_in_its_order_with_its_values(himl: Himl, recorded: RecordedRuns) -> None:
    add_sweep_here(recorded, 12, failed=(11,))
    shown = himl.ok("runs", "show", SWEEP, "--json").json()
    assert shown["primary_metric"] == {"name": "val/loss", "goal": "minimize", "best": f"{SWEEP}_2"}
    assert [child["id"] for child in shown["children"]] == [f"{SWEEP}_{index}" for index in range(12)]
    assert shown["children"][10]["hyperparameters"] == {"lr": 0.011, "opt": "sgd"}
    assert [child["primary_metric"] for child in shown["children"][9:]] == [6.75, 7.75, None]


def test_a_trial_s_own_page_says_its_values_and_its_parent(himl: Himl, recorded: RecordedRuns) -> None:
    add_sweep_here(recorded, 2)
    shown = himl.ok("runs", "show", f"{SWEEP}_1").stdout
    assert shown.count("lr=0.002, opt=adam") == 1
    assert f"Parent        {SWEEP}\n" in shown
    assert "hyperparameters" not in shown


@posix
@pytest.mark.parametrize(("count", "rows"), [(3, 3), (30, 30), (300, 35)])
def test_trial_table_fits_80_columns_and_counts_omitted_rows(himl: Himl, project: Path, recorded: RecordedRuns, count: int, rows: int) -> None:
    add_sweep_here(recorded, count, failed=(1,))
    terminal = Terminal([str(himl.program), "runs", "show", SWEEP], cwd=project, columns=80)
    assert terminal.finish() == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.screen)
    part = shown[shown.index("\nTrials: ") :].strip().splitlines()
    assert max(map(len, part)) <= 80
    trials = [line for line in part[2:] if line.split()[0].isdigit()]
    assert len(trials) == rows
    assert trials[0].split() == ["2", "0.003", "sgd", "0.25", "*", "Completed", "3.0s"]
    assert trials[-1].split()[0] == "1", "the one that failed comes last"
    assert part[-1] == f"Trial 2 is run {SWEEP}_2."
    assert ("… 265 more (265 Completed); a pipe gets all of them …" in part) is (count == 300)


@posix
def test_many_hyperparameters_keep_metric_and_status_columns(himl: Himl, project: Path, recorded: RecordedRuns) -> None:
    recorded.add(SWEEP, tags={MANY: "sweep", PRIMARY_METRIC: "val/loss", GOAL: "minimize"}, exit_code=0)
    for index in range(3):
        values = {f"hyperparameter_{number}": f"value-{number}-{index}" for number in range(9)}
        recorded.add(f"{SWEEP}_{index}", parent=SWEEP, tags={HYPERPARAMETERS: json.dumps(values), TRIAL: str(index)})
        recorded.log(f"{SWEEP}_{index}", [("val/loss", float(index), 1, 2)])
    terminal = Terminal([str(himl.program), "runs", "show", SWEEP], cwd=project, columns=80)
    assert terminal.finish() == 0
    header = table(terminal.screen)[0]
    assert {"TRIAL", "val/loss", "STATUS"} <= set(header)
    piped = table(himl.ok("runs", "show", SWEEP).stdout)[0]
    assert [f"hyperparameter_{number}" for number in range(9)] == piped[1:10]


def add_pipeline(runs: RecordedRuns) -> None:
    """A pipeline whose steps are a diamond, with a sweep and a pipeline as steps."""
    runs.add("pipe", tags={MANY: "pipeline"}, status=RunStatus.failed)

    def step(key: str, after: str = "", status: RunStatus = RunStatus.completed, many: str = "") -> None:
        runs.add(
            f"pipe_{key}",
            parent="pipe",
            display_name=f"{key} it",
            status=status,
            tags={STEP: key, STEP_AFTER: after} | ({MANY: many} if many else {}),
            seconds=2,
        )

    step("fetch")
    step("left", "fetch")
    step("right", "fetch", many="sweep")
    step("join", "left,right", RunStatus.failed)
    step("inner", "left", many="pipeline")
    step("alone")
    for index in range(3):
        runs.add(
            f"pipe_right_{index}",
            parent="pipe_right",
            tags={HYPERPARAMETERS: '{"lr": 1}', TRIAL: str(index)},
            status=RunStatus.failed if index else RunStatus.completed,
        )
    runs.add("pipe_inner_a", parent="pipe_inner", display_name="deep", tags={STEP: "a", STEP_AFTER: ""})


def test_a_pipeline_is_a_tree_of_its_steps(himl: Himl, recorded: RecordedRuns) -> None:
    add_pipeline(recorded)
    shown = himl.ok("runs", "show", "pipe").stdout
    names = [line[2:].rstrip() for line in shown[shown.index("Steps\n") :].splitlines()[2:]]
    assert [(len(name) - len(name.lstrip())) // 2 for name in names] == [0, 1, 2, 2, 3, 1, 2, 0]
    assert [" ".join(name.split()[:2]) for name in names] == [
        *("fetch it", "left it", "join it", "inner it", "deep Completed", "right it", "3 trials", "alone it"),
    ]
    assert [line.split()[-4:] for line in shown.splitlines() if "join it" in line] == [["left", "it,", "right", "it"]]
    assert "2 Failed, 1 Completed" in shown
    assert "himl." not in shown


def test_json_has_what_is_below_a_step(himl: Himl, recorded: RecordedRuns) -> None:
    add_pipeline(recorded)
    children = {child["id"]: child for child in himl.ok("runs", "show", "pipe", "--json").json()["children"]}
    assert [child["id"] for child in children["pipe_right"]["children"]] == ["pipe_right_0", "pipe_right_1", "pipe_right_2"]
    assert [child["id"] for child in children["pipe_inner"]["children"]] == ["pipe_inner_a"]
    assert "children" not in children["pipe_left"]
    assert children["pipe_join"]["tags"][STEP_AFTER] == "left,right"


def test_pipeline_steps_with_circular_order_are_all_shown(himl: Himl, recorded: RecordedRuns) -> None:
    recorded.add("pipe", tags={MANY: "pipeline"})
    recorded.add("pipe_a", parent="pipe", tags={STEP: "a", STEP_AFTER: "b"})
    recorded.add("pipe_b", parent="pipe", tags={STEP: "b", STEP_AFTER: "a"})
    assert himl.ok("runs", "show", "pipe").stdout.count("pipe_") == 2


def test_a_sweep_on_azure_is_shown_for_a_few_requests(himl: Himl, azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.write_config(project)
    values: list[dict[str, Scalar]] = [{"lr": 0.1 * (index + 1), "opt": "adam"} for index in range(120)]
    add_sweep(azure_environment, "sweep_1", values, lambda index, _: {"accuracy": [0.1, 0.5 + index / 1000]}, statuses={7: "Failed"})
    azure_environment.stage.log.clear()
    rows = table(himl.ok("runs", "show", "sweep_1").stdout)
    assert rows[1][:5] == ["sweep_1_119", "12.0", "adam", "0.619", "best"]
    assert len(rows) == 121
    asked = [seen for seen in azure_environment.stage.log.all() if "/token" not in seen.path]
    assert len(asked) < 20, [str(seen) for seen in asked]


@pytest.mark.parametrize("kind", ["crossval", "seeds"])
def test_of_folds_and_seeds_none_is_the_best(himl: Himl, recorded: RecordedRuns, kind: str) -> None:
    add_sweep_here(recorded, 4, tags={MANY: kind, BEST_TRIAL: f"{SWEEP}_2"})
    shown = himl.ok("runs", "show", SWEEP).stdout
    assert "best" not in shown.casefold()
    assert [row[0] for row in table(shown)[1:5]] == [f"{SWEEP}_{number}" for number in range(4)]
    assert shown.splitlines()[-1] == "val/loss: mean 1.125, std 0.853913 of 4 runs"
    assert himl.ok("runs", "show", SWEEP, "--json").json()["primary_metric"]["best"] is None


def test_a_sweep_that_stopped_says_how_to_go_on(himl: Himl, recorded: RecordedRuns) -> None:
    recorded.add("stopped", status=RunStatus.failed, reason="its supervisor ended", tags={MANY: "sweep"})
    recorded.add("done", tags={MANY: "sweep"})
    recorded.add("plain", status=RunStatus.failed)
    assert "himl submit --resume stopped" in himl.ok("runs", "show", "stopped").stdout
    assert all("--resume" not in himl.ok("runs", "show", name).stdout for name in ("done", "plain"))
