"""Jobs whose server is met: one recorded by hand in a process of its own, and one that was really submitted."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from stress.gauges import Gauge
from stress.world import World
from tests.support.machine import ROOT
from tests.support.processes import processes_below, supervisor_of
from tests.support.running import write_files
from tests.workspaces.tracking.tracked_job import API, JOB

SECONDS_TO_BEGIN = 60.0
PATIENCE = 120.0
"""Seconds that MLflow's clients wait for an answer, unless they are told otherwise."""
SCRIPT = """
import json, os, time, urllib.request
from pathlib import Path

door = {name: os.environ[f"MLFLOW_{name}"] for name in ("TRACKING_URI", "TRACKING_TOKEN", "RUN_ID")}
place = Path("DOOR")
place.with_suffix(".part").touch(mode=0o600)
place.with_suffix(".part").write_text(json.dumps(door))
os.replace(place.with_suffix(".part"), place)
while not place.with_name("stop").exists():
    time.sleep(0.1)
body = json.dumps({"run_id": door["RUN_ID"], "key": "last", "value": 1.0, "timestamp": 1, "step": 0}).encode()
headers = {"Authorization": "Bearer " + door["TRACKING_TOKEN"]}
request = urllib.request.Request(door["TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric", body, headers)
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60).read()
"""
"""It leaves the way to its server where only the case looks, and logs a last value when it is told to stop."""


@dataclass(frozen=True)
class Kept:
    """The record of a job: steps of the metric that its own client logs, and names of all metrics, tags and runs."""

    steps: Sequence[int]
    metrics: frozenset[str]
    tags: Mapping[str, str]
    runs: int
    status: str


@dataclass(frozen=True)
class Target:
    """A job's server. `folder` holds all files of the job."""

    port: int
    token: str
    run_id: str
    gauge: Gauge
    folder: Path
    database: Path

    def log(self, step: int) -> float:
        """As the job's own client does: the seconds it took. Raises OSError, AssertionError where it is refused."""
        begun = time.monotonic()
        body = json.dumps({"run_id": self.run_id, "key": "kept", "value": step, "timestamp": step, "step": step})
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request("POST", f"{API}runs/log-metric", body, {"Authorization": f"Bearer {self.token}"})
            answer = connection.getresponse()
            said = answer.read()
        assert answer.status == 200, f"the job's own client was answered {answer.status}: {said[:200]!r}"
        return time.monotonic() - begun

    def kept(self) -> Kept:
        """What is on record, read past himl."""
        with closing(sqlite3.connect(self.database, timeout=60)) as record:
            steps = [step for (step,) in record.execute("SELECT step FROM metrics WHERE run = ? AND name = 'kept' ORDER BY step", (self.run_id,))]
            metrics = frozenset(name for (name,) in record.execute("SELECT DISTINCT name FROM metrics"))
            tags = dict(record.execute("SELECT name, value FROM tags WHERE run = ?", (self.run_id,)))
            (runs,) = record.execute("SELECT count(*) FROM runs").fetchone()
            (status,) = record.execute("SELECT status FROM runs WHERE id = ?", (self.run_id,)).fetchone()
        return Kept(steps, metrics, tags, runs, status)

    def leaks(self) -> list[str]:
        """Where the token can be read: files of the job, and command lines of whoever works for it."""
        mark = self.token.encode()
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        found = [f"the token stands in '{path.name}'" for path in files if mark in path.read_bytes()]
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            found += [f"the token stands in the command line of process {entry.name}"] if mark in line else []
        return found

    def talk(self) -> int:
        """Bytes that the job's logs have."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.suffix in (".log", ".txt"))


@contextmanager
def tracked(world: World) -> Iterator[Target]:
    """A job on record whose server is all that there is of it."""
    folder = world.folder / "tracked"
    folder.mkdir()
    with (folder / "said.log").open("wb") as said:
        command = [sys.executable, "-m", "stress.endpoint.served", str(folder / "runs")]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=dict(os.environ))
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "said.log").read_text()[-2000:]
            door = json.loads(line)
            yield Target(door["port"], door["token"], JOB, Gauge(process.pid), folder, folder / "runs" / "workspace.db")
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(SECONDS_TO_BEGIN) == 0, (folder / "said.log").read_text()[-2000:]
        finally:
            process.kill()


@contextmanager
def submitted(world: World) -> Iterator[Target]:
    """A job as `himl submit` makes it; it is let go, and has ended well, when the context ends."""
    project, door = world.folder / "project", world.folder / "door.json"
    write_files(project, {"train.py": SCRIPT.replace("DOOR", str(door))})
    env = world.environment()
    done = world.himl("submit", "train.py", "--no_wait", "-w", "local", "-q", cwd=project, env=env)
    assert done.code == 0, done.stderr
    try:
        _wait(door.exists, "the script began")
        way = json.loads(door.read_text())
        folder = project / ".himl"
        port = int(way["TRACKING_URI"].rpartition(":")[2])
        yield Target(port, way["TRACKING_TOKEN"], way["RUN_ID"], Gauge(supervisor_of(project)), folder / "runs", folder / "workspace.db")
        door.with_name("stop").touch()
        _wait(lambda: not processes_below(folder), "the job ended")
    finally:
        door.with_name("stop").touch()
        for pid in processes_below(folder):
            os.kill(pid, 9)


def _wait(is_so: Callable[[], bool], what: str) -> None:
    """Raises AssertionError where it takes too long."""
    deadline = time.monotonic() + SECONDS_TO_BEGIN
    while not is_so():
        assert time.monotonic() < deadline, f"it did not come about that {what}"
        time.sleep(0.1)


TARGETS = {"tracked": tracked, "submitted": submitted}
