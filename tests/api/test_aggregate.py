"""`aggregate_hyperdrive_metrics`: a DataFrame as hi-ml's documents have it."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import himl_cli
from himl_cli import (
    aggregate_hyperdrive_metrics,
    download_files_from_hyperdrive_children,
    fetch_run,
    get_metrics_for_hyperdrive_run,
    get_metrics_for_run,
    get_tags_from_hyperdrive_run,
    get_workspace,
)
from himl_cli.core.errors import BadUsage, RunNotFound
from himl_cli.core.jobs import HYPERPARAMETERS, MANY
from himl_cli.core.logged import Logged
from himl_cli.core.runs import Run, RunEnd, RunStatus
from himl_cli.services.runs import writing
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support.runs import RecordedRuns

COMPLETED = RunEnd(RunStatus.completed)
PARENT = "crossval_1_aa"
CURVES: tuple[dict[str, list[float]], ...] = (
    {"epoch": [1, 2, 3], "accuracy": [0.7, 0.8, 0.9], "loss": [0.5, 0.4, 0.3]},
    {"epoch": [1, 2, 3], "accuracy": [0.71, 0.82, 0.91], "loss": [0.45, 0.37, 0.29]},
)


def scalars(name: str, values: Sequence[float]) -> list[Logged]:
    return [writing.scalar(name, value, step) for step, value in enumerate(values)]


@pytest.fixture
def workspace(project: Path, monkeypatch: pytest.MonkeyPatch) -> LocalWorkspace:
    """A cross-validation with two folds as hi-ml's documents show it, the second one made first."""
    found = RecordedRuns(project).workspace
    monkeypatch.chdir(project)
    found.start_run(Run(PARENT, "crossval"))
    for fold in (1, 0):
        child = found.start_run(Run(f"{PARENT}_{fold}", "crossval", parent=PARENT, tags={HYPERPARAMETERS: json.dumps({"child_run_index": fold})})).id
        found.log(child, [entry for name, values in CURVES[fold].items() for entry in scalars(name, values)])
        found.end_run(child, COMPLETED)
    found.end_run(PARENT, COMPLETED)
    return found


def rows(frame: Any) -> dict[str, list[Any]]:
    return {name: list(frame.loc[name]) for name in frame.index}


@pytest.mark.usefixtures("workspace")
def test_a_column_a_child_and_a_row_a_metric() -> None:
    found = aggregate_hyperdrive_metrics("child_run_index", run_id=PARENT)
    assert list(found.columns) == [0, 1]
    assert rows(found) == {name: [CURVES[0][name], CURVES[1][name]] for name in ("accuracy", "epoch", "loss")}
    assert found.equals(aggregate_hyperdrive_metrics("child_run_index", run=fetch_run(None, PARENT)))
    assert found.equals(aggregate_hyperdrive_metrics("--child_run_index", run_id=PARENT, aml_workspace=get_workspace()))
    assert found.equals(aggregate_hyperdrive_metrics("child_run_index", run_id=f"crossval:{PARENT}", workspace_config_path=Path(".himl")))


@pytest.mark.parametrize(
    ("kind", "values", "columns"),
    [
        ("crossval", (0, 1), ["0", "1"]),
        ("sweep", (0.5, 0.1), [0.5, 0.1]),
        ("sweep", ("0", "1"), ["0", "1"]),
        ("sweep", (1, 1.0), ["1", "1.0"]),
    ],
)
def test_columns_are_called_as_in_hi_ml(
    project: Path, monkeypatch: pytest.MonkeyPatch, kind: str, values: Sequence[float | str], columns: list[object]
) -> None:
    """Of a cross-validation by texts whoever submitted it, else as the tags have the values, unless two of these are equal."""
    workspace = RecordedRuns(project).workspace
    monkeypatch.chdir(project)
    workspace.start_run(Run("cv", "e", tags={MANY: kind}))
    for index, each in enumerate(values):
        child = workspace.start_run(Run(f"cv_{index}", "e", parent="cv", tags={HYPERPARAMETERS: json.dumps({"fold": each})})).id
        workspace.log(child, scalars("loss", [float(index)]))
    found = aggregate_hyperdrive_metrics("fold", run_id="cv")
    assert [(name, found[name]["loss"]) for name in found.columns] == [(columns[0], 0.0), (columns[1], 1.0)]
    assert get_metrics_for_hyperdrive_run("fold", run_id="cv") == {column: {"loss": float(index)} for index, column in enumerate(columns)}


