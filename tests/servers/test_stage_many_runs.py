"""Many runs at the double: trials put there at once, MLflow's searches and curves of them, and what a service may limit."""

from __future__ import annotations

import json
import math
from urllib.parse import quote

import pytest

from tests.servers.asking import Answer
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.servers.submitting import call

ODD = "val/dice größer 1"


def mlflow(azure: StagedWorkspace, method: str, path: str, body: dict[str, object] | None = None) -> Answer:
    return call(azure, method, f"https://{azure.state.data_plane_host}/mlflow/v2.0{azure.state.path}/api/2.0/mlflow/{path}", body)


@pytest.fixture
def swept(azure: StagedWorkspace) -> StagedWorkspace:
    """A workspace with a sweep of three trials: the first failed, the second has a curve with what is no number."""
    values = [{"lr": rate} for rate in (0.1, 0.01, 0.001)]
    curves = [{"accuracy": [0.1]}, {"accuracy": [0.2, 0.9, math.inf, math.nan]}, {"accuracy": [0.3, 0.4], ODD: [1e300]}]
    add_sweep(azure, "sweep_1", values, lambda index, _: curves[index], statuses={0: "Failed"})
    azure.add_run("other", "tuning")
    return azure


def search(azure: StagedWorkspace, **body: object) -> list[str]:
    """Ids on all pages."""
    found: list[str] = []
    token = None
    while token != "":
        experiment = azure.state.experiment("tuning").experiment_id
        answer = mlflow(azure, "POST", "runs/search", {"experiment_ids": [experiment], "page_token": token, **body}).json
        found += [run["info"]["run_id"] for run in answer["runs"]]
        token = answer.get("next_page_token", "")
    return found


def test_trials_that_were_put_there_are_like_those_that_ran(swept: StagedWorkspace) -> None:
    sweep = swept.state.runs["sweep_1"]
    assert [swept.state.runs[name].status for name in sweep.children] == ["Failed", "Completed", "Completed"]
    assert (sweep.properties["best_child_run_id"], sweep.properties["score"]) == ("sweep_1_1", "0.9")
    assert json.loads(sweep.tags["_aml_system_sweep_1_1"]) == {"lr": 0.01}


def test_trials_are_searched_by_their_parent_page_by_page(swept: StagedWorkspace) -> None:
    swept.state.page_size = 2
    for text in ("tags.mlflow.parentRunId = 'sweep_1'", "tags.`mlflow.parentRunId` = 'sweep_1'"):
        found = search(swept, filter=text, order_by=["attributes.start_time ASC"], max_results=1000)
        assert found == ["sweep_1_0", "sweep_1_1", "sweep_1_2"]
        assert search(swept, filter=text) == ["sweep_1_2", "sweep_1_1", "sweep_1_0"]
    assert search(swept, filter="metrics.accuracy > 0.3 and tags.mlflow.parentRunId = 'sweep_1'") == ["sweep_1_2"]


@pytest.mark.parametrize(
    "asked",
    [
        {"filter": "tags.kind != 'best'"},
        {"filter": "metrics.accuracy > 0.1 AND tags.`mlflow.rootRunId` LIKE 'sweep%'"},
        {"filter": "tags.kind = 'a' OR tags.kind = 'b'"},
        {"order_by": ["metrics.accuracy DESC"]},
        {"order_by": ["tags.kind"]},
    ],
)
def test_what_the_service_does_not_take_of_mlflow_is_refused(swept: StagedWorkspace, asked: dict[str, object]) -> None:
    experiment = swept.state.experiment("tuning").experiment_id
    assert mlflow(swept, "POST", "runs/search", {"experiment_ids": [experiment], **asked}).status == 400


def test_all_runs_of_one_root_are_found_at_once(swept: StagedWorkspace) -> None:
    swept.add_run("fold", "tuning", parent="sweep_1_0")
    assert {*search(swept, filter="tags.mlflow.rootRunId = 'sweep_1'")} == {"sweep_1", "sweep_1_0", "sweep_1_1", "sweep_1_2", "fold"}


