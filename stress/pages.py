"""`himl ui` and `himl tb` under attacks of strangers, and killed: `ui/<attack>/strangers/NN`, `tb/<signal>/killed/NN`.
Linux only (/proc).
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from himl_cli.core.ports import free_port
from stress.attacks import ATTACKS, GROWTH, MALFORMED, Attack, Met, Server, attacked
from stress.kills import GONE, JOB_GONE, SIGNALS, Started, judge_first
from stress.records import Case, Result
from stress.world import Gauge, World, judge_again
from tests.support.folders import contents
from tests.support.processes import processes_marked, stop
from tests.support.running import until
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import NAME, event_bytes

STRANGERS, KILLS, REQUESTS = 10, 10, 200
RUN, SHOWN, PRIVATE = "train_1_aa", "shown-to-the-owner", "private-to-the-owner"
API = "/ajax-api/2.0/mlflow"
TYPES = (
    "application/json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
)  # pages send the others without asking


@dataclass(frozen=True)
class Pages:
    """Pages and the command that serves them: the answer to *shows* contains SHOWN, *reads* are other requests of the
    owner, functions in *closed* are refused even to the owner, and *escapes* have `%s` for the path of another file.
    *checks_names*: a request to another name of this machine is refused even with the cookie, which browsers send to
    the name that set it only.
    """

    command: Sequence[str]
    shows: str
    reads: Sequence[str]
    writes: Mapping[str, Mapping[str, Any]]
    closed: Mapping[str, Mapping[str, Any]]
    escapes: Sequence[str]
    checks_names: bool


MLFLOW = Pages(
    ("ui",),
    f"{API}/runs/get?run_id={RUN}",
    (
        "/",
        f"{API}/experiments/search?max_results=10",
        f"{API}/metrics/get-history?run_uuid={RUN}&metric_key=loss",
        f"{API}/artifacts/list?run_id={RUN}",
        f"/get-artifact?run_uuid={RUN}&path=outputs/note.txt",
    ),
    {
        f"{API}/runs/set-tag": {"run_id": RUN, "key": "stranger", "value": "x"},
        f"{API}/runs/delete": {"run_id": RUN},
        f"{API}/runs/create": {"experiment_id": "0"},
        f"{API}/runs/search": {"experiment_ids": ["0"]},
    },
    # They run programs, contact other services, or read files by a path that a client names
    {
        "/ajax-api/3.0/mlflow/scorer/invoke": {"experiment_id": "0", "serialized_scorer": "{}", "trace_ids": ["a"]},
        "/ajax-api/3.0/mlflow/scorers/register": {"experiment_id": "0", "name": "x", "serialized_scorer": "{}"},
        "/ajax-api/3.0/mlflow/genai/evaluate/invoke": {
            "experiment_id": "0",
            "serialized_scorers": ["{}"],
            "trace_ids": ["a"],
        },
        "/ajax-api/3.0/mlflow/jobs/1": {},
        "/ajax-api/3.0/mlflow/demo/generate": {},
        "/ajax-api/3.0/mlflow/gateway/secrets/create": {"secret_name": "x", "secret_value": {"api_key": "x"}},
        "/ajax-api/3.0/mlflow/assistant/chat": {"message": "x"},
        f"{API}/webhooks": {"name": "x", "url": "http://127.0.0.1/", "events": []},
        f"{API}/model-versions/create": {
            "name": "m",
            "source": "/etc",
            "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}],
        },
        f"{API}/registered-models/create": {"name": "m"},
        f"{API}/runs/create-promptlab-run": {"experiment_id": "0", "model_route": "x"},
    },
    (
        f"/get-artifact?run_uuid={RUN}&path=%s",
        f"{API}/artifacts/list?run_id={RUN}&path=%s",
        "/api/2.0/mlflow-artifacts/artifacts/%s",
        f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={RUN}&path=%s",
        "/model-versions/get-artifact?name=m&version=1&path=%s",
        "/static-files/%s",
        "/%s",
    ),
    checks_names=True,
)
TENSORBOARD = Pages(
    ("tb", RUN),
    "/data/plugin/scalars/tags",
    (
        "/",
        "/data/runs",
        "/data/environment",
        "/data/plugins_listing",
        f"/data/plugin/scalars/scalars?run={RUN}&tag={SHOWN}",
        f"/data/plugin/scalars/scalars?run={RUN}&tag={SHOWN}&format=csv",
        f"/experiment/defaultExperimentId/data/plugin/timeseries/tags?run={RUN}",
    ),
    {
        "/data/plugin/timeseries/timeSeries": {"requests": [{"plugin": "scalars", "tag": SHOWN}]},
        "/data/plugin/scalars/scalars_multirun": {"tag": SHOWN, "runs": [RUN]},
        "/data/plugin/hparams/experiment": {"experimentName": "x"},
        "/data/plugin/hparams/session_groups": {"experimentName": "x"},
    },
    {},
    (
        "/%s",
        "/data/%s",
        "/data/plugin/projector/%s",
        f"/data/plugin/projector/tensor?run={RUN}&name=%s",
        f"/data/plugin/projector/metadata?run=%s&name={SHOWN}",
        f"/data/plugin/projector/sprite_image?run={RUN}&name=%s",
        "/data/plugin/graphs/graph?run=%s",
        "/data/plugin/images/individualImage?blob_key=%s",
        "/data/plugin/debugger-v2/source_files/file?run=%s&index=0",
        "/data/plugin_entry.html?name=%s",
    ),
    checks_names=False,
)


class Shown:
    """A command of `Pages` over a workspace with one run, in a process of its own."""

    def __init__(self, pages: Pages, world: World) -> None:
        self.pages, self.world, self.env = pages, world, world.environment()
        if not (world.project / ".himl").exists():
            files: dict[str, str | bytes] = {"outputs/note.txt": SHOWN, f"logs/{NAME}": event_bytes([1.0, 0.5], SHOWN)}
            RecordedRuns(world.project).add(RUN, tags={"seen": SHOWN}, files=files)
        self.port = free_port("127.0.0.1")
        self.started = Started(
            (*pages.command, "-w", "local", "-q", "--port", str(self.port)), world.project, self.env, world.folder
        )

    def is_up(self) -> bool:
        return (self.world.folder / "stdout").read_text() != "" or self.started.ended_within(0.0)

    def attacked(self) -> Attacked:
        pid = next(
            line for line in processes_marked(self.started.mark, patience=0.0) if "server_program" in line
        ).split()[0]
        kind = AttackedTensorBoard if self.pages is TENSORBOARD else Attacked
        return kind(self.port, RUN, Gauge(int(pid)), "", self.token(), self.pages)

    def token(self) -> str:
        return (self.world.folder / "stdout").read_text().strip().partition("?token=")[2]

    def record(self) -> str:
        return self.world.himl("runs", "show", RUN, "--json", cwd=self.world.project, env=self.env).stdout

    def end(self) -> list[str]:
        """Interrupt it; what is left of it."""
        self.started.strike(signal.SIGINT, 0.0, ["himl"])
        ended = self.started.outcome()
        wrong = (
            []
            if ended is not None and ended.code in (0, 130)
            else [f"Ctrl-C ends it with {ended.code if ended else 'nothing'}"]
        )
        return wrong + processes_marked(self.started.mark, patience=GONE)


@dataclass(frozen=True)
class Attacked(Server):
    cookie: str
    pages: Pages

    @property
    def start(self) -> str:
        return f"{super().start}Cookie: himl_{self.port}={self.cookie}\r\n"

    def use(self, step: int) -> float:
        begun = time.monotonic()
        headers = {"Host": f"localhost:{self.port}", "Cookie": f"himl_{self.port}={self.cookie}"}
        status, answer = Request("GET", self.pages.shows, headers, b"", is_stranger=False).sent(self.port)
        assert (status, SHOWN.encode() in answer) == (200, True), f"the owner was answered {status}"
        return time.monotonic() - begun


class AttackedTensorBoard(Attacked):
    """TensorBoard's own server reads the requests, with a thread for each connection."""

    closes_silent = True

    @property
    def most_threads(self) -> int:
        return self.most

    @property
    def most_growth(self) -> float:
        return 4 * GROWTH

    def allowed(self, job: Iterable[int], ui: Iterable[int]) -> frozenset[int]:
        return MALFORMED | {0}


