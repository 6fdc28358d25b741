"""What the routes answer where the clients' tests do not look: errors, limits, edge values, less common routes."""

from __future__ import annotations

import json
import math

import pytest

from himl_cli.core.runs import RunStatus
from tests.special_folders import SmallDisk
from tests.workspaces.tracking.tracked_job import API, JOB, TrackedJob, tracked_job

INVALID = (400, "INVALID_PARAMETER_VALUE")
MISSING = (404, "RESOURCE_DOES_NOT_EXIST")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/version",
        "/api/2.0/mlflow/runs",
        "/api/2.0/mlflow/",
        "/api/2.0/mlflow/registered-models/create",
        "/api/3.0/mlflow/traces",
        "/api/2.0/mlflow/traces",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_an_unknown_route_is_not_found(job: TrackedJob, method: str, target: str) -> None:
    assert job.send(method, target, b"{}").error == (404, "ENDPOINT_NOT_FOUND")


def test_other_prefixes_of_the_same_routes(job: TrackedJob) -> None:
    for prefix in ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow", "/api/2.0/preview/mlflow"):
        assert job.send("GET", f"{prefix}/runs/get?run_uuid={JOB}").body["run"]["info"]["run_id"] == JOB


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("runs/update", {"status": "FINISHED"}),
        ("runs/log-metric", {"key": "m", "value": 1}),
        ("runs/log-batch", {}),
        ("runs/log-parameter", {"key": "p", "value": "1"}),
        ("runs/set-tag", {"key": "t", "value": "1"}),
        ("runs/delete-tag", {"key": "t"}),
        ("runs/log-model", {"model_json": "{}"}),
        ("runs/log-inputs", {}),
        ("runs/outputs", {}),
        ("runs/delete", {}),
        ("runs/restore", {}),
    ],
)
def test_a_run_of_another_job_does_not_exist(job: TrackedJob, route: str, fields: dict[str, object]) -> None:
    assert job.post(route, run_id="other_1700000000_00000000", **fields).error == MISSING
    assert job.post(route, **fields).error == INVALID


def test_a_run_that_is_asked_for_and_is_not_there(job: TrackedJob) -> None:
    assert job.get("runs/get?run_id=nobody").error == MISSING
    assert job.get("runs/get").error == INVALID
    assert job.get("metrics/get-history?run_id=nobody&metric_key=m").error == MISSING


def test_a_run_shows_its_info(job: TrackedJob) -> None:
    info = job.get(f"runs/get?run_id={JOB}").body["run"]["info"]
    assert {name: info[name] for name in ("run_id", "run_uuid", "run_name", "status", "lifecycle_stage")} == {
        "run_id": JOB,
        "run_uuid": JOB,
        "run_name": "the job",
        "status": "RUNNING",
        "lifecycle_stage": "active",
    }
    assert info["artifact_uri"].endswith(f"/runs%20with%20space%20%231/{JOB}/artifacts")
    assert "end_time" not in info


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("NaN", math.nan),
        ("Infinity", math.inf),
        ("-Infinity", -math.inf),
        (1, 1.0),
        ("0.5", 0.5),
        (1e308, 1e308),
        (True, None),
        ("much", None),
        (None, None),
        ([], None),
    ],
)
def test_metric_values(job: TrackedJob, sent: object, kept: float | None) -> None:
    reply = job.post("runs/log-metric", run_id=JOB, key="m", value=sent)
    if kept is None:
        assert reply.error == INVALID
        assert job.values("m") == []
        return
    assert job.values("m") == [pytest.approx(kept, nan_ok=True)]
    data = job.get(f"runs/get?run_id={JOB}").body["run"]["data"]["metrics"][0]["value"]
    assert data == (str(sent) if isinstance(sent, str) and sent.strip("-")[0] in "NI" else kept)


