"""Requests of strangers to the server of a local job: `endpoint/<way>/<tracked or submitted>/<number>`. It must refuse requests without the
token or with another host. Linux only (/proc).
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import selectors
import socket
import sqlite3
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from himl_cli.workspaces.local.tracking.http_connection import LARGEST_BODY
from himl_cli.workspaces.local.tracking.tracking_server import Limits
from stress import apart
from stress.records import Case, Result
from stress.world import LOG_METRIC, SPAWN, Gauge, World
from tests.support import processes, running
from tests.workspaces.tracking.tracked_job import API, JOB

SECONDS, MOST = 60.0, 1 << 20
INTRUDER = "intruder"  # names of metrics and tags in requests that the server must refuse
RIGHT_SHARE = 0.15
MALFORMED = frozenset({400, 401, 403, 404, 405, 411, 413, 414, 431, 501, 505})
"""What a request may be answered that is no proper HTTP, or that is wrong in several ways."""
_RIGHT_AUTHS, _RIGHT_HOSTS = ("bearer", "password", "path"), ("address", "localhost", "LOCALHOST")
_REFUSED_LENGTHS = {"chunked": 411, "text": 400, "negative": 400, "many digits": 400, "two": 400}
"""Answered before anything else is looked at."""
_ODD_METHODS = ("HEAD", "BREW", "post", "OPTIONS", "X" * 500, "PO\tST")
REQUESTS = 1000
SENDERS, SLOW_SECONDS = 60, 45.0
IDLE, IDLE_SECONDS = 2000, 45.0
NUMBERS = {("requests", "tracked"): 30}  # cases per cell (default: 1)
THREADS = Limits().most + 24
GROWTH = 64.0  # MiB of memory above the start
WAIT, PATIENCE = 60.0, 120.0  # seconds that the job's own client may wait at most, and for which MLflow's clients do, unless they are told otherwise
TALK = 64 << 10  # bytes that the job's logs may have in the end
SECONDS_TO_SETTLE, SECONDS_TO_BEGIN = 20.0, 60.0


@dataclass(frozen=True)
class Door:
    port: int
    token: str
    run_id: str


@dataclass(frozen=True)
class Drawn:
    """`content` is sent unchanged. The reply must be one of *answers*, where 0 is the end of the connection without a reply. Status 200 stores `tag`."""

    content: bytes
    answers: frozenset[int]
    text: str
    tag: str = ""


def draw(door: Door, dice: random.Random, number: int) -> Drawn:
    auths, hosts = _auths(door, dice), _hosts(door, dice)
    if dice.random() < RIGHT_SHARE:
        body = json.dumps({"run_id": door.run_id, "key": f"right_{number}", "value": "x" * dice.choice((1, 10, 5000))}).encode()
        prefix, lines = auths[dice.choice(_RIGHT_AUTHS)]
        lines = [*(f"Host: {host}" for host in hosts[dice.choice(_RIGHT_HOSTS)]), *lines, f"Content-Length: {len(body)}"]
        return Drawn(_request("POST", f"{prefix}{API}runs/set-tag", lines, body), frozenset({200}), "right", f"right_{number}")
    wrong_auths, wrong_hosts = ([kind for kind in kinds if kind not in right] for kinds, right in ((auths, _RIGHT_AUTHS), (hosts, _RIGHT_HOSTS)))
    route, body = _harm(door, dice)
    paths, lengths = _paths(route, dice), _lengths(len(body), dice)
    auth, host = dice.choice([*_RIGHT_AUTHS, *wrong_auths, *wrong_auths]), dice.choice([*_RIGHT_HOSTS, *_RIGHT_HOSTS, *wrong_hosts])
    length, path = dice.choice([*lengths, *["right"] * 3]), dice.choice([*paths, *["right"] * 3])
    method = dice.choice(("POST", "POST", "POST", "GET", "GET", "PATCH", "DELETE", "PUT", *_ODD_METHODS))
    if auth in _RIGHT_AUTHS and host in _RIGHT_HOSTS and length in ("right", "shorter", "none"):  # a valid request
        auth = dice.choice(wrong_auths)
    if method in _ODD_METHODS or path in ("long", "spaced", "garbage") or (auth == "path" and path == "absolute"):
        answers = MALFORMED
    elif length in _REFUSED_LENGTHS:
        answers = frozenset({_REFUSED_LENGTHS[length]})
    else:
        answers = frozenset({403 if host in wrong_hosts else 401 if auth in wrong_auths else 400 if length == "longer" else 413})
    prefix, lines = auths[auth]
    lines = [*(f"Host: {host}" for host in hosts[host]), *lines, *lengths[length]]
    content = body if length != "chunked" else f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    text = f"{auth}, host {host}, length {length}, {method[:12]}, path {path}"
    return Drawn(_request(method, prefix + paths[path], lines, content), answers, text)


def _request(method: str, path: str, lines: Sequence[str], body: bytes) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1", "replace") + body


def _auths(door: Door, dice: random.Random) -> dict[str, tuple[str, list[str]]]:
    """Ways to send a token: the start of the path, and header lines. Wrong tokens may be in either."""
    token, other = door.token, dice.randbytes(24).hex()
    changed = token.upper() if token.upper() != token else f"{(int(token[0]) + 1) % 10}{token[1:]}"

    def basic(pair: str) -> tuple[str, list[str]]:
        return "", [f"Authorization: Basic {b64encode(pair.encode()).decode()}"]

    tokens = {"bearer": token, "other token": other, "cut token": token[:-1], "longer token": token + "0", "upper token": changed}
    in_path = {kind: kind != "bearer" and dice.random() < 0.3 for kind in tokens}
    auths = {kind: (f"/{text}", []) if in_path[kind] else ("", [f"Authorization: Bearer {text}"]) for kind, text in tokens.items()}
    auths |= {"path": (f"/{token}", []), "second part": (f"/api/{token}", []), "query": (f"/?token={token}&x=", []), "none": ("", [])}
    auths |= {"password": basic(f"himl:{token}"), "other user": basic(f"root:{token}"), "token as user": basic(f"{token}:")}
    two = [f"Authorization: Bearer {other}", f"Authorization: Bearer {token}"]
    return auths | {"cookie": ("", [f"Cookie: token={token}"]), "first of two": ("", two)}


def _hosts(door: Door, dice: random.Random) -> dict[str, list[str]]:
    right, other = f"127.0.0.1:{door.port}", door.port - dice.randint(1, 500)
    hosts = {"address": [right], "localhost": [f"localhost:{door.port}"], "LOCALHOST": [f"LOCALHOST:{door.port}"], "other": ["evil.example"]}
    hosts |= {"other with port": [f"evil.example:{door.port}"], "no port": ["127.0.0.1"], "other port": [f"127.0.0.1:{other}"]}
    hosts |= {"below localhost": [f"localhost.evil.example:{door.port}"], "IPv6": [f"[::1]:{door.port}"], "any": [f"0.0.0.0:{door.port}"]}
    return hosts | {"user part": [f"{right}@evil.example"], "empty": [""], "lacking": [], "two": [right, "evil.example"], "two alike": [right, right]}


def _lengths(length: int, dice: random.Random) -> dict[str, list[str]]:
    said: dict[str, list[object]] = {"right": [length], "longer": [length + dice.randint(1, 10_000)], "shorter": [dice.randrange(length)], "none": []}
    said |= {"huge": [LARGEST_BODY + dice.randint(1, 1 << 20)], "endless": [10 ** dice.randint(12, 18)], "two": [length, length + 1]}
    said["many digits"] = ["9" * dice.randint(20, 5000)]
    said |= {"text": [dice.choice(("many", "0x10", "1e3", "+5", "1,2", "²"))], "negative": [-dice.randint(1, 1000)]}
    return {"chunked": ["Transfer-Encoding: chunked"], **{kind: [f"Content-Length: {value}" for value in values] for kind, values in said.items()}}


def _harm(door: Door, dice: random.Random) -> tuple[str, bytes]:
    """A route with fields that would leave traces in the record if the server accepted it."""
    name, run = f"{INTRUDER}_{dice.randrange(1000)}", {"run_id": door.run_id}
    harms: dict[str, dict[str, object]] = {f"runs/{route}": {**run, "key": name, "value": "x"} for route in ("set-tag", "log-metric", "log-parameter")}
    harms["runs/log-metric"] |= {"value": 1.0, "timestamp": 1, "step": 1}
    harms |= {"runs/create": {"experiment_id": "1", "run_name": name}, "runs/delete": {**run}}
    harms |= {"runs/update": {**run, "status": "FAILED", "run_name": name}, "runs/search": {"experiment_ids": ["1"]}}
    route, fields = dice.choice([*harms.items()])
    return route, json.dumps(fields).encode()


def _paths(route: str, dice: random.Random) -> dict[str, str]:
    paths = {"right": f"{API}{route}", "other prefix": f"/ajax-api/2.0/mlflow/{route}", "none": "/", "up": f"/x/..{API}{route}", "spaced": f"{API} {route}"}
    paths |= {"encoded": f"/%61pi/2.0/mlflow/{route}%00%ff", "absolute": f"http://127.0.0.1{API}{route}", "long": "/" + "a" * dice.randint(65_600, 90_000)}
    return paths | {"garbage": "/" + "".join(chr(dice.choice((1, 7, 9, 11, 127, 128, 200, 255))) for _ in range(20)) + " x"}


@dataclass(frozen=True)
class Met:
    """`sent` is the number of requests or connections, `tags` are the names of accepted tags."""

    sent: int
    problems: Sequence[str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()


def odd_heads(door: Door, dice: random.Random) -> Met:
    right = f"GET {API}runs/get?run_id={door.run_id} HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\n"
    token = f"Authorization: Bearer {door.token}\r\n"
    heads = [
        ("1,000 lines", right + token + "".join(f"X-{number}: y\r\n" for number in range(1000)) + "\r\n", frozenset({431})),
        ("lines of 60 kB", right + token + "".join(f"X-{number}: {'y' * 60_000}\r\n" for number in range(80)) + "\r\n", frozenset({431})),
        ("one line of 4 MB", right + token + "X: " + "y" * 4_000_000 + "\r\n\r\n", frozenset({431})),
        ("a first line of 4 MB", "GET /" + "y" * 4_000_000 + " HTTP/1.1\r\n\r\n", frozenset({414})),
        ("no end", right + "X: y", frozenset({0, 400, 401})),
        ("empty lines", "\r\n" * 50_000, frozenset({0, 400})),
        ("NUL", right + "X\0: \0\r\nAuthorization: Bearer \0\r\n\r\n", MALFORMED),
        ("no colon", right + "nonsense\r\n" * 20 + "\r\n", MALFORMED),
        ("folded", right + "Authorization: Bearer\r\n x\r\n\r\n", frozenset({401})),
        ("HTTP/0.9", f"GET {API}runs/get?run_id={door.run_id}\r\n\r\n", frozenset({403})),
        ("binary", dice.randbytes(20_000).decode("latin-1"), MALFORMED | {0}),
    ]
    drawn = [Drawn(text.encode("latin-1"), answers, name) for name, text, answers in dice.choices(heads, k=180) + heads]
    return _judged(door, drawn, at_once=20)


def odd_bodies(door: Door, dice: random.Random) -> Met:
    right, wrong = f"Authorization: Bearer {door.token}\r\n", f"Authorization: Bearer {dice.randbytes(24).hex()}\r\n"
    large, fair = bytes(LARGEST_BODY + 1), bytes(Limits().drained // 2)
    deep, long = b'{"a":' + b"[" * 200_000, b'{"run_id":' + b"9" * 6000 + b"}"
    bodies = [
        ("64 MiB and one of the job", right, large, len(large), frozenset({413})),
        ("64 MiB and one of a stranger", wrong, large, len(large), frozenset({0, 401})),
        ("4 MiB of a stranger", wrong, fair, len(fair), frozenset({401})),
        ("a length of 1 GiB of a stranger", wrong, b"x", 1 << 30, frozenset({401})),
        ("shorter than its length", right, b"{}", 1000, frozenset({400})),
        ("200,000 brackets", right, deep, len(deep), frozenset({400})),
        ("a number of 6,000 digits", right, long, len(long), frozenset({400})),
        ("no text", right, b"\xff\xfe\x80" * 1000, 3000, frozenset({400})),
    ]
    head = f"POST {API}runs/log-batch HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\n"
    drawn = [(f"{head}{auth}Content-Length: {length}\r\n\r\n".encode(), body, answers, name) for name, auth, body, length, answers in bodies]
    order = dice.sample(drawn * 4, k=4 * len(drawn))
    return _judged(door, (Drawn(start + body, answers, name) for start, body, answers, name in order))


def slow_senders(door: Door, dice: random.Random) -> Met:
    """SENDERS strangers that send nothing, or slowly one byte of their headers or body at a time. The server must close the silent ones."""
    long = f"POST {API}runs/set-tag HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\nContent-Length: 1000000\r\n\r\n".encode()
    with _connections(door.port, SENDERS) as clients:
        silent, heads, bodies = clients[0::3], clients[1::3], clients[2::3]
        for client in bodies:
            client.send(long)
        left, end = list(silent), time.monotonic() + SLOW_SECONDS
        while time.monotonic() < end:
            for client in dice.sample(heads + bodies, k=10):
                with suppress(OSError):
                    client.send(b"G")
            left = [client for client in left if not _is_ended(client)]
            time.sleep(0.5)
        wrong = [f"{len(left)} of {len(silent)} silent connections are still open after {SLOW_SECONDS:.0f} s"] if left else []
        open_still = sum(not _is_ended(client) for client in heads + bodies)
    return Met(len(clients), wrong, {"silent": len(silent), "silent_left": len(left), "dripping_left": open_still})


def idle_connections(door: Door, dice: random.Random) -> Met:
    with _connections(door.port, IDLE) as clients:
        left, end = list(clients), time.monotonic() + IDLE_SECONDS
        while time.monotonic() < end:
            time.sleep(1.0)
            left = [client for client in left if not _is_ended(client)]
    return Met(len(clients), [], {"ended_by_server": len(clients) - len(left)})


ATTACKS: dict[str, Callable[[Door, random.Random], Met]] = {
    "requests": lambda door, dice: _judged(door, (draw(door, dice, number) for number in range(REQUESTS))),
    "headers": odd_heads,
    "bodies": odd_bodies,
    "slow": slow_senders,
    "idle": idle_connections,
}


def _judged(door: Door, drawn: Iterable[Drawn], at_once: int = 1) -> Met:
    problems: list[str] = []
    statuses: Counter[int] = Counter()
    tags = set()
    with ThreadPoolExecutor(at_once) as pool:
        replies = pool.map if at_once > 1 else map  # the one draws all at once, the other as it goes on
        answered = replies(lambda one: (one, exchange(door.port, one.content)), drawn)
        for one, reply in answered:
            status = status_of(reply) if reply is not None else -1
            statuses[status] += 1
            problems += _wrong(door, one, reply)
            tags |= {one.tag} - {""} if status == 200 else set()
    facts = {"answers": {str(status): count for status, count in sorted(statuses.items())}}
    return Met(sum(statuses.values()), problems, facts, frozenset(tags))


def _wrong(door: Door, one: Drawn, reply: bytes | None) -> list[str]:
    if reply is None:
        return [f"{one.text}: no end of the answer"]
    status = status_of(reply)
    wrong = [] if status in one.answers else [f"{one.text}: answered {status}, not {'/'.join(map(str, sorted(one.answers)))}"]
    if 200 not in one.answers and b"HTTP/1.1 200" in reply:
        wrong.append(f"{one.text}: something behind it was let in")
    if status >= 400 and not is_told_in_json(reply):
        wrong.append(f"{one.text}: {status} without a reason in JSON")
    if door.token.encode() in reply:
        wrong.append(f"{one.text}: the token stands in the answer")
    return wrong


@contextmanager
def _connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """*count* non-blocking connections. Those that are not accepted yet keep trying."""
    clients = [socket.socket() for _ in range(count)]
    try:
        for client in clients:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        with selectors.DefaultSelector() as ready:
            for client in clients[: Limits().most // 2]:  # the first ones are accepted before they send anything
                ready.register(client, selectors.EVENT_WRITE)
            ready.select(timeout=10)
        yield clients
    finally:
        for client in clients:
            client.close()


def _is_ended(client: socket.socket) -> bool:
    try:
        return client.recv(65536) == b""
    except OSError as e:
        return e.errno not in (errno.EAGAIN, errno.ENOTCONN)  # no data yet, or not accepted yet


def exchange(port: int, content: bytes) -> bytes | None:
    """The reply to *content* until the server closes the connection, None if it does not close it, or never stops sending."""
    found, deadline = b"", time.monotonic() + SECONDS
    with suppress(TimeoutError), socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
        with suppress(OSError):  # refused before all was sent, but the reply may have arrived
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while (piece := client.recv(65536)) and len(found) < MOST:
                found += piece
                if time.monotonic() > deadline:
                    return None
        return found
    return None


def status_of(reply: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", reply)
    return int(found[1]) if found else 0


def is_told_in_json(reply: bytes) -> bool:
    """Whether the first reply is an error in MLflow's format. A reply to HEAD has no body."""
    body = reply.partition(b"\r\n\r\n")[2]
    try:
        document, _ = json.JSONDecoder().raw_decode(body.decode())
    except ValueError:
        return not body
    return set(document) == {"error_code", "message"}


