"""Attacks of strangers that the servers of local jobs and of `himl ui` have in common, while their owner continues
to use them. Linux only (/proc).
"""

from __future__ import annotations

import errno
import gzip
import json
import random
import re
import resource
import selectors
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from himl_cli.workspaces.local.tracking.http_connection import LARGEST_BODY
from himl_cli.workspaces.local.tracking.tracking_server import Limits
from stress.world import Gauge
from tests.workspaces.tracking.tracked_job import API

SECONDS, MOST = 60.0, 1 << 20
MALFORMED = frozenset({400, 401, 403, 404, 405, 411, 413, 414, 431, 501, 505})
"""The possible answers to a request that is no proper HTTP, or that is wrong in several ways."""
SENDERS, SLOW_SECONDS = 180, 45.0
IDLE, IDLE_SECONDS = 2000, 45.0
THREADS = Limits().most + 24
GROWTH = 64.0  # MiB of memory above the start
WAIT = 60.0  # seconds that the owner may wait
SETTLED, SECONDS_TO_SETTLE = 24, 20.0


@dataclass(frozen=True)
class Server(ABC):
    """A server under attack. Without a *token*, it serves pages, whose owner has a cookie."""

    port: int
    run_id: str
    gauge: Gauge
    token: str

    @property
    def most(self) -> int:
        """The handles that it may have in addition to those at the start. Servers of pages accept all connections."""
        return THREADS if self.token else IDLE + THREADS

    @property
    def closes_silent(self) -> bool:
        """Whether it closes connections on which nothing arrives."""
        return self.token != ""

    @property
    def most_threads(self) -> int:
        return THREADS

    @property
    def most_growth(self) -> float:
        """In MiB of memory."""
        return GROWTH

    def allowed(self, job: Iterable[int], ui: Iterable[int]) -> frozenset[int]:
        """The answers it may give, of those of a job's server and of `himl ui`."""
        return frozenset(job if self.token else ui)

    @abstractmethod
    def use(self, step: int) -> float:
        """Send the owner's next request, and return the seconds until its answer."""

    @property
    def start(self) -> str:
        """The name and the token of a request. The server of `himl ui` loses answers to clients that have closed
        their half of the connection.
        """
        return f"Host: 127.0.0.1:{self.port}\r\n" + (
            f"Authorization: Bearer {self.token}\r\n" if self.token else "Connection: close\r\n"
        )


@dataclass(frozen=True)
class Drawn:
    """`content` is sent unchanged. The answer must be one of *answers*, where 0 is the end of the connection without an
    answer.

    Status 200 stores `tag`. `is_cut`: the client ends in the middle of the request.
    """

    content: bytes
    answers: frozenset[int]
    text: str
    tag: str = ""
    is_cut: bool = False