def strangers(pages: Pages, attack: Attack, world: World, dice: random.Random) -> Result:
    """The attack changes nothing and leaves nothing, and the owner's requests are answered."""
    shown, begun = Shown(pages, world), time.monotonic()
    try:
        until(shown.is_up, "the server answers")
        before = shown.record()
        met, _, problems, facts = attacked(shown.attacked(), attack, dice)
        problems += [] if shown.record() == before else ["the run has changed"]
        problems += shown.end()
    finally:
        stop(processes_marked(shown.started.mark, patience=0.0))
    return world.result(problems, 0, time.monotonic() - begun, met.sent, facts)


def requests(world: World) -> Attack:
    """No page of another address, no other name of this machine, and nobody without the cookie gets or changes
    anything; the owner gets no file outside of the run."""

    def attack(server: Attacked, dice: random.Random) -> Met:
        private = world.home / "private.txt"
        private.write_text(PRIVATE)
        statuses, problems, seen = Counter[int](), list[str](), 0
        for _ in range(REQUESTS):
            request = draw(server, private, dice)
            status, reply = request.sent(server.port)
            statuses[status] += 1
            problems += wrong_answer(server.pages, request, status, reply)
            seen += SHOWN.encode() in reply
        problems += [] if seen else ["the owner sees nothing either"]
        return Met(REQUESTS, problems, {"answers": {str(status): count for status, count in sorted(statuses.items())}})

    return attack


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


