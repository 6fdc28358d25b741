"""Requests of strangers to the server of a local job: `endpoint/<way>/<tracked or submitted>/<number>`. It must refuse
requests without the token or with another host. Linux only (/proc)."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

from himl_cli.workspaces.local.tracking.http_connection import LARGEST_BODY
from stress import apart
from stress.attacks import ATTACKS, MALFORMED, Attack, Drawn, Server, attacked, judged
from stress.records import Case, Result
from stress.world import LOG_METRIC, SPAWN, Gauge, World
from tests.support import processes, running
from tests.workspaces.tracking.tracked_job import API, JOB

INTRUDER = "intruder"  # names of metrics and tags in requests that the server must refuse
RIGHT_SHARE = 0.15
_RIGHT_AUTHS, _RIGHT_HOSTS = ("bearer", "password", "path"), ("address", "localhost", "LOCALHOST")
_REFUSED_LENGTHS = {"chunked": 411, "text": 400, "negative": 400, "many digits": 400, "two": 400}
"""Answered before anything else is looked at."""
_ODD_METHODS = ("HEAD", "BREW", "post", "OPTIONS", "X" * 500, "PO\tST")
REQUESTS = 1000
NUMBERS = {("requests", "tracked"): 30}  # cases per cell (default: 1)
PATIENCE = 120.0  # seconds for which MLflow's clients wait, unless they are told otherwise
TALK = 64 << 10  # bytes that the job's logs may have in the end
SECONDS_TO_BEGIN = 60.0


def draw(server: Server, dice: random.Random, number: int) -> Drawn:
    auths, hosts = _auths(server, dice), _hosts(server, dice)
    if dice.random() < RIGHT_SHARE:
        body = json.dumps(
            {"run_id": server.run_id, "key": f"right_{number}", "value": "x" * dice.choice((1, 10, 5000))}
        ).encode()
        prefix, lines = auths[dice.choice(_RIGHT_AUTHS)]
        lines = [
            *(f"Host: {host}" for host in hosts[dice.choice(_RIGHT_HOSTS)]),
            *lines,
            f"Content-Length: {len(body)}",
        ]
        return Drawn(
            _request("POST", f"{prefix}{API}runs/set-tag", lines, body), frozenset({200}), "right", f"right_{number}"
        )
    wrong_auths, wrong_hosts = (
        [kind for kind in kinds if kind not in right] for kinds, right in ((auths, _RIGHT_AUTHS), (hosts, _RIGHT_HOSTS))
    )
    route, body = _harm(server, dice)
    paths, lengths = _paths(route, dice), _lengths(len(body), dice)
    auth, host = (
        dice.choice([*_RIGHT_AUTHS, *wrong_auths, *wrong_auths]),
        dice.choice([*_RIGHT_HOSTS, *_RIGHT_HOSTS, *wrong_hosts]),
    )
    length, path = dice.choice([*lengths, *["right"] * 3]), dice.choice([*paths, *["right"] * 3])
    method = dice.choice(("POST", "POST", "POST", "GET", "GET", "PATCH", "DELETE", "PUT", *_ODD_METHODS))
    if auth in _RIGHT_AUTHS and host in _RIGHT_HOSTS and length in ("right", "shorter", "none"):  # a valid request
        auth = dice.choice(wrong_auths)
    if method in _ODD_METHODS or path in ("long", "spaced", "garbage") or (auth == "path" and path == "absolute"):
        answers = MALFORMED
    elif length in _REFUSED_LENGTHS:
        answers = frozenset({_REFUSED_LENGTHS[length]})
    else:
        answers = frozenset(
            {403 if host in wrong_hosts else 401 if auth in wrong_auths else 400 if length == "longer" else 413}
        )
    prefix, lines = auths[auth]
    lines = [*(f"Host: {host}" for host in hosts[host]), *lines, *lengths[length]]
    content = body if length != "chunked" else f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    text = f"{auth}, host {host}, length {length}, {method[:12]}, path {path}"
    return Drawn(_request(method, prefix + paths[path], lines, content), answers, text)


def _request(method: str, path: str, lines: Sequence[str], body: bytes) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1", "replace") + body


def _auths(server: Server, dice: random.Random) -> dict[str, tuple[str, list[str]]]:
    """Ways to send a token: the start of the path, and header lines. Wrong tokens may be in either."""
    token, other = server.token, dice.randbytes(24).hex()
    secret, dash, rank = token.partition("-")  # of the process that logs, which any client with the secret may name
    changed = token.upper() if token.upper() != token else f"{(int(token[0]) + 1) % 10}{token[1:]}"

    def basic(pair: str) -> tuple[str, list[str]]:
        return "", [f"Authorization: Basic {b64encode(pair.encode()).decode()}"]

    tokens = {
        "bearer": token,
        "other token": other,
        "cut token": f"{secret[:-1]}{dash}{rank}",
        "longer token": f"{secret}0{dash}{rank}",
        "upper token": changed,
    }
    in_path = {kind: kind != "bearer" and dice.random() < 0.3 for kind in tokens}
    auths = {
        kind: (f"/{text}", []) if in_path[kind] else ("", [f"Authorization: Bearer {text}"])
        for kind, text in tokens.items()
    }
    auths |= {
        "path": (f"/{token}", []),
        "second part": (f"/api/{token}", []),
        "query": (f"/?token={token}&x=", []),
        "none": ("", []),
    }
    auths |= {
        "password": basic(f"himl:{token}"),
        "other user": basic(f"root:{token}"),
        "token as user": basic(f"{token}:"),
    }
    two = [f"Authorization: Bearer {other}", f"Authorization: Bearer {token}"]
    return auths | {"cookie": ("", [f"Cookie: token={token}"]), "first of two": ("", two)}


def _hosts(server: Server, dice: random.Random) -> dict[str, list[str]]:
    right, other = f"127.0.0.1:{server.port}", server.port - dice.randint(1, 500)
    hosts = {
        "address": [right],
        "localhost": [f"localhost:{server.port}"],
        "LOCALHOST": [f"LOCALHOST:{server.port}"],
        "other": ["evil.example"],
    }
    hosts |= {
        "other with port": [f"evil.example:{server.port}"],
        "no port": ["127.0.0.1"],
        "other port": [f"127.0.0.1:{other}"],
    }
    hosts |= {
        "below localhost": [f"localhost.evil.example:{server.port}"],
        "IPv6": [f"[::1]:{server.port}"],
        "any": [f"0.0.0.0:{server.port}"],
    }
    return hosts | {
        "user part": [f"{right}@evil.example"],
        "empty": [""],
        "lacking": [],
        "two": [right, "evil.example"],
        "two alike": [right, right],
    }


def _lengths(length: int, dice: random.Random) -> dict[str, list[str]]:
    said: dict[str, list[object]] = {
        "right": [length],
        "longer": [length + dice.randint(1, 10_000)],
        "shorter": [dice.randrange(length)],
        "none": [],
    }
    said |= {
        "huge": [LARGEST_BODY + dice.randint(1, 1 << 20)],
        "endless": [10 ** dice.randint(12, 18)],
        "two": [length, length + 1],
    }
    said["many digits"] = ["9" * dice.randint(20, 5000)]
    said |= {"text": [dice.choice(("many", "0x10", "1e3", "+5", "1,2", "²"))], "negative": [-dice.randint(1, 1000)]}
    return {
        "chunked": ["Transfer-Encoding: chunked"],
        **{kind: [f"Content-Length: {value}" for value in values] for kind, values in said.items()},
    }


def _harm(server: Server, dice: random.Random) -> tuple[str, bytes]:
    """A route with fields that would leave traces in the record if the server accepted it."""
    name, run = f"{INTRUDER}_{dice.randrange(1000)}", {"run_id": server.run_id}
    harms: dict[str, dict[str, object]] = {
        f"runs/{route}": {**run, "key": name, "value": "x"} for route in ("set-tag", "log-metric", "log-parameter")
    }
    harms["runs/log-metric"] |= {"value": 1.0, "timestamp": 1, "step": 1}
    harms |= {"runs/create": {"experiment_id": "1", "run_name": name}, "runs/delete": {**run}}
    harms |= {"runs/update": {**run, "status": "FAILED", "run_name": name}, "runs/search": {"experiment_ids": ["1"]}}
    route, fields = dice.choice([*harms.items()])
    return route, json.dumps(fields).encode()


def _paths(route: str, dice: random.Random) -> dict[str, str]:
    paths = {
        "right": f"{API}{route}",
        "other prefix": f"/ajax-api/2.0/mlflow/{route}",
        "none": "/",
        "up": f"/x/..{API}{route}",
        "spaced": f"{API} {route}",
    }
    paths |= {
        "encoded": f"/%61pi/2.0/mlflow/{route}%00%ff",
        "absolute": f"http://127.0.0.1{API}{route}",
        "long": "/" + "a" * dice.randint(65_600, 90_000),
    }
    return paths | {
        "garbage": "/" + "".join(chr(dice.choice((1, 7, 9, 11, 127, 128, 200, 255))) for _ in range(20)) + " x"
    }


WAYS: dict[str, Attack] = {
    "requests": lambda server, dice: judged(server, (draw(server, dice, number) for number in range(REQUESTS))),
    **ATTACKS,
}


def endpoint_cases() -> list[Case]:
    numbers = [
        (way, target, number) for way in WAYS for target in TARGETS for number in range(NUMBERS.get((way, target), 1))
    ]
    return [
        Case(f"endpoint/{way}/{target}/{number:02d}", partial(_run, way, target)) for way, target, number in numbers
    ]


def _run(way: str, kind: str, world: World, dice: random.Random) -> Result:
    with TARGETS[kind](world) as target:
        begun = time.monotonic()
        met, watch, problems, facts = attacked(target, WAYS[way], dice)
        seconds = time.monotonic() - begun
        leaks, talk = target.leaks(), target.talk()
    problems += [*leaks, *wrong_record(target.kept(), len(watch.waits), met.tags, is_submitted=kind == "submitted")]
    problems += [f"the job's logs have {talk:,} bytes"] if talk > TALK else []
    problems += [] if processes.is_sound_file(target.database) else ["the database is damaged"]
    return world.result(problems, 0, seconds, met.sent, {**facts, "log_bytes": talk})


def wrong_record(kept: Kept, steps: int, tags: frozenset[str], *, is_submitted: bool) -> list[str]:
    wrong = []
    if list(kept.steps) != list(range(steps)):
        wrong.append(f"{len(kept.steps)} of the {steps} steps of the job's own client are on record, or others")
    strange = sorted(name for name in (*kept.metrics, *kept.tags) if name.startswith(INTRUDER))
    wrong += [f"on record are {len(strange)} values of strangers, as '{strange[0]}'"] if strange else []
    if (lacking := tags - kept.tags.keys()) or (
        others := {name for name in kept.tags if name.startswith("right_")} - tags
    ):
        wrong.append(
            f"of the tags that were let in {len(lacking)} are lacking, {len(others) if not lacking else 0} "
            "are there that were not"
        )
    if kept.runs != 1:
        wrong.append(f"{kept.runs} runs are on record")
    expected = "Completed" if is_submitted else "Running"
    wrong += [] if kept.status == expected else [f"the job is {kept.status}, not {expected}"]
    wrong += ["the last value of the job is lacking"] if is_submitted and "last" not in kept.metrics else []
    return wrong


SCRIPT = f"""{LOG_METRIC}
way = {{name: os.environ[name] for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "AZUREML_RUN_ID")}}
place = Path("PLACE")
place.with_suffix(".part").touch(mode=0o600)
place.with_suffix(".part").write_text(json.dumps(way))
os.replace(place.with_suffix(".part"), place)
while not place.with_name("stop").exists():
    time.sleep(0.1)
