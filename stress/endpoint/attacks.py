"""The ways in which a job's server is met. Each gives what was wrong with the answers, and figures."""

from __future__ import annotations

import errno
import random
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from himl_cli.workspaces.local.tracking.http_connection import LARGEST_BODY
from himl_cli.workspaces.local.tracking.tracking_server import Limits
from stress.endpoint.requests import MALFORMED, Door, Drawn, draw
from stress.endpoint.talking import exchange, is_told_in_json, status_of
from stress.endpoint.targets import Target
from tests.workspaces.tracking.tracked_job import API

REQUESTS = 1000
SENDERS, SLOW_SECONDS = 60, 45.0
IDLE, IDLE_SECONDS = 2000, 45.0
SHOWN = 5


@dataclass(frozen=True)
class Met:
    """`sent` is how many requests or connections there were, `tags` the names of tags that were let in."""

    sent: int
    problems: Sequence[str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()


Attack = Callable[[Target, random.Random], Met]


def random_requests(target: Target, dice: random.Random) -> Met:
    """REQUESTS of them, one after the other."""
    door = Door(target.port, target.token, target.run_id)
    return _judged(target, (draw(door, dice, number) for number in range(REQUESTS)))


def odd_heads(target: Target, dice: random.Random) -> Met:
    """Too many lines, too long ones, some without an end, from twenty at a time."""
    right = f"GET {API}runs/get?run_id={target.run_id} HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\n"
    token = f"Authorization: Bearer {target.token}\r\n"
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
        ("HTTP/0.9", f"GET {API}runs/get?run_id={target.run_id}\r\n\r\n", frozenset({403})),
        ("binary", dice.randbytes(20_000).decode("latin-1"), MALFORMED | {0}),
    ]
    drawn = [Drawn(text.encode("latin-1"), answers, name) for name, text, answers in dice.choices(heads, k=180) + heads]
    return _judged(target, drawn, at_once=20)


def odd_bodies(target: Target, dice: random.Random) -> Met:
    """Bodies that are larger than they may be, and really sent; lengths that are not theirs; what is no JSON, or too deep."""
    right, wrong = f"Authorization: Bearer {target.token}\r\n", f"Authorization: Bearer {dice.randbytes(24).hex()}\r\n"
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
    head = f"POST {API}runs/log-batch HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\n"
    drawn = [(f"{head}{auth}Content-Length: {length}\r\n\r\n".encode(), body, answers, name) for name, auth, body, length, answers in bodies]
    order = dice.sample(drawn * 4, k=4 * len(drawn))
    return _judged(target, (Drawn(start + body, answers, name) for start, body, answers, name in order))


def slow_senders(target: Target, dice: random.Random) -> Met:
    """SENDERS strangers: some say nothing at all, some a byte of their head or of their body now and then. The silent ones have to be ended."""
    long = f"POST {API}runs/set-tag HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\nContent-Length: 1000000\r\n\r\n".encode()
    with _connections(target.port, SENDERS) as clients:
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


def idle_connections(target: Target, dice: random.Random) -> Met:
    """IDLE connections that say nothing, all at once; what is accepted in the end has to be ended."""
    with _connections(target.port, IDLE) as clients:
        left, end = list(clients), time.monotonic() + IDLE_SECONDS
        while time.monotonic() < end:
            time.sleep(1.0)
            left = [client for client in left if not _is_ended(client)]
    return Met(len(clients), [], {"ended_by_server": len(clients) - len(left)})


ATTACKS: dict[str, Attack] = {
    "requests": random_requests,
    "headers": odd_heads,
    "bodies": odd_bodies,
    "slow": slow_senders,
    "idle": idle_connections,
}


def _judged(target: Target, drawn: Iterable[Drawn], at_once: int = 1) -> Met:
    """Send each, and judge what comes."""
    problems: list[str] = []
    statuses: Counter[int] = Counter()
    tags = set()
    with ThreadPoolExecutor(at_once) as pool:
        replies = pool.map(lambda one: (one, _reply(target.port, one)), drawn) if at_once > 1 else ((one, _reply(target.port, one)) for one in drawn)
        for one, reply in replies:
            status = status_of(reply) if reply is not None else -1
            statuses[status] += 1
            problems += _wrong(target, one, reply)
            tags |= {one.tag} - {""} if status == 200 else set()
    facts = {"answers": {str(status): count for status, count in sorted(statuses.items())}}
    return Met(sum(statuses.values()), problems, facts, frozenset(tags))


def _reply(port: int, one: Drawn) -> bytes | None:
    try:
        return exchange(port, one.content)
    except TimeoutError:
        return None


def _wrong(target: Target, one: Drawn, reply: bytes | None) -> list[str]:
    """What is wrong with the answer to *one*; None is one that did not come to its end."""
    if reply is None:
        return [f"{one.text}: no end of the answer"]
    status = status_of(reply)
    wrong = [] if status in one.answers else [f"{one.text}: answered {status}, not {'/'.join(map(str, sorted(one.answers)))}"]
    if 200 not in one.answers and b"HTTP/1.1 200" in reply:
        wrong.append(f"{one.text}: something behind it was let in")
    if status >= 400 and not is_told_in_json(reply):
        wrong.append(f"{one.text}: {status} without a reason in JSON")
    if target.token.encode() in reply:
        wrong.append(f"{one.text}: the token stands in the answer")
    return wrong


@contextmanager
def _connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many that do not block; those for which there is no room yet go on trying."""
    clients = [socket.socket() for _ in range(count)]
    try:
        for client in clients:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        with selectors.DefaultSelector() as ready:
            for client in clients[: Limits().most // 2]:  # the first ones are in before anything is sent on them
                ready.register(client, selectors.EVENT_WRITE)
            ready.select(timeout=10)
        yield clients
    finally:
        for client in clients:
            client.close()


def _is_ended(client: socket.socket) -> bool:
    """Whether the server has ended it."""
    try:
        return client.recv(65536) == b""
    except OSError as e:
        return e.errno not in (errno.EAGAIN, errno.ENOTCONN)  # nothing has come; it waits to be accepted