def endpoint_cases() -> list[Case]:
    numbers = [(way, target, number) for way in ATTACKS for target in TARGETS for number in range(NUMBERS.get((way, target), 1))]
    return [Case(f"endpoint/{way}/{target}/{number:02d}", partial(_run, way, target)) for way, target, number in numbers]


def _run(way: str, kind: str, world: World, dice: random.Random) -> Result:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with TARGETS[kind](world) as target:
        begun, watch = time.monotonic(), Watch(target)
        with watch.watching():
            met = ATTACKS[way](target, dice)
        seconds = time.monotonic() - begun
        settled = _settled(target)
        leaks, peak, talk = target.leaks(), target.gauge.peak, target.talk()
    kept = target.kept()
    problems = [*met.problems, *leaks, *wrong_record(kept, len(watch.waits), met.tags, is_submitted=kind == "submitted"), *wrong_figures(watch, talk)]
    problems += [] if processes.is_sound_file(target.database) else ["the database is damaged"]
    problems += [] if settled else ["handles of connections that are gone are still held"]
    figures = {"threads": watch.threads, "handles": watch.handles, "growth_mib": round(watch.growth, 1), "peak_mib": round(peak, 1), "log_bytes": talk}
    own = {"own_requests": len(watch.waits), "own_longest_wait": round(max(watch.waits, default=0.0), 2)}
    return world.result(problems, 0, seconds, met.sent, {"sent": met.sent, **met.facts, **figures, **own})


