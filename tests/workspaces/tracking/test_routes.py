"""What the routes of runs and of the experiment answer where the clients' tests do not look: errors, edge values, less common routes."""

from __future__ import annotations

import pytest

from himl_cli.core.runs import RunStatus
from tests.support.folders import SmallDisk
from tests.workspaces.tracking.tracked_job import INVALID, JOB, MISSING, TrackedJob, tracked_job


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/version",
        "/api/2.0/mlflow/runs",
        "/api/2.0/mlflow/",
        "/api/2.0/mlflow/registered-models/webhooks",
        "/api/3.0/mlflow/webhooks",
        "/api/3.0/mlflow/traces/tr-1/assessments",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_an_unknown_route_is_not_found(job: TrackedJob, method: str, target: str) -> None:
    assert job.send(method, target, b"{}").error == (404, "ENDPOINT_NOT_FOUND")


def test_other_prefixes_of_the_same_routes(job: TrackedJob) -> None:
    for prefix in ("/api/2.0/mlflow", "/api/3.0/mlflow", "/ajax-api/2.0/mlflow", "/api/2.0/preview/mlflow"):
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


def test_deleted_child_run_is_restorable_until_server_closes(job: TrackedJob) -> None:
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


def test_a_full_disk_is_told_at_once(small_disk: SmallDisk) -> None:
    if not small_disk.is_shared:
        pytest.skip("NEEDS a small disk that this process sees (root on Linux)")
    with tracked_job(small_disk.folder / "job") as job:
        replies = [job.post("runs/set-tag", run_id=JOB, key=f"t{number}", value="x" * 400_000) for number in range(20)]
        refused = next(reply for reply in replies if reply.status != 200)
        assert refused.error == (507, "INTERNAL_ERROR")
        assert "No space left" in refused.body["message"]
        assert job.get(f"runs/get?run_id={JOB}").status == 200
