"""What the routes of models answer where the clients' tests do not look: where a model lies, what it may be called, how it is found."""

from __future__ import annotations

import json

import pytest

from tests.workspaces.tracking.tracked_job import API, INVALID, JOB, MISSING, TrackedJob


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
    experiment = job.server.environment({})["MLFLOW_EXPERIMENT_ID"]
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
