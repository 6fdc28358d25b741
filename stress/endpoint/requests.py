"""Requests drawn at random, and what has to become of each: whoever lacks the token, or names another host, is refused."""

from __future__ import annotations

import json
import random
from base64 import b64encode
from dataclasses import dataclass

from himl_cli.workspaces.local.tracking.http_connection import LARGEST_BODY
from tests.workspaces.tracking.tracked_job import API

INTRUDER = "intruder"
"""Names of metrics and tags that only a request has that is to be refused."""
RIGHT_SHARE = 0.15
MALFORMED = frozenset({400, 401, 403, 404, 405, 411, 413, 414, 431, 501, 505})
"""What a request may be answered that is no proper HTTP, or that is wrong in several ways."""

_RIGHT_AUTHS = ("bearer", "password", "path")
_WRONG_AUTHS = (
    *("none", "other token", "cut token", "longer token", "upper token", "other user"),
    *("token as user", "query", "cookie", "second part", "first of two"),
)
_RIGHT_HOSTS = ("address", "localhost", "LOCALHOST")
_WRONG_HOSTS = ("other", "other with port", "no port", "other port", "below localhost", "IPv6", "any", "user part", "empty", "lacking", "two", "two alike")
_LENGTHS = ("right", "right", "right", "right", "longer", "shorter", "huge", "endless", "chunked", "text", "negative", "many digits", "two", "none")
_ODD_METHODS = ("HEAD", "BREW", "post", "OPTIONS", "X" * 500, "PO\tST")


@dataclass(frozen=True)
class Door:
    """What a request is made with."""

    port: int
    token: str
    run_id: str


@dataclass(frozen=True)
class Drawn:
    """`content` is sent as it is. One of *answers* has to come; 0 means the end of the connection without any. `tag` is kept if it is answered 200."""

    content: bytes
    answers: frozenset[int]
    text: str
    tag: str = ""


def draw(door: Door, dice: random.Random, number: int) -> Drawn:
    """One request, with at least one fault in about six of seven."""
    if dice.random() < RIGHT_SHARE:
        return _right(door, dice, number)
    auth = dice.choice([*_RIGHT_AUTHS, *_WRONG_AUTHS, *_WRONG_AUTHS])
    host = dice.choice([*_RIGHT_HOSTS, *_RIGHT_HOSTS, *_WRONG_HOSTS])
    length = dice.choice(_LENGTHS)
    method = dice.choice(("POST", "POST", "POST", "GET", "GET", "PATCH", "DELETE", "PUT", *_ODD_METHODS))
    if auth in _RIGHT_AUTHS and host in _RIGHT_HOSTS and length in ("right", "shorter", "none"):  # it would be let in
        auth = dice.choice(_WRONG_AUTHS)
    prefix, lines = _auth(door, auth, dice)
    route, fields = _harm(door, dice)
    path_kind, path = _path(route, dice)
    lengths, body = _body(length, json.dumps(fields).encode(), dice)
    head = [f"{method} {prefix}{path} HTTP/1.1", *_host(door, host, dice), *lines, *lengths]
    text = f"{auth}, host {host}, length {length}, {method[:12]}, path {path_kind}"
    return Drawn("\r\n".join([*head, "", ""]).encode("latin-1", "replace") + body, _answers(auth, host, length, method, path_kind), text)


def _answers(auth: str, host: str, length: str, method: str, path_kind: str) -> frozenset[int]:
    """Which answers are right: the one that is documented where a single thing is wrong."""
    if method in _ODD_METHODS or path_kind in ("long", "spaced", "garbage") or (auth == "path" and path_kind == "absolute"):
        return MALFORMED
    by_length = {"chunked": 411, "text": 400, "negative": 400, "many digits": 400, "two": 400}
    if length in by_length:
        return frozenset({by_length[length]})
    if host in _WRONG_HOSTS:
        return frozenset({403})
    if auth in _WRONG_AUTHS:
        return frozenset({401})
    return frozenset({400}) if length == "longer" else frozenset({413})


def _right(door: Door, dice: random.Random, number: int) -> Drawn:
    """One that is to be let in: it sets a tag."""
    prefix, lines = _auth(door, dice.choice(_RIGHT_AUTHS), dice)
    body = json.dumps({"run_id": door.run_id, "key": f"right_{number}", "value": "x" * dice.choice((1, 10, 5000))}).encode()
    head = [f"POST {prefix}{API}runs/set-tag HTTP/1.1", *_host(door, dice.choice(_RIGHT_HOSTS), dice), *lines, f"Content-Length: {len(body)}"]
    return Drawn("\r\n".join([*head, "", ""]).encode() + body, frozenset({200}), "right", f"right_{number}")


