"""`himl ui` under requests of strangers, and killed: `ui/requests/strangers/NN`, `ui/<signal>/killed/NN`. Linux only (/proc)."""

from __future__ import annotations

import json
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

from stress.kills import GONE, JOB_GONE, SIGNALS, Started, judge_first
from stress.records import Case, Result
from stress.world import World, judge_again
from tests.support.folders import contents
from tests.support.processes import processes_marked, stop
from tests.support.running import until
from tests.support.runs import RecordedRuns

STRANGERS, KILLS, REQUESTS = 10, 10, 200
RUN, SHOWN, PRIVATE = "train_1_aa", "shown-to-the-owner", "private-to-the-owner"
API = "/ajax-api/2.0/mlflow"
READS = (
    "/",
    f"{API}/runs/get?run_id={RUN}",
    f"{API}/experiments/search?max_results=10",
    f"{API}/metrics/get-history?run_uuid={RUN}&metric_key=loss",
    f"{API}/artifacts/list?run_id={RUN}",
    f"/get-artifact?run_uuid={RUN}&path=outputs/note.txt",
)
WRITES = {
    f"{API}/runs/set-tag": {"run_id": RUN, "key": "stranger", "value": "x"},
    f"{API}/runs/delete": {"run_id": RUN},
    f"{API}/runs/create": {"experiment_id": "0"},
    f"{API}/runs/search": {"experiment_ids": ["0"]},
}
ESCAPES = (
    f"/get-artifact?run_uuid={RUN}&path=%s",
    f"{API}/artifacts/list?run_id={RUN}&path=%s",
    "/api/2.0/mlflow-artifacts/artifacts/%s",
    f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={RUN}&path=%s",
    "/static-files/%s",
    "/%s",
)


class Shown:
    """`himl ui` over a workspace with one run, in a process of its own."""

    def __init__(self, world: World) -> None:
        self.world, self.env = world, world.environment()
        if not (world.project / ".himl").exists():
            RecordedRuns(world.project).add(RUN, tags={"seen": SHOWN}, files={"outputs/note.txt": SHOWN})
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.started = Started(("ui", "-w", "local", "-q", "--port", str(self.port)), world.project, self.env, world.folder)

    def is_up(self) -> bool:
        return (self.world.folder / "stdout").read_text() != "" or self.started.ended_within(0.0)

    def record(self) -> str:
        return self.world.himl("runs", "show", RUN, "--json", cwd=self.world.project, env=self.env).stdout

    def end(self) -> list[str]:
        """Interrupt it; what is left of it."""
        self.started.strike(signal.SIGINT, 0.0, ["himl"])
        ended = self.started.outcome()
        wrong = [] if ended is not None and ended.code in (0, 130) else [f"Ctrl-C ends it with {ended.code if ended else 'nothing'}"]
        return wrong + processes_marked(self.started.mark, patience=GONE)


def strangers(world: World, dice: random.Random) -> Result:
    """No page of another address and no other name of this machine gets or changes anything; the owner gets no file outside of the run."""
    shown, begun = Shown(world), time.monotonic()
    private = world.home / "private.txt"
    private.write_text(PRIVATE)
    try:
        until(shown.is_up, "the server answers")
        before, statuses, problems, seen = shown.record(), Counter[int](), list[str](), 0
        for _ in range(REQUESTS):
            request = draw(shown.port, private, dice)
            status, reply = request.sent(shown.port)
            statuses[status] += 1
            problems += wrong_answer(request, status, reply)
            seen += SHOWN.encode() in reply
        problems += [] if seen else ["the owner sees nothing either"]
        problems += [] if shown.record() == before else ["the run has changed"]
        problems += shown.end()
    finally:
        stop(processes_marked(shown.started.mark, patience=0.0))
    answers = {str(status): count for status, count in sorted(statuses.items())}
    return world.result(problems, 0, time.monotonic() - begun, REQUESTS, {"sent": REQUESTS, "answers": answers})


