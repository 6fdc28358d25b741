"""Time one `mlflow.log_metric` call inside a job, next to a bare HTTP POST of the same bytes.

The bare POST uses http.client and one persistent connection to a server that only answers `{}`. The difference is the
time of MLflow's client, the route and SQLite. Needs MLflow in the environment of himl."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.measure import new_parser, recording
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import Database, RunStore, as_time, now_ms
from himl_cli.workspaces.local.tracking.tracking_server import TrackingServer

CALLS = 500
JOB = "benchmark_1700000000_00000000"
SCRIPT = """
import json, sys, time
import mlflow
if sys.argv[2:]:
    mlflow.set_active_model(name=sys.argv[2])
with mlflow.start_run():
    mlflow.log_metric("warm", 1.0)
    seconds = []
    for step in range(int(sys.argv[1])):
        start = time.perf_counter()
        mlflow.log_metric("loss", 1.0 / (step + 1), step=step)
        seconds.append(time.perf_counter() - start)
print(json.dumps(seconds))
"""


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def time_log_metric(calls: int, *model: str) -> list[float]:
    """Return the seconds of each call of a script that logs to the server of a job, with the name of an active
    *model*, if there is one.
    """
    with tempfile.TemporaryDirectory() as name, closing(Database(Path(name, "workspace.db"), create=True)) as database:
        RunStore(database).add(Run(JOB, "benchmark", RunStatus.running, started=as_time(now_ms())))
        with closing(
            TrackingServer(database, JOB, artifacts_of=lambda run_id: Path(name, run_id), new_child_id=lambda: "unused")
        ) as server:
            server.serve()
            env = server.environment(os.environ)
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT, str(calls), *model],
                env=env,
                cwd=name,
                stdout=subprocess.PIPE,
                check=True,
            )
        kept = len(MetricStore(database).metrics([JOB], name="loss")[0].points)
        if kept != calls:
            sys.exit(f"The script logged {calls} values, but {kept} were stored.")
        found: list[float] = json.loads(done.stdout.splitlines()[-1])
        return found


def time_bare_post(calls: int) -> list[float]:
    seconds = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with closing(http.client.HTTPConnection("127.0.0.1", server.server_port)) as connection:
            for step in range(calls):
                start = time.perf_counter()
                body = json.dumps(
                    {
                        "run_uuid": JOB,
                        "run_id": JOB,
                        "key": "loss",
                        "value": 1.0 / (step + 1),
                        "timestamp": now_ms(),
                        "step": step,
                    }
                )
                connection.request(
                    "POST", "/api/2.0/mlflow/runs/log-metric", body, {"Content-Type": "application/json"}
                )
                connection.getresponse().read()
                seconds.append(time.perf_counter() - start)
        server.shutdown()
    return seconds


if __name__ == "__main__":
    args = new_parser(__doc__, 3).parse_args()
    with recording("tracking", args.raw) as record:
        # Take turns, so that a slow minute of the machine affects both.
        for number in range(1, args.rounds + 1):
            for name, call in (("bare POST", time_bare_post), ("mlflow.log_metric", time_log_metric)):
                seconds = call(CALLS)
                record.add("one call", name, number, wall=statistics.median(seconds))
                record.add(
                    "the slowest of a hundred calls", name, number, wall=statistics.quantiles(seconds, n=100)[98]
                )