@pytest.mark.parametrize(
    ("name", "value", "is_kept"),
    [
        ("step", "5", True),
        ("step", -(2**63), True),
        ("step", 2**63 - 1, True),
        ("step", 5.0, True),
        ("step", 2**63, False),
        ("step", 5.5, False),
        ("step", True, False),
        ("step", "five", False),
        ("step", "٥", False),
        ("timestamp", 0, True),
        ("timestamp", 253_370_764_799_999, True),
        ("timestamp", 1_700_000_000_000_000_000, False),
        ("timestamp", -1, False),
    ],
)
def test_steps_and_times_that_fit_are_kept_and_others_refused(job: TrackedJob, name: str, value: object, is_kept: bool) -> None:
    reply = job.post("runs/log-metric", run_id=JOB, key="m", value=1, **{name: value})
    assert reply.status == (200 if is_kept else 400)
    points = [point for metric in job.metric_store.metrics([JOB]) for point in metric.points]
    assert len(points) == is_kept
    history = job.get(f"metrics/get-history?run_id={JOB}&metric_key=m").body["metrics"]
    assert [point[name] for point in history] == ([int(str(value).removesuffix(".0"))] if is_kept else [])


def test_the_last_value_is_that_of_the_highest_step(job: TrackedJob) -> None:
    for step, time, value in ((5, 10, 0.5), (7, 10, 0.7), (7, 12, 0.8), (7, 11, 0.9), (6, 99, 0.6)):
        job.post("runs/log-metric", run_id=JOB, key="m", value=value, step=step, timestamp=time)
    data = job.get(f"runs/get?run_id={JOB}").body["run"]["data"]["metrics"]
    assert data == [{"key": "m", "value": 0.8, "timestamp": 12, "step": 7}]


def test_a_point_that_is_sent_again_is_kept_once(job: TrackedJob) -> None:
    points = [{"key": "m", "value": value, "step": step, "timestamp": 1} for step, value in enumerate([1, "NaN", 3])]
    model = job.post("logged-models", name="model", source_run_id=JOB).body["model"]["info"]["model_id"]
    for metrics in (points, points[2:], [{**point, "model_id": model} for point in points], [{**points[2], "step": 3}]):
        assert job.post("runs/log-batch", run_id=JOB, metrics=metrics).status == 200
    assert job.values("m") == [1, pytest.approx(math.nan, nan_ok=True), 3, 3]
    assert len(job.get(f"logged-models/{model}").body["model"]["data"]["metrics"]) == 3


def test_history_comes_in_pages(job: TrackedJob) -> None:
    job.post("runs/log-batch", run_id=JOB, metrics=[{"key": "m", "value": step, "step": step, "timestamp": 1} for step in range(5)])
    seen: list[float] = []
    token = ""
    for _ in range(3):
        page = job.get(f"metrics/get-history?run_id={JOB}&metric_key=m&max_results=2&page_token={token}").body
        seen += [point["value"] for point in page["metrics"]]
        token = page.get("next_page_token", "")
    assert (seen, token) == ([0, 1, 2, 3, 4], "")
    assert job.get(f"metrics/get-history?run_id={JOB}&metric_key=none").body == {"metrics": []}
    assert job.get(f"metrics/get-history?run_id={JOB}&metric_key=m&page_token=x").error == INVALID
    assert job.get(f"metrics/get-history?run_id={JOB}&metric_key=m&max_results=0").error == INVALID


def test_an_interval_of_steps_is_thinned(job: TrackedJob) -> None:
    child = job.new_child("child")
    for run_id in (JOB, child):
        job.post("runs/log-batch", run_id=run_id, metrics=[{"key": "m", "value": step, "step": step, "timestamp": 1} for step in range(100)])
    query = f"metrics/get-history-bulk-interval?run_ids={JOB}&run_ids={child}&metric_key=m&start_step=10&end_step=50&max_results=5"
    found = job.get(query).body["metrics"]
    assert [(point["run_id"], point["step"]) for point in found] == [(run, step) for run in (JOB, child) for step in (10, 20, 30, 40, 50)]


@pytest.mark.parametrize(
    ("what", "count", "is_kept"), [("metrics", 1000, True), ("metrics", 1001, False), ("params", 100, True), ("params", 101, False), ("tags", 101, False)]
)
def test_a_batch_has_mlflows_limits(job: TrackedJob, what: str, count: int, is_kept: bool) -> None:
    items = [{"key": f"k{number}", "value": number if what == "metrics" else "v"} for number in range(count)]
    reply = job.post("runs/log-batch", run_id=JOB, **{what: items})
    assert reply.status == (200 if is_kept else 400)
    assert len(job.metric_store.metrics([JOB])) + len(job.parameters()) == (count if is_kept else 0)


