"""A recorded job with its tracking server, and plain requests to it."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.metric_store import MetricStore, begin_attempt
from himl_cli.workspaces.local.run_store import Database, RunStore, as_time, now_ms
from himl_cli.workspaces.local.tracking.tracking_server import Limits, TrackingServer
from tests.support.folders import files_below

JOB = "train_1700000000_0badcafe"
PARENT = "mlflow.parentRunId"
API = "/api/2.0/mlflow/"
INVALID = (400, "INVALID_PARAMETER_VALUE")
MISSING = (404, "RESOURCE_DOES_NOT_EXIST")


@dataclass(frozen=True)
class Reply:
    status: int
    body: dict[str, Any]

    @property
    def error(self) -> tuple[int, str]:
        return self.status, str(self.body.get("error_code", ""))


@dataclass(frozen=True)
class TrackedJob:
    """`store` and `metric_store` read the data that the server saved."""

    server: TrackingServer
    folder: Path
    store: RunStore
    metric_store: MetricStore

    def artifacts(self, run_id: str = JOB) -> Path:
        return self.folder / run_id / "artifacts"

    def files(self, run_id: str = JOB) -> set[str]:
        folder = self.artifacts(run_id)
        return {path.relative_to(folder).as_posix() for path in files_below(folder)}

    def run(self, run_id: str = JOB) -> Run:
        found = self.store.get(run_id)
        assert found is not None, run_id
        return found

    def children(self, parent: str = JOB) -> dict[str, Run]:
        """Return the child runs of *parent* by display name."""
        runs = [self.run(run_id) for run_id in self.store.descendants(parent) if run_id != parent]
        return {run.display_name: run for run in runs}

    def values(self, name: str, run_id: str = JOB) -> list[float]:
        return [point.value for metric in self.metric_store.metrics([run_id], name=name) for point in metric.points]

    def parameters(self, run_id: str = JOB) -> dict[str, str]:
        return self.metric_store.parameters(run_id)

    @property
    def secret(self) -> str:
        return self.server.environment({})["MLFLOW_TRACKING_TOKEN"]

    def send(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one request, with the job's token unless *headers* has another one."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)) as connection:
            connection.request(method, target, body, {"Authorization": f"Bearer {self.secret}", **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, json.loads(response.read()))

    def post(self, route: str, **fields: object) -> Reply:
        return self.send("POST", API + route, json.dumps(fields).encode())

    def get(self, route_and_query: str) -> Reply:
        return self.send("GET", API + route_and_query)

    def new_child(self, name: str = "", tags: Mapping[str, str] | None = None, **fields: object) -> str:
        """Create a nested run as clients do, and return its id."""
        pairs = [{"key": key, "value": value} for key, value in {PARENT: JOB, **(tags or {})}.items()]
        reply = self.post("runs/create", run_name=name, tags=pairs, **fields)
        assert reply.status == 200, reply
        return str(reply.body["run"]["info"]["run_id"])

    def found(self, filter: str = "", order_by: Sequence[str] = (), **fields: object) -> list[str]:
        """Return the names of the runs that a search finds."""
        reply = self.post(
            "runs/search", **{"experiment_ids": ["0"], "filter": filter, "order_by": list(order_by), **fields}
        )
        assert reply.status == 200, reply
        return [run["info"]["run_name"] for run in reply.body["runs"]]


@contextmanager
def tracked_job(folder: Path, limits: Limits = Limits()) -> Iterator[TrackedJob]:  # noqa: B008 - it is frozen
    """Yield a running job, whose runs are in *folder*, with its server. If *folder* has the job, its next attempt."""
    folder.mkdir(parents=True, exist_ok=True)
    database = Database(folder / "workspace.db", create=True)
    store = RunStore(database)
    if store.get(JOB) is None:
        store.add(
            Run(JOB, "train", RunStatus.running, display_name="the job", tags={"git": "abc"}, started=as_time(now_ms()))
        )
    else:
        begin_attempt(database, JOB)
        store.tag(JOB, {"himl.try": str(store.attempt(JOB) + 1)})
    numbers = itertools.count(len(store.ids()))
    server = TrackingServer(
        database,
        JOB,
        artifacts_of=lambda run_id: folder / run_id / "artifacts",
        new_child_id=lambda: f"train_1700000000_{next(numbers):08x}",
        limits=limits,
    )
    server.serve()
    with closing(database), closing(server):
        yield TrackedJob(server, folder, store, MetricStore(database))