def wrong_record(kept: Kept, steps: int, tags: frozenset[str], *, is_submitted: bool) -> list[str]:
    wrong = []
    if list(kept.steps) != list(range(steps)):
        wrong.append(f"{len(kept.steps)} of the {steps} steps of the job's own client are on record, or others")
    strange = sorted(name for name in (*kept.metrics, *kept.tags) if name.startswith(INTRUDER))
    wrong += [f"on record are {len(strange)} values of strangers, as '{strange[0]}'"] if strange else []
    if (lacking := tags - kept.tags.keys()) or (others := {name for name in kept.tags if name.startswith("right_")} - tags):
        wrong.append(f"of the tags that were let in {len(lacking)} are lacking, {len(others) if not lacking else 0} are there that were not")
    if kept.runs != 1:
        wrong.append(f"{kept.runs} runs are on record")
    expected = "Completed" if is_submitted else "Running"
    wrong += [] if kept.status == expected else [f"the job is {kept.status}, not {expected}"]
    wrong += ["the last value of the job is lacking"] if is_submitted and "last" not in kept.metrics else []
    return wrong


def wrong_figures(watch: Watch, talk: int) -> list[str]:
    grown = [("threads", watch.threads, THREADS), ("handles", watch.handles, THREADS), ("MiB", watch.growth, GROWTH)]
    wrong = [*watch.troubles, *(f"{more:.0f} {what} more than at first, over {most:.0f}" for what, more, most in grown if more > most)]
    if max(watch.waits, default=0.0) > WAIT:
        wrong.append(f"the job's own client waited {max(watch.waits):.0f} s, over {WAIT:.0f}")
    return wrong + ([f"the job's logs have {talk:,} bytes"] if talk > TALK else [])