@pytest.mark.usefixtures("workspace")
def test_the_metrics_of_children_and_of_one_run(caplog: pytest.LogCaptureFixture) -> None:
    child = fetch_run(None, f"{PARENT}_1")
    assert get_metrics_for_hyperdrive_run("child_run_index", run=fetch_run(None, PARENT), keep_metrics=["loss"]) == {
        fold: {"loss": CURVES[fold]["loss"]} for fold in (0, 1)
    }
    assert get_metrics_for_run(child.id) == get_metrics_for_run(run=child) == CURVES[1]
    assert get_metrics_for_run(run=child, keep_metrics=["loss", "auc"]) == {"loss": CURVES[1]["loss"]}
    assert f"Run '{child.id}' has no metric 'auc'." in caplog.text
    assert (get_tags_from_hyperdrive_run(child, "child_run_index"), get_tags_from_hyperdrive_run(child, "lr")) == (1, None)
    with pytest.raises(ValueError, match=f"'{PARENT}' is no trial of a sweep"):
        get_tags_from_hyperdrive_run(fetch_run(None, PARENT), "child_run_index")
    with pytest.raises(ValueError, match="Which run is meant has to be said"):
        get_metrics_for_run()


@pytest.mark.usefixtures("workspace")
def test_outside_of_a_job_the_run_context_has_no_metrics(caplog: pytest.LogCaptureFixture) -> None:
    himl_cli.RUN_CONTEXT.log("loss", 1)
    assert get_metrics_for_run(run=himl_cli.RUN_CONTEXT) == {}
    assert get_metrics_for_hyperdrive_run("child_run_index", run=himl_cli.RUN_CONTEXT) == {}
    assert aggregate_hyperdrive_metrics("child_run_index", run=himl_cli.RUN_CONTEXT).empty
    assert download_files_from_hyperdrive_children(himl_cli.RUN_CONTEXT, "outputs", ".", "lr") == []
    assert caplog.text.count("This process is part of no job") == 4