log_metric("last", 1.0, 0)
"""
"""It leaves the way to its server where only the case looks, and logs a last value when it is told to stop."""


@dataclass(frozen=True)
class Kept:
    """The record of a job: steps of the metric of its own client, and names of all metrics, tags and runs."""

    steps: Sequence[int]
    metrics: frozenset[str]
    tags: Mapping[str, str]
    runs: int
    status: str


@dataclass(frozen=True)
class Target(Server):
    folder: Path
    database: Path

    def use(self, step: int) -> float:
        begun = time.monotonic()
        body = json.dumps({"run_id": self.run_id, "key": "kept", "value": step, "timestamp": step, "step": step})
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request("POST", f"{API}runs/log-metric", body, {"Authorization": f"Bearer {self.token}"})
            answer = connection.getresponse()
            said = answer.read()
        assert answer.status == 200, f"the job's own client was answered {answer.status}: {said[:200]!r}"
        return time.monotonic() - begun

    def kept(self) -> Kept:
        with closing(sqlite3.connect(self.database, timeout=60)) as record:
            steps = [
                step
                for (step,) in record.execute(
                    "SELECT step FROM metrics WHERE run = ? AND name = 'kept' ORDER BY step", (self.run_id,)
                )
            ]
            metrics = frozenset(name for (name,) in record.execute("SELECT DISTINCT name FROM metrics"))
            tags = dict(record.execute("SELECT name, value FROM tags WHERE run = ?", (self.run_id,)))
            (runs,) = record.execute("SELECT count(*) FROM runs").fetchone()
            (status,) = record.execute("SELECT status FROM runs WHERE id = ?", (self.run_id,)).fetchone()
        return Kept(steps, metrics, tags, runs, status)

    def leaks(self) -> list[str]:
        mark = self.token.encode()
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        found = [f"the token stands in '{path.name}'" for path in files if mark in path.read_bytes()]
        shown = processes.processes_below(Path("/"), self.token)
        return found + [f"the token stands in the command line of process {pid}" for pid in shown]

    def talk(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.suffix in (".log", ".txt"))


@contextmanager
def tracked(world: World) -> Iterator[Target]:
    folder = world.folder / "tracked"
    folder.mkdir()
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=apart.serve, args=(theirs, folder))
    process.start()
    theirs.close()
    try:
        port, token = ours.recv()
        yield Target(port, JOB, Gauge(process.pid or 0), token, folder, folder / "runs" / "workspace.db")
        ours.close()
        process.join(SECONDS_TO_BEGIN)
        assert process.exitcode == 0, (folder / "said.log").read_text()[-2000:]
    finally:
        process.kill()
        process.join()


@contextmanager
def submitted(world: World) -> Iterator[Target]:
    project, place = world.folder / "project", world.folder / "way.json"
    running.write_files(project, {"train.py": SCRIPT.replace("PLACE", str(place))})
    env = world.environment()
    done = world.himl("submit", "train.py", "--no_wait", "-w", "local", "-q", cwd=project, env=env)
    assert done.code == 0, done.stderr
    try:
        running.until(place.exists, "the script began")
        way = json.loads(place.read_text())
        folder = project / ".himl"
        port = int(way["MLFLOW_TRACKING_URI"].rpartition(":")[2])
        gauge = Gauge(processes.supervisor_of(project))
        yield Target(
            port, way["AZUREML_RUN_ID"], gauge, way["MLFLOW_TRACKING_TOKEN"], folder / "runs", folder / "workspace.db"
        )
        place.with_name("stop").touch()
        running.until(lambda: not processes.processes_below(folder), "the job ended")
    finally:
        place.with_name("stop").touch()
        for pid in processes.processes_below(folder):
            os.kill(pid, 9)


TARGETS = {"tracked": tracked, "submitted": submitted}
