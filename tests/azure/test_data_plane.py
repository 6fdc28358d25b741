"""What the double's data plane does where no client of the vendor's looks: pages, refusals, rights, and one state for all planes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace


@dataclass(frozen=True)
class DataPlane:
    """Call it with a service, a path below the workspace and perhaps a body: the status and the JSON of the answer."""

    azure: StagedWorkspace
    session: requests.Session

    def __call__(self, method: str, service: str, path: str, body: Any = None, /, **query: str) -> tuple[int, Any]:
        version = "v1.0" if service in ("history", "data", "datastore") else "v2.0"
        url = f"https://{self.azure.state.data_plane_host}/{service}/{version}{self.azure.state.path}{path}"
        return self.link(method, url, body, **query)

    def link(self, method: str, url: str, body: Any = None, /, **query: str) -> tuple[int, Any]:
        answer = self.session.request(method, url, json=body, params=query, timeout=60)
        return answer.status_code, answer.json() if answer.content else None

    def arm(self, path: str) -> Any:
        return self.link("GET", f"https://management.azure.com{self.azure.state.path}{path}", **{"api-version": "2024-01-01-preview"})[1]


@pytest.fixture
def sign_in(azure_environment: StagedWorkspace) -> Iterator[Callable[..., DataPlane]]:
    """Call it, perhaps with rights, to get a caller that is signed in."""
    sessions: list[requests.Session] = []

    def signed_in(rights: set[Right] | None = None) -> DataPlane:
        principal = azure_environment.state.principal if rights is None else azure_environment.add_principal(rights)
        session = requests.Session()
        sessions.append(session)
        form = {"grant_type": "client_credentials", "client_id": principal.client_id, "client_secret": principal.secret}
        url = f"https://login.microsoftonline.com/{principal.tenant}/oauth2/v2.0/token"
        token = session.post(url, data={**form, "scope": "https://management.azure.com/.default"}, timeout=60).json()["access_token"]
        session.headers["Authorization"] = f"Bearer {token}"
        return DataPlane(azure_environment, session)

    yield signed_in
    for session in sessions:
        session.close()


@pytest.fixture
def ask(sign_in: Callable[..., DataPlane]) -> DataPlane:
    return sign_in()


def test_pages_of_a_query_give_every_run_once(ask: DataPlane) -> None:
    for number in range(7):
        ask.azure.add_run(f"r{number}", "exp")
    ask.azure.state.page_size = 3
    seen, token = [], None
    for _ in range(3):
        _, page = ask("POST", "history", "/experiments/exp/runs:query", {"top": 500, "orderby": "CreatedUtc desc", "continuationToken": token})
        seen += [run["runId"] for run in page["value"]]
        token = page["continuationToken"]
    assert (seen, token) == ([f"r{number}" for number in range(6, -1, -1)], None)


def test_children_and_artifacts_are_paged_by_next_link(ask: DataPlane) -> None:
    parent = ask.azure.add_run("parent", "exp")
    children = [ask.azure.add_run(f"c{number}", "exp", parent="parent").run_id for number in range(5)]
    names = ["a b", "a#b", "a/b", "b%41"]
    ask.azure.put_artifacts(parent, dict.fromkeys(names, b"x"))
    ask.azure.state.page_size = 2

    def all_of(url: str) -> list[dict[str, Any]]:
        found, link = [], url
        while link:
            status, page = ask.link("GET", link)
            assert status == 200, page
            assert len(page["value"]) <= 2
            found += page["value"]
            link = page["nextLink"]
        return found

    base = f"https://{ask.azure.state.data_plane_host}"
    path = ask.azure.state.path
    assert [run["runId"] for run in all_of(f"{base}/history/v1.0{path}/runs/parent/children?$orderby=RunId asc")] == children
    for listing in (f"history/v1.0{path}/experiments/exp/runs/parent/artifacts", f"artifact/v2.0{path}/artifacts/ExperimentRun/dcid.parent"):
        assert [one["path"] for one in all_of(f"{base}/{listing}")] == names
    by_run, by_container = "experiments/exp/runs/parent/artifacts/prefix/contentinfo?path=a", "artifacts/prefix/contentinfo/ExperimentRun/dcid.parent/a"
    for links in (f"history/v1.0{path}/{by_run}", f"artifact/v2.0{path}/{by_container}"):
        found = all_of(f"{base}/{links}")
        assert [one["path"] for one in found] == names[:3]
        assert [requests.get(one["contentUri"], timeout=60).content for one in found] == [b"x"] * 3


def test_metrics_come_in_pages_and_a_sample_keeps_the_ends(ask: DataPlane) -> None:
    run = ask.azure.add_run("run", "exp")
    ask.azure.add_metric(run, "loss", [float(number) for number in range(1000)])
    ask.azure.state.page_size = 600
    _, first = ask("POST", "metric", "/runs/run/full", {"metricName": "loss"})
    _, second = ask("POST", "metric", "/runs/run/full", {"metricName": "loss", "continuationToken": first["continuationToken"]})
    assert [row["data"]["loss"] for row in first["value"] + second["value"]] == [float(number) for number in range(1000)]
    assert second["continuationToken"] is None
    _, sample = ask("POST", "metric", "/runs/run/sample", {"metricName": "loss"})
    assert (sample["numValuesLogged"], len(sample["value"]), sample["value"][0]["step"], sample["value"][-1]["step"]) == (1000, 100, 0, 999)
    assert ask("POST", "metric", "/runs/run/full", {"metricName": "nope"})[0] == 404


def test_many_runs_are_asked_for_at_once(ask: DataPlane) -> None:
    ask.azure.add_run("a", "exp")
    ask.azure.add_run("b", "other")
    _, named = ask("POST", "history", "/experiments/exp/runs/runIds", {"runIds": ["a", "b"]})
    assert (list(named["runs"]), list(named["errors"])) == (["a"], ["b"])
    wishes = {key: {"runId": run, "selectRunMetadata": True} for key, run in {"1": "a", "2": "b", "3": "nope"}.items()}
    _, data = ask("POST", "history", "/batchrundata", {"requests": wishes})
    assert {key: one["runMetadata"]["runId"] for key, one in data["successfulResults"].items()} == {"1": "a", "2": "b"}
    assert list(data["failedResults"]) == ["3"]


def test_a_run_is_found_in_its_own_experiment_only(ask: DataPlane) -> None:
    run = ask.azure.add_run("a", "exp")
    other = ask.azure.state.experiment("other")
    for family in ("", "/experiments/exp", f"/experimentids/{run.experiment.experiment_id}", f"/experiments/{run.experiment.experiment_id}"):
        assert ask("GET", "history", f"{family}/runs/a")[0] == 200
    for family in ("/experiments/other", f"/experimentids/{other.experiment_id}", "/experiments/nope"):
        status, body = ask("GET", "history", f"{family}/runs/a")
        assert (status, body["error"]["innerError"]["code"]) == (404, "NotFoundError")


def test_tags_are_merged_and_properties_only_added(ask: DataPlane) -> None:
    run = ask.azure.add_run("a", "exp", tags={"x": "1"}, properties={"p": "1"})
    assert ask("PATCH", "history", "/runs/a", {"tags": {"y": "2"}, "properties": {"q": "2"}, "hidden": True})[0] == 200
    assert (run.tags, run.properties, run.hidden) == ({"x": "1", "y": "2"}, {"p": "1", "q": "2"}, True)
    assert ask("PATCH", "history", "/runs/a", {"properties": {"p": "other"}})[0] == 400
    assert ask("PATCH", "history", "/runs/a/tags", {"tagsToModify": {"z": "3"}, "tagsToDelete": ["x"]})[1]["tags"] == {"y": "2", "z": "3"}
    assert ask("PATCH", "history", "/runs/a", {"status": "Dancing"})[0] == 400
    assert ask("PATCH", "history", "/runs/unheard_of", {"tags": {}})[0] == 404


def test_history_and_the_control_plane_tell_the_same_of_a_run(ask: DataPlane) -> None:
    ask.azure.add_run("a", "exp", status="Running")
    assert ask("POST", "history", "/experiments/exp/runs/a/cancel")[1]["status"] == "Canceled"
    assert ask("PATCH", "history", "/runs/a", {"displayName": "named", "tags": {"x": "1"}})[0] == 200
    job = ask.arm("/jobs/a")["properties"]
    assert (job["status"], job["displayName"], job["tags"]) == ("Canceled", "named", {"x": "1"})
    assert [one["name"] for one in ask.arm("/jobs")["value"]] == ["a"]
    assert ask("PATCH", "history", "/runs/a", {"hidden": True})[0] == 200
    assert ask.arm("/jobs")["value"] == []


def test_who_may_only_read_changes_nothing(sign_in: Callable[..., DataPlane]) -> None:
    ask = sign_in({Right.READ})
    run = ask.azure.add_run("a", "exp")
    run_id = {"run_id": "a"}
    refused = [
        ask("PATCH", "history", "/runs/a", {"tags": {"x": "1"}}),
        ask("POST", "history", "/experiments/new"),
        ask("POST", "history", "/experiments/exp/runs/a/events", {"name": "Microsoft.MachineLearning.Run.Failed"}),
        ask("POST", "history", "/experiments/exp/runs/a/artifacts/batch/metadata", {"paths": [{"path": "x"}]}),
        ask("POST", "artifact", "/artifacts/batch/metadata/ExperimentRun/dcid.a", {"paths": [{"path": "x"}]}),
        ask("GET", "artifact", "/artifacts/write/ExperimentRun/dcid.a/x"),
        ask("POST", "metric", "/runs/a/batch", {"values": []}),
        ask("POST", "mlflow", "/api/2.0/mlflow/runs/set-tag", {**run_id, "key": "x", "value": "1"}),
        ask("POST", "mlflow", "/api/2.0/mlflow/runs/create", {"experiment_id": run.experiment.experiment_id}),
    ]
    assert [status for status, _ in refused] == [403] * len(refused)
    assert (run.tags, run.status, list(ask.azure.state.runs), list(ask.azure.state.experiments)) == ({}, "Completed", ["a"], ["exp"])
    assert ask("GET", "history", "/runs/a")[0] == 200


def test_artifacts_are_read_and_written_through_the_service(ask: DataPlane) -> None:
    run = ask.azure.add_run("a", "exp")
    status, links = ask("POST", "artifact", "/artifacts/batch/metadata/ExperimentRun/dcid.a", {"paths": [{"path": "x y"}]})
    written = links["artifactContentInformation"]["x y"]["contentUri"]
    assert (status, requests.put(written, data=b"1", headers={"x-ms-blob-type": "BlockBlob"}, timeout=60).status_code) == (200, 201)
    _, again = ask("GET", "artifact", "/artifacts/write/ExperimentRun/dcid.a/sub/z")
    assert requests.put(again["contentUri"], data=b"2", headers={"x-ms-blob-type": "BlockBlob"}, timeout=60).status_code == 201
    assert [blob.name for blob in ask.azure.state.storage.list("azureml", run.artifact_prefix)] == ["ExperimentRun/dcid.a/sub/z", "ExperimentRun/dcid.a/x y"]
    assert [one["path"] for one in ask("GET", "artifact", "/artifacts/ExperimentRun/dcid.a/sub/")[1]["value"]] == ["sub/z"]
    assert [one["path"] for one in ask("GET", "history", "/experiments/exp/runs/a/artifacts/path", path="x")[1]["value"]] == ["x y"]
    service = f"https://{ask.azure.state.data_plane_host}/artifact/v2.0{ask.azure.state.path}"
    assert ask.session.get(f"{service}/artifacts/content/ExperimentRun/dcid.a/x y", timeout=60).content == b"1"
    assert ask("GET", "artifact", "/artifacts/contentinfo/ExperimentRun/dcid.a/nope")[0] == 404
    assert ask("GET", "history", "/experiments/exp/runs/a/artifacts/contentinfo", path="nope")[0] == 404
    assert ask("POST", "artifact", "/artifacts/batch/metadata/ExperimentRun/dcid.a", {"paths": [{"path": str(n)} for n in range(51)]})[0] == 400


def test_run_token_is_valid_only_on_data_plane(ask: DataPlane) -> None:
    ask.azure.add_run("a", "exp")
    _, given = ask("GET", "history", "/experiments/exp/runs/a/token")
    ask.session.headers["Authorization"] = f"Bearer {given['token']}"
    assert ask("GET", "history", "/runs/a")[0] == 200
    assert ask.link("GET", f"https://management.azure.com{ask.azure.state.path}")[0] == 401


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "runs/get?run_id=nope", None, "RESOURCE_DOES_NOT_EXIST"),
        ("GET", "experiments/get?experiment_id=nope", None, "RESOURCE_DOES_NOT_EXIST"),
        ("GET", "experiments/get-by-name?experiment_name=nope", None, "RESOURCE_DOES_NOT_EXIST"),
        ("POST", "experiments/create", {"name": "exp"}, "RESOURCE_ALREADY_EXISTS"),
        ("POST", "runs/search", {"experiment_ids": ["EXP"], "filter": "this is no filter"}, "INVALID_PARAMETER_VALUE"),
        ("POST", "runs/log-parameter", {"run_id": "a", "key": "lr", "value": "2"}, "INVALID_PARAMETER_VALUE"),
        ("POST", "runs/delete-tag", {"run_id": "a", "key": "nope"}, "RESOURCE_DOES_NOT_EXIST"),
        ("POST", "runs/log-batch", {"run_id": "a", "metrics": [{"key": "x", "value": 1}] * 1001}, "INVALID_PARAMETER_VALUE"),
    ],
)
def test_mlflow_routes_refuse_in_mlflow_s_own_form(ask: DataPlane, method: str, path: str, body: dict[str, Any] | None, code: str) -> None:
    run = ask.azure.add_run("a", "exp", parameters={"lr": "1"})
    if body and body.get("experiment_ids"):
        body = {**body, "experiment_ids": [run.experiment.experiment_id]}
    status, answer = ask(method, "mlflow", f"/api/2.0/mlflow/{path}", body)
    assert (status >= 400, answer["error_code"]) == (True, code)


def test_a_search_of_mlflow_comes_in_pages(ask: DataPlane) -> None:
    runs = [ask.azure.add_run(f"r{number}", "exp") for number in range(5)]
    wish = {"experiment_ids": [runs[0].experiment.experiment_id], "max_results": 2, "order_by": ["attributes.run_id ASC"]}
    seen, token = [], None
    for _ in range(3):
        _, page = ask("POST", "mlflow", "/api/2.0/mlflow/runs/search", {**wish, "page_token": token})
        seen += [run["info"]["run_id"] for run in page["runs"]]
        token = page.get("next_page_token")
    assert (seen, token) == ([run.run_id for run in runs], None)


def test_an_output_s_asset_is_resolved_to_its_folder(ask: DataPlane) -> None:
    run = ask.azure.add_run("a", "exp")
    output = ask.azure.add_output(run, "predictions", {"x": b"1"})
    _, found = ask("POST", "data", "/dataversion/batchGetResolvedUris", {"values": [output.asset_id, "azureml://nope"]})
    assert {asset: one["uri"] for asset, one in found["values"].items()} == {output.asset_id: output.uri}
    asset = {"assetId": output.asset_id, "type": "UriFolder"}
    _, told = ask("POST", "history", "/rundata", {"runId": "a", "selectRunMetadata": True, "selectRunDefinition": True})
    assert told["runMetadata"]["outputs"]["predictions"] == asset
    meant = told["runDefinition"]["outputData"]["predictions"]["outputLocation"]["uri"]
    assert meant == {"path": "azureml://datastores/workspaceblobstore/paths/azureml/${{name}}/predictions/", "isFile": False}
    records = [ask("GET", "history", "/runs/a")[1], ask("POST", "history", "/experiments/exp/runs:query", {})[1]["value"][0]]
    assert [(record["inputs"], record["outputs"]) for record in records] == [(None, None)] * 2, "only `rundata` tells them"
    _, default = ask("POST", "data", "/dataversion/batchGetResolvedUris", {"values": [told["runMetadata"]["outputs"]["default"]["assetId"]]})
    assert next(iter(default["values"].values()))["uri"].endswith("/datastores/workspaceartifactstore/paths/ExperimentRun/dcid.a/")


def test_each_kind_of_asset_is_known_to_its_own_service(ask: DataPlane) -> None:
    run = ask.azure.add_run("a", "exp")
    model, data = ask.azure.add_output(run, "model", {"x": b"1"}, kind="CustomModel"), ask.azure.add_output(run, "data", {"x": b"1"})
    both = {"values": [model.asset_id, data.asset_id]}
    _, models = ask("POST", "modelregistry", "/models/batchGetResolvedUris", both)
    _, folders = ask("POST", "data", "/dataversion/batchGetResolvedUris", both)
    assert models == {"values": {model.asset_id: {"path": model.uri, "type": "CustomModel"}}}
    assert list(folders["values"]) == [data.asset_id]
