"""`aggregate_hyperdrive_metrics`: a DataFrame as hi-ml's documents have it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import himl_cli
from himl_cli import aggregate_hyperdrive_metrics, fetch_run, get_workspace
from himl_cli.core.errors import BadUsage, RunNotFound
from himl_cli.core.logged import Logged, NewRun, RunEnd
from himl_cli.core.runs import RunStatus
from himl_cli.core.sweeps import HYPERPARAMETERS
from himl_cli.services import logged_values
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.recorded_runs import RecordedRuns
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.sweep_seeding import add_sweep

COMPLETED = RunEnd(RunStatus.completed)
PARENT = "crossval_1_aa"
CURVES: tuple[dict[str, list[float]], ...] = (
    {"epoch": [1, 2, 3], "accuracy": [0.7, 0.8, 0.9], "loss": [0.5, 0.4, 0.3]},
    {"epoch": [1, 2, 3], "accuracy": [0.71, 0.82, 0.91], "loss": [0.45, 0.37, 0.29]},
)


def scalars(name: str, values: Sequence[float]) -> list[Logged]:
    return [logged_values.scalar(name, value, step) for step, value in enumerate(values)]


@pytest.fixture
def workspace(project: Path, monkeypatch: pytest.MonkeyPatch) -> LocalWorkspace:
    """A cross-validation with two folds as hi-ml's documents show it, the second one made first."""
    found = RecordedRuns(project).workspace
    monkeypatch.chdir(project)
    found.start_run(NewRun(PARENT, "crossval"))
    for fold in (1, 0):
        child = found.start_run(NewRun(f"{PARENT}_{fold}", "crossval", parent=PARENT, tags={HYPERPARAMETERS: json.dumps({"child_run_index": fold})})).id
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


@pytest.mark.usefixtures("workspace")
def test_only_the_metrics_to_keep() -> None:
    assert list(aggregate_hyperdrive_metrics("child_run_index", run_id=PARENT, keep_metrics=["loss", "epoch", "acc*"]).index) == ["epoch", "loss"]


def test_tables_images_texts_and_what_is_missing(workspace: LocalWorkspace) -> None:
    for fold, accuracies in enumerate(([0.7, 0.9], [0.8, 0.9])):
        run_id = f"{PARENT}_{fold}"
        workspace.log(
            run_id, [logged_values.table("accuracy_table", {"epoch": [1, 2], "accuracy": accuracies}), logged_values.image("plot", f"plot_{fold}.png")]
        )
    workspace.log(f"{PARENT}_0", [logged_values.scalar("final", 0.5), logged_values.row("row", {"a": 1, "b": "x"}), logged_values.scalar("word", "yes")])
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
    assert done.stdout.strip() == "Install it: pip install pandas", done.stderr