def test_source_tags_are_dropped_on_create_and_kept_later(azure: StagedWorkspace) -> None:
    experiment = azure.state.experiment("tuning").experiment_id
    source = {"key": "mlflow.source.name", "value": "train.py"}
    run = mlflow(azure, "POST", "runs/create", {"experiment_id": experiment, "tags": [source, {"key": "kind", "value": "a"}]}).json["run"]
    run_id = run["info"]["run_id"]
    assert azure.state.runs[run_id].tags == {"kind": "a"}
    mlflow(azure, "POST", "runs/set-tag", {"run_id": run_id, **source})
    assert azure.state.runs[run_id].tags == {"kind": "a", "mlflow.source.name": "train.py"}


def test_a_search_may_lack_metrics_that_a_run_has(swept: StagedWorkspace) -> None:
    swept.state.search_lacks = ["accuracy"]
    runs = mlflow(swept, "POST", "runs/search", {"experiment_ids": [swept.state.experiment("tuning").experiment_id]}).json["runs"]
    assert [one["key"] for run in runs for one in run["data"]["metrics"]] == [ODD]
    assert mlflow(swept, "GET", "runs/get?run_id=sweep_1_0").json["run"]["data"]["metrics"]


def test_search_gives_last_values_with_odd_names_and_nan(swept: StagedWorkspace) -> None:
    runs = mlflow(swept, "POST", "runs/search", {"experiment_ids": [swept.state.experiment("tuning").experiment_id]}).json["runs"]
    last = {run["info"]["run_id"]: {one["key"]: one["value"] for one in run["data"]["metrics"]} for run in runs}
    assert last["sweep_1_1"] == {"accuracy": "NaN"}
    assert last["sweep_1_2"] == {"accuracy": 0.4, ODD: 1e300}
    swept.add_metric(swept.state.runs["sweep_1_2"], "accuracy", [0.5], steps=[9])
    told = mlflow(swept, "GET", "runs/get?run_id=sweep_1_2").json["run"]["data"]["metrics"]
    assert {one["key"]: one["value"] for one in told}["accuracy"] == 0.5


def test_a_curve_comes_in_pages_and_a_workspace_may_limit_them(swept: StagedWorkspace) -> None:
    path = "metrics/get-history?run_id=sweep_1_1&metric_key=accuracy&max_results="
    swept.state.most_history = 999
    assert [mlflow(swept, "GET", path + str(most)).status for most in (999, 1000, 25000)] == [200, 400, 400]
    swept.state.most_history = None
    swept.state.page_size = 3
    first = mlflow(swept, "GET", path + "25000").json
    assert [one["value"] for one in first["metrics"]] == [0.2, 0.9, "Infinity"]
    second = mlflow(swept, "GET", f"{path}25000&page_token={first['next_page_token']}").json
    assert ([one["value"] for one in second["metrics"]], "next_page_token" in second) == (["NaN"], False)
    assert mlflow(swept, "GET", f"metrics/get-history?run_id=sweep_1_2&metric_key={quote(ODD, safe='')}").json["metrics"][0]["value"] == 1e300


def test_bulk_history_is_served_only_where_workspace_has_it(swept: StagedWorkspace) -> None:
    path = "metrics/get-history-bulk?metric_key=accuracy&run_id=sweep_1_0&run_id=sweep_1_2"
    assert mlflow(swept, "GET", path).status == 404
    swept.state.bulk_history = True
    rows = mlflow(swept, "GET", path).json["metrics"]
    assert [(row["run_id"], row["step"], row["value"]) for row in rows] == [("sweep_1_0", 0, 0.1), ("sweep_1_2", 0, 0.3), ("sweep_1_2", 1, 0.4)]
    assert len(mlflow(swept, "GET", f"{path}&max_results=2").json["metrics"]) == 2
    assert mlflow(swept, "GET", "metrics/get-history-bulk?metric_key=accuracy").status == 400


def test_five_hundred_metrics_and_two_hundred_trials(azure: StagedWorkspace) -> None:
    names = [f"m/{number}" for number in range(500)]
    add_sweep(azure, "sweep_1", [{"lr": number} for number in range(200)], lambda index, _: {name: [index] for name in names[: 500 if index == 7 else 10]})
    run = mlflow(azure, "GET", "runs/get?run_id=sweep_1_7").json["run"]
    assert len(run["data"]["metrics"]) == 500
    assert len(search(azure, filter="tags.mlflow.parentRunId = 'sweep_1'")) == 200
