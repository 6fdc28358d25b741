"""Tests of the routes beyond those of the clients: errors, edge values, pages, limits, filters, orders, and arbitrary
requests.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from himl_cli.core.runs import RunStatus
from himl_cli.core.search import MODEL_ATTRIBUTES, BadSearch, Searchable, parse_filter, parse_order, sort_items
from himl_cli.workspaces.local.logged_values import series_of
from himl_cli.workspaces.local.run_store import now_ms
from himl_cli.workspaces.local.tracking.models import json_metrics_of
from himl_cli.workspaces.local.tracking.protocol import RequestError
from tests.support.folders import SmallDisk, files_below
from tests.support.hostile_texts import SECONDS, within
from tests.support.running import until
from tests.workspaces.tracking.tracked_job import API, INVALID, JOB, MISSING, PARENT, TrackedJob, tracked_job


def test_routes_have_several_prefixes_and_others_are_not_found(job: TrackedJob) -> None:
    for target in ("/", f"{API}runs", f"{API}registered-models/webhooks", "/api/3.0/mlflow/traces/tr-1/assessments"):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            assert job.send(method, target, b"{}").error == (404, "ENDPOINT_NOT_FOUND"), (method, target)
    for prefix in ("/api/2.0/mlflow", "/api/3.0/mlflow", "/ajax-api/2.0/mlflow", "/api/2.0/preview/mlflow"):
        assert job.send("GET", f"{prefix}/runs/get?run_id={JOB}").body["run"]["info"]["run_id"] == JOB


def test_a_run_of_another_job_does_not_exist(job: TrackedJob) -> None:
    routes: dict[str, dict[str, object]] = {
        **{route: {} for route in ("log-batch", "log-inputs", "outputs", "delete", "restore")},
        "update": {"status": "FINISHED"},
        "log-metric": {"key": "m", "value": 1},
        "log-parameter": {"key": "p", "value": "1"},
        "set-tag": {"key": "t", "value": "1"},
        "delete-tag": {"key": "t"},
        "log-model": {"model_json": "{}"},
    }
    for route, fields in routes.items():
        assert job.post(f"runs/{route}", run_id="other_1700000000_00000000", **fields).error == MISSING, route
        assert job.post(f"runs/{route}", **fields).error == INVALID, route
    assert (
        job.get("runs/get?run_id=nobody").error
        == job.get("metrics/get-history?run_id=nobody&metric_key=m").error
        == MISSING
    )
    assert job.get("runs/get").error == INVALID


def test_a_run_shows_its_info_its_names_and_its_user(job: TrackedJob) -> None:
    info = job.get(f"runs/get?run_id={JOB}").body["run"]["info"]
    wanted = {"run_id": JOB, "run_uuid": JOB, "run_name": "the job", "status": "RUNNING", "lifecycle_stage": "active"}
    assert {name: info[name] for name in wanted} == wanted
    assert (info["artifact_uri"].endswith(f"/runs%20with%20space%20%231/{JOB}/artifacts"), "end_time" in info) == (
        True,
        False,
    )
    child = job.new_child(tags={"mlflow.runName": "by tag"})
    assert job.run(child).display_name == "by tag"
    job.post("runs/update", run_id=child, run_name="by update")
    assert job.run(child).display_name == "by update"
    job.post("runs/set-tag", run_id=JOB, key="mlflow.runName", value="by set-tag")
    assert job.run().display_name == "by set-tag"
    tags = {tag["key"]: tag["value"] for tag in job.get(f"runs/get?run_id={JOB}").body["run"]["data"]["tags"]}
    assert tags == {"git": "abc", "mlflow.runName": "by set-tag"}
    job.post("runs/set-tag", run_id=JOB, key="mlflow.note.content", value="the **best**")
    assert job.run().description == "the **best**"
    assert job.run(job.new_child(tags={"mlflow.note.content": "a fold"})).description == "a fold"
    for child, user in (
        (job.new_child(user_id="ada"), "ada"),
        (job.new_child(tags={"mlflow.user": "eve"}, user_id="ada"), "eve"),
    ):
        assert job.run(child).tags == {"mlflow.user": user, PARENT: JOB}
        assert job.get(f"runs/get?run_id={child}").body["run"]["info"]["user_id"] == user


def test_only_a_client_of_a_child_decides_its_state(job: TrackedJob) -> None:
    child = job.new_child("child", start_time=1_700_000_000_000)
    for status, expected in (
        ("FINISHED", RunStatus.completed),
        ("FAILED", RunStatus.failed),
        ("RUNNING", RunStatus.running),
        ("KILLED", RunStatus.canceled),
    ):
        job.post("runs/update", run_id=child, status=status, end_time=1_700_000_060_000)
        job.post("runs/update", run_id=JOB, status=status, end_time=1_700_000_060_000)
        assert job.run(child).status is expected
        assert (job.run(child).ended is None) == (status == "RUNNING")
    assert job.run(child).duration == 60.0
    assert (job.run().status, job.run().ended) == (RunStatus.running, None)
    assert job.post("runs/update", run_id=child, status="DONE").error == INVALID


def test_deleted_child_run_is_restorable_until_server_closes(job: TrackedJob) -> None:
    kept, gone = job.new_child("kept"), job.new_child("gone")
    inner, stray = (
        job.new_child("inner", {"mlflow.parentRunId": gone}),
        job.new_child("stray", {"mlflow.parentRunId": "of another job"}),
    )
    assert [job.run(run_id).parent for run_id in (kept, inner, stray)] == [JOB, gone, JOB]
    for run_id in (kept, gone, inner):
        job.artifacts(run_id).mkdir(parents=True)
        (job.artifacts(run_id) / "file").touch()
    for run_id in (kept, gone):
        assert job.post("runs/delete", run_id=run_id).status == 200
    assert sorted(job.found()) == ["inner", "stray", "the job"]
    assert sorted(job.found(run_view_type="DELETED_ONLY")) == ["gone", "kept"]
    assert job.get(f"runs/get?run_id={gone}").body["run"]["info"]["lifecycle_stage"] == "deleted"
    assert job.post("runs/log-metric", run_id=gone, key="m", value=1).error == INVALID
    job.post("runs/restore", run_id=kept)
    assert job.post("runs/log-metric", run_id=kept, key="m", value=1).status == 200
    assert job.post("runs/delete", run_id=JOB).error == INVALID
    job.server.close()
    assert set(job.children()) == {"kept", "stray"}
    assert [(job.folder / run_id).exists() for run_id in (kept, gone, inner)] == [True, False, False]


def test_search_knows_the_job_itself_pages_and_refuses(job: TrackedJob) -> None:
    for number in range(3):
        child = job.new_child(f"c{number}", start_time=number + 1)
        job.post("runs/log-metric", run_id=child, key="m", value=["NaN", 5, 2][number])
    iris = {"dataset": {"name": "iris", "digest": "d"}, "tags": [{"key": "mlflow.data.context", "value": "train"}]}
    job.post("runs/log-inputs", run_id=child, datasets=[iris])
    assert job.found() == ["the job", "c2", "c1", "c0"]
    assert job.found(order_by=["metrics.m ASC"]) == ["c2", "c1", "c0", "the job"]
    assert job.found("dataset.name = 'iris' and datasets.context LIKE 'tr%'") == ["c2"]
    assert job.found("metrics.m > 1", max_results=1) == ["c2"]
    assert job.post("runs/search", experiment_ids=["999"]).body == {"runs": []}
    wrongs: dict[str, tuple[object, ...]] = {
        "max_results": (0, 50_001),
        "run_view_type": ("SOME",),
        "page_token": ("-1",),
    }
    for name, values in {**wrongs, "filter": (5, *texts(BAD)), "order_by": [[clause] for clause in BAD_ORDERS]}.items():
        for value in values:
            assert job.post("runs/search", **{name: value}).error == INVALID, (name, value)


def test_a_script_has_the_experiment_of_its_job_and_those_that_it_creates(job: TrackedJob) -> None:
    own = job.get("experiments/get?experiment_id=0").body["experiment"]
    assert (own["name"], own["lifecycle_stage"], own["experiment_id"]) == ("train", "active", "0")
    assert job.get("experiments/get-by-name?experiment_name=train").body == {"experiment": own}
    assert (
        job.get("experiments/get-by-name?experiment_name=x").error
        == job.get("experiments/get?experiment_id=5").error
        == MISSING
    )
    x = job.post("experiments/create", name="x", tags=[{"key": "k", "value": "v"}]).body["experiment_id"]
    assert (
        job.post("experiments/create", name="x").error
        == job.post("experiments/create", name="train").error
        == (400, "RESOURCE_ALREADY_EXISTS")
    )
    found = job.get("experiments/get-by-name?experiment_name=x").body["experiment"]
    assert (found["experiment_id"], found["name"], found["tags"]) == (x, "x", [{"key": "k", "value": "v"}])

    def names(**fields: object) -> list[str]:
        return [each["name"] for each in job.post("experiments/search", **fields).body["experiments"]]

    assert (names(), names(filter="name LIKE 't%'"), names(filter="tags.k = 'v'"), names(view_type="DELETED_ONLY")) == (
        ["x", "train"],
        ["train"],
        ["x"],
        [],
    )
    assert (names(order_by=["name"]), names(order_by=["name DESC"], max_results=1)) == (["train", "x"], ["x"])
    job.post("experiments/set-experiment-tag", experiment_id=x, key="k", value="w")
    assert job.get(f"experiments/get?experiment_id={x}").body["experiment"]["tags"] == [{"key": "k", "value": "w"}]
    job.post("experiments/delete-experiment-tag", experiment_id=x, key="k")
    assert job.get(f"experiments/get?experiment_id={x}").body["experiment"]["tags"] == []
    for action in ("update", "delete", "restore"):
        assert job.post(f"experiments/{action}", experiment_id=x, new_name="y").error == INVALID
    # A run is found in the experiment in which a script created it. In the workspace, it belongs to that of the job.
    child = job.new_child("child", experiment_id=x)
    assert (job.found(), job.found(experiment_ids=[x]), job.run(child).experiment) == (["the job"], ["child"], "train")
    assert job.get(f"runs/get?run_id={child}").body["run"]["info"]["experiment_id"] == x
    assert job.post("runs/create", experiment_id="5").error == MISSING
    model = job.post("logged-models", name="model", experiment_id=x).body["model"]["info"]
    assert model["experiment_id"] == x
    assert job.post("logged-models/search", experiment_ids=["0"]).body == {"models": []}


def test_the_first_run_of_a_rank_is_that_of_the_job(job: TrackedJob) -> None:
    tags = [{"key": key, "value": "v"} for key in ("team", "mlflow.source.name")]

    def created(rank: int, **fields: object) -> str:
        token = job.server.environment({}, str(rank))["MLFLOW_TRACKING_TOKEN"]
        body = json.dumps({"tags": tags, **fields}).encode()
        run_id: str = job.send("POST", f"{API}runs/create", body, {"Authorization": f"Bearer {token}"}).body["run"][
            "info"
        ]["run_id"]
        return run_id

    nested = job.new_child("nested")
    assert [job.run(nested).parent, created(0, run_name="named"), created(1)] == [JOB, JOB, JOB]
    later = created(0)
    assert (later in (JOB, nested), job.run(later).parent, created(2)) == (False, JOB, JOB)
    assert (job.run().display_name, job.run().tags) == ("named", {"git": "abc", "team": "v"})


TWO_RUNS = """
import http.client, json, sys
kept = []
for _ in range(2):
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    connection.request("POST", sys.argv[2], "{}", {"Authorization": f"Bearer {sys.argv[3]}"})
    print(json.loads(connection.getresponse().read())["run"]["info"]["run_id"])
    kept.append(connection)