def _auth(door: Door, kind: str, dice: random.Random) -> tuple[str, list[str]]:
    """What stands before the path, and the header lines."""
    other = dice.randbytes(24).hex()
    token = {"other token": other, "cut token": door.token[:-1], "longer token": door.token + "0", "upper token": _changed(door.token)}.get(kind, door.token)
    if kind == "path":
        return f"/{token}", []
    if kind in ("password", "other user", "token as user"):
        pair = {"password": f"himl:{token}", "other user": f"root:{token}", "token as user": f"{token}:"}[kind]
        return "", [f"Authorization: Basic {b64encode(pair.encode()).decode()}"]
    if kind == "second part":
        return f"/api/{token}", []
    if kind in ("query", "none", "cookie"):
        return (f"/?token={token}&x=" if kind == "query" else ""), ([f"Cookie: token={token}"] if kind == "cookie" else [])
    if kind == "first of two":
        return "", [f"Authorization: Bearer {other}", f"Authorization: Bearer {token}"]
    if kind != "bearer" and dice.random() < 0.3:  # wrong ones in the path, too
        return f"/{token}", []
    return "", [f"Authorization: Bearer {token}"]


def _changed(token: str) -> str:
    """*token* in capitals, or with its first sign changed where it has digits only."""
    return token.upper() if token.upper() != token else f"{(int(token[0]) + 1) % 10}{token[1:]}"


def _host(door: Door, kind: str, dice: random.Random) -> list[str]:
    right = f"127.0.0.1:{door.port}"
    hosts = {
        "address": [right],
        "localhost": [f"localhost:{door.port}"],
        "LOCALHOST": [f"LOCALHOST:{door.port}"],
        "other": ["evil.example"],
        "other with port": [f"evil.example:{door.port}"],
        "no port": ["127.0.0.1"],
        "other port": [f"127.0.0.1:{door.port - dice.randint(1, 500)}"],
        "below localhost": [f"localhost.evil.example:{door.port}"],
        "IPv6": [f"[::1]:{door.port}"],
        "any": [f"0.0.0.0:{door.port}"],
        "user part": [f"{right}@evil.example"],
        "empty": [""],
        "lacking": [],
        "two": [right, "evil.example"],
        "two alike": [right, right],
    }
    return [f"Host: {host}" for host in hosts[kind]]


def _body(kind: str, body: bytes, dice: random.Random) -> tuple[list[str], bytes]:
    """The header lines about the length, and what is sent."""
    length = len(body)
    if kind == "chunked":
        return ["Transfer-Encoding: chunked"], f"{length:x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    said: dict[str, list[object]] = {
        "right": [length],
        "longer": [length + dice.randint(1, 10_000)],
        "shorter": [dice.randrange(length)],
        "huge": [LARGEST_BODY + dice.randint(1, 1 << 20)],
        "endless": [10 ** dice.randint(12, 18)],
        "text": [dice.choice(("many", "0x10", "1e3", "+5", "1,2", "²"))],
        "negative": [-dice.randint(1, 1000)],
        "many digits": ["9" * dice.randint(20, 5000)],
        "two": [length, length + 1],
        "none": [],
    }
    return [f"Content-Length: {value}" for value in said[kind]], body


def _harm(door: Door, dice: random.Random) -> tuple[str, dict[str, object]]:
    """A route with its fields: whoever was let in with it would be seen in the record."""
    name = f"{INTRUDER}_{dice.randrange(1000)}"
    harms: list[tuple[str, dict[str, object]]] = [
        ("runs/set-tag", {"run_id": door.run_id, "key": name, "value": "x"}),
        ("runs/log-metric", {"run_id": door.run_id, "key": name, "value": 1.0, "timestamp": 1, "step": 1}),
        ("runs/log-parameter", {"run_id": door.run_id, "key": name, "value": "x"}),
        ("runs/create", {"experiment_id": "1", "run_name": name}),
        ("runs/delete", {"run_id": door.run_id}),
        ("runs/update", {"run_id": door.run_id, "status": "FAILED", "run_name": name}),
        ("runs/search", {"experiment_ids": ["1"]}),
    ]
    return dice.choice(harms)


def _path(route: str, dice: random.Random) -> tuple[str, str]:
    """Of which kind it is, and the path."""
    kind = dice.choice(("right", "right", "right", "right", "other prefix", "none", "up", "encoded", "absolute", "long", "spaced", "garbage"))
    paths = {
        "right": f"{API}{route}",
        "other prefix": f"/ajax-api/2.0/mlflow/{route}",
        "none": "/",
        "up": f"/x/..{API}{route}",
        "encoded": f"/%61pi/2.0/mlflow/{route}%00%ff",
        "absolute": f"http://127.0.0.1{API}{route}",
        "long": "/" + "a" * dice.randint(65_600, 90_000),
        "spaced": f"{API} {route}",
        "garbage": "/" + "".join(chr(dice.choice((1, 7, 9, 11, 127, 128, 200, 255))) for _ in range(20)) + " x",
    }
    return kind, paths[kind]