def test_a_batch_with_a_changed_parameter_is_refused_whole(job: TrackedJob) -> None:
    job.post("runs/log-parameter", run_id=JOB, key="p", value="1")
    for params in ([{"key": "q", "value": "1"}, {"key": "p", "value": "2"}], [{"key": "r", "value": "1"}, {"key": "r", "value": "2"}]):
        reply = job.post("runs/log-batch", run_id=JOB, metrics=[{"key": "m", "value": 1}], params=params, tags=[{"key": "t", "value": "1"}])
        assert reply.error == INVALID
    assert (job.parameters(), job.values("m"), job.run().tags) == ({"p": "1"}, [], {"git": "abc"})


def test_only_a_client_of_a_child_decides_its_state(job: TrackedJob) -> None:
    child = job.new_child("child", start_time=1_700_000_000_000)
    for status, expected in (("FINISHED", RunStatus.completed), ("FAILED", RunStatus.failed), ("RUNNING", RunStatus.running), ("KILLED", RunStatus.canceled)):
        job.post("runs/update", run_id=child, status=status, end_time=1_700_000_060_000)
        job.post("runs/update", run_id=JOB, status=status, end_time=1_700_000_060_000)
        assert job.run(child).status is expected
        assert (job.run(child).ended is None) == (status == "RUNNING")
    assert job.run(child).duration == 60.0
    assert (job.run().status, job.run().ended) == (RunStatus.running, None)
    assert job.post("runs/update", run_id=child, status="DONE").error == INVALID


def test_names_can_be_set_by_update_and_by_tag(job: TrackedJob) -> None:
    child = job.new_child(tags={"mlflow.runName": "by tag"})
    assert job.run(child).display_name == "by tag"
    job.post("runs/update", run_id=child, run_name="by update")
    assert job.run(child).display_name == "by update"
    job.post("runs/set-tag", run_id=JOB, key="mlflow.runName", value="by set-tag")
    assert job.run().display_name == "by set-tag"
    tags = {tag["key"]: tag["value"] for tag in job.get(f"runs/get?run_id={JOB}").body["run"]["data"]["tags"]}
    assert tags == {"git": "abc", "mlflow.runName": "by set-tag"}


def test_who_made_a_run_is_kept(job: TrackedJob) -> None:
    for child, user in ((job.new_child(user_id="ada"), "ada"), (job.new_child(tags={"mlflow.user": "eve"}, user_id="ada"), "eve")):
        assert job.run(child).tags == {"mlflow.user": user}
        assert job.get(f"runs/get?run_id={child}").body["run"]["info"]["user_id"] == user


def test_a_parent_that_is_not_of_this_job_is_not_taken(job: TrackedJob) -> None:
    child = job.new_child("child", {"mlflow.parentRunId": JOB})
    inner = job.new_child("inner", {"mlflow.parentRunId": child})
    stray = job.new_child("stray", {"mlflow.parentRunId": "of another job"})
    assert [job.run(run_id).parent for run_id in (child, inner, stray)] == [JOB, child, JOB]


def test_a_deleted_child_is_hidden_can_be_restored_and_is_removed_at_the_end(job: TrackedJob) -> None:
    kept, gone = job.new_child("kept"), job.new_child("gone")
    inner = job.new_child("inner", {"mlflow.parentRunId": gone})
    for run_id in (kept, gone, inner):
        job.artifacts(run_id).mkdir(parents=True)
        (job.artifacts(run_id) / "file").touch()
    for run_id in (kept, gone):
        assert job.post("runs/delete", run_id=run_id).status == 200
    assert sorted(job.found()) == ["inner", "the job"]
    assert sorted(job.found(run_view_type="DELETED_ONLY")) == ["gone", "kept"]
    assert job.get(f"runs/get?run_id={gone}").body["run"]["info"]["lifecycle_stage"] == "deleted"
    assert job.post("runs/log-metric", run_id=gone, key="m", value=1).error == INVALID
    job.post("runs/restore", run_id=kept)
    assert job.post("runs/log-metric", run_id=kept, key="m", value=1).status == 200
    assert job.post("runs/delete", run_id=JOB).error == INVALID
    job.server.close()
    assert set(job.children()) == {"kept"}
    assert [(job.folder / run_id).exists() for run_id in (kept, gone, inner)] == [True, False, False]