def _settled(target: Target) -> bool:
    deadline = time.monotonic() + SECONDS_TO_SETTLE
    while target.gauge.threads > 24 or target.gauge.handles > 48:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


class Watch:
    """During `watching`, the job's own client logs one step after the other, and the peak resources of the server are recorded.

    `waits` are the seconds of each step, `troubles` its errors. `threads` and `handles` are those in addition to the start.
    """

    def __init__(self, target: Target) -> None:
        self.waits: list[float] = []
        self.troubles: list[str] = []
        self.threads = self.handles = 0
        self.growth = 0.0
        self._target = target

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._log()
        is_over, first = threading.Event(), self._figures()

        def watch() -> None:
            while not is_over.wait(0.25):
                self._log()
                self._look(first)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            self._log()

    def _log(self) -> None:
        if not self.troubles:
            try:
                self.waits.append(self._target.log(len(self.waits)))
            except (OSError, HTTPException, AssertionError) as e:
                self.troubles.append(f"step {len(self.waits)} of the job's own client: {type(e).__name__} {e}")

    def _figures(self) -> tuple[int, int, float]:
        gauge = self._target.gauge
        return gauge.threads, gauge.handles, gauge.resident

    def _look(self, first: tuple[int, int, float]) -> None:
        try:
            threads, handles, resident = self._figures()
        except OSError as e:
            self.troubles.append(f"the server is gone: {e}")
            return
        self.threads, self.handles = max(self.threads, threads - first[0]), max(self.handles, handles - first[1])
        self.growth = max(self.growth, resident - first[2])


