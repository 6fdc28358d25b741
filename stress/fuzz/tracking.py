"""What a job's clients send to the server that keeps its runs."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from himl_cli.core.errors import HimlError
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.run_store import Database, RunStore
from himl_cli.workspaces.local.tracking.http_connection import PREFIXES, Routes
from himl_cli.workspaces.local.tracking.protocol import RequestError, parse_filter, parse_order
from himl_cli.workspaces.local.tracking.tracked_runs import JobRuns
from stress.fuzz.strategies import json_files, texts
from stress.fuzz.target import Target
from stress.fuzz.workspace import JOB

FILTERS = (
    "metrics.loss < 0.5 and tags.`kind x` = 'best'",
    "attributes.status IN ('FINISHED', 'x') AND params.\"a\" LIKE '%b_'",
    "tags.x IS NOT NULL",
    "run_name ILIKE 'A%'",
)
CLAUSES = ("metrics.loss DESC", "attribute.start_time", "tags.`x y` ASC", "Created")
BATCH = {"run_id": JOB, "metrics": [{"key": "loss", "value": 0.5, "step": "3", "timestamp": 1700000000000}], "params": [{"key": "lr", "value": "1"}]} | {
    "tags": [{"key": "a", "value": "b"}]
}
CREATE = {"experiment_id": "1", "run_name": "n", "start_time": 1700000000000, "tags": [{"key": "mlflow.parentRunId", "value": JOB}], "user_id": "u"}
SEARCH = {"experiment_ids": ["1"], "filter": "metrics.loss < 1", "order_by": ["metrics.loss DESC"], "max_results": 5, "page_token": "0", "run_view_type": "ALL"}
MODEL = {
    "run_id": JOB,
    "model_json": '{"artifact_path": "m", "flavors": {}}',
    "name": "m",
    "source_run_id": JOB,
    "model_type": "x",
    "params": [],
    "tags": [{"key": "a", "value": "b"}],
}
HISTORY = {"run_id": JOB, "run_ids": [JOB], "metric_key": "loss", "max_results": 3, "start_step": "0", "end_step": 9}
INPUTS = {
    "run_id": JOB,
    "datasets": [{"dataset": {"name": "d", "digest": "x", "source": "s", "schema": "{}"}, "tags": [{"key": "a", "value": "b"}]}],
    "models": [{"model_id": "m-1"}],
}
UPDATE = {"run_id": JOB, "status": "RUNNING", "end_time": 1700000000001, "run_name": "x"}
REQUESTS: tuple[Any, ...] = (
    BATCH,
    CREATE,
    SEARCH,
    MODEL,
    HISTORY,
    INPUTS,
    UPDATE,
    {"run_id": JOB, "key": "loss", "value": "NaN", "step": 1},
    {"experiment_name": "exp", "experiment_id": "1"},
)
ROUTES: tuple[str, ...] = (
    "runs/get",
    "runs/create",
    "runs/update",
    "runs/delete",
    "runs/restore",
    "runs/search",
    "runs/log-inputs",
    "runs/outputs",
    "runs/log-metric",
    "runs/log-batch",
)
ROUTES += (
    "runs/log-parameter",
    "runs/set-tag",
    "runs/delete-tag",
    "runs/log-model",
    "metrics/get-history",
    "metrics/get-history-bulk-interval",
    "experiments/get",
)
ROUTES += (
    "experiments/get-by-name",
    "experiments/search",
    "experiments/create",
    "logged-models",
    "logged-models/search",
    "logged-models/m-1",
    "logged-models/m-1/tags/a%2Fb",
    "x/../y",
)
METRIC = {"run_id": JOB, "key": "loss", "value": "NaN", "step": 1, "timestamp": "1700000000000"}
CALLS: tuple[tuple[str, Any], ...] = (
    ("runs/log-batch", BATCH),
    ("runs/create", CREATE),
    ("runs/search", SEARCH),
    ("runs/log-model", MODEL),
    ("runs/log-inputs", INPUTS),
    ("runs/update", UPDATE),
)
CALLS += (
    ("runs/log-metric", METRIC),
    ("runs/set-tag", {"run_id": JOB, "key": "a", "value": "b"}),
    ("runs/log-parameter", {"run_id": JOB, "key": "lr", "value": "1"}),
)
CALLS += (("logged-models", MODEL), ("logged-models/search", SEARCH), ("runs/outputs", INPUTS))


@cache
def _routes() -> Routes:
    database = Database(Path.cwd() / "tracked.db", create=True)
    RunStore(database).add(Run(JOB, "exp", display_name="n", tags={}), status=RunStatus.running, started=1700000000000)
    numbers = itertools.count(1)
    job: Run | None = RunStore(database).get(JOB)
    assert job is not None
    return Routes(JobRuns(database, job, "1", lambda run_id: Path.cwd() / run_id, lambda: f"train_1700000000_{next(numbers):08x}"))


def _request(given: tuple[str, str, str, bytes]) -> None:
    method, path, query, body = given
    repr(_routes().answer(method, quote(path, safe="/%"), query, body))


def _requests() -> st.SearchStrategy[Any]:
    route = st.one_of(*[st.sampled_from(ROUTES)] * 4, texts(ROUTES).map(lambda text: text.encode("utf-8", "replace").decode()))
    path = st.builds(str.__add__, st.sampled_from(PREFIXES), route)
    fitting = st.sampled_from(CALLS).flatmap(lambda call: st.tuples(st.just("POST"), st.just(PREFIXES[0] + call[0]), st.just(""), json_files([call[1]])))
    query = st.just("") | texts((f"run_id={JOB}&metric_key=loss&max_results=3", "experiment_name=exp&run_ids=a&run_ids=b"))
    body = st.one_of(*[json_files(REQUESTS)] * 4, st.just(b""))
    return st.one_of(fitting, fitting, fitting, st.tuples(st.sampled_from(["POST", "GET", "PATCH", "DELETE"]), path, query, body))


def targets() -> list[Target]:
    return [
        Target("state/search_filter", lambda: texts(FILTERS, (" AND ", "metrics.", "tags.", " LIKE ", "`", "'")), parse_filter, (RequestError,)),
        Target("state/search_order", lambda: texts(CLAUSES), parse_order, (RequestError,)),
        Target("state/request", _requests, _request, (RequestError, HimlError)),
    ]