def test_metrics_of_a_run_that_has_not_ended_come_with_a_warning(
    azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    azure_environment.write_config(project)
    monkeypatch.chdir(project)
    azure_environment.add_run("train_1", "train", status="Running")
    assert get_metrics_for_run("train_1") == {}
    assert "Run 'train_1' is Running: its metrics may be incomplete." in caplog.text


def test_files_of_children_go_to_folders_by_their_values(
    azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    azure_environment.write_config(project)
    monkeypatch.chdir(project)
    add_sweep(azure_environment, "hyper_1", [{"lr": 0.1, "x": "a-b"}, {"lr": 0.2, "x": "ab"}], lambda _, values: {"loss": [1.0]})
    for index in range(2):
        azure_environment.put_artifacts(azure_environment.state.runs[f"hyper_1_{index}"], {"outputs/a.txt": b"a%d" % index, "outputs/b/c.txt": b"c"})
    azure_environment.put_artifacts(azure_environment.state.runs["hyper_1_1"], {"only.txt": b"one"})
    parent = fetch_run(get_workspace(), "hyper_1")
    found = download_files_from_hyperdrive_children(parent, "outputs/a.txt,outputs/b,only.txt", project / "got", "lr")
    names = ["01/outputs/a.txt", "01/outputs/b", "02/outputs/a.txt", "02/outputs/b", "02/only.txt"]
    assert found == [str(project / "got" / name) for name in names]
    assert [(project / "got" / f"0{number}" / "outputs" / "a.txt").read_bytes() for number in (1, 2)] == [b"a0", b"a1"]
    assert "only.txt" in caplog.text
    for argument, words in (("", "has to be said"), ("depth", "has no hyperparameter 'depth'"), ("x", "would go to the same folder 'ab'")):
        with pytest.raises(ValueError, match=words):
            download_files_from_hyperdrive_children(parent, "outputs/a.txt", project / "other", argument)
    assert not (project / "other").exists()


@pytest.mark.usefixtures("workspace")
def test_only_the_metrics_to_keep() -> None:
    assert list(aggregate_hyperdrive_metrics("child_run_index", run_id=PARENT, keep_metrics=["loss", "epoch", "acc*"]).index) == ["epoch", "loss"]


def test_tables_images_texts_and_what_is_missing(workspace: LocalWorkspace) -> None:
    for fold, accuracies in enumerate(([0.7, 0.9], [0.8, 0.9])):
        run_id = f"{PARENT}_{fold}"
        workspace.log(run_id, [writing.table("accuracy_table", {"epoch": [1, 2], "accuracy": accuracies}), writing.image("plot", f"plot_{fold}.png")])
    workspace.log(f"{PARENT}_0", [writing.scalar("final", 0.5), writing.row("row", {"a": 1, "b": "x"}), writing.scalar("word", "yes")])
    found = aggregate_hyperdrive_metrics("child_run_index", run_id=PARENT, keep_metrics=["accuracy_table", "plot", "final", "row", "word"])
    assert rows(found.loc[["accuracy_table", "plot"]]) == {
        "accuracy_table": [{"epoch": [1, 2], "accuracy": [0.7, 0.9]}, {"epoch": [1, 2], "accuracy": [0.8, 0.9]}],
        "plot": ["plot_0.png", "plot_1.png"],
    }
    assert [found[0][name] for name in ("final", "row", "word")] == [0.5, {"a": 1, "b": "x"}, "yes"]
    assert all(math.isnan(found[1][name]) for name in ("final", "row", "word"))


def test_what_cannot_be(workspace: LocalWorkspace) -> None:
    with pytest.raises(ValueError, match="Which run is meant has to be said"):
        aggregate_hyperdrive_metrics("child_run_index")
    with pytest.raises(RunNotFound, match="No run 'nope'"):
        aggregate_hyperdrive_metrics("child_run_index", run_id="nope")
    with pytest.raises(RunNotFound) as swapped:
        aggregate_hyperdrive_metrics(PARENT, "child_run_index")
    assert f"The name of the argument comes first: aggregate_hyperdrive_metrics('child_run_index', '{PARENT}')?" in swapped.value.hint
    with pytest.raises(BadUsage, match="None of the runs has a hyperparameter, tag, parameter or argument 'fold'") as caught:
        aggregate_hyperdrive_metrics("fold", run_id=PARENT)
    assert caught.value.hint == "There are: child_run_index."
    with pytest.raises(ValueError, match=f"Run '{PARENT}_0' has no children"):
        aggregate_hyperdrive_metrics("child_run_index", run_id=f"{PARENT}_0")
    assert workspace.run(PARENT).status is RunStatus.completed


def test_a_sweep_of_azure_ml(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    azure_environment.write_config(project)
    monkeypatch.chdir(project)
    add_sweep(azure_environment, "hyper_1", [{"fold": 1}, {"fold": 0}], lambda _, values: {"loss": [float(values["fold"]), 0.5], "final": [2.0]})
    found = aggregate_hyperdrive_metrics("fold", run_id="hyper_1", aml_workspace=get_workspace())
    assert list(found.columns) == [0, 1]
    assert rows(found) == {"final": [2.0, 2.0], "loss": [[0.0, 0.5], [1.0, 0.5]]}


def test_without_pandas_the_line_that_installs_it_is_said() -> None:
    program = "from himl_cli import aggregate_hyperdrive_metrics as f\ntry: f('x', run_id='y')\nexcept ImportError as err: print(err.hint)"
    sources = Path(himl_cli.__file__).parent.parent
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, cwd=sources)  # himl alone
    assert done.stdout.strip() == f"Install it: pip install {shlex.quote(f'{sources}[frames]')}", done.stderr