@dataclass(frozen=True)
class Request:
    """One request, of a stranger's page or name, or the owner's."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    is_stranger: bool

    def sent(self, port: int) -> tuple[int, bytes]:
        """The status, and the headers and the body of the answer."""
        with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.putrequest(self.method, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(self.body or None)
            answer = connection.getresponse()
            return answer.status, str(answer.headers).encode() + answer.read()


def draw(port: int, private: Path, dice: random.Random) -> Request:
    own = dice.choice([f"localhost:{port}", f"127.0.0.1:{port}"])
    evil = dice.choice(
        ["evil.example", f"evil.example:{port}", f"localhost.evil.example:{port}", f"127.0.0.1.evil.example:{port}", "0", "", f"evil@localhost:{port}"]
    )
    host, origin, is_stranger = dice.choice(
        [
            (own, "", False),
            (own, f"http://{own}", False),
            (evil, "", True),
            (evil, f"http://{evil}", True),
            (own, f"http://{dice.choice(['evil.example', f'localhost:{port + 1}', f'{own}.evil.example', f'evil.example#{own}'])}", True),
            (own, "null", True),
        ]
    )
    method, body = "GET", b""
    if is_stranger and dice.random() < 0.6:
        path, document = dice.choice([*WRITES.items()])
        method, body = dice.choice(["POST", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"]), json.dumps(document).encode()
    elif dice.random() < 0.5:
        steps = dice.choice(["../", "..%2f", "%2e%2e/", "..%5c", "....//", "%252e%252e%252f"]) * dice.randrange(1, 12)
        target = dice.choice([steps + str(private).lstrip("/"), str(private), f"file://{private}", steps + private.name])
        path = dice.choice(ESCAPES) % target
    else:
        path = dice.choice(READS)
    headers = {"Host": host, **({"Origin": origin} if origin else {})}
    headers |= {"Content-Length": str(len(body)), "Content-Type": "application/json"} if body else {}
    return Request(method, path, headers, body, is_stranger)


def wrong_answer(request: Request, status: int, reply: bytes) -> list[str]:
    wrong = ["a file outside of the run"] if PRIVATE.encode() in reply else []
    if request.is_stranger:
        wrong += [] if status in (400, 403) else [f"answered {status}"]
        wrong += ["shown to a stranger"] if SHOWN.encode() in reply or RUN.encode() in reply else []
        wrong += ["another origin may read it"] if b"access-control-allow-origin" in reply.lower() else []
    wrong += ["a traceback"] if b"Traceback (most recent call last)" in reply else []
    return [f"{request.method} {request.path[:80]} {request.headers}: {text}" for text in wrong]


def killed(number: signal.Signals, world: World, dice: random.Random) -> Result:
    """The server ends with himl at any moment of its start, and after it."""
    usual = world.lasting("start of ui", _start_seconds)
    shown = Shown(world)
    try:
        struck = shown.started.strike(number, dice.uniform(0.0, 1.3) * usual, dice.sample(("himl", "group"), 2))
        ended = shown.started.outcome()
        orphans = processes_marked(shown.started.mark, patience=JOB_GONE)
        seconds = shown.started.seconds
        verdict = judge_first(ended, [struck] if struck else [], orphans, leftovers(world))
    finally:
        stop(processes_marked(shown.started.mark, patience=0.0))
    again = Shown(world)
    try:
        until(again.is_up, "the server answers")
        wrong = again.end()
        verdict = judge_again(verdict, again.started.outcome(), wrong + leftovers(world))
    finally:
        stop(processes_marked(again.started.mark, patience=0.0))
    return world.told(verdict, ended, seconds, int(struck is not None), again.started.outcome(), victim=struck.victim if struck else "")


def leftovers(world: World) -> list[str]:
    """The servers' temporary folders, which they remove after himl was killed. A folder without content does not count:
    himl was killed between its creation and the start of the server.
    """

    def left() -> list[str]:
        folders = (world.folder / "tmp").glob("himl_ui_*")
        return [f"'{path.name}' is left" for path in folders if any(contents(path).values())]

    with suppress(AssertionError):
        until(lambda: not left(), "the temporary folder is empty")
    return left()


def _start_seconds(world: World) -> float:
    shown = Shown(world)
    try:
        until(shown.is_up, "the server answers")
        seconds = shown.started.seconds
        assert shown.end() == [], "it does not end"
    finally:
        stop(processes_marked(shown.started.mark, patience=0.0))
    return seconds


def ui_cases() -> Sequence[Case]:
    kills = [Case(f"ui/{number.name}/killed/{at:02d}", partial(killed, number)) for number in SIGNALS for at in range(KILLS)]
    return [*(Case(f"ui/requests/strangers/{at:02d}", strangers) for at in range(STRANGERS)), *kills]
