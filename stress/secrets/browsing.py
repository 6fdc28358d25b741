"""The requests of MLflow's pages for all runs of a workspace, to `himl ui`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from tests.support.tensorboard import bearing

API, API_3 = "/ajax-api/2.0/mlflow", "/ajax-api/3.0/mlflow"
RUN = (
    "run { info { runId runName artifactUri status } data { metrics { key value } params { key value } tags { "
    "key value } } }"
)
GRAPHQL = f"query {{ mlflowGetRun(input: {{runId: %s}}) {{ {RUN} }} }}"
SHOWN = b"val/loss"  # a metric of each workspace of a case
SECONDS = 120.0


class Pages:
    """The answers of the server at *url*, with their headers, so that a redirection to a signed link is among them."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._signed = bearing(parse_qs(self._address.query)["token"][0])
        self.answers: list[bytes] = []

    def ask(self, path: str, body: Any = None) -> Any:
        """The document of an answer, None for another answer."""
        with closing(HTTPConnection(self._address.hostname or "", self._address.port, timeout=SECONDS)) as connection:
            sent = None if body is None else json.dumps(body)
            connection.request(
                "GET" if body is None else "POST",
                path,
                sent,
                self._signed | ({"Content-Type": "application/json"} if sent else {}),
            )
            answer = connection.getresponse()
            content = answer.read()
        self.answers.append(str(answer.headers).encode() + content)
        try:
            return json.loads(content) if answer.status == 200 else None
        except ValueError:
            return None

    def files(self, run_id: str, folder: str = "") -> Iterator[str]:
        found = self.ask(f"{API}/artifacts/list?run_id={run_id}&path={quote(folder)}") or {}
        for file in found.get("files", []):
            if file["is_dir"]:
                yield from self.files(run_id, file["path"])
            else:
                yield file["path"]


def browsed(url: str) -> bytes:
    """The answers to all requests, once the server shows a run with a metric and files."""
    pages = Pages(url)
    for path in (
        "/",
        "/health",
        "/version",
        f"{API_3}/server-info",
        f"{API}/registered-models/search",
        f"{API}/model-versions/search",
    ):
        pages.ask(path)
    found = pages.ask(f"{API}/experiments/search", {"max_results": 100})
    ids = [each["experiment_id"] for each in found["experiments"]]
    runs = pages.ask(f"{API}/runs/search", {"experiment_ids": ids, "max_results": 100})["runs"]
    pages.ask(f"{API}/logged-models/search", {"experiment_ids": ids})
    pages.ask(
        f"{API_3}/traces/search",
        {"locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": one}} for one in ids]},
    )
    files = 0
    for run in runs:
        run_id = run["info"]["run_id"]
        pages.ask(f"{API}/runs/get?run_id={run_id}")
        pages.ask("/graphql", {"query": GRAPHQL % json.dumps(run_id)})
        for metric in run["data"].get("metrics", []):
            name = quote(metric["key"], safe="")
            pages.ask(f"{API}/metrics/get-history?run_id={run_id}&metric_key={name}&max_results=1000")
            pages.ask(f"{API}/metrics/get-history-bulk-interval?run_ids={run_id}&metric_key={name}&max_results=320")
        for path in pages.files(run_id):
            pages.ask(f"/get-artifact?run_uuid={run_id}&path={quote(path, safe='')}")
            files += 1
    content = b"\n".join(pages.answers)
    assert (SHOWN in content, files > 0) == (True, True), f"{len(runs)} runs with {files} files"
    return content