SCRIPT = f"""{LOG_METRIC}
door = {{name: os.environ[f"MLFLOW_{{name}}"] for name in ("TRACKING_URI", "TRACKING_TOKEN", "RUN_ID")}}
place = Path("DOOR")
place.with_suffix(".part").touch(mode=0o600)
place.with_suffix(".part").write_text(json.dumps(door))
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
class Target(Door):
    gauge: Gauge
    folder: Path
    database: Path

    def log(self, step: int) -> float:
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
            steps = [step for (step,) in record.execute("SELECT step FROM metrics WHERE run = ? AND name = 'kept' ORDER BY step", (self.run_id,))]
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
        yield Target(port, token, JOB, Gauge(process.pid or 0), folder, folder / "runs" / "workspace.db")
        ours.close()
        process.join(SECONDS_TO_BEGIN)
        assert process.exitcode == 0, (folder / "said.log").read_text()[-2000:]
    finally:
        process.kill()
        process.join()


@contextmanager
def submitted(world: World) -> Iterator[Target]:
    project, door = world.folder / "project", world.folder / "door.json"
    running.write_files(project, {"train.py": SCRIPT.replace("DOOR", str(door))})
    env = world.environment()
    done = world.himl("submit", "train.py", "--no_wait", "-w", "local", "-q", cwd=project, env=env)
    assert done.code == 0, done.stderr
    try:
        running.until(door.exists, "the script began")
        way = json.loads(door.read_text())
        folder = project / ".himl"
        port = int(way["TRACKING_URI"].rpartition(":")[2])
        yield Target(port, way["TRACKING_TOKEN"], way["RUN_ID"], Gauge(processes.supervisor_of(project)), folder / "runs", folder / "workspace.db")
        door.with_name("stop").touch()
        running.until(lambda: not processes.processes_below(folder), "the job ended")
    finally:
        door.with_name("stop").touch()
        for pid in processes.processes_below(folder):
            os.kill(pid, 9)


TARGETS = {"tracked": tracked, "submitted": submitted}
