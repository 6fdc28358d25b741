"""Whatever is sent, the server answers in JSON, blames the request and not itself, and stays readable."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from himl_cli.core.runs import RunQuery
from himl_cli.workspaces.local.tracking.protocol import Comparison, RequestError, Searchable, parse_filter, parse_order
from tests.workspaces.tracking.tracked_job import API, JOB, TrackedJob

POSTS = [
    *(f"runs/{action}" for action in ("create", "update", "delete", "restore", "search", "log-metric", "log-batch", "log-parameter", "set-tag", "delete-tag")),
    *(f"runs/{action}" for action in ("log-model", "log-inputs", "outputs")),
    *(f"experiments/{action}" for action in ("create", "search", "set-experiment-tag", "delete-experiment-tag", "update")),
    *("logged-models", "logged-models/search", "logged-models/MODEL/params", "traces"),
    *(f"registered-models/{action}" for action in ("create", "rename", "set-tag", "get-latest-versions", "alias")),
    *(f"model-versions/{action}" for action in ("create", "transition-stage", "set-tag")),
]
GETS = [
    *("runs/get", "metrics/get-history", "metrics/get-history-bulk-interval", "experiments/get", "experiments/search", "logged-models/MODEL"),
    *("registered-models/get", "registered-models/search", "registered-models/alias", "model-versions/get", "model-versions/get-download-uri"),
    *("model-versions/search", "traces/tr-1", "traces/tr-1/info"),
]
OTHERS = [
    *(("PATCH", "logged-models/MODEL"), ("PATCH", "logged-models/MODEL/tags"), ("DELETE", "logged-models/MODEL/tags/x")),
    *(("PATCH", "registered-models/update"), ("DELETE", "registered-models/delete-tag"), ("DELETE", "registered-models/alias")),
    *(("PATCH", "model-versions/update"), ("DELETE", "model-versions/delete"), ("DELETE", "model-versions/delete-tag")),
    *(("PATCH", "traces/tr-1"), ("PATCH", "traces/tr-1/tags"), ("DELETE", "traces/tr-1/tags")),
]
NAMES = [
    "run_id",
    "run_uuid",
    "key",
    "value",
    "step",
    "timestamp",
    "metrics",
    "params",
    "tags",
    "run_name",
    "user_id",
    "start_time",
    "end_time",
    "status",
    "experiment_id",
    "experiment_ids",
    "filter",
    "order_by",
    "max_results",
    "page_token",
    "run_view_type",
    "metric_key",
    "run_ids",
    "start_step",
    "end_step",
    "model_json",
    "datasets",
    "dataset",
    "models",
    "model_id",
    "name",
    "digest",
    "source_run_id",
    "model_type",
    "field_name",
    "ascending",
    "dataset_name",
    "version",
    "alias",
    "stage",
    "source",
    "new_name",
    "description",
    "timestamp_ms",
    "request_metadata",
    "trace",
    "trace_info",
    "trace_id",
    "trace_metadata",
]
WORDS = [
    "",
    JOB,
    "mlflow.runName",
    "mlflow.parentRunId",
    "FINISHED",
    "RUNNING",
    "ALL",
    "NaN",
    "-Infinity",
    "1",
    "\ud800",
    "\x00",
    "é" * 300,
    "metrics.m > 1",
    "[]",
    "model",
    "models:/model/1",
    "tr-1",
]

texts = st.one_of(st.sampled_from(WORDS), st.text(max_size=20))
numbers = st.one_of(st.integers(), st.sampled_from([2**63, -(2**63) - 1, 10**400, 253_402_300_800_000]), st.floats())
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.sampled_from(NAMES), texts), inner, max_size=5)), max_leaves=20
)
objects = st.dictionaries(st.sampled_from(NAMES), values, max_size=8)
metric = st.fixed_dictionaries({"key": texts, "value": scalars}, optional={"step": scalars, "timestamp": scalars, "model_id": scalars})
pair = st.fixed_dictionaries({"key": texts, "value": scalars})
dataset = st.fixed_dictionaries(
    {"dataset": st.fixed_dictionaries({"name": texts, "digest": texts}, optional={"source": scalars})}, optional={"tags": st.lists(pair, max_size=3)}
)
lists = {
    "metrics": st.lists(metric, max_size=4),
    "params": st.lists(pair, max_size=3),
    "tags": st.lists(pair, max_size=3),
    "datasets": st.lists(dataset, max_size=2),
}
plausible = st.fixed_dictionaries({"run_id": st.just(JOB)}, optional={**{name: scalars for name in NAMES if name != "run_id"}, **lists})
many = settings(max_examples=300, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


def encoded(value: object) -> bytes:
    try:
        return json.dumps(value).encode()
    except ValueError:  # an integer that Python refuses to write in digits
        return b"{}"


@pytest.fixture
def check(job: TrackedJob) -> Callable[[str, str, bytes], None]:
    """Send a request of which `MODEL` stands for a model that is there; so are version 1 of the registered model `model`, and the trace `tr-1`."""
    model = job.post("logged-models", name="model").body["model"]["info"]["model_id"]
    job.post("registered-models/create", name="model")
    job.post("model-versions/create", name="model", source=f"models:/{model}")
    job.post("traces", trace={"trace_info": {"trace_id": "tr-1"}})

    def send(method: str, target: str, body: bytes) -> None:
        reply = job.send(method, API + target.replace("MODEL", model), body)
        assert reply.status < 500, (reply, body)
        assert reply.status == 200 or set(reply.body) == {"error_code", "message"}, reply

    return send


def assert_readable(job: TrackedJob) -> None:
    """Nothing was stored that cannot be read back."""
    for run_id in job.store.descendants(JOB):
        assert job.run(run_id).id == run_id
        assert job.get(f"runs/get?run_id={run_id}").status == 200
    children = [run.id for run in job.store.query(RunQuery(parent=JOB))]
    assert set(children) < set(job.store.descendants(JOB))
    assert {metric.run for metric in job.metric_store.metrics([JOB])} <= {JOB}
    assert job.run().display_name in job.found(max_results=50_000)


def test_random_bodies(job: TrackedJob, check: Callable[[str, str, bytes], None]) -> None:
    @many
    @given(st.sampled_from(POSTS), st.one_of(objects, plausible))
    def attempt(route: str, body: dict[str, object]) -> None:
        check("POST", route, encoded(body))

    attempt()
    assert_readable(job)


def test_random_queries(job: TrackedJob, check: Callable[[str, str, bytes], None]) -> None:
    @many
    @given(st.sampled_from(GETS), st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(texts, numbers.map(repr))), max_size=6))
    def attempt(route: str, pairs: list[tuple[str, str]]) -> None:
        check("GET", f"{route}?run_id={JOB}&" + "&".join(f"{name}={quote(value, errors='replace')}" for name, value in pairs), b"")

    attempt()
    assert_readable(job)


def test_random_changes_of_models(job: TrackedJob, check: Callable[[str, str, bytes], None]) -> None:
    @many
    @given(st.sampled_from(OTHERS), objects)
    def attempt(route: tuple[str, str], body: dict[str, object]) -> None:
        check(*route, encoded(body))

    attempt()
    assert_readable(job)


def test_bodies_that_are_not_objects(job: TrackedJob, check: Callable[[str, str, bytes], None]) -> None:
    for body in (b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"\x00" * 1000, b"\xef\xbb\xbf{}"):
        for route in POSTS:
            check("POST", route, body)

    @many
    @given(st.sampled_from(POSTS), st.binary(max_size=200))
    def attempt(route: str, body: bytes) -> None:
        check("POST", route, body)

    attempt()
    assert_readable(job)


def test_random_paths(job: TrackedJob, check: Callable[[str, str, bytes], None]) -> None:
    @many
    @given(st.sampled_from(["GET", "POST", "PATCH", "DELETE"]), st.lists(st.one_of(texts, st.sampled_from([*POSTS, *GETS, "..", "%", "%zz"])), max_size=5))
    def attempt(method: str, parts: list[str]) -> None:
        check(method, "/".join(quote(part, safe="%./", errors="replace") for part in parts), b"{}")

    attempt()
    assert_readable(job)


@settings(max_examples=1000, deadline=None, database=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["metrics.", "m", "`a b`", " ", ">", "=", "'x'", "5", "AND", "(", ")", ",", "IN", "LIKE", "IS NULL", "tags.t", "run_id"]),
            st.text(max_size=4),
        )
    )
)
def test_random_filters(parts: list[str]) -> None:
    text = " ".join(parts)
    item = Searchable({"run_id": "r"}, {"m": 1.0}, {"p": "1"}, {"t": "x"})
    outcomes: set[int] = set()
    for parse in (parse_filter, parse_order):
        try:
            parsed = parse(text)
        except RequestError as refusal:
            outcomes.add(refusal.status)
        else:
            outcomes |= {comparison.holds(item) for comparison in parsed if isinstance(comparison, Comparison)}
    assert outcomes <= {400, True, False}


def test_a_refusal_shows_signs_that_are_not_to_be_seen() -> None:
    assert str(RequestError("Run 'a\0\x1b[2J\u202eé' does not exist.")) == r"Run 'a\x00\x1b[2J\u202eé' does not exist."
