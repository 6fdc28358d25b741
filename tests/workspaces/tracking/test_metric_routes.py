"""What the routes of metrics and batches answer where the clients' tests do not look: edge values, order, pages, limits."""

from __future__ import annotations

import math

import pytest

from tests.workspaces.tracking.tracked_job import INVALID, JOB, TrackedJob


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