"""


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(sys.platform != "linux", reason="NEEDS /proc")
def test_the_first_run_of_each_process_is_that_of_the_job(job: TrackedJob) -> None:
    command = [sys.executable, "-c", TWO_RUNS, str(job.server.port), f"{API}runs/create", job.secret]
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(2)]
    assert ([first for first, _ in found], JOB in {second for _, second in found}) == ([JOB, JOB], False)


def test_tags_are_unicode_and_deleted_once(job: TrackedJob) -> None:
    assert [job.post("runs/delete-tag", run_id=JOB, key="git").status for _ in range(2)] == [200, MISSING[0]]
    assert job.run().tags == {}
    for key, value in (("k", "\ud800"), ("\udfff", "v")):
        assert job.post("runs/set-tag", run_id=JOB, key=key, value=value).error == INVALID
    assert job.post("runs/set-tag", run_id=JOB, key="smile", value="\U0001f600 größer").status == 200
    assert job.run().tags == {"smile": "\U0001f600 größer"}
    job.post("runs/set-tag", run_id=JOB, key="mlflow.runName", value="named")
    assert [job.post("runs/delete-tag", run_id=JOB, key="mlflow.runName").status, job.run().display_name] == [200, ""]


def test_no_file_has_a_secret_of_a_tag_or_parameter(job: TrackedJob) -> None:
    secret = "hf_" + "q7Zx" * 9
    pairs = [{"key": "api_key", "value": secret}, {"key": "team", "value": "v"}]
    text = {"key": "mlflow.prompt.text", "value": "Rules for a password: have eight letters."}
    address = "https://data.example/iris?sig="
    iris = {"dataset": {"name": "iris", "digest": "d", "source": address + secret}, "tags": pairs}
    one = {"key": "note", "value": f"export HF_TOKEN={secret}"}
    logged = job.post("logged-models", name="net", source_run_id=JOB, tags=pairs, params=pairs)
    model = logged.body["model"]["info"]["model_id"]
    for method, route, fields in (
        ("PATCH", f"logged-models/{model}/tags", {"tags": [one]}),
        ("POST", f"logged-models/{model}/params", {"params": [one]}),
        ("POST", "registered-models/create", {"name": "net", "tags": pairs}),
        ("POST", "model-versions/create", {"name": "net", "source": "s", "tags": [*pairs, text]}),
        ("POST", "registered-models/set-tag", {"name": "net", **one}),
        ("POST", "model-versions/set-tag", {"name": "net", "version": "1", **one}),
        ("POST", "runs/log-inputs", {"run_id": JOB, "datasets": [iris]}),
        ("POST", "runs/log-batch", {"run_id": JOB, "tags": pairs, "params": pairs}),
    ):
        assert job.send(method, API + route, json.dumps(fields).encode()).status == 200, route
    assert [path for path in files_below(job.folder) if secret.encode() in path.read_bytes()] == []
    version = job.get("model-versions/get?name=net&version=1").body["model_version"]
    shown = {each["key"]: each["value"] for each in version["tags"]}
    assert shown == {"api_key": "***", "team": "v", "note": "export HF_TOKEN=***", text["key"]: text["value"]}
    (given,) = job.get(f"runs/get?run_id={JOB}").body["run"]["inputs"]["dataset_inputs"]
    assert given["dataset"]["source"] == f"{address}***"


def test_what_a_run_read_and_wrote_is_shown_with_it(job: TrackedJob) -> None:
    iris = {"dataset": {"name": "iris", "digest": "d", "source": "s"}, "tags": [{"key": "k", "value": "v"}]}
    for _ in range(2):
        job.post("runs/log-inputs", run_id=JOB, datasets=[iris], models=[{"model_id": "m-1"}])
        job.post("runs/outputs", run_id=JOB, models=[{"model_id": "m-2", "step": 3}])
    run = job.get(f"runs/get?run_id={JOB}").body["run"]
    assert run["inputs"] == {"dataset_inputs": [iris], "model_inputs": [{"model_id": "m-1"}]}
    assert run["outputs"] == {"model_outputs": [{"model_id": "m-2", "step": 3}]}


@pytest.mark.large("fills a disk")
def test_a_full_disk_is_told_at_once(small_disk: SmallDisk) -> None:
    if not small_disk.is_shared:
        pytest.skip("NEEDS a small disk that this process sees (root on Linux)")
    with tracked_job(small_disk.folder / "job") as job:
        replies = [job.post("runs/set-tag", run_id=JOB, key=f"t{number}", value="x" * 400_000) for number in range(20)]
        refused = next(reply for reply in replies if reply.status != 200)
        assert refused.error == (507, "INTERNAL_ERROR")
        assert "No space left" in refused.body["message"]
        assert job.get(f"runs/get?run_id={JOB}").status == 200


def test_values_steps_and_times_that_fit_are_kept(job: TrackedJob) -> None:
    kept: dict[object, float] = {
        "NaN": math.nan,
        "Infinity": math.inf,
        "-Infinity": -math.inf,
        1: 1.0,
        "0.5": 0.5,
        1e308: 1e308,
    }
    for number, (sent, number_kept) in enumerate(kept.items()):
        job.post("runs/log-metric", run_id=JOB, key=f"m{number}", value=sent)
        assert job.values(f"m{number}") == [pytest.approx(number_kept, nan_ok=True)], sent
    data = {
        metric["key"]: metric["value"] for metric in job.get(f"runs/get?run_id={JOB}").body["run"]["data"]["metrics"]
    }
    assert data == {"m0": "NaN", "m1": "Infinity", "m2": "-Infinity", "m3": 1.0, "m4": 0.5, "m5": 1e308}
    wrongs: tuple[object, ...] = (True, "much", None, [])
    for wrong in wrongs:
        assert job.post("runs/log-metric", run_id=JOB, key="m", value=wrong).error == INVALID, wrong
    assert job.values("m") == []
    fit: dict[str, tuple[object, ...]] = {
        "step": ("5", -(2**63), 2**63 - 1, 5.0),
        "timestamp": (0, 253_370_764_799_999),
    }
    unfit: dict[str, tuple[object, ...]] = {
        "step": (2**63, 5.5, True, "five", "٥"),
        "timestamp": (1_700_000_000_000_000_000, -1),
    }
    for name in fit:
        for number, value in enumerate(fit[name]):
            key = f"{name}{number}"
            assert job.post("runs/log-metric", run_id=JOB, key=key, value=1, **{name: value}).status == 200, value
            history = job.get(f"metrics/get-history?run_id={JOB}&metric_key={key}").body["metrics"]
            assert [point[name] for point in history] == [int(str(value).removesuffix(".0"))]
        for value in unfit[name]:
            assert job.post("runs/log-metric", run_id=JOB, key="unfit", value=1, **{name: value}).status == 400, value
    assert job.values("unfit") == []


def test_points_have_an_order_and_are_kept_once(job: TrackedJob) -> None:
    # The clock was set back between the values of step 7.
    for step, time, value in ((5, 10, 0.5), (7, 10, 0.7), (7, 12, 0.8), (7, 11, 0.9), (6, 99, 0.6)):
        job.post("runs/log-metric", run_id=JOB, key="m", value=value, step=step, timestamp=time)
    data = job.get(f"runs/get?run_id={JOB}").body["run"]["data"]["metrics"]
    assert data == [{"key": "m", "value": 0.9, "timestamp": 11, "step": 7}]
    assert job.values("m") == [0.5, 0.6, 0.7, 0.8, 0.9]
    points = [{"key": "n", "value": value, "step": step, "timestamp": 1} for step, value in enumerate([1, "NaN", 3])]
    model = job.post("logged-models", name="model", source_run_id=JOB).body["model"]["info"]["model_id"]
    of_model = [{**point, "model_id": model} for point in points]
    for metrics in (points, points, points[:2], of_model, of_model, [{**points[2], "step": 3}]):
        assert job.post("runs/log-batch", run_id=JOB, metrics=metrics).status == 200
    assert job.values("n") == [1, pytest.approx(math.nan, nan_ok=True), 3, 3]
    assert len(job.get(f"logged-models/{model}").body["model"]["data"]["metrics"]) == 3


def test_history_comes_in_pages_and_an_interval_is_thinned(job: TrackedJob) -> None:
    job.post(
        "runs/log-batch",
        run_id=JOB,
        metrics=[{"key": "m", "value": step, "step": step, "timestamp": 1} for step in range(5)],
    )
    seen: list[float] = []
    token = ""
    for _ in range(3):
        page = job.get(f"metrics/get-history?run_id={JOB}&metric_key=m&max_results=2&page_token={token}").body
        seen += [point["value"] for point in page["metrics"]]
        token = page.get("next_page_token", "")
    assert (seen, token) == ([0, 1, 2, 3, 4], "")
    assert "next_page_token" not in job.get(f"metrics/get-history?run_id={JOB}&metric_key=m&max_results=5").body
    assert job.get(f"metrics/get-history?run_id={JOB}&metric_key=none").body == {"metrics": []}
    assert job.get(f"metrics/get-history?run_id={JOB}&metric_key=m&page_token=x").error == INVALID
    assert job.get(f"metrics/get-history?run_id={JOB}&metric_key=m&max_results=0").error == INVALID


def test_a_batch_has_mlflows_limits(job: TrackedJob) -> None:
    kept = 0
    for what, most in (("metrics", 1000), ("params", 100), ("tags", 100)):
        items = [{"key": f"k{number}", "value": number if what == "metrics" else "v"} for number in range(most + 1)]
        assert job.post("runs/log-batch", run_id=JOB, **{what: items}).status == 400
        assert len(job.metric_store.metrics([JOB])) + len(job.parameters()) == kept
        assert job.post("runs/log-batch", run_id=JOB, **{what: items[:-1]}).status == 200
        kept += most if what != "tags" else 0
    assert (len(job.metric_store.metrics([JOB])), len(job.parameters()), len(job.run().tags)) == (1000, 100, 101)


def test_a_batch_with_a_changed_parameter_is_refused_whole(job: TrackedJob) -> None:
    job.post("runs/log-parameter", run_id=JOB, key="p", value="1")
    for params in (
        [{"key": "q", "value": "1"}, {"key": "p", "value": "2"}],
        [{"key": "r", "value": "1"}, {"key": "r", "value": "2"}],
    ):
        reply = job.post(
            "runs/log-batch",
            run_id=JOB,
            metrics=[{"key": "m", "value": 1}],
            params=params,
            tags=[{"key": "t", "value": "1"}],
        )
        assert reply.error == INVALID
    assert (job.parameters(), job.values("m"), job.run().tags) == ({"p": "1"}, [], {"git": "abc"})


def test_a_repeated_batch_is_stored_once(job: TrackedJob) -> None:
    points = [
        {"key": "m", "value": value, "step": step, "timestamp": 1}
        for step, value in enumerate([1, "NaN", "Infinity", 4])
    ]
    for metrics in (points, points, points[:2], [{**points[0], "value": 2}]):
        assert job.post("runs/log-batch", run_id=JOB, metrics=metrics).status == 200
    assert job.values("m") == [1, 2, pytest.approx(math.nan, nan_ok=True), math.inf, 4]


@pytest.mark.large("takes long, and other tests run its branches")
def test_the_work_of_a_write_does_not_grow_with_the_values_before_it(job: TrackedJob) -> None:
    model = job.post("logged-models", name="model", source_run_id=JOB).body["model"]["info"]["model_id"]
    child, numbers = job.new_child("child"), range(1000)
    for run_id, name in ((JOB, "few"), (child, "own")):
        job.post("runs/log-metric", run_id=run_id, key=name, value=1)
    assert series_of(job.store.database, [JOB], "own") == {}, "the values of a nested run are not those of its parent"
    batches = [
        {"metrics": [{"key": f"name {number}", "value": 1} for number in numbers]},
        *(
            {"metrics": [{"key": "m", "value": n, "step": n, "timestamp": k, "model_id": model} for n in numbers]}
            for k in (1, 2, 3)
        ),
        *(
            {what: [{"key": f"p{100 * k + n}", "value": "1"} for n in range(100)]}
            for k in range(20)
            for what in ("params", "tags")
        ),
    ]
    writes: dict[str, dict[str, object]] = {
        "runs/log-metric": {"key": "m", "value": 1, "model_id": model},
        "runs/log-parameter": {"key": "own", "value": "1"},
        "runs/set-tag": {"key": "own", "value": "1"},
        "runs/delete-tag": {"key": "own"},
        "runs/log-batch": {"metrics": [{"key": "m", "value": 2}], "params": [{"key": "other", "value": "1"}]},
        "runs/log-inputs": {"datasets": [{"dataset": {"name": "iris", "digest": "d"}}]},
        "logged-models": {"name": "model", "source_run_id": JOB},
    }
    work = Counter[str]()

    def count(*event: object) -> None:
        work["steps"] += not event
        work["calls"] += bool(event) and event[1] in ("call", "c_call")

    def measured() -> dict[str, int]:
        """Return the calls of functions for each write, and the instructions of SQLite in units of ten."""
        found = {}
        for route, fields in writes.items():
            work.clear()
            assert job.post(route, run_id=JOB, **fields).status == 200, route
            found[route] = work.total()
        work.clear()
        assert len(job.get(f"metrics/get-history?run_id={JOB}&metric_key=few").body["metrics"]) == 1
        found["the history of one metric"] = work.total()
        work.clear()
        assert list(series_of(job.store.database, [JOB, child], "few")[JOB].values) == [1]
        found["the curve of one metric"] = work["steps"]
        return found

    with job.store.database.writing() as connection:
        connection.set_progress_handler(count, 10)
    threading.setprofile(count)
    measured()
    before = measured()
    threading.setprofile(None)
    for batch in batches:
        assert job.post("runs/log-batch", run_id=JOB, **batch).status == 200
    many = [{"dataset": {"name": f"data {number}", "digest": "d"}} for number in range(100)]
    job.post("runs/log-inputs", run_id=JOB, datasets=many)
    for _ in range(40):
        job.post("logged-models", name="model", source_run_id=JOB)
    threading.setprofile(count)
    after = measured()
    threading.setprofile(None)
    assert {route: after[route] for route in after if after[route] > 2 * before[route] + 10} == {}, before


def test_models_of_mlflow_2_are_remembered_in_a_tag(job: TrackedJob) -> None:
    for number in range(2):
        assert job.post("runs/log-model", run_id=JOB, model_json=json.dumps({"number": number})).status == 200
    assert json.loads(job.run().tags["mlflow.log-model.history"]) == [{"number": 0}, {"number": 1}]
    for wrong in ("[]", "{", '"' + "[" * 100_000):
        assert job.post("runs/log-model", run_id=JOB, model_json=wrong).error == INVALID


def test_logged_models_live_in_the_runs_artifacts(job: TrackedJob) -> None:
    child = job.new_child("child")
    (job.artifacts(child) / "taken").mkdir(parents=True)
    names = ["model", "Model", "taken", "model"]
    models = [job.post("logged-models", name=name, source_run_id=child).body["model"]["info"] for name in names]
    folders = [info["artifact_uri"].removeprefix(job.artifacts(child).as_uri() + "/") for info in models]
    assert folders == ["model", "Model-2", "taken-2", "model-3"]
    first = models[0]["model_id"]
    assert models[0]["status"] == "LOGGED_MODEL_PENDING"
    ready = job.send(
        "PATCH", f"{API}logged-models/{first}", json.dumps({"model_id": first, "status": "LOGGED_MODEL_READY"}).encode()
    )
    assert ready.body["model"]["info"]["status"] == "LOGGED_MODEL_READY"
    job.send(
        "PATCH",
        f"{API}logged-models/{first}/tags",
        b'{"tags": [{"key": "a/b", "value": "1"}, {"key": "c", "value": "2"}]}',
    )
    job.send("DELETE", f"{API}logged-models/{first}/tags/a%2Fb")
    job.post(f"logged-models/{first}/params", params=[{"key": "p", "value": "1"}])
    seen = job.get(f"logged-models/{first}").body["model"]
    assert (seen["info"]["tags"], seen["data"]["params"]) == (
        [{"key": "c", "value": "2"}],
        [{"key": "p", "value": "1"}],
    )
    assert job.send("DELETE", f"{API}logged-models/{first}").status == 200
    assert job.get(f"logged-models/{first}").error == MISSING
    assert job.get(f"logged-models/{first}?allow_deleted=true").status == 200
    for name in ("..", "a/b", "a\\b", "c:", "a.b", "x\n", "\x00", "n" * 201, 5):
        assert job.post("logged-models", name=name).error == INVALID, name


def test_a_later_attempt_has_what_earlier_ones_recorded(tmp_path: Path) -> None:
    iris, digits = ({"dataset": {"name": name, "digest": "d"}, "tags": []} for name in ("iris", "digits"))
    with tracked_job(tmp_path) as job:
        child, kept, resumed, other = (job.new_child(name) for name in ("child", "kept", "", ""))
        for run_id in (JOB, child):
            job.post(
                "runs/log-batch", run_id=run_id, params=[{"key": "start", "value": "0"}, {"key": "lr", "value": "1"}]
            )
            job.post(
                "runs/log-batch",
                run_id=run_id,
                metrics=[{"key": "m", "value": step, "step": step} for step in range(5)],
            )
        job.post("runs/log-inputs", run_id=child, datasets=[iris])
        model = job.post("logged-models", name="net", source_run_id=child, tags=[{"key": "t", "value": "1"}]).body[
            "model"
        ]["info"]
        job.post("runs/log-metric", run_id=child, key="acc", value="NaN", step=1, model_id=model["model_id"])
        # The model's metrics are stored at once, as the job may be killed.
        assert [point["run_id"] for point in json_metrics_of(job.metric_store, model["model_id"])] == [child]
    with tracked_job(tmp_path) as job:
        for run_id in (JOB, child):
            found = {
                point["key"]: point["value"]
                for point in job.get(f"runs/get?run_id={run_id}").body["run"]["data"]["metrics"]
            }
            assert found["m"] == 4
            for value, answer in (("3", 200), ("3", 200), ("5", 400)):
                assert job.post("runs/log-parameter", run_id=run_id, key="start", value=value).status == answer
            job.post(
                "runs/log-batch",
                run_id=run_id,
                metrics=[{"key": "m", "value": 10 + step, "step": step} for step in range(3)],
            )
            found = {
                point["key"]: point["value"]
                for point in job.get(f"runs/get?run_id={run_id}").body["run"]["data"]["metrics"]
            }
            assert (found["m"], job.values("m", run_id), job.parameters(run_id)) == (
                12,
                [10, 11, 12],
                {"lr": "1", "start": "3"},
            )
        job.post("runs/log-inputs", run_id=child, datasets=[digits])
        job.post("runs/outputs", run_id=child, models=[{"model_id": model["model_id"], "step": 3}])
        assert job.get(f"runs/get?run_id={child}").body["run"]["inputs"]["dataset_inputs"] == [iris, digits]
        # A run counts until a later attempt nests another one of its name.
        again = [job.new_child(name) for name in ("other", "child")]
        job.post("runs/update", run_id=resumed, status="RUNNING")
        assert [run_id for run_id, _ in job.store.nested_in([JOB])] == [kept, resumed, other, *again]
        job.store.rename(kept, "by a user", by_script=False)
        assert [job.run(run_id).tags.get("himl.try") for run_id in (kept, resumed, *again)] == [None, "2", "2", "2"]
        assert (job.run(child).status, job.run(child).tags["himl.repeated_by"]) == (RunStatus.failed, "2")
        later = job.post("logged-models", name="net", source_run_id=child).body["model"]["info"]
        assert later["artifact_uri"].endswith("/net-2")
    with tracked_job(tmp_path) as job:
        found_model = job.get(f"logged-models/{model['model_id']}").body["model"]
        assert found_model["info"] == model
        assert [(point["key"], point["value"], point["run_id"]) for point in found_model["data"]["metrics"]] == [
            ("acc", "NaN", child)
        ]
        experiment = "0"
        listed = job.post("logged-models/search", experiment_ids=[experiment]).body["models"]
        assert [each["info"]["model_id"] for each in listed] == [later["model_id"], model["model_id"]]
        assert job.post("runs/log-parameter", run_id=JOB, key="start", value="6").status == 200


def test_models_are_searched_by_what_was_logged_of_them(job: TrackedJob) -> None:
    ids = [
        job.post("logged-models", name=name, source_run_id=JOB).body["model"]["info"]["model_id"]
        for name in ("one", "two")
    ]
    job.post(
        "runs/log-metric", run_id=JOB, key="acc", value=0.9, model_id=ids[1], dataset_name="iris", dataset_digest="d"
    )
    job.post("runs/log-metric", run_id=JOB, key="acc", value="NaN", model_id=ids[0])

    def found(**fields: object) -> list[str]:
        reply = job.post("logged-models/search", **{"experiment_ids": ["0"], **fields})
        assert reply.status == 200, reply
        return [model["info"]["name"] for model in reply.body["models"]]

    assert found(filter="metrics.acc > 0.5") == ["two"]
    assert found(filter="name = 'one' and source_run_id = '" + JOB + "'") == ["one"]
    assert found(order_by=[{"field_name": "metrics.acc", "ascending": False}]) == ["two", "one"]
    assert found(order_by=[{"field_name": "name"}], max_results=1) == ["one"]
    assert found(order_by=[{"field_name": "creation_time", "ascending": False}]) == ["two", "one"]
    assert found(experiment_ids=["5"]) == []
    for number, values in enumerate(((1, 2), (2, 1))):
        for name, value in zip(("cells", "scans"), values, strict=True):
            logged = {"key": "dice", "value": value, "dataset_name": name, "dataset_digest": f"of {name}"}
            job.post("runs/log-metric", run_id=JOB, model_id=ids[number], **logged)
    for name, names in (("cells", ["one", "two"]), ("scans", ["two", "one"])):
        by_name, by_digest = {"dataset_name": name}, {"dataset_digest": f"of {name}"}
        for dataset in (by_name, by_digest, {**by_name, **by_digest}):
            assert found(order_by=[{"field_name": "metrics.dice", **dataset}]) == names, dataset
    iris = {"dataset_name": "iris"}
    assert (
        found(datasets=[iris])
        == found(datasets=[{**iris, "dataset_digest": "d"}])
        == found(filter="metrics.acc > 0.5", datasets=[iris])
        == ["two"]
    )
    assert (
        found(datasets=[{**iris, "dataset_digest": "other"}])
        == found(filter="metrics.acc > 0.95", datasets=[iris])
        == []
    )
    assert job.get(f"logged-models/{ids[1]}").body["model"]["data"]["metrics"][0]["dataset_name"] == "iris"
    assert job.post("logged-models/search", filter="colour = 'x'").error == INVALID
    job.send("DELETE", f"{API}logged-models/{ids[0]}")
    assert found() == ["two"]


def test_missing_entities_are_named_as_in_mlflow(job: TrackedJob) -> None:
    job.post("registered-models/create", name="m")
    cases = {
        "runs/get?run_id=r": "Run with id=r not found",
        "metrics/get-history?run_id=r&metric_key=m": "Run with id=r not found",
        "experiments/get?experiment_id=7": "No Experiment with id=7 exists",
        "experiments/get-by-name?experiment_name=e": "Could not find experiment with name 'e'",
        "logged-models/m-1": "Logged model with ID 'm-1' not found.",
        "registered-models/get?name=n": "Registered Model with name=n not found",
        "model-versions/get?name=m&version=3": "Model Version (name=m, version=3) not found",
        "traces/tr-1/info": "Trace with ID 'tr-1' not found.",
    }
    for route, message in cases.items():
        reply = job.get(route)
        assert (reply.error, reply.body["message"]) == (MISSING, message), route
    others = {
        "registered-models/alias?name=m&alias=a": "Registered model alias a not found.",
        "model-versions/get?name=m&version=x": "Parameter 'version' must be an integer, got 'x'.",
        "runs/get": "Missing value for required parameter 'run_id'.",
    }
    for route, message in others.items():
        reply = job.get(route)
        assert (reply.error, reply.body["message"]) == (INVALID, message), route
    job.post("traces", trace={"trace_info": {"trace_id": "tr-2"}})
    no_tag = job.send("DELETE", f"{API}traces/tr-2/tags?key=t")
    assert (no_tag.error, no_tag.body["message"]) == (MISSING, "No trace tag with key 't' for trace with ID 'tr-2'")
    no_tag = job.post("experiments/delete-experiment-tag", experiment_id="0", key="t")
    assert (no_tag.error, no_tag.body["message"]) == (MISSING, "No tag with name: t in experiment with id 0")
    assert (
        job.post("runs/delete-tag", run_id=JOB, key="t").body["message"] == f"No tag with name: t in run with id {JOB}"
    )
    assert job.post("registered-models/create", name="m").body["message"] == "Registered Model (name=m) already exists."


def test_the_registry_has_mlflows_orders_aliases_and_prompts(job: TrackedJob) -> None:
    for name, tags in (("model", []), ("prompt", [{"key": "mlflow.prompt.is_prompt", "value": "true"}])):
        job.post("registered-models/create", name=name, tags=tags)
        job.post("model-versions/create", name=name, source="s", tags=tags)

    def names(what: str, filter: str = "") -> list[str]:
        return [each["name"] for each in job.get(f"{what.replace('_', '-')}/search?filter={quote(filter)}").body[what]]

    for what in ("registered_models", "model_versions"):
        assert (
            names(what),
            names(what, "tags.`mlflow.prompt.is_prompt` = 'true'"),
            names(what, "name = 'prompt'"),
        ) == (["model"], ["prompt"], [])
    job.post("model-versions/create", name="model", source="s")
    before = job.get("model-versions/get?name=model&version=1").body["model_version"]["last_updated_timestamp"]
    until(lambda: now_ms() > before + 1)
    body = json.dumps({"name": "model", "version": "1", "description": "changed"}).encode()
    assert (
        job.send("PATCH", f"{API}model-versions/update", body).body["model_version"]["last_updated_timestamp"] > before
    )
    assert [each["version"] for each in job.get("model-versions/search").body["model_versions"]] == ["1", "2"], (
        "the last changed first"
    )
    job.post("registered-models/create", name="another")
    job.post("model-versions/create", name="another", source="s")
    found = job.get("model-versions/search?order_by=version_number+ASC").body["model_versions"]
    assert [(each["name"], each["version"]) for each in found] == [("another", "1"), ("model", "1"), ("model", "2")]
    by_time = job.get("registered-models/search?order_by=timestamp+DESC").body["registered_models"]
    assert [each["name"] for each in by_time] == ["another", "model"]
    logged = job.post("logged-models", name="net", source_run_id=JOB).body["model"]["info"]["model_id"]
    job.post("registered-models/create", name="later")
    for model_id in (logged, logged, "m-of-another-job"):
        assert job.post("model-versions/create", name="later", source="s", model_id=model_id).status == 200
    (tag,) = job.get(f"logged-models/{logged}").body["model"]["info"]["tags"]
    assert tag == {
        "key": "mlflow.modelVersions",
        "value": '[{"name": "later", "version": 1}, {"name": "later", "version": 2}]',
    }
    time = job.get("registered-models/get?name=model").body["registered_model"]["last_updated_timestamp"]
    assert time < job.get("model-versions/get?name=model&version=1").body["model_version"]["last_updated_timestamp"]
    for alias, status in (("best-1", 200), ("latest", 400), ("v2", 400), ("a b", 400), ("best", 404)):
        version = "1" if alias != "best" else "9"
        assert job.post("registered-models/alias", name="model", alias=alias, version=version).status == status, alias
    for alias, number in (("best-1", "1"), ("latest", "2"), ("Latest", "2")):
        found = job.get(f"registered-models/alias?name=model&alias={alias}").body["model_version"]
        assert found["version"] == number, alias
    job.post("registered-models/create", name="empty")
    assert job.get("registered-models/alias?name=empty&alias=latest").error == INVALID


def test_fields_of_the_wrong_form_are_refused_with_their_name(job: TrackedJob) -> None:
    dataset = {"dataset": {"name": "", "digest": "d"}}
    two_names: dict[str, object] = {"run_name": "a", "tags": [{"key": "mlflow.runName", "value": "b"}]}
    missing: list[tuple[str, str, dict[str, object]]] = [
        ("runs/set-tag", "key", {"value": "v"}),
        ("runs/set-tag", "key", {"key": "", "value": "v"}),
        ("runs/delete-tag", "key", {}),
        ("runs/log-batch", "key", {"params": [{}]}),
        ("runs/log-inputs", "name", {"datasets": [dataset]}),
        ("runs/log-inputs", "model_id", {"models": [{}]}),
        ("runs/outputs", "model_id", {"models": [{}]}),
        ("runs/log-model", "model_json", {}),
        ("experiments/set-experiment-tag", "key", {"value": "v"}),
        ("experiments/delete-experiment-tag", "key", {}),
        ("registered-models/get-latest-versions", "name", {}),
        ("model-versions/create", "source", {"name": "n"}),
    ]
    wrongs: list[tuple[str, str, dict[str, object]]] = [
        ("runs/set-tag", "Parameter 'key' must be a string.", {"key": 5, "value": "v"}),
        ("runs/update", "Parameter 'status' must be a string.", {"status": 5}),
        ("runs/log-batch", "Parameter 'metrics' must be a list of objects.", {"metrics": [5]}),
        ("runs/log-inputs", "Parameter 'datasets' must be a list of objects.", {"datasets": {}}),
        ("logged-models", "Parameter 'source_run_id' must be a string.", {"source_run_id": 5}),
        ("registered-models/create", "Invalid model name 'a/b'. Names cannot contain '/' or ':'.", {"name": "a/b"}),
        ("experiments/create", "Invalid experiment name: ''", {}),
        ("runs/create", "The tag 'mlflow.runName' must be the run_name 'a', if both are set.", two_names),
        ("registered-models/create", "Parameter 'description' must be a string.", {"name": "n", "description": 5}),
        (
            "model-versions/create",
            "Parameter 'tags' must be a list of objects.",
            {"name": "n", "source": "x", "tags": 5},
        ),
        *((route, f"Missing value for required parameter '{name}'.", fields) for route, name, fields in missing),
    ]
    for route, message, fields in wrongs:
        reply = job.post(route, **({"run_id": JOB} if route.startswith("runs/") else {}), **fields)
        assert (reply.error, reply.body["message"]) == (INVALID, message), route
    assert (
        job.get(f"metrics/get-history?run_id={JOB}").body["message"]
        == "Missing value for required parameter 'metric_key'."
    )
    model = job.post("logged-models", name="model").body["model"]["info"]["model_id"]
    assert job.send("PATCH", f"{API}logged-models/{model}", b'{"status": "DONE"}').error == INVALID
    assert job.send("DELETE", f"{API}logged-models/{model}/tags/none").error == MISSING
    job.post("registered-models/create", name="registered")
    job.post("model-versions/create", name="registered", source=f"models:/{model}")
    assert (
        job.post("model-versions/transition-stage", name="registered", version="1", stage="up")
        .body["message"]
        .startswith("Invalid stage 'up'.")
    )
    change = {"name": "registered", "version": "1", "archive_existing_versions": True}
    for stage, status in (("None", 400), ("archived", 400), ("staging", 200)):
        assert job.post("model-versions/transition-stage", **change, stage=stage).status == status, stage
    job.post("traces", trace={"trace_info": {"trace_id": "tr-1"}})
    assert job.send("PATCH", f"{API}traces/tr-1", b'{"tags": 5}').error == INVALID
    assert (
        job.send("PATCH", f"{API}traces/tr-1/tags", b'{"value": "v"}').body["message"]
        == "Missing value for required parameter 'key'."
    )
    for query in ("order_by=name+up", "filter=name+up", "max_results=0"):
        assert job.get(f"registered-models/search?{query}").error == INVALID, query
    assert job.send("POST", f"{API}runs/search", b"[]").body == {
        "error_code": "BAD_REQUEST",
        "message": "The request's body must be a JSON object.",
    }
    assert job.send("POST", f"{API}runs/search", b"{").body["error_code"] == "BAD_REQUEST"


RUN = Searchable(
    attributes={"run_id": "r1", "run_name": "First try", "status": "FINISHED", "start_time": 1700},
    metrics={"loss": 0.5, "val/loss": -1.5e-3, "odd name": 1.0, "nan": math.nan},
    params={"lr": "0.1", "opt": "Adam"},
    tags={"kind": "100% sure", "mlflow.parentRunId": "p"},
    datasets=[{"name": "iris", "digest": "d1", "context": "train"}, {"name": "mnist", "digest": "d2", "context": None}],
)
HOLDS = """
    metrics.loss=.5; metric.loss>0.4 AND metrics.loss<= 5e-1; metrics.loss >= 0.5; metrics.nan != 1;
    metrics.`val/loss` < -1e-3; metrics.val/loss < -0.001
    metrics."odd name" = 1; parameters.lr = "0.1"; param.opt ILIKE 'a_AM'; params.opt LIKE '%d%m';
    created > 1699; dataset.name = 'mnist'
    tags.mlflow.parentRunId = 'p' and tags.`mlflow.parentRunId` = 'p'
    tags.absent IS NULL and params.lr is not null; run_id IN ('r0', 'r1')
    attr.status = 'FINISHED' and run.`Run name` ILIKE 'first%';   """
HOLDS_NOT = """
    metrics.loss > 0.5; metrics.loss != 0.5; metrics.nan = 1; metrics.absent != 1; param.opt LIKE 'a%';
    params.opt LIKE '%dm'; params.opt LIKE 'Ad'
    tags.kind LIKE '100!% sure'; tags.kind IS NULL; tags.absent != 'x';
    attributes.run_id NOT IN ('r0','r1'); start_time < 1700; datasets.digest IN ('d9')"""
BAD = """
    metrics.loss; metrics.loss >; metrics.loss > '0.5'; metrics.loss > 0.5 or metrics.loss < 0.1
    metrics.loss > 0.5 and; metrics.loss LIKE '1'
    metrics.loss > 0.5 metrics.loss < 1; metrics.loss IS NULL; metrics.loss > 12abc; params.lr = 0.1; params.lr > '0.1';
    tags.kind IN ('a'); tags.kind = 'open
    nonsense.key = 'x'; attributes.colour = 'x'; dataset.colour = 'x'; run_id IN (); run_id IN ('a';
    start_time = 'yesterday'; drop table runs"""

BAD_ORDERS = ("", "metrics.m upwards", "metrics.m ASC DESC", "colour", "dataset.name", "metrics.")


def texts(block: str) -> list[str]:
    return re.split(r"; |;?\n    ", block)[1:]


def test_filters() -> None:
    for block, expected in ((HOLDS, True), (HOLDS_NOT, False)):
        found = {text: all(comparison.holds(RUN) for comparison in parse_filter(text)) for text in texts(block)}
        assert found == dict.fromkeys(found, expected)
    for text in texts(BAD):
        with pytest.raises(BadSearch):
            parse_filter(text)
    assert parse_filter("creation_timestamp > 5", MODEL_ATTRIBUTES)[0].value == 5.0
    with pytest.raises(BadSearch, match="Invalid attribute key 'run_id'"):
        parse_filter("run_id = 'x'", MODEL_ATTRIBUTES)
    assert str(RequestError("Run 'a\0\x1b[2J\u202eé' does not exist.")) == r"Run 'a\x00\x1b[2J\u202eé' does not exist."


def test_many_wildcards_and_spaces_take_no_time() -> None:
    item, spaces = Searchable(tags={"t": "a" * 2000}), " " * 100_000
    with within(SECONDS):
        assert not parse_filter(f"tags.t LIKE '{'%a' * 200}b'")[0].holds(item)
        assert parse_order(f"tags.t{spaces}DESC{spaces}") == ("tags", "t", False)
        with pytest.raises(BadSearch):
            parse_order(f"tags.t{spaces}y")
        with pytest.raises(BadSearch):
            parse_filter(f"tags.t IN ('x'{spaces}y")


def test_orders_put_what_has_no_value_last() -> None:
    items = [
        (Searchable({"start_time": 1}, {"m": 2.0}, {"p": "x"}), "a"),
        (Searchable({"start_time": 2}, {"m": math.nan}, {"p": "x"}), "b"),
        (Searchable({"start_time": 3}, {"m": -1.0}, {"p": "x"}), "c"),
        (Searchable({"start_time": 10}, {}, {}, {"t": "1"}), "d"),
    ]
    for clauses, expected in (
        ("", "abcd"),
        ("metrics.m", "cabd"),
        ("metrics.m desc", "acbd"),
        ("metrics.m,start_time DESC", "cabd"),
        ("params.p DESC,metrics.m ASC", "cabd"),
        ("start_time DESC", "dcba"),
        ("tags.`t`,created ASC", "dabc"),
    ):
        assert "".join(sort_items(items, [parse_order(clause) for clause in clauses.split(",") if clause])) == expected
    given = [
        (Searchable(params={"p": text} if text else {}), text or "-")
        for text in ("9", "nan", "", "10", "NaN", "1e1", "-inf")
    ]
    for clause, found in (("p", "-inf 9 10 1e1 nan NaN -"), ("-params.p", "10 1e1 9 -inf nan NaN -")):
        assert sort_items(given, [parse_order(clause, is_short=True)], is_short=True) == found.split()
    assert sort_items(given, [parse_order("params.p")]) == ["-inf", "10", "1e1", "9", "NaN", "nan", "-"]
    for clause in BAD_ORDERS:
        with pytest.raises(BadSearch, match=r"^Invalid"):
            parse_order(clause)


ROUTES = {
    "POST": """runs/log-batch runs/log-inputs logged-models/search logged-models/MODEL/params traces
        registered-models/create registered-models/rename
        registered-models/set-tag registered-models/get-latest-versions registered-models/alias
        model-versions/create model-versions/transition-stage""",
    "GET": "registered-models/search registered-models/alias model-versions/get model-versions/get-download-uri "
    "model-versions/search traces/tr-1/info",
    "PATCH": "logged-models/MODEL logged-models/MODEL/tags registered-models/update model-versions/update "
    "traces/tr-1 traces/tr-1/tags",
    "DELETE": "logged-models/MODEL/tags/x registered-models/delete-tag registered-models/alias model-versions/delete "
    "traces/tr-1/tags",
}
NAMES = (
    "run_id key value metrics params tags filter order_by max_results page_token datasets models name "
    "ascending version alias stage source trace_info"
)
ITEM = {"key": "k", "value": "\ud800", "step": 2**63, "timestamp": 253_402_300_800_000}
ODD: list[object] = [
    *(
        None,
        True,
        0,
        -1,
        5.5,
        2**63,
        10**400,
        math.nan,
        "",
        JOB,
        "1",
        "NaN",
        "FINISHED",
        "\ud800",
        "\x00",
        "é" * 300,
        "metrics.m > 1",
        "model",
        "tr-1",
    ),
    *(
        "models:/model/1",
        [],
        ["x"],
        {},
        [{}],
        [ITEM],
        [{"key": "", "value": {}}],
        [{"dataset": {"name": "n"}}],
        {"name": "n"},
        {"trace_id": 5},
    ),
]
WRONG = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"5",
    b'"x"',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"9" * 10_000,
    b"\x00" * 1000,
    b"\xef\xbb\xbf{}",
)


def test_whatever_is_sent_is_answered_and_stays_readable(job: TrackedJob) -> None:
    """`stress/fuzz` sends more requests to the routes of runs."""
    model = job.post("logged-models", name="model").body["model"]["info"]["model_id"]
    job.post("registered-models/create", name="model")
    job.post("model-versions/create", name="model", source=f"models:/{model}")
    job.post("traces", trace={"trace_info": {"trace_id": "tr-1"}})

    def check(method: str, target: str, body: bytes) -> None:
        reply = job.send(method, API + target.replace("MODEL", model), body)
        assert reply.status < 500, (reply, body)
        assert reply.status == 200 or set(reply.body) == {"error_code", "message"}, reply

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.sampled_from([(method, route) for method, routes in ROUTES.items() for route in routes.split()]),
        st.dictionaries(st.sampled_from(NAMES.split()), st.sampled_from(ODD), max_size=8),
    )
    def attempt(route: tuple[str, str], fields: dict[str, object]) -> None:
        body = {"run_id": JOB, **fields}
        query = "&".join(f"{name}={quote(str(value)[:50], errors='replace')}" for name, value in body.items())
        check(route[0], f"{route[1]}?{query}" if route[0] == "GET" else route[1], json.dumps(body).encode())

    attempt()
    for route, body in zip(ROUTES["POST"].split(), WRONG * 2, strict=False):
        check("POST", route, body)
    check("GET", "model-versions/get-download-uri?name=model", b"")
    check("POST", "traces", b'{"size": NaN, "parts": [1e999, {"share": -Infinity}]}')
    for path in ("..", "%", "%zz", "runs//get", "runs/get/../x", "é", "\x7f"):
        check("PATCH", quote(path, safe="%./"), b"{}")
    assert {job.get(f"runs/get?run_id={run_id}").status for run_id in job.store.descendants(JOB)} == {200}
    assert {metric.run for metric in job.metric_store.metrics([JOB])} <= {JOB}
    assert job.run().display_name in job.found(max_results=50_000)