@dataclass(frozen=True)
class Met:
    """`sent` is the number of requests or connections, `tags` are the names of accepted tags."""

    sent: int
    problems: Sequence[str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()


def odd_heads(server: Server, dice: random.Random) -> Met:
    first = f"GET {API}runs/get?run_id={server.run_id} HTTP/1.1\r\n"
    right, named = first + server.start, f"{first}Host: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
    refused, cut = {400}, {0, 400}
    heads = [  # with the answers of a job's server, and of himl ui
        ("1,000 lines", right + "".join(f"X-{number}: y\r\n" for number in range(1000)) + "\r\n", {431}, {200}),
        (
            "lines of 60 kB",
            right + "".join(f"X-{number}: {'y' * 60_000}\r\n" for number in range(80)) + "\r\n",
            {431},
            cut,
        ),
        ("one line of 4 MB", right + "X: " + "y" * 4_000_000 + "\r\n\r\n", {431}, cut),
        ("a first line of 4 MB", "GET /" + "y" * 4_000_000 + " HTTP/1.1\r\n\r\n", {414}, cut),
        ("no end", named + "X: y", {0, 400, 401}, cut),
        ("empty lines", "\r\n" * 50_000, cut, cut),
        ("NUL", named + "X\0: \0\r\nAuthorization: Bearer \0\r\n\r\n", MALFORMED, refused),
        ("no colon", named + "nonsense\r\n" * 20 + "\r\n", MALFORMED, refused),
        ("folded", named + "Authorization: Bearer\r\n x\r\n\r\n", {401}, {403}),
        ("two hosts", right + f"Host: evil.example:{server.port}\r\n\r\n", {403}, refused),
        ("another host as the target", right.replace("GET /", "GET http://evil.example/", 1) + "\r\n", {404}, {404}),
        ("HTTP/0.9", f"GET {API}runs/get?run_id={server.run_id}\r\n\r\n", {403}, refused),
        ("binary", dice.randbytes(20_000).decode("latin-1"), MALFORMED | {0}, MALFORMED | {0}),
    ]
    drawn = [
        Drawn(
            text.encode("latin-1"),
            server.allowed(job, ui),
            name,
            is_cut=name in ("no end", "empty lines", "binary"),
        )
        for name, text, job, ui in dice.choices(heads, k=180) + heads
    ]
    return judged(server, drawn, at_once=20)


def odd_bodies(server: Server, dice: random.Random) -> Met:
    right, wrong = (
        server.start,
        server.start.replace(server.token, dice.randbytes(24).hex()) if server.token else server.start,
    )
    large, fair = bytes(LARGEST_BODY + 1), bytes(Limits().drained // 2)
    deep, long = b'{"a":' + b"[" * 200_000, b'{"run_id":' + b"9" * 6000 + b"}"
    zeros, hidden = (
        gzip.compress(bytes(200 << 20)),
        b"0\r\n\r\n" + f"GET {API}runs/get?run_id={server.run_id} HTTP/1.1\r\n{right}\r\n".encode(),
    )
    too_large, no_json = {0, 413}, {400, 403, 500}
    bodies = [  # with the answers of a job's server, and of himl ui
        ("64 MiB and one of the owner", right, large, len(large), {413}, too_large),
        ("64 MiB and one of a stranger", wrong, large, len(large), {0, 401}, too_large),
        ("4 MiB of a stranger", wrong, fair, len(fair), {401}, too_large),
        ("a length of 1 GiB of a stranger", wrong, b"x", 1 << 30, {401}, too_large),
        ("shorter than its length", right, b"{}", 1000, {400}, {0}),
        ("200,000 brackets", right, deep, len(deep), {400}, no_json),
        ("a number of 6,000 digits", right, long, len(long), {400}, no_json),
        ("no text", right, b"\xff\xfe\x80" * 1000, 3000, {400}, no_json),
        ("200 MiB, compressed", f"{right}Content-Encoding: gzip\r\n", zeros, len(zeros), {400}, no_json),
        ("a length and chunks", f"{right}Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n", 2, {411}, {411}),
        ("a request in the body", f"{right}Transfer-Encoding: chunked\r\n", hidden, len(hidden), {411}, {411}),
    ]
    first = f"POST {API}runs/log-batch HTTP/1.1\r\nContent-Type: application/json\r\n"
    drawn = [
        Drawn(
            f"{first}{lines}Content-Length: {length}\r\n\r\n".encode() + body,
            server.allowed(job, ui),
            name,
            is_cut=length == 1000,
        )
        for name, lines, body, length, job, ui in bodies
    ]
    # A server of pages may read, for a while, the rest of what it has refused
    return judged(server, dice.sample(drawn * 4, k=4 * len(drawn)), at_once=1 if server.token else 10)


def slow_senders(server: Server, dice: random.Random) -> Met:
    """SENDERS strangers that send nothing, or slowly one byte of their headers or body at a time. A job's server
    must close the silent ones.
    """
    long = (
        f"POST {API}runs/set-tag HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 1000000\r\n\r\n".encode()
    )
    with _connections(server.port, SENDERS) as clients:
        silent, heads, bodies = clients[0::3], clients[1::3], clients[2::3]
        for client in bodies:
            with suppress(OSError):
                client.send(long)
        left, end = list(silent), time.monotonic() + SLOW_SECONDS
        while time.monotonic() < end:
            for client in dice.sample(heads + bodies, k=10):
                with suppress(OSError):
                    client.send(b"G")
            left = [client for client in left if not _is_ended(client)]
            time.sleep(0.5)
        wrong = (
            [f"{len(left)} of {len(silent)} silent connections are still open after {SLOW_SECONDS:.0f} s"]
            if left and server.closes_silent
            else []
        )
        open_still = sum(not _is_ended(client) for client in heads + bodies)
    return Met(len(clients), wrong, {"silent": len(silent), "silent_left": len(left), "dripping_left": open_still})


def idle_connections(server: Server, dice: random.Random) -> Met:
    with _connections(server.port, IDLE) as clients:
        left, end = list(clients), time.monotonic() + IDLE_SECONDS
        while time.monotonic() < end:
            time.sleep(1.0)
            left = [client for client in left if not _is_ended(client)]
    return Met(len(clients), [], {"ended_by_server": len(clients) - len(left)})


Attack = Callable[[Any, random.Random], Met]  # of a `Server`
ATTACKS: dict[str, Attack] = {
    "headers": odd_heads,
    "bodies": odd_bodies,
    "slow": slow_senders,
    "idle": idle_connections,
}


def attacked(server: Server, attack: Attack, dice: random.Random) -> tuple[Met, Watch, list[str], dict[str, Any]]:
    """The result of *attack*, with the owner's requests in the meantime, problems, and figures."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    watch = Watch(server)
    with watch.watching():
        met = attack(server, dice)
    problems = [*met.problems, *wrong_figures(watch)]
    problems += [] if watch.settles() else ["handles of connections that are gone are still held"]
    figures = {
        "threads": watch.threads,
        "handles": watch.handles,
        "growth_mib": round(watch.growth, 1),
        "peak_mib": round(server.gauge.peak, 1),
    }
    figures |= {"own_requests": len(watch.waits), "own_longest_wait": round(max(watch.waits, default=0.0), 2)}
    return met, watch, problems, {"sent": met.sent, **met.facts, **figures}


def judged(server: Server, drawn: Iterable[Drawn], at_once: int = 1) -> Met:
    problems: list[str] = []
    statuses: Counter[int] = Counter()
    tags = set()
    with ThreadPoolExecutor(at_once) as pool:
        replies = pool.map if at_once > 1 else map  # the one draws all at once, the other as it goes on
        answered = replies(
            lambda one: (one, exchange(server.port, one.content, is_cut=one.is_cut or server.token != "")), drawn
        )
        for one, reply in answered:
            status = status_of(reply) if reply is not None else -1
            statuses[status] += 1
            problems += _wrong(server, one, reply)
            tags |= {one.tag} - {""} if status == 200 else set()
    facts = {"answers": {str(status): count for status, count in sorted(statuses.items())}}
    return Met(sum(statuses.values()), problems, facts, frozenset(tags))


def _wrong(server: Server, one: Drawn, reply: bytes | None) -> list[str]:
    if reply is None:
        return [f"{one.text}: no end of the answer"]
    status = status_of(reply)
    wrong = (
        []
        if status in one.answers
        else [f"{one.text}: answered {status}, not {'/'.join(map(str, sorted(one.answers)))}"]
    )
    if 200 not in one.answers and b"HTTP/1.1 200" in reply:
        wrong.append(f"{one.text}: something behind it was let in")
    if b"Traceback (most recent call last)" in reply:
        wrong.append(f"{one.text}: a traceback")
    if server.token and status >= 400 and not is_told_in_json(reply):
        wrong.append(f"{one.text}: {status} without a reason in JSON")
    if server.token and server.token.encode() in reply:
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


def exchange(port: int, content: bytes, *, is_cut: bool) -> bytes | None:
    """The answer to *content* until the server closes the connection, None if it does not close it, or never stops
    sending. With *is_cut*, the client closes its half of the connection first."""
    found, deadline = b"", time.monotonic() + SECONDS
    with suppress(TimeoutError), socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
        with suppress(OSError):  # refused before all was sent, but the answer may have arrived
            client.sendall(content)
            if is_cut:
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
    """Whether the first answer is an error in MLflow's format. An answer to HEAD has no body."""
    body = reply.partition(b"\r\n\r\n")[2]
    try:
        document, _ = json.JSONDecoder().raw_decode(body.decode())
    except ValueError:
        return not body
    return set(document) == {"error_code", "message"}


def wrong_figures(watch: Watch) -> list[str]:
    grown = [
        ("threads", watch.threads, watch.server.most_threads),
        ("handles", watch.handles, watch.server.most),
        ("MiB", watch.growth, watch.server.most_growth),
    ]
    wrong = [
        *watch.troubles,
        *(f"{more:.0f} {what} more than at first, over {most:.0f}" for what, more, most in grown if more > most),
    ]
    if max(watch.waits, default=0.0) > WAIT:
        wrong.append(f"the owner waited {max(watch.waits):.0f} s, over {WAIT:.0f}")
    return wrong


class Watch:
    """During `watching`, the owner sends one request after the other, and the peak resources of the server are
    recorded.

    `waits` are the seconds of each request, `troubles` its errors. `threads` and `handles` are those in addition to the
    start."""

    def __init__(self, server: Server) -> None:
        self.waits: list[float] = []
        self.troubles: list[str] = []
        self.threads = self.handles = 0
        self.growth = 0.0
        self.server = server
        self._first = (0, 0, 0.0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._use()
        is_over, self._first = threading.Event(), self._figures()

        def watch() -> None:
            while not is_over.wait(0.25):
                self._use()
                self._look()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            self._use()

    def settles(self) -> bool:
        deadline = time.monotonic() + SECONDS_TO_SETTLE
        while any(now > first + SETTLED for now, first in zip(self._figures()[:2], self._first, strict=False)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def _use(self) -> None:
        if not self.troubles:
            try:
                self.waits.append(self.server.use(len(self.waits)))
            except (OSError, HTTPException, AssertionError) as e:
                self.troubles.append(f"request {len(self.waits)} of the owner: {type(e).__name__} {e}")

    def _figures(self) -> tuple[int, int, float]:
        gauge = self.server.gauge
        return gauge.threads, gauge.handles, gauge.resident

    def _look(self) -> None:
        try:
            threads, handles, resident = self._figures()
        except OSError as e:
            self.troubles.append(f"the server is gone: {e}")
            return
        self.threads, self.handles = (
            max(self.threads, threads - self._first[0]),
            max(self.handles, handles - self._first[1]),
        )
        self.growth = max(self.growth, resident - self._first[2])
