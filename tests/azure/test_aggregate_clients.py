"""The vendor's clients, unmodified, read the runs that `himl runs aggregate` puts side by side, and see the same numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.azure.conftest import client_python
from tests.azure.lab import Lab
from tests.servers.azureml.seeding import Number, StagedWorkspace
from tests.servers.azureml.state import Point, Run
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support.clients import AZUREML_CORE, AZUREML_MLFLOW
from tests.support.running import Himl

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment
SWEEP, EXPERIMENT = "bold_kite_sweep", "tuning"
ODD: dict[str, list[Number]] = {
    "large": [1e300, -1e300],
    "tiny": [5e-324],
    "third": [1 / 3],
    "inf": [math.inf],
    "val/größe 100%": [1.0, 2.0, 0.25],
    "flags": [True, False],
}


def fill(azure: StagedWorkspace) -> Run:
    """A sweep of four trials: all kinds of metrics, one trial that failed early, one that logged nothing."""
    curves: dict[int, dict[str, list[Number]]] = {
        0: {"loss": [1.0, 0.5, 0.25], **ODD},
        1: {"loss": [2.0, 1.5]},
        2: {},
        3: {"loss": [0.75], "nan": [1.0, math.nan]},
    }
    values = [{"lr": 0.1 / (number + 1), "depth": number % 2} for number in range(4)]
    sweep = add_sweep(azure, SWEEP, values, lambda index, _: curves[index], experiment=EXPERIMENT, statuses={1: "Failed", 2: "Canceled"})
    first = azure.state.runs[f"{SWEEP}_0"]
    azure.add_metric(first, "unordered", [0.5, 0.1, 0.9, 0.2], steps=[5, 1, 9, 2])
    azure.add_metric(first, "word", ["yes"])
    azure.add_table(first, "fruit", [{"size": 3.5, "count": 2.0}, {"size": 1.0, "count": 4.0}])
    place = f"aml://artifactId/ExperimentRun/{first.data_container_id}/plots/a.png"
    azure.add_metric(first, "plot", [place], kind="azureml.v1.image")
    first.metrics["plot"].columns = {"plot": "Artifact"}
    azure.add_metric(first, "sizes", [3.0, 2.0, 1.0], kind="azureml.v1.list")
    first.metrics["sizes"].points = [Point(point.data, None, point.created) for point in first.metrics["sizes"].points]
    return sweep


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    fill(azure_environment)
    azure_environment.write_config(project)
    return Lab(azure_environment, azure_environment.state.runs)


def told(lab: Lab, client: str, program: str, folder: Path) -> Any:
    return lab.program(client_python(client), program, folder, variables={"LAB_SWEEP": SWEEP, "LAB_EXPERIMENT": EXPERIMENT})


def children(himl: Himl, *options: str) -> dict[str, Any]:
    """The runs that `himl` puts side by side, by id."""
    return {child["id"]: child for child in himl.ok("runs", "aggregate", SWEEP, "--json", *options).json()["children"]}


def as_float(value: Any) -> float:
    return float(value)


def test_the_last_values_are_those_of_mlflow(lab: Lab, himl: Himl, tmp_path: Path) -> None:
    theirs, ours = told(lab, AZUREML_MLFLOW, "mlflow_metrics", tmp_path), children(himl)
    assert {*theirs} == {*ours} == {f"{SWEEP}_{number}" for number in range(4)}
    for run_id, run in theirs.items():
        mine = {name: value for name, value in ours[run_id]["last"].items() if name in run["last"] and name != "sizes"}
        assert repr({name: as_float(value) for name, value in sorted(mine.items())}) == repr(
            {name: as_float(value) for name, value in sorted(run["last"].items()) if name != "sizes"}
        )
        assert ours[run_id]["parameters"] == run["params"]
    assert ours[f"{SWEEP}_0"]["last"]["sizes"] == 1.0  # MLflow counts no rows of a list


def test_the_curves_are_those_of_mlflow(lab: Lab, himl: Himl, tmp_path: Path) -> None:
    theirs, ours = told(lab, AZUREML_MLFLOW, "mlflow_metrics", tmp_path), children(himl)
    for run_id, run in theirs.items():
        for name in {*run["curves"]} - {"sizes"}:
            series = ours[run_id]["series"][name]
            mine = zip(series["steps"], map(as_float, series["values"]), (round(time * 1000) for time in series["times"]), strict=True)
            assert repr(list(mine)) == repr(sorted((tuple(point) for point in run["curves"][name]), key=lambda point: (point[0], point[2]))), name


def test_all_else_is_that_of_azureml_core(lab: Lab, himl: Himl, tmp_path: Path) -> None:
    theirs, ours = told(lab, AZUREML_CORE, "azureml_core_metrics", tmp_path), children(himl)
    first, mine = theirs[f"{SWEEP}_0"]["metrics"], ours[f"{SWEEP}_0"]
    assert {*first} == {*mine["series"], *mine["texts"], *mine["tables"], *mine["images"], *mine["lists"]}
    assert first["fruit"] == {"size": [3.5, 1.0], "count": [2.0, 4.0]}
    assert mine["tables"]["fruit"] == [{"size": 3.5, "count": 2.0}, {"size": 1.0, "count": 4.0}]
    assert (first["word"], mine["texts"]["word"][0]["value"]) == ("yes", "yes")
    assert first["plot"].endswith(f"/{mine['images']['plot'][0]}")
    for name, series in mine["series"].items():
        expected = first[name] if isinstance(first[name], list) else [first[name]]
        assert sorted(map(repr, map(as_float, series["values"]))) == sorted(map(repr, map(as_float, expected))), name
    for number in (1, 2, 3):
        assert {*theirs[f"{SWEEP}_{number}"]["metrics"]} == {*ours[f"{SWEEP}_{number}"]["last"]}


def test_bulk_histories_change_nothing(lab: Lab, himl: Himl) -> None:
    one_by_one = children(himl)
    lab.azure.state.bulk_history = True
    assert children(himl) == one_by_one
    assert lab.azure.requests("get-history-bulk.* 200")
    lab.azure.state.bulk_history = False
    assert lab.azure.requests("get-history-bulk.* 404")