def draw(server: Attacked, private: Path, dice: random.Random) -> Request:
    pages, port, token = server.pages, server.port, server.cookie
    name, wrong = f"himl_{port}", dice.choice([token[:-1], token.upper(), token[::-1], "", "*", f"{token} "[1:]])
    right = {"Cookie": dice.choice([f"{name}={token}", f"a=b; {name}={token}; c=d", f"{name}=x; {name}={token}"])}
    no_right: Mapping[str, str] = dice.choice(
        [
            {},
            {"Cookie": f"{name}={wrong}"},
            {"Cookie": f"x{name}={token}"},
            {"Cookie": f"{name[:-1]}={token}"},
            {"Authorization": f"Bearer {wrong}"},
        ]
    )
    own = dice.choice([f"localhost:{port}", f"127.0.0.1:{port}"])
    evil = dice.choice(
        [
            "evil.example",
            f"evil.example:{port}",
            f"localhost.evil.example:{port}",
            f"127.0.0.1.evil.example:{port}",
            "0",
            "",
            f"evil@localhost:{port}",
        ]
    )
    host, origin, is_stranger = dice.choice(
        [
            (own, "", False),
            (own, f"http://{own}", False),
            (evil, "", True),
            (evil, f"http://{evil}", True),
            (
                own,
                "http://"
                + dice.choice(["evil.example", f"localhost:{port + 1}", f"{own}.evil.example", f"evil.example#{own}"]),
                True,
            ),
            (own, "null", True),
            *[(own, "", True)] * 6,
        ]
    )
    # A stranger who differs from the owner only in the cookie, or to whom browsers do not give it
    has_no_right = is_stranger and ((host == own and origin == "") or not pages.checks_names)
    method, body = "GET", b""
    if is_stranger and dice.random() < 0.6:
        path, document = dice.choice([*pages.writes.items(), *pages.closed.items()])
        method, body = dice.choice(["POST", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"]), json.dumps(document).encode()
    elif pages.closed and dice.random() < 0.2:
        path, document = dice.choice([*pages.closed.items()])
        method, body = "POST", json.dumps(document).encode()
    elif dice.random() < 0.5:
        steps = dice.choice(["../", "..%2f", "%2e%2e/", "..%5c", "....//", "%252e%252e%252f"]) * dice.randrange(1, 12)
        target = dice.choice(
            [steps + str(private).lstrip("/"), str(private), f"file://{private}", steps + private.name]
        )
        path = dice.choice(pages.escapes) % target
    else:
        path = dice.choice([pages.shows, *pages.reads])
    headers = {
        "Host": host,
        **({"Origin": origin} if origin else {}),
        **(no_right if has_no_right else right),
    }
    headers |= (
        {"Content-Length": str(len(body)), "Content-Type": dice.choice(TYPES) if is_stranger else TYPES[0]}
        if body
        else {}
    )
    return Request(method, path, headers, body, is_stranger)


def wrong_answer(pages: Pages, request: Request, status: int, reply: bytes) -> list[str]:
    wrong = ["a file outside of the run"] if PRIVATE.encode() in reply else []
    if request.is_stranger:
        wrong += [] if status in (400, 403) else [f"answered {status}"]
        wrong += ["shown to a stranger"] if SHOWN.encode() in reply or RUN.encode() in reply else []
        wrong += ["another origin may read it"] if b"access-control-allow-origin" in reply.lower() else []
    elif request.path in pages.closed:
        allowed = (
            (400, 403) if "model-versions" in request.path else (403,)
        )  # MLflow itself refuses the folder of a model
        wrong += [] if status in allowed else [f"a closed function answered {status}"]
    wrong += ["a traceback"] if b"Traceback (most recent call last)" in reply else []
    return [f"{request.method} {request.path[:80]} {request.headers}: {text}" for text in wrong]


def killed(pages: Pages, number: signal.Signals, world: World, dice: random.Random) -> Result:
    """The server ends with himl at any moment of its start, and after it."""
    usual = world.lasting(f"start of {pages.command[0]}", partial(_start_seconds, pages))
    shown = Shown(pages, world)
    try:
        struck = shown.started.strike(number, dice.uniform(0.0, 1.3) * usual, dice.sample(("himl", "group"), 2))
        ended = shown.started.outcome()
        orphans = processes_marked(shown.started.mark, patience=JOB_GONE)
        seconds = shown.started.seconds
        verdict = judge_first(ended, [struck] if struck else [], orphans, leftovers(pages, world))
    finally:
        stop(processes_marked(shown.started.mark, patience=0.0))
    again = Shown(pages, world)
    try:
        until(again.is_up, "the server answers")
        wrong = again.end()
        verdict = judge_again(verdict, again.started.outcome(), wrong + leftovers(pages, world))
    finally:
        stop(processes_marked(again.started.mark, patience=0.0))
    return world.told(
        verdict,
        ended,
        seconds,
        int(struck is not None),
        again.started.outcome(),
        victim=struck.victim if struck else "",
    )


def leftovers(pages: Pages, world: World) -> list[str]:
    """The servers' temporary folders, which they remove after himl was killed. A folder without content does not count:
    himl was killed between its creation and the start of the server.
    """

    def left() -> list[str]:
        folders = (world.folder / "tmp").glob(f"himl_{pages.command[0]}_*")
        return [f"'{path.name}' is left" for path in folders if any(contents(path).values())]

    with suppress(AssertionError):
        until(lambda: not left(), "the temporary folder is empty")
    return left()


def _start_seconds(pages: Pages, world: World) -> float:
    shown = Shown(pages, world)
    try:
        until(shown.is_up, "the server answers")
        seconds = shown.started.seconds
        assert shown.end() == [], "it does not end"
    finally:
        stop(processes_marked(shown.started.mark, patience=0.0))
    return seconds


def page_cases(pages: Pages) -> Sequence[Case]:
    name = pages.command[0]
    kills = [
        Case(f"{name}/{number.name}/killed/{at:02d}", partial(killed, pages, number))
        for number in SIGNALS
        for at in range(KILLS)
    ]
    attacks = [
        Case(f"{name}/{each}/strangers/00", partial(strangers, pages, attack)) for each, attack in ATTACKS.items()
    ]
    drawn = [
        Case(f"{name}/requests/strangers/{at:02d}", lambda world, dice: strangers(pages, requests(world), world, dice))
        for at in range(STRANGERS)
    ]
    return [*drawn, *attacks, *kills]


ui_cases, tb_cases = partial(page_cases, MLFLOW), partial(page_cases, TENSORBOARD)