def test_search_knows_the_job_itself_pages_and_refuses(job: TrackedJob) -> None:
    for number in range(3):
        child = job.new_child(f"c{number}", start_time=number + 1)
        job.post("runs/log-metric", run_id=child, key="m", value=["NaN", 5, 2][number])
    job.post(
        "runs/log-inputs", run_id=child, datasets=[{"dataset": {"name": "iris", "digest": "d"}, "tags": [{"key": "mlflow.data.context", "value": "train"}]}]
    )
    assert job.found() == ["the job", "c2", "c1", "c0"]
    assert job.found(order_by=["metrics.m ASC"]) == ["c2", "c1", "the job", "c0"]
    assert job.found("dataset.name = 'iris' and datasets.context LIKE 'tr%'") == ["c2"]
    assert job.found("metrics.m > 1", max_results=1) == ["c2"]
    assert job.post("runs/search", experiment_ids=["999"]).body == {"runs": []}
    for wrong in (
        {"filter": "x ="},
        {"order_by": ["m up"]},
        {"max_results": 0},
        {"max_results": 50_001},
        {"run_view_type": "SOME"},
        {"page_token": "-1"},
        {"filter": 5},
    ):
        assert job.post("runs/search", **wrong).error == INVALID, wrong


def test_the_experiment_is_always_the_jobs(job: TrackedJob) -> None:
    own = job.get("experiments/get?experiment_id=0").body["experiment"]
    assert (own["name"], own["lifecycle_stage"]) == ("train", "active")
    assert job.get("experiments/get-by-name?experiment_name=x").body == {"experiment": own}
    assert job.post("experiments/create", name="x").body == {"experiment_id": own["experiment_id"]}
    assert job.post("experiments/search", max_results=5).body == {"experiments": [own]}
    job.post("experiments/set-experiment-tag", experiment_id="1", key="k", value="v")
    assert job.get("experiments/get?experiment_id=1").body["experiment"]["tags"] == [{"key": "k", "value": "v"}]
    job.post("experiments/delete-experiment-tag", experiment_id="1", key="k")
    assert job.get("experiments/get?experiment_id=1").body["experiment"]["tags"] == []
    for action in ("update", "delete", "restore"):
        assert job.post(f"experiments/{action}", experiment_id="1", new_name="y").error == INVALID


def test_tags_that_are_not_there_cannot_be_deleted(job: TrackedJob) -> None:
    assert job.post("runs/delete-tag", run_id=JOB, key="git").status == 200
    assert job.run().tags == {}
    assert job.post("runs/delete-tag", run_id=JOB, key="git").error == MISSING


def test_text_that_is_not_unicode_is_refused(job: TrackedJob) -> None:
    for key, value in (("k", "\ud800"), ("\udfff", "v")):
        assert job.post("runs/set-tag", run_id=JOB, key=key, value=value).error == INVALID
    assert job.post("runs/set-tag", run_id=JOB, key="smile", value="\U0001f600 größer").status == 200
    assert job.run().tags == {"git": "abc", "smile": "\U0001f600 größer"}


def test_what_a_run_read_and_wrote_is_shown_with_it(job: TrackedJob) -> None:
    iris = {"dataset": {"name": "iris", "digest": "d", "source": "s"}, "tags": [{"key": "k", "value": "v"}]}
    for _ in range(2):
        job.post("runs/log-inputs", run_id=JOB, datasets=[iris], models=[{"model_id": "m-1"}])
        job.post("runs/outputs", run_id=JOB, models=[{"model_id": "m-2", "step": 3}])
    run = job.get(f"runs/get?run_id={JOB}").body["run"]
    assert run["inputs"] == {"dataset_inputs": [iris], "model_inputs": [{"model_id": "m-1"}]}
    assert run["outputs"] == {"model_outputs": [{"model_id": "m-2", "step": 3}]}


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
    models = [job.post("logged-models", experiment_id="1", name=name, source_run_id=child).body["model"]["info"] for name in names]
    folders = [info["artifact_uri"].removeprefix(job.artifacts(child).as_uri() + "/") for info in models]
    assert folders == ["model", "Model-2", "taken-2", "model-3"]
    first = models[0]["model_id"]
    assert models[0]["status"] == "LOGGED_MODEL_PENDING"
    ready = job.send("PATCH", f"{API}logged-models/{first}", json.dumps({"model_id": first, "status": "LOGGED_MODEL_READY"}).encode())
    assert ready.body["model"]["info"]["status"] == "LOGGED_MODEL_READY"
    job.send("PATCH", f"{API}logged-models/{first}/tags", b'{"tags": [{"key": "a/b", "value": "1"}, {"key": "c", "value": "2"}]}')
    job.send("DELETE", f"{API}logged-models/{first}/tags/a%2Fb")
    job.post(f"logged-models/{first}/params", params=[{"key": "p", "value": "1"}])
    seen = job.get(f"logged-models/{first}").body["model"]
    assert (seen["info"]["tags"], seen["data"]["params"]) == ([{"key": "c", "value": "2"}], [{"key": "p", "value": "1"}])
    assert job.send("DELETE", f"{API}logged-models/{first}").status == 200
    assert job.get(f"logged-models/{first}").error == MISSING
    assert job.get(f"logged-models/{first}?allow_deleted=true").status == 200


@pytest.mark.parametrize("name", ["..", "a/b", "a\\b", "c:", "a.b", "x\n", "\x00", "n" * 201, 5])
def test_a_models_name_cannot_leave_the_runs_folder(job: TrackedJob, name: object) -> None:
    assert job.post("logged-models", experiment_id="1", name=name).error == INVALID


def test_models_are_searched_by_what_was_logged_of_them(job: TrackedJob) -> None:
    experiment = job.server.environment({}).set["MLFLOW_EXPERIMENT_ID"]
    ids = [job.post("logged-models", name=name, source_run_id=JOB).body["model"]["info"]["model_id"] for name in ("one", "two")]
    job.post("runs/log-metric", run_id=JOB, key="acc", value=0.9, model_id=ids[1], dataset_name="iris", dataset_digest="d")
    job.post("runs/log-metric", run_id=JOB, key="acc", value="NaN", model_id=ids[0])

    def found(**fields: object) -> list[str]:
        reply = job.post("logged-models/search", **{"experiment_ids": [experiment], **fields})
        assert reply.status == 200, reply
        return [model["info"]["name"] for model in reply.body["models"]]

    assert found(filter="metrics.acc > 0.5") == ["two"]
    assert found(filter="name = 'one' and source_run_id = '" + JOB + "'") == ["one"]
    assert found(order_by=[{"field_name": "metrics.acc", "ascending": False}]) == ["two", "one"]
    assert found(order_by=[{"field_name": "name"}], max_results=1) == ["one"]
    assert found(experiment_ids=["5"]) == []
    assert job.get(f"logged-models/{ids[1]}").body["model"]["data"]["metrics"][0]["dataset_name"] == "iris"
    assert job.post("logged-models/search", filter="colour = 'x'").error == INVALID
    job.send("DELETE", f"{API}logged-models/{ids[0]}")
    assert found() == ["two"]


def test_a_full_disk_is_told_at_once(small_disk: SmallDisk) -> None:
    if not small_disk.is_shared:
        pytest.skip("NEEDS a small disk that this process sees (root on Linux)")
    with tracked_job(small_disk.folder / "job") as job:
        replies = [job.post("runs/set-tag", run_id=JOB, key=f"t{number}", value="x" * 400_000) for number in range(20)]
        refused = next(reply for reply in replies if reply.status != 200)
        assert refused.error == (507, "INTERNAL_ERROR")
        assert "No space left" in refused.body["message"]
        assert job.get(f"runs/get?run_id={JOB}").status == 200
